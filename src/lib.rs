//! memorystore-auth-proxy: a RESP-aware sidecar that authenticates to Memorystore for its clients.

pub mod cluster;
pub mod command;
pub mod credentials;
