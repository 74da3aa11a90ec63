//! SCAN over all shards: a cursor every client parses, and no key missed, whatever moves meanwhile.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::both_protocols;
use crate::support::bed::{Bed, BedOptions};
use crate::support::client::{Client, Proto};
use crate::support::cluster::{ClusterOptions, Failover};
use crate::support::resp::Value;
use crate::support::slots::slot_of;

both_protocols!(all_keys_are_found_with_every_option, cursors_work_from_any_session);
both_protocols!(keys_of_moving_slots_are_found, a_failover_does_not_lose_keys);

async fn fill(client: &mut Client, prefix: &str, count: usize) -> HashSet<String> {
    let keys: HashSet<String> = (0..count).map(|n| format!("{prefix}:{n}")).collect();
    let commands: Vec<_> = keys.iter().map(|key| cmd!["SET", key, "v"]).collect();
    assert!(client.pipeline(&commands).await.iter().all(|r| *r == Value::ok()));
    keys
}

/// One step; the cursor is checked to be one that 64-bit signed integers hold.
async fn step(client: &mut Client, cursor: &str, options: &[&str]) -> (String, Vec<String>) {
    let mut command = vec!["SCAN", cursor];
    command.extend(options);
    let reply = client.cmd(&command).await;
    let Value::Array(parts) = &reply else { panic!("{command:?} answered {reply:?}") };
    assert_eq!(parts.len(), 2, "{reply:?}");
    let Value::Bulk(next) = &parts[0] else { panic!("cursor {:?}", parts[0]) };
    let next = String::from_utf8(next.clone()).expect("a cursor is text");
    let number: i64 = next.parse().unwrap_or_else(|e| panic!("cursor {next:?}: {e}"));
    assert!(number >= 0 && number.to_string() == next, "cursor {next:?}");
    (next, parts[1].items().iter().map(Value::text).collect())
}

async fn scan(client: &mut Client, options: &[&str]) -> (HashSet<String>, usize) {
    let mut found = HashSet::new();
    let mut cursor = "0".to_owned();
    for steps in 1..20_000 {
        let (next, keys) = step(client, &cursor, options).await;
        found.extend(keys);
        if next == "0" {
            return (found, steps);
        }
        cursor = next;
    }
    panic!("SCAN with {options:?} did not end");
}

#[track_caller]
fn same(found: &HashSet<String>, wanted: &HashSet<String>) {
    let missed: Vec<_> = wanted.difference(found).take(5).collect();
    let foreign: Vec<_> = found.difference(wanted).take(5).collect();
    assert!(missed.is_empty() && foreign.is_empty(), "missed {missed:?}, foreign {foreign:?}");
}

async fn all_keys_are_found_with_every_option(proto: Proto) {
    let bed = Bed::start().await;
    let mut client = bed.client(proto).await;
    assert_eq!(scan(&mut client, &[]).await.0, HashSet::new());
    let strings = fill(&mut client, "string", 1200).await;
    let lists: HashSet<String> = (0..60).map(|n| format!("list:{n}")).collect();
    for key in &lists {
        client.cmd(&["RPUSH", key, "e"]).await;
    }
    let all: HashSet<_> = strings.union(&lists).cloned().collect();
    let (found, steps) = scan(&mut client, &[]).await;
    same(&found, &all);
    assert!(steps >= 50, "COUNT is ten by default, yet {steps} steps sufficed for 1260 keys");
    for count in ["1", "7", "1000", "100000"] {
        same(&scan(&mut client, &["COUNT", count]).await.0, &all);
    }
    let (found, steps) = scan(&mut client, &["COUNT", "100000"]).await;
    same(&found, &all);
    assert!(steps <= 6, "{steps} steps with a COUNT above the number of keys");
    same(&scan(&mut client, &["TYPE", "list"]).await.0, &lists);
    same(&scan(&mut client, &["MATCH", "list:*", "COUNT", "100"]).await.0, &lists);
    let ones: HashSet<_> = all.iter().filter(|k| k.ends_with(":1")).cloned().collect();
    assert_eq!(ones.len(), 2);
    same(&scan(&mut client, &["match", "*:1"]).await.0, &ones);
    let one = HashSet::from(["list:1".to_owned()]);
    same(&scan(&mut client, &["COUNT", "50", "TYPE", "list", "MATCH", "*:1"]).await.0, &one);
    let exact = HashSet::from(["string:77".to_owned()]);
    same(&scan(&mut client, &["MATCH", "string:77"]).await.0, &exact);
    // A pattern with a hash tag lives on one slot; all its keys are there.
    client.cmd(&["MSET", "{tag}a", "1", "{tag}b", "2"]).await;
    let tagged = HashSet::from(["{tag}a".to_owned(), "{tag}b".to_owned()]);
    same(&scan(&mut client, &["MATCH", "{tag}*"]).await.0, &tagged);
    let big = fill(&mut client, "again", 300).await;
    let both: HashSet<_> = scan(&mut client, &["COUNT", "33"]).await.0;
    assert!(both.is_superset(&big) && both.is_superset(&all));
}

/// Libraries scan through a pool: each step may come by another connection.
async fn cursors_work_from_any_session(proto: Proto) {
    let bed = Bed::start().await;
    let mut clients = [bed.client(proto).await, bed.client(proto).await, bed.client(proto).await];
    let wanted = fill(&mut clients[0], "pooled", 1000).await;
    // Several scans at once, one step each in turn.
    let mut scans = vec![("0".to_owned(), HashSet::new(), false); 6];
    for turn in 0.. {
        let mut open = 0;
        for (n, (cursor, found, done)) in scans.iter_mut().enumerate() {
            if *done {
                continue;
            }
            open += 1;
            let client = &mut clients[(turn + n) % 3];
            let (next, keys) = step(client, cursor, &["COUNT", &(5 + 10 * n).to_string()]).await;
            found.extend(keys);
            *done = next == "0";
            *cursor = next;
        }
        if open == 0 {
            break;
        }
        assert!(turn < 5000, "a scan does not end");
    }
    for (_, found, _) in &scans {
        same(found, &wanted);
    }
}

async fn keys_of_moving_slots_are_found(proto: Proto) {
    let bed = Bed::start().await;
    let mut client = bed.client(proto).await;
    let wanted = fill(&mut client, "moving", 900).await;
    let scanned = AtomicBool::new(false);
    let allowed = AtomicUsize::new(0);
    let moves = async {
        let mut moved = 0;
        let slots: Vec<u16> = (0..900).map(|n| slot_of(format!("moving:{n}").as_bytes())).collect();
        while !scanned.load(Ordering::Relaxed) {
            // A scan ends once nothing moves for the time of a visit.
            if moved >= allowed.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            let slot = slots[moved * 7 % slots.len()];
            let owner = bed.cluster.owner_of(slot).await;
            // Backwards and forwards: into parts that were scanned, and out of them.
            bed.cluster.migrate_slot(slot, (owner + 1 + moved % 2) % 3).await;
            moved += 1;
        }
        moved
    };
    let scans = async {
        let mut steps = 0;
        for round in 0..8 {
            allowed.fetch_add(25, Ordering::Relaxed);
            let mut found = HashSet::new();
            let mut cursor = "0".to_owned();
            loop {
                let (next, keys) = step(&mut client, &cursor, &["COUNT", "6"]).await;
                found.extend(keys);
                steps += 1;
                assert!(steps < 60_000, "the scans do not end");
                if next == "0" {
                    break;
                }
                cursor = next;
            }
            let missed: Vec<_> = wanted.difference(&found).take(5).collect();
            assert!(missed.is_empty(), "scan {round} missed {missed:?}");
        }
        scanned.store(true, Ordering::Relaxed);
    };
    let (moved, ()) = tokio::join!(moves, scans);
    assert!(moved >= 8, "only {moved} slots moved during the scans");
}

async fn a_failover_does_not_lose_keys(proto: Proto) {
    let bed = Bed::with(BedOptions {
        cluster: ClusterOptions { replicas: 1, ..ClusterOptions::default() },
        ..BedOptions::default()
    })
    .await;
    let mut client = bed.client(proto).await;
    let wanted = fill(&mut client, "kept", 1500).await;
    assert_eq!(client.cmd(&["WAIT", "1", "10000"]).await, Value::Int(1));
    bed.cluster.wait_whole().await;
    // A replica's hash table has another order: a cursor of the old primary means nothing to it.
    for (shard, how) in [(0, Failover::Coordinated), (1, Failover::Force), (2, Failover::Takeover)]
    {
        let replica = bed.cluster.replicas_of(shard).start;
        let mut found = HashSet::new();
        let mut cursor = "0".to_owned();
        let mut steps = 0;
        // Until the scan is in the middle of the shard that will fail over.
        let inside = |found: &HashSet<String>| {
            let of_shard = |key: &&String| {
                crate::support::slots::shard_range(shard, 3).contains(&slot_of(key.as_bytes()))
            };
            let there = found.iter().filter(of_shard).count();
            (100..400).contains(&there)
        };
        let mut failed_over = false;
        loop {
            let (next, keys) = step(&mut client, &cursor, &["COUNT", "20"]).await;
            found.extend(keys);
            steps += 1;
            assert!(steps < 5000, "the scan does not end");
            if next == "0" {
                break;
            }
            cursor = next;
            if !failed_over && inside(&found) {
                failed_over = true;
                if how == Failover::Takeover {
                    bed.cluster.kill(shard);
                }
                bed.cluster.failover(replica, how).await;
            }
        }
        assert!(failed_over, "the scan never was inside shard {shard}");
        same(&found, &wanted);
    }
    tokio::time::timeout(Duration::from_secs(30), scan(&mut client, &[]))
        .await
        .expect("a scan ends");
}
