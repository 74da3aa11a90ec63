//! The checker: what must hold of what the sessions of a run saw. Pure; it knows no socket.
//!
//! Every check takes the history of one thing and returns its objections in words. Invariant: an
//! objection is a fact about the proxy, never a guess: what a "may have been executed" error leaves
//! open is allowed to be either way, once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::support::resp::Value;

/// What a client reads when a connection was lost after its write had left.
pub const UNKNOWN: &str = "may have been executed";

/// What became of one command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Answered: it ran once.
    Done,
    /// It ran once or not at all.
    Unknown,
    /// It did not run.
    NotRun,
}

/// The fate a reply tells.
pub fn fate(reply: &Value) -> Fate {
    match reply {
        Value::Error(text) if text.contains(UNKNOWN) => Fate::Unknown,
        Value::Error(_) => Fate::NotRun,
        _ => Fate::Done,
    }
}

/// A counter that one session alone counts up by one: every reply must be the next number.
#[derive(Debug, Default)]
pub struct Sequence {
    last: i64,
    open: i64,
    acked: u64,
    unknown: u64,
}

impl Sequence {
    /// Takes the reply to the next INCR.
    pub fn reply(&mut self, reply: &Value) -> Result<(), String> {
        match (fate(reply), reply) {
            (Fate::Unknown, _) => {
                self.open += 1;
                self.unknown += 1;
                Ok(())
            }
            (Fate::NotRun, _) => Ok(()),
            (Fate::Done, Value::Int(got)) => {
                let least = self.last + 1;
                let fits = (least..=least + self.open).contains(got);
                let open = std::mem::take(&mut self.open);
                self.last = *got;
                self.acked += 1;
                if fits {
                    return Ok(());
                }
                Err(format!("INCR answered {got}, expected {least} (or up to {open} more)"))
            }
            (Fate::Done, other) => Err(format!("INCR answered {other:?}")),
        }
    }

    /// What it adds to the total of its counter.
    pub fn tally(&self) -> Tally {
        Tally { acked: self.acked, unknown: self.unknown }
    }

    /// Holds it against the value the node has at the end.
    pub fn end(&self, value: i64) -> Result<(), String> {
        if (self.last..=self.last + self.open).contains(&value) {
            return Ok(());
        }
        let Self { last, open, .. } = self;
        Err(format!("is {value} in the end, was {last} at the last reply ({open} unknown since)"))
    }
}

/// Increments of one counter, or several.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Answered.
    pub acked: u64,
    /// Reported as "may have been executed".
    pub unknown: u64,
}

impl Tally {
    /// Takes one reply.
    pub fn reply(&mut self, reply: &Value) {
        match fate(reply) {
            Fate::Done => self.acked += 1,
            Fate::Unknown => self.unknown += 1,
            Fate::NotRun => {}
        }
    }

    /// Adds another.
    pub fn add(&mut self, other: Self) {
        self.acked += other.acked;
        self.unknown += other.unknown;
    }

    /// The total equals what was acknowledged plus some of the unknown.
    pub fn end(&self, value: i64) -> Result<(), String> {
        let Self { acked, unknown } = *self;
        if u64::try_from(value).is_ok_and(|n| (acked..=acked + unknown).contains(&n)) {
            return Ok(());
        }
        Err(format!("total is {value}; {acked} were acknowledged and {unknown} unknown"))
    }
}

/// What one command of a pipeline must answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// Exactly this.
    Exactly(Value),
    /// An integer; which one, another check knows.
    Number,
    /// Anything but an error.
    Anything,
}

/// Holds replies against what was asked, place by place. Error replies are left to the caller.
pub fn replies(wanted: &[Wanted], got: &[Value]) -> Vec<String> {
    let mut objections = Vec::new();
    if wanted.len() != got.len() {
        objections.push(format!("{} replies to {} commands", got.len(), wanted.len()));
    }
    for (place, (wanted, got)) in wanted.iter().zip(got).enumerate() {
        let right = match wanted {
            Wanted::Exactly(value) => value == got,
            Wanted::Number => matches!(got, Value::Int(_)),
            Wanted::Anything => true,
        };
        if !right && !matches!(got, Value::Error(_)) {
            objections.push(format!("reply {place} is {got:?}, wanted {wanted:?}"));
        }
    }
    objections
}

/// Everything that went through one queue (a list or a stream with one group).
#[derive(Debug, Default)]
pub struct Queue {
    /// Elements pushed, in order, with what became of the push.
    pub pushed: Vec<(u64, Fate)>,
    /// Elements each consumer got, in order.
    pub taken: Vec<Vec<u64>>,
    /// How many takes ended as unknown: each may have taken one element that nobody saw.
    pub unknown_takes: u64,
    /// Elements still there at the end, wherever the queue keeps them.
    pub left: Vec<u64>,
}

impl Queue {
    /// No element is lost, doubled or made up, and each consumer got them in their order.
    pub fn objections(&self) -> Vec<String> {
        let mut objections = Vec::new();
        let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
        for &element in self.taken.iter().flatten().chain(&self.left) {
            *seen.entry(element).or_default() += 1;
        }
        let pushed: BTreeSet<u64> =
            self.pushed.iter().filter(|p| p.1 != Fate::NotRun).map(|p| p.0).collect();
        for (element, times) in &seen {
            if *times > 1 {
                objections.push(format!("element {element} came {times} times"));
            }
            if !pushed.contains(element) {
                objections.push(format!("element {element} came, but its push did not run"));
            }
        }
        let missing: Vec<u64> = self
            .pushed
            .iter()
            .filter(|(element, fate)| *fate == Fate::Done && !seen.contains_key(element))
            .map(|p| p.0)
            .collect();
        if missing.len() as u64 > self.unknown_takes {
            let unknown = self.unknown_takes;
            let some = &missing[..missing.len().min(8)];
            objections.push(format!(
                "{} elements are lost, {unknown} takes are unknown: {some:?}",
                missing.len()
            ));
        }
        // A push that is unknown may have run late, after the next one.
        if self.pushed.iter().all(|p| p.1 != Fate::Unknown) {
            for (consumer, taken) in self.taken.iter().enumerate() {
                if let Some(pair) = taken.windows(2).find(|pair| pair[0] > pair[1]) {
                    objections.push(format!(
                        "consumer {consumer} got element {} before {}",
                        pair[0], pair[1]
                    ));
                }
            }
        }
        objections
    }
}

/// What BLMOVE answered against what it moved: nothing was told that did not move, and what moved
/// untold was reported as unknown.
pub fn moved(told: &[u64], there: &[u64], unknown: u64) -> Vec<String> {
    let mut objections = Vec::new();
    let there_once: BTreeSet<u64> = there.iter().copied().collect();
    let told_once: BTreeSet<u64> = told.iter().copied().collect();
    if told_once.len() < told.len() {
        objections.push("a moved element was told twice".to_owned());
    }
    for element in told_once.difference(&there_once) {
        objections.push(format!("element {element} was told as moved and is not there"));
    }
    let untold = there_once.difference(&told_once).count() as u64;
    if untold > unknown {
        objections.push(format!("{untold} elements moved untold, {unknown} moves are unknown"));
    }
    objections
}

/// Numbers a counter told its clients: none twice.
pub fn told(mut numbers: Vec<i64>) -> Vec<String> {
    numbers.sort_unstable();
    let twice = numbers.windows(2).filter(|pair| pair[0] == pair[1]);
    twice.map(|pair| format!("the number {} was told twice", pair[0])).collect()
}

/// One message with its time since the start of the run.
pub type Heard = (Duration, u64);

/// What was published on a channel: numbers that grow, with their times and fates.
#[derive(Debug, Default)]
pub struct Channel {
    /// In the order they were published.
    pub published: Vec<(Duration, u64, Fate)>,
    /// When the last fault ended.
    pub calm_from: Duration,
}

/// What a subscriber may miss.
#[derive(Debug, Clone, Copy)]
pub struct Hearing {
    /// The longest time it may hear nothing while messages are published, faults or not.
    pub longest_silence: Duration,
    /// After the last fault it hears a fresh message within this time.
    pub fresh_within: Duration,
    /// Whether single messages may be missing, as after the loss of a connection.
    pub gaps: bool,
}

impl Channel {
    /// Holds what one subscriber heard, from the first message on, against what was published.
    pub fn objections(&self, heard: &[Heard], limits: Hearing) -> Vec<String> {
        let mut objections = Vec::new();
        let numbers: BTreeSet<u64> =
            self.published.iter().filter(|p| p.2 != Fate::NotRun).map(|p| p.1).collect();
        for pair in heard.windows(2) {
            match pair[0].1.cmp(&pair[1].1) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => {
                    objections.push(format!("message {} came twice", pair[0].1));
                }
                std::cmp::Ordering::Greater => objections
                    .push(format!("message {} came before message {}", pair[0].1, pair[1].1)),
            }
        }
        for (_, number) in heard.iter().filter(|h| !numbers.contains(&h.1)) {
            objections.push(format!("message {number} came, but was never published"));
        }
        let Some(&(first_at, first)) = heard.first() else {
            objections.push("heard nothing at all".to_owned());
            return objections;
        };
        let missed = self.missed(heard);
        if !limits.gaps && !missed.is_empty() {
            let some = &missed[..missed.len().min(8)];
            objections.push(format!("{} messages are missing: {some:?}", missed.len()));
        }
        // Dead for a while: the messages of that while are missing.
        let mut last = first_at;
        let mut next = heard.iter().peekable();
        let mut silent: Option<(Duration, Duration)> = None;
        for (at, ..) in self.published.iter().filter(|p| p.2 == Fate::Done && p.1 > first) {
            while let Some((heard_at, _)) = next.next_if(|h| h.0 <= *at) {
                last = last.max(*heard_at);
            }
            let quiet = at.saturating_sub(last);
            if quiet > limits.longest_silence && silent.is_none_or(|(_, most)| quiet > most) {
                silent = Some((last, quiet));
            }
        }
        if let Some((from, length)) = silent {
            objections.push(format!("heard nothing for {length:?} from {from:?} on"));
        }
        let fresh = self
            .published
            .iter()
            .find(|(at, _, fate)| *at >= self.calm_from && *fate == Fate::Done)
            .map(|p| p.1);
        match fresh {
            None => objections.push("nothing was published after the last fault".to_owned()),
            Some(fresh) => {
                let by = self.calm_from + limits.fresh_within;
                if !heard.iter().any(|(at, number)| *number >= fresh && *at <= by) {
                    objections.push(format!("no fresh message in time: dead since {last:?}"));
                }
            }
        }
        objections
    }

    /// Messages that surely were published between the first and the last one heard, and were not.
    pub fn missed(&self, heard: &[Heard]) -> Vec<u64> {
        let (Some(first), Some(last)) = (heard.first(), heard.last()) else {
            return Vec::new();
        };
        let heard: BTreeSet<u64> = heard.iter().map(|h| h.1).collect();
        self.published
            .iter()
            .filter(|(_, number, fate)| {
                *fate == Fate::Done
                    && (first.1..=last.1).contains(number)
                    && !heard.contains(number)
            })
            .map(|p| p.1)
            .collect()
    }
}

/// The most of `times` (sorted) that fall into any window of this length.
pub fn densest(times: &[Duration], window: Duration) -> usize {
    let mut from = 0;
    let mut most = 0;
    for (to, time) in times.iter().enumerate() {
        while *time - times[from] >= window {
            from += 1;
        }
        most = most.max(to + 1 - from);
    }
    most
}
