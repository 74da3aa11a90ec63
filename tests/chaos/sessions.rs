//! The sessions of a run. Each knows exactly what it has asked for and is told, and leaves its
//! history to the checker; what is wrong in itself (a reply of another command, half a transaction)
//! it objects to on the spot.
//!
//! Every value carries the name of its session, so that a reply of another one shows. A session's
//! connection to the proxy never fails: that is an objection, too.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::check::{Fate, Wanted, fate, replies};
use crate::history::Op;
use crate::judge::Access;
use crate::support::client::{Client, Proto};
use crate::support::resp::Value;
use crate::talk::{Gone, Run, Talk, breathe};

/// Something a session knows.
#[derive(Debug)]
pub enum Fact {
    Counter {
        key: String,
        ops: Vec<Op>,
    },
    Register {
        key: String,
        accesses: Vec<Access>,
    },
    /// A list it has filled, and what that held.
    Log {
        key: String,
        pushes: Vec<Op>,
        list: Vec<i64>,
    },
    /// Numbers it was told as its own.
    Told {
        key: String,
        ops: Vec<Op>,
    },
    Pushed {
        queue: String,
        ops: Vec<Op>,
    },
    Taken {
        queue: String,
        ops: Vec<Op>,
    },
    Moved {
        queue: String,
        ops: Vec<Op>,
    },
    /// What it asked of one shard.
    Probe {
        shard: usize,
        ops: Vec<Op>,
    },
}

impl Fact {
    /// Operations it tells of.
    pub fn len(&self) -> usize {
        match self {
            Self::Register { accesses, .. } => accesses.len(),
            Self::Counter { ops, .. }
            | Self::Log { pushes: ops, .. }
            | Self::Told { ops, .. }
            | Self::Pushed { ops, .. }
            | Self::Taken { ops, .. }
            | Self::Moved { ops, .. }
            | Self::Probe { ops, .. } => ops.len(),
        }
    }
}

pub type Outcome = Result<(), Gone>;

/// Elements of one list, before the next is begun.
const LOG: usize = 240;
/// Commands a streaming session leaves unanswered.
const FLIGHT: usize = 48;

/// Milliseconds of the run.
pub fn ms(run: &Run) -> u32 {
    u32::try_from(run.now().as_millis()).unwrap_or(u32::MAX)
}

/// One command, with its times.
async fn ask(talk: &mut Talk, command: Vec<Vec<u8>>) -> Result<(Value, u32, u32), Gone> {
    let sent = ms(&talk.run);
    let reply = talk.one(command).await?;
    Ok((reply, sent, ms(&talk.run)))
}

/// Asks until it is answered without an error; `None` when the run ends first.
async fn insist(talk: &mut Talk, command: &[Vec<u8>]) -> Result<Option<Value>, Gone> {
    loop {
        let reply = talk.one(command.to_vec()).await?;
        if fate(&reply) == Fate::Done {
            return Ok(Some(reply));
        }
        if talk.run.stopped() {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn numbers(list: &Value) -> Vec<i64> {
    let items = if let Value::Array(items) = list { items.as_slice() } else { &[] };
    items.iter().map(|item| item.text().parse().unwrap_or(i64::MIN)).collect()
}

/// Objects to replies that are none of what was asked for.
fn expect(talk: &mut Talk, wanted: &[Wanted], got: &[Value]) {
    for objection in replies(wanted, got) {
        talk.object(format!("foreign reply: {objection}"));
    }
}

/// SET, GET and INCR of its own keys, one command at a time.
pub async fn plain(talk: &mut Talk, facts: &mut Vec<Fact>, team: usize) -> Outcome {
    let mut rng = fastrand::Rng::new();
    let (key, count) = (format!("plain:{team}"), format!("plain:{team}:count"));
    let (mut accesses, mut ops) = (Vec::new(), Vec::new());
    let outcome = async {
        for round in 1i64.. {
            if talk.run.stopped() {
                break;
            }
            let value = format!("{team} {round}");
            let (set, sent, at) = ask(talk, cmd!["SET", &key, &value]).await?;
            accesses.push(Access::Set(Op::about(sent, at, &set, round)));
            let (get, sent, at) = ask(talk, cmd!["GET", &key]).await?;
            let found = own_number(talk, team, &get);
            accesses.push(Access::Get(Op::about(sent, at, &get, found)));
            let (incr, sent, at) = ask(talk, cmd!["INCR", &count]).await?;
            ops.push(Op::numbered(sent, at, &incr));
            let echo = talk.one(cmd!["ECHO", &value]).await?;
            expect(talk, &[Wanted::Exactly(Value::bulk(&value))], &[echo]);
            breathe(&mut rng).await;
        }
        Ok(())
    }
    .await;
    facts.push(Fact::Register { key, accesses });
    facts.push(Fact::Counter { key: count, ops });
    outcome
}

/// The round in a value that this team wrote; -1 for nothing.
fn own_number(talk: &mut Talk, team: usize, value: &Value) -> i64 {
    let Value::Bulk(bytes) = value else { return -1 };
    let text = String::from_utf8_lossy(bytes).into_owned();
    let number = text.split_once(' ').filter(|(name, _)| *name == team.to_string());
    match number.and_then(|(_, n)| n.parse().ok()) {
        Some(number) => number,
        None => {
            talk.object(format!("foreign reply: {text:?} is no value of team {team}"));
            -1
        }
    }
}

/// Batches over all shards with tags in between; each counter twice a batch.
pub async fn pipelined(talk: &mut Talk, facts: &mut Vec<Fact>, team: usize) -> Outcome {
    let mut rng = fastrand::Rng::new();
    let mut counters: Vec<_> =
        (0..4).map(|k| (format!("pipe:{team}:{k}"), Vec::<Op>::new())).collect();
    let outcome = async {
        for round in 1.. {
            if talk.run.stopped() {
                break;
            }
            let (mut commands, mut wanted) = (Vec::new(), Vec::new());
            for repeat in 0..2 {
                for (key, _) in &counters {
                    let tag = format!("{team} {round} {repeat} {key}");
                    commands.push(cmd!["INCR", key]);
                    wanted.push(Wanted::Number);
                    commands.push(cmd!["ECHO", &tag]);
                    wanted.push(Wanted::Exactly(Value::bulk(tag)));
                }
            }
            let sent = ms(&talk.run);
            let got = talk.all(&commands).await?;
            let at = ms(&talk.run);
            expect(talk, &wanted, &got);
            for (place, reply) in got.iter().step_by(2).enumerate() {
                counters[place % 4].1.push(Op::numbered(sent, at, reply));
            }
            breathe(&mut rng).await;
        }
        Ok(())
    }
    .await;
    facts.extend(counters.into_iter().map(|(key, ops)| Fact::Counter { key, ops }));
    outcome
}

/// RPUSHes 1, 2, 3 … to one key without waiting for replies: new commands keep coming while others
/// are redirected, rejected or lost.
pub async fn streaming(talk: &mut Talk, facts: &mut Vec<Fact>, team: usize) -> Outcome {
    let mut rng = fastrand::Rng::new();
    for generation in 1.. {
        if talk.run.stopped() {
            break;
        }
        let key = format!("{{log:{team}}}:{generation}");
        let mut pushes = Vec::new();
        let mut flight: VecDeque<(u32, Instant)> = VecDeque::new();
        let mut next = 1;
        while next <= LOG || !flight.is_empty() {
            let room = FLIGHT.saturating_sub(flight.len()).min(LOG + 1 - next).min(rng.usize(1..9));
            let commands: Vec<_> =
                (next..next + room).map(|n| cmd!["RPUSH", &key, n.to_string()]).collect();
            next += room;
            talk.send(&commands).await?;
            flight.extend((0..room).map(|_| (ms(&talk.run), Instant::now())));
            let due = if room == 0 { rng.usize(1..9) } else { rng.usize(..7) };
            for _ in 0..due.min(flight.len()) {
                let (sent, since) = flight.pop_front().expect("a command in flight");
                let reply = talk.answer(&cmd!["RPUSH"], since).await?;
                pushes.push(Op::numbered(sent, ms(&talk.run), &reply));
            }
            tokio::time::sleep(Duration::from_millis(rng.u64(1..8))).await;
        }
        let Some(list) = insist(talk, &cmd!["LRANGE", &key, "0", "-1"]).await? else { break };
        facts.push(Fact::Log { key: key.clone(), pushes, list: numbers(&list) });
        talk.one(cmd!["DEL", &key]).await?;
    }
    Ok(())
}

/// MULTI, the same push to two lists of one slot, EXEC: both or none, in order.
pub async fn pairs(
    talk: &mut Talk,
    facts: &mut Vec<Fact>,
    team: usize,
    piecemeal: bool,
) -> Outcome {
    let mut rng = fastrand::Rng::new();
    for generation in 1.. {
        let keys = ["a", "b"].map(|half| format!("{{pair:{team}}}:{generation}:{half}"));
        let mut pushes = Vec::new();
        while pushes.len() < LOG / 4 {
            if talk.run.stopped() {
                return Ok(());
            }
            let element = (pushes.len() + 1).to_string();
            let tag = format!("{team} {generation} {element}");
            let commands = [
                cmd!["MULTI"],
                cmd!["RPUSH", &keys[0], &element],
                cmd!["ECHO", &tag],
                cmd!["RPUSH", &keys[1], &element],
                cmd!["EXEC"],
            ];
            let sent = ms(&talk.run);
            let mut got = Vec::new();
            if piecemeal {
                for command in commands {
                    got.push(talk.one(command).await?);
                }
            } else {
                got = talk.all(&commands).await?;
            }
            let at = ms(&talk.run);
            let queued = || Wanted::Exactly(Value::Simple("QUEUED".into()));
            let ok = Wanted::Exactly(Value::ok());
            expect(talk, &[ok, queued(), queued(), queued(), Wanted::Anything], &got);
            let length = match &got[4] {
                Value::Array(items) if items.len() == 3 => {
                    if items[0] != items[2] || items[1] != Value::bulk(&tag) {
                        talk.object(format!("half a transaction: {items:?}, tag {tag:?}"));
                    }
                    items[0].clone()
                }
                other => other.clone(),
            };
            pushes.push(Op::numbered(sent, at, &length));
            breathe(&mut rng).await;
        }
        // One after the other would meet two states.
        let read: Vec<_> = keys.iter().map(|key| cmd!["LRANGE", key, "0", "-1"]).collect();
        let lists = loop {
            let [a, b] = &read[..] else { unreachable!("two keys") };
            let all = [cmd!["MULTI"], a.clone(), b.clone(), cmd!["EXEC"]];
            if let Some(Value::Array(lists)) = talk.all(&all).await?.pop() {
                break lists;
            }
            if talk.run.stopped() {
                return Ok(());
            }
        };
        if lists[0] != lists[1] {
            talk.object(format!("half a transaction: {keys:?} hold {lists:?}"));
        }
        facts.push(Fact::Log { key: keys[0].clone(), pushes, list: numbers(&lists[0]) });
        talk.one(cmd!["DEL", &keys[0], &keys[1]]).await?;
    }
    Ok(())
}

const SCRIPT: &str = "return {ARGV[1], redis.call('INCR', KEYS[1]), redis.call('INCR', KEYS[2])}";

/// A script that counts two keys of a slot up, by its text and by its hash.
pub async fn scripts(talk: &mut Talk, facts: &mut Vec<Fact>, team: usize) -> Outcome {
    let mut rng = fastrand::Rng::new();
    let keys = ["a", "b"].map(|half| format!("{{eval:{team}}}:{half}"));
    let mut ops = Vec::new();
    let outcome = async {
        let load = cmd!["SCRIPT", "LOAD", SCRIPT];
        let Some(sha) = insist(talk, &load).await? else { return Ok(()) };
        let sha = sha.text();
        for round in 1.. {
            if talk.run.stopped() {
                break;
            }
            let (verb, script) =
                if round % 2 == 0 { ("EVAL", SCRIPT) } else { ("EVALSHA", sha.as_str()) };
            let tag = format!("{team} {round}");
            let command = cmd![verb, script, "2", &keys[0], &keys[1], &tag];
            let (reply, sent, at) = ask(talk, command).await?;
            if reply.is_error("NOSCRIPT") {
                talk.object("NOSCRIPT, though the proxy has seen the script");
            }
            let count = match &reply {
                Value::Array(items) if items.len() == 3 => {
                    if items[0] != Value::bulk(&tag) || items[1] != items[2] {
                        talk.object(format!("foreign reply: {items:?} to {tag:?}"));
                    }
                    items[1].clone()
                }
                other => other.clone(),
            };
            ops.push(Op::numbered(sent, at, &count));
            breathe(&mut rng).await;
        }
        Ok(())
    }
    .await;
    facts.push(Fact::Counter { key: keys[0].clone(), ops });
    outcome
}

/// Counts up with WATCH, GET, MULTI, SET, EXEC against others that do the same.
pub async fn watching(talk: &mut Talk, facts: &mut Vec<Fact>, team: usize) -> Outcome {
    let mut rng = fastrand::Rng::new();
    let key = format!("watch:{team}");
    let mut ops = Vec::new();
    let outcome = async {
        while !talk.run.stopped() {
            breathe(&mut rng).await;
            if fate(&talk.one(cmd!["WATCH", &key]).await?) != Fate::Done {
                continue;
            }
            let number = match talk.one(cmd!["GET", &key]).await? {
                Value::Null => 1,
                Value::Bulk(text) => match String::from_utf8_lossy(&text).parse::<i64>() {
                    Ok(number) => number + 1,
                    Err(_) => {
                        talk.object(format!("foreign reply: {text:?} is no number of {key}"));
                        1
                    }
                },
                _ => {
                    talk.one(cmd!["UNWATCH"]).await?;
                    continue;
                }
            };
            let began = talk.one(cmd!["MULTI"]).await?;
            let queued = talk.one(cmd!["SET", &key, number.to_string()]).await?;
            if fate(&began) != Fate::Done || fate(&queued) != Fate::Done {
                talk.one(cmd!["DISCARD"]).await?;
                continue;
            }
            let (exec, sent, at) = ask(talk, cmd!["EXEC"]).await?;
            // Null: somebody else was faster.
            if exec != Value::Null {
                ops.push(Op::about(sent, at, &exec, number));
            }
        }
        Ok(())
    }
    .await;
    facts.push(Fact::Told { key, ops });
    outcome
}

/// What a member of a queue does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// RPUSHes elements.
    Push,
    /// LMOVEs and BLMOVEs them to the second list.
    Move,
    /// BLPOPs and LPOPs them.
    Take,
}

/// The lists of a queue: where elements come in, and where they are taken from.
pub fn lists(queue: &str, moves: bool) -> [String; 2] {
    let last = if moves { "out" } else { "in" };
    [format!("{queue}:in"), format!("{queue}:{last}")]
}

/// One member of a queue.
pub async fn queueing(
    talk: &mut Talk,
    facts: &mut Vec<Fact>,
    team: usize,
    duty: Duty,
    moves: bool,
) -> Outcome {
    let mut rng = fastrand::Rng::new();
    let queue = format!("{{queue:{team}}}");
    let [first, last] = lists(&queue, moves);
    let mut ops = Vec::new();
    let outcome = async {
        for element in 1i64.. {
            if talk.run.stopped() {
                break;
            }
            let wait = ["0.2", "1", "3"][rng.usize(..3)];
            let command = match duty {
                Duty::Push => cmd!["RPUSH", &first, element.to_string()],
                Duty::Move if rng.bool() => cmd!["LMOVE", &first, &last, "LEFT", "RIGHT"],
                Duty::Move => cmd!["BLMOVE", &first, &last, "LEFT", "RIGHT", wait],
                Duty::Take if rng.u8(..4) == 0 => cmd!["LPOP", &last],
                Duty::Take => cmd!["BLPOP", &last, wait],
            };
            let sent = ms(&talk.run);
            let reply = talk.wait(command).await?;
            let at = ms(&talk.run);
            match duty {
                Duty::Push => {
                    ops.push(Op::about(sent, at, &reply, element));
                    let pause = if rng.u8(..8) == 0 { rng.u64(50..300) } else { rng.u64(0..30) };
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                // The time is over, or the list is empty.
                Duty::Move | Duty::Take if reply == Value::Null => breathe(&mut rng).await,
                Duty::Move | Duty::Take => {
                    let got = element_of(&reply, &last);
                    if fate(&reply) == Fate::Done && got.is_none() {
                        talk.object(format!("foreign reply: {reply:?} from {last}"));
                    }
                    ops.push(Op::about(sent, at, &reply, got.unwrap_or(i64::MIN)));
                }
            }
        }
        Ok(())
    }
    .await;
    facts.push(match duty {
        Duty::Push => Fact::Pushed { queue, ops },
        Duty::Move => Fact::Moved { queue, ops },
        Duty::Take => Fact::Taken { queue, ops },
    });
    outcome
}

fn element_of(reply: &Value, list: &str) -> Option<i64> {
    let element = match reply {
        Value::Array(items) if items.len() == 2 && items[0] == Value::bulk(list) => &items[1],
        Value::Bulk(_) => reply,
        _ => return None,
    };
    element.text().parse().ok()
}

/// SETs and GETs one key on one shard, and times them.
pub async fn probe(talk: &mut Talk, facts: &mut Vec<Fact>, shard: usize, key: String) -> Outcome {
    let mut rng = fastrand::Rng::new();
    let (mut ops, mut accesses) = (Vec::new(), Vec::new());
    let outcome = async {
        for round in 1i64.. {
            if talk.run.stopped() {
                break;
            }
            let value = format!("{shard} {round}");
            let (set, sent, at) = ask(talk, cmd!["SET", &key, &value]).await?;
            ops.push(Op::about(sent, at, &set, round));
            accesses.push(Access::Set(Op::about(sent, at, &set, round)));
            let (get, sent, at) = ask(talk, cmd!["GET", &key]).await?;
            ops.push(Op::about(sent, at, &get, round));
            let found = own_number(talk, shard, &get);
            accesses.push(Access::Get(Op::about(sent, at, &get, found)));
            breathe(&mut rng).await;
        }
        Ok(())
    }
    .await;
    facts.push(Fact::Probe { shard, ops });
    facts.push(Fact::Register { key, accesses });
    outcome
}

/// Clients that come and vanish in the middle of what they do. Nothing they leave is checked but
/// that nothing of them stays behind in the proxy.
pub async fn fleeting(run: &Run, team: usize) {
    let mut rng = fastrand::Rng::new();
    while !run.stopped() {
        let proto = if rng.bool() { Proto::Resp2 } else { Proto::Resp3 };
        let mut client = Client::connect_proto(run.addr, proto).await;
        let key = format!("fleeting:{team}:{}", rng.u8(..16));
        for _ in 0..rng.u8(1..6) {
            let command = match rng.u8(..8) {
                0 => cmd!["BLPOP", format!("{key}:never"), "0"],
                1 => cmd!["SUBSCRIBE", &key],
                2 => cmd!["WATCH", &key],
                3 => cmd!["MULTI"],
                4 => cmd!["SCAN", "0"],
                5 => cmd!["MGET", &key, "other", "third"],
                _ => cmd!["SET", &key, "v"],
            };
            client.send(&command).await;
        }
        tokio::time::sleep(Duration::from_millis(rng.u64(..200))).await;
        drop(client);
        tokio::time::sleep(Duration::from_millis(rng.u64(..100))).await;
    }
}
