//! Files that hold certificates and change while the proxy runs: what stands in them, and when to
//! read them again.
//!
//! Invariant: half a file is never taken for a whole one: files touched a moment ago are read until
//! they stand still. What the bytes mean is the caller's business, as is what to do when they mean
//! nothing (keep the last good ones).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::sync::Notify;
use zeroize::Zeroizing;

use super::Trust;
use crate::error::Error;
use crate::stamp::Stamp;

/// How often the files' dates are looked at.
const POLL: Duration = Duration::from_secs(1);
/// Such a file is taken when it stood still for this long.
const SETTLE: Duration = Duration::from_millis(100);
/// Readings of files that keep changing, before giving up until the next look.
const MAX_READS: usize = 20;
/// Longest file taken; more is the wrong file.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Some files that belong together. Their content may be a key, so it is wiped.
#[derive(Debug)]
pub struct Files {
    paths: Vec<PathBuf>,
    /// What the last reading saw.
    seen: Vec<Option<Stamp>>,
}

impl Files {
    /// These.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, seen: Vec::new() }
    }

    /// Reads them all, once they stand still. Good or bad, they are left alone then until they change:
    /// what is remembered is how they were *before* the reading, so that no change is missed.
    ///
    /// # Errors
    /// The path and what the operating system reports.
    pub async fn read(&mut self) -> io::Result<Vec<Zeroizing<Vec<u8>>>> {
        for _ in 0..MAX_READS {
            let before = self.stamps().await;
            self.seen.clone_from(&before);
            let mut contents = Vec::new();
            for path in &self.paths {
                contents.push(read(path).await?);
            }
            if before.iter().flatten().any(Stamp::is_fresh) {
                tokio::time::sleep(SETTLE).await;
            }
            if self.stamps().await == before {
                return Ok(contents);
            }
        }
        let shown = self.paths.first().map(|path| path.display().to_string()).unwrap_or_default();
        Err(io::Error::other(format!("{shown}: it keeps changing while it is read")))
    }

    /// Waits until one of them is no longer what was last read.
    pub async fn changed(&mut self) {
        loop {
            tokio::time::sleep(POLL).await;
            if self.stamps().await != self.seen {
                return;
            }
        }
    }

    async fn stamps(&self) -> Vec<Option<Stamp>> {
        let mut stamps = Vec::with_capacity(self.paths.len());
        for path in &self.paths {
            stamps.push(Stamp::at(path).await);
        }
        stamps
    }
}

async fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let file = tokio::fs::File::open(path).await.map_err(named)?;
    let mut content = Zeroizing::new(Vec::new());
    file.take(MAX_BYTES + 1).read_to_end(&mut content).await.map_err(named)?;
    if content.len() as u64 > MAX_BYTES {
        return Err(named(io::Error::other(format!("it is longer than {MAX_BYTES} bytes"))));
    }
    Ok(content)
}

/// Trusts what `--server-ca-file` holds, now and whenever it changes or a node is not trusted.
///
/// # Errors
/// When it cannot be used at the start: a wrong setting.
pub async fn follow_authorities(path: PathBuf, trust: Trust) -> Result<(), Error> {
    let shown = path.display().to_string();
    let mut files = Files::new(vec![path]);
    let unusable = |why: &dyn std::fmt::Display| {
        Error::config(format_args!(
            "--server-ca-file {shown} cannot be used: {why}; give a PEM file with the certificates of \
             the cluster's authorities ({})",
            super::error::HOW_TO_GET_CA
        ))
    };
    let content = files.read().await.map_err(|e| unusable(&e))?;
    let (count, _) = trust.replace(bytes(&content)).map_err(|e| unusable(&e))?;
    tracing::info!(file = %shown, authorities = count, "TLS to the cluster: authorities read");

    let rung = Arc::new(Notify::new());
    let bell = rung.clone();
    trust.on_untrusted(Arc::new(move || bell.notify_one()));
    tokio::spawn(async move {
        let mut failing = false;
        loop {
            tokio::select! {
                () = files.changed() => {}
                () = rung.notified() => {}
            }
            let outcome = match files.read().await {
                Ok(content) => trust.replace(bytes(&content)),
                Err(e) => Err(e.to_string()),
            };
            let failed = outcome.is_err();
            match outcome {
                Ok((count, true)) => {
                    tracing::info!(file = %shown, authorities = count, "TLS to the cluster: authorities read again");
                }
                Ok((_, false)) => {}
                Err(cause) if !failing => {
                    tracing::warn!(file = %shown, "--server-ca-file cannot be used: {cause}; the authorities read before stay trusted");
                }
                Err(_) => {}
            }
            failing = failed;
        }
    });
    Ok(())
}

/// The content of a single file.
fn bytes(contents: &[Zeroizing<Vec<u8>>]) -> &[u8] {
    contents.first().map_or(&[], |content| content)
}
