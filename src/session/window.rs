//! Replies in request order: a deque of pending tickets, filled in any order, flushed from the front.
//!
//! Invariant: `flush` hands replies out in ticket order, each exactly once; a ticket that was
//! flushed, or never issued, is ignored by `fill`. Early replies wait in one buffer, so that a
//! pipeline over several shards allocates nothing per reply. It does not know sockets or nodes.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::VecDeque;

use bytes::Bytes;

use crate::buffer::{ByteQueue, LARGE};
use crate::command::merge::Merge;
use crate::command::spec::Row;
use crate::key::Key;
use crate::resp::Version;

use super::composite::Composite;

/// The early-reply buffer is compacted when it has grown beyond this (bytes).
const COMPACT: usize = 256 * 1024;

/// The early-reply buffer is given back when idle and larger than this (bytes).
const KEEP: usize = 16 * 1024;

/// Slot of a command that has no key.
pub const NO_SLOT: u16 = crate::cluster::topology::SLOTS as u16;

/// Set in the slot of a read that may go to a replica. Such reads are a lane of their own: commands
/// for the primary neither wait for them nor hold them up.
pub const READ_LANE: u16 = 1 << 15;

/// A reply in one of the two shapes it travels in.
#[derive(Debug)]
pub enum Reply<'a> {
    /// Bytes in somebody's read buffer: copied.
    Borrowed(&'a [u8]),
    /// A large reply: moved by reference.
    Shared(Bytes),
}

impl Reply<'_> {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Reply::Borrowed(b) => b,
            Reply::Shared(b) => b,
        }
    }
}

#[derive(Debug)]
enum State {
    Waiting,
    Early { at: u32, len: u32 },
    Shared(Box<Bytes>),
    Pieces(Box<Pieces>),
    Parts(Box<Composite>),
}

/// A reply in pieces, named so that the state of a command stays two words.
#[derive(Debug)]
struct Pieces(Vec<Bytes>);

impl Pieces {
    /// Bytes of them all.
    fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }
}

/// Where a command, or one part of it, was sent.
#[derive(Debug, Clone, Copy)]
pub struct Leg {
    /// The pipe it was last dispatched to.
    pub pipe: Key,
    /// Its hash slot, or [`NO_SLOT`]; with [`READ_LANE`] if a replica may answer it.
    pub slot: u16,
    /// How often it was sent again, redirects included.
    pub attempts: u8,
    /// How many redirects it followed.
    pub redirects: u8,
    /// How often its node did not know its script.
    pub told: u8,
    /// It goes on the session's own connection, not on a shared one.
    pub leased: bool,
    /// That connection watches keys for it: it must not go on another.
    pub watching: bool,
}

impl Leg {
    /// Not sent yet.
    pub fn new(slot: u16, pipe: Key) -> Self {
        Self { pipe, slot, attempts: 0, redirects: 0, told: 0, leased: false, watching: false }
    }
}

/// One command whose reply has not been flushed.
#[derive(Debug)]
pub struct Pending {
    state: State,
    /// What kind of command it is; `None` for names not in the table.
    pub row: Option<&'static Row>,
    leg: Leg,
    /// Length of its request (bytes).
    len: u32,
    /// When it was taken in (ms of the worker's clock, wrapping).
    pub since: u32,
    /// Its reply is dropped.
    silent: bool,
}

impl Pending {
    /// True until its reply is there.
    #[inline]
    fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting | State::Parts(_))
    }

    /// The legs that wait for a reply.
    fn waiting_legs(&self) -> impl Iterator<Item = &Leg> {
        let (whole, parts) = match &self.state {
            State::Waiting => (Some(&self.leg), None),
            State::Parts(c) => (None, Some(c)),
            State::Early { .. } | State::Shared(_) | State::Pieces(_) => (None, None),
        };
        whole.into_iter().chain(parts.into_iter().flat_map(|c| c.waiting_legs()))
    }
}

/// See the module header.
#[derive(Debug)]
pub struct Window {
    pending: VecDeque<Pending>,
    /// Ticket of `pending[0]`.
    base: u32,
    early: Vec<u8>,
    /// CLIENT REPLY OFF: replies are awaited and dropped.
    pub silent: bool,
    /// CLIENT REPLY SKIP: so is the reply of the next command.
    pub skip_next: bool,
    /// Bytes of the requests that wait for a reply.
    request_bytes: usize,
    /// Bytes of `early` that are still to be flushed.
    early_live: usize,
    /// Bytes of other replies, whole or in parts, that are still to be flushed.
    apart: usize,
    /// Most bytes the replies to one command in parts may hold together.
    pub max_merge: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            pending: VecDeque::new(),
            base: 0,
            early: Vec::new(),
            silent: false,
            skip_next: false,
            request_bytes: 0,
            early_live: 0,
            apart: 0,
            max_merge: usize::MAX,
        }
    }
}

impl Window {
    /// Issues the next ticket.
    #[inline]
    pub fn open(
        &mut self,
        row: Option<&'static Row>,
        slot: u16,
        pipe: Key,
        len: usize,
        now: u64,
    ) -> u32 {
        let ticket = self.next_ticket();
        self.request_bytes += len;
        self.pending.push_back(Pending {
            state: State::Waiting,
            row,
            leg: Leg::new(slot, pipe),
            len: len as u32,
            since: now as u32,
            silent: self.silent || std::mem::take(&mut self.skip_next),
        });
        ticket
    }

    /// Issues the next ticket to a command in parts: one for each of `slots`.
    pub fn open_parts(
        &mut self,
        row: Option<&'static Row>,
        slots: &[u16],
        merge: Merge,
        version: Version,
        len: usize,
        now: u64,
    ) -> u32 {
        let ticket = self.open(row, NO_SLOT, Key::NONE, len, now);
        if let Some(p) = self.pending.back_mut() {
            let composite = Composite::new(slots, merge, version, self.max_merge);
            p.state = State::Parts(Box::new(composite));
        }
        ticket
    }

    /// The reply of the command that was taken in last is for nobody.
    pub fn hide_last(&mut self) {
        if let Some(p) = self.pending.back_mut() {
            p.silent = true;
        }
    }

    /// The ticket the next command will get.
    pub fn next_ticket(&self) -> u32 {
        self.base.wrapping_add(self.pending.len() as u32)
    }

    /// Commands without a flushed reply.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// True when every reply was flushed.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    fn at(&self, ticket: u32) -> Option<&Pending> {
        self.pending.get(ticket.wrapping_sub(self.base) as usize)
    }

    /// When a command was taken in (ms, wrapping), unless it was flushed.
    pub fn since(&self, ticket: u32) -> Option<u32> {
        self.at(ticket).map(|p| p.since)
    }

    /// A command's time begins anew.
    pub fn restart(&mut self, ticket: u32, now: u64) {
        if let Some(p) = self.pending.get_mut(ticket.wrapping_sub(self.base) as usize) {
            p.since = now as u32;
        }
    }

    /// The table row of a command that waits for a reply.
    pub fn row(&self, ticket: u32) -> Option<&'static Row> {
        self.at(ticket)?.row
    }

    /// The slot of a command or of one part of it, if it waits for a reply.
    pub fn slot(&self, ticket: u32, part: u16) -> Option<u16> {
        let p = self.at(ticket)?;
        match &p.state {
            State::Waiting => Some(p.leg.slot),
            State::Parts(c) => c.leg(part).map(|leg| leg.slot),
            State::Early { .. } | State::Shared(_) | State::Pieces(_) => None,
        }
    }

    /// The leg of a command or of one part of it, if it waits for a reply.
    pub fn leg_mut(&mut self, ticket: u32, part: u16) -> Option<&mut Leg> {
        let p = self.pending.get_mut(ticket.wrapping_sub(self.base) as usize)?;
        match &mut p.state {
            State::Waiting => Some(&mut p.leg),
            State::Parts(c) => c.leg_mut(part),
            State::Early { .. } | State::Shared(_) | State::Pieces(_) => None,
        }
    }

    /// All legs that wait for a reply, in order.
    pub fn waiting_legs(&self) -> impl Iterator<Item = &Leg> {
        self.pending.iter().flat_map(Pending::waiting_legs)
    }

    /// True when every ticket before `ticket` was flushed.
    pub fn reached(&self, ticket: u32) -> bool {
        (self.base.wrapping_sub(ticket) as i32) >= 0
    }

    /// Takes the reply of `ticket` (of one `part` of it, for commands in parts), and flushes to `out`
    /// all replies whose turn has come.
    ///
    /// Returns false when nobody waits for it (any more).
    #[inline]
    pub fn fill(&mut self, ticket: u32, part: u16, reply: Reply<'_>, out: &mut ByteQueue) -> bool {
        let at = ticket.wrapping_sub(self.base) as usize;
        match self.pending.get_mut(at) {
            Some(Pending { state: State::Waiting, len, .. }) => {
                self.request_bytes -= *len as usize;
                self.complete(at, reply, out);
                true
            }
            Some(Pending { state: State::Parts(c), len, .. }) => {
                let before = c.holds_bytes();
                if !c.fill(part, reply) {
                    return false;
                }
                self.apart = self.apart - before + c.holds_bytes();
                if c.is_whole() {
                    self.request_bytes -= *len as usize;
                    self.complete_parts(at, out);
                }
                true
            }
            _ => false,
        }
    }

    /// A command has its whole reply.
    #[inline]
    fn complete(&mut self, at: usize, reply: Reply<'_>, out: &mut ByteQueue) {
        let silent = self.pending.get(at).is_some_and(|p| p.silent);
        let reply = if silent { Reply::Borrowed(b"") } else { reply };
        if at > 0 {
            return self.store(at, reply);
        }
        push(out, reply);
        self.pop();
        if self.pending.front().is_some_and(|p| !p.is_waiting()) {
            self.flush(out);
        }
    }

    /// A command in parts has all their replies.
    fn complete_parts(&mut self, at: usize, out: &mut ByteQueue) {
        let Some(p) = self.pending.get_mut(at) else {
            return;
        };
        let State::Parts(composite) = std::mem::replace(&mut p.state, State::Waiting) else {
            return;
        };
        self.apart -= composite.holds_bytes();
        let mut pieces = composite.into_reply(p.row);
        if p.silent || pieces.len() < 2 {
            let only = pieces.pop().unwrap_or_default();
            return self.complete(at, Reply::Shared(only), out);
        }
        let pieces = Pieces(pieces);
        self.apart += pieces.len();
        p.state = State::Pieces(Box::new(pieces));
        if at == 0 {
            self.flush(out);
        }
    }

    /// So many bytes of the reply of a part of a command are there, and not all. False: they are not
    /// wanted, and need not be kept.
    pub fn arriving(&mut self, ticket: u32, part: u16, len: usize) -> bool {
        match self.pending.get_mut(ticket.wrapping_sub(self.base) as usize) {
            Some(Pending { state: State::Parts(c), .. }) => {
                let before = c.holds_bytes();
                let wanted = c.arriving(part, len);
                self.apart = self.apart - before + c.holds_bytes();
                wanted
            }
            Some(_) => true,
            None => false,
        }
    }

    fn store(&mut self, at: usize, reply: Reply<'_>) {
        let Some(pending) = self.pending.get_mut(at) else {
            return;
        };
        pending.state = match reply {
            Reply::Shared(bytes) => {
                self.apart += bytes.len();
                State::Shared(Box::new(bytes))
            }
            Reply::Borrowed(bytes) if bytes.len() >= LARGE => {
                self.apart += bytes.len();
                State::Shared(Box::new(Bytes::copy_from_slice(bytes)))
            }
            Reply::Borrowed(bytes) => {
                let at = self.early.len() as u32;
                self.early.extend_from_slice(bytes);
                self.early_live += bytes.len();
                State::Early { at, len: bytes.len() as u32 }
            }
        };
        if self.early.len() > COMPACT && self.early_live < self.early.len() / 2 {
            self.compact();
        }
    }

    fn pop(&mut self) -> Option<Pending> {
        let p = self.pending.pop_front();
        self.base = self.base.wrapping_add(1);
        p
    }

    fn flush(&mut self, out: &mut ByteQueue) {
        while self.pending.front().is_some_and(|p| !p.is_waiting()) {
            match self.pop().map(|p| p.state) {
                Some(State::Early { at, len }) => {
                    let (at, len) = (at as usize, len as usize);
                    out.push(self.early.get(at..at + len).unwrap_or_default());
                    self.early_live -= len;
                }
                Some(State::Shared(bytes)) => {
                    self.apart -= bytes.len();
                    out.push_shared(*bytes);
                }
                Some(State::Pieces(pieces)) => {
                    self.apart -= pieces.len();
                    pieces.0.into_iter().for_each(|p| out.push_shared(p))
                }
                Some(State::Waiting | State::Parts(_)) | None => {}
            }
        }
        if self.early_live == 0 {
            if self.early.capacity() > KEEP {
                self.early = Vec::new();
            } else {
                self.early.clear();
            }
        }
    }

    /// Moves what is still needed of the early replies to the front.
    #[cold]
    fn compact(&mut self) {
        let mut kept = Vec::with_capacity(self.early_live);
        for p in &mut self.pending {
            if let State::Early { at, len } = &mut p.state {
                let from = *at as usize;
                *at = kept.len() as u32;
                kept.extend_from_slice(
                    self.early.get(from..from + *len as usize).unwrap_or_default(),
                );
            }
        }
        self.early = kept;
    }

    /// Bytes of the requests that wait for a reply, wherever they are.
    pub fn request_bytes(&self) -> usize {
        self.request_bytes
    }

    /// Bytes of replies that wait for their turn, or for their other parts.
    #[inline]
    pub fn holds_bytes(&self) -> usize {
        self.early_live + self.apart
    }

    /// Gives idle memory back.
    pub fn shrink(&mut self) {
        if self.pending.is_empty() && self.pending.capacity() > 8 {
            self.pending = VecDeque::new();
            self.early = Vec::new();
        }
    }
}

#[inline]
fn push(out: &mut ByteQueue, reply: Reply<'_>) {
    match reply {
        Reply::Borrowed(b) => out.push(b),
        Reply::Shared(b) => out.push_shared(b),
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;
    use proptest::prelude::*;

    fn drain(out: &mut ByteQueue) -> Vec<u8> {
        let mut all = Vec::new();
        while out.unsent() > 0 {
            let mut s = [IoSlice::new(&[]); 4];
            let n = out.unsent_slices(&mut s);
            let got: Vec<u8> = s[..n].iter().flat_map(|s| s.to_vec()).collect();
            out.consume(got.len());
            all.extend(got);
        }
        all
    }

    proptest! {
        /// Replies filled in any order come out in ticket order, each once.
        #[test]
        fn order_is_request_order(sizes in proptest::collection::vec(0usize..40_000, 1..60), seed in any::<u64>()) {
            let mut w = Window { base: u32::MAX - 20, ..Window::default() };
            let mut out = ByteQueue::default();
            let tickets: Vec<u32> = sizes.iter().map(|_| w.open(None, NO_SLOT, Key::NONE, 10, 0)).collect();
            let replies: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(i, &n)| {
                [format!("{i}:").as_bytes(), &vec![i as u8; n]].concat()
            }).collect();
            let mut order: Vec<usize> = (0..sizes.len()).collect();
            fastrand::Rng::with_seed(seed).shuffle(&mut order);
            let mut got = Vec::new();
            for i in order {
                let reply = if i % 3 == 0 { Reply::Shared(replies[i].clone().into()) } else { Reply::Borrowed(&replies[i]) };
                prop_assert!(w.fill(tickets[i], 0, reply, &mut out));
                prop_assert!(!w.fill(tickets[i], 0, Reply::Borrowed(b"twice"), &mut out));
                got.extend(drain(&mut out));
            }
            prop_assert!(w.is_empty());
            prop_assert_eq!((w.holds_bytes(), w.request_bytes()), (0, 0));
            prop_assert_eq!(got, replies.concat());
        }
    }

    #[test]
    fn parts_make_one_reply_in_its_turn() {
        let mut w = Window::default();
        let mut out = ByteQueue::default();
        let merge = Merge::Interleave { order: vec![1, 0] };
        let mget = w.open_parts(None, &[5, 9], merge, Version::V2, 30, 0);
        let next = w.open(None, NO_SLOT, Key::NONE, 10, 0);
        assert_eq!(w.slot(mget, 1), Some(9));
        assert_eq!(w.waiting_legs().filter(|l| l.slot == 9).count(), 1);
        assert!(w.fill(next, 0, Reply::Borrowed(b"+next\r\n"), &mut out));
        assert!(w.fill(mget, 1, Reply::Borrowed(b"*1\r\n:9\r\n"), &mut out));
        assert!(!w.fill(mget, 1, Reply::Borrowed(b"*1\r\n:9\r\n"), &mut out));
        assert_eq!(w.slot(mget, 1), None);
        assert!(w.fill(mget, 0, Reply::Borrowed(b"*1\r\n:5\r\n"), &mut out));
        assert_eq!(drain(&mut out), b"*2\r\n:9\r\n:5\r\n+next\r\n");
        assert_eq!(w.request_bytes(), 0);
    }

    #[test]
    fn unknown_tickets_are_ignored() {
        let mut w = Window::default();
        let mut out = ByteQueue::default();
        assert!(!w.fill(0, 0, Reply::Borrowed(b"x"), &mut out));
        w.open(None, NO_SLOT, Key::NONE, 10, 0);
        assert!(!w.fill(5, 0, Reply::Borrowed(b"x"), &mut out));
        assert_eq!(out.unsent(), 0);
    }
}
