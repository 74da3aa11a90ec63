//! EXEC of a transaction that holds commands the proxy answers itself: SELECT, CLIENT SETNAME ….
//!
//! A server runs them with the rest when EXEC comes. Here the rest runs on a node, and what is the
//! proxy's is answered when the node's reply is there, in its place. Invariant: nothing of it takes
//! effect when the transaction did not run; such an EXEC runs alone in its session, so that its reply
//! can be rewritten.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::command::lookup;
use crate::command::spec::{Handler, Local, Row};
use crate::key::Key;
use crate::resp::encode;
use crate::resp::request::{Request, fill_args};
use crate::resp::scan::{ReplyScan, ReplyScanner};
use crate::session::core::Rewrite;
use crate::session::local;
use crate::session::transaction::{Block, Own};

use super::Hub;

/// Replies of a block without commands: those of MULTI and EXEC.
const NO_COMMANDS: u32 = 2;

/// Commands of a transaction that the proxy answers itself.
pub(super) fn is_own(handler: Handler) -> bool {
    let Handler::Local(what) = handler else {
        return false;
    };
    matches!(
        what,
        Local::Auth
            | Local::Asking
            | Local::ClientCapa
            | Local::ClientGetname
            | Local::ClientGetredir
            | Local::ClientId
            | Local::ClientNoEvict
            | Local::ClientNoTouch
            | Local::ClientSetinfo
            | Local::ClientSetname
            | Local::ClientTrackinginfo
            | Local::Readonly
            | Local::Readwrite
            | Local::Role
            | Local::Select
    )
}

impl Hub {
    /// Queues a command that is answered here.
    pub(super) fn queue_own(&mut self, key: Key, request: &Request<'_>) {
        let t = self.sessions.get_mut(key).and_then(|s| s.transaction.as_deref_mut());
        if let Some(t) = t {
            t.queue_own(request);
        }
        self.queued(key);
    }

    /// EXEC of a block with commands of our own; the session is alone.
    pub(super) fn exec_with_own(&mut self, key: Key, row: &'static Row, block: Block) {
        if block.replies == NO_COMMANDS {
            let reply = self.exec_reply(key, &block.own, b"*0\r\n").unwrap_or_default();
            if let Some(s) = self.sessions.get_mut(key) {
                s.answer(&reply);
            }
            return self.mark_session(key);
        }
        if let Some(s) = self.sessions.get_mut(key) {
            s.alone = true;
            s.rewrite = Some(Box::new(Rewrite::Exec(block.own)));
        }
        let request = Request::new(&block.frame, Some(&block.frame), &[]);
        self.dispatch(key, Some(row), block.slot, &request, block.replies);
    }

    /// The node's reply to EXEC with our answers in their places; `None`: nothing ran.
    pub(super) fn exec_reply(&mut self, key: Key, own: &[Own], reply: &[u8]) -> Option<Vec<u8>> {
        let rest = reply.strip_prefix(b"*")?;
        let end = rest.iter().position(|&b| b == b'\r')?;
        let theirs: u32 = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
        let mut rest = rest.get(end + 2..)?;
        let mut own = own.iter().peekable();
        let all = theirs + own.len() as u32;
        let mut out = Vec::with_capacity(reply.len() + 32 * own.len());
        encode::header(&mut out, b'*', i64::from(all));
        for at in 0..all {
            if let Some(own) = own.next_if(|own| own.at == at) {
                self.answer_own(key, own, &mut out);
            } else if let Ok(ReplyScan::Complete(n)) = ReplyScanner::default().scan(rest) {
                let (head, tail) = rest.split_at(n);
                out.extend_from_slice(head);
                rest = tail;
            }
        }
        Some(out)
    }

    fn answer_own(&mut self, key: Key, own: &Own, out: &mut Vec<u8>) {
        let mut args = Vec::new();
        fill_args(&own.frame, &mut args);
        let request = Request::new(&own.frame, Some(&own.frame), &args);
        let sub = (request.len() > 1).then(|| request.arg(1));
        let server = self.topology.as_ref().map(|t| t.server.clone()).unwrap_or_default();
        let facts = local::Facts { server: &server.name, version: &server.version };
        if let Some(row) = lookup::resolve(request.arg(0), sub)
            && let Handler::Local(what) = row.handler
            && let Some(s) = self.sessions.get_mut(key)
        {
            local::answer(s, row, what, &request, &facts, out);
        }
    }
}
