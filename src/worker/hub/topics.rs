//! What the worker is subscribed to on behalf of its sessions: names, who hears them, which pipe
//! carries them.
//!
//! However many sessions subscribe to a name, a node is asked once; a pipe carries the names of all
//! sessions. Invariant: a topic exists while a session hears it or waits for it; it is confirmed
//! only when its pipe's node has answered the last question asked about it. This is bookkeeping
//! alone: `pubsub` asks, places and delivers.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::cluster::topology::UNASSIGNED;
use crate::command::glob;
use crate::key::Key;
use crate::session::subscriptions::Kind;

/// One name somebody is subscribed to.
#[derive(Debug)]
pub(super) struct Topic {
    /// Sessions that hear it.
    pub(super) subscribers: Vec<Key>,
    /// Sessions whose SUBSCRIBE waits for it.
    pub(super) waiters: Vec<Key>,
    /// The pipe that carries it; [`Key::NONE`] while it has none.
    pub(super) pipe: Key,
    /// The question that will confirm it.
    asked: u32,
    /// Its node has confirmed it.
    pub(super) confirmed: bool,
}

/// One SUBSCRIBE or UNSUBSCRIBE on a pipe, until its last confirmation.
#[derive(Debug)]
struct Question {
    number: u32,
    kind: Kind,
    subscribe: bool,
    names: Vec<Bytes>,
    left: usize,
}

/// What a confirmation was.
#[derive(Debug)]
pub(super) enum Answered {
    /// One of several names of a question.
    InPart,
    /// The last name of a question; these topics are now confirmed.
    Whole(Kind, Vec<Bytes>),
    /// Nobody asked: the node gave the name up by itself.
    Unasked,
}

/// See the module header.
#[derive(Debug)]
pub(super) struct Topics {
    by_name: [HashMap<Bytes, Topic>; 3],
    /// Topics without a pipe; some may be gone or placed by now.
    pub(super) homeless: Vec<(Kind, Bytes)>,
    /// Those that were refused just now: they become homeless a little later.
    delayed: Vec<(Kind, Bytes)>,
    /// Pipes that carry topics, by node.
    pub(super) pipes: Vec<(u16, Key)>,
    /// The node that carries channels and patterns, and takes PUBLISH; or [`UNASSIGNED`].
    pub(super) home: u16,
    /// Sessions whose SUBSCRIBE waits.
    pub(super) waiting: Vec<Key>,
    questions: HashMap<Key, VecDeque<Question>>,
    next_number: u32,
    /// Something may have to be placed anew.
    pub(super) dirty: bool,
}

impl Default for Topics {
    fn default() -> Self {
        Self {
            by_name: Default::default(),
            homeless: Vec::new(),
            delayed: Vec::new(),
            pipes: Vec::new(),
            home: UNASSIGNED,
            waiting: Vec::new(),
            questions: HashMap::new(),
            next_number: 0,
            dirty: false,
        }
    }
}

impl Topics {
    /// True when no session is subscribed to anything.
    pub(super) fn is_empty(&self) -> bool {
        self.by_name.iter().all(HashMap::is_empty)
    }

    pub(super) fn get(&self, kind: Kind, name: &[u8]) -> Option<&Topic> {
        self.by_name[kind.index()].get(name)
    }

    pub(super) fn get_mut(&mut self, kind: Kind, name: &[u8]) -> Option<&mut Topic> {
        self.by_name[kind.index()].get_mut(name)
    }

    /// All names of a kind, with their topics.
    pub(super) fn of(&self, kind: Kind) -> impl Iterator<Item = (&Bytes, &Topic)> {
        self.by_name[kind.index()].iter()
    }

    /// Lets a session wait for a name; true when no node has confirmed the name yet.
    pub(super) fn wait(&mut self, kind: Kind, name: &Bytes, session: Key) -> bool {
        let topic = self.by_name[kind.index()].entry(name.clone()).or_insert_with(|| {
            self.homeless.push((kind, name.clone()));
            self.dirty = true;
            Topic {
                subscribers: Vec::new(),
                waiters: Vec::new(),
                pipe: Key::NONE,
                asked: 0,
                confirmed: false,
            }
        });
        topic.waiters.push(session);
        !topic.confirmed
    }

    /// The session waits no more: it hears the name.
    pub(super) fn hear(&mut self, kind: Kind, name: &[u8], session: Key) {
        if let Some(topic) = self.get_mut(kind, name) {
            topic.waiters.retain(|k| *k != session);
            topic.subscribers.push(session);
        }
    }

    /// The session neither hears the name nor waits for it. The pipe it was asked on is returned
    /// when nobody else does: it is to be told.
    pub(super) fn leave(&mut self, kind: Kind, name: &[u8], session: Key) -> Option<Key> {
        let topic = self.get_mut(kind, name)?;
        topic.waiters.retain(|k| *k != session);
        topic.subscribers.retain(|k| *k != session);
        if topic.waiters.is_empty() && topic.subscribers.is_empty() {
            let pipe = topic.pipe;
            self.by_name[kind.index()].remove(name);
            return (pipe != Key::NONE).then_some(pipe);
        }
        None
    }

    /// Notes a question on a pipe; its topics will be confirmed by the answer to this one.
    pub(super) fn ask(&mut self, pipe: Key, kind: Kind, subscribe: bool, names: Vec<Bytes>) {
        self.next_number = self.next_number.wrapping_add(1);
        let number = self.next_number;
        if subscribe {
            for name in &names {
                if let Some(topic) = self.get_mut(kind, name) {
                    topic.pipe = pipe;
                    topic.asked = number;
                    topic.confirmed = false;
                }
            }
        }
        let left = names.len();
        let question = Question { number, kind, subscribe, names, left };
        self.questions.entry(pipe).or_default().push_back(question);
    }

    /// Takes a confirmation of a pipe.
    pub(super) fn confirm(
        &mut self,
        pipe: Key,
        kind: Kind,
        subscribe: bool,
        name: &[u8],
    ) -> Answered {
        let Some(questions) = self.questions.get_mut(&pipe) else {
            return Answered::Unasked;
        };
        let Some(oldest) = questions.front_mut() else {
            return Answered::Unasked;
        };
        let is_answer = oldest.kind == kind
            && oldest.subscribe == subscribe
            && (subscribe || oldest.names.iter().any(|n| n == name));
        if !is_answer {
            return Answered::Unasked;
        }
        oldest.left = oldest.left.saturating_sub(1);
        if oldest.left > 0 {
            return Answered::InPart;
        }
        let Some(done) = questions.pop_front() else {
            return Answered::Unasked;
        };
        let mut confirmed = Vec::new();
        if done.subscribe {
            for name in done.names {
                if let Some(topic) = self.get_mut(kind, &name)
                    && topic.pipe == pipe
                    && topic.asked == done.number
                    && !topic.confirmed
                {
                    topic.confirmed = true;
                    confirmed.push(name);
                }
            }
        }
        Answered::Whole(kind, confirmed)
    }

    /// The oldest question of a pipe was refused: its names are without a pipe, and will be homeless
    /// when [`Topics::end_delay`] says so.
    pub(super) fn refuse(&mut self, pipe: Key) -> Option<(Kind, Vec<Bytes>)> {
        let refused = self.questions.get_mut(&pipe)?.pop_front()?;
        if !refused.subscribe {
            return None;
        }
        for name in &refused.names {
            if let Some(topic) = self.get_mut(refused.kind, name)
                && topic.pipe == pipe
                && topic.asked == refused.number
            {
                topic.pipe = Key::NONE;
                self.delayed.push((refused.kind, name.clone()));
            }
        }
        Some((refused.kind, refused.names))
    }

    /// What was refused is to be placed again.
    pub(super) fn end_delay(&mut self) {
        self.homeless.append(&mut self.delayed);
        self.dirty = true;
    }

    /// Takes the pipe from a topic, to place it anew.
    pub(super) fn evict(&mut self, kind: Kind, name: &Bytes) {
        if let Some(topic) = self.get_mut(kind, name) {
            topic.pipe = Key::NONE;
            topic.confirmed = false;
            self.homeless.push((kind, name.clone()));
            self.dirty = true;
        }
    }

    /// The pipe is gone: all it carried is without a pipe.
    pub(super) fn lose(&mut self, pipe: Key) {
        self.pipes.retain(|(_, k)| *k != pipe);
        self.questions.remove(&pipe);
        for kind in Kind::ALL {
            for (name, topic) in &mut self.by_name[kind.index()] {
                if topic.pipe == pipe {
                    topic.pipe = Key::NONE;
                    topic.confirmed = false;
                    self.homeless.push((kind, name.clone()));
                }
            }
        }
        self.dirty = true;
    }

    /// How many more receivers there are than the node that carries the name counts: each pipe
    /// counts once for a name, however many sessions hear it.
    pub(super) fn surplus(&self, kind: Kind, name: &[u8]) -> i64 {
        self.get(kind, name).map_or(0, |t| t.subscribers.len() as i64 - i64::from(t.confirmed))
    }

    /// The same for PUBLISH: the channel and every pattern it fits.
    pub(super) fn surplus_of_publish(&self, channel: &[u8]) -> i64 {
        let patterns = self.of(Kind::Pattern).filter(|(p, _)| glob::matches(p, channel));
        let by_pattern =
            patterns.map(|(_, t)| t.subscribers.len() as i64 - i64::from(t.confirmed)).sum::<i64>();
        self.surplus(Kind::Channel, channel) + by_pattern
    }
}
