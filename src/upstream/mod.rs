//! Connections to cluster nodes: what is in flight on them, how they authenticate, when to dial.
//!
//! `pipe`, `handshake` and `backoff` are pure; `client` is the cold-path client of the control
//! thread. The sockets of user traffic are driven by `worker::io`.

pub mod backoff;
pub mod client;
pub mod handshake;
pub mod kind;
pub mod pace;
pub mod pipe;
pub mod tls;
