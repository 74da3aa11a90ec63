//! The hub: all sessions and all pipes of one worker thread, and everything that passes between.
//!
//! This is where a command travels. `request` takes it from the client's bytes to a pipe,
//! `reply` takes the answer from the pipe to the session's window, `trouble` sends again what was
//! redirected, rejected or lost, and `nodes` keeps the slot map and the pipes to the nodes.
//!
//! Invariant: one owner for all state of a worker, no socket, no task, no clock, no lock. Bytes,
//! events and `now` come in; what is to be written stands in the `out` queues, and what else is to
//! be done in [`Work`]. `worker::io` does it. (The starting design had a task and a channel on each
//! side; one owner needs neither, and a whole worker can be driven in a unit test.)
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod access;
#[cfg(test)]
mod access_tests;
mod clients;
mod databases;
mod exclusive;
mod exec;
mod face;
mod gather;
mod handover;
#[cfg(test)]
mod handover_tests;
mod learn;
mod lease;
mod memory;
#[cfg(test)]
mod merge_tests;
mod monitor;
mod nodes;
mod pause;
mod peers;
mod pubsub;
mod reads;
mod refusals;
#[cfg(test)]
mod refusals_tests;
mod renewal;
#[cfg(test)]
mod renewal_tests;
mod reply;
mod request;
mod scan;
mod scripts;
#[cfg(any(test, fuzzing))]
mod sim;
#[cfg(any(test, fuzzing))]
mod sim_settings;
mod topics;
mod tracking;
mod trouble;
mod unblock;
#[cfg(test)]
mod wait_tests;
mod work;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::access::Access;
use crate::cluster::topology::{NodeAddr, SLOTS, Topology, UNASSIGNED};
use crate::credentials::{Credential, CredentialState};
use crate::key::{Arena, Key};
use crate::resp::request::ArgRange;
use crate::session::core::{Closing, Profile, Session, hold};
use crate::session::fence::Held;
use crate::session::redirect::Trouble;
use crate::session::scan::Scans;
use crate::session::scripts::Scripts;
use crate::session::streams::Streams;
use crate::upstream::pace::Pace;
use crate::upstream::pipe::{Entry, Pipe};

use access::Audit;
pub use access::Refusal;
use handover::Handover;
use learn::Lessons;
use memory::Memory;
pub use memory::Relieved;
use nodes::Node;
pub use nodes::NodeStatus;
use pause::Pause;
use peers::Peers;
pub use peers::{Answer, Letter, Question};
pub use reads::ReadFrom;
#[cfg(fuzzing)]
pub use sim::run as simulate;
#[cfg(test)]
pub(crate) use sim_settings::settings as test_settings;
use topics::Topics;
use unblock::Unblockings;
pub use work::{Counters, Dial, Note, Settings, Work};

/// A command that cannot be answered with the reply it got.
#[derive(Debug)]
struct Troubled {
    session: Key,
    ticket: u32,
    part: u16,
    frame: Bytes,
    replies: u32,
    trouble: Trouble,
    /// Node that answered, or was lost.
    node: u16,
    /// Target of an ASK.
    ask: Option<u16>,
    /// What the server or the socket said, for the error reply of last resort.
    said: Arc<str>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    /// A fence of a session may let its head go.
    Fence(Key, u16),
    /// A pipe may be dialled.
    Dial(Key),
    /// The bucket lets another dial through.
    Pace,
    /// A pipe is to be renewed or replaced.
    Life(Key),
    /// Look at deadlines.
    Tick,
    /// Subscriptions that were refused may be asked for again.
    Topics,
    /// Look after pipes that only listen.
    Listen,
    /// A subscriber's handover to this pipe has lasted long enough.
    Handover(Key),
    /// Ask again to unblock a client.
    Unblock(u32),
    /// A CLIENT PAUSE may be over.
    Unpause,
    /// Look for idle clients.
    Sweep,
}

/// See the module header.
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
    /// Who may do what; nearly always everybody everything.
    access: Option<Arc<Access>>,
    audit: Audit,
    sessions: Arena<Session>,
    pipes: Arena<Pipe>,
    nodes: Vec<Node>,
    node_of: HashMap<NodeAddr, u16>,
    /// Slot → node index of the primary, or [`UNASSIGNED`].
    routes: Box<[u16; SLOTS]>,
    /// Slot → epoch of its last change.
    slot_epochs: Box<[u32; SLOTS]>,
    epoch: u32,
    topology: Option<Arc<Topology>>,
    /// A slot of each shard, by which commands for all shards reach it.
    shard_slots: Vec<u16>,
    /// Node index of each shard's primary.
    primaries: Vec<u16>,
    /// Reads may go to replicas.
    reads_elsewhere: bool,
    /// Behind is one server without cluster mode.
    one_server: bool,
    /// Databases that server is known to have.
    databases: BTreeSet<u32>,
    credential: CredentialState,
    rng: fastrand::Rng,
    now: u64,
    now_us: u64,
    pace: Pace,
    /// Pipes the bucket let wait, in order.
    dial_queue: VecDeque<Key>,
    alarms: BinaryHeap<Reverse<(u64, Alarm)>>,
    ticking: bool,
    /// Pipes that retire: while there are any, commands of a slot may be in flight on an older one.
    retiring: u32,
    scans: Scans<NodeAddr>,
    scripts: Scripts,
    /// What the worker is subscribed to for its sessions.
    topics: Topics,
    handovers: Vec<Handover>,
    /// Sessions with CLIENT TRACKING in RESP3.
    trackers: Vec<Key>,
    /// Sessions that MONITOR.
    monitors: Vec<Key>,
    /// Sessions that lost a connection of their own.
    uncovered: Vec<Key>,
    /// An alarm for pipes that only listen is set.
    listening: bool,
    lessons: Lessons,
    peers: Peers,
    unblockings: Unblockings,
    /// CLIENT PAUSE; nearly always none.
    pause: Option<Box<Pause>>,
    memory: Memory,
    /// An alarm to look for idle clients is set.
    sweeping: bool,
    troubled: Vec<Troubled>,
    fenced: Vec<Key>,
    /// Fences with nothing in flight any more.
    unfenced: Vec<(Key, u16)>,
    resuming: Vec<Key>,
    args: Vec<ArgRange>,
    scratch: Vec<u8>,
    /// What is to be done outside.
    pub work: Work,
    /// Events counted so far.
    pub counters: Counters,
}

/// Bytes read ahead while a command runs alone.
const MAX_READ_AHEAD: usize = 64 * 1024;

/// How often deadlines are looked at while something is in flight.
const TICK_MS: u64 = 100;

impl Hub {
    /// A hub without sessions that does not know the cluster yet. `seed` feeds its jitter.
    pub fn new(settings: Settings, seed: u64) -> Self {
        let pace = Pace::per_second(settings.dial_rate_limit);
        Self {
            reads_elsewhere: settings.read_from != ReadFrom::Primary,
            settings,
            access: None,
            audit: Audit::default(),
            sessions: Arena::default(),
            pipes: Arena::default(),
            nodes: Vec::new(),
            node_of: HashMap::new(),
            routes: Box::new([UNASSIGNED; SLOTS]),
            slot_epochs: Box::new([0; SLOTS]),
            epoch: 0,
            topology: None,
            shard_slots: Vec::new(),
            primaries: Vec::new(),
            one_server: false,
            databases: BTreeSet::new(),
            credential: CredentialState::Pending,
            rng: fastrand::Rng::with_seed(seed),
            now: 0,
            now_us: 0,
            pace,
            dial_queue: VecDeque::new(),
            alarms: BinaryHeap::new(),
            ticking: false,
            retiring: 0,
            scans: Scans::default(),
            scripts: Scripts::default(),
            topics: Topics::default(),
            handovers: Vec::new(),
            trackers: Vec::new(),
            monitors: Vec::new(),
            uncovered: Vec::new(),
            listening: false,
            lessons: Lessons::default(),
            peers: Peers::default(),
            unblockings: Unblockings::default(),
            pause: None,
            memory: Memory::default(),
            sweeping: false,
            troubled: Vec::new(),
            fenced: Vec::new(),
            unfenced: Vec::new(),
            resuming: Vec::new(),
            args: Vec::new(),
            scratch: Vec::new(),
            work: Work::default(),
            counters: Counters::default(),
        }
    }

    /// Sets the clock (ms since the worker started); never goes back.
    pub fn set_now(&mut self, now: u64) {
        self.now = self.now.max(now);
    }

    /// The same clock, finer (µs), for measurements alone.
    pub fn set_now_us(&mut self, now: u64) {
        self.now_us = now;
    }

    /// That clock.
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// The clock.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// A client connected.
    pub fn client_open(&mut self, mut profile: Profile) -> Key {
        profile.since = self.now;
        let epoch = self.epoch;
        self.counters.clients += 1;
        self.watch_idle();
        let (max_merge, max_pipeline) = (self.settings.max_merge, self.settings.max_pipeline);
        let key = self.sessions.insert_with(|key| {
            let mut session = Session::new(key, profile, epoch);
            session.window.max_merge = max_merge;
            session.max_pipeline = max_pipeline;
            session
        });
        if self.access.is_some() {
            self.greet(key);
        }
        key
    }

    /// The client will send no more; it still gets the replies that are due.
    pub fn client_eof(&mut self, key: Key) {
        if let Some(s) = self.sessions.get_mut(key) {
            if s.alone && s.blocked {
                // As a server does: nobody is there to take the element.
                s.closing = Closing::Now;
            } else if s.holds & hold::LEARNING != 0 {
                s.ends_after_input = true;
            } else if s.closing == Closing::No {
                s.closing = Closing::AfterReplies;
            }
            self.mark_session(key);
        }
    }

    /// The process is to end: sessions take no more commands, and end when their replies are out.
    /// Those within MULTI or WATCH go on; call it again, until no session is left.
    pub fn drain(&mut self) {
        let ends = |s: &Session| s.transaction.is_none() && s.watched_slot.is_none();
        let all: Vec<Key> = self.sessions.iter().filter(|(_, s)| ends(s)).map(|(k, _)| k).collect();
        for key in all {
            if let Some(s) = self.sessions.get_mut(key) {
                s.holds = 0;
                s.input.clear();
            }
            self.client_eof(key);
        }
    }

    /// The client's connection is gone.
    pub fn client_gone(&mut self, key: Key) {
        let Some(session) = self.sessions.remove(key) else {
            return;
        };
        self.forget_weight(session.counted);
        // Blocked commands must not take an element for nobody: their connections are closed.
        let blocked = session.window.waiting_legs().filter(|l| l.leased).map(|l| l.pipe);
        for pipe in blocked.chain(session.lease).collect::<Vec<Key>>() {
            self.release_lease(pipe, false);
        }
        if let Some(streams) = session.streams {
            self.end_streams(key, *streams);
        }
        self.settle();
    }

    /// A session that listened is gone.
    fn end_streams(&mut self, key: Key, streams: Streams) {
        self.leave_all(key, &streams.subscriptions);
        self.trackers.retain(|k| *k != key);
        self.monitors.retain(|k| *k != key);
        if let Some(t) = streams.tracking {
            self.drop_tracking_pipes(t);
        }
        if let Some(m) = streams.monitor {
            self.drop_monitor_pipes(m);
        }
    }

    /// The session, for the sockets' side: its `out` queue.
    pub fn session_mut(&mut self, key: Key) -> Option<&mut Session> {
        self.sessions.get_mut(key)
    }

    /// The pipe, for the sockets' side: its `out` queue and handshake bytes.
    pub fn pipe_mut(&mut self, key: Key) -> Option<&mut Pipe> {
        self.pipes.get_mut(key)
    }

    /// True while the client's socket should be read. After a false the session is listed in
    /// [`Work::readable`] when it may be read again.
    pub fn wants_read(&mut self, key: Key) -> bool {
        let Some(s) = self.sessions.get_mut(key) else {
            return false;
        };
        // A session that runs a command alone is read on, up to a point, so that its end is seen.
        let waits = s.alone || s.holds != 0;
        let wanted = !s.resuming && (s.may_parse() || waits && s.input.len() < MAX_READ_AHEAD);
        s.read_paused = !wanted;
        wanted
    }

    /// Number of sessions.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// The credential to authenticate with, if there is one by now.
    fn credential(&self) -> Option<&Arc<Credential>> {
        match &self.credential {
            CredentialState::Ready { credential, .. } => Some(credential),
            _ => None,
        }
    }

    /// A new state of the credential; dials that waited for one begin.
    pub fn set_credential(&mut self, state: CredentialState) {
        self.credential = state;
        self.forgive_wrong_credentials();
        self.plan_renewals();
        let waiting: Vec<Key> = self.pipes.iter().map(|(k, _)| k).collect();
        for pipe in waiting {
            self.try_dial(pipe);
        }
        self.settle();
    }

    fn mark_session(&mut self, key: Key) {
        if let Some(s) = self.sessions.get_mut(key)
            && !s.dirty
        {
            s.dirty = true;
            self.work.sessions.push(key);
        }
    }

    fn mark_pipe(&mut self, key: Key) {
        if let Some(p) = self.pipes.get_mut(key)
            && !p.dirty
            && p.wants_write()
        {
            p.dirty = true;
            self.work.pipes.push(key);
        }
    }

    /// Carries out everything that follows from the last event: retries, resumed sessions.
    fn settle(&mut self) {
        loop {
            if !self.troubled.is_empty() {
                for troubled in std::mem::take(&mut self.troubled) {
                    self.handle(troubled);
                }
            } else if let Some((key, slot)) = self.unfenced.pop() {
                self.pump_fence(key, slot);
            } else if let Some(key) = self.fenced.pop() {
                self.pump_fences(key);
            } else if self.topics.dirty {
                self.place_topics();
            } else if !self.uncovered.is_empty() {
                self.cover_again();
            } else if let Some(key) = self.resuming.pop() {
                if let Some(s) = self.sessions.get_mut(key) {
                    s.resuming = false;
                    // A command that still has to wait says so again.
                    s.waits_for_empty = false;
                    self.parse_input(key);
                    self.work.readable.push(key);
                }
            } else {
                return;
            }
        }
    }

    fn set_alarm(&mut self, at: u64, alarm: Alarm) {
        self.alarms.push(Reverse((at, alarm)));
    }

    fn start_ticking(&mut self) {
        if !self.ticking {
            self.ticking = true;
            self.set_alarm(self.now + TICK_MS, Alarm::Tick);
        }
    }

    /// When [`Hub::on_time`] wants to be called next (ms of its clock).
    pub fn next_deadline(&self) -> Option<u64> {
        self.alarms.peek().map(|Reverse((at, _))| *at)
    }

    /// Time has passed.
    pub fn on_time(&mut self) {
        while let Some(Reverse((at, _))) = self.alarms.peek()
            && *at <= self.now
        {
            match self.alarms.pop() {
                Some(Reverse((_, Alarm::Fence(session, slot)))) => self.pump_fence(session, slot),
                Some(Reverse((_, Alarm::Dial(pipe)))) => self.try_dial(pipe),
                Some(Reverse((_, Alarm::Pace))) => self.dial_queued(),
                Some(Reverse((_, Alarm::Life(pipe)))) => self.come_of_age(pipe),
                Some(Reverse((_, Alarm::Unblock(id)))) => self.try_unblock(id),
                Some(Reverse((_, Alarm::Sweep))) => self.sweep_idle(),
                Some(Reverse((_, Alarm::Unpause))) => self.end_pause_in_time(),
                Some(Reverse((_, Alarm::Tick))) => self.tick(),
                Some(Reverse((_, Alarm::Topics))) => self.topics.end_delay(),
                Some(Reverse((_, Alarm::Listen))) => self.keep_alive(),
                Some(Reverse((_, Alarm::Handover(key)))) => self.end_handover(key),
                None => {}
            }
        }
        self.count_backoffs();
        self.settle();
    }

    /// Looks at deadlines: pipes without progress, and commands that wait for a connection.
    fn tick(&mut self) {
        self.ticking = false;
        let op_timeout = self.settings.op_timeout.as_millis() as u64;
        let connect_timeout = self.settings.connect_timeout.as_millis() as u64;
        let mut stalled = Vec::new();
        let mut overdue = Vec::new();
        let mut busy = false;
        let mut wanted = false;
        for (key, pipe) in self.pipes.iter() {
            busy |= pipe.in_flight() > 0
                || matches!(pipe.state, crate::upstream::pipe::State::Handshaking(_));
            match pipe.state {
                crate::upstream::pipe::State::Ready => {
                    // A replica's reads need the other half of their time for another node.
                    let patience = op_timeout >> u32::from(pipe.kind.readonly);
                    // A command that blocks has its own time first, then that of any other.
                    let quiet_since = pipe.progress_at.max(pipe.silent_until);
                    let quiet = self.now.saturating_sub(quiet_since);
                    if pipe.awaits_reply() && quiet >= patience {
                        stalled.push((key, "no reply within --op-timeout"));
                    } else if pipe.awaits_auth() && quiet >= connect_timeout {
                        // What waits behind it has time left for another connection.
                        stalled.push((key, "no answer to AUTH within --connect-timeout"));
                    }
                }
                crate::upstream::pipe::State::Handshaking(_)
                    if self.now.saturating_sub(pipe.progress_at) >= connect_timeout =>
                {
                    stalled.push((key, "no answer to AUTH within --connect-timeout"));
                }
                _ => {
                    let late = |e: &Entry| {
                        self.is_expired(e.session, e.ticket) || self.has_waited_out(e.session)
                    };
                    wanted |= pipe.in_flight() > 0;
                    if pipe.entries().any(late) {
                        overdue.push(key);
                    }
                }
            }
        }
        self.work.wants_credential |= wanted && self.has_no_credential();
        for (key, cause) in stalled {
            self.pipe_lost(key, cause);
        }
        for key in overdue {
            self.fail_overdue(key);
        }
        self.fail_late_subscribers();
        self.fail_late_streams();
        busy |= !self.topics.waiting.is_empty() || self.streams_start();
        busy |= self.tick_questions();
        busy |= self.tick_consultations();
        if busy {
            self.start_ticking();
        }
    }

    /// True when the command's deadline is over, or nobody waits for it any more.
    fn is_expired(&self, session: Key, ticket: u32) -> bool {
        let Some(since) = self.sessions.get(session).and_then(|s| s.window.since(ticket)) else {
            return false;
        };
        let age = (self.now as u32).wrapping_sub(since);
        u128::from(age) >= self.settings.op_timeout.as_millis()
    }

    /// True when the session's blocking command has waited as long as it asked for.
    fn has_waited_out(&self, session: Key) -> bool {
        let wait = self.sessions.get(session).and_then(|s| s.wait.as_deref());
        wait.is_some_and(|w| w.until <= self.now)
    }

    fn hold(&mut self, session: Key, slot: u16, held: Held, outstanding: u32) {
        let Some(s) = self.sessions.get_mut(session) else {
            return;
        };
        let fences = s.fences.get_or_insert_default();
        if !fences.holds(slot) {
            fences.raise(slot, outstanding);
        }
        fences.queue(slot, held);
    }
}
