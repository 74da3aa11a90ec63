//! Limits that depend on where the process runs: memory and open files.
//!
//! Invariant: what was asked for is only ever lowered, and then said in the log.

use std::sync::Arc;

use crate::config::{BufferTotal, Limits};
use crate::worker::budget::Budget;

/// Descriptors for everything but clients: nodes, listeners, HTTP, files. Blocking commands and
/// transactions with WATCH take one each besides, and fail where there is none.
const OTHER_FILES: u64 = 256;

/// Raises the limit of open files as far as it goes, and returns how many clients may come.
pub(super) fn clients(limits: &Limits) -> usize {
    // A client is a descriptor; many systems begin with 1024 and permit far more to those who ask.
    let files = match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) => files,
        Err(error) => {
            tracing::debug!(%error, "the limit of open files is not known and stays as it is");
            return limits.connections;
        }
    };
    let possible =
        usize::try_from(files.saturating_sub(OTHER_FILES).max(files / 2)).unwrap_or(usize::MAX);
    match limits.connections {
        0 => possible,
        asked if asked <= possible => asked,
        asked => {
            tracing::warn!(
                "--max-connections is lowered from {asked} to {possible}: {files} open files are permitted; raise that \
                 limit (ulimit -Hn, LimitNOFILE=)"
            );
            possible
        }
    }
}

/// What all buffers may hold.
pub(super) fn budget(limits: &Limits) -> Arc<Budget> {
    let most = match limits.buffer_total {
        BufferTotal::Unlimited => None,
        BufferTotal::Bytes(most) => Some(most),
        BufferTotal::Auto => usize::try_from(memory() / 2).ok().filter(|&most| most > 0),
    };
    if let Some(most) = most {
        let shown = bytesize::ByteSize::b(most as u64).display().iec();
        tracing::info!("buffers for clients may hold {shown} in all (--max-buffer-total)");
    }
    Budget::new(most)
}

/// Memory the process may have (bytes): the container's, or the machine's; 0: not known.
fn memory() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let container = system.cgroup_limits().map(|limits| limits.total_memory);
    container.filter(|&n| n > 0).unwrap_or_else(|| system.total_memory())
}
