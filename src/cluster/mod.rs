//! Which node owns which hash slot: discovery, the snapshot, and when to look again.
pub mod topology;
