//! Runs a script of `tests/clients` against a port.
//!
//! Invariant: nothing it starts outlives the test, and nothing it prints names a node behind the
//! proxy.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::support::bed::Bed;
use crate::support::process::{guarded, require};

use super::SCENARIOS;

/// Longest run of one script; each ends itself before, saying where it hangs.
pub const LIMIT: Duration = Duration::from_secs(120);

fn here() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients"))
}

/// The client libraries, installed by the first who asks.
async fn prepared() -> PathBuf {
    require("python3", "python3-venv");
    require("npm", "npm");
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients-cache");
    let output =
        Command::new(here().join("prepare")).arg(&cache).output().await.expect("bash runs");
    assert!(
        output.status.success(),
        "client libraries could not be installed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    cache
}

/// A script, not yet started.
pub async fn script(path: &str, port: u16) -> Command {
    let kind = path.split('/').next().expect("a folder");
    let mut command = match kind {
        "python" => {
            let mut command = guarded(prepared().await.join("python/bin/python"));
            // Where `sitecustomize.py` is found.
            command.env("PYTHONPATH", here().join("python")).env("PYTHONDONTWRITEBYTECODE", "1");
            command
        }
        "node" => {
            let modules = prepared().await.join("node/node_modules");
            let mut command = guarded("node");
            command.env("NODE_PATH", modules);
            command
        }
        "ruby" => {
            require("sidekiq", "ruby-sidekiq ruby-redis-namespace");
            guarded("ruby")
        }
        "php" => {
            require("php", "php-cli php-redis");
            guarded("php")
        }
        "shell" => guarded("bash"),
        other => panic!("no interpreter for {other}"),
    };
    command
        .arg(here().join(path))
        .env("REDIS_PORT", port.to_string())
        .env("BEHIND_PROXY", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Command::from(command)
}

/// A running script: the leader of a process group that ends with it.
pub struct Running {
    child: Child,
    group: u32,
}

impl Running {
    /// Starts it.
    pub fn start(mut command: Command) -> Self {
        let child = command.kill_on_drop(true).spawn().expect("setpriv starts the interpreter");
        let group = child.id().expect("a new process has an id");
        Self { child, group }
    }

    /// Its output, to be read while it runs.
    pub fn stdout(&mut self) -> tokio::process::ChildStdout {
        self.child.stdout.take().expect("stdout is piped")
    }

    /// Waits for its end; `stdout` is what the caller has not taken.
    pub async fn end(mut self) -> (ExitStatus, String, String) {
        let (stdout, stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let run = async { tokio::join!(self.child.wait(), text_of(stdout), text_of(stderr)) };
        match tokio::time::timeout(LIMIT, run).await {
            Ok((status, stdout, stderr)) => (status.expect("an own child"), stdout, stderr),
            Err(_) => panic!("the script still runs, or its output is still held, after {LIMIT:?}"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // What it left behind in its group; mostly nothing, and then there is no such group.
        let group = format!("-{}", self.group);
        let _ = std::process::Command::new("kill")
            .args(["-KILL", "--", &group])
            .stderr(Stdio::null())
            .status();
    }
}

async fn text_of(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // An error means the end as well.
        let _ = pipe.read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs a scenario of the list through a proxy before three shards.
pub async fn through_the_proxy(name: &str) {
    let scenario = SCENARIOS.iter().find(|s| s.name == name).expect("it is in the list");
    let bed = Bed::start().await;
    let mut command = script(scenario.script, bed.proxy.addr().port()).await;
    command.envs(scenario.env.iter().copied());
    let (status, stdout, stderr) = Running::start(command).end().await;
    assert!(status.success(), "{name}: {status}\n{stdout}\n{stderr}");
    assert!(stdout.ends_with("ok\n"), "{name} did not come to its end\n{stdout}\n{stderr}");
    names_no_node(&bed, &format!("{stdout}{stderr}"));
}

/// Insists that a text names neither the address nor the id of a node, however quoted.
pub fn names_no_node(bed: &Bed, text: &str) {
    let bare: String = text.chars().filter(|c| !" \t\r\n\"'`,:()[]".contains(*c)).collect();
    for member in bed.cluster.members() {
        for addr in [member.addr(), member.node.addr()] {
            let needle = format!("127.0.0.1{}", addr.port());
            assert!(!bare.contains(&needle), "a client saw the address {addr} of a node:\n{text}");
        }
        assert!(!text.contains(&member.id), "a client saw the id {} of a node:\n{text}", member.id);
    }
}
