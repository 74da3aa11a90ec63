//! One real redis-server process of the bed.
//!
//! Invariant: the process that answers on [`Node::addr`] is the one started here (a password no
//! other server knows proves it), and it dies with the value.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::client::Client;
use super::process::{Process, guarded};
use super::resp::Value;

/// A redis-server that can be killed, restarted and stopped in its tracks.
#[derive(Debug)]
pub struct Node {
    port: u16,
    password: String,
    dir: PathBuf,
    args: Vec<String>,
    process: Mutex<Option<Process>>,
}

impl Node {
    /// Starts redis-server in `dir` with `args` on top of what every node of the bed has: no
    /// persistence, loopback only, a password.
    pub fn start(dir: &Path, port: u16, password: &str, args: &[String]) -> Self {
        let own = [
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--dir",
            &dir.display().to_string(),
            "--logfile",
            "node.log",
            "--save",
            "",
            "--appendonly",
            "no",
            "--daemonize",
            "no",
            "--protected-mode",
            "no",
            "--enable-debug-command",
            "yes",
            "--requirepass",
            password,
            "--masterauth",
            password,
            "--repl-diskless-sync",
            "yes",
            "--repl-diskless-sync-delay",
            "0",
            "--repl-ping-replica-period",
            "1",
        ]
        .map(str::to_owned);
        let node = Self {
            port,
            password: password.to_owned(),
            dir: dir.to_owned(),
            args: own.iter().chain(args).cloned().collect(),
            process: Mutex::new(None),
        };
        node.spawn();
        node
    }

    fn spawn(&self) {
        let mut command = guarded("redis-server");
        command.args(&self.args).stdout(Stdio::null()).stderr(Stdio::null());
        *self.lock() = Some(Process::spawn(&mut command));
    }

    /// The node's own address, behind any front.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Its `requirepass`.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Whether the process ended by itself, e.g. because its port was taken.
    pub fn has_exited(&self) -> bool {
        self.lock().as_mut().is_none_or(|p| p.exited().is_some())
    }

    /// Kills the process.
    pub fn kill(&self) {
        *self.lock() = None;
    }

    /// Starts it again on the same ports.
    pub fn restart(&self) {
        self.kill();
        self.spawn();
    }

    /// SIGSTOP: the kernel still accepts connections and bytes, nobody answers.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let process = self.lock();
        process.as_ref().expect("the node was not killed").signal(name);
    }

    /// A new authenticated connection straight to the node.
    pub async fn admin(&self) -> Client {
        self.try_admin()
            .await
            .unwrap_or_else(|e| panic!("node {}: {e}\n{}", self.port, self.log_tail()))
    }

    /// Like [`Self::admin`], for nodes that may not be up.
    pub async fn try_admin(&self) -> std::io::Result<Client> {
        let mut client = Client::try_connect(self.addr()).await?;
        let auth = client.try_cmd(&["AUTH", "default", &self.password]).await?;
        if auth == Value::ok() {
            Ok(client)
        } else {
            Err(std::io::Error::other(format!("AUTH answered {auth:?}")))
        }
    }

    /// Runs one command on a connection of its own.
    pub async fn run<A: AsRef<[u8]>>(&self, args: &[A]) -> Value {
        self.admin().await.cmd(args).await
    }

    /// Runs one command if the node is up and answers within two seconds.
    pub async fn try_run<A: AsRef<[u8]>>(&self, args: &[A]) -> std::io::Result<Value> {
        let run = async { self.try_admin().await?.try_cmd(args).await };
        tokio::time::timeout(Duration::from_secs(2), run)
            .await
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
    }

    /// The number `INFO` gives for `field`, e.g. `blocked_clients`.
    pub async fn stat(&self, field: &str) -> i64 {
        let info = self.run(&["INFO"]).await.text();
        let line = info.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
        line.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("INFO has no number {field}"))
    }

    /// The end of the server's log, for failure messages.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.dir.join("node.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(|e| e.into_inner())
    }
}
