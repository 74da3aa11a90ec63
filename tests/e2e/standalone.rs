//! One server without cluster mode behind an IAM front: with databases, everything a direct connection
//! can do.
//!
//! A second plain server, connected to directly, is the truth for every reply.

mod conversations;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::both_protocols;
use crate::support::canonical::same;
use crate::support::client::{Client, Proto};
use crate::support::faults::OnExpiry;
use crate::support::front::{BoundFront, FrontOptions, IamFront};
use crate::support::metadata::FakeMetadata;
use crate::support::proxy::{Proxy, ProxyOptions};
use crate::support::resp::{self, Value};
use crate::support::slots::slot_of;
use crate::support::standalone::Standalone;
use crate::support::streams::Stream;
use crate::support::templates::{self, LIBRARY};
use crate::support::wait::wait_for;
use conversations::CONVERSATIONS;

both_protocols!(
    conversations_are_those_of_a_direct_connection,
    streams_in_many_databases_are_answered_as_directly,
    sessions_have_databases_of_their_own,
    a_blocked_session_waits_in_its_database,
    what_is_watched_stays_watched_in_another_database,
    a_database_outlives_its_connection,
);

/// The upstream with everything before it.
struct Bed {
    // Dropped in this order.
    proxy: Proxy,
    front: IamFront,
    server: Standalone,
    _metadata: FakeMetadata,
}

impl Bed {
    async fn start() -> Self {
        Self::with(&[], true).await
    }

    /// With more flags; unless `open`, the front refuses dials at first.
    async fn with(args: &[&str], open: bool) -> Self {
        let metadata = FakeMetadata::start(Duration::from_secs(3600)).await;
        let server = Standalone::start().await;
        let front = BoundFront::bind().await.start(FrontOptions {
            node: server.addr(),
            node_password: server.password().to_owned(),
            username: "default".into(),
            tokens: metadata.tokens(),
            tls: None,
        });
        front.faults().set_refused(!open);
        let options = ProxyOptions::new(front.addr().to_string())
            .metadata(metadata.host())
            .args(args.iter().copied());
        let proxy = if open { Proxy::start(options).await } else { Proxy::spawn(options).await };
        Self { proxy, front, server, _metadata: metadata }
    }

    async fn client(&self, proto: Proto) -> Client {
        self.proxy.client(proto).await
    }
}

/// The proxy's upstream beside a server that is talked to directly.
struct Two {
    bed: Bed,
    other: Standalone,
    ours: Client,
    theirs: Client,
}

impl Two {
    async fn start(proto: Proto) -> Self {
        let bed = Bed::start().await;
        let other = Standalone::start().await;
        other.open_to_all().await;
        let ours = bed.client(proto).await;
        let theirs = Client::connect_proto(other.addr(), proto).await;
        Self { bed, other, ours, theirs }
    }

    async fn reset(&mut self, proto: Proto) {
        self.ours = self.bed.client(proto).await;
        self.theirs = Client::connect_proto(self.other.addr(), proto).await;
        for client in [&mut self.ours, &mut self.theirs] {
            for command in [&["FLUSHALL"][..], &["SCRIPT", "FLUSH"], &["FUNCTION", "FLUSH"]] {
                assert_eq!(client.cmd(command).await, Value::ok(), "{command:?}");
            }
            assert_eq!(client.cmd(&["FUNCTION", "LOAD", LIBRARY]).await, Value::bulk("streams"));
            client.cmd(&[b"SCRIPT", &b"LOAD"[..], templates::named("loaded")]).await;
        }
    }

    async fn both(&mut self, bytes: &[u8], replies: usize) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        tokio::join!(
            self.ours.pipeline_frames(bytes, replies),
            self.theirs.pipeline_frames(bytes, replies)
        )
    }

    /// The same commands to both, as one pipeline or one by one, with the same replies.
    async fn agree(&mut self, commands: &[&[&str]], pipelined: bool) {
        for chunk in commands.chunks(if pipelined { commands.len() } else { 1 }) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|c| resp::encode(c)).collect();
            let (ours, theirs) = self.both(&bytes, chunk.len()).await;
            for ((command, a), b) in chunk.iter().zip(&ours).zip(&theirs) {
                let (a, b) = (String::from_utf8_lossy(a), String::from_utf8_lossy(b));
                assert_eq!(a, b, "{command:?} of {commands:?} (pipelined: {pipelined})");
            }
        }
    }
}

async fn conversations_are_those_of_a_direct_connection(proto: Proto) {
    let mut two = Two::start(proto).await;
    for commands in CONVERSATIONS {
        for pipelined in [false, true] {
            two.reset(proto).await;
            two.agree(commands, pipelined).await;
            // Nothing is left over.
            two.agree(&[&["RESET"], &["DBSIZE"], &["ECHO", "after"]], true).await;
        }
    }
}

async fn streams_in_many_databases_are_answered_as_directly(proto: Proto) {
    let mut two = Two::start(proto).await;
    let seeds = match std::env::var("DIFF_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => vec![11, 12, fastrand::u64(..1 << 32)],
    };
    for seed in seeds {
        println!("DIFF_SEED={seed}");
        two.reset(proto).await;
        stream(&mut two, seed, 5000).await;
    }
}

/// A command about databases, now and then between those of a stream: in transactions as well.
fn about_databases(stream: &mut Stream) -> Vec<Vec<u8>> {
    let db = |stream: &mut Stream| match stream.below(12) {
        0 => "99".to_owned(),
        1 => "x".to_owned(),
        n => (n % 5).to_string(),
    };
    let key = |stream: &mut Stream| {
        format!("{}:{}", ["s", "l", "h", "{a}s"][stream.below(4)], stream.below(10))
    };
    match stream.below(16) {
        0 => cmd!["MOVE", key(stream), db(stream)],
        1 => cmd!["COPY", key(stream), key(stream), "DB", db(stream)],
        2 => cmd!["COPY", key(stream), key(stream), "DB", db(stream), "REPLACE"],
        3 => cmd!["SWAPDB", db(stream), db(stream)],
        4 => cmd!["DBSIZE"],
        5 if stream.below(10) == 0 => cmd!["FLUSHDB"],
        _ => cmd!["SELECT", db(stream)],
    }
}

async fn stream(two: &mut Two, seed: u64, length: usize) {
    let mut stream = Stream::new(seed);
    let mut recent: VecDeque<String> = VecDeque::new();
    let mut differences: BTreeMap<String, String> = BTreeMap::new();
    let mut sent = 0;
    while sent < length {
        let most = if stream.below(4) == 0 { 100 } else { 10 };
        let batch = stream.below(most) + 1;
        let mut steps = Vec::new();
        for step in stream.take(batch) {
            if stream.below(8) == 0 {
                let how = crate::support::canonical::How::Exact;
                let args = about_databases(&mut stream);
                steps.push(crate::support::streams::Step { args, how });
            }
            steps.push(step);
        }
        let bytes: Vec<u8> = steps.iter().flat_map(|s| resp::encode(&s.args)).collect();
        let (ours, theirs) = two.both(&bytes, steps.len()).await;
        for (n, step) in steps.iter().enumerate() {
            recent.push_back(step.text());
            if same(step.how, &ours[n], &theirs[n]) {
                continue;
            }
            let words = step.args.iter().take(2).map(|w| String::from_utf8_lossy(w).to_uppercase());
            let before: Vec<_> = recent.iter().rev().skip(1).take(12).rev().collect();
            differences.entry(words.collect::<Vec<_>>().join(" ")).or_insert_with(|| {
                format!(
                    "command {}: {}\n   proxy:  {:?}\n   server: {:?}\n   before: {before:?}\n",
                    sent + n,
                    step.text(),
                    shortened(&ours[n]),
                    shortened(&theirs[n]),
                )
            });
        }
        sent += steps.len();
        let surplus = recent.len().saturating_sub(30);
        recent.drain(..surplus);
    }
    let report: Vec<_> = differences.into_values().take(20).collect();
    assert!(report.is_empty(), "DIFF_SEED={seed}: replies differ\n{}", report.join(""));
}

fn shortened(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned()
}

async fn sessions_have_databases_of_their_own(proto: Proto) {
    let bed = Bed::start().await;
    let mut clients = Vec::new();
    for db in 0..6 {
        let mut client = bed.client(proto).await;
        assert_eq!(client.cmd(&["SELECT", &db.to_string()]).await, Value::ok());
        clients.push(client);
    }
    for (db, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.cmd(&["SET", "who", &db.to_string()]).await, Value::ok());
        for n in 0..=db {
            client.cmd(&["SET", &format!("key{n}"), "v"]).await;
        }
    }
    for (db, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.cmd(&["GET", "who"]).await, Value::bulk(db.to_string()));
        assert_eq!(client.cmd(&["DBSIZE"]).await, Value::Int(db as i64 + 2));
        let info = client.cmd(&["CLIENT", "INFO"]).await.text();
        assert!(info.contains(&format!(" db={db} ")), "{info}");
        assert_eq!(client.cmd(&["KEYS", "who"]).await.items(), [Value::bulk("who")]);
    }
    let list = clients[0].cmd(&["CLIENT", "LIST"]).await.text();
    for db in 0..6 {
        assert_eq!(list.matches(&format!(" db={db} ")).count(), 1, "{list}");
    }
    let info = clients[2].cmd(&["INFO", "keyspace"]).await.text();
    for db in 0..6 {
        assert!(info.contains(&format!("db{db}:keys={},", db + 2)), "{info}");
    }
    // One database emptied; the others keep theirs.
    assert_eq!(clients[3].cmd(&["FLUSHDB"]).await, Value::ok());
    for (db, client) in clients.iter_mut().enumerate() {
        let size = if db == 3 { 0 } else { db as i64 + 2 };
        assert_eq!(client.cmd(&["DBSIZE"]).await, Value::Int(size));
    }
    // A scan sees its database only, whole.
    let all: HashSet<String> = (0..500).map(|n| format!("scanned:{n}")).collect();
    let sets: Vec<_> = all.iter().map(|k| cmd!["SET", k, "v"]).collect();
    assert!(clients[3].pipeline(&sets).await.iter().all(|r| *r == Value::ok()));
    let (mut found, mut cursor) = (HashSet::new(), "0".to_owned());
    loop {
        let reply = clients[3].cmd(&["SCAN", &cursor, "COUNT", "50"]).await;
        found.extend(reply.items()[1].items().iter().map(Value::text));
        cursor = reply.items()[0].text();
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(found, all);
    // The server says it once; then everybody knows.
    let asked = bed.front.seen("SELECT");
    for _ in 0..10 {
        let mut client = bed.client(proto).await;
        assert_eq!(client.cmd(&["SELECT", "4"]).await, Value::ok());
        assert_eq!(client.cmd(&["GET", "who"]).await, Value::bulk("4"));
    }
    assert_eq!(bed.front.seen("SELECT"), asked);
    let connections = bed.front.counts().connections;
    assert!(connections < 25, "{connections} connections for 16 sessions in 6 databases");
}

async fn a_blocked_session_waits_in_its_database(proto: Proto) {
    let bed = Bed::start().await;
    let mut waiting = bed.client(proto).await;
    let mut pusher = bed.client(proto).await;
    assert_eq!(waiting.cmd(&["SELECT", "2"]).await, Value::ok());
    for round in 0..3 {
        waiting.send(&["BLPOP", "q", "other", "0"]).await;
        waiting.send(&["DBSIZE"]).await;
        wait_for("the server to block", Duration::from_secs(10), async || {
            bed.server.node().stat("blocked_clients").await == 1
        })
        .await;
        assert_eq!(pusher.cmd(&["SELECT", "0"]).await, Value::ok());
        assert_eq!(pusher.cmd(&["RPUSH", "q", "not for it"]).await, Value::Int(round + 1));
        assert_eq!(pusher.cmd(&["SELECT", "2"]).await, Value::ok());
        waiting.expect_silence(Duration::from_millis(100)).await;
        assert_eq!(pusher.cmd(&["RPUSH", "q", "for it"]).await, Value::Int(1));
        let element = Value::Array(vec![Value::bulk("q"), Value::bulk("for it")]);
        assert_eq!(waiting.read().await, element);
        assert_eq!(waiting.read().await, Value::Int(0));
    }
    // One that hangs up takes nothing, in its database either.
    waiting.send(&["BLPOP", "q", "0"]).await;
    wait_for("the server to block", Duration::from_secs(10), async || {
        bed.server.node().stat("blocked_clients").await == 1
    })
    .await;
    drop(waiting);
    wait_for("the server to forget it", Duration::from_secs(10), async || {
        bed.server.node().stat("blocked_clients").await == 0
    })
    .await;
    pusher.cmd(&["RPUSH", "q", "kept"]).await;
    assert_eq!(pusher.cmd(&["LPOP", "q"]).await, Value::bulk("kept"));
}

async fn what_is_watched_stays_watched_in_another_database(proto: Proto) {
    let bed = Bed::start().await;
    let mut one = bed.client(proto).await;
    let mut other = bed.client(proto).await;
    let ran = Value::Array(vec![Value::ok()]);
    for (first, second) in [("0", "3"), ("3", "0"), ("3", "4")] {
        for (touched, wanted) in [(first, Value::Null), (second, ran.clone())] {
            assert_eq!(one.cmd(&["SELECT", first]).await, Value::ok());
            assert_eq!(one.cmd(&["WATCH", "k"]).await, Value::ok());
            assert_eq!(one.cmd(&["SELECT", second]).await, Value::ok());
            assert_eq!(other.cmd(&["SELECT", touched]).await, Value::ok());
            other.cmd(&["APPEND", "k", "x"]).await;
            let replies =
                one.pipeline(&[cmd!["MULTI"], cmd!["SET", "mine", second], cmd!["EXEC"]]).await;
            assert_eq!(replies[2], wanted, "watched in {first}, touched in {touched}");
            // The session is where it went, and its connection serves others of that database.
            assert_eq!(one.cmd(&["SET", "where", second]).await, Value::ok());
            assert_eq!(other.cmd(&["SELECT", second]).await, Value::ok());
            assert_eq!(other.cmd(&["GET", "where"]).await, Value::bulk(second));
            for db in [first, second] {
                let mut next = bed.client(proto).await;
                assert_eq!(next.cmd(&["SELECT", db]).await, Value::ok());
                assert_eq!(next.cmd(&["SET", "probe", db]).await, Value::ok());
                assert_eq!(next.cmd(&["WATCH", "probe"]).await, Value::ok());
                let replies =
                    next.pipeline(&[cmd!["MULTI"], cmd!["GET", "probe"], cmd!["EXEC"]]).await;
                assert_eq!(replies[2], Value::Array(vec![Value::bulk(db)]));
            }
        }
    }
    // Two databases, one watch each.
    one.cmd(&["SELECT", "3"]).await;
    one.cmd(&["WATCH", "a"]).await;
    one.cmd(&["SELECT", "4"]).await;
    one.cmd(&["WATCH", "b"]).await;
    one.cmd(&["SELECT", "5"]).await;
    other.cmd(&["SELECT", "3"]).await;
    other.cmd(&["SET", "a", "changed"]).await;
    let replies = one.pipeline(&[cmd!["MULTI"], cmd!["PING"], cmd!["EXEC"]]).await;
    assert_eq!(replies[2], Value::Null);
}

/// Connections that are lost, or have to authenticate anew, are made again in the same database.
async fn a_database_outlives_its_connection(proto: Proto) {
    let bed = Bed::start().await;
    let mut clients = Vec::new();
    for db in 0..4 {
        let mut client = bed.client(proto).await;
        assert_eq!(client.cmd(&["SELECT", &db.to_string()]).await, Value::ok());
        assert_eq!(client.cmd(&["SET", "who", &db.to_string()]).await, Value::ok());
        clients.push(client);
    }
    for round in 0..6 {
        match round {
            0..3 => bed.front.faults().close_all(),
            3 => {
                bed.front.faults().set_auth_ttl(Some((Duration::from_millis(50), OnExpiry::NoAuth)))
            }
            _ => tokio::time::sleep(Duration::from_millis(80)).await,
        }
        for (db, client) in clients.iter_mut().enumerate() {
            let reads = vec![cmd!["GET", "who"]; 20];
            let wanted = vec![Value::bulk(db.to_string()); 20];
            assert_eq!(client.pipeline(&reads).await, wanted, "round {round}");
            let count = cmd!["INCR", format!("count{round}")];
            let block = [cmd!["MULTI"], count, cmd!["GET", "who"], cmd!["EXEC"]];
            let replies = client.pipeline(&block).await;
            let ran = Value::Array(vec![Value::Int(1), Value::bulk(db.to_string())]);
            assert_eq!(replies[3], ran, "round {round}");
        }
    }
    bed.front.faults().set_auth_ttl(None);
    // The server itself comes back empty; sessions are where they were.
    bed.server.node().restart();
    for (db, client) in clients.iter_mut().enumerate() {
        wait_for("the server to be back", Duration::from_secs(15), async || {
            client.cmd(&["SET", "again", &db.to_string()]).await == Value::ok()
        })
        .await;
        assert_eq!(client.cmd(&["DBSIZE"]).await, Value::Int(1));
    }
    let mut admin = bed.server.connect().await;
    for db in 0..4 {
        assert_eq!(admin.cmd(&["SELECT", &db.to_string()]).await, Value::ok());
        assert_eq!(admin.cmd(&["GET", "again"]).await, Value::bulk(db.to_string()));
    }
}

/// Libraries say SELECT when they connect; the proxy may not know yet what is behind it.
#[tokio::test]
async fn a_select_before_the_server_is_known_is_answered_by_it() {
    let bed = Bed::with(&["--op-timeout", "20s", "--auth-backoff-max", "200ms"], false).await;
    let mut early = bed.client(Proto::Resp2).await;
    let mut wrong = bed.client(Proto::Resp2).await;
    early.send(&["SELECT", "3"]).await;
    early.send(&["SET", "k", "three"]).await;
    wrong.send(&["SELECT", "99"]).await;
    wrong.send(&["SET", "k", "zero"]).await;
    early.expect_silence(Duration::from_millis(300)).await;
    bed.front.faults().set_refused(false);
    assert_eq!(early.read().await, Value::ok());
    assert_eq!(early.read().await, Value::ok());
    assert_eq!(wrong.read().await, Value::Error("ERR DB index is out of range".into()));
    assert_eq!(wrong.read().await, Value::ok());
    let mut admin = bed.server.connect().await;
    assert_eq!(admin.cmd(&["GET", "k"]).await, Value::bulk("zero"));
    admin.cmd(&["SELECT", "3"]).await;
    assert_eq!(admin.cmd(&["GET", "k"]).await, Value::bulk("three"));
}

/// A client that tracks keys is told of changes in its new database, and forgets what it knew.
#[tokio::test]
async fn a_tracking_client_goes_to_another_database() {
    let bed = Bed::start().await;
    let mut tracker = bed.client(Proto::Resp3).await;
    let mut writer = bed.client(Proto::Resp2).await;
    writer.cmd(&["SELECT", "3"]).await;
    writer.cmd(&["SET", "k", "1"]).await;
    assert_eq!(tracker.cmd(&["CLIENT", "TRACKING", "ON"]).await, Value::ok());
    assert_eq!(tracker.cmd(&["GET", "k"]).await, Value::Null);
    tracker.send(&["SELECT", "3"]).await;
    tracker.send(&["GET", "k"]).await;
    let mut replies = Vec::new();
    while replies.len() < 2 {
        match tracker.read().await {
            Value::Push(_) => {}
            reply => replies.push(reply),
        }
    }
    assert_eq!(replies, [Value::ok(), Value::bulk("1")]);
    writer.cmd(&["SET", "k", "2"]).await;
    let told = |push: &Value| match push {
        Value::Push(items) => items[1] == Value::Array(vec![Value::bulk("k")]),
        _ => false,
    };
    let end = Instant::now() + Duration::from_secs(10);
    while !told(&tracker.read().await) {
        assert!(Instant::now() < end, "no invalidation");
    }
    let reply = tracker.cmd(&["GET", "k"]).await;
    assert!(reply == Value::bulk("2") || matches!(reply, Value::Push(_)), "{reply:?}");
}

/// Keys that a cluster would spread are together here, whatever the command.
#[tokio::test]
async fn keys_of_many_slots_are_one_place() {
    let bed = Bed::start().await;
    let mut client = bed.client(Proto::Resp2).await;
    assert_ne!(slot_of(b"a"), slot_of(b"b"));
    for (command, wanted) in [
        (&["MSET", "a", "1", "b", "2"][..], Value::ok()),
        (&["MSETNX", "a", "1", "c", "2"], Value::Int(0)),
        (&["RENAMENX", "a", "b"], Value::Int(0)),
        (&["RPUSH", "l", "x"], Value::Int(1)),
        (&["LMOVE", "l", "m", "LEFT", "LEFT"], Value::bulk("x")),
        (&["WATCH", "a", "b", "c"], Value::ok()),
        (&["UNWATCH"], Value::ok()),
        (&["EVAL", "return #KEYS", "3", "a", "b", "c"], Value::Int(3)),
        (&["DEL", "a", "b", "m"], Value::Int(3)),
        (&["DBSIZE"], Value::Int(0)),
    ] {
        assert_eq!(client.cmd(command).await, wanted, "{command:?}");
    }
    let pipelined: Vec<_> = (0..200)
        .flat_map(|n| {
            let key = format!("k{}", n % 7);
            [cmd!["APPEND", &key, "x"], cmd!["MGET", "k0", "k1", "k2", "k3", "k4", "k5", "k6"]]
        })
        .collect();
    let replies = client.pipeline(&pipelined).await;
    for (n, reply) in replies.chunks(2).enumerate() {
        let lengths: usize = reply[1]
            .items()
            .iter()
            .map(|v| match v {
                Value::Bulk(b) => b.len(),
                _ => 0,
            })
            .sum();
        assert_eq!(lengths, n + 1, "after {} APPENDs", n + 1);
    }
    assert!(client.cmd(&["INFO", "server"]).await.text().contains("redis_mode:standalone"));
    let status = bed.proxy.get("/status").await.body;
    assert!(status.contains("\"standalone\""), "{status}");
}

/// Before a cluster things stay as they were, with reasons.
#[tokio::test]
async fn a_cluster_has_one_database() {
    let bed = crate::support::bed::Bed::start().await;
    let mut client = bed.client(Proto::Resp2).await;
    assert_eq!(client.cmd(&["SELECT", "0"]).await, Value::ok());
    client.cmd(&["SET", "k", "v"]).await;
    for (command, begins) in [
        (&["SELECT", "1"][..], "ERR DB index is out of range: behind memorystore-auth-proxy"),
        (&["SWAPDB", "0", "1"], "ERR memorystore-auth-proxy: 'swapdb' needs a server with several"),
        (&["MOVE", "k", "1"], "ERR MOVE is not allowed in cluster mode"),
        (&["COPY", "k", "{k}2", "DB", "1"], "ERR Copying to another database is not allowed"),
    ] {
        let reply = client.cmd(command).await;
        assert!(reply.is_error(begins), "{command:?}: {reply:?}");
    }
    assert_eq!(client.cmd(&["GET", "k"]).await, Value::bulk("v"));
}
