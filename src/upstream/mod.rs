//! Connections to cluster nodes.

pub mod client;
