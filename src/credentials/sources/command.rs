//! Runs a program that prints a secret.
//!
//! No shell is involved. Invariant: when an attempt ends, by time, by size or because nobody waits
//! for it any more, the program is killed together with all it started (its process group), and what
//! it printed is wiped.

use std::fmt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use zeroize::Zeroizing;

use super::no_answer;
use crate::env::Environment;
use crate::google::http::clean;

/// Most that a program may print.
const MAX_BYTES: usize = 64 * 1024;
/// As much of stderr is looked at.
const MAX_STDERR: u64 = 4096;

/// A program and its arguments. `Debug` shows the program only, as arguments may hold secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct CommandLine(Arc<[String]>);

impl CommandLine {
    /// Splits a line into words as a shell would, with quotes, but without variables or patterns.
    ///
    /// # Errors
    /// The rest of a sentence that begins with the setting's name; never the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        match shlex::split(text) {
            Some(words) if words.first().is_some_and(|program| !program.is_empty()) => {
                Ok(Self(words.into()))
            }
            Some(_) => Err("is empty; give a program and its arguments".to_owned()),
            None => Err("has a quote that does not end; close it".to_owned()),
        }
    }

    /// The program.
    pub fn program(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }
}

impl fmt::Debug for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommandLine({:?} …)", self.program())
    }
}

/// A program that ended. No `Debug`: it printed a secret.
pub struct Ran {
    /// What it printed.
    pub stdout: Zeroizing<Vec<u8>>,
    status: ExitStatus,
    stderr: Vec<u8>,
}

impl Ran {
    /// Why it failed, if it did, with the first line of stderr.
    pub fn failure(&self) -> Option<String> {
        if self.status.success() {
            return None;
        }
        let stderr = String::from_utf8_lossy(&self.stderr);
        let line = stderr.lines().map(str::trim).find(|line| !line.is_empty());
        Some(format!("failed ({}): {}", self.status, clean(line.unwrap_or("no message"))))
    }
}

/// Runs a program with the variables of `env` and `extra`.
///
/// # Errors
/// Why it did not end by itself.
pub async fn run(
    line: &CommandLine,
    env: &Environment,
    extra: &[(&str, String)],
    timeout: Duration,
) -> Result<Ran, String> {
    let mut command = Command::new(line.program());
    command
        .args(line.0.iter().skip(1))
        .env_clear()
        .envs(env.iter())
        .envs(extra.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("it cannot be run: {error}"))?;
    // Below the child, so that it goes first and the group's leader still holds the number.
    let mut group = Group::of(child.id());
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("its output cannot be read".to_owned());
    };
    let ends = async {
        let (stdout, stderr) = tokio::try_join!(whole(stdout), beginning(stderr))?;
        let status = child.wait().await.map_err(|error| error.to_string())?;
        Ok::<_, String>(Ran { stdout, status, stderr })
    };
    let ran = match tokio::time::timeout(timeout, ends).await {
        Ok(outcome) => outcome?,
        Err(_) => return Err(no_answer(timeout)),
    };
    group.0 = None;
    Ok(ran)
}

async fn whole(stdout: impl AsyncRead + Unpin) -> Result<Zeroizing<Vec<u8>>, String> {
    // Room for all of it from the start: a vector that grows leaves copies behind.
    let mut all = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
    let read = stdout.take(MAX_BYTES as u64 + 1).read_to_end(&mut all).await;
    read.map_err(|error| error.to_string())?;
    match all.len() > MAX_BYTES {
        true => Err(format!("it printed more than {MAX_BYTES} bytes")),
        false => Ok(all),
    }
}

async fn beginning(mut stderr: impl AsyncRead + Unpin) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    let read = (&mut stderr).take(MAX_STDERR).read_to_end(&mut text).await;
    read.map_err(|error| error.to_string())?;
    // The rest is read too, so that the program can go on.
    tokio::io::copy(&mut stderr, &mut tokio::io::sink())
        .await
        .map_err(|error| error.to_string())?;
    Ok(text)
}

/// Kills a process group when dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(leader: Option<u32>) -> Self {
        Self(leader.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // An error means that it is gone already.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}
