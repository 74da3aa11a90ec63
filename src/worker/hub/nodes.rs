//! The nodes: which one owns a slot, the pipes to them, and when they are dialled.
//!
//! Invariant: at most one shared pipe per (node, kind); a node that refuses dials or AUTH is
//! tried again no sooner than its backoff says, whoever asks. A MOVED is believed at once; the
//! watcher's next snapshot confirms or corrects it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::Arc;

use crate::cluster::refresh::Reason;
use crate::cluster::topology::{Mode, NodeAddr, SLOTS, Topology, UNASSIGNED};
use crate::credentials::CredentialState;
use crate::key::Key;
use crate::session::redirect::Trouble;
use crate::session::window::{NO_SLOT, READ_LANE};
use crate::upstream::backoff::Backoff;
use crate::upstream::handshake::{Handshake, auth_frame};
use crate::upstream::kind::{ByKind, Kind};
use crate::upstream::pipe::{Duty, Entry, Pipe, Purpose, Returned, State};

use super::request::entry;
use super::{Alarm, Dial, Hub, Troubled};

/// A node that was ever named by the cluster.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) addr: NodeAddr,
    /// Shared pipes.
    pipes: ByKind<Key>,
    /// Leases nobody holds, oldest first.
    pub(super) idle: Vec<(Kind, Key)>,
    /// Its replicas (indices), if it is a primary and reads may go there.
    pub(super) replicas: Vec<u16>,
    /// It refused a read a moment ago: until then (ms) others are asked.
    pub(super) rests_until: u64,
    pub(super) backoff: Backoff,
    pub(super) next_dial: u64,
    /// An attempt is under way that will tell whether it is well again.
    pub(super) probing: bool,
    pub(super) last_error: Option<Arc<str>>,
    /// Generation of the credential it refused last with WRONGPASS; 0: none.
    pub(super) refused_credential: u64,
    /// It was reported as failing, and not yet as well again.
    pub(super) reported: bool,
}

impl Node {
    /// The shared pipe of a kind, if there ever was one.
    pub(super) fn pipe(&self, kind: Kind) -> Option<Key> {
        self.pipes.get(kind)
    }

    pub(super) fn set_pipe(&mut self, kind: Kind, pipe: Key) {
        self.pipes.set(kind, pipe);
    }

    /// When its backoff allows a dial or an AUTH (ms of the worker's clock).
    pub(super) fn next_dial(&self) -> u64 {
        self.next_dial
    }

    /// True when its backoff allows a dial now.
    pub(super) fn may_dial(&self, now: u64) -> bool {
        self.next_dial <= now
    }
}

impl Node {
    /// Its shared pipe of a kind, if there ever was one.
    #[inline]
    pub(super) fn shared(&self, kind: Kind) -> Option<Key> {
        self.pipes.get(kind)
    }
}

/// What `/status` shows of a node.
#[derive(Debug, Clone)]
pub struct NodeStatus {
    /// Its address.
    pub addr: NodeAddr,
    /// Connections that carry traffic.
    pub ready: usize,
    /// Connections being made.
    pub connecting: usize,
    /// Commands in flight.
    pub in_flight: usize,
    /// Since when its oldest connection is authenticated (ms).
    pub authenticated_ms_ago: Option<u64>,
    /// When a connection will be authenticated again, or replaced (ms).
    pub next_renewal_in_ms: Option<u64>,
    /// For how long it is not dialled (ms).
    pub backoff_ms: Option<u64>,
    /// What went wrong last, cleared by the next success.
    pub last_error: Option<Arc<str>>,
}

impl Hub {
    /// A new snapshot of the cluster.
    pub fn set_topology(&mut self, topology: Arc<Topology>) {
        let primaries: Vec<u16> =
            topology.shards.iter().map(|s| self.node_index(&s.primary)).collect();
        self.epoch += 1;
        for slot in 0..SLOTS {
            let node =
                primaries.get(usize::from(topology.slots[slot])).copied().unwrap_or(UNASSIGNED);
            if self.routes[slot] != node {
                self.routes[slot] = node;
                self.slot_epochs[slot] = self.epoch;
                self.scans_see_move(node);
            }
        }
        self.learn_replicas(&topology);
        self.one_server = topology.mode == Mode::Standalone;
        // Another server may have others.
        self.databases.clear();
        self.topology = Some(topology);
        self.primaries = primaries;
        self.choose_shard_slots();
        let fenced: Vec<Key> =
            self.sessions.iter().filter(|(_, s)| s.fences.is_some()).map(|(k, _)| k).collect();
        for key in fenced {
            if let Some(f) = self.sessions.get_mut(key).and_then(|s| s.fences.as_deref_mut()) {
                f.hurry();
            }
            self.fenced.push(key);
        }
        self.requeue_unconnected();
        self.topics.dirty = true;
        self.cover_trackers();
        self.cover_monitors();
        self.settle();
    }

    /// Commands that wait for a connection are routed anew: their slot may have a new owner.
    fn requeue_unconnected(&mut self) {
        let waiting: Vec<Key> = self
            .pipes
            .iter()
            .filter(|(_, p)| !matches!(p.state, State::Ready) && p.in_flight() > 0)
            .filter(|(_, p)| p.duty != Duty::Subscriber)
            .map(|(k, _)| k)
            .collect();
        for key in waiting {
            let said = self.waiting_cause(key);
            self.hand_back_waiting(key, &said);
        }
    }

    /// The slot's owner, as a MOVED just told.
    pub(super) fn learn_moved(&mut self, slot: u16, addr: NodeAddr) {
        let node = self.node_index(&addr);
        let at = usize::from(slot);
        if self.routes[at] != node {
            self.epoch += 1;
            self.routes[at] = node;
            self.slot_epochs[at] = self.epoch;
            self.scans_see_move(node);
            self.choose_shard_slots();
            self.topics.dirty = true;
        }
    }

    /// Index of a node, which is added if it is new.
    pub(super) fn node_index(&mut self, addr: &NodeAddr) -> u16 {
        if let Some(&n) = self.node_of.get(addr) {
            return n;
        }
        let Some(n) = u16::try_from(self.nodes.len()).ok().filter(|&n| n < UNASSIGNED) else {
            // Somebody names a new one with each redirect. Any node says where a slot is.
            return 0;
        };
        self.nodes.push(Node {
            addr: addr.clone(),
            pipes: ByKind::new(Key::NONE),
            idle: Vec::new(),
            replicas: Vec::new(),
            rests_until: 0,
            backoff: Backoff::new(self.settings.auth_backoff_min, self.settings.auth_backoff_max),
            next_dial: 0,
            probing: false,
            last_error: None,
            refused_credential: 0,
            reported: false,
        });
        self.node_of.insert(addr.clone(), n);
        n
    }

    /// The pipe for commands of a slot; `None` when no node is known for it.
    #[inline]
    pub(super) fn pipe_for(&mut self, session: Key, slot: u16, kind: Kind) -> Option<Key> {
        let node = match self.routes.get(usize::from(slot)) {
            Some(&node) => node,
            None if slot & READ_LANE != 0 => {
                return self.read_pipe(session, slot & !READ_LANE, kind);
            }
            None => self.any_node(session)?,
        };
        let pipe = self.nodes.get(usize::from(node))?.shared(kind);
        match pipe {
            Some(pipe) if self.pipes.get(pipe).is_some() => Some(pipe),
            _ => Some(self.pipe_to(node, kind)),
        }
    }

    /// The node for commands without a key: always the same one for a session, so that its PUBLISHes
    /// stay in order; spread over the shards by session.
    pub(super) fn any_node(&self, session: Key) -> Option<u16> {
        if self.topics.home != UNASSIGNED {
            return Some(self.topics.home);
        }
        self.primaries.get(session.index() % self.primaries.len().max(1)).copied()
    }

    /// The shared pipe to a node, made if there is none.
    pub(super) fn pipe_to(&mut self, node: u16, kind: Kind) -> Key {
        let at = usize::from(node);
        if let Some(known) = self.nodes[at].shared(kind)
            && self.pipes.get(known).is_some()
        {
            return known;
        }
        let now = self.now;
        let key = self.pipes.insert_with(|_| Pipe::new(node, kind, now));
        self.counters.pipes_connecting += 1;
        self.nodes[at].pipes.set(kind, key);
        self.try_dial(key);
        key
    }

    /// Dials a pipe if its node's backoff and the credential allow it now.
    pub(super) fn try_dial(&mut self, key: Key) {
        let Some(pipe) = self.pipes.get_mut(key) else {
            return;
        };
        if !matches!(pipe.state, State::Backoff) {
            return;
        }
        match self.credential {
            CredentialState::Ready { .. } | CredentialState::NotNeeded => {}
            // `set_credential` comes back here.
            CredentialState::Pending | CredentialState::Failed { .. } => return,
        }
        let node = &self.nodes[usize::from(pipe.node)];
        if node.next_dial > self.now {
            let at = node.next_dial;
            self.set_alarm(at, Alarm::Dial(key));
            return;
        }
        if pipe.queued {
            return;
        }
        if self.dial_queue.is_empty() {
            match self.pace.take(self.now) {
                Ok(()) => return self.dial(key),
                Err(at) => self.set_alarm(at, Alarm::Pace),
            }
        }
        if let Some(pipe) = self.pipes.get_mut(key) {
            pipe.queued = true;
        }
        self.dial_queue.push_back(key);
    }

    fn dial(&mut self, key: Key) {
        let Some(pipe) = self.pipes.get_mut(key) else {
            return;
        };
        pipe.state = State::Dialing;
        pipe.progress_at = self.now;
        let node = &mut self.nodes[usize::from(pipe.node)];
        node.attempt(self.now);
        let addr = node.addr.clone();
        self.work.dials.push(Dial { pipe: key, addr });
    }

    /// The bucket lets waiting dials through.
    pub(super) fn dial_queued(&mut self) {
        while let Some(&key) = self.dial_queue.front() {
            let may = self.pipes.get(key).is_some_and(|p| {
                matches!(p.state, State::Backoff)
                    && self.nodes.get(usize::from(p.node)).is_some_and(|n| n.may_dial(self.now))
            });
            if may && let Err(at) = self.pace.take(self.now) {
                return self.set_alarm(at, Alarm::Pace);
            }
            self.dial_queue.pop_front();
            if let Some(p) = self.pipes.get_mut(key) {
                p.queued = false;
            }
            if may {
                self.dial(key);
            } else {
                // Its node refuses at the moment: it waits for that instead.
                self.try_dial(key);
            }
        }
    }

    /// A node that refused an older credential is asked with the new one at once.
    pub(super) fn forgive_wrong_credentials(&mut self) {
        let Some(generation) = self.credential().map(|c| c.generation) else {
            return;
        };
        for node in &mut self.nodes {
            if node.refused_credential != 0 && node.refused_credential < generation {
                node.refused_credential = 0;
                node.next_dial = 0;
                node.probing = false;
            }
        }
    }

    /// The socket of a pipe is connected.
    pub fn pipe_connected(&mut self, key: Key) {
        let credential = self.credential().cloned();
        let Some(pipe) = self.pipes.get_mut(key) else {
            return;
        };
        self.counters.dials_ok += 1;
        let (mut handshake, mut bytes) = Handshake::begin(pipe.kind, credential.as_deref());
        if pipe.duty == Duty::Lease {
            // CLIENT UNBLOCK wants its name.
            handshake.identify(&mut bytes);
        }
        if let Some(preamble) = &pipe.preamble {
            bytes.reserve_exact(preamble.len());
            handshake.then(preamble, &mut bytes);
        }
        pipe.control = bytes;
        pipe.credential = credential.map_or(0, |c| c.generation);
        pipe.progress_at = self.now;
        let ready = handshake.is_ready();
        pipe.state = State::Handshaking(handshake);
        if ready {
            self.pipe_ready(key);
        }
        self.mark_pipe(key);
        self.start_ticking();
        self.settle();
    }

    /// The handshake is done: user traffic flows.
    pub(super) fn pipe_ready(&mut self, key: Key) {
        let Some(pipe) = self.pipes.get_mut(key) else {
            return;
        };
        if let State::Handshaking(handshake) = &pipe.state {
            pipe.client_id = handshake.identity();
        }
        pipe.state = State::Ready;
        pipe.progress_at = self.now;
        self.counters.pipes_connecting -= 1;
        self.counters.pipes_ready += 1;
        if pipe.credential != 0 {
            self.counters.auth_ok += 1;
        }
        self.node_is_well(key);
        self.plan_life(key);
        self.take_over(key);
        self.mark_pipe(key);
        match self.pipes.get(key).map(|p| p.duty) {
            Some(Duty::Tracking(session)) => self.tracking_ready(session),
            Some(Duty::Monitor(session)) => self.monitor_ready(session),
            // The command it was lent for may have been given up meanwhile.
            Some(Duty::Lease) => self.give_back(key),
            Some(Duty::Shared | Duty::Subscriber) | None => {}
        }
    }

    /// The node wants AUTH on a connection that had it: authenticate again, in band.
    pub(super) fn reauthenticate(&mut self, key: Key) {
        let Some(credential) = self.credential().cloned() else {
            return;
        };
        let now = self.now;
        let Some(pipe) = self.pipes.get_mut(key) else {
            return;
        };
        if pipe.reauthenticating || pipe.retiring || !matches!(pipe.state, State::Ready) {
            return;
        }
        pipe.reauthenticating = true;
        pipe.tried_credential = credential.generation;
        let entry = Entry { purpose: Purpose::Reauth, ..entry(Key::NONE, 0, 0) };
        let frame = auth_frame(&credential);
        pipe.push(entry, &crate::resp::request::Request::new(&frame, None, &[]), now);
        self.mark_pipe(key);
    }

    /// The node accepted an AUTH.
    pub(super) fn auth_accepted(&mut self, key: Key) {
        self.node_is_well(key);
        // A newer token may have come while this one was on its way.
        self.plan_renewals();
    }

    /// Lets a shared pipe take no more commands; a new one follows it.
    pub(super) fn retire(&mut self, key: Key) {
        let now = self.now;
        let Some(pipe) = self.pipes.get_mut(key) else {
            return;
        };
        if pipe.retiring || pipe.duty != Duty::Shared {
            return;
        }
        pipe.retiring = true;
        self.retiring += 1;
        self.counters.pipes_retiring += 1;
        let (node, kind) = (pipe.node, pipe.kind);
        let next = self.pipes.insert_with(|_| Pipe::new(node, kind, now));
        self.counters.pipes_connecting += 1;
        self.nodes[usize::from(node)].pipes.set(kind, next);
        self.try_dial(next);
    }

    /// The socket of a pipe is gone, or is given up: `cause` says why.
    pub fn pipe_lost(&mut self, key: Key, cause: &str) {
        let Some(pipe) = self.pipes.get(key) else {
            return;
        };
        if matches!(pipe.state, State::Ready) {
            if let Some(node) = self.nodes.get_mut(usize::from(pipe.node)) {
                node.last_error = Some(cause.into());
            }
            self.drop_pipe(key, cause);
            self.work.refresh = Some(Reason::NodeLost);
        } else {
            self.dial_failed(key, cause);
        }
        self.settle();
    }

    /// Removes a pipe; its commands become trouble, in order.
    pub(super) fn drop_pipe(&mut self, key: Key, cause: &str) {
        let Some(mut pipe) = self.pipes.remove(key) else {
            return;
        };
        self.forget_weight(pipe.counted);
        let node = pipe.node;
        let carried = matches!(pipe.state, State::Ready);
        if carried {
            self.counters.pipes_ready -= 1;
        } else {
            self.counters.pipes_connecting -= 1;
        }
        let known = &mut self.nodes[usize::from(node)];
        if pipe.duty == Duty::Lease {
            known.idle.retain(|(_, k)| *k != key);
        } else {
            known.pipes.forget(pipe.kind, key, Key::NONE);
        }
        self.retiring -= u32::from(pipe.retiring);
        self.counters.pipes_retiring -= u64::from(pipe.retiring);
        self.work.hangups.push(key);
        let returned = pipe.take_back();
        self.trouble_returned(returned, node, cause);
        if let Some(old) = pipe.replaces {
            self.replacement_failed(old);
        }
        match pipe.duty {
            Duty::Subscriber => self.subscriber_lost(key, node, carried),
            Duty::Tracking(session) => self.tracking_lost(session, key, carried),
            Duty::Monitor(session) => self.monitor_lost(session, key),
            Duty::Shared => self.scripts.forget_node(node),
            Duty::Lease => {}
        }
    }

    /// Commands that waited for a connection until their deadline: all go back, the overdue fail.
    pub(super) fn fail_overdue(&mut self, key: Key) {
        let said = self.waiting_cause(key);
        self.hand_back_waiting(key, &said);
    }

    /// Why a pipe does not carry traffic yet.
    pub(super) fn waiting_cause(&self, key: Key) -> String {
        let node = self.pipes.get(key).and_then(|p| self.nodes.get(usize::from(p.node)));
        match &self.credential {
            CredentialState::Pending => {
                "no credential yet: the first token is still awaited".into()
            }
            CredentialState::Failed { error } => format!("no credential: {error}"),
            _ => {
                node.and_then(|n| n.last_error.as_deref()).unwrap_or("no connection yet").to_owned()
            }
        }
    }

    /// Takes the waiting commands from a pipe that carries no traffic yet; its dial goes on.
    fn hand_back_waiting(&mut self, key: Key, said: &str) {
        let Some(pipe) = self.pipes.get_mut(key) else {
            return;
        };
        let node = pipe.node;
        let returned = pipe.take_waiting();
        self.trouble_returned(returned, node, said);
    }

    /// Commands a pipe gave back become trouble, in order.
    fn trouble_returned(&mut self, returned: Vec<Returned>, node: u16, said: &str) {
        let said: Arc<str> = said.into();
        for r in returned {
            if r.entry.purpose != Purpose::Forward {
                match r.entry.purpose {
                    Purpose::Learn => self.question_lost(r.entry.ticket, &said),
                    Purpose::Unblock => self.unblock_lost(&r.entry),
                    _ => {}
                }
                continue;
            }
            self.troubled.push(Troubled {
                session: r.entry.session,
                ticket: r.entry.ticket,
                part: r.entry.part,
                frame: r.frame,
                replies: r.entry.replies,
                trouble: Trouble::Lost { sent: r.sent },
                node,
                ask: None,
                said: said.clone(),
            });
        }
    }

    /// Why no node is known for a slot.
    pub(super) fn no_route_cause(&self) -> String {
        match (&self.topology, &self.credential) {
            (_, CredentialState::Failed { error }) => format!("no credential: {error}"),
            (_, CredentialState::Pending) => "the first token is still awaited".into(),
            (None, _) => "the cluster could not be discovered yet (see /status and the log)".into(),
            (Some(_), _) => "the slot map has no owner for it".into(),
        }
    }

    /// The nodes as `/status` shows them.
    pub fn node_statuses(&self) -> Vec<NodeStatus> {
        let mut all: Vec<NodeStatus> = self
            .nodes
            .iter()
            .map(|n| NodeStatus {
                addr: n.addr.clone(),
                ready: 0,
                connecting: 0,
                in_flight: 0,
                authenticated_ms_ago: None,
                next_renewal_in_ms: None,
                backoff_ms: (n.next_dial > self.now).then(|| n.next_dial - self.now),
                last_error: n.last_error.clone(),
            })
            .collect();
        for (_, pipe) in self.pipes.iter() {
            if let Some(status) = all.get_mut(usize::from(pipe.node)) {
                match pipe.state {
                    State::Ready => {
                        status.ready += 1;
                        let age = self.now.saturating_sub(pipe.authenticated_at);
                        let oldest = &mut status.authenticated_ms_ago;
                        *oldest = Some(oldest.map_or(age, |a| a.max(age)));
                        let next = pipe.renew_at.min(pipe.retire_at);
                        if next != u64::MAX {
                            let left = next.saturating_sub(self.now);
                            let first = &mut status.next_renewal_in_ms;
                            *first = Some(first.map_or(left, |f| f.min(left)));
                        }
                    }
                    _ => status.connecting += 1,
                }
                status.in_flight += pipe.in_flight();
            }
        }
        all
    }
}

// `NO_SLOT` is one past the last index of `routes`, so that keyless commands miss the array.
const _: () = assert!(NO_SLOT as usize == SLOTS && NO_SLOT & READ_LANE == 0);
