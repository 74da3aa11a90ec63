//! A connection with subscriptions is replaced by another without a message lost or doubled.
//!
//! The new connection subscribes to all the old one carries. Then a *marker* is published at their
//! node, in a shard channel that only these two are subscribed to: a node gives each message to all
//! its subscribers before the next, so the marker stands at the same place among the messages of
//! both. What comes before it is taken from the old connection, what comes behind it from the new
//! one; whichever is ahead is held back meanwhile. Invariant: until both have brought the marker,
//! the old connection carries every topic; should anything go wrong it goes on alone, and another
//! attempt is made later. A shard channel, because no pattern of anybody matches it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::HashSet;

use bytes::Bytes;

use crate::command::slot::slot;
use crate::key::Key;
use crate::resp::encode;
use crate::resp::request::Request;
use crate::session::subscriptions::{Kind, Push};
use crate::session::window::Reply;
use crate::upstream::pipe::{Duty, Entry, Purpose};

use super::request::entry;
use super::topics::in_questions;
use super::{Alarm, Hub};

/// A handover that is not done after this time (ms) is given up.
const PATIENCE_MS: u64 = 5_000;

/// A given up handover is tried again after this part of a connection's longest age.
const RETRY_PART: u64 = 8;

/// Most that is held back (bytes).
const MAX_HELD: usize = 8 << 20;

/// Names tried to find one whose slot the node owns.
const MAX_TRIES: usize = 200_000;

/// How far a handover is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The new connection subscribes to what the old one carries.
    Gather,
    /// The same for what was added meanwhile; nothing more is placed on the old one.
    Settle,
    /// The marker is on its way.
    Cut,
}

/// One connection about to follow another.
#[derive(Debug)]
pub(super) struct Handover {
    old: Key,
    new: Key,
    node: u16,
    marker: Bytes,
    phase: Phase,
    /// What the new connection was asked for, by kind.
    names: [HashSet<Bytes>; 3],
    /// Which connection has brought the marker, while the other has not.
    ahead: Option<Key>,
    /// What that one brought since.
    held: Vec<Bytes>,
    held_bytes: usize,
    ends: u64,
}

impl Hub {
    /// A connection that is to replace a subscriber is ready.
    pub(super) fn begin_handover(&mut self, old: Key, new: Key, node: u16) {
        if !self.topics.pipes.contains(&(node, old)) {
            return self.drop_pipe(new, "it is not needed");
        }
        let Some(marker) = self.marker_for(node) else {
            self.drop_pipe(new, "its node owns no slot");
            return self.plan_handover(old);
        };
        let ends = self.now + PATIENCE_MS;
        self.handovers.push(Handover {
            old,
            new,
            node,
            marker: marker.clone(),
            phase: Phase::Gather,
            names: Default::default(),
            ahead: None,
            held: Vec::new(),
            held_bytes: 0,
            ends,
        });
        self.set_alarm(ends, Alarm::Handover(new));
        self.ask(old, Kind::Shard, true, vec![marker.clone()]);
        self.ask(new, Kind::Shard, true, vec![marker]);
        self.gather_names(new);
    }

    /// A channel nobody else knows, in a slot of the node.
    fn marker_for(&mut self, node: u16) -> Option<Bytes> {
        for _ in 0..MAX_TRIES {
            let name = format!("memorystore-auth-proxy:handover:{:016x}", self.rng.u64(..));
            let owner = self.routes.get(usize::from(slot(name.as_bytes())));
            if self.is_standalone() || owner == Some(&node) {
                return Some(name.into());
            }
        }
        None
    }

    /// The old connection is to be replaced a while later.
    fn plan_handover(&mut self, old: Key) {
        let age = self.settings.max_connection_age.as_millis() as u64;
        let at = self.now + (age / RETRY_PART).max(1);
        if let Some(p) = self.pipes.get_mut(old) {
            p.retire_at = at;
            self.set_alarm(at, Alarm::Life(old));
        }
    }

    /// Asks for what the new connection lacks. False: it lacks nothing.
    fn gather_names(&mut self, new: Key) -> bool {
        let Some(h) = self.handovers.iter_mut().find(|h| h.new == new) else {
            return false;
        };
        let mut missing = self.topics.carried_by(h.old);
        missing.retain(|(kind, name)| h.names[kind.index()].insert(name.clone()));
        let lacks = !missing.is_empty();
        let missing = missing.into_iter().map(|(kind, name)| (new, kind, name)).collect();
        for (pipe, kind, names) in in_questions(missing) {
            self.ask_besides(pipe, kind, names);
        }
        lacks
    }

    /// True while nothing is to be placed on the node's subscriber.
    pub(super) fn is_settling(&self, node: u16) -> bool {
        self.handovers.iter().any(|h| h.node == node && h.phase != Phase::Gather)
    }

    fn handover_of(&self, pipe: Key) -> Option<usize> {
        self.handovers.iter().position(|h| h.old == pipe || h.new == pipe)
    }

    /// A question of one of the two was answered.
    pub(super) fn handover_answered(&mut self, pipe: Key) {
        let Some(at) = self.handover_of(pipe) else {
            return;
        };
        let (old, new) = (self.handovers[at].old, self.handovers[at].new);
        if self.topics.is_asked(new) {
            return;
        }
        if self.handovers[at].phase == Phase::Gather {
            self.handovers[at].phase = Phase::Settle;
        }
        let settled = self.handovers[at].phase == Phase::Settle
            && !self.topics.is_asked(old)
            && !self.gather_names(new);
        if settled {
            let h = &mut self.handovers[at];
            h.phase = Phase::Cut;
            let mut frame = Vec::new();
            encode::command(&mut frame, &[&b"SPUBLISH"[..], &h.marker, b""]);
            let now = self.now;
            if let Some(p) = self.pipes.get_mut(new) {
                let publish = Entry { purpose: Purpose::Discard, ..entry(Key::NONE, 0, 0) };
                p.push(publish, &Request::new(&frame, None, &[]), now);
            }
            self.mark_pipe(new);
        }
    }

    /// A message of a connection that may be part of a handover. False: it is to be delivered.
    pub(super) fn handover_takes(&mut self, pipe: Key, push: &Push<'_>, whole: &Reply<'_>) -> bool {
        let Some(at) = self.handover_of(pipe) else {
            return false;
        };
        let h = &mut self.handovers[at];
        match push {
            Push::Message(Kind::Shard, name) if *name == h.marker => {
                match h.ahead {
                    None => h.ahead = Some(pipe),
                    Some(first) if first != pipe => self.hand_over(at),
                    Some(_) => {}
                }
                true
            }
            Push::Message(..) if h.ahead == Some(pipe) => {
                let bytes = whole.as_slice();
                h.held_bytes += bytes.len();
                h.held.push(Bytes::copy_from_slice(bytes));
                if h.held_bytes > MAX_HELD {
                    self.abandon(at);
                }
                true
            }
            Push::Message(..) => pipe == h.new,
            // The node gives a shard channel up in the middle of it.
            Push::Confirmed(_, false, _) if pipe == h.new => {
                self.abandon(at);
                true
            }
            Push::Confirmed(..) | Push::Invalidate | Push::Other => false,
        }
    }

    /// Both have brought the marker: the new connection carries the topics.
    fn hand_over(&mut self, at: usize) {
        let Handover { old, new, node, marker, names, ahead, held, .. } =
            self.handovers.swap_remove(at);
        let mut stale = Vec::new();
        for kind in Kind::ALL {
            let gone = |name: &Bytes| self.topics.get(kind, name).is_none_or(|t| t.pipe != old);
            let names = names[kind.index()].iter().filter(|name| gone(name));
            stale.extend(names.map(|name| (new, kind, name.clone())));
        }
        self.topics.hand_over(node, old, new);
        for (pipe, kind, names) in in_questions(stale) {
            self.ask(pipe, kind, false, names);
        }
        self.ask(new, Kind::Shard, false, vec![marker]);
        if ahead == Some(new) {
            self.deliver_held(new, held);
        }
        self.counters.retirements += 1;
        self.drop_pipe(old, "it reached --max-connection-age");
    }

    fn deliver_held(&mut self, pipe: Key, held: Vec<Bytes>) {
        for message in held {
            self.pushed(pipe, Duty::Subscriber, Reply::Shared(message));
        }
    }

    /// It did not work: the old connection goes on.
    fn abandon(&mut self, at: usize) {
        let new = self.handovers[at].new;
        self.drop_pipe(new, "it could not take the subscriptions over");
    }

    /// The time of a handover may be over.
    pub(super) fn end_handover(&mut self, new: Key) {
        let late = |h: &Handover| h.new == new && h.ends <= self.now;
        if let Some(at) = self.handovers.iter().position(late) {
            self.abandon(at);
        }
    }

    /// The node refused a question that a handover asked. False: another's.
    pub(super) fn handover_refused(&mut self, pipe: Key) -> bool {
        let Some(at) = self.handover_of(pipe) else {
            return false;
        };
        let h = &self.handovers[at];
        let mine = pipe == h.new || self.topics.is_about(pipe, &h.marker);
        if mine {
            let _ = self.topics.refuse(pipe);
            self.abandon(at);
        }
        mine
    }

    /// A subscriber is gone.
    pub(super) fn handover_lost(&mut self, pipe: Key) {
        let Some(at) = self.handover_of(pipe) else {
            return;
        };
        let Handover { old, new, marker, ahead, held, .. } = self.handovers.swap_remove(at);
        self.topics.dirty = true;
        if pipe == old {
            // What it carried is asked for anew, on a connection of its own.
            return self.drop_pipe(new, "the connection it was to follow is lost");
        }
        if ahead == Some(old) {
            self.deliver_held(old, held);
        }
        self.ask(old, Kind::Shard, false, vec![marker]);
        self.plan_handover(old);
    }
}
