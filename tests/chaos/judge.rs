//! The checker: what must hold of a history, whatever the network and the nodes did. Pure.
//!
//! Objections are facts about the proxy, never guesses. Two things are open: a command that ended as
//! "may have been executed" may run once, also late (its bytes may lie in a stalled wire or a stopped
//! node), and what was acknowledged during a [`Span`] of loss may be gone.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{Op, Span};
use crate::check::Fate;

/// A number that only one session counts up by one (a counter, the length of a list it appends to):
/// every reply is the next one. `end` is what the node holds at the end.
pub fn counter(ops: &[Op], losses: &[Span], end: Option<i64>) -> Vec<String> {
    let mut objections = Vec::new();
    let (mut last, mut open) = (0, 0);
    // Since a loss began: what was surely kept, and the highest number seen.
    let mut doubt: Option<(i64, i64)> = None;
    for op in ops {
        match op.fate {
            Fate::NotRun => continue,
            Fate::Unknown => {
                open += 1;
                continue;
            }
            Fate::Done => {}
        }
        let (floor, high) = doubt.unwrap_or((last, last));
        let fits = (floor + 1..=high + 1 + open).contains(&op.value);
        if !fits {
            let at = op.answered;
            let doubted = if doubt.is_some() { ", after a loss" } else { "" };
            objections.push(format!(
                "was told {} at {at} ms, expected {} to {}{doubted}",
                op.value,
                floor + 1,
                high + 1 + open
            ));
        }
        if op.meets(losses) {
            doubt = Some((floor, high.max(op.value)));
        } else {
            if doubt.take().is_none() && fits {
                open -= op.value - last - 1;
            }
        }
        last = op.value;
    }
    let (floor, high) = doubt.unwrap_or((last, last));
    if let Some(end) = end.filter(|end| !(floor..=high + open).contains(end)) {
        objections.push(format!("is {end} in the end, expected {floor} to {}", high + open));
    }
    objections
}

/// A SET of the next number, or a GET, of a key that one session alone writes. Nothing is -1.
#[derive(Debug, Clone, Copy)]
pub enum Access {
    Set(Op),
    Get(Op),
}

/// Every GET finds what the session set last; when replicas answer it may be `stale`.
pub fn register(accesses: &[Access], losses: &[Span], stale: bool) -> Vec<String> {
    let mut objections = Vec::new();
    let (mut last, mut newest) = (-1, -1);
    let mut unknown = BTreeSet::new();
    let mut doubt: Option<(i64, i64)> = None;
    for access in accesses {
        let (Access::Set(op) | Access::Get(op)) = access;
        if let Access::Set(op) = access {
            newest = op.value;
        }
        match (access, op.fate) {
            (_, Fate::NotRun) | (Access::Get(_), Fate::Unknown) => {}
            (Access::Set(_), Fate::Unknown) => {
                unknown.insert(op.value);
            }
            (Access::Set(_), Fate::Done) => {
                let floor = doubt.map_or(last, |d| d.0);
                doubt = op.meets(losses).then_some((floor, op.value));
                last = op.value;
            }
            (Access::Get(_), Fate::Done) => {
                let doubted = doubt.is_some_and(|(from, to)| (from..=to).contains(&op.value));
                let old = stale && op.value <= newest;
                if op.value != last && !doubted && !old && !unknown.contains(&op.value) {
                    let at = op.answered;
                    objections.push(format!("holds {} at {at} ms, not {last}", op.value));
                }
                if !op.meets(losses) && !stale {
                    doubt = None;
                    last = op.value;
                }
            }
        }
    }
    objections
}

/// A list to which one session pushed 1, 2, 3 …, and what it held afterwards: the order in which
/// the slot's node executed them.
pub fn log(pushes: &[Op], losses: &[Span], list: &[i64]) -> Vec<String> {
    let mut objections = counter(pushes, losses, None);
    let fates: BTreeMap<i64, &Op> = (1..).zip(pushes).collect();
    let mut seen = BTreeSet::new();
    let mut newest = 0;
    for &element in list {
        if !seen.insert(element) {
            objections.push(format!("element {element} was written twice"));
        }
        match fates.get(&element).map(|op| op.fate) {
            None => objections.push(format!("element {element} was never written")),
            Some(Fate::NotRun) => {
                objections
                    .push(format!("element {element} is there, and was told as not executed"));
            }
            // It may have run late.
            Some(Fate::Unknown) => {}
            Some(Fate::Done) => {
                if element < newest {
                    objections.push(format!("element {element} was executed after {newest}"));
                }
                newest = newest.max(element);
            }
        }
    }
    let kept = |op: &Op| op.fate == Fate::Done && !op.meets(losses);
    let missing: Vec<_> =
        fates.iter().filter(|(n, op)| kept(op) && !seen.contains(n)).map(|(n, _)| *n).collect();
    if !missing.is_empty() {
        let some = &missing[..missing.len().min(8)];
        objections.push(format!("{} acknowledged elements are gone: {some:?}", missing.len()));
    }
    objections
}

/// Everything that went through one queue.
#[derive(Debug, Default)]
pub struct Queue {
    /// Elements pushed, all different.
    pub pushed: Vec<Op>,
    /// Elements taken out by anybody; of an unknown take the element is unknown too.
    pub taken: Vec<Op>,
    /// Elements moved from one list of the queue to another.
    pub moved: Vec<Op>,
    /// What is still there at the end.
    pub left: Vec<i64>,
}

impl Queue {
    /// No element is lost, doubled or made up.
    pub fn objections(&self, losses: &[Span]) -> Vec<String> {
        let mut objections = Vec::new();
        let taken = self.taken.iter().filter(|op| op.fate == Fate::Done);
        let (undone, surely): (Vec<&Op>, Vec<&Op>) = taken.partition(|op| op.meets(losses));
        let mut seen: BTreeMap<i64, u32> = BTreeMap::new();
        for element in surely.iter().map(|op| op.value).chain(self.left.iter().copied()) {
            *seen.entry(element).or_default() += 1;
        }
        for (element, times) in seen.iter().filter(|(_, times)| **times > 1) {
            objections.push(format!("element {element} came {times} times"));
        }
        // What a loss brought back may come again.
        undone.iter().for_each(|op| *seen.entry(op.value).or_default() += 1);
        let pushed: BTreeMap<i64, &Op> = self.pushed.iter().map(|op| (op.value, op)).collect();
        let moved = self.moved.iter().filter(|op| op.fate == Fate::Done).map(|op| op.value);
        for element in seen.keys().copied().chain(moved).collect::<BTreeSet<_>>() {
            if pushed.get(&element).is_none_or(|op| op.fate == Fate::NotRun) {
                objections.push(format!("element {element} came, but its push did not run"));
            }
        }
        let kept = |op: &&&Op| op.fate == Fate::Done && !op.meets(losses);
        let missing: Vec<i64> = pushed
            .values()
            .filter(kept)
            .map(|op| op.value)
            .filter(|element| !seen.contains_key(element))
            .collect();
        let unknown = self.taken.iter().filter(|op| op.fate == Fate::Unknown).count();
        if missing.len() > unknown {
            let some = &missing[..missing.len().min(8)];
            objections.push(format!(
                "{} elements are lost, {unknown} takes are unknown: {some:?}",
                missing.len()
            ));
        }
        objections
    }
}

/// Numbers that sessions were told as theirs alone: none twice, but for a loss.
pub fn told(ops: &[Op], losses: &[Span]) -> Vec<String> {
    let sure = ops.iter().filter(|op| op.fate == Fate::Done && !op.meets(losses));
    let mut numbers: Vec<i64> = sure.map(|op| op.value).collect();
    numbers.sort_unstable();
    let twice = numbers.windows(2).filter(|pair| pair[0] == pair[1]);
    twice.map(|pair| format!("the number {} was told twice", pair[0])).collect()
}

/// Numbered messages of one publisher and what one subscriber heard: each at most once and in order,
/// and all that were published in calm times. Times are ms of the run. In `twice` a message may come a
/// second time: of a shard channel during a failover, when the nodes of the shard pass messages on to
/// each other while the subscription moves from one to another.
pub fn messages(
    published: &[(u32, u64, Fate)],
    heard: &[(u32, u64)],
    calm: &[Span],
    twice: &[Span],
) -> Vec<String> {
    let mut objections = Vec::new();
    let fates: BTreeMap<u64, Fate> = published.iter().map(|p| (p.1, p.2)).collect();
    let mut seen = BTreeSet::new();
    let mut newest = 0;
    let first = |number| heard.iter().find(|h| h.1 == number).map_or(0, |h| h.0);
    for &(at, number) in heard {
        if !seen.insert(number) {
            if twice.iter().any(|span| (span.from..=span.until).contains(&at)) {
                continue;
            }
            let before = first(number);
            objections.push(format!("message {number} came twice, at {before} and {at} ms"));
        }
        match fates.get(&number) {
            None | Some(Fate::NotRun) => {
                objections.push(format!("message {number} came, but was never published"));
            }
            // It may have been published late.
            Some(Fate::Unknown) => {}
            Some(Fate::Done) => {
                if number < newest {
                    objections
                        .push(format!("message {newest} came before message {number} at {at} ms"));
                }
                newest = newest.max(number);
            }
        }
    }
    let well = |at: u32| calm.iter().any(|span| (span.from..=span.until).contains(&at));
    let missing: Vec<_> = published
        .iter()
        .filter(|(at, number, fate)| *fate == Fate::Done && well(*at) && !seen.contains(number))
        .collect();
    if let Some((at, number, _)) = missing.first() {
        objections.push(format!(
            "{} messages of calm times are missing, the first is {number} of {at} ms",
            missing.len()
        ));
    }
    objections
}

/// Something that was wrong with one shard, or with all of them when `shard` is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trouble {
    pub shard: Option<usize>,
    pub span: Span,
}

/// Commands of a session that uses one shard alone, held against what was wrong with others: while
/// that shard is well they are answered in less than `bound` ms and without an error. `excused` are
/// spans in which the machine itself stood still.
pub fn healthy(
    shard: usize,
    ops: &[Op],
    troubles: &[Trouble],
    excused: &[Span],
    bound: u32,
    after: u32,
) -> (usize, Vec<String>) {
    let (own, others): (Vec<&Trouble>, Vec<&Trouble>) =
        troubles.iter().partition(|t| t.shard.is_none_or(|s| s == shard));
    let mut judged = 0;
    let mut objections = Vec::new();
    for op in ops {
        let span = Span { from: op.sent, until: op.answered };
        // Its own shard may need a while to be well again.
        let near = Span { from: op.sent.saturating_sub(after), until: op.answered };
        if !others.iter().any(|t| t.span.meets(&span))
            || own.iter().any(|t| t.span.meets(&near))
            || excused.iter().any(|s| s.meets(&span))
        {
            continue;
        }
        judged += 1;
        let took = op.answered - op.sent;
        if took >= bound || op.fate != Fate::Done {
            let at = op.sent;
            objections.push(format!(
                "a command to shard {shard} took {took} ms ({:?}) at {at} ms while only others were ill",
                op.fate
            ));
        }
    }
    (judged, objections)
}
