//! What the hub wants done outside: the lists that the sockets' side drains after every call.
//!
//! Invariant: plain data; nothing here decides anything.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::Arc;

use crate::cluster::refresh::Reason;
use crate::cluster::topology::NodeAddr;
use crate::key::Key;

use super::{Letter, Refusal};

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
