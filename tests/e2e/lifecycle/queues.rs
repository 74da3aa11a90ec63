//! Sessions that block: BLPOP, BLMOVE and XREADGROUP consumers with their producers.
//!
//! Every element has a number of its own. At the end a producer pushes a last element for each
//! consumer, which ends it; so a consumer that was silently lost shows as a hang.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::check::{Fate, fate};
use super::talk::{Fact, Gone, Talk};
use crate::support::resp::Value;

/// Elements from here on end their consumer.
const LAST: u64 = 1 << 40;

/// What kind of queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// RPUSH and BLPOP.
    List,
    /// RPUSH and BLMOVE to a second list.
    Move,
    /// XADD and XREADGROUP.
    Stream,
}

/// The queue's key; the checker finds the other keys from it.
pub fn key(kind: Kind, team: usize) -> String {
    match kind {
        Kind::List => format!("{{list:{team}}}"),
        Kind::Move => format!("{{move:{team}}}"),
        Kind::Stream => format!("{{stream:{team}}}"),
    }
}

/// Where BLMOVE puts the elements of a queue.
pub fn moved(queue: &str) -> String {
    format!("{queue}:moved")
}

/// The group of a stream.
pub const GROUP: &str = "workers";

/// Pushes numbers, faster and slower, and at the end one last element for each consumer.
pub async fn producer(
    talk: &mut Talk,
    kind: Kind,
    team: usize,
    consumers: u64,
) -> Result<(), Gone> {
    let mut rng = fastrand::Rng::new();
    let queue = key(kind, team);
    let mut elements = Vec::new();
    let command = |element: u64| match kind {
        Kind::Stream => cmd!["XADD", &queue, "*", "n", element.to_string()],
        _ => cmd!["RPUSH", &queue, element.to_string()],
    };
    if kind == Kind::Stream {
        let create = cmd!["XGROUP", "CREATE", &queue, GROUP, "0", "MKSTREAM"];
        let reply = talk.one(create).await?;
        if reply != Value::ok() {
            talk.object(format!("XGROUP CREATE answered {reply:?}"));
        }
    }
    // Tells the consumers that the queue is there.
    talk.run.number(&queue).store(1, Ordering::Relaxed);
    let outcome = async {
        let mut next = 1;
        while !talk.run.stopped() {
            let reply = talk.one(command(next)).await?;
            elements.push((next, fate(&reply)));
            next += 1;
            // Mostly the consumers are waiting, sometimes there is a heap.
            let pause = if rng.u8(..8) == 0 { rng.u64(50..300) } else { rng.u64(0..40) };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        let (mut last, mut sent) = (LAST, 0);
        while sent < consumers {
            let fate = fate(&talk.one(command(last)).await?);
            elements.push((last, fate));
            last += 1;
            sent += u64::from(fate == Fate::Done);
        }
        Ok(())
    }
    .await;
    talk.report.facts.push(Fact::Pushed { queue, elements });
    outcome
}

/// Takes one element after the other, waiting for each as long as it takes.
pub async fn consumer(talk: &mut Talk, kind: Kind, team: usize, n: usize) -> Result<(), Gone> {
    let queue = key(kind, team);
    let there = talk.run.number(&queue);
    while there.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (mut elements, mut unknown) = (Vec::new(), 0);
    let name = format!("consumer{n}");
    let command = match kind {
        Kind::List => cmd!["BLPOP", &queue, "0"],
        Kind::Move => cmd!["BLMOVE", &queue, moved(&queue), "LEFT", "RIGHT", "0"],
        Kind::Stream => cmd![
            "XREADGROUP",
            "GROUP",
            GROUP,
            &name,
            "COUNT",
            "1",
            "BLOCK",
            "0",
            "STREAMS",
            &queue,
            ">"
        ],
    };
    let outcome = async {
        loop {
            let reply = talk.wait(command.clone()).await?;
            match fate(&reply) {
                Fate::Done => {}
                Fate::Unknown => {
                    unknown += 1;
                    continue;
                }
                Fate::NotRun => continue,
            }
            let Some((element, id)) = element(kind, &queue, &reply) else {
                talk.object(format!("{kind:?} answered {reply:?}"));
                return Ok(());
            };
            elements.push(element);
            if let Some(id) = id {
                talk.one(cmd!["XACK", &queue, GROUP, id]).await?;
            }
            if element >= LAST {
                return Ok(());
            }
        }
    }
    .await;
    talk.report.facts.push(Fact::Taken { queue, elements, unknown });
    outcome
}

/// The element in a reply, and its id in a stream.
fn element(kind: Kind, queue: &str, reply: &Value) -> Option<(u64, Option<String>)> {
    let number = |value: &Value| match value {
        Value::Bulk(text) => String::from_utf8_lossy(text).parse::<u64>().ok(),
        _ => None,
    };
    match (kind, reply) {
        (Kind::Move, value) => Some((number(value)?, None)),
        (Kind::List, Value::Array(items)) if items.len() == 2 => {
            (items[0] == Value::bulk(queue)).then_some(())?;
            Some((number(&items[1])?, None))
        }
        (Kind::Stream, Value::Array(_) | Value::Map(_)) => {
            let streams = match reply {
                // RESP2: an array of [stream, entries].
                Value::Array(items) => {
                    let [stream] = &items[..] else { return None };
                    let [name, entries] = stream.items() else { return None };
                    vec![(name.clone(), entries.clone())]
                }
                _ => reply.pairs(),
            };
            let [(name, entries)] = &streams[..] else { return None };
            (*name == Value::bulk(queue)).then_some(())?;
            let [entry] = entries.items() else { return None };
            let [id, fields] = entry.items() else { return None };
            Some((number(fields.items().get(1)?)?, Some(id.text())))
        }
        _ => None,
    }
}
