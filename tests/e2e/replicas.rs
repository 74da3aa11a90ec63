//! `--read-from`: reads go to replicas, writes and what belongs to them do not; a replica that is lost,
//! loading, late or promoted costs a client nothing but what the setting says.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::both_protocols;
use crate::support::bed::{Bed, BedOptions};
use crate::support::client::{Client, Proto};
use crate::support::cluster::{ClusterOptions, Failover};
use crate::support::resp::Value;
use crate::support::slots::{keys_in_slot, keys_on_shard, slot_of};
use crate::support::traffic::spread_keys;
use crate::support::wait::wait_for;

both_protocols!(
    reads_go_to_replicas_and_nothing_else_does,
    scripts_and_functions_read_from_replicas,
    a_lost_replica_costs_no_read_that_may_go_to_the_primary,
    a_failover_swaps_the_roles_without_an_error,
    keys_of_moving_slots_are_read_where_they_are,
);

const PREFER: &str = "prefer-replica";
const STRICT: &str = "replica";

/// Three shards with a replica each, read from as told.
async fn bed(read_from: &str, op_timeout: Duration) -> Bed {
    bed_of(3, 1, read_from, op_timeout).await
}

async fn bed_of(shards: usize, replicas: usize, read_from: &str, op_timeout: Duration) -> Bed {
    let cluster = ClusterOptions { shards, replicas, ..ClusterOptions::default() };
    let args = ["--read-from", read_from, "--topology-refresh", "1s", "--auth-backoff-max", "1s"];
    let args = args.map(str::to_owned).to_vec();
    let op_timeout = Some(op_timeout);
    Bed::with(BedOptions { cluster, op_timeout, args, ..BedOptions::default() }).await
}

const LONG: Duration = Duration::from_secs(10);

fn is_primary(bed: &Bed, member: usize) -> bool {
    member < bed.cluster.shards()
}

/// How many commands that start so each member's front has seen.
fn seen(bed: &Bed, command: &str) -> Vec<usize> {
    bed.cluster.fronts().map(|f| f.seen(command)).collect()
}

fn of_primaries(bed: &Bed, command: &str) -> usize {
    seen(bed, command)[..bed.cluster.shards()].iter().sum()
}

fn of_replicas(bed: &Bed, command: &str) -> usize {
    seen(bed, command)[bed.cluster.shards()..].iter().sum()
}

/// Waits until reads of these keys, one a shard, are answered by replicas.
async fn warm(bed: &Bed, client: &mut Client, keys: &[String]) {
    for key in keys {
        wait_for("reads by replicas", Duration::from_secs(15), async || {
            let before = of_replicas(bed, &format!("GET {key}"));
            assert!(!matches!(client.cmd(&["GET", key]).await, Value::Error(_)));
            of_replicas(bed, &format!("GET {key}")) > before
        })
        .await;
    }
}

/// A value that every replica has by now.
async fn put(bed: &Bed, client: &mut Client, keys: &[String], value: &str) {
    for key in keys {
        assert_eq!(client.cmd(&["SET", key, value]).await, Value::ok());
    }
    let replicas = bed.cluster.replicas_of(0).len().to_string();
    let count = client.cmd(&["WAIT", &replicas, "10000"]).await;
    assert_eq!(count, Value::Int(replicas.parse().unwrap()));
}

fn one_a_shard() -> Vec<String> {
    (0..3).map(|shard| keys_on_shard(shard, 3, 1).remove(0)).collect()
}

async fn reads_go_to_replicas_and_nothing_else_does(proto: Proto) {
    for read_from in [PREFER, STRICT] {
        let bed = bed(read_from, LONG).await;
        let mut client = bed.client(proto).await;
        let keys = one_a_shard();
        put(&bed, &mut client, &keys, "v").await;
        warm(&bed, &mut client, &keys).await;
        for name in ["GET", "MGET", "EXISTS", "STRLEN", "HGETALL"] {
            let before = of_primaries(&bed, name);
            let replicas = of_replicas(&bed, name);
            for key in &keys {
                client.cmd(&["HSET", &format!("{{{key}}}h"), "f", "v"]).await;
            }
            put(&bed, &mut client, &keys, "v").await;
            let replies = match name {
                "MGET" | "EXISTS" => client.cmd(&[&[name.to_owned()], &keys[..]].concat()).await,
                "HGETALL" => client.cmd(&[name, &format!("{{{}}}h", keys[0])]).await,
                name => client.cmd(&[name, &keys[0]]).await,
            };
            let wanted = match name {
                "MGET" => Value::Array(vec![Value::bulk("v"); 3]),
                "EXISTS" => Value::Int(3),
                "STRLEN" => Value::Int(1),
                "HGETALL" if proto == Proto::Resp3 => {
                    Value::Map(vec![(Value::bulk("f"), Value::bulk("v"))])
                }
                "HGETALL" => Value::Array(vec![Value::bulk("f"), Value::bulk("v")]),
                _ => Value::bulk("v"),
            };
            assert_eq!(replies, wanted, "{name}");
            assert_eq!(of_primaries(&bed, name), before, "{name} asked a primary");
            assert!(of_replicas(&bed, name) > replicas, "{name} asked no replica");
        }
        // What is bound to a primary: writes, transactions, what is read under a WATCH, cursors.
        let key = &keys[0];
        let (gets, replica_gets) = (of_primaries(&bed, "GET"), of_replicas(&bed, "GET"));
        assert_eq!(client.cmd(&["WATCH", key]).await, Value::ok());
        assert_eq!(client.cmd(&["GET", key]).await, Value::bulk("v"));
        let replies = client.pipeline(&[cmd!["MULTI"], cmd!["GET", key], cmd!["EXEC"]]).await;
        assert_eq!(replies[2], Value::Array(vec![Value::bulk("v")]));
        assert_eq!(of_primaries(&bed, "GET"), gets + 2);
        assert_eq!(of_replicas(&bed, "GET"), replica_gets);
        client.cmd(&["HSCAN", &format!("{{{key}}}h"), "0"]).await;
        client.cmd(&["TOUCH", key]).await;
        client.cmd(&["DBSIZE"]).await;
        client.cmd(&["KEYS", "*"]).await;
        client.cmd(&["XADD", &format!("{{{key}}}x"), "1-1", "f", "v"]).await;
        for (name, primaries) in
            [("HSCAN", 1), ("TOUCH", 1), ("DBSIZE", 3), ("KEYS", 3), ("XADD", 1), ("MULTI", 1)]
        {
            assert_eq!(of_replicas(&bed, name), 0, "{name}");
            assert_eq!(of_primaries(&bed, name), primaries, "{name}");
        }
        assert_eq!(of_replicas(&bed, "SET") + of_replicas(&bed, "HSET"), 0);
        // Replicas are authenticated to as primaries are.
        for (member, front) in bed.cluster.fronts().enumerate() {
            let counts = front.counts();
            // A replica says PING to its primary before it authenticates.
            let unauthenticated = counts.unauthenticated == 0 || is_primary(&bed, member);
            assert!(counts.auths_ok > 0 && unauthenticated, "member {member}: {counts:?}");
            assert_eq!(front.seen("READONLY") > 0, !is_primary(&bed, member), "member {member}");
        }
        let reads = "memorystore_proxy_replica_reads_total";
        let count = bed.proxy.metric(reads, &["node=\"replica\""]).await;
        let count = count.expect("reads from replicas are counted");
        assert!(count >= 10.0, "{count}");
    }
}

#[tokio::test]
async fn by_default_no_replica_is_connected_to() {
    let cluster = ClusterOptions { replicas: 1, ..ClusterOptions::default() };
    let bed = Bed::with(BedOptions { cluster, ..BedOptions::default() }).await;
    let mut client = bed.client(Proto::Resp2).await;
    for key in one_a_shard() {
        assert_eq!(client.cmd(&["SET", &key, "v"]).await, Value::ok());
        assert_eq!(client.cmd(&["GET", &key]).await, Value::bulk("v"));
    }
    for member in 3..6 {
        assert_eq!(bed.cluster.member(member).front().counts().dials, 0, "member {member}");
    }
}

async fn scripts_and_functions_read_from_replicas(proto: Proto) {
    let bed = bed(STRICT, LONG).await;
    let mut client = bed.client(proto).await;
    let keys = one_a_shard();
    put(&bed, &mut client, &keys, "v").await;
    warm(&bed, &mut client, &keys).await;
    let script = "return redis.call('GET', KEYS[1])";
    assert_eq!(client.cmd(&["EVAL_RO", script, "1", &keys[0]]).await, Value::bulk("v"));
    // The other shards' replicas never saw it: they are told, though they are replicas.
    let sha = "d3c21d0c2b9ca22f82737626a27bcaf5d288f99f";
    for key in &keys {
        assert_eq!(client.cmd(&["EVALSHA_RO", sha, "1", key]).await, Value::bulk("v"));
    }
    // Once each, at most: the one that ran it may be told as well.
    let told = of_replicas(&bed, "SCRIPT");
    assert!((2..=3).contains(&told), "told {told} times");
    let pipelined: Vec<_> = keys.iter().map(|k| cmd!["EVALSHA_RO", sha, "1", k]).collect();
    assert_eq!(client.pipeline(&pipelined).await, vec![Value::bulk("v"); 3]);
    assert_eq!(of_replicas(&bed, "SCRIPT"), told);
    let unknown = "0000000000000000000000000000000000000000";
    assert!(client.cmd(&["EVALSHA_RO", unknown, "1", &keys[0]]).await.is_error("NOSCRIPT"));
    let library = "#!lua name=reading\nredis.register_function{function_name='look', \
                   callback=function(k) return redis.call('GET', k[1]) end, flags={'no-writes'}}";
    assert_eq!(client.cmd(&["FUNCTION", "LOAD", library]).await, Value::bulk("reading"));
    assert_eq!(client.cmd(&["WAIT", "1", "10000"]).await, Value::Int(1));
    for key in &keys {
        assert_eq!(client.cmd(&["FCALL_RO", "look", "1", key]).await, Value::bulk("v"));
    }
    for name in ["EVAL_RO", "EVALSHA_RO", "FCALL_RO"] {
        assert_eq!(of_primaries(&bed, name), 0, "{name}");
    }
}

async fn a_lost_replica_costs_no_read_that_may_go_to_the_primary(proto: Proto) {
    let bed = bed(PREFER, LONG).await;
    let mut client = bed.client(proto).await;
    let keys = one_a_shard();
    put(&bed, &mut client, &keys, "v").await;
    warm(&bed, &mut client, &keys).await;
    bed.cluster.kill(3);
    let read = async |client: &mut Client| {
        let replies = client.pipeline(&vec![cmd!["GET", &keys[0]]; 20]).await;
        assert_eq!(replies, vec![Value::bulk("v"); 20]);
    };
    // Until the cluster has given the replica up, and beyond.
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        read(&mut client).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    // The other shards' replicas go on.
    let others = of_primaries(&bed, &format!("GET {}", keys[1]));
    assert_eq!(client.cmd(&["GET", &keys[1]]).await, Value::bulk("v"));
    assert_eq!(of_primaries(&bed, &format!("GET {}", keys[1])), others);
    bed.cluster.restart(3).await;
    bed.cluster.wait_whole().await;
    warm(&bed, &mut client, &keys[..1]).await;
    read(&mut client).await;
}

#[tokio::test]
async fn without_its_replica_a_strict_read_says_so_and_recovers() {
    let op_timeout = Duration::from_millis(1500);
    let bed = bed(STRICT, op_timeout).await;
    let mut client = bed.client(Proto::Resp2).await;
    let keys = one_a_shard();
    put(&bed, &mut client, &keys, "v").await;
    warm(&bed, &mut client, &keys).await;
    let gets = of_primaries(&bed, "GET");
    bed.cluster.kill(3);
    let mut told = HashSet::new();
    let mut given_up = None;
    // First the node cannot be reached; when the cluster has given it up there is no replica.
    wait_for("the cluster to give the replica up", Duration::from_secs(20), async || {
        let start = Instant::now();
        let reply = client.cmd(&["GET", &keys[0]]).await;
        let Value::Error(text) = reply else { panic!("{reply:?}") };
        let took = start.elapsed();
        assert!(took >= op_timeout && took < op_timeout * 2, "{took:?}: {text}");
        assert!(text.contains("was not executed"), "{text}");
        if text.contains("no replica could answer within 1500ms") {
            given_up = Some(text.clone());
        } else {
            assert!(text.contains("could not be reached within 1500ms"), "{text}");
        }
        told.insert(text);
        given_up.is_some()
    })
    .await;
    assert!(given_up.unwrap().ends_with("no replica of the slot's shard is known"));
    // Writes behind such a read are not held up for ever, nor are other shards.
    let replies = client
        .pipeline(&[cmd!["GET", &keys[0]], cmd!["SET", &keys[0], "w"], cmd!["GET", &keys[1]]])
        .await;
    assert!(matches!(replies[0], Value::Error(_)), "{replies:?}");
    assert_eq!(replies[1..], [Value::ok(), Value::bulk("v")]);
    assert_eq!(of_primaries(&bed, "GET"), gets, "a primary was asked");
    bed.cluster.restart(3).await;
    bed.cluster.wait_whole().await;
    wait_for("the replica to answer again", Duration::from_secs(20), async || {
        client.cmd(&["GET", &keys[0]]).await == Value::bulk("w")
    })
    .await;
    assert_eq!(of_primaries(&bed, "GET"), gets);
}

/// What a replica says when it cannot answer, and where the read ends up.
#[tokio::test]
async fn a_replica_that_refuses_is_passed_over() {
    for (read_from, keep) in [(PREFER, u32::MAX), (STRICT, 3)] {
        let bed = bed(read_from, LONG).await;
        let mut client = bed.client(Proto::Resp2).await;
        let keys = one_a_shard();
        put(&bed, &mut client, &keys, "v").await;
        warm(&bed, &mut client, &keys).await;
        let front = bed.cluster.member(3).front();
        let slot = slot_of(keys[0].as_bytes());
        // A MOVED to a node that does not own the slot, too: nobody must believe it.
        let elsewhere = bed.cluster.member(2).addr();
        for refusal in [
            "LOADING Redis is loading the dataset in memory".to_owned(),
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."
                .into(),
            "CLUSTERDOWN The cluster is down".into(),
            format!("MOVED {slot} {elsewhere}"),
        ] {
            front.faults().answer_error("GET", &refusal, keep);
            let asked = of_primaries(&bed, "GET");
            let start = Instant::now();
            assert_eq!(client.cmd(&["GET", &keys[0]]).await, Value::bulk("v"), "{refusal}");
            assert!(start.elapsed() < Duration::from_secs(3), "{refusal}: {:?}", start.elapsed());
            let pipelined = client.pipeline(&vec![cmd!["GET", &keys[0]]; 5]).await;
            assert_eq!(pipelined, vec![Value::bulk("v"); 5], "{refusal}");
            let asked_now = of_primaries(&bed, "GET");
            assert_eq!(asked_now - asked, if read_from == PREFER { 6 } else { 0 }, "{refusal}");
            // Writes still go where they belong: the route was not learnt from the replica.
            let (right, wrong) = (seen(&bed, "APPEND")[0], seen(&bed, "APPEND")[2]);
            client.cmd(&["APPEND", &format!("{{{}}}log", keys[0]), "x"]).await;
            assert_eq!(seen(&bed, "APPEND")[0], right + 1, "{refusal}");
            assert_eq!(seen(&bed, "APPEND")[2], wrong, "{refusal}");
            front.faults().answer_error("GET", "none", 0);
            warm(&bed, &mut client, &keys[..1]).await;
        }
    }
}

#[tokio::test]
async fn a_replica_that_hangs_is_given_up_in_time_for_the_primary() {
    let bed = bed(PREFER, Duration::from_secs(3)).await;
    let mut client = bed.client(Proto::Resp2).await;
    let keys = one_a_shard();
    put(&bed, &mut client, &keys, "v").await;
    warm(&bed, &mut client, &keys).await;
    bed.cluster.member(3).front().faults().set_stalled(true);
    let start = Instant::now();
    assert_eq!(client.cmd(&["GET", &keys[0]]).await, Value::bulk("v"));
    assert!(start.elapsed() < Duration::from_secs(3), "took {:?}", start.elapsed());
    // From now on nobody waits for it.
    let start = Instant::now();
    assert_eq!(client.cmd(&["GET", &keys[0]]).await, Value::bulk("v"));
    assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
    bed.cluster.member(3).front().faults().set_stalled(false);
    warm(&bed, &mut client, &keys).await;
}

/// What has not arrived yet, or has left with its slot, is asked of the primary.
#[tokio::test]
async fn a_key_the_replica_does_not_know_is_asked_of_the_primary() {
    let bed = bed(PREFER, LONG).await;
    let mut client = bed.client(Proto::Resp2).await;
    let keys = one_a_shard();
    put(&bed, &mut client, &keys, "v").await;
    warm(&bed, &mut client, &keys).await;
    // The replica stays behind: its link is stopped, its clients are served.
    let replica = &bed.cluster.member(3).node;
    assert_eq!(replica.run(&["CONFIG", "SET", "masterauth", "wrong"]).await, Value::ok());
    let primary = &bed.cluster.member(0).node;
    primary.run(&["CLIENT", "KILL", "TYPE", "replica"]).await;
    wait_for("the replica to lose its primary", Duration::from_secs(10), async || {
        replica.run(&["INFO", "replication"]).await.text().contains("master_link_status:down")
    })
    .await;
    let tag = &keys[0];
    let key = |name: &str| format!("{{{tag}}}{name}");
    for n in 0..5 {
        let (s, h, z) = (key(&format!("s{n}")), key(&format!("h{n}")), key(&format!("z{n}")));
        assert_eq!(client.cmd(&["SET", &s, "new"]).await, Value::ok());
        assert_eq!(client.cmd(&["GET", &s]).await, Value::bulk("new"));
        client.cmd(&["HSET", &h, "f", "v"]).await;
        client.cmd(&["ZADD", &z, "1", "m"]).await;
        assert_eq!(client.cmd(&["HGETALL", &h]).await.items().len(), 2);
        assert_eq!(client.cmd(&["ZSCORE", &z, "m"]).await, Value::bulk("1"));
        assert_eq!(client.cmd(&["TYPE", &z]).await, Value::Simple("zset".into()));
        assert_eq!(client.cmd(&["TTL", &z]).await, Value::Int(-1));
        assert_eq!(client.cmd(&["EXISTS", &s, tag, &h]).await, Value::Int(3));
        let values = client.cmd(&["MGET", tag, &s, &keys[1]]).await;
        assert_eq!(values.items(), [Value::bulk("v"), Value::bulk("new"), Value::bulk("v")]);
        assert_eq!(client.cmd(&["HMGET", &h, "f", "g"]).await.items()[0], Value::bulk("v"));
        assert!(matches!(client.cmd(&["XINFO", "STREAM", &key("none")]).await, Value::Error(_)));
        assert_eq!(client.cmd(&["GET", &key("none")]).await, Value::Null);
    }
    // What the replica knows it answers, late or not.
    let gets = of_primaries(&bed, &format!("GET {tag}"));
    assert_eq!(client.cmd(&["SET", tag, "newer"]).await, Value::ok());
    assert_eq!(client.cmd(&["GET", tag]).await, Value::bulk("v"));
    assert_eq!(of_primaries(&bed, &format!("GET {tag}")), gets);
}

/// Sessions spread over the replicas of a shard, and each stays with one.
#[tokio::test]
async fn a_session_keeps_its_replica() {
    let bed = bed_of(1, 2, STRICT, LONG).await;
    let mut writer = bed.client(Proto::Resp2).await;
    let keys: Vec<String> = (0..16).map(|n| format!("session{n:02}")).collect();
    put(&bed, &mut writer, &keys, "v").await;
    let mut clients = Vec::new();
    for _ in &keys {
        clients.push(bed.client(Proto::Resp2).await);
    }
    let places = async |clients: &mut [Client]| -> Vec<usize> {
        let mut places = Vec::new();
        for (client, key) in clients.iter_mut().zip(&keys) {
            let before = seen(&bed, &format!("GET {key}"));
            for _ in 0..5 {
                assert_eq!(client.cmd(&["GET", key]).await, Value::bulk("v"));
            }
            let after = seen(&bed, &format!("GET {key}"));
            let places_of: Vec<usize> = (0..3).filter(|&m| after[m] > before[m]).collect();
            assert_eq!(places_of.len(), 1, "{key} was read from members {places_of:?}");
            places.push(places_of[0]);
        }
        places
    };
    // Let both replicas be connected to first: until then the one that is serves all.
    wait_for("both replicas in use", Duration::from_secs(10), async || {
        for (client, key) in clients.iter_mut().zip(&keys) {
            assert_eq!(client.cmd(&["GET", key]).await, Value::bulk("v"));
        }
        (1..3).all(|m| bed.cluster.member(m).front().seen("GET") > 0)
    })
    .await;
    let first = places(&mut clients).await;
    assert!((1..3).all(|m| first.iter().filter(|&&p| p == m).count() >= 3), "{first:?}");
    assert_eq!(places(&mut clients).await, first);
    // With one gone, the other serves all; nobody is refused.
    bed.cluster.kill(1);
    for (client, key) in clients.iter_mut().zip(&keys) {
        assert_eq!(client.cmd(&["GET", key]).await, Value::bulk("v"));
    }
    assert!(places(&mut clients).await.iter().all(|&p| p == 2));
}

/// Readers of keys that never change, and writers of counters; every reply must be right.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

impl Load {
    /// `keys` hold themselves as values.
    async fn start(bed: &Bed, proto: Proto, keys: Vec<Vec<String>>) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for keys in keys {
            let mut client = bed.client(proto).await;
            let (stop, done) = (stop.clone(), done.clone());
            tasks.spawn(async move {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    count += 1;
                    let mut commands = Vec::new();
                    let mut wanted = Vec::new();
                    for key in &keys {
                        commands.push(cmd!["GET", key]);
                        wanted.push(Value::bulk(key));
                        commands.push(cmd!["INCR", format!("{key}:count")]);
                        wanted.push(Value::Int(count));
                        commands.push(cmd!["STRLEN", key]);
                        wanted.push(Value::Int(key.len() as i64));
                    }
                    let replies = client.pipeline(&commands).await;
                    for ((command, got), want) in commands.iter().zip(&replies).zip(&wanted) {
                        let shown = String::from_utf8_lossy(&command[0]);
                        let key = String::from_utf8_lossy(&command[1]);
                        assert_eq!(got, want, "round {count}: {shown} {key}");
                    }
                    done.fetch_add(replies.len() as u64, Ordering::Relaxed);
                }
            });
        }
        Self { stop, done, tasks }
    }

    async fn progress(&mut self, more: u64) {
        let target = self.done.load(Ordering::Relaxed) + more;
        wait_for("the load to go on", Duration::from_secs(60), async || {
            if let Some(ended) = self.tasks.try_join_next() {
                ended.expect("a client of the load failed");
            }
            self.done.load(Ordering::Relaxed) >= target
        })
        .await;
    }

    async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a client of the load failed");
        }
    }
}

async fn a_failover_swaps_the_roles_without_an_error(proto: Proto) {
    for read_from in [PREFER, STRICT] {
        let bed = bed(read_from, Duration::from_secs(20)).await;
        let mut client = bed.client(proto).await;
        let keys = spread_keys(6, 8);
        for key in keys.iter().flatten() {
            assert_eq!(client.cmd(&["SET", key, key]).await, Value::ok());
        }
        assert_eq!(client.cmd(&["WAIT", "1", "10000"]).await, Value::Int(1));
        let mut load = Load::start(&bed, proto, keys).await;
        load.progress(500).await;
        for shard in 0..3 {
            bed.cluster.failover(bed.cluster.replicas_of(shard).start, Failover::Coordinated).await;
            load.progress(500).await;
        }
        bed.cluster.wait_whole().await;
        // The old primaries are the replicas now, and read from.
        let before = of_primaries(&bed, "STRLEN");
        wait_for("reads from the new replicas", Duration::from_secs(15), async || {
            (0..3).all(|m| bed.cluster.member(m).front().seen("READONLY") > 0)
                && of_primaries(&bed, "STRLEN") > before
        })
        .await;
        load.progress(500).await;
        load.stop().await;
    }
}

async fn keys_of_moving_slots_are_read_where_they_are(proto: Proto) {
    let bed = bed(PREFER, Duration::from_secs(10)).await;
    let mut client = bed.client(proto).await;
    let slots = [100, 6000, 12000];
    let mut all = Vec::new();
    for slot in slots {
        all.push(keys_in_slot(slot, 12));
    }
    for key in all.iter().flatten() {
        assert_eq!(client.cmd(&["SET", key, key]).await, Value::ok());
    }
    assert_eq!(client.cmd(&["WAIT", "1", "10000"]).await, Value::Int(1));
    // Some of a slot's keys only, so that reads of the others tell nobody that it moves.
    let readers: Vec<Vec<String>> = all.iter().map(|keys| keys[..6].to_vec()).collect();
    let mut load = Load::start(&bed, proto, readers).await;
    load.progress(300).await;
    for (slot, keys) in slots.into_iter().zip(&all) {
        let owner = bed.cluster.owner_of(slot).await;
        for to in [(owner + 1) % 3, (owner + 2) % 3, owner] {
            let mut migration = bed.cluster.begin_migration(slot, to).await;
            migration.move_named(&keys[..3]).await;
            load.progress(100).await;
            migration.move_named(&keys[6..9]).await;
            // Never read since: the first read of a moved key must be right, too.
            for key in &keys[6..] {
                assert_eq!(client.cmd(&["GET", key]).await, Value::bulk(key));
                assert_eq!(client.cmd(&["EXISTS", key]).await, Value::Int(1));
            }
            while migration.move_keys(4).await > 0 {}
            load.progress(100).await;
            migration.finish().await;
            for key in keys {
                assert_eq!(client.cmd(&["GET", key]).await, Value::bulk(key));
            }
        }
    }
    load.progress(300).await;
    load.stop().await;
}

/// Strict reads of a slot that has moved follow it, though no primary tells them.
#[tokio::test]
async fn strict_reads_follow_a_slot_without_asking_a_primary() {
    let bed = bed(STRICT, Duration::from_secs(10)).await;
    let mut client = bed.client(Proto::Resp2).await;
    let keys = keys_in_slot(200, 5);
    for key in &keys {
        assert_eq!(client.cmd(&["SET", key, key]).await, Value::ok());
    }
    assert_eq!(client.cmd(&["WAIT", "1", "10000"]).await, Value::Int(1));
    assert_eq!(client.cmd(&["GET", &keys[0]]).await, Value::bulk(&keys[0]));
    bed.cluster.migrate_slot(200, 1).await;
    // A replica learns of the move by gossip; until then it knows nothing of the keys that have left.
    wait_for("the keys to be read at their new place", Duration::from_secs(15), async || {
        let mut right = 0;
        for key in &keys {
            match client.cmd(&["GET", key]).await {
                Value::Null => {}
                reply => {
                    assert_eq!(reply, Value::bulk(key));
                    right += 1;
                }
            }
        }
        right == keys.len()
    })
    .await;
    let place = bed.cluster.replicas_of(1).start;
    assert!(bed.cluster.member(place).front().seen(&format!("GET {}", keys[0])) > 0);
    assert_eq!(of_primaries(&bed, "GET"), 0);
}
