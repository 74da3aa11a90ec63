//! SELECT, where the server behind has databases: one server without cluster mode.
//!
//! A session's database is part of the kind of connection its commands go by, so to change it is to
//! use other connections from then on. Whether a database is there the server says: the first SELECT
//! of it goes to a lease, which it leaves in that database; later ones need not ask. In MULTI the
//! whole block goes to a lease, and what its SELECTs were answered tells where the lease and the
//! session stand. A connection that WATCHes goes along, as what it watches stays watched. Invariant:
//! a session changes its database only when nothing of it is in flight; a pipe's kind says which
//! database its connection is in whenever it is free.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::cluster::topology::Mode;
use crate::command::spec::{Local, Row};
use crate::key::Key;
use crate::resp::request::{ArgRange, Request};
use crate::resp::scan::{ReplyScan, ReplyScanner, RequestScan, RequestScanner};
use crate::session::core::Rewrite;
use crate::session::local;
use crate::session::transaction::Block;
use crate::session::window::NO_SLOT;
use crate::upstream::pipe::{Entry, State};

use super::Hub;
use super::request::block_entry;

impl Hub {
    pub(super) fn is_standalone(&self) -> bool {
        self.one_server
    }

    /// True when the servers behind are known to be a cluster.
    pub(super) fn is_cluster(&self) -> bool {
        self.topology.as_ref().is_some_and(|t| t.mode == Mode::Cluster)
    }

    /// SELECT outside of a transaction, unless a cluster is behind. False: wait first.
    pub(super) fn select(&mut self, key: Key, row: &'static Row, request: &Request<'_>) -> bool {
        if !local::arity_fits(row, request.len()) {
            self.refuse(key, &local::wrong_arity(row.name));
            return true;
        }
        let wanted = local::parse_int(request.arg(1)).and_then(|n| u32::try_from(n).ok());
        let Some(s) = self.sessions.get(key) else {
            return true;
        };
        if wanted == Some(s.db) {
            self.ok(key);
            return true;
        }
        if self.must_be_alone(key) {
            return false;
        }
        let watching = self.sessions.get(key).and_then(|s| s.lease).filter(|lease| {
            self.pipes.get(*lease).is_some_and(|p| matches!(p.state, State::Ready))
        });
        match wanted.filter(|db| watching.is_none() && self.databases.contains(db)) {
            Some(db) => {
                self.enter_database(key, db);
                self.ok(key);
            }
            None => self.dispatch_selecting(key, row, NO_SLOT, request, 1, watching),
        }
        true
    }

    /// EXEC of a block with SELECTs; the session is alone.
    pub(super) fn exec_selecting(&mut self, key: Key, row: &'static Row, block: Block) {
        if !block.own.is_empty()
            && let Some(s) = self.sessions.get_mut(key)
        {
            s.rewrite = Some(Box::new(Rewrite::Exec(block.own)));
        }
        let request = Request::new(&block.frame, Some(&block.frame), &[]);
        self.dispatch_selecting(key, row, block.slot, &request, block.replies, None);
    }

    /// Sends what may change the database of its connection: on `lease`, or on one of its own.
    fn dispatch_selecting(
        &mut self,
        key: Key,
        row: &'static Row,
        slot: u16,
        request: &Request<'_>,
        replies: u32,
        lease: Option<Key>,
    ) {
        let now = self.now;
        let node = self.node_for(key, slot);
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        let kind = s.kind();
        s.alone = true;
        s.wait = None;
        let ticket = s.window.open(Some(row), slot, Key::NONE, request.frame.len(), now);
        if let Some(leg) = s.window.leg_mut(ticket, 0) {
            leg.leased = true;
        }
        let Some(node) = node else {
            return self.no_route(key, ticket, 0, request.to_bytes(), replies);
        };
        let pipe = lease.unwrap_or_else(|| self.borrow(node, kind));
        if let Some(leg) = self.sessions.get_mut(key).and_then(|s| s.window.leg_mut(ticket, 0)) {
            leg.pipe = pipe;
        }
        if let Some(p) = self.pipes.get_mut(pipe) {
            p.changes_db = true;
        }
        self.push(pipe, block_entry(key, ticket, 0, replies), request);
    }

    /// What may have changed the database of its connection is answered.
    #[cold]
    pub(super) fn database_changed(&mut self, pipe: Key, entry: &Entry, reply: &[u8]) {
        let Some(p) = self.pipes.get_mut(pipe) else {
            return;
        };
        p.changes_db = false;
        let Some(db) = p.request_of(entry).and_then(|frame| selected(&frame, reply)) else {
            return;
        };
        p.kind.db = db;
        self.databases.insert(db);
        self.enter_database(entry.session, db);
    }

    /// The session's commands go to this database from now on.
    fn enter_database(&mut self, key: Key, db: u32) {
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        s.db = db;
        let pipes = match s.tracking() {
            Some(t) if s.tracks() => t.pipes.clone(),
            _ => return,
        };
        // What it has cached so far it must forget, as with any connection that is lost.
        for (_, pipe) in pipes {
            self.drop_pipe(pipe, "its client went to another database");
        }
    }
}

/// The database the last SELECT that was accepted names; of a transaction's `frame`, the one whose
/// place in EXEC's `reply` says OK.
fn selected(frame: &[u8], reply: &[u8]) -> Option<u32> {
    let mut args = Vec::new();
    let mut rest = frame;
    let mut first = next_request(&mut rest, &mut args)?;
    if rest.is_empty() {
        return selects(first, &args).filter(|_| reply.starts_with(b"+OK\r\n"));
    }
    // MULTI stands in front, perhaps behind scripts the node is told first; EXEC at the end.
    while !args.first().is_some_and(|name| name.of(first).eq_ignore_ascii_case(b"MULTI")) {
        first = next_request(&mut rest, &mut args)?;
    }
    let end = reply.strip_prefix(b"*")?.iter().position(|&b| b == b'\n')?;
    let mut replies = reply.get(end + 2..)?;
    let mut db = None;
    while !replies.is_empty() {
        let request = next_request(&mut rest, &mut args)?;
        let Ok(ReplyScan::Complete(n)) = ReplyScanner::default().scan(replies) else {
            return None;
        };
        let (head, tail) = replies.split_at(n);
        if head == b"+OK\r\n" {
            db = selects(request, &args).or(db);
        }
        replies = tail;
    }
    db
}

fn next_request<'f>(rest: &mut &'f [u8], args: &mut Vec<ArgRange>) -> Option<&'f [u8]> {
    match RequestScanner::default().scan(rest, args, usize::MAX) {
        Ok(RequestScan::Multibulk(n)) => {
            let (head, tail) = rest.split_at(n);
            *rest = tail;
            Some(head)
        }
        _ => None,
    }
}

/// The database a request selects, if it is a SELECT.
fn selects(frame: &[u8], args: &[ArgRange]) -> Option<u32> {
    let request = Request::new(frame, None, args);
    if !request.arg(0).eq_ignore_ascii_case(b"SELECT") {
        return None;
    }
    local::parse_int(request.arg(1)).and_then(|n| u32::try_from(n).ok())
}

/// True for the row of SELECT.
pub(super) fn is_select(row: &Row) -> bool {
    row.handler == crate::command::spec::Handler::Local(Local::Select)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::encode;

    fn frames(commands: &[&[&str]]) -> Vec<u8> {
        let mut out = Vec::new();
        commands.iter().for_each(|c| encode::command(&mut out, c));
        out
    }

    #[test]
    fn a_database_is_entered_when_the_server_agrees() {
        let frame = frames(&[&["select", "3"]]);
        assert_eq!(selected(&frame, b"+OK\r\n"), Some(3));
        assert_eq!(selected(&frame, b"-ERR DB index is out of range\r\n"), None);
        assert_eq!(selected(&frames(&[&["WATCH", "3"]]), b"+OK\r\n"), None);
    }

    #[test]
    fn of_a_transaction_the_last_that_was_accepted_counts() {
        let frame = frames(&[
            &["MULTI"],
            &["SELECT", "3"],
            &["SET", "k", "SELECT"],
            &["MGET", "a", "b"],
            &["SELECT", "5"],
            &["SELECT", "99"],
            &["SELECT", "x"],
            &["EXEC"],
        ]);
        let reply = "*6\r\n+OK\r\n+OK\r\n*2\r\n$4\r\n+OK\r\r\n$-1\r\n+OK\r\n-ERR DB index is out of range\r\n\
                     -ERR value is not an integer\r\n";
        assert_eq!(selected(&frame, reply.as_bytes()), Some(5));
        assert_eq!(selected(&frame, b"*-1\r\n"), None);
        assert_eq!(selected(&frame, b"_\r\n"), None);
        assert_eq!(selected(&frame, b"-EXECABORT Transaction discarded\r\n"), None);
    }
}
