//! Sessions that ask and get: plain, pipelined, transactions, WATCH, SCAN and READONLY.
//!
//! Every session tags what it asks, so that a reply of another command shows.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::check::{Fate, Sequence, Tally, Wanted, fate, replies};
use super::talk::{Fact, Gone, Talk, breathe};
use crate::support::resp::Value;

/// One command at a time.
pub async fn plain(talk: &mut Talk, team: usize) -> Result<(), Gone> {
    let mut rng = fastrand::Rng::new();
    let (key, counter) = (format!("plain:{team}"), format!("plain:{team}:count"));
    let sent = talk.run.number(&counter);
    let mut sequence = Sequence::default();
    let mut round = 0u64;
    let outcome = async {
        while !talk.run.stopped() {
            round += 1;
            let value = format!("round {round}");
            let set = talk.one(cmd!["SET", &key, &value]).await?;
            let get = talk.one(cmd!["GET", &key]).await?;
            let right = match &get {
                Value::Null => talk.run.stale_reads,
                Value::Bulk(text) if talk.run.stale_reads => {
                    let text = String::from_utf8_lossy(text);
                    let number = text.strip_prefix("round ").and_then(|n| n.parse().ok());
                    number.is_some_and(|n: u64| n <= round)
                }
                get => *get == Value::bulk(&value),
            };
            if fate(&set) == Fate::Done && fate(&get) == Fate::Done && !right {
                talk.object(format!("GET answered {get:?} after SET {value:?}"));
            }
            sent.fetch_add(1, Ordering::Relaxed);
            let incr = talk.one(cmd!["INCR", &counter]).await?;
            let outcome = sequence.reply(&incr);
            talk.check(&counter, outcome);
            let echo = talk.one(cmd!["ECHO", &value]).await?;
            let wanted = [Wanted::Exactly(Value::bulk(&value))];
            for objection in replies(&wanted, &[echo]) {
                talk.object(objection);
            }
            breathe(&mut rng).await;
        }
        Ok(())
    }
    .await;
    talk.report.facts.push(Fact::Counter { key: counter, sequence });
    outcome
}

/// Batches over all shards, counters of its own, one shared with others, and tags in between.
pub async fn pipelined(talk: &mut Talk, team: usize) -> Result<(), Gone> {
    let mut rng = fastrand::Rng::new();
    let mut own: Vec<_> =
        (0..4).map(|k| (format!("pipe:{team}:{k}"), Sequence::default())).collect();
    let shared = "pipe:shared".to_owned();
    let (mut tally, mut told) = (Tally::default(), Vec::new());
    let mut round = 0u64;
    let outcome = async {
        while !talk.run.stopped() {
            round += 1;
            let mut commands = Vec::new();
            let mut wanted = Vec::new();
            for repeat in 0..2 {
                for (key, _) in &own {
                    let tag = format!("{team} {round} {repeat} {key}");
                    commands.push(cmd!["INCR", key]);
                    wanted.push(Wanted::Number);
                    commands.push(cmd!["ECHO", &tag]);
                    wanted.push(Wanted::Exactly(Value::bulk(tag)));
                }
                commands.push(cmd!["GET", format!("absent:{round}")]);
                wanted.push(Wanted::Exactly(Value::Null));
                commands.push(cmd!["INCR", &shared]);
                wanted.push(Wanted::Number);
            }
            let got = talk.all(&commands).await?;
            for objection in replies(&wanted, &got) {
                talk.object(objection);
            }
            let half = got.len() / 2;
            for repeat in 0..2 {
                for (place, (key, sequence)) in own.iter_mut().enumerate() {
                    let outcome = sequence.reply(&got[repeat * half + place * 2]);
                    talk.check(key, outcome);
                }
                let incr = &got[repeat * half + half - 1];
                tally.reply(incr);
                if let Value::Int(number) = incr {
                    told.push(*number);
                }
            }
            breathe(&mut rng).await;
        }
        Ok(())
    }
    .await;
    let counters = own.into_iter().map(|(key, sequence)| Fact::Counter { key, sequence });
    talk.report.facts.extend(counters);
    talk.report.facts.push(Fact::Shared { key: shared, tally, told });
    outcome
}

/// MULTI, two INCRs of one slot and EXEC, in one write or command by command: both run or none.
pub async fn transactions(talk: &mut Talk, team: usize, piecemeal: bool) -> Result<(), Gone> {
    let mut rng = fastrand::Rng::new();
    let how = if piecemeal { "piecemeal" } else { "whole" };
    let keys = ["a", "b"].map(|half| format!("{{multi:{team}:{how}}}:{half}"));
    let mut sequences = [Sequence::default(), Sequence::default()];
    let queued = Value::Simple("QUEUED".into());
    let mut round = 0u64;
    let outcome = async {
        while !talk.run.stopped() {
            round += 1;
            let tag = format!("{how} {team} {round}");
            let commands = [
                cmd!["MULTI"],
                cmd!["INCR", &keys[0]],
                cmd!["ECHO", &tag],
                cmd!["INCR", &keys[1]],
                cmd!["EXEC"],
            ];
            let mut got = Vec::new();
            if piecemeal {
                for command in commands {
                    got.push(talk.one(command).await?);
                }
            } else {
                got = talk.all(&commands).await?;
            }
            let mut wanted = vec![Wanted::Exactly(queued.clone()); 5];
            wanted[0] = Wanted::Exactly(Value::ok());
            wanted[4] = Wanted::Anything;
            for objection in replies(&wanted, &got) {
                talk.object(objection);
            }
            match &got[4] {
                Value::Array(items) if items.len() == 3 => {
                    for (sequence, item) in sequences.iter_mut().zip([&items[0], &items[2]]) {
                        let outcome = sequence.reply(item);
                        talk.check("EXEC", outcome);
                    }
                    if items[0] != items[2] || items[1] != Value::bulk(&tag) {
                        talk.object(format!("half a transaction: {items:?}, tag {tag:?}"));
                    }
                }
                error @ Value::Error(_) => {
                    for sequence in &mut sequences {
                        let outcome = sequence.reply(error);
                        talk.check("EXEC", outcome);
                    }
                }
                other => talk.object(format!("EXEC answered {other:?}")),
            }
            breathe(&mut rng).await;
        }
        Ok(())
    }
    .await;
    for (key, sequence) in keys.into_iter().zip(sequences) {
        talk.report.facts.push(Fact::Counter { key, sequence });
    }
    outcome
}

/// Counts up with WATCH, GET, MULTI, SET, EXEC against others that do the same.
pub async fn watching(talk: &mut Talk, team: usize) -> Result<(), Gone> {
    let mut rng = fastrand::Rng::new();
    let key = format!("watch:{team}");
    let mut tally = Tally::default();
    let mut told = Vec::new();
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
                        talk.object(format!("{key} holds {:?}", String::from_utf8_lossy(&text)));
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
            match talk.one(cmd!["EXEC"]).await? {
                // Somebody else was faster.
                Value::Null => {}
                Value::Array(items) if items == [Value::ok()] => {
                    tally.acked += 1;
                    told.push(number);
                }
                error @ Value::Error(_) => tally.reply(&error),
                other => talk.object(format!("EXEC answered {other:?}")),
            }
        }
        Ok(())
    }
    .await;
    talk.report.facts.push(Fact::Shared { key, tally, told });
    outcome
}

/// Whole SCANs: every key that is there throughout is returned.
pub async fn scanning(talk: &mut Talk, team: usize) -> Result<(), Gone> {
    let mut rng = fastrand::Rng::new();
    let keys: BTreeSet<String> = (0..40).map(|k| format!("scan:{team}:{k}")).collect();
    let sets: Vec<_> = keys.iter().map(|key| cmd!["SET", key, "v"]).collect();
    for reply in talk.all(&sets).await? {
        if reply != Value::ok() {
            talk.object(format!("SET of a key to scan answered {reply:?}"));
        }
    }
    let pattern = format!("scan:{team}:*");
    while !talk.run.stopped() {
        let mut missing = keys.clone();
        let mut cursor = "0".to_owned();
        loop {
            let reply = talk.one(cmd!["SCAN", &cursor, "MATCH", &pattern, "COUNT", "100"]).await?;
            let Value::Array(items) = &reply else {
                // Counted as an error; what this round has seen is void.
                missing.clear();
                break;
            };
            for key in items[1].items() {
                missing.remove(&key.text());
            }
            cursor = items[0].text();
            if cursor == "0" {
                break;
            }
            breathe(&mut rng).await;
        }
        if !missing.is_empty() {
            talk.object(format!("SCAN left out {missing:?}"));
        }
    }
    Ok(())
}

/// READONLY, then reads of what the plain session of the team counts up: never more than it sent.
pub async fn reading(talk: &mut Talk, team: usize) -> Result<(), Gone> {
    let mut rng = fastrand::Rng::new();
    let key = format!("plain:{team}:count");
    let sent = talk.run.number(&key);
    let reply = talk.one(cmd!["READONLY"]).await?;
    if reply != Value::ok() {
        talk.object(format!("READONLY answered {reply:?}"));
    }
    while !talk.run.stopped() {
        let reply = talk.one(cmd!["GET", &key]).await?;
        let most = sent.load(Ordering::Relaxed);
        let number = match &reply {
            Value::Null => Some(0),
            Value::Bulk(text) => String::from_utf8_lossy(text).parse::<i64>().ok(),
            _ => None,
        };
        if fate(&reply) == Fate::Done && !number.is_some_and(|n| (0..=most).contains(&n)) {
            talk.object(format!("GET answered {reply:?}; {most} increments were sent"));
        }
        breathe(&mut rng).await;
    }
    Ok(())
}
