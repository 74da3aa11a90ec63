//! Pub/Sub: subscriptions of many sessions over a few connections.
//!
//! Channels and patterns ride on one node, the worker's home, which also takes its PUBLISHes: so a
//! publisher's messages keep their order, and the numbers PUBLISH and PUBSUB NUMSUB tell can count
//! each session. Shard channels ride on the node of their slot and follow it. All of these pipes
//! speak RESP3, where AUTH is possible while subscribed; a RESP2 client gets the same bytes with
//! another first one. Invariant: SUBSCRIBE and its relatives run alone in their session, and a
//! session hears a name only after its confirmation was written. A lost pipe's names are asked for
//! again at once; messages of that moment are lost, as in any cluster.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::buffer::LARGE;
use crate::cluster::topology::UNASSIGNED;
use crate::command::keys::{self, KeySlot};
use crate::command::merge::Merge;
use crate::command::slot::slot;
use crate::command::spec::{Row, Subscription};
use crate::key::Key;
use crate::resp::reply::{Class, classify};
use crate::resp::request::Request;
use crate::resp::{Version, encode};
use crate::session::core::Closing;
use crate::session::local;
use crate::session::redirect::Trouble;
use crate::session::subscriptions::{Kind, Push, Waiting, read_push};
use crate::session::window::{NO_SLOT, Reply};
use crate::upstream::kind::Kind as PipeKind;
use crate::upstream::pipe::{Duty, Entry, Pipe, Purpose, State};

use super::request::entry;
use super::topics::{Answered, in_questions};
use super::{Alarm, Hub};

/// Redis's `client-output-buffer-limit pubsub`: a subscriber that leaves more than this unread
/// (bytes) is disconnected at once.
const MAX_UNREAD: usize = 32 << 20;

/// One that leaves more than this unread (bytes) …
const SLOW_UNREAD: usize = 8 << 20;

/// … for so long (ms) is disconnected too.
const SLOW_MS: u64 = 60_000;

/// A pipe that only listens is asked for a sign of life when it was silent for so long (ms).
const KEEPALIVE_MS: u64 = 15_000;

/// A refused subscription is asked for again after so long (ms): the nodes may disagree for a while
/// who owns a slot.
const REFUSED_MS: u64 = 20;

/// One that is not permitted, if somebody had it before (ms).
const DENIED_MS: u64 = 5_000;

impl Hub {
    /// SUBSCRIBE and its five relatives. False: the session must wait first.
    pub(super) fn subscription(
        &mut self,
        key: Key,
        row: &'static Row,
        what: Subscription,
        request: &Request<'_>,
    ) -> bool {
        if !local::arity_fits(row, request.len()) {
            self.refuse(key, &local::wrong_arity(row.name));
            return true;
        }
        if self.must_be_alone(key) {
            return false;
        }
        let (kind, subscribe) = Kind::of(what);
        let names: Vec<Bytes> = request.args().skip(1).map(Bytes::copy_from_slice).collect();
        if subscribe {
            self.subscribe(key, kind, names);
        } else {
            self.unsubscribe(key, kind, names);
        }
        true
    }

    fn subscribe(&mut self, key: Key, kind: Kind, names: Vec<Bytes>) {
        let now = self.now;
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        let subscriptions = &mut s.streams.get_or_insert_default().subscriptions;
        let new: BTreeSet<&Bytes> = names.iter().filter(|n| !subscriptions.has(kind, n)).collect();
        let missing = new.into_iter().filter(|n| self.topics.wait(kind, n, key)).count();
        subscriptions.waiting = Some(Waiting { kind, names, missing, since: now });
        s.alone = true;
        if missing == 0 {
            return self.subscribed(key);
        }
        self.topics.waiting.push(key);
        self.start_ticking();
        self.start_listening();
    }

    /// Every name of the session's SUBSCRIBE is confirmed: it is told, and hears them from now on.
    fn subscribed(&mut self, key: Key) {
        self.topics.waiting.retain(|k| *k != key);
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        let version = s.version;
        let Some(subscriptions) = s.streams.as_deref_mut().map(|x| &mut x.subscriptions) else {
            return;
        };
        let Some(Waiting { kind, names, .. }) = subscriptions.waiting.take() else {
            return;
        };
        let mut out = Vec::new();
        for name in names {
            if subscriptions.add(kind, name.clone()) {
                self.topics.hear(kind, &name, key);
            }
            subscriptions.confirm(kind, true, Some(&name), version, &mut out);
        }
        // Confirmations are pushes: CLIENT REPLY OFF does not hold them back.
        s.out.push(&out);
        self.mark_session(key);
        self.end_alone(key);
    }

    fn unsubscribe(&mut self, key: Key, kind: Kind, names: Vec<Bytes>) {
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        let version = s.version;
        let subscriptions = &mut s.streams.get_or_insert_default().subscriptions;
        let all = names.is_empty();
        let names =
            if all { subscriptions.names(kind).cloned().collect::<Vec<_>>() } else { names };
        let mut out = Vec::new();
        let mut left = Vec::new();
        for name in &names {
            if subscriptions.remove(kind, name) {
                left.push(name.clone());
            }
            subscriptions.confirm(kind, false, Some(name), version, &mut out);
        }
        if names.is_empty() {
            subscriptions.confirm(kind, false, None, version, &mut out);
        }
        s.out.push(&out);
        s.tidy_streams();
        self.mark_session(key);
        self.leave(key, kind, left);
    }

    /// The session hears these names no more; nodes are told when nobody else does.
    fn leave(&mut self, key: Key, kind: Kind, names: Vec<Bytes>) {
        let mut left = Vec::new();
        for name in names {
            if let Some(pipe) = self.topics.leave(kind, &name, key) {
                left.push((pipe, kind, name));
            }
        }
        self.counters.subscriptions = self.topics.len() as u64;
        for (pipe, kind, names) in in_questions(left) {
            self.ask(pipe, kind, false, names);
        }
    }

    /// The session ends, or says RESET: it is subscribed to nothing.
    pub(super) fn end_subscriptions(&mut self, key: Key) {
        let Some(streams) = self.sessions.get_mut(key).and_then(|s| s.streams.as_deref_mut())
        else {
            return;
        };
        let subscriptions = std::mem::take(&mut streams.subscriptions);
        self.leave_all(key, &subscriptions);
    }

    /// The same for a session that is gone already.
    pub(super) fn leave_all(
        &mut self,
        key: Key,
        subscriptions: &crate::session::subscriptions::Subscriptions,
    ) {
        for kind in Kind::ALL {
            self.leave(key, kind, subscriptions.names(kind).cloned().collect());
        }
        if let Some(w) = &subscriptions.waiting {
            self.leave(key, w.kind, w.names.clone());
        }
        self.topics.waiting.retain(|k| *k != key);
    }

    /// PUBLISH and SPUBLISH.
    pub(super) fn publish(&mut self, key: Key, row: &'static Row, request: &Request<'_>) {
        let surplus = match (self.topics.is_empty(), row.name) {
            (true, _) => 0,
            _ if request.len() != 3 => 0,
            (false, "publish") => self.topics.surplus_of_publish(request.arg(1)),
            (false, _) => self.topics.surplus(Kind::Shard, request.arg(1)),
        };
        let slot = match keys::key_slot(row, request) {
            KeySlot::One(slot) => slot,
            KeySlot::None | KeySlot::Cross => NO_SLOT,
        };
        if surplus == 0 {
            return self.dispatch(key, Some(row), slot, request, 1);
        }
        let frame = request.frame;
        self.dispatch_parts(key, row, &[slot], Merge::Plus(surplus), frame.len(), |_| frame);
    }

    /// What PUBSUB NUMSUB and SHARDNUMSUB have to add to the nodes' numbers, by name.
    pub(super) fn surplus_of_numsub(&self, kind: Kind, request: &Request<'_>) -> Vec<i64> {
        if self.topics.is_empty() {
            return Vec::new();
        }
        request.args().skip(2).map(|name| self.topics.surplus(kind, name)).collect()
    }

    /// Places every name that has no pipe.
    #[cold]
    pub(super) fn place_topics(&mut self) {
        self.topics.dirty = false;
        self.counters.subscriptions = self.topics.len() as u64;
        self.follow_slots();
        let mut placed = Vec::new();
        let mut later = Vec::new();
        for (kind, name) in std::mem::take(&mut self.topics.homeless) {
            if self.topics.get(kind, &name).is_none_or(|t| t.pipe != Key::NONE) {
                continue;
            }
            let node = match kind {
                Kind::Channel | Kind::Pattern => self.home(),
                Kind::Shard => {
                    let node = self.routes.get(usize::from(slot(&name))).copied();
                    node.unwrap_or(UNASSIGNED)
                }
            };
            // While its node's subscriber is being replaced, it waits a round trip.
            if node == UNASSIGNED || self.is_settling(node) {
                later.push((kind, name));
            } else {
                placed.push((self.subscriber(node), kind, name));
            }
        }
        self.topics.homeless = later;
        for (pipe, kind, names) in in_questions(placed) {
            self.ask(pipe, kind, true, names);
        }
    }

    /// Shard channels whose slot has another owner now are asked for there.
    fn follow_slots(&mut self) {
        let mut moved = Vec::new();
        for (name, topic) in self.topics.of(Kind::Shard) {
            let node = self.pipes.get(topic.pipe).map(|p| p.node);
            let owner = self.routes.get(usize::from(slot(name))).copied().unwrap_or(UNASSIGNED);
            if let Some(node) = node
                && owner != UNASSIGNED
                && owner != node
            {
                moved.push((name.clone(), topic.pipe));
            }
        }
        for (name, pipe) in moved {
            self.topics.evict(Kind::Shard, &name);
            self.ask(pipe, Kind::Shard, false, vec![name]);
        }
        if self.topics.home != UNASSIGNED && !self.primaries.contains(&self.topics.home) {
            // No longer a primary, perhaps on its way out: the channels move while it still lives.
            let node = std::mem::replace(&mut self.topics.home, UNASSIGNED);
            if let Some(&(_, pipe)) = self.topics.pipes.iter().find(|(n, _)| *n == node) {
                self.drop_pipe(pipe, "its node is no primary any more");
            }
        }
    }

    /// The node that carries channels and patterns; chosen at random, and kept.
    fn home(&mut self) -> u16 {
        if self.topics.home == UNASSIGNED && !self.primaries.is_empty() {
            let now = self.now;
            let usable =
                |n: &&u16| self.nodes.get(usize::from(**n)).is_some_and(|n| n.may_dial(now));
            let usable: Vec<u16> = self.primaries.iter().filter(usable).copied().collect();
            let among = if usable.is_empty() { &self.primaries } else { &usable };
            self.topics.home = among[self.rng.usize(0..among.len())];
            // Keyless commands go there from now on; a session's earlier ones come home first.
            self.epoch += 1;
        }
        self.topics.home
    }

    /// The pipe for subscriptions to a node, made if there is none.
    fn subscriber(&mut self, node: u16) -> Key {
        if let Some(&(_, pipe)) = self.topics.pipes.iter().find(|(n, _)| *n == node) {
            return pipe;
        }
        let pipe = self.private_pipe(node, Version::V3.into(), Duty::Subscriber, None);
        self.topics.pipes.push((node, pipe));
        pipe
    }

    /// A pipe to `node` for one purpose; `preamble` is said before it carries anything.
    pub(super) fn private_pipe(
        &mut self,
        node: u16,
        kind: PipeKind,
        duty: Duty,
        preamble: Option<Bytes>,
    ) -> Key {
        let mut pipe = Pipe::new(node, kind, self.now);
        pipe.duty = duty;
        pipe.preamble = preamble;
        let key = self.pipes.insert_with(|_| pipe);
        self.counters.pipes_connecting += 1;
        self.try_dial(key);
        key
    }

    /// Asks a pipe's node to begin or end subscriptions.
    pub(super) fn ask(&mut self, pipe: Key, kind: Kind, subscribe: bool, names: Vec<Bytes>) {
        if self.pipes.get(pipe).is_some() {
            self.say(pipe, kind, subscribe, &names);
            self.topics.ask(pipe, kind, subscribe, names);
        }
    }

    /// Asks for a subscription while another pipe carries the topics.
    pub(super) fn ask_besides(&mut self, pipe: Key, kind: Kind, names: Vec<Bytes>) {
        if self.pipes.get(pipe).is_some() {
            self.say(pipe, kind, true, &names);
            self.topics.ask_besides(pipe, kind, names);
        }
    }

    fn say(&mut self, pipe: Key, kind: Kind, subscribe: bool, names: &[Bytes]) {
        let now = self.now;
        let mut frame = Vec::new();
        let verb = kind.verb(subscribe);
        encode::header(&mut frame, b'*', 1 + names.len() as i64);
        encode::bulk(&mut frame, verb.to_ascii_uppercase().as_bytes());
        names.iter().for_each(|name| encode::bulk(&mut frame, name));
        if let Some(p) = self.pipes.get_mut(pipe) {
            let question = Entry { purpose: Purpose::Subscribe, ..entry(Key::NONE, 0, 0) };
            p.push_bytes(question, frame.into(), now);
        }
        self.mark_pipe(pipe);
        self.start_ticking();
    }

    /// A push of a node.
    pub(super) fn pushed(&mut self, pipe: Key, duty: Duty, push: Reply<'_>) {
        match duty {
            Duty::Subscriber => {
                let what = read_push(push.as_slice());
                if !self.handovers.is_empty() && self.handover_takes(pipe, &what, &push) {
                    return;
                }
                match what {
                    Push::Message(kind, name) => self.spread(pipe, kind, name, &push),
                    Push::Confirmed(kind, subscribe, name) => {
                        self.confirmed(pipe, kind, subscribe, name);
                    }
                    Push::Invalidate | Push::Other => {}
                }
            }
            Duty::Tracking(session) => self.hear(session, push),
            // Nobody subscribed on these.
            Duty::Shared | Duty::Lease | Duty::Monitor(_) => {}
        }
    }

    /// Gives a message to everyone who hears the name.
    fn spread(&mut self, pipe: Key, kind: Kind, name: &[u8], push: &Reply<'_>) {
        let Some(topic) = self.topics.get(kind, name) else {
            return;
        };
        // What comes before the confirmation is left from an earlier subscription on this pipe; what came
        // since from another node is newer.
        if topic.pipe != pipe || !topic.confirmed {
            return;
        }
        let large = match push {
            Reply::Shared(bytes) => Some(bytes.clone()),
            Reply::Borrowed(bytes) if bytes.len() >= LARGE => Some(Bytes::copy_from_slice(bytes)),
            Reply::Borrowed(_) => None,
        };
        for &key in &topic.subscribers {
            let Some(s) = self.sessions.get_mut(key) else {
                continue;
            };
            match (s.version, &large) {
                (Version::V3, Some(bytes)) => s.out.push_shared(bytes.clone()),
                (Version::V3, None) => s.out.push(push.as_slice()),
                (Version::V2, Some(bytes)) => {
                    s.out.push(b"*");
                    s.out.push_shared(bytes.slice(1..));
                }
                (Version::V2, None) => {
                    s.out.push(b"*");
                    s.out.push(push.as_slice().get(1..).unwrap_or_default());
                }
            }
            if s.is_too_slow(self.now, MAX_UNREAD, SLOW_UNREAD, SLOW_MS)
                && s.closing != Closing::Now
            {
                s.closing = Closing::Now;
                self.counters.closed_output += 1;
            }
            if !s.dirty {
                s.dirty = true;
                self.work.sessions.push(key);
            }
        }
        self.counters.messages += topic.subscribers.len() as u64;
    }

    /// A node says that a name is, or is not, subscribed to.
    fn confirmed(&mut self, pipe: Key, kind: Kind, subscribe: bool, name: &[u8]) {
        match self.topics.confirm(pipe, kind, subscribe, name) {
            Answered::InPart => {}
            Answered::Whole(kind, names) => {
                if let Some(p) = self.pipes.get_mut(pipe)
                    && let Some(question) = p.pop()
                {
                    p.release(&question);
                }
                self.tell_waiters(kind, &names);
                self.handover_answered(pipe);
            }
            Answered::Unasked if !subscribe => {
                // The slot of a shard channel left the node: ask the owner, once it is known.
                let name = Bytes::copy_from_slice(name);
                if self.topics.get(kind, &name).is_some_and(|t| t.pipe == pipe) {
                    self.topics.evict(kind, &name);
                    self.work.refresh = Some(crate::cluster::refresh::Reason::ClusterDown);
                }
            }
            Answered::Unasked => {}
        }
    }

    fn tell_waiters(&mut self, kind: Kind, names: &[Bytes]) {
        let mut done = Vec::new();
        for name in names {
            let waiters =
                self.topics.get(kind, name).map(|t| t.waiters.clone()).unwrap_or_default();
            for key in waiters {
                let waiting = self
                    .sessions
                    .get_mut(key)
                    .and_then(|s| s.streams.as_deref_mut())
                    .and_then(|x| x.subscriptions.waiting.as_mut());
                if let Some(w) = waiting {
                    w.missing = w.missing.saturating_sub(1);
                    if w.missing == 0 {
                        done.push(key);
                    }
                }
            }
        }
        done.into_iter().for_each(|key| self.subscribed(key));
    }

    /// The reply to a SUBSCRIBE of the proxy's own is an error.
    pub(super) fn subscription_refused(&mut self, pipe: Key, line: &[u8]) {
        if self.handover_refused(pipe) {
            return;
        }
        let Some(refused) = self.topics.refuse(pipe) else {
            return;
        };
        let class = classify(line);
        let delay = if Trouble::of(&class).is_some() { REFUSED_MS } else { DENIED_MS };
        self.set_alarm(self.now + delay, Alarm::Topics);
        if let Class::Moved(redirect) = &class
            && let Some(node) = self.pipes.get(pipe).map(|p| p.node)
        {
            self.counters.moved += 1;
            let asked = self.nodes[usize::from(node)].addr.clone();
            self.learn_moved(redirect.slot, redirect.addr(&asked));
            return;
        }
        if Trouble::of(&class).is_some() || matches!(class, Class::WrongPass) {
            // The node cannot now, or wants AUTH: a new connection tries again, at the node's pace.
            let text =
                String::from_utf8_lossy(line.get(1..).unwrap_or_default()).trim_end().to_owned();
            return self.dial_failed(pipe, &format!("SUBSCRIBE was refused: {text}"));
        }
        // The server's own word, e.g. NOPERM: for all who wait for one of these names.
        let (kind, names) = refused;
        let mut waiters: BTreeSet<Key> = BTreeSet::new();
        for name in &names {
            waiters.extend(self.topics.get(kind, name).iter().flat_map(|t| t.waiters.iter()));
        }
        for key in waiters {
            self.subscribe_failed(key, line);
        }
    }

    /// The session's SUBSCRIBE cannot be carried out.
    fn subscribe_failed(&mut self, key: Key, line: &[u8]) {
        self.topics.waiting.retain(|k| *k != key);
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        let waiting = s.streams.as_deref_mut().and_then(|x| x.subscriptions.waiting.take());
        let new: Vec<Bytes> = match (&waiting, s.streams.as_deref()) {
            (Some(w), Some(x)) => {
                w.names.iter().filter(|n| !x.subscriptions.has(w.kind, n)).cloned().collect()
            }
            _ => Vec::new(),
        };
        s.answer(line);
        s.tidy_streams();
        self.counters.error_replies += 1;
        self.mark_session(key);
        if let Some(w) = waiting {
            self.leave(key, w.kind, new);
        }
        self.end_alone(key);
    }

    /// Sessions whose SUBSCRIBE has waited too long are told why.
    pub(super) fn fail_late_subscribers(&mut self) {
        let op_timeout = self.settings.op_timeout.as_millis() as u64;
        let mut late = Vec::new();
        for &key in &self.topics.waiting {
            let streams = self.sessions.get(key).and_then(|s| s.streams.as_deref());
            if let Some(w) = streams.and_then(|x| x.subscriptions.waiting.as_ref())
                && self.now.saturating_sub(w.since) >= op_timeout
            {
                let unconfirmed = w
                    .names
                    .iter()
                    .find_map(|n| self.topics.get(w.kind, n).filter(|t| !t.confirmed));
                late.push((key, unconfirmed.map_or(Key::NONE, |t| t.pipe)));
            }
        }
        for (key, pipe) in late {
            let cause = if self.pipes.get(pipe).is_some() {
                self.waiting_cause(pipe)
            } else {
                self.no_route_cause()
            };
            let text = format!(
                "ERR memorystore-auth-proxy: the subscription could not be made within {} (--op-timeout): {cause}",
                super::trouble::humantime(self.settings.op_timeout)
            );
            let mut line = Vec::new();
            encode::error(&mut line, &text);
            self.counters.fail_deadline += 1;
            self.subscribe_failed(key, &line);
        }
    }

    /// A pipe for subscriptions is gone; `connected` tells whether it ever carried any.
    pub(super) fn subscriber_lost(&mut self, key: Key, node: u16, connected: bool) {
        let carried = self.topics.pipes.contains(&(node, key));
        self.topics.lose(key);
        self.handover_lost(key);
        if self.topics.home == node && !connected && carried {
            // It cannot be reached: let another node carry the channels.
            self.topics.home = UNASSIGNED;
        }
    }

    /// Begins to look after pipes that only listen.
    pub(super) fn start_listening(&mut self) {
        if !self.listening {
            self.listening = true;
            self.set_alarm(self.now + KEEPALIVE_MS / 2, Alarm::Listen);
        }
    }

    /// Asks silent listening pipes for a sign of life, so that a dead node is noticed.
    pub(super) fn keep_alive(&mut self) {
        self.listening = false;
        let now = self.now;
        let listens = |p: &Pipe| matches!(p.duty, Duty::Subscriber | Duty::Tracking(_));
        let mut silent = Vec::new();
        let mut any = false;
        for (key, pipe) in self.pipes.iter().filter(|(_, p)| listens(p)) {
            any = true;
            let is_silent = now.saturating_sub(pipe.progress_at) >= KEEPALIVE_MS / 2;
            if matches!(pipe.state, State::Ready) && pipe.in_flight() == 0 && is_silent {
                silent.push(key);
            }
        }
        for key in silent {
            if let Some(p) = self.pipes.get_mut(key) {
                let ping = Entry { purpose: Purpose::Discard, ..entry(Key::NONE, 0, 0) };
                p.push(ping, &Request::new(b"*1\r\n$4\r\nPING\r\n", None, &[]), now);
            }
            self.mark_pipe(key);
            self.start_ticking();
        }
        if any {
            self.start_listening();
        }
    }
}
