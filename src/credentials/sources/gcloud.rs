//! The account the gcloud command is logged in with.
//!
//! gcp_auth runs the command on the async thread and takes an hour of life for granted; here it runs
//! as a child with a time limit, and because the command does not say how old its cached token is,
//! the token is used for ten minutes at most. Invariant: the child is gone when the attempt is.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use tokio::process::Command;
use zeroize::Zeroizing;

use super::{BoxFuture, Minted, Source, SourceError, SourceKind, access_token, no_answer};
use crate::env::Environment;

/// gcloud is slow to start on a cold disk.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How long a token of unknown age is used.
const MAX_AGE: Duration = Duration::from_secs(600);
const MEND: &str = "Run 'gcloud auth login', or choose another source of credentials.";

/// The gcloud command as the environment finds it.
#[derive(Debug, Clone)]
pub struct Gcloud {
    env: Environment,
    timeout: Duration,
}

/// Why there is no token.
#[derive(Debug)]
pub struct Refusal {
    /// What went wrong.
    pub said: String,
    /// There is such a command.
    pub installed: bool,
}

impl Gcloud {
    /// Looks for the command in `PATH` of `env`, and runs it with `env`.
    pub fn new(env: Environment) -> Self {
        Self { env, timeout: TIMEOUT }
    }

    /// The same with another time limit.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs the command once.
    ///
    /// # Errors
    /// What went wrong, with the first line the command wrote to stderr.
    pub async fn token(&self) -> Result<Minted, Refusal> {
        let failed = |said: String| Refusal { said, installed: true };
        let program = find("gcloud", self.env.var("PATH")).ok_or_else(|| Refusal {
            said: "not installed (no such command in PATH)".to_owned(),
            installed: false,
        })?;
        let mut command = Command::new(program);
        command
            .args(["auth", "print-access-token", "--quiet"])
            .env_clear()
            .envs(self.env.iter())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        // Before the run: an expiry that is early is safe.
        let asked_at = SystemTime::now();
        let output = match tokio::time::timeout(self.timeout, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed(no_answer(self.timeout))),
        };
        let stdout = Zeroizing::new(output.stdout);
        if !output.status.success() {
            return Err(failed(failure_text(output.status, &output.stderr)));
        }
        let secret = std::str::from_utf8(&stdout)
            .ok()
            .and_then(access_token)
            .ok_or_else(|| failed("it printed no token".to_owned()))?;
        Ok(Minted {
            secret,
            expires_at: Some(asked_at + MAX_AGE),
            kind: SourceKind::Gcloud,
            principal: None,
        })
    }
}

impl Source for Gcloud {
    fn mint(&mut self) -> BoxFuture<'_, Result<Minted, SourceError>> {
        Box::pin(async {
            self.token().await.map_err(|refusal| {
                SourceError::one(SourceKind::Gcloud, "gcloud".to_owned(), refusal.said, MEND)
            })
        })
    }
}

fn find(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    let is_program = |file: &Path| {
        std::fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(path?).map(|dir| dir.join(name)).find(|file| is_program(file))
}

fn failure_text(status: std::process::ExitStatus, stderr: &[u8]) -> String {
    let stderr = String::from_utf8_lossy(stderr);
    let lines = || stderr.lines().map(str::trim).filter(|l| !l.is_empty());
    let line = lines().find(|l| l.starts_with("ERROR")).or_else(|| lines().next());
    let line: String = line.unwrap_or("no message").chars().take(200).collect();
    format!("failed ({status}): {line}")
}
