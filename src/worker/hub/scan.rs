//! SCAN over all shards: one call asks one node; the cursor remembers where the scan stands.
//!
//! Invariant: a SCAN runs alone in its session, so that its reply's cursor can be rewritten before
//! it is put in its place. What a moving slot means for a scan is `session::scan`'s to say.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::cluster::topology::UNASSIGNED;
use crate::command::spec::Row;
use crate::key::Key;
use crate::resp::encode;
use crate::resp::request::Request;
use crate::session::core::Rewrite;
use crate::session::local;
use crate::session::scan::{Cursor, ShardAt};

use super::Hub;

impl Hub {
    /// SCAN. False: wait first.
    pub(super) fn scan(&mut self, key: Key, row: &'static Row, request: &Request<'_>) -> bool {
        let well_formed = local::arity_fits(row, request.len());
        if self.is_standalone() || !well_formed || self.shard_slots.is_empty() {
            // A single server's own cursors; or its own error; or no map yet.
            let slot = if self.is_standalone() { 0 } else { crate::session::window::NO_SLOT };
            self.dispatch(key, Some(row), slot, request, 1);
            return true;
        }
        let number = std::str::from_utf8(request.arg(1)).ok().and_then(|t| t.parse::<u64>().ok());
        let Some(number) = number else {
            self.refuse(key, "ERR invalid cursor");
            return true;
        };
        if self.must_be_alone(key) {
            return false;
        }
        let shards = self.shards_at();
        let Some((cursor, slot)) = self.scans.resume(number, &shards) else {
            self.refuse(key, "ERR invalid cursor");
            return true;
        };
        let node_cursor = cursor.node.to_string();
        let args: Vec<&[u8]> = [request.arg(0), node_cursor.as_bytes()]
            .into_iter()
            .chain(request.args().skip(2))
            .collect();
        let mut frame = Vec::new();
        encode::command(&mut frame, &args);
        if let Some(s) = self.sessions.get_mut(key) {
            s.alone = true;
            s.rewrite = Some(Box::new(Rewrite::Scan(cursor)));
        }
        self.dispatch(key, Some(row), slot, &Request::new(&frame, None, &[]), 1);
        true
    }

    fn shards_at(&self) -> Vec<ShardAt> {
        let node = |&slot: &u16| {
            let node = self.routes.get(usize::from(slot)).copied()?;
            (node != UNASSIGNED).then_some((slot, node))
        };
        self.shard_slots.iter().filter_map(node).collect()
    }

    /// The reply of a node to SCAN with the cursor the client is to use; `None`: leave it as it is.
    pub(super) fn scan_reply(&mut self, asked: Cursor, reply: &[u8]) -> Option<Vec<u8>> {
        // `*2 $n <cursor> *…`
        let rest = reply.strip_prefix(b"*2\r\n$")?;
        let start = rest.iter().position(|&b| b == b'\n')? + 1;
        let body = rest.get(start..)?;
        let digits = body.iter().position(|&b| b == b'\r')?;
        let node_cursor: u64 = std::str::from_utf8(&body[..digits]).ok()?.parse().ok()?;
        let shards = self.shards_at();
        let mut out = Vec::with_capacity(reply.len() + 24);
        let Some(next) = self.scans.advance(asked, node_cursor, &shards) else {
            encode::error(
                &mut out,
                "ERR memorystore-auth-proxy: the node's cursor is too large to be passed on",
            );
            return Some(out);
        };
        encode::header(&mut out, b'*', 2);
        encode::bulk(&mut out, next.to_string().as_bytes());
        out.extend_from_slice(body.get(digits + 2..)?);
        Some(out)
    }
}
