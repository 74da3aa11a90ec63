//! SCAN over all shards: cursors a client can carry, and what moving keys do to a scan.
//!
//! A cursor is one decimal below 2^62: the node's own cursor (36 bits), which shard, by the slot it is
//! asked by (14), which of four visits in turn (2), and which scan (10). The node's part, which is
//! small unless its tables are large, stands in front: some clients keep cursors in a double
//! (node-redis 4), which holds what is below 2^53. A scan visits the shards in slot order. Keys may move while it does, one by one and unnoticed by the proxy, to a node that was
//! visited already. So each node is asked for a [`Sample`] before its visit begins; when all were
//! visited they are asked again, and those that may have got keys since are visited again, until none
//! has. The samples also name nodes with keys that the slot map does not know (*strays*). When a
//! shard's node changes (failover), its visit begins anew, for a node's cursor means nothing to another
//! node. So every key that is there from start to end of a scan is returned at least once; a key may
//! come more often, as with any SCAN; and a scan ends once nothing moves for the time of a visit.
//!
//! Where nodes refuse to be asked, only what the slot map tells counts. Limit: a slot that is handed
//! over with all its keys at once, twice, the second time within the last round trip of a scan.
//!
//! Invariant: the state of a scan is a help, not a need: a cursor that is not known (the proxy was
//! restarted) goes on from its shard, and what moved before is not known. A client may say its last
//! cursor, or the one before, again. It sends nothing: the hub does.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::sample::{Sample, SlotSet};

/// Scans remembered; the one that was idle longest is forgotten first.
const MAX_SCANS: usize = 1024;

/// How often a node is visited again only because it imports a slot and does not tell of keys.
const MAX_LOOKS: u8 = 3;

/// Cursors of a scan that are known: what a client says again after a lost reply, and those of the calls
/// that came to nothing in between.
const KEPT: usize = 4;

const ID_BITS: u32 = 10;
const SLOT_BITS: u32 = 14;
const TURN_BITS: u32 = 2;
const NODE_BITS: u32 = 36;

/// Ids are 1 to this: with 0, the beginning of a scan would be 0, "the end".
const MAX_ID: u16 = (1 << ID_BITS) - 1;

/// What a client's cursor means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Which scan.
    pub id: u16,
    /// Slot by which the shard is asked.
    pub slot: u16,
    /// Changes with each visit: two nodes may have the same cursor.
    pub turn: u8,
    /// The node's own cursor.
    pub node: u64,
}

impl Cursor {
    /// The number the client gets; `None` when the node's cursor does not fit.
    pub fn encode(self) -> Option<u64> {
        (self.node < 1 << NODE_BITS).then(|| {
            (self.node << (SLOT_BITS + TURN_BITS + ID_BITS))
                | (u64::from(self.slot) << (TURN_BITS + ID_BITS))
                | (u64::from(self.turn) << ID_BITS)
                | u64::from(self.id)
        })
    }

    /// The meaning of a client's number; `None` if it was never given out.
    pub fn decode(number: u64) -> Option<Self> {
        (number >> (ID_BITS + SLOT_BITS + TURN_BITS + NODE_BITS) == 0).then_some(Self {
            id: number as u16 & MAX_ID,
            slot: (number >> (TURN_BITS + ID_BITS)) as u16 & 0x3fff,
            turn: (number >> ID_BITS) as u8 & 3,
            node: number >> (SLOT_BITS + TURN_BITS + ID_BITS),
        })
    }
}

/// A node of a scan, and a slot by which it is asked.
pub type Stop<N> = (u16, N);

/// What a node said when it was asked for a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told<N> {
    /// What it tells.
    Sample(Sample<N>),
    /// It tells nothing.
    Refused,
}

/// A scan under way.
#[derive(Debug, Clone)]
pub struct Scan<N> {
    id: u16,
    /// Slot that names the present visit in cursors.
    slot: u16,
    /// Node being visited.
    node: N,
    /// Its number among the visits of this scan.
    visit: u32,
    /// The cursors given out last, each with its visit and node; the newest first.
    handed: VecDeque<(u64, u32, N)>,
    /// The present visit does not count as a whole one.
    spoiled: bool,
    /// The present visit was begun because another one could not go on, and nothing came of it yet.
    anew: bool,
    visited: BTreeSet<N>,
    /// What the nodes told before their last visit began.
    begun: BTreeMap<N, Told<N>>,
    /// Nodes that are no primaries any more.
    demoted: BTreeSet<N>,
    /// Nodes with keys that the slot map does not know.
    strays: Vec<Stop<N>>,
    looks: u8,
}

/// Where a call of SCAN goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Call<N> {
    /// The cursor to ask with.
    pub cursor: Cursor,
    /// Whom.
    pub stop: Stop<N>,
    /// Samples are wanted first; then ask again.
    pub sample_first: bool,
}

/// What follows when a node has answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// The client's next cursor; 0: the end.
    Cursor(u64),
    /// Samples are wanted first: see [`Scans::conclude`].
    Sample,
    /// The node's cursor does not fit.
    TooLarge,
}

/// All scans of a worker.
#[derive(Debug)]
pub struct Scans<N> {
    scans: VecDeque<Scan<N>>,
    last_id: u16,
    /// This worker's number, and how many there are: each gives out ids of its own.
    share: (u16, u16),
}

impl<N> Default for Scans<N> {
    fn default() -> Self {
        Self { scans: VecDeque::new(), last_id: 0, share: (0, 1) }
    }
}

impl<N: Ord + Clone> Scan<N> {
    /// Where the scan has to go: the shards, and the strays.
    fn stops(&self, shards: &[Stop<N>]) -> Vec<Stop<N>> {
        let is_stray = |stray: &&Stop<N>| !shards.iter().any(|(_, n)| *n == stray.1);
        shards.iter().chain(self.strays.iter().filter(is_stray)).cloned().collect()
    }

    /// The next node to visit.
    fn next_stop(&self, shards: &[Stop<N>]) -> Option<Stop<N>> {
        let open = |n: &N| !self.visited.contains(n) && !self.demoted.contains(n);
        self.stops(shards).into_iter().find(|(_, n)| open(n))
    }

    /// Begins a visit; the client's cursor for it.
    fn go_to(&mut self, (slot, node): Stop<N>) -> u64 {
        self.visited.remove(&node);
        self.slot = slot;
        self.node = node;
        self.visit = self.visit.wrapping_add(1);
        self.spoiled = false;
        self.anew = false;
        let turn = self.turn();
        self.hand_out(Cursor { id: self.id, slot, turn, node: 0 }).unwrap_or(0)
    }

    fn turn(&self) -> u8 {
        self.visit as u8 & 3
    }

    /// Gives a cursor of the present visit out.
    fn hand_out(&mut self, cursor: Cursor) -> Option<u64> {
        let number = cursor.encode()?;
        self.handed.push_front((number, self.visit, self.node.clone()));
        self.handed.truncate(KEPT);
        Some(number)
    }

    /// Visit and node of a cursor that was given out.
    fn handed(&self, number: u64) -> Option<(u32, &N)> {
        let handed = self.handed.iter().find(|(given, ..)| *given == number);
        handed.map(|(_, visit, node)| (*visit, node))
    }

    /// Takes in what the nodes told.
    fn sampled(&mut self, told: &[(N, Told<N>)]) {
        let samples = || {
            told.iter().filter_map(|(n, t)| match t {
                Told::Sample(s) => Some((n, s)),
                Told::Refused => None,
            })
        };
        for (node, told) in told {
            self.begun.entry(node.clone()).or_insert_with(|| told.clone());
        }
        let mut claimed = SlotSet::default();
        for (node, sample) in samples() {
            if sample.is_primary {
                claimed.add(&sample.slots);
                self.demoted.remove(node);
            } else {
                self.demoted.insert(node.clone());
            }
        }
        if samples().next().is_none() {
            return;
        }
        // Strays that were asked themselves stay while they have, or get, slots.
        let stays = |node: &N| {
            samples().any(|(n, s)| n == node && s.is_primary && (s.imports || !s.slots.is_empty()))
        };
        self.strays.retain(|(_, node)| stays(node));
        let here = |id: &str| samples().any(|(_, s)| s.is_primary && s.id == id);
        for named in samples().flat_map(|(_, s)| &s.named).filter(|named| !here(&named.id)) {
            let mut slots = named.slots.iter().flat_map(|r| r.0..=r.1);
            let slot = slots.find(|slot| named.importing || !claimed.has(*slot));
            if let Some(slot) = slot
                && !self.strays.iter().any(|(_, n)| *n == named.node)
            {
                self.strays.push((slot, named.node.clone()));
            }
        }
    }

    /// Has nodes visited again that may have got keys since their visit began.
    fn compare(&mut self, told: &[(N, Told<N>)], shards: &[Stop<N>]) {
        let mut looked = false;
        for (_, node) in self.stops(shards) {
            if !self.visited.contains(&node) || self.demoted.contains(&node) {
                continue;
            }
            let now = told.iter().find(|(n, _)| *n == node).map(|(_, t)| t);
            let again = match (self.begun.get(&node), now) {
                (_, Some(Told::Refused)) => false,
                (Some(Told::Sample(before)), Some(Told::Sample(now))) => {
                    let only_imports = before.restored.is_none() || now.restored.is_none();
                    let gained = before.may_have_gained(now);
                    if gained && only_imports && !before.may_have_taken_over(now) {
                        looked = true;
                        self.looks < MAX_LOOKS
                    } else {
                        gained
                    }
                }
                // Another node answered in its place, or it tells for the first time.
                _ => true,
            };
            if again {
                self.visited.remove(&node);
                if let Some(now) = now {
                    self.begun.insert(node, now.clone());
                }
            }
        }
        self.looks = if looked { self.looks.saturating_add(1) } else { 0 };
    }
}

impl<N: Ord + Clone> Scans<N> {
    /// This is one of so many workers: cursors may come to any of them.
    pub fn set_share(&mut self, me: usize, workers: usize) {
        let narrow = |n: usize| u16::try_from(n).unwrap_or(MAX_ID - 1).min(MAX_ID - 1);
        self.share = (narrow(me), narrow(workers).max(1));
    }

    /// Begins a scan; its first cursor. `None` when there is no shard. `shards` stand in slot order.
    pub fn begin(&mut self, shards: &[Stop<N>]) -> Option<u64> {
        let first = shards.first()?.clone();
        Some(self.remember(first.clone(), BTreeSet::new()).go_to(first))
    }

    /// An id that no scan here has.
    fn new_id(&mut self) -> u16 {
        let (me, workers) = self.share;
        loop {
            let next = self.last_id.checked_add(workers);
            let next = next.filter(|&id| self.last_id > 0 && id <= MAX_ID);
            self.last_id = next.unwrap_or(me % MAX_ID + 1);
            if !self.scans.iter().any(|s| s.id == self.last_id) {
                return self.last_id;
            }
        }
    }

    /// The scan that gave a cursor out.
    fn at(&self, number: u64) -> Option<usize> {
        let id = Cursor::decode(number)?.id;
        self.scans.iter().position(|s| s.id == id && s.handed(number).is_some())
    }

    /// True when the state of the cursor's scan is not here.
    pub fn is_unknown(&self, number: u64) -> bool {
        self.at(number).is_none()
    }

    /// Gives a scan's state away.
    pub fn take(&mut self, number: u64) -> Option<Scan<N>> {
        let at = self.at(number)?;
        self.scans.remove(at)
    }

    /// Takes a scan's state over.
    pub fn adopt(&mut self, scan: Scan<N>) {
        self.scans.retain(|s| s.id != scan.id);
        self.make_room();
        self.scans.push_back(scan);
    }

    fn make_room(&mut self) {
        // Of the ids of this worker some stay free.
        let most = MAX_SCANS.min(usize::from(MAX_ID / self.share.1) / 2).max(1);
        while self.scans.len() >= most {
            self.scans.pop_front();
        }
    }

    fn remember(&mut self, (slot, node): Stop<N>, visited: BTreeSet<N>) -> &mut Scan<N> {
        self.make_room();
        let scan = Scan {
            id: self.new_id(),
            slot,
            node,
            visit: 0,
            handed: VecDeque::new(),
            spoiled: false,
            anew: false,
            visited,
            begun: BTreeMap::new(),
            demoted: BTreeSet::new(),
            strays: Vec::new(),
            looks: 0,
        };
        self.scans.push_back(scan);
        let last = self.scans.len() - 1;
        &mut self.scans[last]
    }

    /// Where to go with a client's cursor. `None` when there is no shard, or the cursor is not one.
    pub fn resume(&mut self, number: u64, shards: &[Stop<N>]) -> Option<Call<N>> {
        let mut cursor = Cursor::decode(number)?;
        let at = shards.iter().rposition(|(first, _)| *first <= cursor.slot).unwrap_or(0);
        let by_slot = shards.get(at)?.clone();
        let Some(mut scan) = self.take(number) else {
            // Not known (any more): it goes on from its shard, and takes those before as visited.
            let before = shards.iter().take(at).map(|(_, n)| n.clone()).collect();
            let scan = self.remember((cursor.slot, by_slot.1.clone()), before);
            (cursor.id, cursor.turn) = (scan.id, scan.turn());
            scan.hand_out(cursor);
            return Some(Call { cursor, stop: by_slot, sample_first: true });
        };
        let stops = scan.stops(shards);
        let find = |node: &N| stops.iter().find(|(_, n)| n == node).cloned();
        let (visit, node) = scan.handed(number).map(|(visit, node)| (visit, node.clone()))?;
        let here = find(&scan.node);
        let begun_for_it = visit != scan.visit && scan.anew && here.is_some();
        // Otherwise the client never got what is newer than what it says.
        while !begun_for_it && scan.handed.front().is_some_and(|(given, ..)| *given != number) {
            scan.handed.pop_front();
        }
        let stop = match (visit == scan.visit, here) {
            // The slot may have moved away; the visit to the node goes on.
            (true, Some(stop)) => stop,
            (false, Some(stop)) if begun_for_it => {
                cursor = Cursor { slot: scan.slot, turn: scan.turn(), node: 0, ..cursor };
                stop
            }
            // The node is gone, or the client went back to a cursor of another visit: a visit begins.
            _ => {
                let stop = find(&node).unwrap_or(by_slot);
                scan.go_to(stop.clone());
                scan.anew = true;
                cursor = Cursor { slot: stop.0, turn: scan.turn(), node: 0, ..cursor };
                stop
            }
        };
        let sample_first = !scan.begun.contains_key(&stop.1);
        // The one that was idle longest stands in front.
        self.scans.push_back(scan);
        Some(Call { cursor, stop, sample_first })
    }

    /// Whom to ask for samples, for the scan of a cursor.
    pub fn stops(&self, cursor: u64, shards: &[Stop<N>]) -> Vec<Stop<N>> {
        let scan = self.at(cursor).and_then(|at| self.scans.get(at));
        scan.map_or_else(|| shards.to_vec(), |scan| scan.stops(shards))
    }

    /// What the nodes told before a visit.
    pub fn sampled(&mut self, number: u64, told: &[(N, Told<N>)]) {
        if let Some(scan) = self.at(number).and_then(|at| self.scans.get_mut(at)) {
            scan.sampled(told);
            // A node that could not be asked is visited nevertheless, and again when it could.
            scan.begun.entry(scan.node.clone()).or_insert(Told::Refused);
        }
    }

    /// The scan whose call is under way.
    fn calling(&mut self, asked: Cursor) -> Option<&mut Scan<N>> {
        self.scans.iter_mut().find(|s| s.id == asked.id)
    }

    /// What follows when a node answered `asked` with `node_cursor`.
    pub fn advance(&mut self, asked: Cursor, node_cursor: u64, shards: &[Stop<N>]) -> Next {
        let next = Cursor { node: node_cursor, ..asked };
        let Some(scan) = self.calling(asked) else {
            // Forgotten in between; at its node's end, the visit is made again.
            return next.encode().map_or(Next::TooLarge, Next::Cursor);
        };
        scan.anew = false;
        if node_cursor != 0 {
            return scan.hand_out(next).map_or(Next::TooLarge, Next::Cursor);
        }
        if !scan.spoiled {
            scan.visited.insert(scan.node.clone());
        }
        let tells = scan.begun.values().any(|told| matches!(told, Told::Sample(_)));
        match scan.next_stop(shards) {
            Some(stop) if scan.begun.contains_key(&stop.1) => Next::Cursor(scan.go_to(stop)),
            None if !tells => {
                self.scans.retain(|s| s.id != asked.id);
                Next::Cursor(0)
            }
            _ => Next::Sample,
        }
    }

    /// The client's cursor after a reply that came from another node than was asked: the visit begins
    /// anew.
    pub fn again(&mut self, asked: Cursor) -> u64 {
        let begin = Cursor { node: 0, ..asked };
        let scan = self.calling(asked);
        scan.map_or_else(|| begin.encode(), |scan| scan.hand_out(begin)).unwrap_or(0)
    }

    /// The client's next cursor, after the nodes were asked for samples once more; 0: the end.
    pub fn conclude(&mut self, asked: Cursor, told: &[(N, Told<N>)], shards: &[Stop<N>]) -> u64 {
        let Some(scan) = self.calling(asked) else {
            return Cursor { node: 0, ..asked }.encode().unwrap_or(0);
        };
        scan.sampled(told);
        scan.compare(told, shards);
        if let Some(stop) = scan.next_stop(shards) {
            return scan.go_to(stop);
        }
        self.scans.retain(|s| s.id != asked.id);
        0
    }

    /// A slot moved to `node`, by the slot map: all there is to know of nodes that tell nothing.
    pub fn slot_moved_to(&mut self, node: &N) {
        for scan in &mut self.scans {
            if matches!(scan.begun.get(node), Some(Told::Sample(_))) {
                continue;
            }
            scan.visited.remove(node);
            if scan.node == *node {
                scan.spoiled = true;
            }
        }
    }

    /// True when no scan is under way.
    pub fn is_empty(&self) -> bool {
        self.scans.is_empty()
    }
}

#[cfg(test)]
mod tests;
#[cfg(any(test, fuzzing))]
pub(crate) mod world;
