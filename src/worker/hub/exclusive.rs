//! Commands that need more of a session than a place in its window: MULTI, EXEC, WATCH, and those
//! that block.
//!
//! Invariant: WATCH, a blocking command, and an EXEC that ends a WATCH run alone: all replies before
//! them are out before they start, and nothing behind them is parsed until they are answered. That
//! is what a server does with one client, and it keeps the order between a session's lease and the
//! shared pipes.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use bytes::Bytes;

use crate::cluster::topology::UNASSIGNED;
use crate::command::keys::{self, KeySlot};
use crate::command::merge::Merge;
use crate::command::spec::{Handler, KeyShape, Local, Row, Transaction as Tx, flag};
use crate::key::Key;
use crate::resp::Version;
use crate::resp::request::{Request, fill_args};
use crate::session::core::{Rewrite, Wait, Watch};
use crate::session::fence::{Held, Target};
use crate::session::local;
use crate::session::transaction::Transaction;
use crate::session::window::NO_SLOT;
use crate::upstream::pipe::{Entry, Pipe, State};

use super::Hub;
use super::databases;
use super::request::block_entry;

/// What stands before WAIT: see `gather`.
pub(super) const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

const CROSSSLOT: &str = "CROSSSLOT Keys in request don't hash to the same slot";

/// Most bytes one transaction may gather before EXEC.
const MAX_TRANSACTION: usize = 512 << 20;

impl Hub {
    /// MULTI, EXEC, DISCARD, WATCH, UNWATCH outside of a transaction. False: wait first.
    pub(super) fn transaction(
        &mut self,
        key: Key,
        row: &'static Row,
        what: Tx,
        request: &Request<'_>,
    ) -> bool {
        if !local::arity_fits(row, request.len()) {
            if what == Tx::Exec {
                self.abort_exec(key, &local::wrong_arity(row.name));
            } else {
                self.refuse(key, &local::wrong_arity(row.name));
            }
            return true;
        }
        match what {
            Tx::Multi => {
                if let Some(s) = self.sessions.get_mut(key) {
                    s.transaction = Some(Box::default());
                    s.answer(b"+OK\r\n");
                }
                self.mark_session(key);
            }
            Tx::Exec => self.refuse(key, "ERR EXEC without MULTI"),
            Tx::Discard => self.refuse(key, "ERR DISCARD without MULTI"),
            Tx::Unwatch => {
                self.unwatch(key);
                self.ok(key);
            }
            Tx::Watch => return self.watch(key, row, request),
        }
        true
    }

    /// EXEC that is refused: an error that ends the transaction.
    pub(super) fn abort_exec(&mut self, key: Key, error: &str) {
        self.unwatch(key);
        if let Some(s) = self.sessions.get_mut(key) {
            s.transaction = None;
        }
        let why = error.strip_prefix("ERR ").unwrap_or(error);
        self.refuse(key, &format!("EXECABORT Transaction discarded because of: {why}"));
    }

    pub(super) fn ok(&mut self, key: Key) {
        if let Some(s) = self.sessions.get_mut(key) {
            s.answer(b"+OK\r\n");
        }
        self.mark_session(key);
    }

    /// True when the session has to wait for the replies before this command.
    pub(super) fn must_be_alone(&mut self, key: Key) -> bool {
        match self.sessions.get_mut(key) {
            Some(s) if !s.window.is_empty() => {
                s.waits_for_empty = true;
                true
            }
            Some(s) => {
                s.waits_for_empty = false;
                false
            }
            None => false,
        }
    }

    /// Any command while the session is in MULTI. False: wait first.
    pub(super) fn request_in_multi(
        &mut self,
        key: Key,
        row: Option<&'static Row>,
        request: &Request<'_>,
    ) -> bool {
        let Some(row) = row else {
            if request.arg(0).contains(&b'.') {
                // A module's, perhaps; if the server does not know it, EXEC will say so.
                self.queue(key, None, NO_SLOT, request);
            } else {
                self.refuse_queued(key, &local::unknown_command(request));
            }
            return true;
        };
        match row.handler {
            Handler::Transaction(Tx::Exec) if request.len() > 1 => {
                self.abort_exec(key, &local::wrong_arity(row.name));
                return true;
            }
            Handler::Transaction(_) if !local::arity_fits(row, request.len()) => {
                self.refuse_queued(key, &local::wrong_arity(row.name));
                return true;
            }
            Handler::Transaction(Tx::Exec) => return self.exec(key, row),
            Handler::Transaction(Tx::Discard) => {
                self.unwatch(key);
                if let Some(s) = self.sessions.get_mut(key) {
                    s.transaction = None;
                }
                self.ok(key);
                return true;
            }
            Handler::Transaction(Tx::Multi) => {
                self.refuse(key, "ERR MULTI calls can not be nested");
                return true;
            }
            Handler::Transaction(Tx::Watch) => {
                self.refuse(key, "ERR WATCH inside MULTI is not allowed");
                return true;
            }
            Handler::Local(what @ (Local::Quit | Local::Reset)) => {
                return self.local(key, row, what, request);
            }
            _ => {}
        }
        if !local::arity_fits(row, request.len()) {
            self.refuse_queued(key, &local::wrong_arity(row.name));
        } else if row.container && request.len() > 1 {
            self.refuse_queued(key, &local::bare_container(row, request));
        } else if row.flags & flag::NO_MULTI != 0 {
            self.refuse_queued(key, "ERR Command not allowed inside a transaction");
        } else if let Some(text) = local::kills_node(row, request) {
            self.refuse_queued(key, &text);
        } else if databases::is_select(row) && self.is_standalone() {
            if let Some(t) = self.sessions.get_mut(key).and_then(|s| s.transaction.as_deref_mut()) {
                t.note_select();
            }
            self.queue(key, Some(row), NO_SLOT, request);
        } else if super::exec::is_own(row.handler) {
            self.queue_own(key, request);
        } else if !may_be_queued(row.handler, self.is_standalone()) {
            let text = format!(
                "ERR memorystore-auth-proxy: '{}' concerns the connection or the whole cluster and cannot \
                 be part of a transaction, which runs on one node",
                row.name.replace('|', " ")
            );
            self.refuse_queued(key, &text);
        } else {
            match keys::key_slot(row, request) {
                KeySlot::One(slot) => self.queue(key, Some(row), slot, request),
                KeySlot::None => self.queue(key, Some(row), NO_SLOT, request),
                KeySlot::Cross if self.is_standalone() => self.queue(key, Some(row), 0, request),
                KeySlot::Cross => self.refuse_queued(key, CROSSSLOT),
            }
        }
        true
    }

    fn queue(&mut self, key: Key, row: Option<&Row>, slot: u16, request: &Request<'_>) {
        let standalone = self.is_standalone();
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        let watched = s.watched_slot;
        let Some(t) = &mut s.transaction else {
            return;
        };
        let slot = if standalone && slot != NO_SLOT { 0 } else { slot };
        if let Some(digest) = row.and_then(|row| super::scripts::digest(row, request)) {
            t.runs_script(digest);
        }
        let elsewhere = watched.is_some_and(|w| slot != NO_SLOT && slot != w && !standalone);
        if elsewhere || !t.queue(slot, request) {
            self.refuse_queued(key, CROSSSLOT);
        } else {
            self.queued(key);
        }
    }

    /// Says so, unless the transaction has become too large.
    pub(super) fn queued(&mut self, key: Key) {
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        if s.transaction.as_deref().is_some_and(|t| t.len() > MAX_TRANSACTION) {
            self.refuse_queued(key, "ERR memorystore-auth-proxy: the transaction is too large");
        } else {
            s.answer(b"+QUEUED\r\n");
            self.mark_session(key);
        }
    }

    /// Refuses a command in MULTI: EXEC will answer EXECABORT.
    pub(super) fn refuse_queued(&mut self, key: Key, text: &str) {
        if let Some(t) = self.sessions.get_mut(key).and_then(|s| s.transaction.as_mut()) {
            t.fail();
        }
        self.refuse(key, text);
    }

    /// EXEC. False: wait first.
    fn exec(&mut self, key: Key, row: &'static Row) -> bool {
        let watching = self.sessions.get(key).is_some_and(|s| s.watched_slot.is_some());
        let transaction = self.sessions.get(key).and_then(|s| s.transaction.as_deref());
        let has_own = transaction.is_some_and(|t| t.has_own() && !t.has_failed());
        let selects = transaction.is_some_and(|t| t.selects() && !t.has_failed());
        if (watching || has_own || selects) && self.must_be_alone(key) {
            return false;
        }
        let Some(s) = self.sessions.get_mut(key) else {
            return true;
        };
        let Some(transaction) = s.transaction.take() else {
            return true;
        };
        let slot = transaction.slot();
        if transaction.has_failed() {
            self.unwatch(key);
            self.refuse(key, "EXECABORT Transaction discarded because of previous errors.");
            return true;
        }
        if watching {
            self.exec_watched(key, row, *transaction);
        } else if selects {
            self.exec_selecting(key, row, transaction.into_block());
        } else if has_own {
            let block = self.block_of(*transaction, self.node_of_slot(slot));
            self.exec_with_own(key, row, block);
        } else if transaction.is_empty() {
            s.answer(b"*0\r\n");
            self.mark_session(key);
        } else {
            let block = self.block_of(*transaction, self.node_of_slot(slot));
            let request = Request::new(&block.frame, Some(&block.frame), &[]);
            self.dispatch(key, Some(row), block.slot, &request, block.replies);
            self.fence_block(key, block.slot);
        }
        true
    }

    /// Has later commands of the slot wait for the block that was just sent.
    fn fence_block(&mut self, key: Key, slot: u16) {
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        if slot == NO_SLOT || s.fences.as_deref().is_some_and(|f| f.holds(slot)) {
            return;
        }
        let outstanding = s.in_flight_of(slot);
        s.fences.get_or_insert_default().raise_behind_block(slot, outstanding);
    }

    /// True when a command that looks at all keys, or at all that a script may, has to wait: commands
    /// before it may stand behind a fence, and it must not overtake them.
    #[cold]
    pub(super) fn waits_for_fences(
        &mut self,
        key: Key,
        row: Option<&'static Row>,
        request: &Request<'_>,
    ) -> bool {
        let sees_all = row.is_some_and(|row| match row.handler {
            Handler::Gather(_) => true,
            Handler::Forward | Handler::Script => {
                matches!(keys::key_slot(row, request), KeySlot::None)
            }
            _ => false,
        });
        sees_all && self.must_be_alone(key)
    }

    /// EXEC on the connection that WATCHes.
    fn exec_watched(&mut self, key: Key, row: &'static Row, transaction: Transaction) {
        let now = self.now;
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        let slot = s.watched_slot.take().unwrap_or(NO_SLOT);
        let lease = s.lease.unwrap_or(Key::NONE);
        let watch = std::mem::replace(&mut s.watch, Watch::First);
        // Since HELLO its replies would be of the other protocol.
        let version = s.version;
        let serves = |p: &Pipe| matches!(p.state, State::Ready) && p.kind.version == version;
        if watch == Watch::Lost || !self.pipes.get(lease).is_some_and(serves) {
            // The connection that watched is gone: as if a watched key had changed.
            self.end_lease(key);
            return self.answer_nil_exec(key);
        }
        // From here on the connection serves this one command.
        s.lease = None;
        s.alone = true;
        s.blocked = false;
        if let Some(p) = self.pipes.get_mut(lease) {
            p.one_command = true;
            p.changes_db = transaction.selects();
        }
        let node = self.pipes.get(lease).map(|p| p.node);
        let block = self.block_of(transaction, node);
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        if !block.own.is_empty() {
            s.rewrite = Some(Box::new(Rewrite::Exec(block.own)));
        }
        let ticket = s.window.open(Some(row), slot, lease, block.frame.len(), now);
        if let Some(leg) = s.window.leg_mut(ticket, 0) {
            leg.leased = true;
            leg.watching = true;
        }
        let request = Request::new(&block.frame, Some(&block.frame), &[]);
        self.push(lease, block_entry(key, ticket, 0, block.replies), &request);
    }

    fn answer_nil_exec(&mut self, key: Key) {
        if let Some(s) = self.sessions.get_mut(key) {
            let nil: &[u8] = if s.version == Version::V3 { b"_\r\n" } else { b"*-1\r\n" };
            s.answer(nil);
        }
        self.mark_session(key);
    }

    /// WATCH. False: wait first.
    fn watch(&mut self, key: Key, row: &'static Row, request: &Request<'_>) -> bool {
        if self.must_be_alone(key) {
            return false;
        }
        let slot = match keys::key_slot(row, request) {
            KeySlot::One(slot) => slot,
            KeySlot::Cross if self.is_standalone() => 0,
            KeySlot::None | KeySlot::Cross => {
                self.refuse(key, CROSSSLOT);
                return true;
            }
        };
        let slot = if self.is_standalone() { 0 } else { slot };
        let watched = self.sessions.get(key).and_then(|s| s.watched_slot);
        if watched.is_some_and(|w| w != slot) {
            self.refuse(key, CROSSSLOT);
            return true;
        }
        if let Some(s) = self.sessions.get_mut(key) {
            s.watched_slot = Some(slot);
            s.blocked = false;
            if watched.is_some() && s.watch == Watch::First {
                s.watch = Watch::Holds;
            }
        }
        self.dispatch_leased(key, row, slot, request, Loan::Watch);
        true
    }

    /// Forgets what the session watches.
    pub(super) fn unwatch(&mut self, key: Key) {
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        if s.watched_slot.take().is_none() {
            return;
        }
        s.watch = Watch::First;
        // Closing the connection is the surest UNWATCH; the idle ones make up for the dial.
        self.end_lease(key);
    }

    /// A command that blocks. False: wait first.
    pub(super) fn blocking(&mut self, key: Key, row: &'static Row, request: &Request<'_>) -> bool {
        let slot = match keys::key_slot(row, request) {
            KeySlot::One(slot) => slot,
            KeySlot::None => NO_SLOT,
            KeySlot::Cross if self.is_standalone() => 0,
            KeySlot::Cross => {
                self.refuse(key, CROSSSLOT);
                return true;
            }
        };
        let keyless = slot == NO_SLOT && row.shape != KeyShape::Debug && !row.is_learned();
        if keyless || !local::arity_fits(row, request.len()) {
            // Not well formed: a node answers at once, with the right words.
            self.dispatch(key, Some(row), slot, request, 1);
            return true;
        }
        if self.must_be_alone(key) {
            return false;
        }
        if let Some(s) = self.sessions.get_mut(key) {
            s.blocked = true;
        }
        self.dispatch_leased(key, row, slot, request, Loan::OneCommand);
        true
    }

    /// Sends a command on a connection of the session's own.
    fn dispatch_leased(
        &mut self,
        key: Key,
        row: &'static Row,
        slot: u16,
        request: &Request<'_>,
        loan: Loan,
    ) {
        let now = self.now;
        let node = self.node_for(key, slot);
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        let kind = s.kind();
        s.alone = true;
        s.wait = match loan {
            Loan::Watch => None,
            Loan::OneCommand => wait_of(row, request, now),
        };
        let ticket = s.window.open(Some(row), slot, Key::NONE, request.frame.len(), now);
        if let Some(leg) = s.window.leg_mut(ticket, 0) {
            leg.leased = true;
        }
        let Some(node) = node else {
            return self.no_route(key, ticket, 0, request.to_bytes(), 1);
        };
        let lease = match loan {
            Loan::Watch => self.lease(key, node, kind),
            Loan::OneCommand => self.borrow(node, kind),
        };
        if let Some(leg) = self.sessions.get_mut(key).and_then(|s| s.window.leg_mut(ticket, 0)) {
            leg.pipe = lease;
        }
        self.allow_silence(key, lease);
        let wait = self.sessions.get(key).and_then(|s| s.wait.as_deref());
        match wait.filter(|w| w.ends < w.until) {
            Some(w) => {
                let mut frame = Vec::new();
                local::with_timeout(row, request, (w.ends - now).max(1), &mut frame);
                let request = Request::new(&frame, None, &[]);
                self.push(lease, block_entry(key, ticket, 0, 1), &request);
            }
            None => self.push(lease, block_entry(key, ticket, 0, 1), request),
        }
    }

    /// The node a command of the session for `slot` goes to.
    pub(super) fn node_for(&self, session: Key, slot: u16) -> Option<u16> {
        match self.routes.get(usize::from(slot)) {
            Some(&node) => Some(node).filter(|&n| n != UNASSIGNED),
            None => self.any_node(session),
        }
    }

    /// Sends one frame of several replies to each of `slots`, each on a connection of its own.
    #[allow(clippy::too_many_arguments, reason = "what a command in parts is made of")]
    pub(super) fn dispatch_parts_leased(
        &mut self,
        key: Key,
        row: &'static Row,
        slots: &[u16],
        merge: Merge,
        frame: &[u8],
        replies: u32,
        request: &Request<'_>,
    ) {
        let now = self.now;
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        let (version, kind) = (s.version, s.kind());
        s.alone = true;
        s.blocked = true;
        s.wait = wait_of(row, request, now);
        let ticket = s.window.open_parts(Some(row), slots, merge, version, frame.len(), now);
        for (i, &slot) in slots.iter().enumerate() {
            let part = i as u16;
            let node = self.node_for(key, slot);
            let pipe = node.map(|n| self.borrow(n, kind));
            let leg = self.sessions.get_mut(key).and_then(|s| s.window.leg_mut(ticket, part));
            if let Some(leg) = leg {
                leg.leased = true;
                leg.pipe = pipe.unwrap_or(Key::NONE);
            }
            match pipe {
                None => {
                    let frame = bytes::Bytes::copy_from_slice(frame);
                    self.no_route(key, ticket, part, frame, replies);
                }
                Some(pipe) => {
                    self.allow_silence(key, pipe);
                    let entry = block_entry(key, ticket, part, replies);
                    self.push(pipe, entry, &Request::new(frame, None, &[]));
                }
            }
        }
    }

    /// Lets a connection that takes a blocking command now be silent for as long as that may wait.
    pub(super) fn allow_silence(&mut self, session: Key, lease: Key) {
        let now = self.now;
        let may_block_until = self.may_block_until(lease).max(now + 1);
        let wait = self.sessions.get_mut(session).and_then(|s| s.wait.as_deref_mut());
        let ends = wait.map_or(0, |w| {
            w.sent_at = now;
            w.ends = if w.in_turns { w.until.min(may_block_until) } else { w.until };
            w.ends
        });
        if let Some(p) = self.pipes.get_mut(lease) {
            p.silent_until = ends;
        }
    }

    /// A lent connection answered nil: true if only its own time was over, and the command waits on,
    /// on this or another one.
    pub(super) fn waits_on(&mut self, pipe: Key, entry: &Entry) -> bool {
        let now = self.now;
        if self.is_unblocked(entry.session) {
            return false;
        }
        let Some(s) = self.sessions.get_mut(entry.session) else {
            return false;
        };
        let in_turns = s.wait.as_deref().is_some_and(|w| w.ends < w.until && now < w.until);
        let Some(slot) = s.window.slot(entry.ticket, entry.part).filter(|_| in_turns) else {
            return false;
        };
        s.window.restart(entry.ticket, now);
        let Some(p) = self.pipes.get_mut(pipe) else {
            return false;
        };
        let Some(frame) = p.request_of(entry) else {
            return false;
        };
        p.release(entry);
        self.give_back(pipe);
        let (ticket, part) = (entry.ticket, entry.part);
        let held = Held {
            ticket,
            part,
            frame,
            replies: entry.replies,
            target: Target::Route,
            not_before: 0,
            why: None,
        };
        self.send_held(entry.session, slot, held);
        true
    }

    /// The frame of a blocking command that is sent again: it waits for the rest of its time.
    pub(super) fn for_the_rest(&self, session: Key, held: &Held) -> Bytes {
        let s = self.sessions.get(session);
        let wait = s.and_then(|s| s.wait.as_deref());
        // Without an end it goes as it came, unless it was given one for a turn.
        let ends = wait.filter(|w| w.ends != u64::MAX || w.in_turns).map(|w| w.ends);
        let row = s.and_then(|s| s.window.row(held.ticket));
        let (Some(row), Some(ends)) = (row, ends) else {
            return held.frame.clone();
        };
        // Of a block only the last command may block; it stands behind a PING.
        let blocking = held.frame.strip_prefix(PING).unwrap_or(&held.frame);
        let mut out = held.frame[..held.frame.len() - blocking.len()].to_vec();
        let mut args = Vec::new();
        fill_args(blocking, &mut args);
        let left = if ends == u64::MAX { 0 } else { ends.saturating_sub(self.now).max(1) };
        local::with_timeout(row, &Request::new(blocking, None, &args), left, &mut out);
        out.into()
    }

    /// The command that ran alone is answered: the session goes on.
    pub(super) fn end_alone(&mut self, key: Key) {
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        s.alone = false;
        s.blocked = false;
        s.wait = None;
        if !s.resuming {
            s.resuming = true;
            self.resuming.push(key);
        }
    }

    /// An EXEC that ends a WATCH did not run because its slot moved or its connection is gone.
    pub(super) fn watched_exec_failed(&mut self, key: Key, ticket: u32) {
        let version = self.sessions.get(key).map_or(Version::V2, |s| s.version);
        let nil: &[u8] = if version == Version::V3 { b"_\r\n" } else { b"*-1\r\n" };
        self.end_lease(key);
        self.deliver(&block_entry(key, ticket, 0, 1), crate::session::window::Reply::Borrowed(nil));
    }
}

/// When a blocking command has to be answered; `None`: it is not well formed, and will be at once.
fn wait_of(row: &Row, request: &Request<'_>, now: u64) -> Option<Box<Wait>> {
    let until = match local::block_timeout_ms(row, request)? {
        0 => u64::MAX,
        ms => now.saturating_add(ms),
    };
    let in_turns = local::may_wait_in_turns(row, request);
    Some(Box::new(Wait { until, sent_at: now, ends: until, in_turns, unblocked: false }))
}

/// For how long a connection is taken.
enum Loan {
    /// Until EXEC, DISCARD or UNWATCH.
    Watch,
    /// Until the command is answered.
    OneCommand,
}

/// Commands that one node can run inside a transaction for any client.
fn may_be_queued(handler: Handler, standalone: bool) -> bool {
    match handler {
        Handler::Forward
        | Handler::Split
        | Handler::Blocking
        | Handler::Script
        | Handler::Publish
        | Handler::Transaction(Tx::Unwatch) => true,
        Handler::Local(what) => matches!(what, Local::Ping | Local::Echo) || what.is_any_nodes(),
        // There, one node is all.
        Handler::Gather(_) | Handler::Scan | Handler::OneServer => standalone,
        _ => false,
    }
}
