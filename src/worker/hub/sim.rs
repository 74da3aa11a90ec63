//! A whole worker driven through a simulated cluster, with virtual time and random faults.
//!
//! Nodes (`node`) own slots, migrate them key by key, lose connections at any byte, refuse dials, and
//! forget authentications; their replicas lag, load, and are wrong about owners. Checked for every
//! seed: replies of a session in request order, one for each request; no write executed twice;
//! acknowledged writes executed; "not executed" never executed; writes of one session to one key
//! executed in request order; nothing left behind at the end.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a model fails by panicking, and shows what SIM_TRACE asks for"
)]

mod node;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::*;
use crate::cluster::topology::{Mode, Shard};
use crate::command::slot::slot;
use crate::credentials::Secret;
use crate::dice::Dice;
use crate::resp::encode;
use crate::resp::request::Request;
use crate::resp::scan::{ReplyScan, ReplyScanner, RequestScan, RequestScanner};

/// Primaries; the replica of node `n` is node `NODES + n`.
const NODES: usize = 4;
const KEYS: usize = 12;

/// A connection as the node sees it.
#[derive(Default)]
struct Wire {
    node: usize,
    /// Bytes on their way to the node.
    to_node: Vec<u8>,
    /// Bytes on their way back.
    to_proxy: Vec<u8>,
    asking: bool,
    readonly: bool,
    authenticated: bool,
    /// Commands queued since MULTI, and whether one was refused.
    multi: Option<(Vec<(String, String)>, bool)>,
}

#[derive(Clone, Copy)]
struct Slot {
    owner: usize,
    importing: Option<usize>,
}

/// What a client sent and expects.
struct Sent {
    value: String,
    write: bool,
    /// Values of a transaction whose EXEC this is.
    block: Vec<String>,
}

impl Sent {
    fn one(value: String, write: bool) -> Self {
        Self { value, write, block: Vec::new() }
    }

    /// The reply when all goes well.
    fn expected(&self) -> String {
        if self.block.is_empty() {
            return format!("+{}\r\n", self.value);
        }
        let each: String = self.block.iter().map(|v| format!("+{v}\r\n")).collect();
        format!("*{}\r\n{each}", self.block.len())
    }

    /// Everything it writes.
    fn writes(&self) -> Vec<String> {
        if self.block.is_empty() { vec![self.value.clone()] } else { self.block.clone() }
    }
}

#[derive(Default)]
struct Client {
    sent: VecDeque<Sent>,
    received: Vec<u8>,
    scanner: ReplyScanner,
    next: usize,
}

struct Sim {
    hub: Hub,
    rng: Dice,
    now: u64,
    slots: HashMap<u16, Slot>,
    /// Keys of a migrating slot that have arrived at the importing node.
    arrived: BTreeSet<String>,
    wires: BTreeMap<Key, Wire>,
    dialing: Vec<Dial>,
    clients: BTreeMap<Key, Client>,
    /// Every executed write: key → (session, value) in order of execution.
    executed: HashMap<String, Vec<(Key, String)>>,
    acked: Vec<String>,
    denied: Vec<String>,
    unknown: usize,
    auth: bool,
    /// Tokens so far.
    tokens: u64,
    /// AUTH may be refused.
    faulty: bool,
    /// Commands to print when a node sees them (SIM_TRACE, comma separated texts).
    trace: Option<String>,
}

fn addr(node: usize) -> NodeAddr {
    NodeAddr { host: format!("10.0.0.{node}").into(), port: 7000 }
}

impl Sim {
    fn new(seed: u64) -> Self {
        Self::with(Dice::with_seed(seed), seed)
    }

    fn with(mut rng: Dice, seed: u64) -> Self {
        let settings = Settings {
            op_timeout: Duration::from_secs(5),
            read_from: [ReadFrom::Primary, ReadFrom::PreferReplica, ReadFrom::Replica]
                [rng.usize(0..3)],
            auth_backoff_max: Duration::from_millis(400),
            // Connections come of age all the time, or never.
            max_connection_age: Duration::from_millis([0, 0, 200, 2000][rng.usize(0..4)]),
            dial_rate_limit: [0.0, 30.0][rng.usize(0..2)],
            ..super::sim_settings::settings()
        };
        let hub = Hub::new(settings, seed);
        let slots = (0..KEYS)
            .map(|i| {
                (slot(key(i).as_bytes()), Slot { owner: rng.usize(0..NODES), importing: None })
            })
            .collect();
        let auth = rng.bool();
        let mut sim = Self {
            hub,
            rng,
            now: 0,
            slots,
            arrived: BTreeSet::new(),
            wires: BTreeMap::new(),
            dialing: Vec::new(),
            clients: BTreeMap::new(),
            executed: HashMap::new(),
            acked: Vec::new(),
            denied: Vec::new(),
            unknown: 0,
            auth,
            tokens: 0,
            faulty: true,
            trace: std::env::var("SIM_TRACE").ok(),
        };
        sim.new_token();
        for _ in 0..sim.rng.usize(1..4) {
            let key = sim.hub.client_open(Profile::default());
            sim.clients.insert(key, Client::default());
        }
        sim
    }

    /// The next token, which lives for a second.
    fn new_token(&mut self) {
        if !self.auth {
            return self.hub.set_credential(CredentialState::NotNeeded);
        }
        self.tokens += 1;
        let credential = Arc::new(Credential {
            username: "default".into(),
            secret: Secret::new("token".into()),
            expires_at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1)),
            obtained_at: SystemTime::UNIX_EPOCH,
            generation: self.tokens,
            source: "test",
            principal: None,
        });
        self.hub.set_credential(CredentialState::Ready { credential, refresh_error: None });
    }

    fn publish_topology(&mut self) {
        let replicas = |n: usize, there: bool| there.then(|| addr(NODES + n)).into_iter().collect();
        let shards = (0..NODES)
            .map(|n| {
                let there = !self.faulty || self.rng.u32(0..4) > 0;
                Shard { primary: addr(n), replicas: replicas(n, there) }
            })
            .collect();
        let mut slots = Box::new([0u16; SLOTS]);
        for (&s, state) in &self.slots {
            slots[usize::from(s)] = state.owner as u16;
        }
        self.hub.set_topology(Arc::new(Topology {
            epoch: 0,
            mode: Mode::Cluster,
            shards,
            slots,
            server: Default::default(),
        }));
    }

    /// Does what the sockets' side would do.
    fn do_work(&mut self) {
        while !self.hub.work.is_empty() {
            let work = std::mem::take(&mut self.hub.work);
            for key in work.hangups {
                self.wires.remove(&key);
                self.dialing.retain(|d| d.pipe != key);
            }
            self.dialing.extend(work.dials);
            for key in work.pipes {
                let limit = self.rng.usize(1..400);
                let Some(wire) = self.wires.get_mut(&key) else {
                    continue;
                };
                let Some(pipe) = self.hub.pipe_mut(key) else {
                    continue;
                };
                pipe.dirty = false;
                wire.to_node.extend_from_slice(&pipe.control);
                pipe.control.clear();
                if pipe.may_send() {
                    let mut slices = [IoSlice::new(&[]); 8];
                    let n = pipe.out.unsent_slices(&mut slices);
                    let bytes: Vec<u8> = slices[..n].iter().flat_map(|s| s.to_vec()).collect();
                    // A socket may take less than is offered.
                    let take = bytes.len().min(limit);
                    wire.to_node.extend_from_slice(&bytes[..take]);
                    pipe.out.mark_sent(take);
                    self.hub.mark_pipe(key);
                }
            }
            for key in work.sessions {
                let Some(s) = self.hub.session_mut(key) else {
                    continue;
                };
                s.dirty = false;
                let mut slices = [IoSlice::new(&[]); 8];
                let n = s.out.unsent_slices(&mut slices);
                let bytes: Vec<u8> = slices[..n].iter().flat_map(|s| s.to_vec()).collect();
                s.out.consume(bytes.len());
                if s.out.unsent() > 0 {
                    s.dirty = true;
                    self.hub.work.sessions.push(key);
                }
                if let Some(c) = self.clients.get_mut(&key) {
                    c.received.extend_from_slice(&bytes);
                }
                self.read_replies(key);
            }
        }
    }

    fn read_replies(&mut self, key: Key) {
        let Some(c) = self.clients.get_mut(&key) else {
            return;
        };
        while !c.received.is_empty() {
            let ReplyScan::Complete(n) = c.scanner.scan(&c.received).expect("RESP") else {
                break;
            };
            let reply = String::from_utf8(c.received.drain(..n).collect()).expect("text");
            let sent = c.sent.pop_front().expect("a reply for each request, no more");
            if reply == sent.expected() {
                if sent.write {
                    self.acked.extend(sent.writes());
                }
            } else if reply.contains("may have been executed") {
                assert!(sent.write, "a read is retried, not given up: {reply}");
                self.unknown += 1;
            } else {
                assert!(
                    reply.contains("not executed")
                        || reply.contains("no reply from") && !sent.write,
                    "unexpected reply to {}: {reply}",
                    sent.value
                );
                self.denied.extend(sent.writes());
            }
        }
    }

    fn event(&mut self, faults: bool) {
        let pick = self.rng.u32(0..100);
        let wire = |sim: &mut Self| {
            let keys: Vec<Key> = sim.wires.keys().copied().collect();
            (!keys.is_empty()).then(|| keys[sim.rng.usize(0..keys.len())])
        };
        match pick {
            0..=19 if faults => self.client_sends(),
            0..=44 => {
                if let Some(w) = wire(self) {
                    for _ in 0..self.rng.usize(1..6) {
                        self.node_step(w);
                    }
                }
            }
            45..=69 => {
                if let Some(k) = wire(self)
                    && let Some(w) = self.wires.get_mut(&k)
                    && !w.to_proxy.is_empty()
                {
                    let n = self.rng.usize(1..=w.to_proxy.len());
                    let bytes: Vec<u8> = w.to_proxy.drain(..n).collect();
                    let replica = w.node >= NODES;
                    let routes = |hub: &Hub| -> Vec<u16> {
                        (0..KEYS)
                            .map(|i| hub.routes[usize::from(slot(key(i).as_bytes()))])
                            .collect()
                    };
                    let before = routes(&self.hub);
                    self.hub.pipe_data(k, &bytes);
                    assert!(!replica || routes(&self.hub) == before, "a replica told a route");
                }
            }
            70..=79 if !self.dialing.is_empty() => {
                let d = self.dialing.swap_remove(self.rng.usize(0..self.dialing.len()));
                if faults && self.rng.u32(0..4) == 0 {
                    self.hub.pipe_lost(d.pipe, "refused");
                } else if self.hub.pipe_mut(d.pipe).is_some() {
                    let node = (0..2 * NODES).find(|&n| addr(n) == d.addr).expect("known node");
                    self.wires.insert(d.pipe, Wire { node, ..Wire::default() });
                    self.hub.pipe_connected(d.pipe);
                }
            }
            80..=85 => {
                let step = self.rng.u64(1..60);
                self.pass(step);
            }
            86..=91 if faults => self.migrate(),
            92..=93 if faults => {
                if let Some(w) = wire(self) {
                    // What the node had received may or may not run before it sees the close.
                    for _ in 0..self.rng.usize(0..4) {
                        self.node_step(w);
                    }
                    self.wires.remove(&w);
                    self.hub.pipe_lost(w, "reset by peer");
                }
            }
            94..=95 if faults => {
                if let Some(k) = wire(self)
                    && let Some(w) = self.wires.get_mut(&k)
                {
                    w.authenticated = false;
                }
            }
            96..=97 => self.publish_topology(),
            98 => self.new_token(),
            _ => {}
        }
        self.do_work();
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
        self.hub.set_now(self.now);
        self.hub.on_time();
    }

    fn client_sends(&mut self) {
        let index = self.rng.usize(0..self.clients.len());
        let session = *self.clients.keys().nth(index).expect("client");
        let mut bytes = Vec::new();
        let hot = self.rng.bool();
        for _ in 0..self.rng.usize(1..8) {
            let i = if hot { self.rng.usize(0..2) } else { self.rng.usize(0..KEYS) };
            let k = key(i);
            let write = self.rng.u32(0..3) > 0;
            if self.rng.u32(0..8) == 0 {
                self.send_block(session, index, i, &mut bytes);
                continue;
            }
            let c = self.clients.get_mut(&session).expect("client");
            let value = format!("{index}/{:06}", c.next);
            c.next += 1;
            if write {
                encode::command(&mut bytes, &["SET", &k, &value]);
                c.sent.push_back(Sent::one(value, write));
            } else {
                encode::command(&mut bytes, &["GET", &k]);
                let value = key_value(k.as_bytes());
                c.sent.push_back(Sent::one(value, write));
            }
        }
        let cut = self.rng.usize(0..=bytes.len());
        self.hub.client_data(session, &bytes[..cut]);
        self.hub.client_data(session, &bytes[cut..]);
    }

    /// A transaction of two or three writes to the keys of a slot.
    fn send_block(&mut self, session: Key, index: usize, i: usize, bytes: &mut Vec<u8>) {
        let n = self.rng.usize(2..4);
        let c = self.clients.get_mut(&session).expect("client");
        encode::command(bytes, &["MULTI"]);
        c.sent.push_back(Sent::one("OK".into(), false));
        let mut block = Vec::new();
        for _ in 0..n {
            let value = format!("{index}/{:06}", c.next);
            c.next += 1;
            let k = key(if self.rng.bool() { i } else { i ^ 1 });
            encode::command(bytes, &["SET", &k, &value]);
            c.sent.push_back(Sent::one("QUEUED".into(), false));
            block.push(value);
        }
        encode::command(bytes, &["EXEC"]);
        c.sent.push_back(Sent { value: block[0].clone(), write: true, block });
    }

    /// One step of a slot's migration: begin, move a key, finish; or move it at once.
    fn migrate(&mut self) {
        let k = key(self.rng.usize(0..KEYS));
        let s = slot(k.as_bytes());
        let state = self.slots[&s];
        match state.importing {
            None => {
                let to = self.rng.usize(0..NODES);
                // A slot does not come back to a node before that node has answered what it was
                // sent for it: redirects come in runs.
                if to != state.owner && !self.slot_in_transit(s, None) {
                    let at_once = self.rng.bool();
                    let next = if at_once {
                        Slot { owner: to, importing: None }
                    } else {
                        Slot { owner: state.owner, importing: Some(to) }
                    };
                    self.slots.insert(s, next);
                }
            }
            Some(to) => {
                if self.rng.bool() {
                    self.arrived.insert(k);
                } else if !self.slot_in_transit(s, Some(to)) {
                    // The same for what was sent there too early.
                    self.arrived.retain(|k| slot(k.as_bytes()) != s);
                    self.slots.insert(s, Slot { owner: to, importing: None });
                }
            }
        }
    }

    /// Lets everything come to rest and checks what must hold.
    fn finish(mut self) {
        self.faulty = false;
        for s in self.slots.values_mut() {
            if let Some(to) = s.importing.take() {
                s.owner = to;
            }
        }
        self.arrived.clear();
        let mut turns = 0;
        while self.clients.values().any(|c| !c.sent.is_empty())
            || self.hub.pipes.iter().any(|(_, p)| p.in_flight() > 0)
        {
            // Events outrun the connections that come of age: with replicas there are many.
            (0..4).for_each(|_| self.event(false));
            self.pass(3);
            self.do_work();
            turns += 1;
            assert!(turns < 30_000, "replies are missing: {:?}", self.hub.troubled);
        }
        let executed: HashMap<&str, usize> =
            self.executed.values().flatten().fold(HashMap::new(), |mut m, (_, v)| {
                *m.entry(v.as_str()).or_default() += 1;
                m
            });
        assert!(executed.values().all(|&n| n == 1), "a write was executed twice");
        for value in &self.acked {
            assert!(executed.contains_key(value.as_str()), "acknowledged {value} was not executed");
        }
        for value in &self.denied {
            assert!(!executed.contains_key(value.as_str()), "{value} was executed after all");
        }
        for (key, log) in &self.executed {
            let mut last: HashMap<Key, &str> = HashMap::new();
            for (session, value) in log {
                if let Some(before) = last.insert(*session, value) {
                    assert!(before < value.as_str(), "{key}: {value} ran after {before}");
                }
            }
        }
        for key in self.clients.keys() {
            let s = self.hub.sessions.get(*key).expect("open");
            assert!(s.window.is_empty() && s.fences.is_none());
            assert_eq!(s.window.request_bytes(), 0, "credit is given back in full");
        }
        assert!(self.hub.pipes.iter().all(|(_, p)| p.in_flight() == 0 && p.out.held() == 0));
    }
}

fn key(i: usize) -> String {
    // Two keys share a slot, so that a migrating slot is half here, half there.
    format!("key-{i}{{{}}}", i / 2)
}

fn key_value(key: &[u8]) -> String {
    format!("value-of-{}", String::from_utf8_lossy(key))
}

/// Runs a history that a fuzzer chose, and checks it.
#[cfg(fuzzing)]
pub fn run(bytes: &[u8]) {
    let mut sim = Sim::with(Dice::of_bytes(bytes), 1);
    while !sim.rng.is_spent() {
        sim.event(true);
    }
    sim.finish();
}

/// A request larger than a session's credit stops the reading of its socket; the reply starts it
/// again, though nothing is left to parse.
#[test]
fn a_session_over_its_credit_is_read_again_after_the_reply() {
    let mut sim = Sim::new(1);
    sim.hub.settings.max_request = 1 << 30;
    sim.publish_topology();
    let session = *sim.clients.keys().next().expect("client");
    let mut bytes = Vec::new();
    let value = vec![b'x'; crate::session::core::MAX_IN_FLIGHT_BYTES];
    encode::command(&mut bytes, &[&b"SET"[..], key(0).as_bytes(), &value]);
    sim.hub.client_data(session, &bytes);
    assert!(!sim.hub.wants_read(session));
    let pipe = sim.hub.pipes.iter().map(|(k, _)| k).next().expect("a pipe");
    sim.hub.set_credential(CredentialState::NotNeeded);
    sim.hub.pipe_connected(pipe);
    let all = sim.hub.pipe_mut(pipe).expect("pipe").out.unsent();
    sim.hub.pipe_mut(pipe).expect("pipe").out.mark_sent(all);
    sim.hub.work.readable.clear();
    sim.hub.pipe_data(pipe, b"+OK\r\n");
    assert_eq!(sim.hub.work.readable, [session]);
    assert!(sim.hub.wants_read(session));
}

#[test]
fn order_and_exactly_once_hold_under_random_faults() {
    let runs: u64 = std::env::var("SIM_RUNS").ok().and_then(|s| s.parse().ok()).unwrap_or(400);
    let first: u64 = std::env::var("SIM_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    for seed in first..first + runs {
        let outcome = std::panic::catch_unwind(|| {
            let mut sim = Sim::new(seed);
            for _ in 0..1500 {
                sim.event(true);
            }
            sim.finish();
        });
        assert!(outcome.is_ok(), "run again with SIM_SEED={seed} SIM_RUNS=1");
    }
}
