//! The HTTP side: health for orchestrators, metrics for Prometheus, status for people.
//!
//! Invariant: every answer comes from what the proxy already knows; no request dials a node or mints a
//! token, and only `/status` asks the workers, for a bounded time. Nothing secret is in any answer. It
//! can change nothing, but for `/quitquitquit` on a port of its own.

pub mod health;
pub mod quit;
pub mod server;
pub mod state;
pub mod status;
