//! CLIENT subcommands about the proxy's own clients: what a server says of its connections, said of
//! ours, on all workers.
//!
//! Invariant: a client is named by its own id and address, never by an upstream connection's.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::command::spec::{Local, Row};
use crate::key::Key;
use crate::resp::Version;
use crate::resp::request::Request;
use crate::session::core::Closing;
use crate::session::local::{self, Facts};
use crate::session::roster::{self, Filter};

use super::Hub;
use super::peers::{Becomes, Question};

impl Hub {
    /// CLIENT INFO, LIST, KILL, UNBLOCK, PAUSE and UNPAUSE.
    pub(super) fn client_command(
        &mut self,
        key: Key,
        row: &'static Row,
        what: Local,
        request: &Request<'_>,
    ) {
        let Some(s) = self.sessions.get(key) else {
            return;
        };
        let (id, verbatim) = (s.profile.id, s.version == Version::V3);
        match what {
            Local::ClientInfo => {
                let own =
                    Filter { ids: i64::try_from(id).ok().map(|id| vec![id]), ..Filter::default() };
                let line = self.lines(&own).pop().map(|(_, line)| line).unwrap_or_default();
                let mut out = Vec::new();
                crate::command::merge::info_reply(&line, verbatim, &mut out);
                if let Some(s) = self.sessions.get_mut(key) {
                    s.answer(&out);
                }
                self.mark_session(key);
            }
            Local::ClientList => match Filter::of_list(request) {
                Ok(filter) => {
                    let becomes = Becomes::List { ids: filter.ids.clone(), verbatim };
                    self.consult(key, row, Question::List(filter), becomes);
                }
                Err(text) => self.refuse(key, &text),
            },
            Local::ClientKill => {
                let filter = self.with_facts(|facts| {
                    Filter::of_kill(request, id, facts, |name| self.is_user(name))
                });
                let old = roster::is_old_kill(request);
                match filter {
                    Ok(filter) => {
                        self.consult(key, row, Question::Kill(filter), Becomes::Killed { old });
                    }
                    Err(text) => self.refuse(key, &text),
                }
            }
            Local::ClientPause => match pause_options(row, request) {
                Ok(question) => self.consult(key, row, question, Becomes::Ok),
                Err(text) => self.refuse(key, &text),
            },
            Local::ClientUnpause => self.consult(key, row, Question::Unpause, Becomes::Ok),
            Local::ClientUnblock => match unblock_options(row, request) {
                Ok(question) => self.consult(key, row, question, Becomes::Unblocked),
                Err(text) => self.refuse(key, &text),
            },
            _ => {}
        }
    }

    fn with_facts<T>(&self, f: impl FnOnce(&Facts<'_>) -> T) -> T {
        match self.topology.as_deref() {
            Some(t) => f(&Facts { server: &t.server.name, version: &t.server.version }),
            None => f(&Facts { server: "", version: "" }),
        }
    }

    /// The lines of this worker's clients.
    pub(super) fn lines(&self, filter: &Filter) -> Vec<(u64, String)> {
        let now = self.now;
        self.with_facts(|facts| {
            let chosen = self.sessions.iter().map(|(_, s)| s).filter(|s| filter.matches(s, now));
            chosen.map(|s| (s.profile.id, roster::line(s, now, facts))).collect()
        })
    }

    /// Ends the connections of this worker's clients that match; returns how many.
    pub(super) fn kill(&mut self, filter: &Filter) -> i64 {
        let now = self.now;
        let chosen = self.sessions.iter().filter(|(_, s)| filter.matches(s, now));
        let victims: Vec<Key> = chosen.map(|(key, _)| key).collect();
        for &victim in &victims {
            if let Some(s) = self.sessions.get_mut(victim) {
                // Who kills itself still reads the reply.
                let itself = s.profile.id == filter.asker;
                s.closing = if itself { Closing::AfterReplies } else { Closing::Now };
            }
            self.mark_session(victim);
        }
        victims.len() as i64
    }
}

/// What CLIENT UNBLOCK asks for, or the server's error text.
fn unblock_options(row: &Row, request: &Request<'_>) -> Result<Question, String> {
    if request.len() > 4 {
        return Err(local::wrong_container_arity(row, request));
    }
    let reason = request.arg(3);
    let with_error = reason.eq_ignore_ascii_case(b"ERROR");
    if request.len() == 4 && !with_error && !reason.eq_ignore_ascii_case(b"TIMEOUT") {
        return Err("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR".to_owned());
    }
    let client =
        local::parse_int(request.arg(2)).ok_or("ERR value is not an integer or out of range")?;
    Ok(Question::Unblock { client, with_error })
}

/// What CLIENT PAUSE asks for, or the server's error text.
fn pause_options(row: &Row, request: &Request<'_>) -> Result<Question, String> {
    if request.len() > 4 {
        return Err(local::wrong_container_arity(row, request));
    }
    let mode = request.arg(3);
    let all = request.len() == 3 || mode.eq_ignore_ascii_case(b"ALL");
    if !all && !mode.eq_ignore_ascii_case(b"WRITE") {
        return Err("ERR CLIENT PAUSE mode must be WRITE or ALL".to_owned());
    }
    let ms =
        local::parse_int(request.arg(2)).ok_or("ERR timeout is not an integer or out of range")?;
    let ms = u64::try_from(ms).map_err(|_| "ERR timeout is negative")?;
    Ok(Question::Pause { ms, all })
}
