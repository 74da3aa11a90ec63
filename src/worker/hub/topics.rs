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
use crate::command::slot::slot;
use crate::key::Key;
use crate::sabotage::{Promise, breaks};
use crate::session::subscriptions::Kind;

/// Most names one question carries.
const MAX_NAMES: usize = 512;

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
    /// Number of names.
    pub(super) fn len(&self) -> usize {
        self.by_name.iter().map(HashMap::len).sum()
    }

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
        let number = self.next_question();
        if subscribe {
            for name in &names {
                if let Some(topic) = self.get_mut(kind, name) {
                    topic.pipe = pipe;
                    topic.asked = number;
                    topic.confirmed = false;
                }
            }
        }
        self.note(number, pipe, kind, subscribe, names);
    }

    /// Notes a SUBSCRIBE on a pipe while another one carries the topics.
    pub(super) fn ask_besides(&mut self, pipe: Key, kind: Kind, names: Vec<Bytes>) {
        let number = self.next_question();
        self.note(number, pipe, kind, true, names);
    }

    fn next_question(&mut self) -> u32 {
        self.next_number = self.next_number.wrapping_add(1);
        self.next_number
    }

    fn note(&mut self, number: u32, pipe: Key, kind: Kind, subscribe: bool, names: Vec<Bytes>) {
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

    /// True when a pipe carries any name.
    pub(super) fn carries(&self, pipe: Key) -> bool {
        self.by_name.iter().flat_map(HashMap::values).any(|t| t.pipe == pipe)
    }

    /// The names a pipe carries.
    pub(super) fn carried_by(&self, pipe: Key) -> Vec<(Kind, Bytes)> {
        let of = |kind| self.of(kind).filter(|(_, t)| t.pipe == pipe);
        let named = |kind| of(kind).map(move |(name, _)| (kind, name.clone()));
        Kind::ALL.into_iter().flat_map(named).collect()
    }

    /// True while a pipe owes an answer.
    pub(super) fn is_asked(&self, pipe: Key) -> bool {
        self.questions.get(&pipe).is_some_and(|q| !q.is_empty())
    }

    /// True when the oldest question of a pipe is about this name.
    pub(super) fn is_about(&self, pipe: Key, name: &[u8]) -> bool {
        let oldest = self.questions.get(&pipe).and_then(VecDeque::front);
        oldest.is_some_and(|q| q.names.iter().any(|n| n == name))
    }

    /// One pipe carries from now on what another one did.
    pub(super) fn hand_over(&mut self, node: u16, old: Key, new: Key) {
        for topic in self.by_name.iter_mut().flat_map(HashMap::values_mut) {
            if topic.pipe == old {
                topic.pipe = new;
            }
        }
        if let Some(at) = self.pipes.iter_mut().find(|at| **at == (node, old)) {
            at.1 = new;
        }
        self.dirty = true;
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
                    if !breaks(Promise::Resubscribe) {
                        self.homeless.push((kind, name.clone()));
                    }
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

/// Names by pipe and kind, as many a question as may be: a node takes shard channels of one slot at a
/// time, and refuses all of a question otherwise.
pub(super) fn in_questions(mut names: Vec<(Key, Kind, Bytes)>) -> Vec<(Key, Kind, Vec<Bytes>)> {
    let place = |pipe: Key, kind: Kind, name: &Bytes| match kind {
        Kind::Shard => (pipe, kind.index(), slot(name)),
        Kind::Channel | Kind::Pattern => (pipe, kind.index(), 0),
    };
    names.sort_by_key(|(pipe, kind, name)| place(*pipe, *kind, name));
    let mut questions: Vec<(Key, Kind, Vec<Bytes>)> = Vec::new();
    for (pipe, kind, name) in names {
        match questions.last_mut() {
            Some((p, k, all))
                if all.len() < MAX_NAMES && place(*p, *k, &all[0]) == place(pipe, kind, &name) =>
            {
                all.push(name);
            }
            _ => questions.push((pipe, kind, vec![name])),
        }
    }
    questions
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    fn key(n: u32) -> Key {
        Key::new(n, 1)
    }

    /// What happens to one worker whose nodes answer in order.
    #[derive(Debug, Clone)]
    enum Event {
        Subscribe(u32, u8),
        Leave(u32, u8),
        /// The oldest question of a pipe is answered.
        Answer(bool),
        /// A pipe is lost, with all questions.
        Lose(bool),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => (0u32..4, 0u8..5).prop_map(|(s, n)| Event::Subscribe(s, n)),
            3 => (0u32..4, 0u8..5).prop_map(|(s, n)| Event::Leave(s, n)),
            4 => any::<bool>().prop_map(Event::Answer),
            1 => any::<bool>().prop_map(Event::Lose),
        ]
    }

    proptest! {
        /// A topic that counts as confirmed is one its pipe's node is subscribed to, and in the end
        /// the nodes are subscribed to exactly what somebody hears.
        #[test]
        fn confirmed_is_what_the_node_knows(events in proptest::collection::vec(event(), 1..120)) {
            let mut topics = Topics::default();
            let mut heard: BTreeSet<(u32, u8)> = BTreeSet::new();
            // By pipe: questions on their way, and what the node is subscribed to.
            let mut asked: [VecDeque<(bool, Vec<u8>)>; 2] = Default::default();
            let mut node: [BTreeSet<u8>; 2] = Default::default();
            let mut generation = [0u32, 0];
            let pipe = |i: usize, generation: &[u32; 2]| Key::new(100 + i as u32, generation[i] + 1);
            let settle = |topics: &mut Topics, asked: &mut [VecDeque<(bool, Vec<u8>)>; 2], generation: &[u32; 2]| {
                for (kind, name) in std::mem::take(&mut topics.homeless) {
                    if topics.get(kind, &name).is_some_and(|t| t.pipe == Key::NONE) {
                        let i = usize::from(name[0] % 2);
                        topics.ask(pipe(i, generation), kind, true, vec![name.clone()]);
                        asked[i].push_back((true, vec![name[0]]));
                    }
                }
            };
            let answer = |topics: &mut Topics, i: usize, asked: &mut [VecDeque<(bool, Vec<u8>)>; 2], node: &mut [BTreeSet<u8>; 2], generation: &[u32; 2]| {
                let Some((subscribe, names)) = asked[i].pop_front() else { return };
                for name in names {
                    if subscribe { node[i].insert(name); } else { node[i].remove(&name); }
                    topics.confirm(pipe(i, generation), Kind::Channel, subscribe, &[name]);
                }
            };
            for e in events {
                match e {
                    Event::Subscribe(s, n) => {
                        if heard.insert((s, n)) {
                            let name = Bytes::copy_from_slice(&[n]);
                            topics.wait(Kind::Channel, &name, key(s));
                            topics.hear(Kind::Channel, &name, key(s));
                        }
                    }
                    Event::Leave(s, n) => {
                        heard.remove(&(s, n));
                        if let Some(p) = topics.leave(Kind::Channel, &[n], key(s)) {
                            let i = usize::from(n % 2);
                            prop_assert_eq!(p, pipe(i, &generation));
                            topics.ask(p, Kind::Channel, false, vec![Bytes::copy_from_slice(&[n])]);
                            asked[i].push_back((false, vec![n]));
                        }
                    }
                    Event::Answer(i) => answer(&mut topics, usize::from(i), &mut asked, &mut node, &generation),
                    Event::Lose(i) => {
                        let i = usize::from(i);
                        topics.lose(pipe(i, &generation));
                        asked[i].clear();
                        node[i].clear();
                        generation[i] += 1;
                    }
                }
                settle(&mut topics, &mut asked, &generation);
                for (name, topic) in topics.of(Kind::Channel) {
                    let i = usize::from(name[0] % 2);
                    prop_assert_eq!(topic.pipe, pipe(i, &generation));
                    if topic.confirmed {
                        let ended = asked[i].iter().any(|(sub, names)| !sub && names == &[name[0]]);
                        prop_assert!(node[i].contains(&name[0]) && !ended);
                    }
                }
            }
            for i in [0, 1] {
                while !asked[i].is_empty() {
                    answer(&mut topics, i, &mut asked, &mut node, &generation);
                }
                let want: BTreeSet<u8> = heard.iter().map(|(_, n)| *n).filter(|n| usize::from(n % 2) == i).collect();
                prop_assert_eq!(&node[i], &want);
            }
            for (name, topic) in topics.of(Kind::Channel) {
                prop_assert!(topic.confirmed);
                let sessions: BTreeSet<Key> = topic.subscribers.iter().copied().collect();
                let want: BTreeSet<Key> = heard.iter().filter(|(_, n)| *n == name[0]).map(|(s, _)| key(*s)).collect();
                prop_assert_eq!(sessions, want);
            }
        }
    }

    #[test]
    fn names_the_node_gave_up_are_told_apart_from_those_that_were_left() {
        let mut topics = Topics::default();
        let name = Bytes::from_static(b"c");
        assert!(topics.wait(Kind::Shard, &name, key(1)));
        topics.ask(key(9), Kind::Shard, true, vec![name.clone()]);
        assert!(matches!(topics.confirm(key(9), Kind::Shard, false, b"c"), Answered::Unasked));
        let whole = topics.confirm(key(9), Kind::Shard, true, b"c");
        assert!(matches!(whole, Answered::Whole(Kind::Shard, names) if names == [name.clone()]));
        topics.hear(Kind::Shard, b"c", key(1));
        topics.hear(Kind::Shard, b"c", key(2));
        assert_eq!(topics.surplus(Kind::Shard, b"c"), 1);
        topics.ask(key(9), Kind::Shard, true, vec![name.clone()]);
        let refused = topics.refuse(key(9));
        assert!(
            refused.is_some() && topics.get(Kind::Shard, b"c").is_some_and(|t| t.pipe == Key::NONE)
        );
        assert!(topics.homeless.iter().all(|_| topics.get(Kind::Shard, b"c").is_some()));
    }
}
