//! What tells one content of a file from another without reading it, for files that something else
//! replaces: tokens, passwords, certificates.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A file changed less than this ago may still be being written.
const FRESH: Duration = Duration::from_secs(1);

/// See the module header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    modified: Option<SystemTime>,
    size: u64,
    inode: u64,
}

impl Stamp {
    /// Of an open file.
    pub fn of(meta: &std::fs::Metadata) -> Self {
        Self { modified: meta.modified().ok(), size: meta.len(), inode: meta.ino() }
    }

    /// Of the file at `path`, or `None` when it cannot be looked at.
    pub async fn at(path: &Path) -> Option<Self> {
        tokio::fs::metadata(path).await.ok().map(|meta| Self::of(&meta))
    }

    /// Whether the file was changed a moment ago.
    pub fn is_fresh(&self) -> bool {
        // A date in the future is no proof of age.
        let age = self.modified.and_then(|at| at.elapsed().ok());
        age.is_none_or(|age| age < FRESH)
    }
}
