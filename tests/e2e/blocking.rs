//! Commands that wait: served, timed out, abandoned and carried through a failover as on one server.
//!
//! Whether a client waits is asked from the nodes (`blocked_clients` of INFO), never guessed.

use std::time::Duration;

use tokio::time::Instant;

use crate::both_protocols;
use crate::support::bed::{Bed, BedOptions};
use crate::support::client::{Client, Proto};
use crate::support::cluster::{Cluster, ClusterOptions, Failover};
use crate::support::pair::Pair;
use crate::support::resp::{self, Value};
use crate::support::slots::{key_in_slot, keys_in_slot, keys_on_shard};
use crate::support::wait::wait_for;

both_protocols!(waiting_clients_are_served_as_by_one_server, timeouts_are_the_servers);
both_protocols!(commands_behind_wait_their_turn, a_wait_survives_a_failover);

const SOON: Duration = Duration::from_secs(15);

/// What waits, and what another client then does; `a`, `b` and `x` share a slot.
const SERVED: &[(&str, &str)] = &[
    ("BLPOP {t}a {t}b 0", "RPUSH {t}b 1 2"),
    ("BRPOP {t}a {t}b 20", "RPUSH {t}a 1 2"),
    ("BLMOVE {t}a {t}b LEFT RIGHT 0", "RPUSH {t}a 1"),
    ("BRPOPLPUSH {t}a {t}b 20", "LPUSH {t}a 1 2"),
    ("BLMPOP 0 2 {t}a {t}b LEFT COUNT 2", "RPUSH {t}b 1 2 3"),
    ("BZPOPMIN {t}a {t}b 0", "ZADD {t}b 1.5 m 2 n"),
    ("BZPOPMAX {t}a 20", "ZADD {t}a 1 m 2 n"),
    ("BZMPOP 0 2 {t}a {t}b MAX COUNT 2", "ZADD {t}a 1 m 2 n 3 o"),
    ("XREAD BLOCK 0 STREAMS {t}a {t}x $ $", "XADD {t}x 5-1 f v"),
    ("XREAD COUNT 1 BLOCK 20000 STREAMS {t}a 4-0", "XADD {t}a 5-1 f v"),
    ("XREADGROUP GROUP g c BLOCK 0 STREAMS {t}g >", "XADD {t}g 5-1 f v"),
    ("XREADGROUP GROUP g c COUNT 1 BLOCK 20000 STREAMS {t}g >", "XADD {t}g 9-1 f v"),
    // The key's type or existence changes under the one who waits.
    ("XREADGROUP GROUP g c BLOCK 0 STREAMS {t}g >", "DEL {t}g"),
    ("BLPOP {t}a 0", "SORT {t}src STORE {t}a"),
    ("BLPOP {t}a 0", "RENAME {t}src {t}a"),
];

fn words(command: &str) -> Vec<String> {
    command.split(' ').map(str::to_owned).collect()
}

async fn blocked(cluster: &Cluster, count: i64) {
    wait_for(&format!("{count} blocked clients"), SOON, async || {
        cluster.stat("blocked_clients").await == count
    })
    .await;
}

async fn waiting_clients_are_served_as_by_one_server(proto: Proto) {
    let mut pair = Pair::start(proto).await;
    for (wait, push) in SERVED {
        pair.reset(proto).await;
        pair.agree(&[&["RPUSH", "{t}src", "2", "1"]], false).await;
        if wait.contains("GROUP") {
            pair.agree(&[&["XGROUP", "CREATE", "{t}g", "g", "$", "MKSTREAM"]], false).await;
        }
        pair.ours.send(&words(wait)).await;
        pair.theirs.send(&words(wait)).await;
        blocked(&pair.bed.cluster, 1).await;
        wait_for("the server's client to wait", SOON, async || {
            pair.server.node().stat("blocked_clients").await == 1
        })
        .await;
        let ours = pair.bed.client(proto).await.cmd(&words(push)).await;
        let theirs = Client::connect_proto(pair.server.addr(), proto).await.cmd(&words(push)).await;
        assert_eq!(ours, theirs, "{push}");
        let (ours, theirs) = (pair.ours.read_raw().await, pair.theirs.read_raw().await);
        assert_eq!(
            String::from_utf8_lossy(&ours),
            String::from_utf8_lossy(&theirs),
            "{wait}, then {push}"
        );
        let keys = ["EXISTS", "{t}a", "{t}b", "{t}x", "{t}g"];
        pair.agree(&[&keys, &["LRANGE", "{t}b", "0", "-1"]], true).await;
        blocked(&pair.bed.cluster, 0).await;
    }
}

async fn timeouts_are_the_servers(proto: Proto) {
    let mut pair = Pair::start(proto).await;
    pair.reset(proto).await;
    pair.agree(&[&["XGROUP", "CREATE", "{t}g", "g", "$", "MKSTREAM"]], false).await;
    for wait in [
        "BLPOP {t}a 0.3",
        "BRPOP {t}a {t}b 0.3",
        "BLMOVE {t}a {t}b LEFT RIGHT 0.3",
        "BRPOPLPUSH {t}a {t}b 0.3",
        "BLMPOP 0.3 1 {t}a LEFT",
        "BZPOPMIN {t}a 0.3",
        "BZPOPMAX {t}a {t}b 0.3",
        "BZMPOP 0.3 1 {t}a MIN",
        "XREAD BLOCK 300 STREAMS {t}x $",
        "XREADGROUP GROUP g c BLOCK 300 STREAMS {t}g >",
        "WAIT 3 300",
    ] {
        let bytes = resp::encode(&words(wait));
        let start = Instant::now();
        let ours = pair.ours.pipeline_frames(&bytes, 1).await;
        let took = start.elapsed();
        let theirs = pair.theirs.pipeline_frames(&bytes, 1).await;
        assert_eq!(ours, theirs, "{wait}");
        // Servers count in whole milliseconds and look at their clock before they wait.
        let window = Duration::from_millis(280)..Duration::from_secs(10);
        assert!(window.contains(&took), "{wait} took {took:?}");
    }
    // Nobody waits where nothing can come: errors, and inside a transaction.
    pair.agree(
        &[
            &["SET", "{t}s", "v"],
            &["BLPOP", "{t}s", "0"],
            &["XREADGROUP", "GROUP", "no", "c", "BLOCK", "0", "STREAMS", "{t}g", ">"],
        ],
        true,
    )
    .await;
}

async fn commands_behind_wait_their_turn(proto: Proto) {
    let bed = Bed::start().await;
    let queue = key_in_slot(1);
    let other = key_in_slot(16000);
    let mut client = bed.client(proto).await;
    let commands = [
        cmd!["SET", &other, "first"],
        cmd!["BLPOP", &queue, "0"],
        cmd!["SET", &other, "second"],
        cmd!["GET", &other],
        cmd!["BRPOP", &queue, "0.05"],
        cmd!["PING"],
    ];
    let bytes: Vec<u8> = commands.iter().flat_map(|c| resp::encode(c)).collect();
    client.send_raw(&bytes).await;
    assert_eq!(client.read().await, Value::ok());
    blocked(&bed.cluster, 1).await;
    client.expect_silence(Duration::from_millis(200)).await;
    let mut pusher = bed.client(proto).await;
    // What stands behind the wait has not run, not even on another node.
    assert_eq!(pusher.cmd(&["GET", &other]).await, Value::bulk("first"));
    assert_eq!(pusher.cmd(&["RPUSH", &queue, "element"]).await, Value::Int(1));
    let popped = Value::Array(vec![Value::bulk(&queue), Value::bulk("element")]);
    assert_eq!(client.read().await, popped);
    assert_eq!(client.read().await, Value::ok());
    assert_eq!(client.read().await, Value::bulk("second"));
    assert_eq!(client.read().await, Value::Null);
    assert_eq!(client.read().await, Value::Simple("PONG".into()));
}

#[tokio::test]
async fn others_go_on_while_twenty_wait_and_each_element_goes_to_one() {
    let bed = Bed::start().await;
    let queues: Vec<_> = (0..3).map(|shard| keys_on_shard(shard, 3, 1).remove(0)).collect();
    let mut waiting = Vec::new();
    for n in 0..20 {
        let proto = if n % 2 == 0 { Proto::Resp2 } else { Proto::Resp3 };
        let mut client = bed.client(proto).await;
        client.send(&["BLPOP", &queues[n % 3], "0"]).await;
        waiting.push(client);
    }
    blocked(&bed.cluster, 20).await;
    for proto in [Proto::Resp2, Proto::Resp3] {
        let mut client = bed.client(proto).await;
        let start = Instant::now();
        for n in 0..300 {
            let key = format!("free:{n}");
            assert_eq!(client.cmd(&["SET", &key, "v"]).await, Value::ok());
            assert_eq!(client.cmd(&["LLEN", &queues[n % 3]]).await, Value::Int(0));
        }
        assert!(start.elapsed() < Duration::from_secs(10), "held up {:?}", start.elapsed());
    }
    let mut pusher = bed.client(Proto::Resp2).await;
    for n in 0..20 {
        pusher.cmd(&["RPUSH", &queues[n % 3], &n.to_string()]).await;
    }
    let mut got = Vec::new();
    for client in &mut waiting {
        got.push(client.read().await.items()[1].text().parse::<usize>().expect("an element"));
    }
    got.sort_unstable();
    assert_eq!(got, (0..20).collect::<Vec<_>>());
    blocked(&bed.cluster, 0).await;
}

#[tokio::test]
async fn a_hangup_releases_the_upstream_and_loses_no_element() {
    let bed = Bed::start().await;
    let queue = key_in_slot(7);
    let mut live = bed.client(Proto::Resp2).await;
    for (round, wait) in [
        cmd!["BLPOP", &queue, "0"],
        cmd!["BLMOVE", &queue, format!("{queue}:taken"), "LEFT", "LEFT", "0"],
        cmd!["XREAD", "BLOCK", "0", "STREAMS", format!("{queue}:stream"), "$"],
        cmd!["BZPOPMIN", format!("{queue}:z"), "0"],
    ]
    .iter()
    .enumerate()
    {
        let mut gone = Vec::new();
        for _ in 0..8 {
            let mut client = bed.client(Proto::Resp3).await;
            client.send(wait).await;
            // Commands behind it die with it.
            client.send(&["SET", &format!("{queue}:behind"), "ran"]).await;
            gone.push(client);
        }
        blocked(&bed.cluster, 8).await;
        drop(gone);
        blocked(&bed.cluster, 0).await;
        let element = format!("element {round}");
        assert_eq!(live.cmd(&["RPUSH", &queue, &element]).await, Value::Int(1));
        assert_eq!(live.cmd(&["LPOP", &queue]).await, Value::bulk(&element), "{wait:?}");
        assert_eq!(live.cmd(&["EXISTS", &format!("{queue}:behind")]).await, Value::Int(0));
    }
    // Upstream connections do not pile up.
    wait_for("few connections", SOON, async || {
        bed.cluster.fronts().all(|f| f.counts().connections < 20)
    })
    .await;
}

#[tokio::test]
async fn a_queue_through_moving_slots_loses_and_doubles_nothing() {
    let bed = Bed::start().await;
    let slot = 3000;
    let queue = key_in_slot(slot);
    let mut consumers = tokio::task::JoinSet::new();
    for n in 0..4 {
        let mut client = bed.client(if n % 2 == 0 { Proto::Resp2 } else { Proto::Resp3 }).await;
        let queue = queue.clone();
        consumers.spawn(async move {
            let mut got = Vec::new();
            loop {
                let reply = client.cmd(&["BLPOP", &queue, "0"]).await;
                let Value::Array(items) = &reply else { panic!("BLPOP answered {reply:?}") };
                match items[1].text().as_str() {
                    "end" => return got,
                    element => got.push(element.parse::<usize>().expect("a number")),
                }
            }
        });
    }
    let mut producer = bed.client(Proto::Resp2).await;
    for n in 0..300 {
        producer.cmd(&["RPUSH", &queue, &n.to_string()]).await.int();
        if n % 60 == 30 {
            let owner = bed.cluster.owner_of(slot).await;
            bed.cluster.migrate_slot(slot, (owner + 1) % 3).await;
        }
    }
    for _ in 0..4 {
        producer.cmd(&["RPUSH", &queue, "end"]).await.int();
    }
    let mut all = Vec::new();
    while let Some(got) = consumers.join_next().await {
        all.extend(got.expect("a consumer failed"));
    }
    all.sort_unstable();
    assert_eq!(all, (0..300).collect::<Vec<_>>());
}

async fn a_wait_survives_a_failover(proto: Proto) {
    let bed = Bed::with(BedOptions {
        cluster: ClusterOptions { replicas: 1, ..ClusterOptions::default() },
        ..BedOptions::default()
    })
    .await;
    let keys = keys_in_slot(5, 3);
    let mut list = bed.client(proto).await;
    let mut zset = bed.client(proto).await;
    let mut timed = bed.client(proto).await;
    list.send(&["BLPOP", &keys[0], "0"]).await;
    zset.send(&["BZPOPMIN", &keys[1], "0"]).await;
    let start = Instant::now();
    timed.send(&["BLPOP", &keys[2], "6"]).await;
    blocked(&bed.cluster, 3).await;
    let replica = bed.cluster.replicas_of(0).start;
    // The old primary drives its blocked clients away with UNBLOCKED when it steps down.
    bed.cluster.failover(replica, Failover::Coordinated).await;
    wait_for("the list client to wait on the new primary", SOON, async || {
        bed.cluster.member(replica).node.stat("blocked_clients").await >= 2
    })
    .await;
    let mut pusher = bed.client(proto).await;
    assert_eq!(pusher.cmd(&["RPUSH", &keys[0], "e"]).await, Value::Int(1));
    let popped = Value::Array(vec![Value::bulk(&keys[0]), Value::bulk("e")]);
    assert_eq!(list.read().await, popped);
    assert_eq!(timed.read().await, Value::Null);
    let took = start.elapsed();
    // The time already waited is not waited again.
    assert!((5.9..11.0).contains(&took.as_secs_f64()), "BLPOP 6 took {took:?}");
    // A primary that dies may have popped and not said so: that is told, not repeated. The same
    // session is served by the next primary.
    bed.cluster.kill(replica);
    let lost = zset.read().await;
    assert!(matches!(lost, Value::Error(_)), "BZPOPMIN of a dead node answered {lost:?}");
    bed.cluster.failover(0, Failover::Takeover).await;
    wait_for("a push to be taken", Duration::from_secs(30), async || {
        matches!(pusher.cmd(&["ZADD", &keys[1], "1", "m"]).await, Value::Int(_))
    })
    .await;
    let popped = zset.cmd(&["BZPOPMIN", &keys[1], "0"]).await;
    assert_eq!(popped.items()[..2], [Value::bulk(&keys[1]), Value::bulk("m")]);
}

#[tokio::test]
async fn wait_counts_replicas() {
    let bed = Bed::with(BedOptions {
        cluster: ClusterOptions { replicas: 1, ..ClusterOptions::default() },
        ..BedOptions::default()
    })
    .await;
    let mut client = bed.client(Proto::Resp2).await;
    for key in [key_in_slot(1), key_in_slot(9000), key_in_slot(16000)] {
        assert_eq!(client.cmd(&["SET", &key, "v"]).await, Value::ok());
        assert_eq!(client.cmd(&["WAIT", "1", "10000"]).await, Value::Int(1));
    }
    let start = Instant::now();
    assert_eq!(client.cmd(&["WAIT", "2", "300"]).await, Value::Int(1));
    assert!(start.elapsed() >= Duration::from_millis(280));
}
