//! What CLUSTER SHARDS and CLUSTER SLOTS say, as a slot map.
//!
//! Invariant: the outcome is canonical (shards ordered by their first slot, replicas by address), so
//! that two nodes that agree give equal maps; every shard in it owns a slot, and no slot has two
//! owners. Whatever a node sends ends in a map or an error, never in a panic. It asks nobody (see
//! `watcher`) and does not merge views of several nodes.
//!
//! Addresses follow Redis's preferred-endpoint rules: `endpoint` counts first; null or empty means
//! "the host you asked"; `?` means the node has no such name, so its `ip` is taken.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;

use super::topology::{Mode, NodeAddr, SLOTS, Server, Shard, Topology, UNASSIGNED};
use crate::resp::value::Value;

/// A slot map without its epoch, which is the publisher's to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotMap {
    /// Cluster or single server.
    pub mode: Mode,
    /// All shards that own at least one slot, ordered by their first slot.
    pub shards: Vec<Shard>,
    /// Slot → index into `shards`, or [`UNASSIGNED`].
    pub slots: Box<[u16; SLOTS]>,
    /// What the node that told it runs.
    pub server: Server,
}

/// Why a reply is no slot map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// A part of the reply is missing or of the wrong kind.
    #[error("{part} is missing or malformed")]
    Malformed {
        /// Which part.
        part: &'static str,
    },
    /// Two owners claim one slot.
    #[error("slot {slot} has two owners")]
    Overlap {
        /// The slot.
        slot: u16,
    },
    /// The node knows no owner of any slot: it has not joined the cluster, or is just starting.
    #[error("the node knows no owner of any slot; it may not have joined the cluster yet")]
    NoSlots,
}

fn malformed(part: &'static str) -> DiscoveryError {
    DiscoveryError::Malformed { part }
}

impl SlotMap {
    /// The map of a server without cluster support: it owns every slot.
    pub fn standalone(addr: &NodeAddr) -> Self {
        Self {
            mode: Mode::Standalone,
            shards: vec![Shard { primary: addr.clone(), replicas: Vec::new() }],
            slots: Box::new([0; SLOTS]),
            server: Server::default(),
        }
    }

    /// Primary of the shard that owns `slot`.
    pub fn owner(&self, slot: u16) -> Option<&NodeAddr> {
        let shard = *self.slots.get(usize::from(slot))?;
        self.shards.get(usize::from(shard)).map(|s| &s.primary)
    }

    /// How many slots have an owner.
    pub fn slots_covered(&self) -> usize {
        self.slots.iter().filter(|&&s| s != UNASSIGNED).count()
    }

    /// True when `published` says the same, whatever its epoch.
    pub fn same_as(&self, published: &Topology) -> bool {
        self.mode == published.mode
            && self.shards == published.shards
            && self.slots == published.slots
            && self.server == published.server
    }

    /// The snapshot to publish.
    pub fn into_topology(self, epoch: u64) -> Topology {
        Topology {
            epoch,
            mode: self.mode,
            shards: self.shards,
            slots: self.slots,
            server: self.server,
        }
    }
}

/// True when an error reply to a CLUSTER command says that the server is no cluster node: cluster
/// support is off, or the command does not exist or is forbidden (Memorystore for Valkey with
/// cluster mode disabled).
pub fn says_no_cluster(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("cluster support disabled")
        || text.contains("cluster is disabled")
        || text.starts_with("noperm")
        || text.starts_with("err unknown command")
}

/// Reads a CLUSTER SHARDS reply, RESP2 or RESP3, that the node at `asked` gave. `prefer_tls` takes
/// `tls-port` before `port`, else the other way round; either may be missing.
///
/// # Errors
/// [`DiscoveryError`] when it is no slot map.
pub fn parse_shards(
    reply: &Value,
    asked: &NodeAddr,
    prefer_tls: bool,
) -> Result<SlotMap, DiscoveryError> {
    let mut map = Builder::default();
    for entry in reply.as_array().ok_or_else(|| malformed("the list of shards"))? {
        let ranges = entry
            .field("slots")
            .and_then(Value::as_array)
            .ok_or_else(|| malformed("the slot list of a shard"))?;
        if ranges.is_empty() {
            continue;
        }
        if ranges.len() % 2 != 0 {
            return Err(malformed("the slot list of a shard"));
        }
        let nodes = entry
            .field("nodes")
            .and_then(Value::as_array)
            .ok_or_else(|| malformed("the node list of a shard"))?;
        // A shard without a primary is one in failover: its slots stay unowned for now.
        let Some(shard) = shard_of(nodes, asked, prefer_tls)? else {
            continue;
        };
        let mut owned = Vec::with_capacity(ranges.len() / 2);
        for range in ranges.chunks_exact(2) {
            owned.push(slot_range(&range[0], &range[1])?);
        }
        map.add(shard, &owned)?;
    }
    map.finish()
}

/// Reads a CLUSTER SLOTS reply that the node at `asked` gave. There the one port listed is already
/// the TLS port on a TLS connection.
///
/// # Errors
/// [`DiscoveryError`] when it is no slot map.
pub fn parse_slots(reply: &Value, asked: &NodeAddr) -> Result<SlotMap, DiscoveryError> {
    let mut map = Builder::default();
    for entry in reply.as_array().ok_or_else(|| malformed("the list of slot ranges"))? {
        let [start, end, primary, replicas @ ..] =
            entry.as_array().ok_or_else(|| malformed("a slot range"))?
        else {
            return Err(malformed("a slot range"));
        };
        let shard = Shard {
            primary: slots_node(primary, asked)?,
            replicas: replicas.iter().map(|n| slots_node(n, asked)).collect::<Result<_, _>>()?,
        };
        map.add(shard, &[slot_range(start, end)?])?;
    }
    map.finish()
}

/// What a reply says of one shard: its replicas, and the slot ranges it owns.
type Found = (Vec<NodeAddr>, Vec<(u16, u16)>);

/// Collects shards until all are known.
#[derive(Default)]
struct Builder {
    /// By primary.
    shards: BTreeMap<NodeAddr, Found>,
}

impl Builder {
    fn add(&mut self, shard: Shard, owned: &[(u16, u16)]) -> Result<(), DiscoveryError> {
        let (replicas, ranges) = self.shards.entry(shard.primary).or_default();
        replicas.extend(shard.replicas);
        ranges.extend_from_slice(owned);
        // Ranges are disjoint in the end, so there are never more than slots; this stops a reply of
        // millions of equal ranges before they are sorted.
        if ranges.len() > SLOTS {
            return Err(DiscoveryError::Overlap { slot: ranges[0].0 });
        }
        Ok(())
    }

    fn finish(self) -> Result<SlotMap, DiscoveryError> {
        let mut found: Vec<_> = self
            .shards
            .into_iter()
            .map(|(primary, (mut replicas, ranges))| {
                replicas.sort();
                replicas.dedup();
                replicas.retain(|r| *r != primary);
                (Shard { primary, replicas }, ranges)
            })
            .collect();
        found.sort_by_key(|(_, ranges)| ranges.iter().min().copied());

        let mut slots = Box::new([UNASSIGNED; SLOTS]);
        let mut shards = Vec::with_capacity(found.len());
        for (shard, ranges) in found {
            let index = u16::try_from(shards.len()).unwrap_or(UNASSIGNED);
            for (start, end) in ranges {
                for slot in start..=end {
                    let owner = &mut slots[usize::from(slot)];
                    if *owner != UNASSIGNED {
                        return Err(DiscoveryError::Overlap { slot });
                    }
                    *owner = index;
                }
            }
            shards.push(shard);
        }
        if shards.is_empty() {
            return Err(DiscoveryError::NoSlots);
        }
        Ok(SlotMap { mode: Mode::Cluster, shards, slots, server: Server::default() })
    }
}

fn slot_range(start: &Value, end: &Value) -> Result<(u16, u16), DiscoveryError> {
    let slot = |v: &Value| {
        v.as_int()
            .and_then(|n| u16::try_from(n).ok())
            .filter(|&n| usize::from(n) < SLOTS)
            .ok_or_else(|| malformed("a slot number"))
    };
    let range = (slot(start)?, slot(end)?);
    if range.0 > range.1 {
        return Err(malformed("a slot range (it ends before it starts)"));
    }
    Ok(range)
}

/// The node's health, best first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    Online,
    Loading,
    Fail,
}

/// The shard of a CLUSTER SHARDS node list: its healthiest primary, and the replicas that are
/// online. A failed primary without a successor stays: commands for it wait for the failover.
fn shard_of(
    nodes: &[Value],
    asked: &NodeAddr,
    prefer_tls: bool,
) -> Result<Option<Shard>, DiscoveryError> {
    let mut primary: Option<(Health, NodeAddr)> = None;
    let mut replicas = Vec::new();
    for node in nodes {
        let health = match node.field("health").and_then(Value::as_str) {
            // Servers that report no health list only nodes that answer.
            None | Some("online") => Health::Online,
            Some("loading") => Health::Loading,
            Some(_) => Health::Fail,
        };
        let role = node
            .field("role")
            .and_then(Value::as_str)
            .ok_or_else(|| malformed("the role of a node"))?;
        match role {
            "master" | "primary" => {
                let addr = shards_node(node, asked, prefer_tls)?;
                if primary.as_ref().is_none_or(|(best, _)| health < *best) {
                    primary = Some((health, addr));
                }
            }
            // Only healthy replicas are looked at: a failed one may lack an address.
            "replica" | "slave" if health == Health::Online => {
                replicas.push(shards_node(node, asked, prefer_tls)?);
            }
            _ => {}
        }
    }
    Ok(primary.map(|(_, primary)| Shard { primary, replicas }))
}

fn shards_node(
    node: &Value,
    asked: &NodeAddr,
    prefer_tls: bool,
) -> Result<NodeAddr, DiscoveryError> {
    let port_field = |name| node.field(name).and_then(port);
    let (plain, tls) = (port_field("port"), port_field("tls-port"));
    let port = if prefer_tls { tls.or(plain) } else { plain.or(tls) };
    let ip = node.field("ip");
    let endpoint = node.field("endpoint").or(ip).or_else(|| node.field("hostname"));
    Ok(NodeAddr {
        host: host(endpoint.unwrap_or(&Value::Null), ip, asked)?,
        port: port.ok_or_else(|| malformed("the port of a node"))?,
    })
}

fn slots_node(node: &Value, asked: &NodeAddr) -> Result<NodeAddr, DiscoveryError> {
    match node.as_array() {
        Some([endpoint, number, rest @ ..]) => Ok(NodeAddr {
            host: host(endpoint, rest.get(1).and_then(|metadata| metadata.field("ip")), asked)?,
            port: port(number).ok_or_else(|| malformed("the port of a node"))?,
        }),
        _ => Err(malformed("a node of a slot range")),
    }
}

fn port(value: &Value) -> Option<u16> {
    value.as_int().and_then(|n| u16::try_from(n).ok()).filter(|&n| n != 0)
}

/// The host to dial for an endpoint field; see the module header for the rules.
fn host(
    endpoint: &Value,
    ip: Option<&Value>,
    asked: &NodeAddr,
) -> Result<std::sync::Arc<str>, DiscoveryError> {
    let text = match endpoint {
        Value::Null => return Ok(asked.host.clone()),
        other => other.as_str().ok_or_else(|| malformed("the endpoint of a node"))?,
    };
    let text = match text {
        "" => return Ok(asked.host.clone()),
        "?" => match ip.and_then(Value::as_str) {
            None | Some("" | "?") => return Ok(asked.host.clone()),
            Some(ip) => ip,
        },
        text => text,
    };
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    // 253 is the longest DNS name; IP literals are shorter.
    let fits = !bare.is_empty()
        && bare.len() <= 253
        && bare.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:%".contains(&b));
    if fits { Ok(bare.into()) } else { Err(malformed("the endpoint of a node")) }
}

#[cfg(test)]
#[path = "discovery_tests.rs"]
mod tests;
