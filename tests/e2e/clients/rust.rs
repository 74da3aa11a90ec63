//! redis-rs, as a plain client and as a cluster client on the same port.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, AsyncConnectionConfig, Client, Commands, PushKind, Script};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

use crate::support::bed::Bed;

const LIMIT: Duration = Duration::from_secs(30);

/// The names of this file's scenarios, for the page.
pub const SCENARIOS: &[&str] = &[
    "redis_rs_async_resp2",
    "redis_rs_async_resp3",
    "redis_rs_push_messages",
    "redis_rs_sync",
    "redis_rs_cluster_async",
    "redis_rs_cluster_sync",
];

fn client(bed: &Bed, resp: &str) -> Client {
    let url = format!("redis://any:password@{}/0?protocol={resp}", bed.proxy.addr());
    Client::open(url).expect("a URL")
}

async fn connect(client: &Client) -> MultiplexedConnection {
    // No time limit of the library: blocking commands take their time.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await.expect("a connection")
}

async fn asynchronous(resp: &str) {
    let bed = Bed::start().await;
    let client = client(&bed, resp);
    let mut redis = connect(&client).await;
    let names: Vec<String> = (0..50).map(|n| format!("k:{n}")).collect();
    let pairs: Vec<(&String, usize)> = names.iter().zip(0..).collect();
    let () = redis.mset(&pairs).await.unwrap();
    let got: Vec<usize> = redis.mget(&names).await.unwrap();
    assert_eq!(got, (0..50).collect::<Vec<_>>());
    let all: Vec<String> = redis.keys("k:*").await.unwrap();
    assert_eq!(all.len(), 50);

    // One connection used by many at once.
    let mut tasks = Vec::new();
    for n in 0..100 {
        let mut redis = redis.clone();
        tasks.push(tokio::spawn(async move { redis.incr(format!("n:{}", n % 5), 1).await }));
    }
    for task in tasks {
        let _: i64 = task.await.unwrap().unwrap();
    }
    let count: i64 = redis.get("n:0").await.unwrap();
    assert_eq!(count, 20);

    let mut transaction = redis::pipe();
    transaction.atomic().set("{t}a", 1).ignore().incr("{t}a", 1);
    let replies: (i64,) = transaction.query_async(&mut redis).await.unwrap();
    assert_eq!(replies, (2,));
    let mut crossing = redis::pipe();
    crossing.atomic().set("{t}a", 1).set("{u}a", 1);
    let error = crossing.query_async::<()>(&mut redis).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("slot"), "{error}");

    let script = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    for key in ["{a}s", "{b}s", "{c}s"] {
        let sum: i64 = script.key(key).arg(4).invoke_async(&mut redis).await.unwrap();
        assert_eq!(sum, 4);
    }

    let mut blocked = connect(&client).await;
    let popping = tokio::spawn(async move { blocked.blpop("{t}q", 20.0).await });
    let () = redis.rpush("{t}q", "job").await.unwrap();
    let popped: Option<(String, String)> = timeout(LIMIT, popping).await.unwrap().unwrap().unwrap();
    assert_eq!(popped, Some(("{t}q".into(), "job".into())));

    let () = redis.xgroup_create_mkstream("x", "g", "$").await.unwrap();
    let id: String = redis.xadd("x", "*", &[("f", "v")]).await.unwrap();
    let options = StreamReadOptions::default().group("g", "me").block(5000);
    let read: StreamReadReply = redis.xread_options(&["x"], &[">"], &options).await.unwrap();
    assert_eq!(read.keys[0].ids[0].id, id);
}

#[tokio::test]
async fn redis_rs_async_resp2() {
    timeout(LIMIT, asynchronous("resp2")).await.expect("in time");
}

#[tokio::test]
async fn redis_rs_async_resp3() {
    timeout(LIMIT, asynchronous("resp3")).await.expect("in time");
}

/// Messages and invalidations as RESP3 pushes on the connection that sends commands.
#[tokio::test]
async fn redis_rs_push_messages() {
    let bed = Bed::start().await;
    let client = client(&bed, "resp3");
    let (sender, mut pushes) = unbounded_channel();
    let config = AsyncConnectionConfig::new().set_push_sender(sender);
    let mut redis = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    redis.subscribe("news").await.unwrap();
    redis.psubscribe("n*").await.unwrap();
    let () = redis::cmd("CLIENT").arg(&["TRACKING", "ON"]).query_async(&mut redis).await.unwrap();
    let _: Option<String> = redis.get("tracked").await.unwrap();
    let mut other = connect(&client).await;
    let heard: i64 = other.publish("news", "hello").await.unwrap();
    assert_eq!(heard, 2);
    let () = other.set("tracked", "new").await.unwrap();
    let mut kinds = Vec::new();
    let wanted = [PushKind::Message, PushKind::PMessage, PushKind::Invalidate];
    while !wanted.iter().all(|kind| kinds.contains(kind)) {
        let push = timeout(LIMIT, pushes.recv()).await.expect("in time").expect("a push");
        kinds.push(push.kind);
    }
    assert!(kinds.contains(&PushKind::Subscribe) && kinds.contains(&PushKind::PSubscribe));
}

fn synchronous(client: &Client) {
    let mut redis = client.get_connection().unwrap();
    redis.set_read_timeout(Some(LIMIT)).unwrap();
    let () = redis.set("a", 1).unwrap();
    let (two, text): (i64, String) = redis::pipe().incr("a", 1).get("a").query(&mut redis).unwrap();
    assert_eq!((two, text.as_str()), (2, "2"));
    for n in 0..200 {
        let () = redis.sadd(format!("set:{n}"), n).unwrap();
    }
    let found: std::collections::HashSet<String> =
        redis.scan_match("set:*").unwrap().map(|key| key.unwrap()).collect();
    assert_eq!(found.len(), 200);
    let mut runs = 0;
    let mut other = client.get_connection().unwrap();
    let done: (i64,) = redis::transaction(&mut redis, &["{t}n"], |redis, pipe| {
        runs += 1;
        let old: Option<i64> = redis.get("{t}n")?;
        if runs < 3 {
            let () = other.incr("{t}n", 10)?;
        }
        pipe.set("{t}n", old.unwrap_or(0) + 1).ignore().get("{t}n").query(redis)
    })
    .unwrap();
    assert_eq!((done, runs), ((21,), 3));
    let mut subscriber = client.get_connection().unwrap();
    let mut messages = subscriber.as_pubsub();
    messages.set_read_timeout(Some(LIMIT)).unwrap();
    messages.subscribe(&["news", "other"]).unwrap();
    messages.psubscribe("n*").unwrap();
    let heard: i64 = redis.publish("news", "hello").unwrap();
    assert_eq!(heard, 2);
    let mut got =
        [(); 2].map(|()| messages.get_message().unwrap().get_pattern::<Option<String>>().unwrap());
    got.sort();
    assert_eq!(got, [None, Some("n*".to_owned())]);
    messages.unsubscribe("news").unwrap();
}

#[tokio::test]
async fn redis_rs_sync() {
    let bed = Bed::start().await;
    let client = client(&bed, "resp2");
    tokio::task::spawn_blocking(move || synchronous(&client)).await.unwrap();
}

fn cluster_client(bed: &Bed) -> ClusterClient {
    ClusterClient::new(vec![format!("redis://{}", bed.proxy.addr())]).unwrap()
}

#[tokio::test]
async fn redis_rs_cluster_async() {
    let bed = Bed::start().await;
    let work = async {
        let mut redis = cluster_client(&bed).get_async_connection().await.unwrap();
        for n in 0..100 {
            let () = redis.set(format!("k:{n}"), n).await.unwrap();
        }
        let names: Vec<String> = (0..100).map(|n| format!("k:{n}")).collect();
        let got: Vec<i64> = redis.mget(&names).await.unwrap();
        assert_eq!(got, (0..100).collect::<Vec<_>>());
        let size: i64 = redis::cmd("DBSIZE").query_async(&mut redis).await.unwrap();
        assert_eq!(size, 100, "every key once, though the client asks every node it knows");
        let mut transaction = redis::pipe();
        transaction.atomic().set("{t}a", 1).ignore().incr("{t}a", 1);
        let replies: (i64,) = transaction.query_async(&mut redis).await.unwrap();
        assert_eq!(replies, (2,));
    };
    timeout(LIMIT, work).await.expect("in time");
}

#[tokio::test]
async fn redis_rs_cluster_sync() {
    let bed = Bed::start().await;
    let client = cluster_client(&bed);
    let work = move || {
        let mut redis = client.get_connection().unwrap();
        redis.set_read_timeout(Some(LIMIT)).unwrap();
        let mut pipe = redis::cluster::cluster_pipe();
        for n in 0..100 {
            pipe.set(format!("k:{n}"), n).ignore();
        }
        let () = pipe.query(&mut redis).unwrap();
        let found: i64 =
            redis.exists((0..100).map(|n| format!("k:{n}")).collect::<Vec<_>>()).unwrap();
        assert_eq!(found, 100);
        let script = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
        let sum: i64 = script.key("{a}s").arg(4).invoke(&mut redis).unwrap();
        assert_eq!(sum, 4);
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}
