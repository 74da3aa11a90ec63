//! The test bed: a real cluster behind IAM fronts, a fake metadata server, the proxy as a process,
//! a scripted fake node, and a raw client. Everything on loopback, everything gone on drop.
//!
//! Faults and counters live where the event happens ([`faults`], [`metadata`]); a test reads them
//! there. Nothing here uses the proxy's own code: a bug cannot hide on both sides.

#[macro_use]
pub mod resp;
pub mod bed;
pub mod canonical;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod differences;
pub mod fake_node;
pub mod faults;
pub mod front;
pub mod front_events;
mod front_link;
mod front_session;
pub mod google;
pub mod http;
pub mod metadata;
pub mod migration;
pub mod network;
pub mod node;
mod nodes_conf;
pub mod pair;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod replies;
pub mod slots;
pub mod standalone;
pub mod streams;
pub mod templates;
pub mod tls;
pub mod traffic;
pub mod wait;
