//! When to look at the cluster again, and whom to ask.
//!
//! Invariant: never two refreshes at once, never one sooner after the last than the current gap;
//! every request is answered by a refresh that *starts* after it (one already under way may have
//! read the old map). The clock and the random numbers are handed in. It asks nobody itself.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::{Duration, Instant};

use super::discovery::SlotMap;
use super::topology::{NodeAddr, Topology};

/// Why the map may be out of date. Carries nothing secret: a slot number, never a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A node answered MOVED.
    Moved {
        /// The slot, when the caller has it at hand.
        slot: Option<u16>,
        /// Its owner by that node's word.
        addr: NodeAddr,
    },
    /// A node cannot be reached, or its connections ended.
    NodeLost,
    /// A node answered CLUSTERDOWN, or READONLY where a primary was expected.
    ClusterDown,
    /// Whom to ask first became known, or changed.
    Seeds,
}

/// Bounds of the schedule.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Mean time between periodic refreshes; each waits 0.8 to 1.2 times this.
    pub period: Duration,
    /// Shortest time from the start of one refresh to the next.
    pub min_gap: Duration,
    /// Longest the gap grows while requested refreshes bring nothing new: half a cluster that keeps
    /// answering MOVED to a stale map is not asked ten times a second.
    pub max_idle_gap: Duration,
    /// Longest the gap grows while refreshes fail.
    pub max_failure_gap: Duration,
}

impl Policy {
    /// Google's own samples: full jitter from 100 ms to 5 s, a refresh a minute by default.
    pub fn new(period: Duration) -> Self {
        Self {
            period,
            min_gap: Duration::from_millis(100),
            max_idle_gap: Duration::from_secs(1),
            max_failure_gap: Duration::from_secs(5),
        }
    }
}

/// What a refresh came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A new map.
    Changed,
    /// The map that was known.
    Unchanged,
    /// No map; try again soon.
    Failed,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Refresh now.
    Refresh,
    /// Nothing before this moment, unless a request comes.
    WaitUntil(Instant),
    /// One is under way; wait for its outcome.
    InFlight,
}

/// At most this many MOVED targets are remembered between two refreshes.
const MAX_HINTS: usize = 8;

/// When the next refresh is due.
#[derive(Debug)]
pub struct Schedule {
    policy: Policy,
    next_periodic: Instant,
    not_before: Instant,
    requested: bool,
    in_flight: bool,
    failures: u32,
    unchanged: u32,
    last_start: Instant,
    hints: Vec<Hint>,
}

impl Schedule {
    /// The first refresh is due at once.
    pub fn new(policy: Policy, now: Instant) -> Self {
        Self {
            policy,
            next_periodic: now,
            not_before: now,
            requested: false,
            in_flight: false,
            failures: 0,
            unchanged: 0,
            last_start: now,
            hints: Vec::new(),
        }
    }

    /// Notes that someone met a sign of an old map; many requests become one refresh.
    pub fn request(&mut self, reason: Reason) {
        self.requested = true;
        if let Reason::Moved { slot, addr } = reason {
            // One hint a node is enough: its whole view is asked for. The newest slot counts.
            self.hints.retain(|known| known.addr != addr);
            if self.hints.len() == MAX_HINTS {
                self.hints.remove(0);
            }
            self.hints.push(Hint { slot, addr });
        }
    }

    /// What is due at `now`.
    pub fn next(&self, now: Instant) -> Action {
        if self.in_flight {
            return Action::InFlight;
        }
        let due =
            if self.requested { self.not_before } else { self.next_periodic.max(self.not_before) };
        if due <= now { Action::Refresh } else { Action::WaitUntil(due) }
    }

    /// A refresh starts: takes the requests so far, and the MOVED targets they named.
    pub fn start(&mut self, now: Instant) -> Vec<Hint> {
        self.in_flight = true;
        self.requested = false;
        self.last_start = now;
        std::mem::take(&mut self.hints)
    }

    /// The refresh under way ended; `random` lies in `[0, 1)`.
    pub fn finish(&mut self, outcome: Outcome, now: Instant, random: f64) {
        self.in_flight = false;
        let policy = &self.policy;
        match outcome {
            Outcome::Failed => {
                self.failures = self.failures.saturating_add(1);
                let ceiling = doubled(policy.min_gap, self.failures, policy.max_failure_gap);
                // From now, not from the start: a refresh that timed out took long enough already,
                // but the next must not follow on its heels.
                self.not_before = now + policy.min_gap.max(ceiling.mul_f64(random.clamp(0.0, 1.0)));
                self.next_periodic = self.not_before;
            }
            Outcome::Changed | Outcome::Unchanged => {
                self.failures = 0;
                self.unchanged =
                    if outcome == Outcome::Changed { 0 } else { self.unchanged.saturating_add(1) };
                let gap =
                    doubled(policy.min_gap, self.unchanged.saturating_sub(1), policy.max_idle_gap);
                self.not_before = self.last_start + gap;
                self.next_periodic =
                    now + policy.period.mul_f64(0.8 + 0.4 * random.clamp(0.0, 1.0));
            }
        }
    }

    /// Lets the next refresh start at once: what made the last one fail is gone (a new credential).
    pub fn hurry(&mut self, now: Instant) {
        if self.failures > 0 {
            self.not_before = now;
            self.next_periodic = now;
        }
    }

    /// Puts the next refresh off until `at`: nothing asked sooner could succeed (AUTH backs off).
    pub fn not_before(&mut self, at: Instant) {
        self.not_before = self.not_before.max(at);
        self.next_periodic = self.next_periodic.max(at);
    }

    /// True when a refresh was requested and none has started since.
    pub fn is_requested(&self) -> bool {
        self.requested
    }
}

/// `base` doubled `times` times, at most `max`.
fn doubled(base: Duration, times: u32, max: Duration) -> Duration {
    base.saturating_mul(1 << times.min(20)).min(max)
}

/// Whom to ask, in this order: the seeds; then the known primaries; then the known replicas, the
/// latter two each in random order, so that a fleet does not fall upon one node. Those in `avoid`
/// (they failed a moment ago) come last. `random(n)` gives a number in `0..n`.
pub fn candidates(
    seeds: &[NodeAddr],
    known: Option<&Topology>,
    avoid: &[NodeAddr],
    mut random: impl FnMut(usize) -> usize,
) -> Vec<NodeAddr> {
    let mut order: Vec<NodeAddr> = Vec::new();
    let mut append = |nodes: Vec<NodeAddr>| {
        for node in nodes {
            if !order.contains(&node) {
                order.push(node);
            }
        }
    };
    append(seeds.to_vec());
    if let Some(known) = known {
        let mut primaries: Vec<_> = known.shards.iter().map(|s| s.primary.clone()).collect();
        let mut replicas: Vec<_> = known.shards.iter().flat_map(|s| s.replicas.clone()).collect();
        for nodes in [&mut primaries, &mut replicas] {
            for i in (1..nodes.len()).rev() {
                nodes.swap(i, random(i + 1).min(i));
            }
        }
        append(primaries);
        append(replicas);
    }
    // Stable: within both halves the order stays.
    order.sort_by_key(|node| avoid.contains(node));
    order
}

/// What a MOVED said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// The slot, if the requester named it.
    pub slot: Option<u16>,
    /// Its owner.
    pub addr: NodeAddr,
}

impl Hint {
    /// True when `map` says the same.
    fn confirmed_by(&self, map: &SlotMap) -> bool {
        match self.slot {
            Some(slot) => map.owner(slot) == Some(&self.addr),
            None => map.shards.iter().any(|shard| shard.primary == self.addr),
        }
    }
}

/// The first hint that `map` does not confirm: its node knows better and is asked too.
pub fn unconfirmed<'a>(hints: &'a [Hint], map: &SlotMap) -> Option<&'a Hint> {
    hints.iter().find(|hint| !hint.confirmed_by(map))
}

/// Chooses between the map a candidate gave and the one a hint's node gave: the latter counts when
/// it confirms the redirect and does not know less of the cluster.
pub fn prefer(map: SlotMap, hinted: SlotMap, hint: &Hint) -> SlotMap {
    if hint.confirmed_by(&hinted) && hinted.slots_covered() >= map.slots_covered() {
        hinted
    } else {
        map
    }
}

#[cfg(test)]
#[path = "refresh_tests.rs"]
mod tests;
