//! From a node's bytes to a session: find the reply's end, its owner, and its class.
//!
//! Invariant: every reply belongs to the oldest entry of its pipe; a reply whose session is gone is
//! dropped; one that is not for the client becomes trouble and is handled after the read.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::buffer::{LARGE, room};
use crate::command::spec::Handler;
use crate::key::Key;
use crate::resp::encode;
use crate::resp::reply::{Class, classify};
use crate::resp::request::{Request, fill_args};
use crate::resp::scan::ReplyScan;
use crate::session::core::{Closing, Rewrite};
use crate::session::local;
use crate::session::redirect::Trouble;
use crate::session::scripts::Teller;
use crate::session::window::Reply;
use crate::upstream::handshake::{self, Progress};
use crate::upstream::pipe::{self, Duty, Entry, Purpose, State};

use super::databases::is_select;
use super::{Hub, Troubled};

/// From this size on (bytes) it is asked whether a reply that is coming in is still wanted.
const WATCHED: usize = 64 * 1024;

/// How often a script command is sent again before its NOSCRIPT is believed.
const MAX_TOLD: u8 = 3;

/// What ends a pipe while its bytes are read.
enum Broken {
    NotResp,
    Unasked,
    Refused(handshake::Refusal),
}

impl Hub {
    /// A node sent bytes.
    pub fn pipe_data(&mut self, key: Key, data: &[u8]) {
        self.counters.upstream_bytes_in += data.len() as u64;
        let Some(p) = self.pipes.get_mut(key) else {
            return;
        };
        p.progress_at = self.now;
        let outcome = if p.is_skipping() {
            self.skip(key, data)
        } else if p.has_input() {
            let mut input = p.take_input();
            input.extend_from_slice(data);
            self.consume_buffered(key, input)
        } else {
            self.consume(key, data)
        };
        let now_us = self.now_us;
        let p = self.pipes.get_mut(key).filter(|p| p.silent_until == 0);
        if let Some(us) = p.and_then(|p| p.stop_timing(now_us)) {
            self.work.latencies.push(us);
        }
        match outcome {
            Ok(()) => {}
            Err(Broken::NotResp) => self.pipe_lost(key, "the node sent bytes that are not RESP"),
            Err(Broken::Unasked) => self.pipe_lost(key, "the node sent a reply nobody asked for"),
            Err(Broken::Refused(refusal)) => self.pipe_refused(key, &refusal),
        }
        self.settle();
        self.weigh_pipe(key);
    }

    /// Replies that stand in the read buffer: small ones are copied once, to the client's queue.
    fn consume(&mut self, key: Key, data: &[u8]) -> Result<(), Broken> {
        let mut at = 0;
        while at < data.len() {
            let Some(p) = self.pipes.get_mut(key) else {
                return Ok(());
            };
            match p.scan(&data[at..]) {
                Ok(ReplyScan::Complete(n)) => {
                    self.reply(key, Reply::Borrowed(&data[at..at + n]))?;
                    at += n;
                }
                Ok(ReplyScan::Partial(need)) => {
                    let rest = &data[at..];
                    let wanted = need < WATCHED || self.wants(key, data[at], need);
                    let Some(p) = self.pipes.get_mut(key) else {
                        return Ok(());
                    };
                    if !wanted {
                        return p.begin_skip(rest).map_err(|_| Broken::NotResp);
                    }
                    let mut input = BytesMut::with_capacity(rest.len() + room(need, rest.len()));
                    input.extend_from_slice(rest);
                    p.keep_input(input);
                    return Ok(());
                }
                Err(_) => return Err(Broken::NotResp),
            }
        }
        Ok(())
    }

    /// The same with a reply that began in an earlier read; a large one is moved, not copied.
    fn consume_buffered(&mut self, key: Key, mut input: BytesMut) -> Result<(), Broken> {
        while !input.is_empty() {
            let Some(p) = self.pipes.get_mut(key) else {
                return Ok(());
            };
            match p.scan(&input) {
                Ok(ReplyScan::Complete(n)) if n >= LARGE => {
                    if let Some(shared) = pipe::split_shared(&mut input, n) {
                        self.reply(key, Reply::Shared(shared))?;
                    }
                }
                Ok(ReplyScan::Complete(n)) => {
                    let head = input.split_to(n);
                    self.reply(key, Reply::Borrowed(&head))?;
                }
                Ok(ReplyScan::Partial(need)) => {
                    let first = input.first().copied().unwrap_or_default();
                    let wanted = need < WATCHED || self.wants(key, first, need);
                    let Some(p) = self.pipes.get_mut(key) else {
                        return Ok(());
                    };
                    if !wanted {
                        return p.begin_skip(&input).map_err(|_| Broken::NotResp);
                    }
                    // Never let a small rest pin a large allocation.
                    if input.len() < LARGE && need <= LARGE {
                        input = BytesMut::from(&input[..]);
                    }
                    input.reserve(room(need, input.len()));
                    p.keep_input(input);
                    return Ok(());
                }
                Err(_) => return Err(Broken::NotResp),
            }
        }
        Ok(())
    }

    /// True when the reply that is coming in, of which the first byte and the size so far are told, is
    /// to be kept.
    fn wants(&mut self, key: Key, first: u8, size: usize) -> bool {
        let Some(p) = self.pipes.get(key).filter(|p| matches!(p.state, State::Ready)) else {
            return true;
        };
        let asked = p.oldest().filter(|e| first != b'>' && e.due == 1);
        match asked.copied() {
            Some(e) if e.purpose == Purpose::Forward => match self.sessions.get_mut(e.session) {
                Some(s) => s.window.arriving(e.ticket, e.part, size),
                None => false,
            },
            _ => true,
        }
    }

    /// More of a reply that is not wanted, and what comes behind it.
    #[cold]
    fn skip(&mut self, key: Key, data: &[u8]) -> Result<(), Broken> {
        let Some(p) = self.pipes.get_mut(key) else {
            return Ok(());
        };
        match p.skip(data) {
            Ok(None) => Ok(()),
            Ok(Some(n)) => {
                // Whoever asked is gone, or drops what is said here.
                self.reply(key, Reply::Borrowed(b"+\r\n"))?;
                self.consume(key, data.get(n..).unwrap_or_default())
            }
            Err(_) => Err(Broken::NotResp),
        }
    }

    /// One whole reply of a pipe.
    #[inline]
    fn reply(&mut self, key: Key, reply: Reply<'_>) -> Result<(), Broken> {
        let Some(p) = self.pipes.get_mut(key) else {
            return Ok(());
        };
        let first = reply.as_slice().first().copied();
        if first == Some(b'>') {
            let duty = p.duty;
            self.pushed(key, duty, reply);
            return Ok(());
        }
        if let State::Handshaking(_) = p.state {
            return self.handshake_reply(key, reply.as_slice());
        }
        if p.take_inner() {
            // A reply inside a block: +OK, +QUEUED, or the reason why the block will be refused.
            if first == Some(b'-') && p.refused_in_block.is_none() {
                let line = reply.as_slice();
                p.refused_in_block = Some((classify(line), line.into()));
            }
            return Ok(());
        }
        let Some(entry) = p.pop() else {
            if let Duty::Monitor(session) = p.duty {
                self.monitored(session, reply);
                return Ok(());
            }
            return Err(Broken::Unasked);
        };
        if entry.purpose == Purpose::Forward && first != Some(b'-') {
            p.refused_in_block = None;
            if p.one_command || p.changes_db {
                self.lent_reply(key, &entry, reply);
                return Ok(());
            }
            if p.kind.readonly {
                self.replica_reply(key, &entry, reply);
                self.give_back(key);
                return Ok(());
            }
            p.release(&entry);
            let retiring = p.retiring;
            self.deliver(&entry, reply);
            if retiring {
                self.give_back(key);
            }
            return Ok(());
        }
        self.unusual_reply(key, entry, reply);
        self.give_back(key);
        Ok(())
    }

    /// The reply of a connection that was lent for one command.
    #[cold]
    fn lent_reply(&mut self, key: Key, entry: &Entry, reply: Reply<'_>) {
        if crate::command::merge::is_null(reply.as_slice()) && self.waits_on(key, entry) {
            return;
        }
        if self.pipes.get(key).is_some_and(|p| p.changes_db) {
            self.database_changed(key, entry, reply.as_slice());
        }
        if let Some(p) = self.pipes.get_mut(key) {
            p.release(entry);
        }
        self.deliver(entry, reply);
        self.give_back(key);
        self.forget_cached(entry.session);
    }

    /// Hands a final reply to its session.
    #[inline]
    pub(super) fn deliver(&mut self, entry: &Entry, reply: Reply<'_>) {
        let Some(s) = self.sessions.get_mut(entry.session) else {
            return;
        };
        self.counters.replies += 1;
        if let Some(f) = s.fences.as_deref_mut()
            && let Some(slot) = s.window.slot(entry.ticket, entry.part)
            && f.answered(slot, entry.ticket, entry.part)
        {
            self.unfenced.push((entry.session, slot));
        }
        if s.out.unsent() + s.window.holds_bytes() > self.settings.max_client_output {
            // Redis's client-output-buffer-limit: a client that does not read is let go. So is one
            // whose replies pile up behind one that does not come.
            if s.closing != Closing::Now {
                s.closing = Closing::Now;
                self.counters.closed_output += 1;
            }
        } else {
            match s.rewrite.take().map(|rewrite| *rewrite) {
                None => {
                    s.window.fill(entry.ticket, entry.part, reply, &mut s.out);
                }
                Some(Rewrite::Scan(scanning)) => self.scan_reply(scanning, entry, reply),
                Some(Rewrite::Exec(own)) => {
                    let whole = self.exec_reply(entry.session, &own, reply.as_slice());
                    let reply = whole.map_or(reply, |r| Reply::Shared(r.into()));
                    let Some(s) = self.sessions.get_mut(entry.session) else {
                        return;
                    };
                    s.window.fill(entry.ticket, entry.part, reply, &mut s.out);
                }
            }
        }
        let Some(s) = self.sessions.get_mut(entry.session) else {
            return;
        };
        if !s.dirty {
            s.dirty = true;
            s.active_at = self.now;
            self.work.sessions.push(entry.session);
        }
        if s.alone && s.window.is_empty() {
            self.end_alone(entry.session);
        } else if !s.resuming && (s.read_paused || !s.input.is_empty()) && s.may_resume() {
            s.resuming = true;
            self.resuming.push(entry.session);
        }
    }

    /// Errors, and replies that are not for a client.
    #[cold]
    fn unusual_reply(&mut self, key: Key, entry: Entry, reply: Reply<'_>) {
        let Some(p) = self.pipes.get_mut(key) else {
            return;
        };
        match entry.purpose {
            Purpose::Discard => p.release(&entry),
            Purpose::Subscribe => {
                p.release(&entry);
                self.subscription_refused(key, reply.as_slice());
            }
            Purpose::Reauth => {
                p.release(&entry);
                p.reauthenticating = false;
                self.reauthenticated(key, reply.as_slice());
            }
            Purpose::Learn => {
                p.release(&entry);
                self.told(key, entry.ticket, reply.as_slice());
            }
            Purpose::Unblock => {
                p.release(&entry);
                self.unblock_reply(key, &entry, reply.as_slice());
            }
            Purpose::Forward => {
                let (class, line) = match p.refused_in_block.take() {
                    // EXECABORT follows; the reason is what counts.
                    Some((class, line)) if Trouble::of(&class).is_some() => (class, Some(line)),
                    _ => (classify(reply.as_slice()), None),
                };
                let Some(trouble) = Trouble::of(&class) else {
                    if self.refused_otherwise(key, &entry, reply.as_slice()) {
                        return;
                    }
                    let Some(p) = self.pipes.get_mut(key) else {
                        return;
                    };
                    p.release(&entry);
                    self.deliver(&entry, reply);
                    return;
                };
                let frame = p.request_of(&entry);
                p.release(&entry);
                let Some(frame) = frame else {
                    // Cannot happen while the pipe keeps what it sent; the client gets the error.
                    self.deliver(&entry, reply);
                    return;
                };
                let line = line.as_deref().unwrap_or(reply.as_slice());
                self.rejected(key, &entry, frame, &class, trouble, line);
            }
        }
    }

    /// Refusals a client library does not expect, and scripts a node does not know. True: done.
    fn refused_otherwise(&mut self, key: Key, entry: &Entry, line: &[u8]) -> bool {
        let Some(row) = self.sessions.get(entry.session).and_then(|s| s.window.row(entry.ticket))
        else {
            return false;
        };
        let cluster = self.is_cluster();
        let Some(p) = self.pipes.get_mut(key) else {
            return false;
        };
        if p.kind.readonly && line.starts_with(b"-ERR no such key") {
            if !self.doubt(key, entry, line) {
                return false;
            }
            if let Some(p) = self.pipes.get_mut(key) {
                p.release(entry);
            }
            return true;
        }
        if row.handler == Handler::Script && line.starts_with(b"-NOSCRIPT") {
            let node = p.node;
            let Some(frame) = p.request_of(entry) else {
                return false;
            };
            let mut args = Vec::new();
            fill_args(&frame, &mut args);
            let request = Request::new(&frame, None, &args);
            let told = self.scripts.body(request.arg(1));
            let known = told.is_some_and(|(_, teller)| !self.comes_later(entry, teller));
            let s = self.sessions.get_mut(entry.session);
            let leg = s.and_then(|s| s.window.leg_mut(entry.ticket, entry.part));
            // A node that forgets what it was told just now will do so again.
            let Some(leg) = leg.filter(|leg| known && leg.told < MAX_TOLD) else {
                return false;
            };
            leg.told += 1;
            // It was not executed: it is sent again, behind the script.
            self.scripts.forget_on(request.arg(1), node);
            if let Some(p) = self.pipes.get_mut(key) {
                p.release(entry);
            }
            self.troubled.push(Troubled {
                session: entry.session,
                ticket: entry.ticket,
                part: entry.part,
                frame,
                replies: entry.replies,
                trouble: Trouble::NoScript,
                node,
                ask: None,
                said: "NOSCRIPT".into(),
            });
            return true;
        }
        if is_select(row) && cluster {
            // It was said before the proxy knew what is behind it.
            p.release(entry);
            let mut out = Vec::new();
            encode::error(&mut out, local::ONE_DATABASE);
            self.deliver(entry, Reply::Borrowed(&out));
            return true;
        }
        if row.name == "config|get" && is_refusal(line) {
            let version = p.kind.version;
            let Some(frame) = p.request_of(entry) else {
                return false;
            };
            p.release(entry);
            let mut args = Vec::new();
            fill_args(&frame, &mut args);
            let mut out = Vec::new();
            local::config_get(&Request::new(&frame, None, &args), version, &mut out);
            self.deliver(entry, Reply::Borrowed(&out));
            return true;
        }
        false
    }

    /// True when the script was only told by a command that stands behind this one in its pipeline.
    fn comes_later(&self, entry: &Entry, (session, ticket): Teller) -> bool {
        session == entry.session
            && (ticket.wrapping_sub(entry.ticket) as i32) > 0
            && self.sessions.get(session).is_some_and(|s| s.window.since(ticket).is_some())
    }

    /// A server refused a command in a way the client shall not see.
    fn rejected(
        &mut self,
        key: Key,
        entry: &Entry,
        frame: Bytes,
        class: &Class,
        trouble: Trouble,
        line: &[u8],
    ) {
        let Some(node) = self.pipes.get(key).map(|p| p.node) else {
            return;
        };
        let mut ask = None;
        let said: Arc<str> =
            String::from_utf8_lossy(line.get(1..).unwrap_or_default()).trim_end().into();
        if self.pipes.get(key).is_some_and(|p| p.kind.readonly) && trouble.concerns_node() {
            return self.replica_refused(key, entry, frame, class, said);
        }
        match class {
            Class::Moved(redirect) => {
                self.counters.moved += 1;
                let asked = self.nodes[usize::from(node)].addr.clone();
                self.learn_moved(redirect.slot, redirect.addr(&asked));
                self.correct_slot(entry, redirect.slot);
            }
            Class::Ask(redirect) => {
                self.counters.ask += 1;
                let asked = self.nodes[usize::from(node)].addr.clone();
                ask = Some(self.node_index(&redirect.addr(&asked)));
                self.correct_slot(entry, redirect.slot);
            }
            Class::NoAuth => {
                self.counters.noauth += 1;
                if self.credential().is_none() {
                    // There is nothing to authenticate with, and a retry would change nothing.
                    let text = format!(
                        "NOAUTH memorystore-auth-proxy: {} wants AUTH, but the proxy was told to send none \
                         (--no-iam-auth); drop that flag, or give --upstream-password-file",
                        self.node_name(node)
                    );
                    return self.fail(entry.session, entry.ticket, entry.part, &text);
                }
                if let Some(p) = self.pipes.get_mut(key) {
                    p.unauthenticated = true;
                }
                if entry.replies > 1 {
                    // The server may be left inside MULTI, where it would queue an AUTH.
                    self.retire(key);
                } else {
                    self.reauthenticate(key);
                }
            }
            _ => {}
        }
        self.troubled.push(Troubled {
            session: entry.session,
            ticket: entry.ticket,
            part: entry.part,
            frame,
            replies: entry.replies,
            trouble,
            node,
            ask,
            said,
        });
    }

    /// A node redirects by another slot than the command was thought to have: the node is right. Keys
    /// that no specification describes are found so.
    fn correct_slot(&mut self, entry: &Entry, slot: u16) {
        let Some(s) = self.sessions.get_mut(entry.session) else {
            return;
        };
        let Some(old) = s.window.slot(entry.ticket, entry.part).filter(|&old| old != slot) else {
            return;
        };
        let row = s.window.row(entry.ticket);
        if row.is_some_and(|r| matches!(r.handler, Handler::Gather(_))) {
            // Its slot names a shard.
            return;
        }
        if let Some(f) = s.fences.as_deref_mut()
            && f.change_slot(old, slot, entry.ticket, entry.part)
        {
            self.unfenced.push((entry.session, old));
        }
        if let Some(leg) = s.window.leg_mut(entry.ticket, entry.part) {
            leg.slot = slot;
        }
    }

    fn handshake_reply(&mut self, key: Key, reply: &[u8]) -> Result<(), Broken> {
        let Some(p) = self.pipes.get_mut(key) else {
            return Ok(());
        };
        let State::Handshaking(handshake) = &mut p.state else {
            return Ok(());
        };
        match handshake.on_reply(reply) {
            Progress::Pending => {}
            Progress::Ready => self.pipe_ready(key),
            Progress::Refused(refusal) => return Err(Broken::Refused(refusal)),
        }
        Ok(())
    }

    /// The reply to an in-band AUTH.
    fn reauthenticated(&mut self, key: Key, reply: &[u8]) {
        let now = self.now;
        let Some(p) = self.pipes.get_mut(key) else {
            return;
        };
        match handshake::auth_refusal(reply) {
            None => {
                p.credential = p.tried_credential;
                p.unauthenticated = false;
                p.authenticated_at = now;
                self.counters.auth_ok += 1;
                self.auth_accepted(key);
            }
            // A failed AUTH leaves the old authentication in force.
            Some(refusal) if !p.unauthenticated => self.renewal_refused(key, &refusal),
            Some(refusal) => self.authentication_lost(key, &refusal),
        }
    }

    /// Text of the error reply when a command cannot be completed.
    pub(super) fn fail(&mut self, session: Key, ticket: u32, part: u16, text: &str) {
        self.counters.error_replies += 1;
        let mut line = Vec::new();
        crate::resp::encode::error(&mut line, text);
        let entry = super::request::entry(session, ticket, part);
        self.deliver(&entry, Reply::Borrowed(&line));
    }

    /// What a node is called in an error reply.
    pub(super) fn node_name(&self, node: u16) -> Arc<str> {
        self.nodes
            .get(usize::from(node))
            .map_or_else(|| "the cluster".into(), |n| n.addr.to_string().into())
    }
}

/// A managed server's way to say that a command is not for its users.
pub(super) fn is_refusal(line: &[u8]) -> bool {
    line.starts_with(b"-NOPERM") || line.starts_with(b"-ERR unknown ")
}
