//! SCAN over all shards: cursors a client can carry, and what a moving slot does to a scan.
//!
//! A cursor is one decimal below 2^62: the node's own cursor (38 bits), which shard, by the slot it
//! is asked by (14), and which scan (10). The node's part, which is small unless its tables are
//! large, stands in front: some clients keep cursors in a double (node-redis 4), which holds what is
//! below 2^53. A scan visits the shards in slot order. When a slot moves
//! to a node that was visited already, or is being visited, its keys might be missed: that node is
//! visited again at the end. When a shard's node changes (failover), its visit begins anew, for a
//! node's cursor means nothing to another node. So every key that is there from start to end of a
//! scan is returned at least once; a key may come more often, as with any SCAN. Invariant: the state
//! of a scan is a help, not a need: a cursor of a forgotten scan goes on from its shard.
//! It sends nothing: the hub does.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{BTreeSet, VecDeque};

/// Scans remembered; the oldest is forgotten first.
const MAX_SCANS: usize = 1024;

const ID_BITS: u32 = 10;
const SLOT_BITS: u32 = 14;
const NODE_BITS: u32 = 38;

/// What a client's cursor means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Which scan.
    pub id: u16,
    /// Slot by which the shard is asked.
    pub slot: u16,
    /// The node's own cursor.
    pub node: u64,
}

impl Cursor {
    /// The number the client gets; `None` when the node's cursor does not fit.
    pub fn encode(self) -> Option<u64> {
        (self.node < 1 << NODE_BITS).then(|| {
            (self.node << (SLOT_BITS + ID_BITS))
                | (u64::from(self.slot) << ID_BITS)
                | u64::from(self.id)
        })
    }

    /// The meaning of a client's number; `None` if it was never given out.
    pub fn decode(number: u64) -> Option<Self> {
        (number >> (ID_BITS + SLOT_BITS + NODE_BITS) == 0).then_some(Self {
            id: number as u16 & ((1 << ID_BITS) - 1),
            slot: (number >> ID_BITS) as u16 & ((1 << SLOT_BITS) - 1),
            node: number >> (SLOT_BITS + ID_BITS),
        })
    }
}

/// A scan under way.
#[derive(Debug)]
struct Scan {
    id: u16,
    /// Slot that names the present visit in cursors.
    slot: u16,
    /// Node being visited.
    node: u16,
    visited: BTreeSet<u16>,
    /// Nodes that got slots after they were visited.
    again: BTreeSet<u16>,
}

/// All scans of a worker.
#[derive(Debug, Default)]
pub struct Scans {
    scans: VecDeque<Scan>,
    next_id: u16,
}

/// A shard as a scan sees it: the slot it is asked by, and its node.
pub type ShardAt = (u16, u16);

impl Scans {
    /// Where to go with a client's cursor: 0 begins a scan. `shards` stand in slot order.
    ///
    /// Returns the cursor to ask with, and the slot by which the node is reached now. `None` when
    /// there is no shard, or the cursor is not one.
    pub fn resume(&mut self, number: u64, shards: &[ShardAt]) -> Option<(Cursor, u16)> {
        let first = shards.first()?;
        if number == 0 {
            // 0 is left out: together with slot 0 and node cursor 0 it would mean "the end".
            self.next_id = self.next_id % ((1 << ID_BITS) - 1) + 1;
            let id = self.next_id;
            self.scans.retain(|s| s.id != id);
            if self.scans.len() >= MAX_SCANS {
                self.scans.pop_front();
            }
            self.scans.push_back(Scan {
                id,
                slot: first.0,
                node: first.1,
                visited: BTreeSet::new(),
                again: BTreeSet::new(),
            });
            return Some((Cursor { id, slot: first.0, node: 0 }, first.0));
        }
        let mut cursor = Cursor::decode(number)?;
        let Some(scan) = self.scans.iter_mut().find(|s| s.id == cursor.id) else {
            // A forgotten scan goes on from its shard.
            let at = shards.iter().rposition(|&(slot, _)| slot <= cursor.slot).unwrap_or(0);
            let (slot, node) = shards[at];
            self.scans.push_back(Scan {
                id: cursor.id,
                slot: cursor.slot,
                node,
                visited: shards[..at].iter().map(|&(_, n)| n).collect(),
                again: BTreeSet::new(),
            });
            return Some((cursor, slot));
        };
        let visiting = shards.iter().find(|(_, n)| *n == scan.node);
        if let Some(&(slot, _)) = visiting
            && scan.slot == cursor.slot
        {
            // The slot may have moved away; the visit to the node goes on.
            return Some((cursor, slot));
        }
        // The node is gone, or the client went back to an older cursor: a new visit begins, and the
        // one that was not finished is made up for.
        if scan.visited.contains(&scan.node) {
            scan.again.insert(scan.node);
        }
        let at = shards.iter().rposition(|&(slot, _)| slot <= cursor.slot).unwrap_or(0);
        let (slot, node) = shards[at];
        scan.node = node;
        scan.slot = cursor.slot;
        cursor.node = 0;
        Some((cursor, slot))
    }

    /// The client's next cursor after a node answered `asked` with `node_cursor`; 0: the end.
    ///
    /// `None` when the node's cursor does not fit.
    pub fn advance(&mut self, asked: Cursor, node_cursor: u64, shards: &[ShardAt]) -> Option<u64> {
        if node_cursor != 0 {
            return Cursor { node: node_cursor, ..asked }.encode();
        }
        let Some(scan) = self.scans.iter_mut().find(|s| s.id == asked.id) else {
            return Some(0);
        };
        scan.visited.insert(scan.node);
        let fresh = shards.iter().find(|(_, n)| !scan.visited.contains(n));
        let next = fresh.or_else(|| shards.iter().find(|(_, n)| scan.again.contains(n)));
        match next {
            Some(&(slot, node)) => {
                scan.again.remove(&node);
                scan.node = node;
                scan.slot = slot;
                Cursor { id: asked.id, slot, node: 0 }.encode()
            }
            None => {
                self.scans.retain(|s| s.id != asked.id);
                Some(0)
            }
        }
    }

    /// A slot moved to `node`.
    pub fn slot_moved_to(&mut self, node: u16) {
        for scan in &mut self.scans {
            if scan.node == node || scan.visited.contains(&node) {
                scan.again.insert(node);
            }
        }
    }

    /// True when no scan is under way.
    pub fn is_empty(&self) -> bool {
        self.scans.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cursors_round_trip(id in 0u16..1024, slot in 0u16..16384, node in 0u64..1 << 38) {
            let c = Cursor { id, slot, node };
            let number = c.encode().expect("fits");
            prop_assert!(number < 1 << 62);
            prop_assert_eq!(Cursor::decode(number), Some(c));
        }

        /// Exact in a double as long as a node's cursor has 29 bits: half a thousand million keys.
        #[test]
        fn cursors_fit_a_double(id in 0u16..1024, slot in 0u16..16384, node in 0u64..1 << 29) {
            let number = Cursor { id, slot, node }.encode().expect("fits");
            prop_assert_eq!(number as f64 as u64, number);
        }

        #[test]
        fn any_number_is_harmless(number: u64) {
            let mut scans = Scans::default();
            let _ = scans.resume(number, &[(0, 0), (9000, 1)]);
        }

        /// Keys move between nodes at random; every key is returned at least once.
        #[test]
        fn every_key_is_seen(seed: u64) {
            let mut rng = fastrand::Rng::with_seed(seed);
            // Slots 0..8 on nodes 0..3; a node lists its keys bucket by bucket, two a call.
            let mut owner: Vec<u16> = (0..8).map(|s| s / 3).collect();
            let keys: Vec<(u16, u16)> = (0..40).map(|k| (rng.u16(0..8), k)).collect();
            let mut scans = Scans::default();
            let mut seen = BTreeSet::new();
            let shards = |owner: &[u16]| {
                let mut all: Vec<ShardAt> = Vec::new();
                for (slot, &node) in owner.iter().enumerate() {
                    if !all.iter().any(|(_, n)| *n == node) { all.push((slot as u16, node)); }
                }
                all
            };
            let mut number = 0;
            for turn in 0..10_000 {
                prop_assert!(turn < 9_999, "the scan does not end");
                let now = shards(&owner);
                let (c, slot) = scans.resume(number, &now).expect("a cursor");
                let node = owner[usize::from(slot)];
                // Buckets by key number: a key that moves in may land behind the cursor.
                for (slot, k) in &keys {
                    if owner[usize::from(*slot)] == node && u64::from(*k / 4) == c.node { seen.insert(*k); }
                }
                let next = if c.node + 1 == 10 { 0 } else { c.node + 1 };
                number = scans.advance(c, next, &now).expect("fits");
                if number == 0 { break; }
                if turn < 60 && rng.bool() {
                    let slot = rng.usize(0..8);
                    let to = rng.u16(0..3);
                    if owner[slot] != to && owner.iter().filter(|&&n| n == owner[slot]).count() > 1 {
                        owner[slot] = to;
                        scans.slot_moved_to(to);
                    }
                }
            }
            prop_assert_eq!(seen.len(), keys.len());
        }
    }
}
