//! What happens to commands that were redirected, rejected, or lost with their connection.
//!
//! Invariant: `session::redirect` decides, the session's fences keep the order, and every troubled
//! command ends in exactly one of: sent again, or answered with an error that says what happened.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::cluster::refresh::Reason;
use crate::cluster::topology::UNASSIGNED;
use crate::command::spec::{Handler, Row, Transaction, flag};
use crate::key::Key;
use crate::resp::request::Request;
use crate::session::fence::{Held, Ready, Target};
use crate::session::local;
use crate::session::redirect::{Action, Facts, Failure, Trouble, Wait, decide};
use crate::session::window::{READ_LANE, Reply};
use crate::upstream::kind::Kind;
use crate::upstream::pipe::{Entry, Purpose};

use super::databases::is_select;
use super::request::{block_entry, entry};
use super::{Alarm, Hub, Troubled};

/// First delay of a retry with backoff (ms).
const RETRY_MIN: u64 = 2;

/// Longest delay between retries (ms).
const RETRY_MAX: u64 = 300;

/// A node that answers a blocking command after this time (ms) has not refused it: it blocked.
const BLOCKED: u64 = 500;

impl Hub {
    /// One troubled command.
    pub(super) fn handle(&mut self, mut t: Troubled) {
        self.restart_blocked(&t);
        let expired = self.is_expired(t.session, t.ticket);
        let waited_out = self.has_waited_out(t.session);
        if t.trouble == Trouble::NoRoute && self.lacks_replica(&t) {
            t.trouble = Trouble::Replica;
            t.said = "no replica of the slot's shard is known".into();
        }
        let Some(s) = self.sessions.get_mut(t.session) else {
            return;
        };
        // A SELECT may be said twice as well.
        let harmless = |r: &'static Row| r.flags & flag::READONLY != 0 || is_select(r);
        let readonly = s.window.row(t.ticket).is_some_and(harmless);
        let is_exec = s
            .window
            .row(t.ticket)
            .is_some_and(|r| r.handler == Handler::Transaction(Transaction::Exec));
        let Some(p) = s.window.leg_mut(t.ticket, t.part) else {
            return;
        };
        if is_exec && p.watching && t.trouble != (Trouble::Lost { sent: true }) {
            return self.watched_exec_failed(t.session, t.ticket);
        }
        if (is_exec || t.replies > 1) && t.trouble == Trouble::Ask {
            // ASKING holds for one command, not for a block: wait until the slot has arrived.
            t.trouble = Trouble::TryAgain;
        }
        let facts = Facts {
            readonly,
            redirects: p.redirects,
            max_redirects: self.settings.max_redirects,
            expired,
        };
        let action = decide(t.trouble, facts);
        let ran = action == Action::Fail(Failure::MaybeExecuted);
        if waited_out && !ran && self.answer_in_vain(t.session, t.ticket, t.part) {
            return;
        }
        match action {
            Action::Fail(failure) => self.give_up(t, failure),
            Action::Retry { wait, refresh } => {
                let s = self.sessions.get_mut(t.session);
                let Some(p) = s.and_then(|s| s.window.leg_mut(t.ticket, t.part)) else {
                    return;
                };
                p.attempts = p.attempts.saturating_add(1);
                if matches!(t.trouble, Trouble::Moved | Trouble::Ask) {
                    p.redirects = p.redirects.saturating_add(1);
                }
                let (slot, attempts, redirects) = (p.slot, p.attempts, p.redirects);
                if refresh {
                    self.want_refresh(&t);
                }
                self.count_retry(t.trouble);
                let not_before = match wait {
                    Wait::No => 0,
                    Wait::Backoff => {
                        let delay = self.retry_delay(attempts);
                        self.now + delay.max(self.redirect_delay(t.session, t.ticket, redirects))
                    }
                };
                let target = match (t.trouble, t.ask) {
                    (Trouble::Ask, Some(node)) => Target::Ask(node),
                    _ => Target::Route,
                };
                let held = Held {
                    ticket: t.ticket,
                    part: t.part,
                    frame: t.frame,
                    replies: t.replies,
                    target,
                    not_before,
                    why: Some((t.trouble, t.node, t.said)),
                };
                self.put_behind_fence(t.session, slot, held);
            }
        }
    }

    /// A command that was blocked when its trouble came was not refused for all that time: only now
    /// it begins to look for a node.
    fn restart_blocked(&mut self, t: &Troubled) {
        let patience = BLOCKED.min(self.settings.op_timeout.as_millis() as u64);
        let Some(s) = self.sessions.get_mut(t.session) else {
            return;
        };
        let was_sent = !matches!(t.trouble, Trouble::NoRoute | Trouble::Lost { sent: false });
        let blocked = s.wait.as_deref().is_some_and(|w| self.now >= w.sent_at + patience);
        if was_sent && blocked {
            s.window.restart(t.ticket, self.now);
            if let Some(leg) = s.window.leg_mut(t.ticket, t.part) {
                leg.attempts = 0;
                leg.redirects = 0;
            }
        }
    }

    /// The time of a blocking command is over while no node has it. False: only a server can answer.
    fn answer_in_vain(&mut self, session: Key, ticket: u32, part: u16) -> bool {
        let reply = self.sessions.get(session).and_then(|s| {
            s.window.row(ticket).and_then(|row| local::waited_in_vain(row, s.version))
        });
        if let Some(reply) = reply {
            self.deliver(&entry(session, ticket, part), Reply::Borrowed(reply));
        }
        reply.is_some()
    }

    fn put_behind_fence(&mut self, session: Key, slot: u16, held: Held) {
        let Some(s) = self.sessions.get_mut(session) else {
            return;
        };
        if s.fences.as_deref().is_some_and(|f| f.holds(slot)) {
            if let Some(f) = s.fences.as_deref_mut() {
                f.take_back(slot, held);
            }
        } else {
            // It waits for a reply, but is not in flight itself.
            let outstanding = s.in_flight_of(slot).saturating_sub(1);
            let fences = s.fences.get_or_insert_default();
            fences.raise(slot, outstanding);
            fences.insert(slot, held);
        }
        self.pump_fence(session, slot);
    }

    fn retry_delay(&mut self, attempts: u8) -> u64 {
        let ceiling = (RETRY_MIN << attempts.min(10)).min(RETRY_MAX);
        RETRY_MIN + self.rng.u64(0..ceiling)
    }

    /// What is left of a command's redirects is spread over what is left of its time: nodes that name
    /// each other agree again when the owner's next heartbeat has reached the other.
    fn redirect_delay(&self, session: Key, ticket: u32, redirects: u8) -> u64 {
        let max = self.settings.max_redirects;
        let since = self.sessions.get(session).and_then(|s| s.window.since(ticket));
        let Some(since) = since.filter(|_| redirects > max / 2) else {
            return 0;
        };
        let age = (self.now as u32).wrapping_sub(since);
        let left = (self.settings.op_timeout.as_millis() as u64).saturating_sub(u64::from(age));
        left / u64::from(max.saturating_sub(redirects).max(1))
    }

    fn want_refresh(&mut self, t: &Troubled) {
        let reason = match t.trouble {
            // The address was learnt from the reply; the watcher may know more by now.
            Trouble::Moved => {
                let slot =
                    self.sessions.get(t.session).and_then(|s| s.window.slot(t.ticket, t.part));
                let node = slot.and_then(|s| self.routes.get(usize::from(s)));
                match node.and_then(|&n| self.nodes.get(usize::from(n))) {
                    Some(node) => Reason::Moved { slot, addr: node.addr.clone() },
                    None => Reason::ClusterDown,
                }
            }
            Trouble::Lost { .. } => Reason::NodeLost,
            _ => Reason::ClusterDown,
        };
        self.work.refresh = Some(reason);
    }

    fn count_retry(&mut self, trouble: Trouble) {
        let c = &mut self.counters;
        match trouble {
            Trouble::Moved | Trouble::Ask => {}
            Trouble::TryAgain => c.retries_tryagain += 1,
            Trouble::ClusterDown => c.retries_clusterdown += 1,
            Trouble::Loading => c.retries_loading += 1,
            Trouble::RoleChanged => c.retries_role += 1,
            Trouble::NoAuth => c.retries_noauth += 1,
            Trouble::Lost { .. } => c.retries_lost += 1,
            Trouble::NoRoute => {
                c.retries_noroute += 1;
                // Without one the slot map cannot be read.
                self.work.wants_credential |= self.has_no_credential();
            }
            Trouble::NoScript => c.retries_noscript += 1,
            Trouble::Replica => c.retries_replica += 1,
        }
    }

    /// Tells the client why its command will not be answered by a server.
    fn give_up(&mut self, t: Troubled, failure: Failure) {
        let timeout = humantime(self.settings.op_timeout);
        let node = self.node_name(t.node);
        let said = &t.said;
        let text = match failure {
            Failure::MaybeExecuted => {
                self.counters.fail_maybe_executed += 1;
                format!(
                    "ERR memorystore-auth-proxy: the connection to {node} ended after the command was sent, \
                     so it may have been executed: {said}"
                )
            }
            Failure::TooManyRedirects => {
                self.counters.fail_redirects += 1;
                format!(
                    "ERR memorystore-auth-proxy: gave up after {} redirects, the last by {node}: the nodes \
                     do not agree who owns the slot; the command was not executed",
                    self.settings.max_redirects
                )
            }
            Failure::Deadline(trouble) => {
                self.counters.fail_deadline += 1;
                match trouble {
                    Trouble::Lost { sent: true } => format!(
                        "ERR memorystore-auth-proxy: no reply from {node} within {timeout} (--op-timeout): {said}"
                    ),
                    Trouble::Lost { sent: false } => format!(
                        "ERR memorystore-auth-proxy: {node} could not be reached within {timeout} (--op-timeout); \
                         the command was not executed: {said}"
                    ),
                    Trouble::NoRoute => format!(
                        "CLUSTERDOWN memorystore-auth-proxy: no node for this slot was found within {timeout} \
                         (--op-timeout); the command was not executed: {}",
                        self.no_route_cause()
                    ),
                    Trouble::ClusterDown => format!(
                        "CLUSTERDOWN memorystore-auth-proxy: {node} refused the command for {timeout} \
                         (--op-timeout); it was not executed: {said}"
                    ),
                    Trouble::Moved | Trouble::Ask => format!(
                        "ERR memorystore-auth-proxy: followed redirects for {timeout} (--op-timeout), the last \
                         by {node}: the nodes do not agree who owns the slot; the command was not executed: {said}"
                    ),
                    Trouble::Loading => format!(
                        "LOADING memorystore-auth-proxy: {node} was still loading its dataset after {timeout} \
                         (--op-timeout); the command was not executed"
                    ),
                    Trouble::Replica => format!(
                        "ERR memorystore-auth-proxy: no replica could answer within {timeout} (--op-timeout), and \
                         --read-from=replica asks no primary; the command was not executed: {said}"
                    ),
                    _ => format!(
                        "ERR memorystore-auth-proxy: {node} refused the command for {timeout} (--op-timeout); \
                         it was not executed: {said}"
                    ),
                }
            }
        };
        self.fail(t.session, t.ticket, t.part, &text);
    }

    /// Lets go what a session's fences allow, all slots.
    pub(super) fn pump_fences(&mut self, session: Key) {
        let Some(f) = self.sessions.get(session).and_then(|s| s.fences.as_deref()) else {
            return;
        };
        for slot in f.slots().collect::<Vec<u16>>() {
            self.pump_fence(session, slot);
        }
    }

    /// Lets go what the fence of one slot allows.
    pub(super) fn pump_fence(&mut self, session: Key, slot: u16) {
        let now = self.now;
        let Some(fences) = self.sessions.get_mut(session).and_then(|s| s.fences.as_deref_mut())
        else {
            return;
        };
        let ready = fences.ready(slot, now);
        if fences.is_empty()
            && let Some(s) = self.sessions.get_mut(session)
        {
            s.fences = None;
        }
        match ready {
            Ready::Nothing => {}
            Ready::At(at) => self.set_alarm(at, Alarm::Fence(session, slot)),
            Ready::Probe(held) => self.send_held(session, slot, held),
            Ready::Batch(all) => {
                for held in all {
                    self.send_held(session, slot, held);
                }
            }
        }
    }

    /// Sends a held command, or troubles it again when there is no route for it.
    pub(super) fn send_held(&mut self, session: Key, slot: u16, held: Held) {
        let Some(s) = self.sessions.get_mut(session) else {
            return;
        };
        let (kind, tracks) = (s.kind(), s.tracks());
        if self.has_waited_out(session) && self.answer_in_vain(session, held.ticket, held.part) {
            return;
        }
        if self.is_expired(session, held.ticket) {
            let routed = self.routes.get(usize::from(slot & !READ_LANE));
            let node = routed.copied().unwrap_or(UNASSIGNED);
            let said = "commands before it were not answered in time";
            let why = held.why.clone().or(Some((Trouble::Lost { sent: false }, node, said.into())));
            return self.trouble_held(session, Held { why, ..held });
        }
        let leased = self
            .sessions
            .get_mut(session)
            .and_then(|s| s.window.leg_mut(held.ticket, held.part))
            .is_some_and(|leg| leg.leased);
        let pipe = match held.target {
            Target::Route if leased => {
                let node = self.node_for(session, slot);
                node.map(|n| self.lend(session, &held, n, kind))
            }
            Target::Ask(node) if leased => Some(self.lend(session, &held, node, kind)),
            Target::Route if tracks => self.tracking_pipe_for(session, slot),
            Target::Ask(node) if tracks => Some(self.tracking_pipe(session, node)),
            Target::Route => self.pipe_for(session, slot, kind),
            Target::Ask(node) => Some(self.pipe_to(node, kind)),
        };
        let Some(pipe) = pipe else {
            // Without a node there is nothing to be said but that; the delay is its own.
            return self.trouble_held(session, Held { why: None, ..held });
        };
        let frame = if leased { self.for_the_rest(session, &held) } else { held.frame };
        if let Some(row) = self.sessions.get(session).and_then(|s| s.window.row(held.ticket))
            && row.handler == Handler::Script
        {
            self.tell_script_of(pipe, row, &frame);
        }
        let now = self.now;
        let s = self.sessions.get_mut(session);
        if let Some(leg) = s.and_then(|s| s.window.leg_mut(held.ticket, held.part)) {
            leg.pipe = pipe;
        }
        if let Some(p) = self.pipes.get_mut(pipe) {
            if matches!(held.target, Target::Ask(_)) {
                let asking = Entry { purpose: Purpose::Discard, ..entry(Key::NONE, 0, 0) };
                p.push(asking, &Request::new(b"*1\r\n$6\r\nASKING\r\n", None, &[]), now);
            }
            let entry = block_entry(session, held.ticket, held.part, held.replies);
            p.push_bytes(entry, frame, now);
        }
        self.mark_pipe(pipe);
        self.start_ticking();
    }

    /// A connection of its own for a held command that had one before.
    fn lend(&mut self, session: Key, held: &Held, node: u16, kind: Kind) -> Key {
        let row = self.sessions.get(session).and_then(|s| s.window.row(held.ticket));
        if row.is_some_and(|r| r.handler == Handler::Transaction(Transaction::Watch)) {
            return self.lease(session, node, kind);
        }
        let pipe = self.borrow(node, kind);
        self.allow_silence(session, pipe);
        let exec = Handler::Transaction(Transaction::Exec);
        if row.is_some_and(|r| r.handler == exec || is_select(r))
            && let Some(p) = self.pipes.get_mut(pipe)
        {
            p.changes_db = true;
        }
        pipe
    }

    /// A held command that cannot be sent: for want of a node, or because its time is over.
    fn trouble_held(&mut self, session: Key, held: Held) {
        let (trouble, node, said) = held.why.unwrap_or_else(|| {
            (Trouble::NoRoute, UNASSIGNED, "no node is known for this slot".into())
        });
        self.troubled.push(Troubled {
            session,
            ticket: held.ticket,
            part: held.part,
            frame: held.frame,
            replies: held.replies,
            trouble,
            node,
            ask: None,
            said,
        });
    }
}

/// A duration as a user would write it.
pub(super) fn humantime(d: std::time::Duration) -> String {
    if d.as_millis().is_multiple_of(1000) {
        format!("{}s", d.as_secs())
    } else {
        format!("{}ms", d.as_millis())
    }
}
