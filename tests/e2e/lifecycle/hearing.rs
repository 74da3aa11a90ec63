//! Sessions of Pub/Sub: a publisher of numbered messages and those that hear them.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::check::{Fate, fate};
use super::talk::{Fact, Gone, Talk};
use crate::support::client::Proto;
use crate::support::resp::Value;

/// Time between two messages.
const PERIOD: Duration = Duration::from_millis(25);
/// How long a subscriber waits for the very last message.
const PATIENCE: Duration = Duration::from_secs(6);

/// How a subscriber subscribes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Channel,
    Pattern,
    Shard,
}

impl Manner {
    fn command(self) -> &'static str {
        match self {
            Self::Channel => "SUBSCRIBE",
            Self::Pattern => "PSUBSCRIBE",
            Self::Shard => "SSUBSCRIBE",
        }
    }

    /// The channel it hears.
    pub fn channel(self, team: usize) -> String {
        match self {
            Self::Channel | Self::Pattern => format!("news:{team}"),
            Self::Shard => format!("shard:{team}"),
        }
    }
}

/// Publishes numbers on the team's channel and sharded channel until the end, and tells the last.
pub async fn publisher(talk: &mut Talk, team: usize) -> Result<(), Gone> {
    let manners = [(Manner::Channel, "PUBLISH"), (Manner::Shard, "SPUBLISH")];
    let mut messages = [Vec::new(), Vec::new()];
    let outcome = async {
        let mut ending = 0;
        for number in 1u64.. {
            let mut told = true;
            for ((manner, command), messages) in manners.iter().zip(&mut messages) {
                let at = talk.run.now();
                let channel = manner.channel(team);
                let reply = talk.one(cmd![*command, &channel, number.to_string()]).await?;
                messages.push((at, number, fate(&reply)));
                told &= fate(&reply) == Fate::Done;
            }
            ending += u32::from(told && talk.run.stopped());
            if ending > 3 {
                for (manner, _) in manners {
                    let last = i64::try_from(number).unwrap_or(i64::MAX);
                    talk.run.number(&manner.channel(team)).store(last, Ordering::Relaxed);
                }
                return Ok(());
            }
            tokio::time::sleep(PERIOD).await;
        }
        Ok(())
    }
    .await;
    for ((manner, _), messages) in manners.into_iter().zip(messages) {
        talk.report.facts.push(Fact::Published { channel: manner.channel(team), messages });
    }
    outcome
}

/// Subscribes and listens until the last message. In RESP3 it works in between.
pub async fn subscriber(talk: &mut Talk, manner: Manner, team: usize) -> Result<(), Gone> {
    let channel = manner.channel(team);
    let topic = match manner {
        Manner::Pattern => format!("n[e]ws:{team}"),
        _ => channel.clone(),
    };
    talk.send(&[cmd![manner.command(), &topic]]).await?;
    let kind = match manner {
        Manner::Channel => "message",
        Manner::Pattern => "pmessage",
        Manner::Shard => "smessage",
    };
    let last = talk.run.number(&channel);
    let mut messages = Vec::new();
    let mut asked: VecDeque<String> = VecDeque::new();
    let mut ended = None;
    let mut confirmed = false;
    let mut next_question = 1;
    let outcome = async {
        loop {
            let frame = talk.frame(Duration::from_millis(100)).await?;
            let at = talk.run.now();
            if let Some(frame) = frame {
                match number(&frame, kind, &channel) {
                    Some(number) => messages.push((at, number)),
                    None if !confirmed && is_confirmation(&frame, manner, &topic) => {
                        confirmed = true;
                    }
                    None => match asked.pop_front() {
                        Some(tag) if frame == Value::bulk(&tag) => {}
                        tag => talk.object(format!("got {frame:?}, asked for {tag:?}")),
                    },
                }
            }
            let heard = messages.last().map_or(0, |m| m.1);
            if confirmed && talk.proto == Proto::Resp3 && heard >= next_question {
                next_question = heard + 10;
                let tag = format!("{channel} {heard}");
                talk.send(&[cmd!["ECHO", &tag]]).await?;
                asked.push_back(tag);
            }
            let last = u64::try_from(last.load(Ordering::Relaxed)).unwrap_or(0);
            if last > 0 {
                let since = *ended.get_or_insert(at);
                if (heard >= last && asked.is_empty()) || at - since > PATIENCE {
                    return Ok(());
                }
            }
        }
    }
    .await;
    if let Some(tag) = asked.pop_front().filter(|_| outcome.is_ok()) {
        talk.object(format!("ECHO {tag:?} was not answered"));
    }
    talk.report.facts.push(Fact::Heard { channel, messages });
    outcome
}

fn parts(frame: &Value) -> Option<&[Value]> {
    match frame {
        Value::Array(items) | Value::Push(items) => Some(items),
        _ => None,
    }
}

fn number(frame: &Value, kind: &str, channel: &str) -> Option<u64> {
    let items = parts(frame)?;
    let [.., from, payload] = items else { return None };
    let right = items.len() >= 3 && items[0] == Value::bulk(kind) && *from == Value::bulk(channel);
    right.then(|| payload.text().parse().ok()).flatten()
}

fn is_confirmation(frame: &Value, manner: Manner, topic: &str) -> bool {
    let kind = Value::bulk(manner.command().to_lowercase());
    parts(frame).is_some_and(|items| *items == [kind, Value::bulk(topic), Value::Int(1)])
}
