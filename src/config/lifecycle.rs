//! How the process starts and how it stops; names as in cloud-sql-proxy.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use super::Reader;
use super::values::{duration_or_zero, port};
use crate::error::Error;

/// See the module header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifecycle {
    /// Dial and ask every primary before clients are taken, and end if one cannot be reached.
    pub run_connection_test: bool,
    /// Serve the other instances when one cannot be set up.
    pub skip_failed_instance_config: bool,
    /// Fetch tokens and slot maps only while clients want something.
    pub lazy_refresh: bool,
    /// How long clients are still taken after the signal to stop.
    pub min_sigterm_delay: Duration,
    /// How long replies and transactions have to finish after that.
    pub max_sigterm_delay: Duration,
    /// End with code 0 on SIGTERM and SIGINT.
    pub exit_zero_on_sigterm: bool,
    /// Stop when asked by HTTP on this port of localhost.
    pub quitquitquit: Option<u16>,
}

impl Reader<'_> {
    /// Reads all of it.
    pub(super) fn lifecycle(&self) -> Result<Lifecycle, Error> {
        let admin_port = self.typed("admin-port", port)?;
        Ok(Lifecycle {
            run_connection_test: self.switch("run-connection-test")?,
            skip_failed_instance_config: self.switch("skip-failed-instance-config")?,
            lazy_refresh: self.switch("lazy-refresh")?,
            min_sigterm_delay: self.typed("min-sigterm-delay", duration_or_zero)?,
            max_sigterm_delay: self.typed("max-sigterm-delay", duration_or_zero)?,
            exit_zero_on_sigterm: self.switch("exit-zero-on-sigterm")?,
            quitquitquit: self.switch("quitquitquit")?.then_some(admin_port),
        })
    }
}
