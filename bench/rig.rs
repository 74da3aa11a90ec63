//! A worker's hub with clients and nodes that are plain bytes: what a command costs without sockets.
//!
//! Used by `bench/cores.rs` (instructions) and `tests/hot_path` (allocations). Invariant: the nodes
//! answer every request at once and without allocating, so that all that is counted is the proxy's.
//! It neither measures nor asserts; that is its users' business.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use memorystore_auth_proxy::access::Access;
use memorystore_auth_proxy::cluster::topology::{Mode, NodeAddr, SLOTS, Shard, Topology};
use memorystore_auth_proxy::credentials::CredentialState;
use memorystore_auth_proxy::key::Key;
use memorystore_auth_proxy::resp::encode;
use memorystore_auth_proxy::session::core::Profile;
use memorystore_auth_proxy::worker::hub::{Hub, ReadFrom, Settings, Work};

/// Shards of the cluster.
const SHARDS: u16 = 3;

/// Length of a value (bytes).
const VALUE: usize = 64;

/// What the nodes answer every request with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A value.
    Value,
    /// Values of so many keys.
    Values,
    /// `+OK`.
    Ok,
}

/// See the module header.
#[derive(Debug)]
pub(crate) struct Rig {
    hub: Hub,
    clients: Vec<Key>,
    work: Work,
    replies: Vec<u8>,
    now: u64,
    /// Bytes the clients have got.
    pub(crate) received: usize,
}

impl Rig {
    /// So many clients before three shards.
    pub(crate) fn new(clients: usize) -> Self {
        let settings = Settings {
            op_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            max_redirects: 16,
            read_from: ReadFrom::Primary,
            auth_backoff_min: Duration::from_millis(100),
            auth_backoff_max: Duration::from_secs(10),
            max_connection_age: Duration::from_secs(4 * 3600),
            dial_rate_limit: 0.0,
            max_request: 512 << 20,
            max_client_output: 64 << 20,
            max_merge: 256 << 20,
            max_pipeline: 16 * 1024,
            client_idle_timeout: None,
        };
        let mut hub = Hub::new(settings, 1);
        hub.set_credential(CredentialState::NotNeeded);
        hub.set_topology(Arc::new(topology()));
        let clients = (0..clients).map(|_| hub.client_open(Profile::default())).collect();
        Self { hub, clients, work: Work::default(), replies: Vec::new(), now: 1, received: 0 }
    }

    /// The clients are held to these rules.
    #[allow(dead_code, reason = "only allocations are counted with rules")]
    pub(crate) fn restrict(&mut self, rules: Access) {
        self.hub.set_access(Some(Arc::new(rules)));
    }

    /// Every client sends `request`, a pipeline of whole commands; all are answered.
    pub(crate) fn turn(&mut self, request: &[u8], answer: Answer) {
        self.now += 1;
        self.hub.set_now_us(self.now * 50);
        for at in 0..self.clients.len() {
            self.hub.client_data(self.clients[at], request);
        }
        self.flush(answer);
    }

    /// As the sockets' side does it at the end of a turn, until there is nothing left to do.
    fn flush(&mut self, answer: Answer) {
        loop {
            std::mem::swap(&mut self.work, &mut self.hub.work);
            if self.work.is_empty() {
                return;
            }
            for dial in self.work.dials.drain(..) {
                self.hub.pipe_connected(dial.pipe);
            }
            for key in self.work.pipes.drain(..) {
                self.hub.weigh_pipe(key);
                let Some(pipe) = self.hub.pipe_mut(key) else {
                    continue;
                };
                pipe.dirty = false;
                if !pipe.may_send() {
                    continue;
                }
                let (asked, unsent) = (pipe.in_flight(), pipe.out.unsent());
                pipe.out.mark_sent(unsent);
                self.replies.clear();
                for entry in pipe.entries().take(asked) {
                    reply(&mut self.replies, answer, entry.len as usize);
                }
                self.hub.pipe_data(key, &self.replies);
            }
            for key in self.work.sessions.drain(..) {
                if let Some(session) = self.hub.session_mut(key) {
                    session.dirty = false;
                    let unsent = session.out.unsent();
                    session.out.consume(unsent);
                    let change = session.recount();
                    self.hub.note_held(change);
                    self.received += unsent;
                }
            }
            self.work.readable.clear();
            self.work.latencies.clear();
            self.work.refresh = None;
        }
    }
}

/// The reply to a request of so many bytes; a sub-command of MGET is answered by its length.
fn reply(out: &mut Vec<u8>, answer: Answer, request: usize) {
    match answer {
        Answer::Ok => out.extend_from_slice(b"+OK\r\n"),
        Answer::Value => value(out),
        Answer::Values => {
            let keys = (request - MGET_HEAD) / MGET_KEY;
            encode::header(out, b'*', keys as i64);
            (0..keys).for_each(|_| value(out));
        }
    }
}

fn value(out: &mut Vec<u8>) {
    encode::bulk(out, &[b'v'; VALUE]);
}

/// Bytes of an MGET before its keys (of less than nine keys), and of each key.
const MGET_HEAD: usize = "*2\r\n$4\r\nMGET\r\n".len();
const MGET_KEY: usize = "$10\r\nkey:000000\r\n".len();

/// A pipeline of `GET`s of different keys.
pub(crate) fn gets(count: usize) -> Vec<u8> {
    let mut out = Vec::new();
    (0..count).for_each(|n| encode::command(&mut out, &["GET", &key(n)]));
    out
}

/// A pipeline of `SET`s of different keys.
pub(crate) fn sets(count: usize) -> Vec<u8> {
    let mut out = Vec::new();
    (0..count).for_each(|n| encode::command(&mut out, &["SET", &key(n), &"v".repeat(VALUE)]));
    out
}

/// One `MGET` of so many keys.
pub(crate) fn mget(keys: usize) -> Vec<u8> {
    let names: Vec<String> = std::iter::once("MGET".into()).chain((0..keys).map(key)).collect();
    let mut out = Vec::new();
    encode::command(&mut out, &names);
    out
}

fn key(n: usize) -> String {
    format!("key:{:06}", n * 7919 % 1_000_000)
}

fn topology() -> Topology {
    let addr = |n: u16| NodeAddr { host: "10.0.0.1".into(), port: 7000 + n };
    let shard = |n| Shard { primary: addr(n), replicas: Vec::new() };
    let mut slots = Box::new([0; SLOTS]);
    for (slot, shard) in slots.iter_mut().enumerate() {
        *shard = (slot * usize::from(SHARDS) / SLOTS) as u16;
    }
    Topology {
        epoch: 1,
        mode: Mode::Cluster,
        shards: (0..SHARDS).map(shard).collect(),
        slots,
        server: Default::default(),
    }
}

/// Workloads by name: clients, what each sends a turn, how many commands that is, what nodes answer.
pub(crate) fn workloads() -> HashMap<&'static str, (usize, Vec<u8>, usize, Answer)> {
    HashMap::from([
        ("get", (50, gets(1), 50, Answer::Value)),
        ("get_pipelined", (50, gets(16), 800, Answer::Value)),
        ("set_pipelined", (50, sets(16), 800, Answer::Ok)),
        ("mget_of_10", (50, mget(10), 50, Answer::Values)),
    ])
}
