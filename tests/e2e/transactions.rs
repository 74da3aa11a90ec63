//! MULTI, EXEC, DISCARD, WATCH and UNWATCH: the server's own words, whatever slots and clients do.
//!
//! The plain server beside the proxy is the truth for every reply; what only a cluster can show
//! (CROSSSLOT, moving slots) is written down here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::both_protocols;
use crate::support::bed::{Bed, BedOptions};
use crate::support::client::{Client, Proto};
use crate::support::cluster::{ClusterOptions, Failover};
use crate::support::pair::Pair;
use crate::support::resp::Value;
use crate::support::slots::{key_in_slot, keys_in_slot, keys_on_shard, slot_of};
use crate::support::wait::wait_for;

both_protocols!(sequences_are_answered_as_by_one_server, a_watched_key_decides);
both_protocols!(keys_on_two_slots_are_refused_and_nothing_runs);
both_protocols!(slots_may_move_between_multi_and_exec);

/// Sequences that leave no transaction open; each runs piecemeal and as one pipeline.
const SEQUENCES: &[&[&[&str]]] = &[
    &[&["MULTI"], &["SET", "{t}a", "1"], &["INCR", "{t}a"], &["GET", "{t}a"], &["EXEC"]],
    &[&["MULTI"], &["EXEC"]],
    &[&["MULTI"], &["PING"], &["ECHO", "x"], &["EXEC"]],
    &[&["MULTI"], &["SET", "{t}a", "1"], &["DISCARD"], &["EXEC"], &["DISCARD"]],
    &[&["MULTI"], &["MULTI"], &["SET", "{t}a", "1"], &["EXEC"]],
    &[&["MULTI"], &["WATCH", "{t}a"], &["SET", "{t}a", "1"], &["EXEC"]],
    &[&["MULTI"], &["GET"], &["SET", "{t}a", "2"], &["EXEC"], &["GET", "{t}a"]],
    &[&["MULTI"], &["NOSUCH", "x"], &["SET", "{t}a", "2"], &["EXEC"], &["GET", "{t}a"]],
    &[&["MULTI"], &["CONFIG", "NOSUCH", "x"], &["EXEC"]],
    &[&["MULTI"], &["CLIENT"], &["EXEC"]],
    &[&["MULTI"], &["NOSUCH"], &["DISCARD"], &["SET", "{t}a", "3"]],
    &[&["MULTI", "x"], &["EXEC"]],
    &[&["MULTI"], &["EXEC", "x"], &["EXEC"], &["PING"]],
    &[&["MULTI"], &["SET", "{t}s", "1"], &["LPUSH", "{t}s", "x"], &["INCR", "{t}s"], &["EXEC"]],
    &[&["MULTI"], &["SET", "{t}s", "1"], &["SET", "{t}s", "1", "BAD"], &["EXEC"], &["GET", "{t}s"]],
    &[
        &["MULTI"],
        &["DEL", "{t}l"],
        &["BLPOP", "{t}l", "0"],
        &["RPUSH", "{t}l", "1"],
        &["BLPOP", "{t}l", "0"],
        &["EXEC"],
    ],
    &[
        &["MULTI"],
        &["EVAL", "return redis.call('INCR', KEYS[1])", "1", "{t}n"],
        &["EVAL", "bad lua", "0"],
        &["EXEC"],
    ],
    &[&["WATCH", "{t}a"], &["UNWATCH"], &["MULTI"], &["SET", "{t}a", "1"], &["EXEC"]],
    &[
        &["WATCH", "{t}a", "{t}b"],
        &["SET", "{t}b", "x"],
        &["MULTI"],
        &["GET", "{t}b"],
        &["EXEC"],
        &["GET", "{t}b"],
    ],
    &[
        &["WATCH", "{t}a"],
        &["SET", "{t}a", "x"],
        &["UNWATCH"],
        &["MULTI"],
        &["GET", "{t}a"],
        &["EXEC"],
    ],
    &[
        &["WATCH", "{t}a"],
        &["SET", "{t}a", "x"],
        &["MULTI"],
        &["DISCARD"],
        &["MULTI"],
        &["GET", "{t}a"],
        &["EXEC"],
    ],
    &[
        &["WATCH", "{t}a"],
        &["MULTI"],
        &["SET", "{t}a", "x"],
        &["EXEC"],
        &["MULTI"],
        &["GET", "{t}a"],
        &["EXEC"],
    ],
    &[&["WATCH"], &["UNWATCH", "x"], &["EXEC"], &["DISCARD"], &["UNWATCH"]],
    &[&["WATCH", "{t}a"], &["MULTI"], &["UNWATCH"], &["SET", "{t}a", "y"], &["EXEC"]],
    &[
        &["MULTI"],
        &["HSET", "{t}h", "f", "v"],
        &["HGETALL", "{t}h"],
        &["SMEMBERS", "{t}none"],
        &["EXEC"],
    ],
    &[
        &["MULTI"],
        &["MSET", "{t}a", "1", "{t}b", "2"],
        &["MGET", "{t}a", "{t}b"],
        &["DEL", "{t}a", "{t}b"],
        &["EXEC"],
    ],
    &[&["MULTI"], &["SUBSCRIBE"], &["EXEC"]],
    &[&["MULTI"], &["PUBLISH", "c", "m"], &["TYPE", "{t}zz"], &["EXEC"]],
    &[&["MULTI"], &["SELECT", "0"], &["CLIENT", "SETNAME", "n"], &["CLIENT", "GETNAME"], &["EXEC"]],
    &[&["MULTI"], &["SET", "{t}a", "1"], &["RESET"], &["EXEC"]],
];

async fn sequences_are_answered_as_by_one_server(proto: Proto) {
    let mut pair = Pair::start(proto).await;
    for commands in SEQUENCES {
        for pipelined in [false, true] {
            pair.reset(proto).await;
            pair.agree(commands, pipelined).await;
            // No transaction, no watch and no reply is left over.
            pair.agree(&[&["ECHO", "after"], &["SET", "{t}after", "1"]], true).await;
        }
    }
}

async fn a_watched_key_decides(proto: Proto) {
    let bed = Bed::start().await;
    let mut one = bed.client(proto).await;
    let mut other = bed.client(proto).await;
    for shard in 0..3 {
        let tag = &keys_on_shard(shard, 3, 1)[0];
        let (a, b) = (format!("{{{tag}}}a"), format!("{{{tag}}}b"));
        for (change, wanted) in [
            (cmd!["SET", &a, "changed"], Value::Null),
            (cmd!["DEL", &a], Value::Null),
            (cmd!["EXPIRE", &a, "1000"], Value::Null),
            (cmd!["SET", &b, "not watched"], Value::Array(vec![Value::ok()])),
            (cmd!["GET", &a], Value::Array(vec![Value::ok()])),
        ] {
            one.cmd(&["SET", &a, "before"]).await;
            assert_eq!(one.cmd(&["WATCH", &a]).await, Value::ok());
            other.cmd(&change).await;
            assert_eq!(one.cmd(&["MULTI"]).await, Value::ok());
            let queued = one.cmd(&["SET", &a, "mine"]).await;
            assert_eq!(queued, Value::Simple("QUEUED".into()));
            assert_eq!(one.cmd(&["EXEC"]).await, wanted, "after {change:?}");
            // The watch is spent.
            let replies = one.pipeline(&[cmd!["MULTI"], cmd!["GET", &b], cmd!["EXEC"]]).await;
            assert!(matches!(replies[2], Value::Array(_)), "{replies:?}");
        }
    }
}

async fn keys_on_two_slots_are_refused_and_nothing_runs(proto: Proto) {
    let bed = Bed::start().await;
    let mut client = bed.client(proto).await;
    let near = keys_on_shard(0, 3, 2);
    let far = keys_on_shard(2, 3, 1).remove(0);
    // Two slots of one node, and slots of two nodes.
    for (first, second) in [(&near[0], &near[1]), (&near[0], &far)] {
        for pipelined in [false, true] {
            let commands =
                [cmd!["MULTI"], cmd!["SET", first, "1"], cmd!["SET", second, "1"], cmd!["EXEC"]];
            let replies = if pipelined {
                client.pipeline(&commands).await
            } else {
                let mut replies = Vec::new();
                for command in &commands {
                    replies.push(client.cmd(command).await);
                }
                replies
            };
            assert_eq!(replies[0], Value::ok());
            assert_eq!(replies[1], Value::Simple("QUEUED".into()));
            // A node says it at EXEC for two slots of its own; for slots of two nodes it can only be
            // said when the second one is queued.
            let crossed = |v: &Value| {
                *v == Value::Error("CROSSSLOT Keys in request don't hash to the same slot".into())
            };
            let at_queue = crossed(&replies[2]) && replies[3].is_error("EXECABORT");
            let at_exec = replies[2] == Value::Simple("QUEUED".into()) && crossed(&replies[3]);
            assert!(at_queue || at_exec, "pipelined {pipelined}: {replies:?}");
            assert_eq!(client.cmd(&["EXISTS", first, second]).await, Value::Int(0));
            assert!(client.cmd(&["EXEC"]).await.is_error("ERR EXEC without MULTI"));
        }
    }
}

#[tokio::test]
async fn a_vanished_client_leaves_nothing_behind() {
    let bed = Bed::start().await;
    let mut client = bed.client(Proto::Resp2).await;
    let key = key_in_slot(100);
    client.cmd(&["SET", &key, "before"]).await;
    for round in 0..12 {
        let mut gone = bed.client(Proto::Resp2).await;
        if round % 2 == 0 {
            assert_eq!(gone.cmd(&["WATCH", &key]).await, Value::ok());
        }
        assert_eq!(gone.cmd(&["MULTI"]).await, Value::ok());
        assert_eq!(gone.cmd(&["SET", &key, "lost"]).await, Value::Simple("QUEUED".into()));
        if round % 3 == 0 {
            gone.send(&["SET", &key, "lost too"]).await;
        }
        drop(gone);
    }
    wait_for("no transaction left on any node", Duration::from_secs(15), async || {
        for member in bed.cluster.members() {
            let clients = member.node.run(&["CLIENT", "LIST"]).await.text();
            if clients.lines().any(|line| !line.contains(" multi=-1 ")) {
                return false;
            }
        }
        true
    })
    .await;
    assert_eq!(client.cmd(&["GET", &key]).await, Value::bulk("before"));
    // A connection that had a watch or a MULTI does not serve others with it.
    for _ in 0..12 {
        let mut next = bed.client(Proto::Resp2).await;
        client.cmd(&["SET", &key, "before"]).await;
        next.cmd(&["WATCH", &format!("{key}:other")]).await;
        client.cmd(&["APPEND", &key, "."]).await;
        let replies = next.pipeline(&[cmd!["MULTI"], cmd!["STRLEN", &key], cmd!["EXEC"]]).await;
        assert_eq!(replies[2], Value::Array(vec![Value::Int(7)]));
    }
}

async fn slots_may_move_between_multi_and_exec(proto: Proto) {
    let bed = Bed::start().await;
    let mut client = bed.client(proto).await;
    for (round, watched) in [false, true, false, true].into_iter().enumerate() {
        let slot = 200 + round as u16;
        let keys = keys_in_slot(slot, 2);
        client.cmd(&["SET", &keys[0], "0"]).await;
        if watched {
            assert_eq!(client.cmd(&["WATCH", &keys[0]]).await, Value::ok());
        }
        assert_eq!(client.cmd(&["MULTI"]).await, Value::ok());
        let queued = Value::Simple("QUEUED".into());
        assert_eq!(client.cmd(&["INCR", &keys[0]]).await, queued);
        let owner = bed.cluster.owner_of(slot).await;
        bed.cluster.migrate_slot(slot, (owner + 1) % 3).await;
        assert_eq!(client.cmd(&["INCR", &keys[1]]).await, queued);
        let reply = client.cmd(&["EXEC"]).await;
        let ran = Value::Array(vec![Value::Int(1), Value::Int(1)]);
        if watched {
            assert!(reply == Value::Null || reply == ran, "EXEC answered {reply:?}");
        } else {
            assert_eq!(reply, ran);
        }
        let wanted = if reply == Value::Null { "0" } else { "1" };
        assert_eq!(client.cmd(&["GET", &keys[0]]).await, Value::bulk(wanted));
    }
}

/// Pipelines blocks of two counters and a log that always agree, with a read behind each if wanted.
async fn drive(
    mut client: Client,
    tag: String,
    stop: Arc<AtomicBool>,
    reads: bool,
) -> (i64, Vec<String>) {
    let (a, b, log) = (format!("{{{tag}}}a"), format!("{{{tag}}}b"), format!("{{{tag}}}log"));
    let mut count = 0;
    let mut errors = Vec::new();
    while !stop.load(Ordering::Relaxed) && count < 3000 {
        let mut commands = Vec::new();
        for n in 0..5 {
            commands.extend([
                cmd!["MULTI"],
                cmd!["INCR", &a],
                cmd!["INCR", &b],
                cmd!["RPUSH", &log, (count + n + 1).to_string()],
                cmd!["EXEC"],
            ]);
            if reads {
                commands.push(cmd!["GET", &a]);
            }
        }
        let each = commands.len() / 5;
        for replies in client.pipeline(&commands).await.chunks(each) {
            count += 1;
            let wanted = Value::Array(vec![Value::Int(count); 3]);
            let queued = Value::Simple("QUEUED".into());
            let good = replies[0] == Value::ok()
                && replies[1..4].iter().all(|r| *r == queued)
                && replies[4] == wanted
                && replies[5..].iter().all(|r| *r == Value::bulk(count.to_string()));
            if !good {
                errors.push(format!("{tag}, block {count}: {replies:?}"));
                return (count, errors);
            }
        }
    }
    (count, errors)
}

fn tags(clients: usize) -> Vec<String> {
    (0..clients).map(|n| keys_on_shard(n % 3, 3, n / 3 + 1).pop().unwrap_or_default()).collect()
}

async fn finish(mut clients: JoinSet<(i64, Vec<String>)>) -> i64 {
    let mut total = 0;
    while let Some(done) = clients.join_next().await {
        let (count, errors) = done.expect("a client failed");
        assert!(errors.is_empty(), "{errors:?}");
        total += count;
    }
    total
}

#[tokio::test]
async fn blocks_of_fifty_clients_interleave_under_load_without_more_connections() {
    let bed = Bed::start().await;
    let mut warm = bed.client(Proto::Resp2).await;
    for key in
        keys_on_shard(0, 3, 5).iter().chain(&keys_on_shard(1, 3, 5)).chain(&keys_on_shard(2, 3, 5))
    {
        warm.cmd(&["SET", key, "1"]).await;
    }
    let dials = || bed.cluster.fronts().map(|f| f.counts().dials).sum::<u64>();
    let before = dials();
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for tag in tags(50) {
        clients.spawn(drive(bed.client(Proto::Resp2).await, tag, stop.clone(), true));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    stop.store(true, Ordering::Relaxed);
    let blocks = finish(clients).await;
    assert!(blocks >= 250, "only {blocks} blocks ran");
    let grown = dials() - before;
    assert_eq!(grown, 0, "{blocks} pipelined blocks took {grown} new connections");
    // Every block ran once, as a whole, in order.
    for tag in tags(50) {
        let count = warm.cmd(&["GET", &format!("{{{tag}}}a")]).await.text();
        let log = warm.cmd(&["LRANGE", &format!("{{{tag}}}log"), "0", "-1"]).await;
        let wanted: Vec<_> =
            (1..=count.parse::<i64>().unwrap()).map(|n| Value::bulk(n.to_string())).collect();
        assert_eq!(log.items(), wanted);
    }
}

#[tokio::test]
async fn blocks_run_whole_while_slots_move_under_load() {
    run_while_slots_move(false).await;
}

/// What stands behind a block in the pipeline sees it, also when the block had to wait for the rest
/// of its slot.
#[tokio::test]
async fn a_read_behind_a_block_sees_it_while_its_slot_moves_under_load() {
    run_while_slots_move(true).await;
}

async fn run_while_slots_move(reads: bool) {
    let bed = Bed::start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for (n, tag) in tags(20).into_iter().enumerate() {
        let proto = if n % 2 == 0 { Proto::Resp2 } else { Proto::Resp3 };
        clients.spawn(drive(bed.client(proto).await, tag, stop.clone(), reads));
    }
    for tag in tags(9) {
        let slot = slot_of(tag.as_bytes());
        let owner = bed.cluster.owner_of(slot).await;
        // Half way: keys on both sides, so no node can run a whole block until the rest has moved.
        let mut migration = bed.cluster.begin_migration(slot, (owner + 1) % 3).await;
        migration.move_keys(1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        while migration.move_keys(10).await > 0 {}
        migration.finish().await;
    }
    stop.store(true, Ordering::Relaxed);
    assert!(finish(clients).await >= 100);
}

#[tokio::test]
async fn transactions_survive_a_coordinated_failover_under_load() {
    let bed = Bed::with(BedOptions {
        cluster: ClusterOptions { replicas: 1, ..ClusterOptions::default() },
        ..BedOptions::default()
    })
    .await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for tag in tags(12) {
        clients.spawn(drive(bed.client(Proto::Resp3).await, tag, stop.clone(), true));
    }
    let replica = bed.cluster.replicas_of(0).start;
    bed.cluster.failover(replica, Failover::Coordinated).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    assert!(finish(clients).await >= 60);
}
