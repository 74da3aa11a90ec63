//! memorystore-auth-proxy: a RESP-aware sidecar that authenticates to Memorystore for its clients.

pub mod args;
pub mod cluster;
pub mod command;
pub mod config;
pub mod credentials;
pub mod env;
pub mod error;
pub mod telemetry;
