//! Which node owns which hash slot: discovery, the snapshot, and when to look again.

pub mod auth_faults;
pub mod backend;
pub mod discovery;
pub mod query;
pub mod refresh;
pub mod topology;
pub mod watcher;
