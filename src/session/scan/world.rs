//! A cluster whose operator the proxy does not see: keys move one by one and slots at once, imports
//! open, end and are given up, replicas take over. Through it goes a scan.
#![allow(clippy::expect_used, clippy::panic, reason = "a model fails by panicking")]

use super::super::sample::Named;
use super::*;
use crate::dice::Dice;

const SLOTS: u16 = 8;
const BUCKETS: u64 = 10;

#[derive(Debug, Default, Clone)]
pub(super) struct Node {
    /// Whose replica it has become.
    replica_of: Option<u16>,
    epoch: u64,
    slots: BTreeSet<u16>,
    pub(super) imports: BTreeSet<u16>,
    pub(super) gives: BTreeMap<u16, u16>,
    restored: u64,
}

/// What the nodes of a world let themselves be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tells {
    All,
    /// No command statistics.
    NoCounts,
    /// Nothing; the proxy hears of every move at once.
    Nothing,
}

/// A cluster whose operator the proxy does not see.
pub(super) struct World {
    rng: Dice,
    pub(super) tells: Tells,
    nodes: Vec<Node>,
    /// Slot and node of each key.
    pub(super) keys: Vec<(u16, u16)>,
    epoch: u64,
    /// The proxy's slot map, which may be old.
    map: Vec<u16>,
    pub(super) scans: Scans<u16>,
    busy: bool,
    /// An import without end had to be believed to bring nothing.
    believed: bool,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self::with(Dice::with_seed(seed))
    }

    fn with(mut rng: Dice) -> Self {
        let tells = [Tells::All, Tells::All, Tells::NoCounts, Tells::Nothing][rng.usize(..4)];
        // The last node is new and owns nothing yet.
        let mut nodes = vec![Node::default(); 4];
        let mut map = Vec::new();
        for slot in 0..SLOTS {
            nodes[usize::from(slot / 3)].slots.insert(slot);
            map.push(slot / 3);
        }
        for (node, epoch) in nodes.iter_mut().zip([3, 1, 2, 0]) {
            node.epoch = epoch;
        }
        let keys = (0..40).map(|k| k % SLOTS).map(|s| (s, s / 3)).collect();
        let scans = Scans::default();
        let (busy, believed) = (true, false);
        Self { rng, tells, nodes, keys, epoch: 3, map, scans, busy, believed }
    }

    fn owner(&self, slot: u16) -> u16 {
        let owns = |n: &Node| n.replica_of.is_none() && n.slots.contains(&slot);
        self.nodes.iter().position(owns).expect("an owner") as u16
    }

    pub(super) fn node(&mut self, n: u16) -> &mut Node {
        &mut self.nodes[usize::from(n)]
    }

    pub(super) fn shards(&self) -> Vec<Stop<u16>> {
        let mut all: Vec<Stop<u16>> = Vec::new();
        for (slot, &node) in self.map.iter().enumerate() {
            if !all.iter().any(|(_, n)| *n == node) {
                all.push((slot as u16, node));
            }
        }
        all
    }

    /// As SETSLOT NODE on the new owner: the config epoch rises unless it is the highest.
    fn hand_over(&mut self, slot: u16, to: u16) {
        let from = self.owner(slot);
        self.node(from).slots.remove(&slot);
        self.node(from).gives.remove(&slot);
        let highest = self.nodes.iter().map(|n| n.epoch).max().unwrap_or(0);
        if self.nodes[usize::from(to)].epoch != highest {
            self.epoch += 1;
            self.node(to).epoch = self.epoch;
        }
        self.node(to).slots.insert(slot);
        self.node(to).imports.remove(&slot);
        if self.tells == Tells::Nothing {
            self.map[usize::from(slot)] = to;
            self.scans.slot_moved_to(&to);
        }
    }

    pub(super) fn move_key(&mut self, at: usize, to: u16) {
        self.keys[at].1 = to;
        self.node(to).restored += 1;
    }

    /// What an operator does behind the proxy's back.
    fn event(&mut self) {
        if !self.busy {
            return;
        }
        let slot = self.rng.u16(..SLOTS);
        let from = self.owner(slot);
        let target = self.nodes[usize::from(from)].gives.get(&slot).copied();
        let primaries: Vec<u16> = (0..self.nodes.len() as u16)
            .filter(|n| self.nodes[usize::from(*n)].replica_of.is_none() && *n != from)
            .collect();
        let to = primaries[self.rng.usize(..primaries.len())];
        match (target, self.rng.u8(..10)) {
            // One by one, in all its steps.
            (None, 0..5) if self.tells != Tells::Nothing => {
                self.node(to).imports.insert(slot);
                self.node(from).gives.insert(slot, to);
            }
            (Some(to), 0..6) => {
                let there: Vec<usize> =
                    (0..self.keys.len()).filter(|k| self.keys[*k] == (slot, from)).collect();
                match there.first() {
                    Some(_) => {
                        let at = there[self.rng.usize(..there.len())];
                        self.move_key(at, to);
                    }
                    None => self.hand_over(slot, to),
                }
            }
            // Given up: the keys come back without a mark.
            (Some(to), 6) if self.tells == Tells::All => {
                self.node(from).gives.remove(&slot);
                self.node(to).imports.remove(&slot);
                for at in 0..self.keys.len() {
                    if self.keys[at] == (slot, to) {
                        self.move_key(at, from);
                    }
                }
            }
            // With all its keys at once.
            (None, 5) => {
                self.hand_over(slot, to);
                for key in self.keys.iter_mut().filter(|k| k.0 == slot) {
                    key.1 = to;
                }
            }
            // A replica takes over.
            (_, 7) if self.nodes.len() < 9 => self.fail_over(from),
            (_, 8..10) => self.learn(),
            _ => {}
        }
    }

    fn fail_over(&mut self, node: u16) {
        let next = self.nodes.len() as u16;
        self.epoch += 1;
        let mut heir = self.nodes[usize::from(node)].clone();
        (heir.epoch, heir.restored) = (self.epoch, 0);
        self.nodes.push(heir);
        *self.node(node) = Node { replica_of: Some(next), ..Node::default() };
        for n in &mut self.nodes {
            n.gives.values_mut().filter(|to| **to == node).for_each(|to| *to = next);
        }
        self.keys.iter_mut().filter(|k| k.1 == node).for_each(|k| k.1 = next);
        if self.tells == Tells::Nothing {
            self.learn();
        }
    }

    /// The proxy gets a fresh slot map.
    fn learn(&mut self) {
        for slot in 0..SLOTS {
            let owner = self.owner(slot);
            if std::mem::replace(&mut self.map[usize::from(slot)], owner) != owner {
                self.scans.slot_moved_to(&owner);
            }
        }
    }

    /// Asks each node, while the world goes on.
    fn sample(&mut self, number: u64) -> Vec<(u16, Told<u16>)> {
        let stops = self.scans.stops(number, &self.shards());
        let mut told = Vec::new();
        for (_, n) in stops {
            if self.rng.u8(..4) == 0 {
                self.event();
            }
            told.push((n, self.ask(n)));
        }
        told
    }

    pub(super) fn ask(&self, n: u16) -> Told<u16> {
        if self.tells == Tells::Nothing {
            return Told::Refused;
        }
        let node = &self.nodes[usize::from(n)];
        let map: BTreeSet<u16> = self.map.iter().copied().collect();
        let ranges = |slots: &BTreeSet<u16>| slots.iter().map(|s| (*s, *s)).collect::<Vec<_>>();
        let mut named = Vec::new();
        for (other, o) in self.nodes.iter().enumerate() {
            let other = other as u16;
            let given = node.gives.iter().filter(|(_, to)| **to == other).map(|(s, _)| *s);
            let (owned, given) = (ranges(&o.slots), ranges(&given.collect()));
            for (slots, importing) in [(owned, false), (given, true)] {
                let is_other = other != n && o.replica_of.is_none();
                if !slots.is_empty() && is_other && !map.contains(&other) {
                    named.push(Named { id: other.to_string(), node: other, slots, importing });
                }
            }
        }
        Told::Sample(Sample {
            id: n.to_string(),
            is_primary: node.replica_of.is_none(),
            epoch: node.epoch,
            slots: ranges(&node.slots),
            imports: !node.imports.is_empty(),
            restored: (self.tells == Tells::All).then_some(node.restored),
            named,
        })
    }

    /// A call of SCAN on a node: one bucket of its keys, in an order of its own; and its next cursor.
    pub(super) fn call(&self, n: u16, cursor: u64) -> (Vec<usize>, u64) {
        let holder = self.nodes[usize::from(n)].replica_of.unwrap_or(n);
        let bucket = |k: usize| (k as u64 * 7 + u64::from(n) * 3) % BUCKETS;
        let keys = (0..self.keys.len()).filter(|k| self.keys[*k].1 == holder);
        let next = if cursor + 1 >= BUCKETS { 0 } else { cursor + 1 };
        (keys.filter(|k| bucket(*k) == cursor).collect(), next)
    }

    /// A whole scan; the keys it returned, or `None` when it does not end.
    fn scan(&mut self) -> Option<BTreeSet<usize>> {
        let mut seen = BTreeSet::new();
        let mut last = 0;
        for turn in 0..3000 {
            self.busy = turn < 150;
            if !self.busy && turn % 10 == 0 {
                self.learn();
            }
            let mut number = last;
            if number == 0 {
                number = self.scans.begin(&self.shards())?;
            } else if self.rng.u8(..50) == 0 {
                // The client asks through another worker.
                let scan = self.scans.take(number)?;
                self.scans.adopt(scan);
            }
            let mut call = self.scans.resume(number, &self.shards())?;
            let number = call.cursor.encode()?;
            if self.busy && self.rng.u8(..30) == 0 {
                // The call fails; the client says its cursor again.
                continue;
            }
            if call.sample_first {
                let told = self.sample(number);
                self.scans.sampled(number, &told);
                call = self.scans.resume(number, &self.shards())?;
            }
            for _ in 0..self.rng.usize(..3) {
                self.event();
            }
            let (keys, cursor) = self.call(call.stop.1, call.cursor.node);
            for _ in 0..self.rng.usize(..3) {
                self.event();
            }
            let next = match self.scans.advance(call.cursor, cursor, &self.shards()) {
                Next::Cursor(number) => number,
                Next::Sample => {
                    let told = self.sample(call.cursor.encode()?);
                    self.believed |= self.scans.scans.iter().any(|s| s.looks >= MAX_LOOKS);
                    self.scans.conclude(call.cursor, &told, &self.shards())
                }
                Next::TooLarge => return None,
            };
            if self.busy && next != 0 && self.rng.u8(..30) == 0 {
                // The reply is lost; the client says its cursor again.
                continue;
            }
            seen.extend(keys);
            if next == 0 {
                return Some(seen);
            }
            last = next;
        }
        None
    }

    /// A whole scan; wrong when it does not end, or misses a key.
    pub(super) fn check(mut self) -> Result<(), String> {
        let seen = self.scan().ok_or("the scan does not end")?;
        let missed: Vec<_> = (0..self.keys.len()).filter(|k| !seen.contains(k)).collect();
        let tells = self.tells;
        let excused = tells == Tells::NoCounts && self.believed;
        if missed.is_empty() || excused {
            return Ok(());
        }
        Err(format!("({tells:?}): keys {missed:?} were missed"))
    }
}

/// Runs a history that a fuzzer chose.
///
/// # Panics
/// When the scan misses a key or does not end.
#[cfg(fuzzing)]
pub fn run(bytes: &[u8]) {
    let outcome = World::with(Dice::of_bytes(bytes)).check();
    assert_eq!(outcome, Ok(()));
}
