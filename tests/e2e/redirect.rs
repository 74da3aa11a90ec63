//! Slots that move and primaries that change, on a real cluster: clients must not notice.

use std::time::Duration;

use crate::both_protocols;
use crate::support::bed::{Bed, BedOptions};
use crate::support::client::Proto;
use crate::support::cluster::{ClusterOptions, Failover};
use crate::support::resp::Value;
use crate::support::slots::{keys_in_slot, slot_of};
use crate::support::traffic::{Traffic, spread_keys};
use crate::support::wait::wait_for;

both_protocols!(
    a_moved_slot_is_followed,
    keys_of_a_migrating_slot_are_found_on_both_sides,
    slots_migrate_under_load_without_an_error,
    a_planned_failover_under_load_reaches_no_client,
    commands_caught_half_way_are_retried_until_the_slot_is_whole,
);

async fn a_moved_slot_is_followed(proto: Proto) {
    let bed = Bed::start().await;
    let mut client = bed.client(proto).await;
    let keys = keys_in_slot(100, 20);
    for key in &keys {
        assert_eq!(client.cmd(&["SET", key, key]).await, Value::ok());
    }
    for to in [2, 1, 0] {
        bed.cluster.migrate_slot(100, to).await;
        for key in &keys {
            assert_eq!(client.cmd(&["GET", key]).await, Value::bulk(key));
        }
    }
    // The new map is learned, not asked for again and again.
    bed.cluster.migrate_slot(100, 2).await;
    let served = || bed.cluster.member(0).front().seen(&format!("GET {}", keys[0]));
    client.cmd(&["GET", &keys[0]]).await;
    wait_for(
        "the slot's commands to go to its new owner directly",
        Duration::from_secs(10),
        async || {
            let before = served();
            client.cmd(&["GET", &keys[0]]).await;
            served() == before
        },
    )
    .await;
}

async fn keys_of_a_migrating_slot_are_found_on_both_sides(proto: Proto) {
    let bed = Bed::start().await;
    let mut client = bed.client(proto).await;
    let keys = keys_in_slot(200, 10);
    for key in &keys {
        client.cmd(&["SET", key, key]).await;
    }
    let mut migration = bed.cluster.begin_migration(200, 1).await;
    migration.move_named(&keys[..5]).await;
    let get = |key: &String| cmd!["GET", key];
    let wanted: Vec<_> = keys.iter().map(Value::bulk).collect();
    for _ in 0..3 {
        let got = client.pipeline(&keys.iter().map(get).collect::<Vec<_>>()).await;
        assert_eq!(got, wanted);
    }
    // A key that does not exist yet is born on the target.
    assert_eq!(client.cmd(&cmd!["SET", &format!("{}new", keys[0]), "1"]).await, Value::ok());
    assert_eq!(client.cmd(&cmd!["GET", &format!("{}new", keys[0])]).await, Value::bulk("1"));
    let asking = bed.cluster.member(1).front().logs();
    let asked: Vec<_> = asking.iter().flatten().collect();
    let followed = asked.windows(2).filter(|w| *w[0] == "ASKING" && *w[1] != "ASKING").count();
    assert!(followed >= 15, "ASKING stands right before its command, found {followed}");
    while migration.move_keys(3).await > 0 {}
    migration.finish().await;
    let got = client.pipeline(&keys.iter().map(get).collect::<Vec<_>>()).await;
    assert_eq!(got, wanted);
}

async fn slots_migrate_under_load_without_an_error(proto: Proto) {
    let bed = Bed::start().await;
    let keys = spread_keys(16, 12);
    let slots: Vec<u16> =
        keys.iter().map(|k| slot_of(format!("{}:count", k[0]).as_bytes())).collect();
    let traffic = Traffic::start(bed.proxy.addr(), proto, keys);
    traffic.progress(500).await;
    for slot in slots {
        let owner = bed.cluster.owner_of(slot).await;
        for to in [(owner + 1) % 3, (owner + 2) % 3, owner] {
            let mut migration = bed.cluster.begin_migration(slot, to).await;
            traffic.progress(100).await;
            while migration.move_keys(1).await > 0 {}
            traffic.progress(100).await;
            migration.finish().await;
        }
    }
    traffic.progress(500).await;
    traffic.stop_clean().await;
}

async fn a_planned_failover_under_load_reaches_no_client(proto: Proto) {
    let cluster = ClusterOptions { replicas: 1, ..ClusterOptions::default() };
    let op_timeout = Some(Duration::from_secs(10));
    let bed = Bed::with(BedOptions { cluster, op_timeout, ..BedOptions::default() }).await;
    let traffic = Traffic::start(bed.proxy.addr(), proto, spread_keys(10, 12));
    traffic.progress(300).await;
    for shard in 0..3 {
        bed.cluster.failover(bed.cluster.replicas_of(shard).start, Failover::Coordinated).await;
        traffic.progress(300).await;
    }
    traffic.stop_clean().await;
}

async fn commands_caught_half_way_are_retried_until_the_slot_is_whole(proto: Proto) {
    let bed = Bed::start().await;
    let keys = keys_in_slot(300, 4);
    let mut client = bed.client(proto).await;
    for key in &keys {
        client.cmd(&["SET", key, "v"]).await;
    }
    let mut migration = bed.cluster.begin_migration(300, 2).await;
    migration.move_named(&keys[..2]).await;
    let mut caught = bed.client(proto).await;
    caught.send(&["MGET", &keys[0], &keys[1], &keys[2], &keys[3]]).await;
    // TRYAGAIN must not reach the client: it waits while others go on.
    caught.expect_silence(Duration::from_millis(300)).await;
    assert_eq!(client.cmd(&["GET", &keys[0]]).await, Value::bulk("v"));
    while migration.move_keys(10).await > 0 {}
    migration.finish().await;
    assert_eq!(caught.read().await, Value::Array(vec![Value::bulk("v"); 4]));
}

#[tokio::test]
async fn a_slot_that_never_becomes_whole_ends_in_an_error_at_the_deadline() {
    let op_timeout = Some(Duration::from_secs(1));
    let bed = Bed::with(BedOptions { op_timeout, ..BedOptions::default() }).await;
    let keys = keys_in_slot(300, 2);
    let mut client = bed.client(Proto::Resp2).await;
    for key in &keys {
        client.cmd(&["SET", key, "v"]).await;
    }
    let mut migration = bed.cluster.begin_migration(300, 2).await;
    migration.move_named(&keys[..1]).await;
    let start = tokio::time::Instant::now();
    let reply = client.cmd(&["MGET", &keys[0], &keys[1]]).await;
    let took = start.elapsed();
    assert!(matches!(reply, Value::Error(_)), "{reply:?}");
    assert!(took < Duration::from_secs(4), "took {took:?} with a deadline of one second");
    assert_eq!(client.cmd(&["GET", &keys[1]]).await, Value::bulk("v"));
}

#[tokio::test]
async fn an_unplanned_failover_costs_reads_nothing_and_writes_only_their_certainty() {
    let cluster = ClusterOptions { replicas: 1, ..ClusterOptions::default() };
    let op_timeout = Some(Duration::from_secs(20));
    let bed = Bed::with(BedOptions { cluster, op_timeout, ..BedOptions::default() }).await;
    let mut client = bed.client(Proto::Resp2).await;
    let keys = keys_in_slot(0, 3);
    for key in &keys {
        assert_eq!(client.cmd(&["SET", key, "v"]).await, Value::ok());
    }
    assert_eq!(bed.cluster.admin(0).await.cmd(&["WAIT", "1", "5000"]).await, Value::Int(1));
    bed.cluster.kill(0);
    // Sent while nobody owns the slot in truth; answered when the replica has taken over.
    for key in &keys {
        assert_eq!(client.cmd(&["GET", key]).await, Value::bulk("v"));
    }
    assert_eq!(client.cmd(&["SET", &keys[0], "w"]).await, Value::ok());
    assert_eq!(client.cmd(&["GET", &keys[0]]).await, Value::bulk("w"));
    assert_eq!(bed.cluster.owner_of(0).await, bed.cluster.replicas_of(0).start);
}
