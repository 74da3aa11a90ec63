//! Replies in request order: a deque of pending tickets, filled in any order, flushed from the front.
//!
//! Invariant: `flush` hands replies out in ticket order, each exactly once; a ticket that was
//! flushed, or never issued, is ignored by `fill`. Early replies wait in one buffer, so that a
//! pipeline over several shards allocates nothing per reply. It does not know sockets or nodes.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::VecDeque;

use bytes::Bytes;

use crate::buffer::{ByteQueue, LARGE};
use crate::command::spec::Row;
use crate::key::Key;

/// The early-reply buffer is compacted when it has grown beyond this (bytes).
const COMPACT: usize = 256 * 1024;

/// The early-reply buffer is given back when idle and larger than this (bytes).
const KEEP: usize = 16 * 1024;

/// Slot of a command that has no key.
pub const NO_SLOT: u16 = crate::cluster::topology::SLOTS as u16;

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
}

/// One command whose reply has not been flushed.
#[derive(Debug)]
pub struct Pending {
    state: State,
    /// What kind of command it is; `None` for names not in the table.
    pub row: Option<&'static Row>,
    /// The pipe it was last dispatched to.
    pub pipe: Key,
    /// Length of its request (bytes).
    len: u32,
    /// When it was taken in (ms of the worker's clock, wrapping).
    pub since: u32,
    /// Its hash slot, or [`NO_SLOT`].
    pub slot: u16,
    /// How often it was sent again, redirects included.
    pub attempts: u8,
    /// How many redirects it followed.
    pub redirects: u8,
}

impl Pending {
    /// True until its reply is there.
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting)
    }
}

/// See the module header.
#[derive(Debug, Default)]
pub struct Window {
    pending: VecDeque<Pending>,
    /// Ticket of `pending[0]`.
    base: u32,
    early: Vec<u8>,
    /// Bytes of the requests that wait for a reply.
    request_bytes: usize,
    /// Bytes of `early` that are still to be flushed.
    early_live: usize,
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
            pipe,
            len: len as u32,
            since: now as u32,
            slot,
            attempts: 0,
            redirects: 0,
        });
        ticket
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

    /// The command of a ticket, unless it was flushed.
    pub fn get_mut(&mut self, ticket: u32) -> Option<&mut Pending> {
        self.pending.get_mut(ticket.wrapping_sub(self.base) as usize)
    }

    /// The command of a ticket, unless it was flushed.
    pub fn get(&self, ticket: u32) -> Option<&Pending> {
        self.pending.get(ticket.wrapping_sub(self.base) as usize)
    }

    /// True when every ticket before `ticket` was flushed.
    pub fn reached(&self, ticket: u32) -> bool {
        (self.base.wrapping_sub(ticket) as i32) >= 0
    }

    /// All commands not yet flushed, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Pending> {
        self.pending.iter()
    }

    /// Takes the reply of `ticket`, and flushes to `out` all replies whose turn has come.
    ///
    /// Returns false when nobody waits for that ticket (any more).
    #[inline]
    pub fn fill(&mut self, ticket: u32, reply: Reply<'_>, out: &mut ByteQueue) -> bool {
        let at = ticket.wrapping_sub(self.base) as usize;
        if at == 0 {
            match self.pending.front() {
                Some(p) if p.is_waiting() => self.request_bytes -= p.len as usize,
                _ => return false,
            }
            push(out, reply);
            self.pop();
            if self.pending.front().is_some_and(|p| !p.is_waiting()) {
                self.flush(out);
            }
            return true;
        }
        self.store(at, reply)
    }

    fn store(&mut self, at: usize, reply: Reply<'_>) -> bool {
        let Some(pending) = self.pending.get_mut(at) else {
            return false;
        };
        if !pending.is_waiting() {
            return false;
        }
        self.request_bytes -= pending.len as usize;
        pending.state = match reply {
            Reply::Shared(bytes) => State::Shared(Box::new(bytes)),
            Reply::Borrowed(bytes) if bytes.len() >= LARGE => {
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
        true
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
                Some(State::Shared(bytes)) => out.push_shared(*bytes),
                Some(State::Waiting) | None => {}
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

    /// Bytes of replies that wait for their turn.
    pub fn waiting_bytes(&self) -> usize {
        self.early_live
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
                prop_assert!(w.fill(tickets[i], reply, &mut out));
                prop_assert!(!w.fill(tickets[i], Reply::Borrowed(b"twice"), &mut out));
                got.extend(drain(&mut out));
            }
            prop_assert!(w.is_empty());
            prop_assert_eq!((w.waiting_bytes(), w.request_bytes()), (0, 0));
            prop_assert_eq!(got, replies.concat());
        }
    }

    #[test]
    fn unknown_tickets_are_ignored() {
        let mut w = Window::default();
        let mut out = ByteQueue::default();
        assert!(!w.fill(0, Reply::Borrowed(b"x"), &mut out));
        w.open(None, NO_SLOT, Key::NONE, 10, 0);
        assert!(!w.fill(5, Reply::Borrowed(b"x"), &mut out));
        assert_eq!(out.unsent(), 0);
    }
}
