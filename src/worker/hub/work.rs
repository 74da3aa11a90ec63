//! What passes between a hub and its surroundings: settings in, work and counts out.
//!
//! Invariant: plain data; nothing here decides anything.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::refresh::Reason;
use crate::cluster::topology::NodeAddr;
use crate::key::Key;

use super::{Letter, ReadFrom, Refusal};

/// What an operator can set about the data path.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a command may wait for a route, a connection, or a reply.
    pub op_timeout: Duration,
    /// How long dialling and the handshake may take.
    pub connect_timeout: Duration,
    /// Redirects one command may follow.
    pub max_redirects: u8,
    /// Which nodes answer reads.
    pub read_from: ReadFrom,
    /// Shortest delay after a failed dial or AUTH.
    pub auth_backoff_min: Duration,
    /// Longest delay after failed dials or AUTHs.
    pub auth_backoff_max: Duration,
    /// Age at which a connection is replaced; zero: never.
    pub max_connection_age: Duration,
    /// Dials and AUTHs a second; 0: unlimited.
    pub dial_rate_limit: f64,
    /// Largest request (bytes).
    pub max_request: usize,
    /// A client that leaves more than this unread (bytes) is disconnected.
    pub max_client_output: usize,
    /// Most commands of a client without reply before its socket is not read any more.
    pub max_pipeline: usize,
    /// Most bytes the nodes' replies to one command may hold together while they are merged.
    pub max_merge: usize,
    /// A client that neither says nor is told anything for so long is disconnected.
    pub client_idle_timeout: Option<Duration>,
}

/// A connection to be made.
#[derive(Debug)]
pub struct Dial {
    /// The pipe that wants it.
    pub pipe: Key,
    /// Where to.
    pub addr: NodeAddr,
}

/// Something the operator should read in the log: a node changed its state.
#[derive(Debug)]
pub struct Note {
    /// Which node.
    pub node: NodeAddr,
    /// What is wrong; `None`: it is well again.
    pub failing: Option<Arc<str>>,
}

/// What the sockets' side has to do after a call; it drains these lists.
#[derive(Debug, Default)]
pub struct Work {
    /// Pipes with something to write.
    pub pipes: Vec<Key>,
    /// Sessions with something to write, or to be closed.
    pub sessions: Vec<Key>,
    /// Sessions whose socket may be read again.
    pub readable: Vec<Key>,
    /// Connections to make.
    pub dials: Vec<Dial>,
    /// Lines for the log.
    pub notes: Vec<Note>,
    /// Lines for the audit log.
    pub refusals: Vec<Refusal>,
    /// How long replies of nodes took (µs); a sample, nothing to be done.
    pub latencies: Vec<u64>,
    /// Pipes that are gone: their sockets are to be dropped.
    pub hangups: Vec<Key>,
    /// A fresh slot map is wanted.
    pub refresh: Option<Reason>,
    /// This credential generation was refused: a new token is wanted.
    pub rejected_credential: Option<u64>,
    /// There is no credential, and commands wait for one.
    pub wants_credential: bool,
    /// Letters to other workers, by their numbers.
    pub letters: Vec<(usize, Letter)>,
    /// The nodes that are left alone for a while, when there are or were some.
    pub resting: Option<Vec<NodeAddr>>,
}

impl Work {
    /// True when there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.pipes.is_empty()
            && self.sessions.is_empty()
            && self.readable.is_empty()
            && self.dials.is_empty()
            && self.notes.is_empty()
            && self.refusals.is_empty()
            && self.hangups.is_empty()
            && self.refresh.is_none()
            && self.rejected_credential.is_none()
            && !self.wants_credential
            && self.letters.is_empty()
            && self.resting.is_none()
    }
}

/// Events counted; plain numbers, published by the sockets' side.
#[derive(Debug, Default, Clone, Copy)]
#[allow(missing_docs, reason = "the names are the metrics' names, described in telemetry::metrics")]
pub struct Counters {
    pub commands: u64,
    pub replies: u64,
    pub error_replies: u64,
    pub client_bytes_in: u64,
    pub client_bytes_out: u64,
    pub upstream_bytes_in: u64,
    pub upstream_bytes_out: u64,
    pub upstream_writes: u64,
    pub client_writes: u64,
    pub clients: u64,
    pub dials_ok: u64,
    pub pipes_connecting: u64,
    pub pipes_ready: u64,
    pub pipes_retiring: u64,
    pub dials_failed: u64,
    pub auth_ok: u64,
    pub auth_wrongpass: u64,
    pub auth_exhausted: u64,
    pub auth_other: u64,
    pub noauth: u64,
    pub moved: u64,
    pub ask: u64,
    pub retries_tryagain: u64,
    pub retries_clusterdown: u64,
    pub retries_loading: u64,
    pub retries_role: u64,
    pub retries_noauth: u64,
    pub retries_lost: u64,
    pub retries_noroute: u64,
    pub retries_noscript: u64,
    pub retries_replica: u64,
    pub reads_replica: u64,
    pub reads_fallback: u64,
    pub fail_maybe_executed: u64,
    pub fail_deadline: u64,
    pub fail_redirects: u64,
    pub protocol_errors: u64,
    pub closed_output: u64,
    pub closed_request: u64,
    pub closed_buffer_total: u64,
    pub closed_idle: u64,
    pub messages: u64,
    pub reauths: u64,
    pub retirements: u64,
    pub nodes_in_backoff: u64,
    pub subscriptions: u64,
    pub refused_command: u64,
    pub refused_key: u64,
    pub refused_channel: u64,
    pub refused_deny_list: u64,
    pub refused_noauth: u64,
    pub refused_wrongpass: u64,
}
