//! Connections a session has to itself: for commands that block, and for WATCH.
//!
//! Invariant: a lease has one owner; it goes back to its node's idle ones only when nothing is in
//! flight on it and the server holds no state of the session; a client that vanishes closes it, so
//! that a blocked node forgets the client at once.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::key::Key;
use crate::sabotage::{Promise, breaks};
use crate::session::core::Watch;
use crate::upstream::kind::Kind;
use crate::upstream::pipe::{Duty, Pipe};

use super::Hub;

/// Idle leases kept a node and kind; more are closed.
const MAX_IDLE: usize = 16;

/// Idle leases kept a node, of all kinds.
const MAX_IDLE_NODE: usize = 64;

impl Hub {
    /// The session's own connection to `node`, kept until WATCH is over.
    pub(super) fn lease(&mut self, session: Key, node: u16, kind: Kind) -> Key {
        let held = self.sessions.get(session).and_then(|s| s.lease);
        if let Some(key) = held {
            if self.pipes.get(key).is_some_and(|p| p.node == node && p.kind == kind) {
                return key;
            }
            self.end_lease(session);
            if let Some(s) = self.sessions.get_mut(session)
                && s.watch == Watch::Holds
            {
                s.watch = Watch::Lost;
            }
        }
        let key = self.borrow(node, kind);
        if let Some(p) = self.pipes.get_mut(key) {
            p.one_command = false;
        }
        if let Some(s) = self.sessions.get_mut(session) {
            s.lease = Some(key);
        }
        key
    }

    /// A connection to `node` for one command; it goes back by itself when that is answered.
    pub(super) fn borrow(&mut self, node: u16, kind: Kind) -> Key {
        let at = usize::from(node);
        // Newest first; the oldest are the first to be closed when there are too many.
        let idle = &mut self.nodes[at].idle;
        let found = idle.iter().rposition(|(k, _)| *k == kind).map(|i| idle.remove(i).1);
        let found = found.filter(|k| self.pipes.get(*k).is_some());
        if let Some(old) = found.filter(|k| self.is_too_old(*k)) {
            self.counters.retirements += 1;
            self.drop_pipe(old, "it comes near --max-connection-age");
            return self.borrow(node, kind);
        }
        let key = found.unwrap_or_else(|| {
            let mut pipe = Pipe::new(node, kind, self.now);
            pipe.duty = Duty::Lease;
            let key = self.pipes.insert_with(|_| pipe);
            self.counters.pipes_connecting += 1;
            self.try_dial(key);
            key
        });
        if let Some(p) = self.pipes.get_mut(key) {
            p.one_command = true;
        }
        key
    }

    /// The session needs its own connection no more; closing it is the surest UNWATCH.
    pub(super) fn end_lease(&mut self, session: Key) {
        if let Some(key) = self.sessions.get_mut(session).and_then(|s| s.lease.take()) {
            self.release_lease(key, false);
        }
    }

    /// The command of a borrowed connection, or the last of a retiring one, is answered.
    #[cold]
    pub(super) fn give_back(&mut self, key: Key) {
        if self.pipes.get(key).is_some_and(|p| p.retiring && p.in_flight() == 0) {
            self.drop_pipe(key, "it was retired");
            return;
        }
        if self.pipes.get(key).is_some_and(|p| p.one_command && p.in_flight() == 0) {
            self.release_lease(key, true);
        }
    }

    /// A connection without owner: kept if it can serve another session, else closed.
    pub(super) fn release_lease(&mut self, key: Key, clean: bool) {
        if !clean && breaks(Promise::Lease) {
            return;
        }
        let Some(pipe) = self.pipes.get_mut(key) else {
            return;
        };
        pipe.silent_until = 0;
        pipe.one_command = false;
        pipe.changes_db = false;
        let (node, kind) = (usize::from(pipe.node), pipe.kind);
        let idle = &mut self.nodes[node].idle;
        let of_kind = idle.iter().filter(|(k, _)| *k == kind).count();
        if !clean || pipe.in_flight() > 0 || of_kind >= MAX_IDLE {
            return self.drop_pipe(key, "its client needs it no more");
        }
        if !self.renew_lease(key) {
            return;
        }
        let idle = &mut self.nodes[node].idle;
        idle.push((kind, key));
        if idle.len() > MAX_IDLE_NODE {
            let oldest = idle[0].1;
            self.drop_pipe(oldest, "there are too many idle ones");
        }
    }
}
