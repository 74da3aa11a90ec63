//! How much one client, and all of them together, may take.
//!
//! Names and meanings follow Redis where it has one: `client-query-buffer-limit`,
//! `client-output-buffer-limit`, `maxmemory-clients`, `timeout`, `maxclients`.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use super::Reader;
use super::values::{bytes, duration_or_zero, limit, pipeline};
use crate::error::Error;

/// The words that let the proxy choose.
const AUTO: &str = "auto";

/// See the module header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Client connections of all instances together; 0: no limit.
    pub connections: usize,
    /// Largest request (bytes).
    pub request: usize,
    /// A client that leaves more than this unread (bytes) is disconnected.
    pub client_output: usize,
    /// Commands of one client that may be without reply.
    pub pipeline: usize,
    /// What all buffers together may hold.
    pub buffer_total: BufferTotal,
    /// A client that is idle for so long is disconnected.
    pub idle_timeout: Option<Duration>,
}

/// What all buffers together may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BufferTotal {
    /// Half of the memory the process may have.
    Auto,
    /// So much (bytes).
    Bytes(usize),
    /// Whatever clients want.
    Unlimited,
}

impl Reader<'_> {
    /// Reads all of it.
    pub(super) fn limits(&self) -> Result<Limits, Error> {
        let idle = self.typed("client-idle-timeout", duration_or_zero)?;
        Ok(Limits {
            connections: self.typed("max-connections", limit)?,
            request: self.typed("max-request-bytes", |text| bytes(text, 1 << 10, 2 << 30))?,
            client_output: self
                .typed("max-client-output-bytes", |text| bytes(text, 64 << 10, 1 << 40))?,
            pipeline: self.typed("max-pipeline", pipeline)?,
            buffer_total: self.typed("max-buffer-total", buffer_total)?,
            idle_timeout: (!idle.is_zero()).then_some(idle),
        })
    }
}

fn buffer_total(text: &str) -> Result<BufferTotal, String> {
    match text.trim() {
        AUTO => Ok(BufferTotal::Auto),
        "0" => Ok(BufferTotal::Unlimited),
        _ => bytes(text, 1 << 20, 1 << 40).map(BufferTotal::Bytes).map_err(|says| {
            format!("{says}, or '{AUTO}' for half of the memory there is, or 0 for no limit")
        }),
    }
}
