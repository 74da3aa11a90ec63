//! The immutable slot map that routing reads.
//!
//! Invariant: a snapshot never changes; a new one is published whole. Slot → shard is one array
//! read. It does not know how it was fetched (see `discovery`) nor when to fetch again (`refresh`).
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;
use std::sync::Arc;

/// Number of hash slots of a Redis Cluster.
pub const SLOTS: usize = 16384;

/// In [`Topology::slots`]: no shard owns this slot.
pub const UNASSIGNED: u16 = u16::MAX;

/// Where a node is dialled: host name or IP literal (no brackets) and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeAddr {
    /// Host name, IPv4 or IPv6 literal without brackets.
    pub host: Arc<str>,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for NodeAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// One shard: a primary and its replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// The node that takes writes.
    pub primary: NodeAddr,
    /// Its healthy replicas.
    pub replicas: Vec<NodeAddr>,
}

/// How the upstream presents itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A Redis Cluster: CLUSTER commands work, slots are spread over shards.
    Cluster,
    /// One server without cluster support; it owns every slot.
    Standalone,
}

/// What the servers call themselves in HELLO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `redis` or `valkey`.
    pub name: Arc<str>,
    /// E.g. `7.2.4`.
    pub version: Arc<str>,
}

impl Default for Server {
    /// The oldest server this proxy speaks to, until a node has told.
    fn default() -> Self {
        Self { name: "redis".into(), version: "7.0.0".into() }
    }
}

/// A snapshot of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Grows by one with every published change; equal maps are never published twice.
    pub epoch: u64,
    /// Cluster or single server.
    pub mode: Mode,
    /// All shards that own at least one slot.
    pub shards: Vec<Shard>,
    /// Slot → index into `shards`, or [`UNASSIGNED`].
    pub slots: Box<[u16; SLOTS]>,
    /// What the node that told it runs.
    pub server: Server,
}

impl Topology {
    /// How many slots have an owner; [`SLOTS`] when the cluster is whole.
    pub fn slots_covered(&self) -> usize {
        self.slots.iter().filter(|&&shard| shard != UNASSIGNED).count()
    }

    /// The slot ranges (first and last, inclusive) of each shard, in the order of `shards`.
    pub fn slot_ranges(&self) -> Vec<Vec<(u16, u16)>> {
        let mut ranges: Vec<Vec<(u16, u16)>> = vec![Vec::new(); self.shards.len()];
        for (slot, &shard) in (0u16..).zip(self.slots.iter()) {
            let Some(owned) = ranges.get_mut(usize::from(shard)) else {
                continue;
            };
            match owned.last_mut() {
                Some((_, last)) if *last + 1 == slot => *last = slot,
                _ => owned.push((slot, slot)),
            }
        }
        ranges
    }
}
