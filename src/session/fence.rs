//! The order fence: commands of one session for one slot run in request order, whatever moves.
//!
//! When a command is redirected, rejected or returned by a lost connection, later commands of the
//! session for that slot must not overtake it. The fence of a slot first lets what is in flight
//! come home (*quiesce*), then sends the oldest held command alone (the *probe*), and once that one
//! is answered lets all follow that go the same way. A command routed by a newer slot map waits
//! likewise while older ones are in flight elsewhere. Invariant: a slot's held commands leave in ticket
//! order, and none leaves while a command of the slot is in flight outside of it.
//!
//! A block (MULTI … EXEC) is fenced as soon as it is sent: a node that has one of its keys and not
//! the others refuses the block, but not a later command for the key it has. What follows a block
//! waits until that is answered.
//!
//! Limit: commands already in flight behind a redirected one may run before it when the server
//! redirects by key (ASK, TRYAGAIN) and theirs is a different key of the same slot.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::redirect::Trouble;
use crate::sabotage::{Promise, breaks};

/// Where a held command goes when its turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Wherever the slot map says at that moment.
    Route,
    /// To this node (index), behind an ASKING.
    Ask(u16),
}

/// A command that waits behind a fence.
#[derive(Debug, Clone)]
pub struct Held {
    /// Its place in the session's window.
    pub ticket: u32,
    /// Part of a split command.
    pub part: u16,
    /// The request.
    pub frame: Bytes,
    /// Replies it brings, the last of which counts.
    pub replies: u32,
    /// Where it goes.
    pub target: Target,
    /// Not before this time (ms of the worker's clock).
    pub not_before: u64,
    /// Why it was taken back, and by which node (index) with which words, if it was sent before.
    pub why: Option<(Trouble, u16, Arc<str>)>,
}

impl Held {
    /// True for a block: what follows must not be sent before it is answered.
    fn is_block(&self) -> bool {
        self.replies > 1
    }
}

#[derive(Debug, Default)]
struct Fence {
    /// Commands of the slot in flight that were not sent by the fence.
    outstanding: u32,
    /// The held command that was sent alone and is not answered yet.
    probe: Option<(u32, u16, Target)>,
    /// What was sent last this way was answered: what goes the same way may follow together.
    proven: Option<Target>,
    queue: VecDeque<Held>,
}

/// What may leave now.
#[derive(Debug)]
pub enum Ready {
    /// Nothing; an event will change that.
    Nothing,
    /// Nothing before this time.
    At(u64),
    /// This one, alone.
    Probe(Held),
    /// All these, in order.
    Batch(Vec<Held>),
}

/// All fences of a session, by slot. See the module header.
#[derive(Debug, Default)]
pub struct Fences {
    slots: BTreeMap<u16, Fence>,
    /// Bytes of the commands that wait.
    bytes: usize,
}

impl Fences {
    /// True when commands of this slot must queue.
    pub fn holds(&self, slot: u16) -> bool {
        self.slots.contains_key(&slot)
    }

    /// True when no slot is fenced.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes of the commands that wait behind them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The fenced slots.
    pub fn slots(&self) -> impl Iterator<Item = u16> {
        self.slots.keys().copied()
    }

    /// Fences a slot of which `outstanding` commands are in flight.
    pub fn raise(&mut self, slot: u16, outstanding: u32) {
        self.slots.entry(slot).or_insert(Fence { outstanding, ..Fence::default() });
    }

    /// Fences a slot behind a block that was just sent, the last of `outstanding` commands in flight.
    pub fn raise_behind_block(&mut self, slot: u16, outstanding: u32) {
        let proven = Some(Target::Route);
        self.slots.entry(slot).or_insert(Fence { outstanding, proven, ..Fence::default() });
    }

    /// Queues a new command behind a fence.
    pub fn queue(&mut self, slot: u16, held: Held) {
        self.bytes += held.frame.len();
        let queue = &mut self.slots.entry(slot).or_default().queue;
        if breaks(Promise::Fence) { queue.push_front(held) } else { queue.push_back(held) }
    }

    /// Takes back a command of a fenced slot that was sent and has to be sent again.
    pub fn take_back(&mut self, slot: u16, held: Held) {
        self.bytes += held.frame.len();
        let fence = self.slots.entry(slot).or_default();
        if fence.is_probe(held.ticket, held.part) {
            fence.probe = None;
        } else {
            fence.outstanding = fence.outstanding.saturating_sub(1);
        }
        fence.proven = None;
        fence.insert(held);
    }

    /// Adds a command that was in flight when its slot was fenced just now (not counted as
    /// outstanding).
    pub fn insert(&mut self, slot: u16, held: Held) {
        self.bytes += held.frame.len();
        self.slots.entry(slot).or_default().insert(held);
    }

    /// Notes that a command of the slot got its final reply. True: see whether something may leave.
    pub fn answered(&mut self, slot: u16, ticket: u32, part: u16) -> bool {
        let Some(fence) = self.slots.get_mut(&slot) else {
            return false;
        };
        if fence.is_probe(ticket, part) {
            fence.proven = fence.probe.take().map(|(_, _, target)| target);
        } else {
            fence.outstanding = fence.outstanding.saturating_sub(1);
        }
        fence.probe.is_none() && fence.outstanding == 0
    }

    /// A command in flight turns out to be of another slot. True: see whether something of the old one
    /// may leave.
    pub fn change_slot(&mut self, from: u16, to: u16, ticket: u32, part: u16) -> bool {
        if let Some(fence) = self.slots.get_mut(&to) {
            fence.outstanding += 1;
        }
        self.answered(from, ticket, part)
    }

    /// What may leave now; the caller sends it, or gives it back with [`Fences::take_back`].
    pub fn ready(&mut self, slot: u16, now: u64) -> Ready {
        let ready = self.next(slot, now);
        self.bytes -= match &ready {
            Ready::Nothing | Ready::At(_) => 0,
            Ready::Probe(one) => one.frame.len(),
            Ready::Batch(all) => all.iter().map(|held| held.frame.len()).sum(),
        };
        ready
    }

    fn next(&mut self, slot: u16, now: u64) -> Ready {
        let Some(fence) = self.slots.get_mut(&slot) else {
            return Ready::Nothing;
        };
        if fence.probe.is_some() || fence.outstanding > 0 {
            return Ready::Nothing;
        }
        let Some(head) = fence.queue.front() else {
            self.slots.remove(&slot);
            return Ready::Nothing;
        };
        if let Some(way) = fence.proven.take_if(|way| *way == head.target) {
            let same = || fence.queue.iter().take_while(|h| h.target == way);
            let block = same().position(Held::is_block);
            let n = block.map_or_else(|| same().count(), |at| at + 1);
            let batch: Vec<Held> = fence.queue.drain(..n).collect();
            if way == Target::Route && fence.queue.is_empty() && block.is_none() {
                self.slots.remove(&slot);
            } else {
                // What went by ASK must be home before the next may go by the slot map, and so must
                // a block before anything.
                fence.outstanding = n as u32;
                fence.proven = block.map(|_| way);
            }
            return Ready::Batch(batch);
        }
        if head.not_before > now {
            return Ready::At(head.not_before);
        }
        fence.proven = None;
        match fence.queue.pop_front() {
            Some(head) => {
                fence.probe = Some((head.ticket, head.part, head.target));
                Ready::Probe(head)
            }
            None => Ready::Nothing,
        }
    }

    /// Lets delays end at once: the slot map changed.
    pub fn hurry(&mut self) {
        for fence in self.slots.values_mut() {
            if let Some(head) = fence.queue.front_mut() {
                head.not_before = 0;
            }
        }
    }
}

impl Fence {
    fn is_probe(&self, ticket: u32, part: u16) -> bool {
        self.probe.is_some_and(|(t, p, _)| (t, p) == (ticket, part))
    }

    fn insert(&mut self, held: Held) {
        let after = |h: &Held| {
            let d = h.ticket.wrapping_sub(held.ticket) as i32;
            d > 0 || (d == 0 && h.part > held.part)
        };
        let at = self.queue.iter().position(after).unwrap_or(self.queue.len());
        self.queue.insert(at, held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn held(ticket: u32) -> Held {
        Held {
            ticket,
            part: 0,
            frame: Bytes::new(),
            replies: 1,
            target: Target::Route,
            not_before: 0,
            why: None,
        }
    }

    /// A node pair around one slot: commands run when the node they reach accepts them.
    #[derive(Debug, Clone)]
    enum Event {
        New,
        /// The oldest command in flight is answered (true) or redirected (false).
        Home(bool),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![2 => Just(Event::New), 3 => any::<bool>().prop_map(Event::Home)]
    }

    proptest! {
        /// A server that redirects in runs (as MOVED does: once it redirects, it redirects all that
        /// is in flight) never sees commands of one slot out of ticket order.
        #[test]
        fn runs_in_ticket_order(events in proptest::collection::vec(event(), 1..200), base in any::<u32>()) {
            let mut fences = Fences::default();
            let mut flight: VecDeque<u32> = VecDeque::new();
            let mut ran: Vec<u32> = Vec::new();
            let mut next = base;
            let mut redirecting = 0usize;
            for e in events {
                match e {
                    Event::New => {
                        if fences.holds(1) { fences.queue(1, held(next)) } else { flight.push_back(next) }
                        next = next.wrapping_add(1);
                    }
                    Event::Home(accept) => {
                        if let Some(t) = flight.pop_front() {
                            // A run of redirects covers everything in flight behind the first.
                            if !accept && redirecting == 0 { redirecting = flight.len() + 1; }
                            if redirecting > 0 {
                                redirecting -= 1;
                                if fences.holds(1) {
                                    fences.take_back(1, held(t));
                                } else {
                                    fences.raise(1, flight.len() as u32);
                                    fences.insert(1, held(t));
                                }
                            } else {
                                ran.push(t);
                                fences.answered(1, t, 0);
                            }
                        }
                    }
                }
                match fences.ready(1, 0) {
                    Ready::Probe(h) => flight.push_back(h.ticket),
                    Ready::Batch(all) => flight.extend(all.into_iter().map(|h| h.ticket)),
                    Ready::Nothing | Ready::At(_) => {}
                }
            }
            let want: Vec<u32> = (0..ran.len() as u32).map(|i| base.wrapping_add(i)).collect();
            prop_assert_eq!(ran, want);
        }
    }

    #[test]
    fn waits_for_its_time_and_hurries() {
        let mut f = Fences::default();
        f.raise(7, 0);
        f.insert(7, Held { not_before: 50, ..held(1) });
        assert!(matches!(f.ready(7, 10), Ready::At(50)));
        f.hurry();
        assert!(matches!(f.ready(7, 10), Ready::Probe(h) if h.ticket == 1));
    }
}
