//! memorystore-auth-proxy: a RESP-aware sidecar that authenticates to Memorystore for its clients.

pub mod admin;
pub mod cluster;
pub mod command;
pub mod credentials;
pub mod net;
pub mod resp;
pub mod telemetry;
pub mod upstream;
