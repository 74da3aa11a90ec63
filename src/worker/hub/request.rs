//! From a client's bytes to a pipe: parse, look up, route, queue.
//!
//! Invariant: a request is either dispatched with a ticket, or answered in its place, or left
//! unparsed until the session may go on; never dropped. Work per command: one scan, one lookup, one
//! slot, two array reads, one copy.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use bytes::{Buf, Bytes, BytesMut};

use crate::buffer::{LARGE, room};
use crate::cluster::topology::UNASSIGNED;
use crate::command::keys::{self, KeySlot};
use crate::command::lookup;
use crate::command::merge::Merge;
use crate::command::spec::{Handler, Local, Row};
use crate::command::split;
use crate::key::Key;
use crate::resp::encode;
use crate::resp::inline;
use crate::resp::request::{ArgRange, Request};
use crate::resp::scan::{RequestError, RequestScan};
use crate::session::core::{Closing, hold};
use crate::session::fence::{Held, Target};
use crate::session::local;
use crate::session::window::NO_SLOT;
use crate::upstream::pipe::{Entry, Purpose};

use super::Hub;
use super::learn::Lesson;

/// Argument ranges kept for reuse between requests; more are given back.
const KEEP_ARGS: usize = 4096;

impl Hub {
    /// The client sent bytes.
    pub fn client_data(&mut self, key: Key, data: &[u8]) {
        self.counters.client_bytes_in += data.len() as u64;
        let now = self.now;
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        s.active_at = now;
        let mut keeps = s.fences.is_some();
        if s.input.is_empty() && s.may_parse() {
            let (used, need) = self.parse(key, data);
            if used < data.len()
                && let Some(s) = self.sessions.get_mut(key)
            {
                keeps = true;
                let rest = &data[used..];
                s.input.reserve(rest.len() + room(need, rest.len()));
                s.input.extend_from_slice(rest);
            }
        } else {
            keeps = true;
            s.input.extend_from_slice(data);
            self.parse_input(key);
        }
        self.settle();
        if keeps {
            self.weigh_session(key);
        }
    }

    /// Parses what can be parsed of `buf`; returns how much was used, and how many bytes the next
    /// request needs in all.
    fn parse(&mut self, key: Key, buf: &[u8]) -> (usize, usize) {
        let mut args = std::mem::take(&mut self.args);
        let mut at = 0;
        let mut need = 0;
        while at < buf.len() {
            let Some(s) = self.sessions.get_mut(key) else {
                at = buf.len();
                break;
            };
            if !s.may_parse() {
                break;
            }
            let rest = &buf[at..];
            match s.scanner.scan(rest, &mut args, self.settings.max_request) {
                Ok(RequestScan::Multibulk(n)) => {
                    if !self.request(key, &Request::new(&rest[..n], None, &args)) {
                        break;
                    }
                    at += n;
                }
                Ok(RequestScan::Inline(n)) => {
                    if !self.inline_request(key, &rest[..n]) {
                        break;
                    }
                    at += n;
                }
                Ok(RequestScan::Partial(total)) => {
                    need = total;
                    break;
                }
                Err(error) => {
                    self.protocol_error(key, error);
                    at = buf.len();
                }
            }
        }
        if self.sessions.get(key).is_some_and(|s| s.closing != Closing::No) {
            // Nothing behind QUIT or a protocol error is looked at.
            at = buf.len();
        }
        if args.capacity() > KEEP_ARGS {
            args = Vec::new();
        }
        self.args = args;
        (at, need)
    }

    /// Parses what the session has buffered. Large requests are cut out instead of copied.
    pub(super) fn parse_input(&mut self, key: Key) {
        if self.sessions.get(key).is_some_and(|s| s.holds & hold::UNAUTHENTICATED != 0) {
            self.admit(key);
        }
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        let mut input = std::mem::take(&mut s.input);
        loop {
            if !self.parse_large(key, &mut input) {
                break;
            }
        }
        let (used, need) = self.parse(key, &input);
        input.advance(used);
        if let Some(s) = self.sessions.get_mut(key) {
            if input.is_empty() {
                // A large request may still hold the allocation: do not keep it for nothing.
                s.input = BytesMut::new();
            } else {
                input.reserve(room(need, input.len()));
                s.input = input;
            }
            if s.ends_after_input && s.may_parse() {
                // What is left is not a whole request, and no more will come.
                s.closing = Closing::AfterReplies;
                self.mark_session(key);
            }
        }
    }

    /// Dispatches the first buffered request if it is large; false when it is not, or not whole.
    fn parse_large(&mut self, key: Key, input: &mut BytesMut) -> bool {
        let Some(s) = self.sessions.get_mut(key) else {
            return false;
        };
        if input.len() < LARGE || !s.may_parse() {
            return false;
        }
        // A copy of the scanner: a partial or small request is scanned by `parse`.
        let mut scanner = s.scanner;
        let mut args = std::mem::take(&mut self.args);
        let scan = scanner.scan(input, &mut args, self.settings.max_request);
        let mut consumed = false;
        if let Ok(RequestScan::Multibulk(n)) = scan
            && n >= LARGE
        {
            s.scanner = scanner;
            let shared = input.split_to(n).freeze();
            consumed = self.request(key, &Request::new(&shared, Some(&shared), &args));
            if !consumed {
                let mut again = BytesMut::from(&shared[..]);
                again.unsplit(std::mem::take(input));
                *input = again;
            }
        }
        self.args = args;
        consumed
    }

    fn inline_request(&mut self, key: Key, line: &[u8]) -> bool {
        let Some(words) = inline::split(line) else {
            self.protocol_error(key, RequestError::UnbalancedQuotes);
            return true;
        };
        if words.is_empty() {
            return true;
        }
        let mut frame = Vec::with_capacity(line.len() + 16 * words.len());
        encode::command(&mut frame, &words);
        let mut args: Vec<ArgRange> = Vec::with_capacity(words.len());
        crate::resp::request::fill_args(&frame, &mut args);
        self.request(key, &Request::new(&frame, None, &args))
    }

    pub(super) fn protocol_error(&mut self, key: Key, error: RequestError) {
        self.counters.protocol_errors += 1;
        self.counters.closed_request += u64::from(error == RequestError::TooLarge);
        if let Some(s) = self.sessions.get_mut(key) {
            s.answer(&error.reply());
            s.closing = Closing::AfterReplies;
            self.mark_session(key);
        }
    }

    /// Takes one request in. False: the session must wait first, nothing was done.
    fn request(&mut self, key: Key, request: &Request<'_>) -> bool {
        if request.is_empty() {
            return true;
        }
        let row = match find_row(request) {
            Some(row) if !row.container => Some(row),
            found => match self.learn(key, found, request) {
                Lesson::Row(row) => Some(row),
                Lesson::Untold => None,
                Lesson::Wait => return false,
                Lesson::Absent => return self.no_such_command(key, request),
                Lesson::Failed(text) => {
                    self.counters.commands += 1;
                    self.refuse_queued(key, &text);
                    return true;
                }
            },
        };
        if self.access.is_some() && !self.permits(key, row, request) {
            return true;
        }
        if self.pause.is_some() && self.holds_back(key, row, request) {
            return false;
        }
        let Some(s) = self.sessions.get_mut(key) else {
            return true;
        };
        s.last = row;
        if s.streams.is_some() {
            return self.request_while_listening(key, row, request);
        }
        if s.transaction.is_some() {
            self.counters.commands += 1;
            return self.request_in_multi(key, row, request);
        }
        if s.fences.is_some() && self.waits_for_fences(key, row, request) {
            return false;
        }
        self.request_as_usual(key, row, request)
    }

    /// A request of a session that is subscribed, tracks or monitors.
    #[cold]
    fn request_while_listening(
        &mut self,
        key: Key,
        row: Option<&'static Row>,
        request: &Request<'_>,
    ) -> bool {
        let Some(s) = self.sessions.get_mut(key) else {
            return true;
        };
        let (in_multi, fenced) = (s.transaction.is_some(), s.fences.is_some());
        let (version, streams) = (s.version, s.streams.as_deref());
        if let Some(row) = row
            && local::arity_fits(row, request.len())
            && let Some(text) = streams.and_then(|x| x.refuses(row, version))
        {
            self.counters.commands += 1;
            if let Some(t) = &mut s.transaction {
                t.fail();
            }
            self.refuse(key, &text);
            return true;
        }
        let done = if in_multi {
            self.counters.commands += 1;
            self.request_in_multi(key, row, request)
        } else if fenced && self.waits_for_fences(key, row, request) {
            false
        } else {
            self.request_as_usual(key, row, request)
        };
        // CLIENT CACHING is about the next command, or the next transaction, whatever it was.
        if done
            && let Some(s) = self.sessions.get_mut(key)
            && s.transaction.is_none()
            && !row.is_some_and(|r| r.name.starts_with("client"))
            && let Some(t) = s.tracking_mut()
        {
            t.caching = None;
        }
        done
    }

    /// A request outside of a transaction.
    #[inline]
    fn request_as_usual(
        &mut self,
        key: Key,
        row: Option<&'static Row>,
        request: &Request<'_>,
    ) -> bool {
        let Some(row) = row else {
            // Nobody tells what it is. The cluster itself answers MOVED if the first argument is not the
            // key, or if another node has it.
            self.counters.commands += 1;
            let slot = match request.len() {
                0 | 1 => NO_SLOT,
                _ => crate::command::slot::slot(request.arg(1)),
            };
            self.dispatch(key, None, slot, request, 1);
            return true;
        };
        let refused = row.handler == Handler::Refused;
        if row.container && (!local::arity_fits(row, request.len()) || refused) {
            // No subcommand, or one nobody knows that a shared connection or a node must not see.
            self.counters.commands += 1;
            let text = local::bare_container(row, request);
            self.refuse(key, &text);
            return true;
        }
        match row.handler {
            Handler::Forward | Handler::Split => self.forward(key, row, request),
            Handler::Script => {
                if matches!(row.name, "eval" | "eval_ro") && local::has_its_keys(request) {
                    self.remember(key, request.arg(1));
                }
                self.forward(key, row, request);
            }
            Handler::Publish => self.publish(key, row, request),
            Handler::Subscribe(what) => {
                if !self.subscription(key, row, what, request) {
                    return false;
                }
            }
            Handler::Local(Local::Monitor) => {
                if !self.monitor(key, row, request) {
                    return false;
                }
            }
            Handler::Local(Local::ClientTracking) => {
                if !self.client_tracking(key, row, request) {
                    return false;
                }
            }
            Handler::Local(Local::ClientCaching) => self.client_caching(key, row, request),
            Handler::Blocking if !local::blocks(row, request) => {
                match local::kills_node(row, request) {
                    Some(text) => self.refuse(key, &text),
                    None => self.forward(key, row, request),
                }
            }
            Handler::Local(
                what @ (Local::ClientInfo
                | Local::ClientList
                | Local::ClientKill
                | Local::ClientUnblock
                | Local::ClientPause
                | Local::ClientUnpause),
            ) if local::arity_fits(row, request.len()) => {
                self.client_command(key, row, what, request)
            }
            Handler::Local(Local::Select) if !self.is_cluster() => {
                if !self.select(key, row, request) {
                    return false;
                }
            }
            Handler::OneServer if !self.is_cluster() => self.forward(key, row, request),
            Handler::Local(what) => return self.local(key, row, what, request),
            Handler::Transaction(what) => return self.transaction(key, row, what, request),
            Handler::Blocking => return self.blocking(key, row, request),
            Handler::Scan => return self.scan(key, row, request),
            Handler::ClusterFace(what) => self.cluster_face(key, row, what, request),
            Handler::Gather(what) => {
                if !self.gather(key, row, what, request) {
                    return false;
                }
            }
            _ if !local::arity_fits(row, request.len()) => {
                self.refuse(key, &local::wrong_arity(row.name));
            }
            _ => {
                let text = local::not_supported(row);
                self.refuse(key, &text);
            }
        }
        self.counters.commands += 1;
        true
    }

    /// A command of one slot, or of none.
    fn forward(&mut self, key: Key, row: &'static Row, request: &Request<'_>) {
        if self.one_server {
            // All keys are in one place, and in one order.
            let reads = self.reads_elsewhere && keys::key_slot(row, request) != KeySlot::None;
            let slot = if reads { self.read_lane(key, row, 0) } else { 0 };
            return self.dispatch(key, Some(row), slot, request, 1);
        }
        let slot = match keys::key_slot(row, request) {
            KeySlot::One(slot) => slot,
            KeySlot::None => NO_SLOT,
            KeySlot::Cross if row.handler == Handler::Split => {
                return self.dispatch_split(key, row, request);
            }
            KeySlot::Cross => {
                self.refuse(key, "CROSSSLOT Keys in request don't hash to the same slot");
                return;
            }
        };
        let slot = if self.reads_elsewhere { self.read_lane(key, row, slot) } else { slot };
        self.dispatch(key, Some(row), slot, request, 1);
    }

    /// Answers with an error the proxy makes itself.
    pub(super) fn refuse(&mut self, key: Key, text: &str) {
        self.counters.error_replies += 1;
        self.scratch.clear();
        encode::error(&mut self.scratch, text);
        if let Some(s) = self.sessions.get_mut(key) {
            s.answer(&self.scratch);
        }
        self.mark_session(key);
    }

    /// A command the proxy answers itself.
    pub(super) fn local(
        &mut self,
        key: Key,
        row: &'static Row,
        what: Local,
        request: &Request<'_>,
    ) -> bool {
        let Some(s) = self.sessions.get_mut(key) else {
            return true;
        };
        if local::needs_empty_window(what) && !s.window.is_empty() {
            s.waits_for_empty = true;
            return false;
        }
        s.waits_for_empty = false;
        if what == Local::Reset {
            s.transaction = None;
            self.unwatch(key);
            self.end_subscriptions(key);
            self.end_tracking(key);
            self.end_monitor(key);
            self.forget_user(key);
        }
        if self.access.is_some() && self.says_who(key, row, what, request) {
            return true;
        }
        let Some(s) = self.sessions.get_mut(key) else {
            return true;
        };
        let server = self.topology.as_ref().map(|t| t.server.clone()).unwrap_or_default();
        let facts = local::Facts { server: &server.name, version: &server.version };
        self.scratch.clear();
        self.counters.commands += 1;
        match local::answer(s, row, what, request, &facts, &mut self.scratch) {
            local::Outcome::Answered => {
                let says_hello = what == Local::Hello && s.streams.is_some();
                if self.scratch.first() == Some(&b'-') {
                    self.counters.error_replies += 1;
                }
                s.answer(&self.scratch);
                self.mark_session(key);
                if says_hello {
                    self.tracking_after_hello(key);
                }
            }
            local::Outcome::Forward => self.forward(key, row, request),
            local::Outcome::NotSupported => {
                let text = local::not_supported(row);
                self.refuse(key, &text);
            }
        }
        true
    }

    /// Gives the command a ticket and queues it on the pipe of its slot, or behind a fence.
    #[inline]
    pub(super) fn dispatch(
        &mut self,
        key: Key,
        row: Option<&'static Row>,
        slot: u16,
        request: &Request<'_>,
        replies: u32,
    ) {
        let place = self.place(key, slot);
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        if let Some(preamble) = s.take_preamble() {
            // CLIENT CACHING and its command go as one block, however often they are sent.
            let block = [preamble, request.frame].concat();
            let request = Request::new(&block, None, &[]);
            return self.dispatch_to(key, row, slot, &request, replies + 1, place);
        }
        self.dispatch_to(key, row, slot, request, replies, place);
    }

    #[inline]
    fn dispatch_to(
        &mut self,
        key: Key,
        row: Option<&'static Row>,
        slot: u16,
        request: &Request<'_>,
        replies: u32,
        place: Place,
    ) {
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        let pipe = if let Place::Pipe(pipe) = place { pipe } else { Key::NONE };
        let ticket = s.window.open(row, slot, pipe, request.frame.len(), self.now);
        match place {
            Place::Pipe(pipe) => {
                if let Some(row) = row
                    && row.handler == Handler::Script
                {
                    self.tell_script(pipe, row, request);
                }
                self.push(pipe, block_entry(key, ticket, 0, replies), request);
            }
            Place::Behind(outstanding) => {
                self.hold(key, slot, held(ticket, 0, request.to_bytes(), replies), outstanding);
            }
            Place::Nowhere => self.no_route(key, ticket, 0, request.to_bytes(), replies),
        }
    }

    /// Splits a multi-key command whose keys lie in several slots.
    fn dispatch_split(&mut self, key: Key, row: &'static Row, request: &Request<'_>) {
        let Some(mut split) = split::split(row.name, request) else {
            // A node would look at the slots before it counts the arguments.
            return self.refuse(key, &local::wrong_arity(row.name));
        };
        let mut frames = std::mem::take(&mut self.scratch);
        frames.clear();
        let ends = split.frames(request, &mut frames);
        let mut slots = std::mem::take(&mut split.slots);
        if self.reads_elsewhere {
            slots.iter_mut().for_each(|slot| *slot = self.read_lane(key, row, *slot));
        }
        self.dispatch_parts(key, row, &slots, split.merge(row.name), request.frame.len(), |i| {
            let start = if i == 0 { 0 } else { ends[i - 1] };
            &frames[start..ends[i]]
        });
        self.scratch = frames;
    }

    /// Sends one frame to each of `slots` and merges the replies.
    pub(super) fn dispatch_parts<'f>(
        &mut self,
        key: Key,
        row: &'static Row,
        slots: &[u16],
        merge: Merge,
        len: usize,
        frame: impl Fn(usize) -> &'f [u8],
    ) {
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        let version = s.version;
        // An empty window lets the session move on to the newest slot map before the ticket opens.
        s.adopt_epoch(self.epoch);
        let preamble = s.take_preamble();
        let replies = 1 + u32::from(preamble.is_some());
        let ticket = s.window.open_parts(Some(row), slots, merge, version, len, self.now);
        for (i, &slot) in slots.iter().enumerate() {
            let part = i as u16;
            let block = preamble.map(|p| [p, frame(i)].concat());
            let frame = block.as_deref().unwrap_or_else(|| frame(i));
            // The part itself is counted among those in flight from here on: it waits for a reply.
            match self.place_beside(key, slot, 1) {
                Place::Pipe(pipe) => {
                    let s = self.sessions.get_mut(key);
                    if let Some(leg) = s.and_then(|s| s.window.leg_mut(ticket, part)) {
                        leg.pipe = pipe;
                    }
                    let entry = block_entry(key, ticket, part, replies);
                    self.push(pipe, entry, &Request::new(frame, None, &[]));
                }
                Place::Behind(outstanding) => {
                    let held = held(ticket, part, Bytes::copy_from_slice(frame), replies);
                    self.hold(key, slot, held, outstanding);
                }
                Place::Nowhere => {
                    self.no_route(key, ticket, part, Bytes::copy_from_slice(frame), replies);
                }
            }
        }
    }

    /// Queues a request on a pipe.
    #[inline]
    pub(super) fn push(&mut self, pipe: Key, entry: Entry, request: &Request<'_>) {
        if let Some(p) = self.pipes.get_mut(pipe) {
            p.push(entry, request, self.now);
            if !p.dirty && p.wants_write() {
                p.dirty = true;
                self.work.pipes.push(pipe);
            }
        }
        if !self.ticking {
            self.start_ticking();
        }
    }

    /// Where a session's next command for a slot goes.
    #[inline]
    fn place(&mut self, key: Key, slot: u16) -> Place {
        self.place_beside(key, slot, 0)
    }

    /// The same when the command's own leg is already in the window (`own` = 1).
    #[inline]
    fn place_beside(&mut self, key: Key, slot: u16, own: u32) -> Place {
        let Some(s) = self.sessions.get_mut(key) else {
            return Place::Nowhere;
        };
        if s.fences.as_deref().is_some_and(|f| f.holds(slot)) {
            return Place::Behind(0);
        }
        let kind = s.kind();
        let pipe = if s.tracks() {
            self.tracking_pipe_for(key, slot)
        } else {
            self.pipe_for(key, slot, kind)
        };
        let Some(pipe) = pipe else {
            return Place::Nowhere;
        };
        let Some(s) = self.sessions.get_mut(key) else {
            return Place::Nowhere;
        };
        let slot_epoch = self.slot_epochs.get(usize::from(slot)).copied().unwrap_or(self.epoch);
        let mut outstanding = s.must_wait_for(slot, slot_epoch, pipe, self.epoch, own);
        if self.pipes.get(pipe).is_some_and(|p| p.reauthenticating) {
            // What is in flight was sent before the AUTH and will be rejected; this would not.
            outstanding = s.in_flight_of(slot).saturating_sub(own);
        } else if self.retiring > 0 {
            outstanding = s.in_flight_elsewhere(slot, pipe, own);
        }
        if outstanding > 0 { Place::Behind(outstanding) } else { Place::Pipe(pipe) }
    }

    #[cold]
    pub(super) fn no_route(
        &mut self,
        key: Key,
        ticket: u32,
        part: u16,
        frame: Bytes,
        replies: u32,
    ) {
        self.troubled.push(super::Troubled {
            session: key,
            ticket,
            part,
            frame,
            replies,
            trouble: crate::session::redirect::Trouble::NoRoute,
            node: UNASSIGNED,
            ask: None,
            said: "no node is known for this slot yet".into(),
        });
    }
}

/// Where a command goes.
enum Place {
    /// To this pipe.
    Pipe(Key),
    /// Behind its slot's fence; raised, if need be, for so many commands in flight.
    Behind(u32),
    /// No node is known.
    Nowhere,
}

fn held(ticket: u32, part: u16, frame: Bytes, replies: u32) -> Held {
    Held { ticket, part, frame, replies, target: Target::Route, not_before: 0, why: None }
}

/// An entry whose reply goes to a session's window.
pub(super) fn entry(session: Key, ticket: u32, part: u16) -> Entry {
    block_entry(session, ticket, part, 1)
}

/// An entry that brings several replies, of which the last goes to a session's window.
pub(super) fn block_entry(session: Key, ticket: u32, part: u16, replies: u32) -> Entry {
    Entry { session, ticket, part, purpose: Purpose::Forward, len: 0, due: replies, replies }
}

/// The table row of a request: of the subcommand, when the command is a container.
#[inline]
fn find_row(request: &Request<'_>) -> Option<&'static Row> {
    let row = lookup::command(request.arg(0))?;
    if row.container && request.len() > 1 {
        return Some(lookup::subcommand(row, request.arg(1)).unwrap_or(row));
    }
    Some(row)
}
