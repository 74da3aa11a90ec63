//! Child processes that cannot outlive a test: killed on drop, and by the kernel when the test
//! process dies without dropping (Ctrl-C, abort), through `setpriv --pdeathsig`.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A guarded child process.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

/// A command that dies with the thread that spawns it. `setpriv` is part of util-linux, which is
/// essential on Debian and Ubuntu.
pub fn guarded(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    // A process group of its own: Ctrl-C reaches the test or demo, which then ends its children in
    // its own order.
    command.stdin(Stdio::null()).process_group(0);
    command
}

impl Process {
    /// Spawns a command made by [`guarded`].
    pub fn spawn(command: &mut Command) -> Self {
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {command:?}: {e} (is util-linux installed?)"));
        Self { child }
    }

    /// Sends a signal by name, e.g. `STOP`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let done = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(done.is_ok_and(|s| s.success()), "cannot send SIG{name} to process {pid}");
    }

    /// The exit status, if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("try_wait on an own child")
    }

    /// Waits for the end, at most `limit`.
    pub async fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let end = tokio::time::Instant::now() + limit;
        loop {
            if let Some(status) = self.exited() {
                return Some(status);
            }
            if tokio::time::Instant::now() >= end {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Takes the captured output pipes.
    pub fn take_output(
        &mut self,
    ) -> (Option<std::process::ChildStdout>, Option<std::process::ChildStderr>) {
        (self.child.stdout.take(), self.child.stderr.take())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Finds `program` on `PATH`, or panics with what to install.
pub fn require(program: &str, package: &str) {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|dir| Path::new(&dir).join(program).is_file())
    });
    assert!(
        found,
        "the test bed needs `{program}`, which is not on PATH: run `make test`, or \
         `apt-get install {package}`"
    );
}
