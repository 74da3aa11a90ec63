//! CLIENT TRACKING through the proxy: every mode of the server's, invalidations of all shards, and
//! never a stale key after a lost connection or a moved slot.

use std::time::Duration;

use crate::both_protocols;
use crate::support::bed::{Bed, BedOptions};
use crate::support::client::{Client, Proto};
use crate::support::cluster::{ClusterOptions, Failover};
use crate::support::pair::Pair;
use crate::support::resp::Value;
use crate::support::slots::{keys_in_slot, keys_on_shard, slot_of};
use crate::support::wait::wait_for;

both_protocols!(options_and_refusals_are_the_servers);

const SOON: Duration = Duration::from_secs(20);
const QUIET: Duration = Duration::from_millis(300);

async fn options_and_refusals_are_the_servers(proto: Proto) {
    let mut pair = Pair::start(proto).await;
    let options: &[&[&str]] = &[
        &["ON"],
        &["ON", "BCAST"],
        &["ON", "PREFIX", "x"],
        &["ON", "OPTIN", "OPTOUT"],
        &["ON", "REDIRECT", "99999"],
        &["ON", "REDIRECT", "abc"],
        &["ON", "PREFIX"],
        &["ON", "FOO"],
        &["MAYBE"],
        &["ON", "OPTIN"],
        &["ON", "OPTOUT"],
        &["OFF", "BCAST"],
        &["ON", "OPTIN", "BCAST"],
        &["ON", "BCAST", "PREFIX", "a", "PREFIX", "ab"],
        &["ON", "BCAST", "PREFIX", "a", "PREFIX", "b", "NOLOOP"],
        &["ON", "BCAST", "PREFIX", "bc"],
        &["ON", "BCAST", "PREFIX", "c"],
        &["ON"],
        &["OFF"],
        &["ON", "OPTOUT"],
        &["ON", "OPTIN"],
        &["OFF"],
        &["OFF"],
    ];
    for option in options {
        let command: Vec<&str> = ["CLIENT", "TRACKING"].iter().chain(*option).copied().collect();
        pair.agree(
            &[&command, &["CLIENT", "TRACKINGINFO"], &["CLIENT", "GETREDIR"]],
            option.len() % 2 == 0,
        )
        .await;
    }
    let caching: &[&[&str]] = &[
        &["CLIENT", "CACHING", "YES"],
        &["CLIENT", "TRACKING", "ON", "OPTIN"],
        &["CLIENT", "CACHING", "NO"],
        &["CLIENT", "CACHING", "MAYBE"],
        &["CLIENT", "CACHING", "YES"],
        &["CLIENT", "TRACKINGINFO"],
        &["GET", "k"],
        &["CLIENT", "TRACKINGINFO"],
        &["CLIENT", "CACHING", "YES"],
        &["PING"],
        &["CLIENT", "TRACKINGINFO"],
        &["CLIENT", "CACHING", "YES"],
        &["MULTI"],
        &["GET", "k"],
        &["EXEC"],
        &["CLIENT", "TRACKINGINFO"],
        &["CLIENT", "TRACKING", "OFF"],
        &["CLIENT", "TRACKING", "ON", "OPTOUT"],
        &["CLIENT", "CACHING", "YES"],
        &["CLIENT", "CACHING", "NO"],
        &["CLIENT", "TRACKINGINFO"],
        &["MGET", "k", "other", "third"],
        &["CLIENT", "TRACKINGINFO"],
        &["CLIENT", "TRACKING"],
        &["CLIENT", "CACHING"],
        &["RESET"],
        &["CLIENT", "TRACKINGINFO"],
    ];
    pair.agree(caching, false).await;
    pair.reset(proto).await;
    pair.agree(caching, true).await;
}

async fn tracking(bed: &Bed, options: &[&str]) -> Client {
    let mut client = bed.client(Proto::Resp3).await;
    let command: Vec<&str> = ["CLIENT", "TRACKING", "ON"].iter().chain(options).copied().collect();
    assert_eq!(client.cmd(&command).await, Value::ok());
    client
}

/// Reads so many invalidations and returns the keys they name, sorted; "ALL" for all keys.
async fn invalidated(client: &mut Client, count: usize) -> Vec<String> {
    let mut keys = Vec::new();
    for _ in 0..count {
        let push = client.read().await;
        assert!(matches!(push, Value::Push(_)), "{push:?}");
        assert_eq!(push.items()[0].text(), "invalidate");
        match &push.items()[1] {
            Value::Null => keys.push("ALL".to_owned()),
            named => keys.extend(named.items().iter().map(Value::text)),
        }
    }
    keys.sort();
    keys
}

/// A key on each of the three shards, with a value.
async fn three_keys(bed: &Bed, writer: &mut Client) -> Vec<String> {
    let mut keys: Vec<String> =
        (0..bed.cluster.shards()).map(|s| keys_on_shard(s, 3, 1).remove(0)).collect();
    keys.sort();
    for key in &keys {
        assert_eq!(writer.cmd(&["SET", key, "v"]).await, Value::ok());
    }
    keys
}

#[tokio::test]
async fn what_was_read_is_told_once_from_every_shard() {
    let bed = Bed::start().await;
    let mut writer = bed.client(Proto::Resp2).await;
    let keys = three_keys(&bed, &mut writer).await;
    let mut reader = tracking(&bed, &[]).await;
    let mut other = tracking(&bed, &[]).await;
    let mut plain = bed.client(Proto::Resp3).await;
    let mget = cmd!["MGET", &keys[0], &keys[1], &keys[2]];
    for client in [&mut reader, &mut plain] {
        assert_eq!(client.cmd(&mget).await.items().len(), 3);
    }
    for key in &keys {
        writer.cmd(&["SET", key, "new"]).await;
    }
    assert_eq!(invalidated(&mut reader, 3).await, keys);
    // Not read again, so not told again; nor is anybody else.
    for key in &keys {
        writer.cmd(&["SET", key, "newer"]).await;
    }
    for client in [&mut reader, &mut other, &mut plain] {
        client.expect_silence(QUIET).await;
    }
    // A client hears of what it changes itself, too.
    assert_eq!(reader.cmd(&["GET", &keys[0]]).await, Value::bulk("newer"));
    reader.send(&["SET", &keys[0], "own"]).await;
    let mut heard = [reader.read().await, reader.read().await];
    heard.sort_by_key(|v| matches!(v, Value::Push(_)));
    assert_eq!(heard[0], Value::ok());
    assert_eq!(heard[1].items()[1].items()[0].text(), keys[0]);
    writer.cmd(&["FLUSHALL"]).await;
    assert!(invalidated(&mut reader, 3).await.iter().all(|k| k == "ALL"));
}

#[tokio::test]
async fn optin_optout_noloop_and_prefixes() {
    let bed = Bed::start().await;
    let mut writer = bed.client(Proto::Resp2).await;
    let keys = three_keys(&bed, &mut writer).await;
    let mget = cmd!["MGET", &keys[0], &keys[1], &keys[2]];
    let change = async |writer: &mut Client| {
        for key in &keys {
            writer.cmd(&["SET", key, "changed"]).await;
        }
    };

    let mut optin = tracking(&bed, &["OPTIN"]).await;
    optin.cmd(&mget).await;
    change(&mut writer).await;
    optin.expect_silence(QUIET).await;
    let replies = optin.pipeline(&[cmd!["CLIENT", "CACHING", "YES"], mget.clone()]).await;
    assert_eq!(replies[0], Value::ok());
    assert_eq!(replies[1].items().len(), 3);
    change(&mut writer).await;
    assert_eq!(invalidated(&mut optin, 3).await, keys);
    let block = [
        cmd!["CLIENT", "CACHING", "YES"],
        cmd!["MULTI"],
        cmd!["GET", &keys[1]],
        cmd!["EXEC"],
        cmd!["GET", &keys[2]],
    ];
    let replies = optin.pipeline(&block).await;
    assert_eq!(replies[3], Value::Array(vec![Value::bulk("changed")]));
    change(&mut writer).await;
    assert_eq!(invalidated(&mut optin, 1).await, keys[1..2]);
    optin.expect_silence(QUIET).await;

    let mut optout = tracking(&bed, &["OPTOUT", "NOLOOP"]).await;
    optout.pipeline(&[cmd!["CLIENT", "CACHING", "NO"], mget.clone()]).await;
    change(&mut writer).await;
    optout.expect_silence(QUIET).await;
    optout.cmd(&mget).await;
    change(&mut optout).await;
    optout.expect_silence(QUIET).await;
    optout.cmd(&mget).await;
    change(&mut writer).await;
    assert_eq!(invalidated(&mut optout, 3).await, keys);

    let mut bcast = tracking(&bed, &["BCAST", "PREFIX", "user:", "PREFIX", "item:"]).await;
    let mut told: Vec<String> = (0..12).map(|n| format!("user:{n}")).collect();
    told.extend((0..12).map(|n| format!("item:{n}")));
    told.sort();
    for key in &told {
        writer.cmd(&["SET", key, "v"]).await;
        writer.cmd(&["SET", &format!("not:{key}"), "v"]).await;
    }
    let mut heard = Vec::new();
    while heard.len() < told.len() {
        heard.extend(invalidated(&mut bcast, 1).await);
    }
    heard.sort();
    assert_eq!(heard, told);
    bcast.expect_silence(QUIET).await;
    assert_eq!(bcast.cmd(&["CLIENT", "TRACKING", "OFF"]).await, Value::ok());
    writer.cmd(&["SET", "user:1", "v"]).await;
    bcast.expect_silence(QUIET).await;
    assert_eq!(bcast.cmd(&["GET", "user:1"]).await, Value::bulk("v"));
}

/// Until something is heard, `key` is changed again and again.
async fn hears_of(client: &mut Client, writer: &mut Client, key: &str) {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        assert!(tokio::time::Instant::now() < deadline, "nothing is heard of {key}");
        // An error is possible while a node is gone.
        writer.cmd(&["SET", key, "again"]).await;
        match tokio::time::timeout(QUIET, invalidated(client, 1)).await {
            Ok(keys) if keys == [key] => return,
            Ok(_) | Err(_) => {}
        }
    }
}

#[tokio::test]
async fn a_lost_connection_makes_the_client_forget_all() {
    let bed = Bed::start().await;
    let mut writer = bed.client(Proto::Resp2).await;
    let keys = three_keys(&bed, &mut writer).await;
    let mut reader = tracking(&bed, &[]).await;
    let mut bcast = tracking(&bed, &["BCAST"]).await;
    for round in 0..3 {
        reader.send(&["GET", &keys[0]]).await;
        // Each lost connection is told apart; more than one may have been.
        while matches!(reader.read().await, Value::Push(_)) {}
        for front in bed.cluster.fronts() {
            front.faults().close_all();
        }
        assert!(invalidated(&mut reader, 1).await.contains(&"ALL".to_owned()), "{round}");
        hears_of(&mut bcast, &mut writer, &keys[1]).await;
    }
    // What was lost with the connections may be heard late: from here on only what is true now.
    while tokio::time::timeout(QUIET, reader.read_raw()).await.is_ok() {}
    assert_eq!(reader.cmd(&["GET", &keys[2]]).await, Value::bulk("v"));
    writer.cmd(&["SET", &keys[2], "w"]).await;
    assert_eq!(invalidated(&mut reader, 1).await, keys[2..]);
}

#[tokio::test]
async fn moved_slots_lose_no_invalidation() {
    let bed = Bed::start().await;
    let mut writer = bed.client(Proto::Resp2).await;
    let key = keys_in_slot(9, 1).remove(0);
    writer.cmd(&["SET", &key, "v"]).await;
    let mut reader = tracking(&bed, &[]).await;
    let mut optin = tracking(&bed, &["OPTIN"]).await;
    let mut bcast = tracking(&bed, &["BCAST"]).await;
    for to in [1, 2, 0] {
        reader.cmd(&["GET", &key]).await;
        bed.cluster.migrate_slot(slot_of(key.as_bytes()), to).await;
        // It left its node, so it is told, whether or not somebody changed it.
        assert_eq!(invalidated(&mut reader, 1).await, [key.as_str()]);
        // The proxy does not know yet that the slot moved.
        let replies = optin.pipeline(&[cmd!["CLIENT", "CACHING", "YES"], cmd!["GET", &key]]).await;
        assert_eq!(replies, [Value::ok(), Value::bulk("v")]);
        writer.cmd(&["SET", &key, "v"]).await;
        assert_eq!(invalidated(&mut optin, 1).await, [key.as_str()]);
        hears_of(&mut bcast, &mut writer, &key).await;
        writer.cmd(&["SET", &key, "v"]).await;
    }
}

#[tokio::test]
async fn a_failover_loses_no_invalidation() {
    let bed = Bed::with(BedOptions {
        cluster: ClusterOptions { replicas: 1, ..ClusterOptions::default() },
        ..BedOptions::default()
    })
    .await;
    let mut writer = bed.client(Proto::Resp2).await;
    let key = keys_in_slot(9, 1).remove(0);
    let mut bcast = tracking(&bed, &["BCAST"]).await;
    hears_of(&mut bcast, &mut writer, &key).await;
    let replica = bed.cluster.replicas_of(0).start;
    bed.cluster.kill(0);
    bed.cluster.failover(replica, Failover::Takeover).await;
    hears_of(&mut bcast, &mut writer, &key).await;
}

#[tokio::test]
async fn connections_end_with_the_tracking_and_refusals_are_told() {
    let bed = Bed::start().await;
    let mut writer = bed.client(Proto::Resp2).await;
    three_keys(&bed, &mut writer).await;
    let connections = async || bed.cluster.fronts().map(|f| f.counts().connections).sum::<u64>();
    let before = connections().await;
    let mut off = tracking(&bed, &["BCAST"]).await;
    let hangup = tracking(&bed, &["BCAST"]).await;
    let mut reset = tracking(&bed, &["BCAST"]).await;
    assert!(connections().await >= before + 9);
    off.cmd(&["CLIENT", "TRACKING", "OFF"]).await;
    reset.cmd(&["RESET"]).await;
    drop(hangup);
    wait_for("the connections to end", SOON, async || connections().await <= before + 1).await;
    for front in bed.cluster.fronts() {
        front.faults().answer_error("CLIENT", "NOPERM no permission for 'client|tracking'", 100);
    }
    let mut client = bed.client(Proto::Resp3).await;
    let refused = client.cmd(&["CLIENT", "TRACKING", "ON", "BCAST"]).await;
    assert!(refused.is_error("NOPERM"), "{refused:?}");
    assert_eq!(client.cmd(&["GET", "k"]).await, Value::Null);
}
