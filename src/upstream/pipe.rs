//! One upstream connection as the protocol sees it: what was asked, what is due, what was sent.
//!
//! A *shared* pipe carries the commands of many sessions; each in-flight entry says whose reply it
//! is. Invariant: replies are matched to entries in the order the requests were pushed, and the
//! bytes of a request stay in `out` until its reply is in, so that a request can be taken back
//! whole, and so that what was never written is told apart from what may have been executed. It
//! has no socket: `worker::io` reads, writes and dials for it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use zeroize::Zeroizing;

use crate::buffer::ByteQueue;
use crate::key::Key;
use crate::resp::reply::Class;
use crate::resp::request::Request;
use crate::resp::scan::{ReplyError, ReplyScan, ReplyScanner};
use crate::resp::skip::ReplySkipper;

use super::handshake::Handshake;
use super::kind::Kind;

/// What the reply of an entry is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// For the session that asked.
    Forward,
    /// For nobody: the reply of an ASKING the proxy put in.
    Discard,
    /// For the pipe itself: the reply of an in-band AUTH.
    Reauth,
    /// For the worker: confirmations (as pushes) of a SUBSCRIBE or UNSUBSCRIBE of its own.
    Subscribe,
    /// For the worker: what a node says of a command; `ticket` names the question.
    Learn,
    /// For the worker: whether a node unblocked a client; `ticket` and `part` say whom and where.
    Unblock,
}

/// One request in flight.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Who asked.
    pub session: Key,
    /// Place of the reply in that session's window.
    pub ticket: u32,
    /// Which part of a split command it is; 0 for whole commands.
    pub part: u16,
    /// What the reply is for.
    pub purpose: Purpose,
    /// Length of the request in bytes.
    pub len: u32,
    /// Replies that are due: more than one for a block (MULTI … EXEC, ASKING and its command), of
    /// which the last is the one that counts.
    pub due: u32,
    /// Replies the whole entry brings; `due` counts them down.
    pub replies: u32,
}

/// A request taken back from a pipe that will not answer it.
#[derive(Debug)]
pub struct Returned {
    /// Whose it is.
    pub entry: Entry,
    /// The request's bytes.
    pub frame: Bytes,
    /// False: no complete copy ever left this process, so it was surely not executed.
    pub sent: bool,
}

/// Whom a pipe serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// The commands of many sessions.
    Shared,
    /// One session while that needs it (blocking, WATCH).
    Lease,
    /// The subscriptions of all sessions of the worker.
    Subscriber,
    /// Everything a session says to this node while it tracks keys (CLIENT TRACKING).
    Tracking(Key),
    /// The MONITOR of a session.
    Monitor(Key),
}

/// Life of a pipe.
#[derive(Debug)]
pub enum State {
    /// Waits for its turn to dial; requests queue up.
    Backoff,
    /// Being dialled.
    Dialing,
    /// Connected, not yet allowed to carry user traffic.
    Handshaking(Handshake),
    /// Carries user traffic.
    Ready,
}

/// See the module header.
#[derive(Debug)]
pub struct Pipe {
    /// Index of the node it goes to.
    pub node: u16,
    /// What its handshake makes it ready for.
    pub kind: Kind,
    /// Where it stands.
    pub state: State,
    /// Handshake bytes not yet written.
    pub control: Zeroizing<Vec<u8>>,
    /// Requests: pushed, sent, and kept until answered.
    pub out: ByteQueue,
    inflight: VecDeque<Entry>,
    /// Offset in `out` of the oldest entry's request.
    front: u64,
    input: BytesMut,
    /// What it was last counted to hold (bytes).
    pub counted: usize,
    scanner: ReplyScanner,
    /// The reply that is coming in is not wanted.
    skipper: Option<Box<ReplySkipper>>,
    /// When something last went forward (ms of the worker's clock).
    pub progress_at: u64,
    /// Generation of the credential it authenticated with; 0: none.
    pub credential: u64,
    /// Generation of the credential of the AUTH in flight.
    pub tried_credential: u64,
    /// The node said NOAUTH to a command: it is not authenticated any more.
    pub unauthenticated: bool,
    /// When it became ready, or AUTH was last accepted (ms of the worker's clock).
    pub authenticated_at: u64,
    /// When AUTH is to be said again (`u64::MAX`: not planned).
    pub renew_at: u64,
    /// When it is to be replaced (`u64::MAX`: never).
    pub retire_at: u64,
    /// The connection it takes the place of when it is ready.
    pub replaces: Option<Key>,
    /// Behind the request whose reply is timed (offset in `out`; `u64::MAX`: none).
    pub timed: u64,
    /// When that was written (µs of the worker's clock).
    pub timed_at: u64,
    /// It waits for its turn to be dialled.
    pub queued: bool,
    /// The node's id for it, where that was asked.
    pub client_id: Option<u64>,
    /// An in-band AUTH is in flight.
    pub reauthenticating: bool,
    /// Whom it serves.
    pub duty: Duty,
    /// A command every new connection says before it carries anything.
    pub preamble: Option<Bytes>,
    /// It takes no more commands and is dropped when all it has are answered.
    pub retiring: bool,
    /// It was lent for one command: with the reply it goes back to the idle ones.
    pub one_command: bool,
    /// A SELECT is in flight, alone or in a transaction: `kind` may have to follow.
    pub changes_db: bool,
    /// A blocking command is in flight: it may stay silent until this time (ms).
    pub silent_until: u64,
    /// What a node refused within the block whose replies are coming in.
    pub refused_in_block: Option<(Class, Box<[u8]>)>,
    /// It has been queued for writing and not yet been served.
    pub dirty: bool,
}

impl Pipe {
    /// A pipe that waits to be dialled.
    pub fn new(node: u16, kind: Kind, now: u64) -> Self {
        Self {
            node,
            kind,
            state: State::Backoff,
            control: Zeroizing::new(Vec::new()),
            out: ByteQueue::default(),
            inflight: VecDeque::new(),
            front: 0,
            input: BytesMut::new(),
            counted: 0,
            scanner: ReplyScanner::default(),
            skipper: None,
            progress_at: now,
            credential: 0,
            client_id: None,
            tried_credential: 0,
            unauthenticated: false,
            authenticated_at: 0,
            renew_at: u64::MAX,
            retire_at: u64::MAX,
            replaces: None,
            timed: u64::MAX,
            timed_at: 0,
            queued: false,
            reauthenticating: false,
            duty: Duty::Shared,
            preamble: None,
            retiring: false,
            one_command: false,
            changes_db: false,
            silent_until: 0,
            refused_in_block: None,
            dirty: false,
        }
    }

    /// Queues a request; its reply will come back with `entry` (whose `len` is set here).
    #[inline]
    pub fn push(&mut self, mut entry: Entry, request: &Request<'_>, now: u64) {
        entry.len = request.frame.len() as u32;
        match request.shared {
            Some(shared) => self.out.push_shared(shared.clone()),
            None => self.out.push(request.frame),
        }
        self.push_entry(entry, now);
    }

    /// Queues a request held as bytes.
    pub fn push_bytes(&mut self, mut entry: Entry, frame: Bytes, now: u64) {
        entry.len = frame.len() as u32;
        self.out.push_shared(frame);
        self.push_entry(entry, now);
    }

    #[inline]
    fn push_entry(&mut self, entry: Entry, now: u64) {
        if self.inflight.is_empty() && matches!(self.state, State::Ready) {
            self.progress_at = now;
        }
        self.inflight.push_back(entry);
    }

    /// Number of requests without reply.
    pub fn in_flight(&self) -> usize {
        self.inflight.len()
    }

    /// The oldest request without reply.
    pub fn oldest(&self) -> Option<&Entry> {
        self.inflight.front()
    }

    /// Every request without reply, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.inflight.iter()
    }

    /// Times the request that was written last, unless one is being timed.
    #[inline]
    pub fn start_timing(&mut self, now_us: u64) {
        if self.timed == u64::MAX {
            self.timed = self.out.sent();
            self.timed_at = now_us;
        }
    }

    /// How long the timed request took, once its reply is there (µs).
    #[inline]
    pub fn stop_timing(&mut self, now_us: u64) -> Option<u64> {
        if self.front < self.timed {
            return None;
        }
        self.timed = u64::MAX;
        Some(now_us.saturating_sub(self.timed_at))
    }

    /// True when bytes of some request left and its reply is due.
    pub fn awaits_reply(&self) -> bool {
        !self.inflight.is_empty() && self.out.sent() > self.front
    }

    /// True when the reply that comes next is that of an in-band AUTH.
    pub fn awaits_auth(&self) -> bool {
        self.awaits_reply() && self.oldest().is_some_and(|e| e.purpose == Purpose::Reauth)
    }

    /// True when requests may be written.
    pub fn may_send(&self) -> bool {
        matches!(self.state, State::Ready)
    }

    /// True when there is something to write in its present state.
    pub fn wants_write(&self) -> bool {
        match self.state {
            State::Backoff | State::Dialing => false,
            State::Handshaking(_) => !self.control.is_empty(),
            State::Ready => !self.control.is_empty() || self.out.unsent() > 0,
        }
    }

    /// Takes the buffered part of a reply, to be scanned together with what was just read.
    pub fn take_input(&mut self) -> BytesMut {
        std::mem::take(&mut self.input)
    }

    /// Puts back what could not be scanned yet.
    pub fn keep_input(&mut self, rest: BytesMut) {
        self.input = rest;
    }

    /// Counts anew what it holds; by how many bytes that changed.
    #[inline]
    pub fn recount(&mut self) -> isize {
        let now = self.holds_bytes();
        let before = std::mem::replace(&mut self.counted, now);
        now.wrapping_sub(before) as isize
    }

    /// Bytes it holds: requests that are not answered, and part of a reply.
    #[inline]
    pub fn holds_bytes(&self) -> usize {
        self.out.held() + self.input.len()
    }

    /// Bytes of the reply that is coming in, and whose it is.
    pub fn arriving(&self) -> (usize, Key) {
        (self.input.len(), self.oldest().map_or(Key::NONE, |entry| entry.session))
    }

    /// True while part of a reply is buffered.
    pub fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Length of the next whole reply in `buf`, or how many bytes are needed.
    ///
    /// # Errors
    /// [`ReplyError`] when the node does not speak RESP.
    #[inline]
    pub fn scan(&mut self, buf: &[u8]) -> Result<ReplyScan, ReplyError> {
        self.scanner.scan(buf)
    }

    /// The reply of which `input` is there, and which is not whole, is not wanted: none of it is kept.
    ///
    /// # Errors
    /// [`ReplyError`] when the node does not speak RESP.
    pub fn begin_skip(&mut self, input: &[u8]) -> Result<(), ReplyError> {
        let mut skipper = Box::<ReplySkipper>::default();
        skipper.skip(input)?;
        self.scanner = ReplyScanner::default();
        self.skipper = Some(skipper);
        Ok(())
    }

    /// True while a reply is skipped.
    #[inline]
    pub fn is_skipping(&self) -> bool {
        self.skipper.is_some()
    }

    /// More of the reply that is skipped; `Some(n)` when it ended after `n` bytes.
    ///
    /// # Errors
    /// [`ReplyError`] when the node does not speak RESP.
    pub fn skip(&mut self, data: &[u8]) -> Result<Option<usize>, ReplyError> {
        let Some(skipper) = &mut self.skipper else {
            return Ok(Some(0));
        };
        let ended = skipper.skip(data)?;
        if ended.is_some() {
            self.skipper = None;
        }
        Ok(ended)
    }

    /// Takes one reply of a block off; false when the next reply is an entry's last.
    #[inline]
    pub fn take_inner(&mut self) -> bool {
        match self.inflight.front_mut() {
            Some(entry) if entry.due > 1 => {
                entry.due -= 1;
                true
            }
            _ => false,
        }
    }

    /// The entry whose last reply comes next. Its request's bytes stay until [`Pipe::release`].
    #[inline]
    pub fn pop(&mut self) -> Option<Entry> {
        self.inflight.pop_front()
    }

    /// The bytes of the request of `entry`, which was just popped.
    pub fn request_of(&self, entry: &Entry) -> Option<Bytes> {
        self.out.frame_at(self.front, entry.len as usize)
    }

    /// Lets the request of `entry`, which was just popped, go.
    #[inline]
    pub fn release(&mut self, entry: &Entry) {
        self.front += u64::from(entry.len);
        self.out.release(entry.len as usize);
    }

    /// Takes every waiting request back from a pipe that has sent none; its dial and handshake go on.
    pub fn take_waiting(&mut self) -> Vec<Returned> {
        let returned = self.take_requests();
        self.out = ByteQueue::default();
        self.front = 0;
        returned
    }

    fn take_requests(&mut self) -> Vec<Returned> {
        let sent = self.out.sent();
        let mut at = self.front;
        let mut returned = Vec::with_capacity(self.inflight.len());
        for entry in std::mem::take(&mut self.inflight) {
            let end = at + u64::from(entry.len);
            if let Some(frame) = self.out.frame_at(at, entry.len as usize) {
                returned.push(Returned { entry, frame, sent: end <= sent });
            }
            at = end;
        }
        returned
    }

    /// The connection is gone: takes every request back, in order, and forgets all else.
    pub fn take_back(&mut self) -> Vec<Returned> {
        let returned = self.take_requests();
        self.out = ByteQueue::default();
        self.front = 0;
        self.input = BytesMut::new();
        self.scanner = ReplyScanner::default();
        self.skipper = None;
        self.control.clear();
        self.reauthenticating = false;
        self.refused_in_block = None;
        self.state = State::Backoff;
        returned
    }
}

/// Consumes `n` bytes of `buf`, as a shared slice when they are worth it.
pub fn split_shared(buf: &mut BytesMut, n: usize) -> Option<Bytes> {
    if n < crate::buffer::LARGE {
        buf.advance(n);
        return None;
    }
    Some(buf.split_to(n).freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::encode;

    fn entry(ticket: u32) -> Entry {
        Entry {
            session: Key::new(1, 1),
            ticket,
            part: 0,
            purpose: Purpose::Forward,
            len: 0,
            due: 1,
            replies: 1,
        }
    }

    fn frame(i: usize) -> Bytes {
        let mut out = Vec::new();
        encode::command(&mut out, &["SET", "k", &i.to_string()]);
        out.into()
    }

    #[test]
    fn a_lost_pipe_gives_back_what_it_holds_in_order_and_knows_what_was_sent() {
        let mut pipe = Pipe::new(0, crate::resp::Version::V2.into(), 0);
        for i in 0..4 {
            pipe.push_bytes(entry(i), frame(i as usize), 0);
        }
        let one = frame(0).len();
        // The first was answered, the second sent, the third half sent, the fourth not at all.
        pipe.out.mark_sent(one * 2 + 5);
        let answered = pipe.pop().expect("in flight");
        assert_eq!(pipe.request_of(&answered), Some(frame(0)));
        pipe.release(&answered);
        let back = pipe.take_back();
        let told: Vec<(u32, bool)> = back.iter().map(|r| (r.entry.ticket, r.sent)).collect();
        assert_eq!(told, [(1, true), (2, false), (3, false)]);
        assert_eq!(back[2].frame, frame(3));
        assert_eq!(pipe.in_flight(), 0);
    }
}
