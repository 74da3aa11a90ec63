//! Commands the table does not have: a node is asked once with COMMAND INFO, then they are routed by
//! what it said.
//!
//! Invariant: the session that brings such a command waits unparsed until the answer is there, for at
//! most `--op-timeout`; the others go on. What is learned and for how long is `command::learned`'s to
//! say.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::Arc;

use crate::command::introspect;
use crate::command::learned::{Fact, Learned, Name};
use crate::command::spec::{Handler, Row};
use crate::key::Key;
use crate::resp::encode;
use crate::resp::reply::{Class, classify};
use crate::resp::request::Request;
use crate::session::core::hold;
use crate::session::local;
use crate::session::window::NO_SLOT;
use crate::upstream::kind::Kind;
use crate::upstream::pipe::{Entry, Purpose};

use super::Hub;
use super::request::entry;
use super::trouble::humantime;

/// Most names asked for at a time.
const MAX_QUESTIONS: usize = 128;

/// Commands learned, and those being asked for.
#[derive(Debug, Default)]
pub(super) struct Lessons {
    learned: Learned,
    questions: Vec<Question>,
    next_id: u32,
    /// Sessions whose question was given up, until they have been told.
    failed: Vec<(Key, Name)>,
    /// What went wrong with the last question that was given up.
    last_said: Option<Arc<str>>,
}

/// A name that is being asked for.
#[derive(Debug)]
struct Question {
    id: u32,
    name: Name,
    /// When the first session began to wait.
    since: u64,
    kind: Kind,
    /// It stands in a pipe.
    sent: bool,
    /// How often it was sent: a lost one goes to another node.
    times: usize,
    /// What went wrong last.
    said: Option<Arc<str>>,
    /// Sessions that wait for it.
    waiting: Vec<Key>,
}

/// What is to be done with a command that the table does not have.
#[derive(Debug)]
pub(super) enum Lesson {
    /// Its row.
    Row(&'static Row),
    /// No server knows it: any node gives the right error.
    Absent,
    /// Nobody tells: as good as it goes.
    Untold,
    /// The session must wait.
    Wait,
    /// No node could be asked; the error reply.
    Failed(String),
}

impl Hub {
    /// What is known of the command of `request`, which is `found` in the table: not at all, or as a
    /// container without the subcommand. Asks when nothing is known.
    #[cold]
    pub(super) fn learn(
        &mut self,
        key: Key,
        found: Option<&'static Row>,
        request: &Request<'_>,
    ) -> Lesson {
        let sub = (request.len() > 1).then(|| request.arg(1));
        let asked = match found {
            // What a connection is told to be is not for a shared one, whoever invented it.
            Some(row) if row.handler != Handler::Forward || sub.is_none() => {
                return Lesson::Row(row);
            }
            Some(row) => {
                Name::new(row.name.as_bytes(), sub).filter(|n| n.as_bytes().contains(&b'|'))
            }
            None => Name::new(request.arg(0), None),
        };
        let Some(name) = asked else {
            return found.map_or(Lesson::Untold, Lesson::Row);
        };
        let is_told = |(k, n): &(Key, Name)| *k == key && n.as_bytes() == name.as_bytes();
        if let Some(at) = self.lessons.failed.iter().position(is_told) {
            self.lessons.failed.swap_remove(at);
            return Lesson::Failed(self.not_learned(&name));
        }
        match (self.lessons.learned.get(&name, self.now), found) {
            (Some(Fact::Row(row)), _) => Lesson::Row(self.with_subcommand(row, &name, sub)),
            (Some(_), Some(container)) => Lesson::Row(container),
            (Some(Fact::Absent), None) => Lesson::Absent,
            (Some(Fact::Untold), None) => Lesson::Untold,
            (None, _) => {
                if self.ask_about(key, name) {
                    Lesson::Wait
                } else {
                    found.map_or(Lesson::Untold, Lesson::Row)
                }
            }
        }
    }

    /// A command that no server knows: any node has the right words for that.
    pub(super) fn no_such_command(&mut self, key: Key, request: &Request<'_>) -> bool {
        self.counters.commands += 1;
        let Some(s) = self.sessions.get_mut(key) else {
            return true;
        };
        s.last = None;
        if s.transaction.is_some() || self.is_restricted(key) {
            self.refuse_queued(key, &local::unknown_command(request));
        } else {
            self.dispatch(key, None, NO_SLOT, request, 1);
        }
        true
    }

    /// The row of a request as far as it is known; nobody is asked.
    pub(super) fn known_row(&self, request: &Request<'_>) -> Option<&'static Row> {
        let sub = (request.len() > 1).then(|| request.arg(1));
        if let Some(row) = crate::command::lookup::resolve(request.arg(0), sub) {
            return Some(row);
        }
        let name = Name::new(request.arg(0), None)?;
        match self.lessons.learned.get(&name, self.now) {
            Some(Fact::Row(row)) => Some(self.with_subcommand(row, &name, sub)),
            _ => None,
        }
    }

    /// The row of the subcommand, when `row` is a container that has it.
    fn with_subcommand(&self, row: &'static Row, name: &Name, sub: Option<&[u8]>) -> &'static Row {
        let Some(sub) = sub.filter(|_| row.container) else {
            return row;
        };
        let known = if row.is_learned() {
            self.lessons.learned.subcommand(name, sub)
        } else {
            crate::command::lookup::subcommand(row, sub)
        };
        known.unwrap_or(row)
    }

    /// The error reply when no node could be asked.
    fn not_learned(&mut self, name: &Name) -> String {
        self.counters.fail_deadline += 1;
        let said = match &self.lessons.last_said {
            Some(said) => said.to_string(),
            None => self.no_route_cause(),
        };
        format!(
            "ERR memorystore-auth-proxy: no node said within {} (--op-timeout) what '{}' is (COMMAND INFO); \
             the command was not executed: {said}",
            humantime(self.settings.op_timeout),
            String::from_utf8_lossy(name.as_bytes()).replace('|', " "),
        )
    }

    /// Lets the session wait for what a node says of `name`. False: too much is being asked.
    fn ask_about(&mut self, key: Key, name: Name) -> bool {
        let Some(s) = self.sessions.get_mut(key) else {
            return false;
        };
        let kind = s.kind();
        let questions = &mut self.lessons.questions;
        if let Some(q) = questions.iter_mut().find(|q| q.name.as_bytes() == name.as_bytes()) {
            q.waiting.push(key);
            s.holds |= hold::LEARNING;
            return true;
        }
        if questions.len() >= MAX_QUESTIONS {
            return false;
        }
        s.holds |= hold::LEARNING;
        self.lessons.next_id = self.lessons.next_id.wrapping_add(1);
        let id = self.lessons.next_id;
        self.lessons.questions.push(Question {
            id,
            name,
            since: self.now,
            kind,
            sent: false,
            times: 0,
            said: None,
            waiting: vec![key],
        });
        self.send_question(id);
        self.start_ticking();
        true
    }

    /// Sends a question to a node, if there is one by now.
    fn send_question(&mut self, id: u32) {
        let nodes = self.primaries.len();
        let Some(q) = self.lessons.questions.iter_mut().find(|q| q.id == id && !q.sent) else {
            return;
        };
        if nodes == 0 {
            return;
        }
        q.sent = true;
        q.times += 1;
        let (name, kind) = (q.name, q.kind);
        let at = (id as usize).wrapping_add(q.times) % nodes;
        let node = self.primaries[at];
        let pipe = self.pipe_to(node, kind);
        let mut frame = Vec::new();
        encode::command(&mut frame, &[&b"COMMAND"[..], b"INFO", name.as_bytes()]);
        let entry = Entry { purpose: Purpose::Learn, ..entry(Key::NONE, id, 0) };
        self.push(pipe, entry, &Request::new(&frame, None, &[]));
    }

    /// A node's reply to a question.
    pub(super) fn told(&mut self, pipe: Key, id: u32, reply: &[u8]) {
        if matches!(classify(reply), Class::NoAuth) && self.credential().is_some() {
            self.reauthenticate(pipe);
            return self.question_lost(id, "the node wanted AUTH");
        }
        let now = self.now;
        if let Some(at) = self.lessons.questions.iter().position(|q| q.id == id) {
            let question = self.lessons.questions.swap_remove(at);
            self.lessons.learned.tell(&question.name, introspect::read(reply), now);
            self.let_go(question.waiting, hold::LEARNING);
        }
    }

    /// A question was lost with its connection: it is asked again with the next tick.
    pub(super) fn question_lost(&mut self, id: u32, said: &str) {
        if let Some(q) = self.lessons.questions.iter_mut().find(|q| q.id == id) {
            q.sent = false;
            q.said = Some(said.into());
        }
    }

    /// Looks after questions without an answer; true while there are any.
    pub(super) fn tick_questions(&mut self) -> bool {
        let limit = self.settings.op_timeout.as_millis() as u64;
        // All that could be told were told at once.
        self.lessons.failed.clear();
        let mut at = 0;
        while let Some(q) = self.lessons.questions.get(at) {
            if self.now.saturating_sub(q.since) >= limit {
                let known = self.lessons.learned.fail(&q.name, self.now);
                let question = self.lessons.questions.swap_remove(at);
                self.lessons.last_said = question.said;
                if !known {
                    // Those who waited are told; whoever comes next asks anew.
                    let told = question.waiting.iter().map(|&key| (key, question.name));
                    self.lessons.failed.extend(told);
                }
                self.let_go(question.waiting, hold::LEARNING);
            } else {
                let id = q.id;
                self.send_question(id);
                at += 1;
            }
        }
        !self.lessons.questions.is_empty()
    }

    /// Lets sessions go on that were held for `reason`.
    pub(super) fn let_go(&mut self, sessions: Vec<Key>, reason: u8) {
        for key in sessions {
            if let Some(s) = self.sessions.get_mut(key) {
                s.holds &= !reason;
                if !s.resuming {
                    s.resuming = true;
                    self.resuming.push(key);
                }
            }
        }
    }
}
