//! A token or a password in a file that something else keeps fresh.
//!
//! Invariant: half a file is never taken for a whole one: a file touched a moment ago is read until
//! it has stood still, and an empty one is an error, so that the credential at hand stays in use.
//! Replacing the file by rename is the surest way to rotate it, writing in place works too.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{BoxFuture, Minted, Source, SourceError, SourceKind, access_token};
use crate::credentials::Secret;
use crate::stamp::Stamp;

/// How often the file's dates are looked at.
const POLL: Duration = Duration::from_secs(1);
/// How often it is read though nothing seems to have changed: dates can be coarse.
const REREAD: Duration = Duration::from_secs(30);
/// Such a file is taken when it stood still for this long.
const SETTLE: Duration = Duration::from_millis(100);
/// Longest secret taken; more is the wrong file.
const MAX_BYTES: u64 = 64 * 1024;
/// Readings of a file that keeps changing, before giving up until the next attempt.
const MAX_READS: usize = 20;

/// `--token-file` or `--upstream-password-file`.
#[derive(Debug)]
pub struct SecretFile {
    path: PathBuf,
    kind: SourceKind,
    /// What the last attempt saw.
    seen: Option<Stamp>,
    /// Kept between calls of `changed`, so that none of them starts the wait anew.
    next_poll: Instant,
}

impl SecretFile {
    /// A file with an access token.
    pub fn token(path: PathBuf) -> Self {
        Self::new(path, SourceKind::TokenFile)
    }

    /// A file with a password.
    pub fn password(path: PathBuf) -> Self {
        Self::new(path, SourceKind::PasswordFile)
    }

    fn new(path: PathBuf, kind: SourceKind) -> Self {
        Self { path, kind, seen: None, next_poll: Instant::now() }
    }

    /// The file's content and stamp, once it stands still.
    async fn read(&mut self) -> io::Result<Zeroizing<Vec<u8>>> {
        for _ in 0..MAX_READS {
            let (content, stamp) = self.read_once().await?;
            if stamp.is_fresh() {
                tokio::time::sleep(SETTLE).await;
            }
            if Stamp::at(&self.path).await == Some(stamp) {
                self.seen = Some(stamp);
                return Ok(content);
            }
        }
        Err(io::Error::other("it keeps changing while it is read"))
    }

    async fn read_once(&self) -> io::Result<(Zeroizing<Vec<u8>>, Stamp)> {
        let file = tokio::fs::File::open(&self.path).await?;
        let stamp = Stamp::of(&file.metadata().await?);
        let mut content = Zeroizing::new(Vec::new());
        file.take(MAX_BYTES + 1).read_to_end(&mut content).await?;
        Ok((content, stamp))
    }

    fn secret(&self, content: &[u8]) -> Result<Secret, String> {
        if content.len() as u64 > MAX_BYTES {
            return Err(format!("longer than {MAX_BYTES} bytes"));
        }
        let text = std::str::from_utf8(content).map_err(|_| "not valid UTF-8".to_owned())?;
        let text = text.trim();
        if text.is_empty() {
            return Err("empty".to_owned());
        }
        match self.kind {
            // Passwords may hold any character but control ones.
            SourceKind::PasswordFile if text.chars().any(char::is_control) => {
                Err("more than one line, or control characters".to_owned())
            }
            SourceKind::PasswordFile => Ok(Secret::new(text.to_owned())),
            _ => access_token(text)
                .ok_or_else(|| "more than one word, or characters no token has".to_owned()),
        }
    }

    async fn attempt(&mut self) -> Result<Minted, SourceError> {
        // Whatever happens below, the next change is one against this.
        self.seen = Stamp::at(&self.path).await;
        let said = match self.read().await {
            Ok(content) => match self.secret(&content) {
                Ok(secret) => {
                    return Ok(Minted {
                        secret,
                        expires_at: None,
                        kind: self.kind,
                        principal: None,
                    });
                }
                Err(said) => said,
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => "not found".to_owned(),
            Err(error) => error.to_string(),
        };
        let what = match self.kind {
            SourceKind::PasswordFile => "the password",
            _ => "an access token",
        };
        Err(SourceError::one(
            self.kind,
            format!("{} {}", self.kind.name(), self.path.display()),
            said,
            format!("Write {what} into the file; it is looked at every second."),
        ))
    }
}

impl Source for SecretFile {
    fn mint(&mut self) -> BoxFuture<'_, Result<Minted, SourceError>> {
        Box::pin(self.attempt())
    }

    fn changed(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            loop {
                tokio::time::sleep_until(self.next_poll).await;
                self.next_poll = Instant::now() + POLL;
                if Stamp::at(&self.path).await != self.seen {
                    return;
                }
            }
        })
    }

    fn reread_every(&self) -> Option<Duration> {
        Some(REREAD)
    }
}
