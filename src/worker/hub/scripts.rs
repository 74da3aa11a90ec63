//! EVALSHA on a node that may not know the script: the node is told just before.
//!
//! So no NOSCRIPT comes back, and nothing that stands behind the command in its pipeline overtakes it.
//! Invariant: a node is told a script once, until its connection is lost or it says NOSCRIPT; only
//! scripts that a client loaded or ran through this worker are told.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use bytes::Bytes;

use crate::cluster::topology::UNASSIGNED;
use crate::command::spec::Row;
use crate::key::Key;
use crate::resp::encode;
use crate::resp::request::{Request, fill_args};
use crate::session::transaction::{Block, Transaction};
use crate::upstream::pipe::{Entry, Purpose};

use super::Hub;
use super::request::entry;

/// The digest EVALSHA and EVALSHA_RO ask for.
pub(super) fn digest<'r>(row: &Row, request: &Request<'r>) -> Option<&'r [u8]> {
    (matches!(row.name, "evalsha" | "evalsha_ro") && request.len() > 1).then(|| request.arg(1))
}

impl Hub {
    /// Queues the script in front of the command that runs it, if the pipe's node has to be told.
    pub(super) fn tell_script(&mut self, pipe: Key, row: &Row, request: &Request<'_>) {
        let Some(node) = self.pipes.get(pipe).map(|p| p.node) else {
            return;
        };
        if let Some(digest) = digest(row, request)
            && let Some(body) = self.scripts.to_tell(digest, node)
        {
            let mut load = Vec::with_capacity(body.len() + 64);
            script_load(&body, &mut load);
            let nobodys = Entry { purpose: Purpose::Discard, ..entry(Key::NONE, 0, 0) };
            self.push(pipe, nobodys, &Request::new(&load, None, &[]));
        }
    }

    /// The same for a command as bytes.
    pub(super) fn tell_script_of(&mut self, pipe: Key, row: &Row, frame: &[u8]) {
        let mut args = Vec::new();
        fill_args(frame, &mut args);
        self.tell_script(pipe, row, &Request::new(frame, None, &args));
    }

    /// The node a block goes to now, if it is known.
    pub(super) fn node_of_slot(&self, slot: u16) -> Option<u16> {
        self.routes.get(usize::from(slot)).copied().filter(|&n| n != UNASSIGNED)
    }

    /// A transaction as it is sent: before it stand the scripts its node has to be told.
    pub(super) fn block_of(&mut self, transaction: Transaction, node: Option<u16>) -> Block {
        let mut block = transaction.into_block();
        let mut loads = Vec::new();
        for digest in &block.scripts {
            if let Some(body) = node.and_then(|node| self.scripts.to_tell(digest, node)) {
                script_load(&body, &mut loads);
                block.replies += 1;
            }
        }
        if !loads.is_empty() {
            loads.extend_from_slice(&block.frame);
            block.frame = Bytes::from(loads);
        }
        block
    }
}

fn script_load(body: &[u8], out: &mut Vec<u8>) {
    encode::command(out, &[&b"SCRIPT"[..], b"LOAD", body]);
}
