//! What a worker is told that is driven by a test, a simulation or a fuzzer.

use std::time::Duration;

use super::{ReadFrom, Settings};

/// `--op-timeout` (ms).
pub(super) const OP_TIMEOUT: u64 = 1000;

/// No ageing, no pacing, small limits.
pub(crate) fn settings() -> Settings {
    Settings {
        op_timeout: Duration::from_millis(OP_TIMEOUT),
        connect_timeout: Duration::from_secs(2),
        max_redirects: 16,
        read_from: ReadFrom::Primary,
        auth_backoff_min: Duration::from_millis(10),
        auth_backoff_max: Duration::from_millis(100),
        max_connection_age: Duration::ZERO,
        dial_rate_limit: 0.0,
        max_request: 1 << 20,
        max_client_output: 1 << 20,
        max_merge: 1 << 20,
        max_pipeline: 16 * 1024,
        client_idle_timeout: None,
    }
}
