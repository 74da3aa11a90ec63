//! What a program expects of one server and a cluster must be talked into: commands over several
//! slots and all shards, transactions, blocking commands, SCAN, and the one-node cluster face.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::both_protocols;
use crate::support::bed::{Bed, BedOptions};
use crate::support::client::Proto;
use crate::support::resp::Value;
use crate::support::slots::{key_in_slot, keys_in_slot, keys_on_shard, slot_of};
use crate::support::standalone::Standalone;
use crate::support::traffic::spread_keys;
use crate::support::wait::wait_for;

both_protocols!(
    the_same_conversation_as_with_one_server,
    a_watched_key_that_changes_makes_exec_answer_nil,
    blocking_commands_wait_and_leave_others_alone,
);

/// Commands whose replies do not depend on time, order of a set, or the server's address.
const CONVERSATION: &[&[&str]] = &[
    &["MSET", "a", "1", "b", "2", "c", "3", "{t}x", "4"],
    &["MGET", "a", "nope", "b", "c", "a", "{t}x"],
    &["MGET"],
    &["MSET", "a", "1", "b"],
    &["EXISTS", "a", "b", "nope", "a"],
    &["TOUCH", "a", "c"],
    &["DBSIZE"],
    &["DEL", "a", "nope", "c"],
    &["UNLINK", "b"],
    &["RPUSH", "list", "x", "y"],
    &["MGET", "list", "{t}x"],
    &["MULTI"],
    &["SET", "{m}1", "v"],
    &["INCR", "{m}n"],
    &["LPUSH", "{m}1", "wrong type"],
    &["GET", "{m}1"],
    &["EXEC"],
    &["MULTI"],
    &["EXEC"],
    &["MULTI"],
    &["SET", "{m}1"],
    &["EXEC"],
    &["MULTI"],
    &["MULTI"],
    &["SET", "{m}1", "w"],
    &["DISCARD"],
    &["GET", "{m}1"],
    &["EXEC"],
    &["DISCARD"],
    &["WATCH", "{m}1"],
    &["MULTI"],
    &["GET", "{m}1"],
    &["EXEC"],
    &["UNWATCH"],
    &["EVAL", "return {KEYS[1], ARGV[1]}", "1", "k", "arg"],
    &["SCRIPT", "LOAD", "return 42"],
    &[
        "SCRIPT",
        "EXISTS",
        "1fa00e76656cc152ad327c13fe365858fd7be306",
        "0000000000000000000000000000000000000000",
    ],
    &["EVALSHA", "1fa00e76656cc152ad327c13fe365858fd7be306", "0"],
    &["EVALSHA", "0000000000000000000000000000000000000000", "0"],
    &[
        "FUNCTION",
        "LOAD",
        "#!lua name=l\nredis.register_function('f', function(k,a) return a[1] end)",
    ],
    &["FCALL", "f", "0", "x"],
    &["FUNCTION", "DELETE", "l"],
    &["BLPOP", "list", "1"],
    &["BLMOVE", "list", "{list}2", "LEFT", "RIGHT", "1"],
    &["BLPOP", "list", "notanumber"],
    &["BLPOP"],
    &["XADD", "s", "1-1", "f", "v"],
    &["XREAD", "COUNT", "1", "BLOCK", "10", "STREAMS", "s", "0"],
    &["CLIENT", "GETNAME"],
    &["CLIENT", "SETNAME", "me"],
    &["CLIENT", "GETNAME"],
    &["CLIENT", "NOSUCH"],
    &["CONFIG", "GET", "proto-max-bulk-len"],
    &["WAIT", "0", "10"],
    &["PUBLISH", "nobody", "hears"],
    &["SELECT", "0"],
    &["OBJECT", "ENCODING", "list"],
    &["FLUSHALL"],
    &["DBSIZE"],
    &["RANDOMKEY"],
    &["KEYS", "*"],
    &["NOSUCHCOMMAND", "a", "b"],
];

async fn the_same_conversation_as_with_one_server(proto: Proto) {
    let bed = Bed::start().await;
    let server = Standalone::start().await;
    let mut proxied = bed.client(proto).await;
    let mut direct = server.connect().await;
    if proto == Proto::Resp3 {
        direct.cmd(&["HELLO", "3"]).await;
    }
    for command in CONVERSATION {
        proxied.send(command).await;
        direct.send(command).await;
        let (got, want) = (proxied.read_raw().await, direct.read_raw().await);
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&want), "{command:?}");
    }
    // The same once more as one pipeline: order is the order of the requests.
    for command in CONVERSATION {
        proxied.send(command).await;
        direct.send(command).await;
    }
    for command in CONVERSATION {
        let (got, want) = (proxied.read_raw().await, direct.read_raw().await);
        assert_eq!(
            String::from_utf8_lossy(&got),
            String::from_utf8_lossy(&want),
            "pipelined {command:?}"
        );
    }
}

#[tokio::test]
async fn keys_of_several_slots_are_refused_where_a_cluster_cannot() {
    let bed = Bed::start().await;
    let mut client = bed.client(Proto::Resp2).await;
    for command in [
        &["MSETNX", "a", "1", "b", "2"][..],
        &["RENAME", "a", "b"],
        &["SINTERSTORE", "a", "b", "c"],
        &["WATCH", "a", "b"],
        &["BLPOP", "a", "b", "0"],
    ] {
        assert!(client.cmd(command).await.is_error("CROSSSLOT"), "{command:?}");
    }
    assert_eq!(client.cmd(&["MULTI"]).await, Value::ok());
    client.cmd(&["SET", "a", "1"]).await;
    assert!(client.cmd(&["SET", "b", "1"]).await.is_error("CROSSSLOT"));
    assert!(client.cmd(&["EXEC"]).await.is_error("EXECABORT"));
    assert_eq!(client.cmd(&["GET", "a"]).await, Value::Null);
}

async fn a_watched_key_that_changes_makes_exec_answer_nil(proto: Proto) {
    let bed = Bed::start().await;
    let mut one = bed.client(proto).await;
    let mut two = bed.client(proto).await;
    one.cmd(&["WATCH", "k"]).await;
    two.cmd(&["SET", "k", "theirs"]).await;
    one.cmd(&["MULTI"]).await;
    one.cmd(&["SET", "k", "mine"]).await;
    assert_eq!(one.cmd(&["EXEC"]).await, Value::Null);
    assert_eq!(one.cmd(&["GET", "k"]).await, Value::bulk("theirs"));
    // A client that vanishes in the middle leaves nothing behind.
    let mut three = bed.client(proto).await;
    three.cmd(&["WATCH", "k"]).await;
    three.cmd(&["MULTI"]).await;
    three.cmd(&["SET", "k", "never"]).await;
    drop(three);
    assert_eq!(two.cmd(&["GET", "k"]).await, Value::bulk("theirs"));
}

#[tokio::test]
async fn transactions_pass_through_a_migration_whole_and_unredirected() {
    let bed = Bed::start().await;
    let slot = 100;
    let keys = keys_in_slot(slot, 2);
    let mut client = bed.client(Proto::Resp2).await;
    client.cmd(&["MSET", &keys[0], "0", &keys[1], "0"]).await;
    let mut rounds = 0;
    let done = std::cell::Cell::new(false);
    let migrations = async {
        for to in [1, 2, 0] {
            bed.cluster.migrate_slot(slot, to).await;
        }
        done.set(true);
    };
    let traffic = async {
        // On a busy machine a few rounds last as long as all the migrations.
        while !done.get() || rounds < 3 {
            for command in [&["MULTI"][..], &["INCR", &keys[0]], &["INCR", &keys[1]], &["EXEC"]] {
                client.send(command).await;
            }
            for _ in 0..3 {
                client.read().await;
            }
            rounds += 1;
            let want = Value::Array(vec![Value::Int(rounds), Value::Int(rounds)]);
            assert_eq!(client.read().await, want, "round {rounds}");
        }
    };
    tokio::join!(migrations, traffic);
}

async fn blocking_commands_wait_and_leave_others_alone(proto: Proto) {
    let bed = Bed::start().await;
    let mut pusher = bed.client(proto).await;
    let mut waiting = Vec::new();
    for i in 0..10 {
        let mut client = bed.client(proto).await;
        client.send(&["BLPOP", &format!("q{i}"), "0"]).await;
        // Behind it, in order.
        client.send(&["ECHO", &format!("after {i}")]).await;
        waiting.push(client);
    }
    for key in spread_keys(4, 4).into_iter().flatten() {
        assert_eq!(pusher.cmd(&["SET", &key, "v"]).await, Value::ok());
    }
    for (i, client) in waiting.iter_mut().enumerate() {
        let key = format!("q{i}");
        pusher.cmd(&["RPUSH", &key, "element"]).await;
        let want = Value::Array(vec![Value::bulk(&key), Value::bulk("element")]);
        assert_eq!(client.read().await, want);
        assert_eq!(client.read().await, Value::bulk(format!("after {i}")));
    }
    // A client that hangs up takes nothing.
    let mut gone = bed.client(proto).await;
    gone.send(&["BLPOP", "q0", "0"]).await;
    let owner = bed.cluster.owner_of(slot_of(b"q0")).await;
    let blocked = async || {
        let mut admin = bed.cluster.admin(owner).await;
        let info = admin.cmd(&["INFO", "clients"]).await.text();
        info.contains("blocked_clients:1\r\n")
    };
    wait_for("the node to block", Duration::from_secs(10), &blocked).await;
    drop(gone);
    wait_for("the node to forget it", Duration::from_secs(10), async || !blocked().await).await;
    pusher.cmd(&["RPUSH", "q0", "kept"]).await;
    assert_eq!(pusher.cmd(&["LPOP", "q0"]).await, Value::bulk("kept"));
}

#[tokio::test]
async fn scan_returns_every_key_also_while_slots_move() {
    let bed = Bed::with(BedOptions::default()).await;
    let mut client = bed.client(Proto::Resp2).await;
    let mut keys: BTreeSet<String> = spread_keys(40, 40).into_iter().flatten().collect();
    for shard in 0..3 {
        keys.extend(keys_on_shard(shard, 3, 60));
    }
    for key in &keys {
        client.cmd(&["SET", key, "v"]).await;
    }
    let mut seen = BTreeSet::new();
    let mut cursor = "0".to_owned();
    let mut calls = 0;
    loop {
        let reply = client.cmd(&["SCAN", &cursor, "COUNT", "10"]).await;
        let [next, found] = reply.items() else { panic!("{reply:?}") };
        seen.extend(found.items().iter().map(Value::text));
        cursor = next.text();
        assert!(cursor.parse::<u64>().expect("decimal") < 1 << 63);
        calls += 1;
        if cursor == "0" {
            break;
        }
        // Slots that hold keys move behind the scan's back.
        if calls == 3 {
            for key in [keys.first(), keys.last()].into_iter().flatten() {
                let slot = slot_of(key.as_bytes());
                let to = (bed.cluster.owner_of(slot).await + 1) % 3;
                bed.cluster.migrate_slot(slot, to).await;
                // The proxy learns of it as it would from any traffic.
                client.cmd(&["GET", key]).await;
            }
        }
    }
    assert_eq!(seen, keys);
}

#[tokio::test]
async fn cluster_clients_see_one_node_and_no_address_behind_it() {
    let bed = Bed::start().await;
    let mut client = bed.client(Proto::Resp3).await;
    let own = bed.proxy.addr().port().to_string();
    for command in [
        &["CLUSTER", "SLOTS"][..],
        &["CLUSTER", "SHARDS"],
        &["CLUSTER", "NODES"],
        &["INFO", "all"],
        &["CLIENT", "LIST"],
        &["ROLE"],
    ] {
        client.send(command).await;
        let reply = String::from_utf8_lossy(&client.read_raw().await).into_owned();
        for member in 0..3 {
            let port = bed.cluster.member(member).front().addr().port().to_string();
            assert!(port == own || !reply.contains(&format!(":{port}")), "{command:?}: {reply}");
        }
    }
    let slots = client.cmd(&["CLUSTER", "SLOTS"]).await;
    assert_eq!(slots.items()[0].items()[2].items()[1], Value::Int(own.parse().expect("port")));
    let info = client.cmd(&["INFO"]).await.text();
    assert!(info.contains("redis_mode:standalone") && info.contains("# Proxy"), "{info}");
    assert_eq!(info.matches("# Keyspace").count(), 1);
    let slot = client.cmd(&["CLUSTER", "KEYSLOT", &key_in_slot(77)]).await;
    assert_eq!(slot, Value::Int(77));
}

/// What a script read stands before what the pipeline writes, on nodes that never saw the script, and
/// nodes that lost it are told again.
#[tokio::test]
async fn scripts_run_by_digest_on_every_node_and_in_order() {
    let bed = Bed::start().await;
    let mut client = bed.client(Proto::Resp2).await;
    let keys: Vec<String> = spread_keys(10, 10).into_iter().flatten().collect();
    let body = "return redis.call('GET', KEYS[1])";
    client.cmd(&["EVAL", body, "1", &keys[0]]).await;
    let sha = "d3c21d0c2b9ca22f82737626a27bcaf5d288f99f";
    for round in 0..3 {
        for key in &keys {
            let replies = client
                .pipeline(&[
                    cmd!["SET", key, "before"],
                    cmd!["EVALSHA", sha, "1", key],
                    cmd!["SET", key, "after"],
                    cmd!["MULTI"],
                    cmd!["EVALSHA_RO", sha, "1", key],
                    cmd!["EXEC"],
                ])
                .await;
            assert_eq!(replies[1], Value::bulk("before"), "round {round}");
            assert_eq!(replies[5], Value::Array(vec![Value::bulk("after")]), "round {round}");
        }
        // Behind the proxy's back: the nodes have to say NOSCRIPT first.
        for member in bed.cluster.members() {
            assert_eq!(member.node.run(&["SCRIPT", "FLUSH"]).await, Value::ok());
        }
        for key in &keys {
            assert_eq!(client.cmd(&["EVALSHA", sha, "1", key]).await, Value::bulk("after"));
        }
    }
    // What the user has forgotten stays forgotten.
    assert_eq!(client.cmd(&["SCRIPT", "FLUSH"]).await, Value::ok());
    assert!(client.cmd(&["EVALSHA", sha, "1", &keys[0]]).await.is_error("NOSCRIPT"));
}
