//! Commands that concern the clients of all workers: the other workers are asked by letter, and the
//! reply goes to its place when all have answered.
//!
//! Invariant: a question is answered by every worker once, or given up when its time is over; no lock
//! and no shared state, and nothing of it on the path of other commands. `worker::io` carries the
//! letters.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::cluster::topology::NodeAddr;
use crate::command::spec::Row;
use crate::key::Key;
use crate::resp::encode;
use crate::session::roster::Filter;
use crate::session::scan::Scan;
use crate::session::window::{NO_SLOT, Reply};

use super::Hub;
use super::request::entry;

/// What a worker is asked.
#[derive(Debug, Clone)]
pub enum Question {
    /// The lines of these clients.
    List(Filter),
    /// End the connections of these clients.
    Kill(Filter),
    /// End the wait of a client.
    Unblock {
        /// Its id.
        client: i64,
        /// With an error instead of as if its time were over.
        with_error: bool,
    },
    /// Hold commands back.
    Pause {
        /// For so long.
        ms: u64,
        /// All of them, not only those that may write.
        all: bool,
    },
    /// Let go what is held back.
    Unpause,
    /// Hand over the state of the scan of this cursor.
    TakeScan(u64),
}

/// What a worker says.
#[derive(Debug)]
pub enum Answer {
    /// Client ids and their lines.
    Lines(Vec<(u64, String)>),
    /// How many clients it was done to.
    Number(i64),
    /// A node refused it; its error reply.
    Refusal(Vec<u8>),
    /// It is done.
    Done,
    /// The state of a scan, if it was here.
    Scan(Option<Box<Scan<NodeAddr>>>),
}

/// What workers send each other.
#[derive(Debug)]
pub enum Letter {
    /// A question of worker `from`, to be answered under `id`.
    Question {
        /// Who asks.
        from: usize,
        /// The asker's number for it.
        id: u64,
        /// What is asked.
        question: Question,
    },
    /// The answer to the question `id` of the receiver.
    Answer {
        /// The receiver's number for it.
        id: u64,
        /// What is answered.
        answer: Answer,
    },
}

/// What the answers become.
#[derive(Debug)]
pub(super) enum Becomes {
    /// CLIENT LIST: lines by client id, or in the order of these ids.
    List {
        /// The ids asked for.
        ids: Option<Vec<i64>>,
        /// As RESP3 writes it.
        verbatim: bool,
    },
    /// CLIENT KILL: how many, or in the old form whether.
    Killed {
        /// The form with an address alone.
        old: bool,
    },
    /// CLIENT UNBLOCK: how many, or a node's refusal.
    Unblocked,
    /// OK.
    Ok,
    /// Nothing: the scan goes on with the state that came.
    Scan,
}

/// Who is to be answered.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asker {
    /// A consultation of this worker.
    Here(u64),
    /// Another worker.
    Peer {
        /// Its number.
        worker: usize,
        /// Its number for the question.
        id: u64,
    },
}

/// A question whose answers are being gathered.
#[derive(Debug)]
struct Consultation {
    id: u64,
    session: Key,
    ticket: u32,
    since: u64,
    /// Answers that are due.
    left: usize,
    answers: Vec<Answer>,
    becomes: Becomes,
}

/// The other workers, and what was asked of them.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Which worker this is.
    me: usize,
    /// How many sessions each of the others has.
    others: Vec<(usize, Arc<AtomicUsize>)>,
    consultations: Vec<Consultation>,
    next_id: u64,
}

impl Hub {
    /// This is worker `me`; `sessions` has the number of sessions of each worker, its own included.
    pub fn set_peers(&mut self, me: usize, sessions: Vec<Arc<AtomicUsize>>) {
        self.peers.me = me;
        self.scans.set_share(me, sessions.len());
        self.peers.others = sessions.into_iter().enumerate().filter(|(i, _)| *i != me).collect();
    }

    /// True when there are other workers.
    pub(super) fn has_peers(&self) -> bool {
        !self.peers.others.is_empty()
    }

    /// Clients of all workers.
    pub(super) fn clients_everywhere(&self) -> usize {
        let elsewhere = self.peers.others.iter().map(|(_, n)| n.load(Ordering::Relaxed));
        self.sessions.len() + elsewhere.sum::<usize>()
    }

    /// Asks all workers, this one included, and answers the session when they have.
    pub(super) fn consult(
        &mut self,
        key: Key,
        row: &'static Row,
        question: Question,
        becomes: Becomes,
    ) {
        let now = self.now;
        self.peers.next_id += 1;
        let (id, from) = (self.peers.next_id, self.peers.me);
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        let ticket = s.window.open(Some(row), NO_SLOT, Key::NONE, 0, now);
        for (to, _) in &self.peers.others {
            let question = question.clone();
            self.work.letters.push((*to, Letter::Question { from, id, question }));
        }
        self.peers.consultations.push(Consultation {
            id,
            session: key,
            ticket,
            since: now,
            left: self.peers.others.len() + 1,
            answers: Vec::new(),
            becomes,
        });
        self.start_ticking();
        if let Some(own) = self.answer_of(&question, Asker::Here(id)) {
            self.answered(id, Some(own));
        }
    }

    /// A letter of another worker.
    pub fn receive(&mut self, letter: Letter) {
        match letter {
            Letter::Question { from, id, question } => {
                let asker = Asker::Peer { worker: from, id };
                if let Some(answer) = self.answer_of(&question, asker) {
                    self.answer_later(asker, answer);
                }
            }
            Letter::Answer { id, answer } => self.answered(id, Some(answer)),
        }
        self.settle();
    }

    /// A letter could not be delivered: the worker is gone, and with it its clients.
    pub fn undeliverable(&mut self, letter: &Letter) {
        if let Letter::Question { id, .. } = letter {
            self.answered(*id, None);
        }
        self.settle();
    }

    fn answered(&mut self, id: u64, answer: Option<Answer>) {
        let Some(at) = self.peers.consultations.iter().position(|c| c.id == id) else {
            return;
        };
        let consultation = &mut self.peers.consultations[at];
        if let Some(Answer::Scan(Some(scan))) = answer {
            self.scans.adopt(*scan);
        } else {
            consultation.answers.extend(answer);
        }
        consultation.left -= 1;
        if consultation.left == 0 {
            let done = self.peers.consultations.swap_remove(at);
            let out = reply_of(&done.becomes, done.answers);
            self.deliver(&entry(done.session, done.ticket, 0), Reply::Borrowed(&out));
        }
    }

    /// Gives up questions that were not answered in time; true while there are any.
    pub(super) fn tick_consultations(&mut self) -> bool {
        // An answer may have taken a command to a node.
        let limit = 2 * self.settings.op_timeout.as_millis() as u64;
        let now = self.now;
        let late = |c: &Consultation| now.saturating_sub(c.since) >= limit;
        while let Some(at) = self.peers.consultations.iter().position(late) {
            let late = self.peers.consultations.swap_remove(at);
            let text = "ERR memorystore-auth-proxy: not all of its threads answered in time; the command may have \
                        been carried out in part";
            self.fail(late.session, late.ticket, 0, text);
        }
        !self.peers.consultations.is_empty()
    }

    /// The answer of this worker; `None`: it comes later.
    fn answer_of(&mut self, question: &Question, asker: Asker) -> Option<Answer> {
        match question {
            Question::List(filter) => Some(Answer::Lines(self.lines(filter))),
            Question::Kill(filter) => Some(Answer::Number(self.kill(filter))),
            Question::Unblock { client, with_error } => self.unblock(asker, *client, *with_error),
            Question::Pause { ms, all } => {
                self.pause(*ms, *all);
                Some(Answer::Done)
            }
            Question::Unpause => {
                self.unpause();
                Some(Answer::Done)
            }
            Question::TakeScan(number) => {
                Some(Answer::Scan(self.scans.take(*number).map(Box::new)))
            }
        }
    }

    /// Answers a question that could not be answered at once.
    pub(super) fn answer_later(&mut self, asker: Asker, answer: Answer) {
        match asker {
            Asker::Here(id) => self.answered(id, Some(answer)),
            Asker::Peer { worker, id } => {
                self.work.letters.push((worker, Letter::Answer { id, answer }));
            }
        }
    }
}

/// The reply that the answers of all workers become.
fn reply_of(becomes: &Becomes, answers: Vec<Answer>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut lines = Vec::new();
    let mut number = 0;
    let mut refusal = None;
    for answer in answers {
        match answer {
            Answer::Lines(more) => lines.extend(more),
            Answer::Number(n) => number += n,
            Answer::Refusal(line) => refusal = Some(line),
            Answer::Done | Answer::Scan(_) => {}
        }
    }
    match becomes {
        Becomes::List { ids: None, verbatim } => {
            lines.sort_by_key(|(id, _)| *id);
            let text: String = lines.into_iter().map(|(_, line)| line).collect();
            crate::command::merge::info_reply(&text, *verbatim, &mut out);
        }
        Becomes::List { ids: Some(ids), verbatim } => {
            let line = |id: &i64| lines.iter().find(|(known, _)| i64::try_from(*known) == Ok(*id));
            let text: String = ids.iter().filter_map(line).map(|(_, line)| line.as_str()).collect();
            crate::command::merge::info_reply(&text, *verbatim, &mut out);
        }
        Becomes::Unblocked if number == 0 && refusal.is_some() => {
            out.extend(refusal.unwrap_or_default());
        }
        Becomes::Unblocked | Becomes::Killed { old: false } => encode::integer(&mut out, number),
        Becomes::Killed { old: true } if number == 0 => {
            encode::error(&mut out, "ERR No such client");
        }
        Becomes::Killed { old: true } | Becomes::Ok | Becomes::Scan => {
            encode::simple(&mut out, "OK")
        }
    }
    out
}
