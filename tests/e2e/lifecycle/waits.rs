//! Blocking commands outlive the authentication of their connection: no element is lost, and the
//! time they asked for stays what it was.

use std::time::Duration;

use tokio::time::Instant;

use super::{bed, since};
use crate::support::bed::Bed;
use crate::support::client::Proto;
use crate::support::faults::OnExpiry;
use crate::support::front_events::What;
use crate::support::resp::Value;
use crate::support::slots::keys_in_slot;
use crate::support::wait::wait_for;

both_at_once!(a_wait_of_seven_seconds_takes_seven_seconds);

/// Lifetime of an authentication at the fronts.
const LIFETIME: Duration = Duration::from_millis(1500);

async fn short_lived(expiry: OnExpiry, age: &str) -> Bed {
    let bed = bed(Duration::from_secs(1), &[age]).await;
    for front in bed.cluster.fronts() {
        front.faults().set_auth_ttl(Some((LIFETIME, expiry)));
    }
    bed
}

/// BLPOP, BLMOVE and XREADGROUP without an end wait through five lifetimes and get what comes then.
async fn outlives(proto: Proto, expiry: OnExpiry, age: &str) {
    let bed = short_lived(expiry, age).await;
    let front = bed.cluster.member(0).front();
    let keys = keys_in_slot(1, 4);
    let mut pusher = bed.client(proto).await;
    let create = ["XGROUP", "CREATE", &keys[3], "g", "$", "MKSTREAM"];
    assert_eq!(pusher.cmd(&create).await, Value::ok());
    let (mut list, mut mover, mut reader) =
        (bed.client(proto).await, bed.client(proto).await, bed.client(proto).await);
    list.send(&["BLPOP", &keys[0], "0"]).await;
    mover.send(&["BLMOVE", &keys[1], &keys[2], "LEFT", "RIGHT", "0"]).await;
    let read = ["XREADGROUP", "GROUP", "g", "c", "BLOCK", "0", "STREAMS", &keys[3], ">"];
    reader.send(&read).await;
    let waiting = async || {
        wait_for("three waiting clients", Duration::from_secs(5), async || {
            bed.cluster.member(0).node.stat("blocked_clients").await == 3
        })
        .await;
    };
    waiting().await;
    let start = Instant::now();
    wait_for("five lifetimes to pass", Duration::from_secs(30), async || {
        let auths = since(front, start)
            .iter()
            .filter(|e| matches!(e.what, What::Auth { ok: true, .. }))
            .count();
        start.elapsed() >= LIFETIME * 5 && auths >= 5
    })
    .await;
    waiting().await;
    assert_eq!(pusher.cmd(&["RPUSH", &keys[0], "e1"]).await, Value::Int(1));
    let popped = Value::Array(vec![Value::bulk(&keys[0]), Value::bulk("e1")]);
    assert_eq!(list.read().await, popped);
    assert_eq!(pusher.cmd(&["RPUSH", &keys[1], "e2"]).await, Value::Int(1));
    assert_eq!(mover.read().await, Value::bulk("e2"));
    assert_eq!(pusher.cmd(&["LRANGE", &keys[2], "0", "-1"]).await.items(), [Value::bulk("e2")]);
    assert_eq!(pusher.cmd(&["XADD", &keys[3], "5-1", "f", "v"]).await, Value::bulk("5-1"));
    let streams = reader.read().await;
    let (stream, entries) = match &streams {
        Value::Array(items) => (items[0].items()[0].clone(), items[0].items()[1].clone()),
        _ => streams.pairs().remove(0),
    };
    assert_eq!(stream, Value::bulk(&keys[3]));
    assert_eq!(entries.items()[0].items()[0], Value::bulk("5-1"));
    // The sessions are as good as new.
    for client in [&mut list, &mut mover, &mut reader] {
        assert_eq!(client.cmd(&["BLPOP", &keys[0], "0.05"]).await, Value::Null);
    }
}

/// Whatever becomes of connections at the end, and whether they are retired before it or not.
#[tokio::test]
async fn a_wait_outlives_five_authentications() {
    tokio::join!(
        outlives(Proto::Resp2, OnExpiry::Close, "--max-connection-age=1s"),
        outlives(Proto::Resp3, OnExpiry::Close, "--max-connection-age=1s"),
        outlives(Proto::Resp2, OnExpiry::NoAuth, "--max-connection-age=1s"),
        outlives(Proto::Resp3, OnExpiry::Close, "--max-connection-age=0"),
    );
}

async fn a_wait_of_seven_seconds_takes_seven_seconds(proto: Proto) {
    let bed = short_lived(OnExpiry::Close, "--max-connection-age=1s").await;
    let keys = keys_in_slot(1, 3);
    let mut waits = tokio::task::JoinSet::new();
    for command in [
        cmd!["BLPOP", &keys[0], "7"],
        cmd!["BLMOVE", &keys[0], &keys[1], "LEFT", "LEFT", "7"],
        cmd!["BZPOPMIN", &keys[1], "7"],
        cmd!["XREAD", "BLOCK", "7000", "STREAMS", &keys[2], "$"],
    ] {
        let mut client = bed.client(proto).await;
        waits.spawn(async move {
            let start = Instant::now();
            let reply = client.cmd(&command).await;
            let took = start.elapsed();
            let name = String::from_utf8_lossy(&command[0]).into_owned();
            assert_eq!(reply, Value::Null, "{name}");
            // A server looks at its clock before it waits, in whole milliseconds.
            assert!(took >= Duration::from_millis(6990), "{name} took {took:?}");
            assert!(took <= Duration::from_millis(8000), "{name} took {took:?}");
        });
    }
    while let Some(ended) = waits.join_next().await {
        ended.expect("a wait");
    }
    // It was sent again and again, each time for what was left.
    assert!(bed.cluster.member(0).front().seen("BLPOP") >= 5, "the wait was not cut in pieces");
}
