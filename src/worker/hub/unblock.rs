//! CLIENT UNBLOCK: the node on which a client blocks is asked to end the wait, so that the node decides
//! between the end and an element that arrives at that moment, and none is lost.
//!
//! Invariant: a client's reply comes from its own connection to the node, as any other; here it is only
//! made to come. The request may overtake the blocking command, which travels on another connection:
//! a node that knows of nobody to unblock is asked again while the client still waits.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::key::Key;
use crate::resp::encode;
use crate::resp::reply::{Class, classify};
use crate::resp::request::Request;
use crate::session::window::Leg;
use crate::upstream::kind::Kind;
use crate::upstream::pipe::{Entry, Purpose, State};

use super::peers::{Answer, Asker};
use super::request::entry;
use super::{Alarm, Hub};

/// First delay before a node is asked again (ms); it doubles.
const RETRY_MIN: u64 = 2;

/// Longest such delay (ms).
const RETRY_MAX: u64 = 64;

/// A client that is being unblocked.
#[derive(Debug)]
pub(super) struct Unblocking {
    id: u32,
    asker: Asker,
    session: Key,
    /// The ticket behind its blocking command: while that stands still, it is the same command.
    ticket: u32,
    with_error: bool,
    since: u64,
    times: u32,
    /// Connections on whose nodes' replies it waits, by the entry's part.
    asked: Vec<Key>,
    /// Replies that are due.
    due: usize,
    /// Connections that were unblocked.
    done: Vec<Key>,
    /// A node's refusal.
    refusal: Option<Vec<u8>>,
}

/// Clients that are being unblocked.
#[derive(Debug, Default)]
pub(super) struct Unblockings {
    all: Vec<Unblocking>,
    next_id: u32,
}

impl Hub {
    /// Unblocks a client of this worker. `None`: the answer comes later.
    pub(super) fn unblock(
        &mut self,
        asker: Asker,
        client: i64,
        with_error: bool,
    ) -> Option<Answer> {
        let blocked = self
            .sessions
            .iter()
            .find(|(_, s)| i64::try_from(s.profile.id) == Ok(client))
            .filter(|(_, s)| s.alone && s.blocked);
        let Some((session, s)) = blocked else {
            return Some(Answer::Number(0));
        };
        let ticket = s.window.next_ticket();
        self.unblockings.next_id = self.unblockings.next_id.wrapping_add(1);
        let id = self.unblockings.next_id;
        self.unblockings.all.push(Unblocking {
            id,
            asker,
            session,
            ticket,
            with_error,
            since: self.now,
            times: 0,
            asked: Vec::new(),
            due: 0,
            done: Vec::new(),
            refusal: None,
        });
        self.try_unblock(id);
        None
    }

    /// Where the client still waits, and was not unblocked yet.
    fn legs_to_unblock(&self, u: &Unblocking) -> Vec<Leg> {
        let same = |s: &&crate::session::core::Session| {
            s.alone && s.blocked && s.window.next_ticket() == u.ticket
        };
        let Some(s) = self.sessions.get(u.session).filter(same) else {
            return Vec::new();
        };
        s.window.waiting_legs().filter(|l| l.leased && !u.done.contains(&l.pipe)).copied().collect()
    }

    /// Asks the nodes on which the client waits.
    pub(super) fn try_unblock(&mut self, id: u32) {
        let Some(at) = self.unblockings.all.iter().position(|u| u.id == id) else {
            return;
        };
        let legs = self.legs_to_unblock(&self.unblockings.all[at]);
        let mut nameless = false;
        let mut to_ask = Vec::new();
        for leg in &legs {
            let Some(pipe) = self.pipes.get(leg.pipe).filter(|p| matches!(p.state, State::Ready))
            else {
                continue;
            };
            match pipe.client_id {
                Some(client) => to_ask.push((leg.pipe, pipe.node, pipe.kind, client)),
                None => nameless = true,
            }
        }
        let u = &mut self.unblockings.all[at];
        u.times += 1;
        u.asked = to_ask.iter().map(|(pipe, ..)| *pipe).collect();
        u.due = to_ask.len();
        let how: &[u8] = if u.with_error { b"ERROR" } else { b"TIMEOUT" };
        if nameless && to_ask.is_empty() {
            let mut refusal = Vec::new();
            encode::error(
                &mut refusal,
                "ERR memorystore-auth-proxy: the node does not tell its connections' ids (CLIENT ID), so that \
                 nobody can be unblocked; nothing was done",
            );
            u.refusal = Some(refusal);
        }
        for (part, (_, node, kind, client)) in to_ask.iter().enumerate() {
            let shared = self.pipe_to(*node, Kind::from(kind.version));
            let mut frame = Vec::new();
            let client = client.to_string();
            encode::command(&mut frame, &[&b"CLIENT"[..], b"UNBLOCK", client.as_bytes(), how]);
            let entry = Entry { purpose: Purpose::Unblock, ..entry(Key::NONE, id, part as u16) };
            self.push(shared, entry, &Request::new(&frame, None, &[]));
        }
        if to_ask.is_empty() {
            self.conclude_unblock(id);
        }
    }

    /// A node's reply to CLIENT UNBLOCK.
    pub(super) fn unblock_reply(&mut self, pipe: Key, asked: &Entry, reply: &[u8]) {
        if matches!(classify(reply), Class::NoAuth) && self.credential().is_some() {
            self.reauthenticate(pipe);
            return self.unblock_lost(asked);
        }
        if let Some(u) = self.unblockings.all.iter_mut().find(|u| u.id == asked.ticket) {
            if reply.first() == Some(&b'-') {
                u.refusal = Some(reply.to_vec());
            } else if reply != b":0\r\n" {
                u.done.extend(u.asked.get(usize::from(asked.part)));
                if let Some(s) = self.sessions.get_mut(u.session)
                    && s.window.next_ticket() == u.ticket
                    && let Some(wait) = s.wait.as_deref_mut()
                {
                    wait.unblocked = true;
                }
            }
        }
        self.unblock_lost(asked);
    }

    /// A blocked client got a nil: true when that is the end of its wait because somebody unblocks it,
    /// whose reply may still be under way.
    pub(super) fn is_unblocked(&mut self, session: Key) -> bool {
        let s = self.sessions.get(session);
        if s.and_then(|s| s.wait.as_deref()).is_some_and(|w| w.unblocked) {
            return true;
        }
        let u = self.unblockings.all.iter_mut().find(|u| u.session == session && !u.with_error);
        if let Some(u) = u {
            // Whether that or the end of a turn ended it is all the same to both clients.
            u.done.push(Key::NONE);
            return true;
        }
        false
    }

    /// No (more) reply comes for this request.
    pub(super) fn unblock_lost(&mut self, asked: &Entry) {
        if let Some(u) = self.unblockings.all.iter_mut().find(|u| u.id == asked.ticket) {
            u.due = u.due.saturating_sub(1);
            if u.due == 0 {
                self.conclude_unblock(asked.ticket);
            }
        }
    }

    /// Every node that was asked has answered: answer, or ask again.
    fn conclude_unblock(&mut self, id: u32) {
        let Some(at) = self.unblockings.all.iter().position(|u| u.id == id) else {
            return;
        };
        let u = &self.unblockings.all[at];
        let over =
            u128::from(self.now.saturating_sub(u.since)) >= self.settings.op_timeout.as_millis();
        if u.refusal.is_none() && !over && !self.legs_to_unblock(u).is_empty() {
            let delay = (RETRY_MIN << u.times.min(10)).min(RETRY_MAX);
            self.set_alarm(self.now + delay, Alarm::Unblock(id));
            return;
        }
        let u = self.unblockings.all.swap_remove(at);
        let answer = match u.refusal {
            Some(refusal) if u.done.is_empty() => Answer::Refusal(refusal),
            _ => Answer::Number(i64::from(!u.done.is_empty())),
        };
        self.answer_later(u.asker, answer);
    }
}
