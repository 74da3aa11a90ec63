//! CLIENT PAUSE and UNPAUSE: commands of the proxy's clients wait, unparsed, until the pause is over.
//!
//! Invariant: what had been taken in before goes on; what a pause holds is held from its own place in
//! the session's order on, the pausing client's own commands included, as on a server. One alarm ends a
//! pause, whatever it holds. Each worker pauses its own sessions (see `peers`).
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::command::spec::{Handler, Row, Transaction as Tx, flag};
use crate::key::Key;
use crate::resp::request::Request;
use crate::resp::scan::{RequestScan, RequestScanner};
use crate::session::core::{Session, hold};
use crate::session::local;

use super::{Alarm, Hub};

/// A pause in force.
#[derive(Debug)]
pub(super) struct Pause {
    /// It ends at this time (ms of the worker's clock).
    until: u64,
    /// It holds every command, not only those that write.
    all: bool,
    /// Sessions it holds.
    held: Vec<Key>,
}

/// Longest pause (ms), a thousand years: times beyond it are none a timer can be set to.
const MAX_PAUSE: u64 = 1 << 45;

/// Commands that servers treat as writes in a pause without calling them so: their effects reach
/// replicas (`may_replicate`, which COMMAND does not tell).
const MAY_REPLICATE: [&str; 6] = ["publish", "spublish", "pfcount", "eval", "evalsha", "fcall"];

impl Hub {
    /// Begins a pause, or extends the one in force: the later end and the wider scope count.
    pub(super) fn pause(&mut self, ms: u64, all: bool) {
        self.end_pause_in_time();
        let until = self.now.saturating_add(ms.min(MAX_PAUSE));
        let pause =
            self.pause.get_or_insert_with(|| Box::new(Pause { until, all, held: Vec::new() }));
        pause.until = pause.until.max(until);
        pause.all |= all;
        let until = pause.until;
        self.set_alarm(until, Alarm::Unpause);
    }

    /// Ends the pause: what it held goes on.
    pub(super) fn unpause(&mut self) {
        if let Some(pause) = self.pause.take() {
            self.let_go(pause.held, hold::PAUSED);
        }
    }

    /// Ends the pause if its time is over.
    pub(super) fn end_pause_in_time(&mut self) {
        if self.pause.as_ref().is_some_and(|p| p.until <= self.now) {
            self.unpause();
        }
    }

    /// True when the pause in force holds this request: its session waits.
    #[cold]
    pub(super) fn holds_back(
        &mut self,
        key: Key,
        row: Option<&'static Row>,
        request: &Request<'_>,
    ) -> bool {
        self.end_pause_in_time();
        let Some(all) = self.pause.as_ref().map(|p| p.all) else {
            return false;
        };
        // A server refuses at once what is not well formed, or not for this connection.
        let refused = |r: &Row, s: &Session| {
            !local::arity_fits(r, request.len())
                || r.container && request.len() > 1
                || s.streams.as_deref().is_some_and(|x| x.refuses(r, s.version).is_some())
        };
        if self.sessions.get(key).is_none_or(|s| row.is_some_and(|r| refused(r, s))) {
            return false;
        }
        if !all && !self.may_write(key, row, request) {
            return false;
        }
        if let (Some(s), Some(pause)) = (self.sessions.get_mut(key), self.pause.as_mut()) {
            s.last = row;
            s.holds |= hold::PAUSED;
            pause.held.push(key);
        }
        true
    }

    /// True for what may change data or reach replicas.
    fn may_write(&self, key: Key, row: Option<&'static Row>, request: &Request<'_>) -> bool {
        let Some(row) = row else {
            // Nobody tells what it is.
            return true;
        };
        if row.handler == Handler::Transaction(Tx::Exec) {
            let transaction = self.sessions.get(key).and_then(|s| s.transaction.as_ref());
            return transaction.is_some_and(|t| self.block_may_write(key, t.frames()));
        }
        if row.handler == Handler::Script {
            let body = match row.name {
                "eval" => Some(request.arg(1)),
                "evalsha" => self.scripts.body(request.arg(1)).map(|(b, _)| &b[..]),
                _ => None,
            };
            if body.is_some_and(says_it_does_not_write) {
                return false;
            }
        }
        row.flags & (flag::WRITE | flag::MAY_REPLICATE) != 0 || MAY_REPLICATE.contains(&row.name)
    }

    /// True when one of the commands of a transaction may write.
    fn block_may_write(&self, key: Key, block: &[u8]) -> bool {
        let mut rest = block;
        let mut args = Vec::new();
        while let Ok(RequestScan::Multibulk(n)) =
            RequestScanner::default().scan(rest, &mut args, usize::MAX)
        {
            let (frame, behind) = rest.split_at(n);
            let request = Request::new(frame, None, &args);
            if self.may_write(key, self.known_row(&request), &request) {
                return true;
            }
            rest = behind;
        }
        false
    }
}

/// `#!lua … flags=no-writes,…` in the first line of a script.
fn says_it_does_not_write(body: &[u8]) -> bool {
    let first = body.split(|&b| b == b'\n').next().unwrap_or_default();
    first.starts_with(b"#!")
        && first
            .split(|&b| b == b' ')
            .filter_map(|word| word.strip_prefix(b"flags="))
            .any(|flags| flags.split(|&b| b == b',').any(|f| f == b"no-writes"))
}

#[cfg(test)]
mod tests {
    use super::says_it_does_not_write;

    #[test]
    fn scripts_say_what_they_do_in_their_first_line() {
        for (body, want) in [
            ("return 1", false),
            ("#!lua\nreturn 1", false),
            ("#!lua flags=no-writes\nreturn 1", true),
            ("#!lua name=x flags=allow-stale,no-writes\nreturn 1", true),
            ("#!lua flags=allow-oom\n-- flags=no-writes", false),
            ("flags=no-writes", false),
        ] {
            assert_eq!(says_it_does_not_write(body.as_bytes()), want, "{body}");
        }
    }
}
