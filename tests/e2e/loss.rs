//! Nodes and connections that are lost: what was surely not executed is retried, reads too, other
//! writes say that they may have been executed, and other shards go on.

use std::time::Duration;

use tokio::time::Instant;

use crate::both_protocols;
use crate::support::bed::{Bed, BedOptions};
use crate::support::client::Proto;
use crate::support::resp::Value;
use crate::support::slots::key_in_slot;
use crate::support::traffic::{Traffic, spread_keys};
use crate::support::wait::wait_for;

const UNSURE: &str = "may have been executed";

both_protocols!(
    a_reply_cut_in_the_middle_is_read_again_but_not_written_again,
    a_lost_connection_answers_reads_and_owns_up_about_writes,
    a_node_that_refuses_dials_costs_only_time,
);

async fn a_reply_cut_in_the_middle_is_read_again_but_not_written_again(proto: Proto) {
    let bed = Bed::start().await;
    let mut client = bed.client(proto).await;
    let key = key_in_slot(0);
    let front = bed.cluster.member(0).front();
    client.cmd(&["SET", &key, "1"]).await;
    front.faults().cut_mid_reply(1);
    assert_eq!(client.cmd(&["GET", &key]).await, Value::bulk("1"));
    front.faults().cut_mid_reply(1);
    let reply = client.cmd(&["INCR", &key]).await;
    assert!(matches!(&reply, Value::Error(text) if text.contains(UNSURE)), "{reply:?}");
    assert_eq!(client.cmd(&["GET", &key]).await, Value::bulk("2"), "executed exactly once");
}

async fn a_lost_connection_answers_reads_and_owns_up_about_writes(proto: Proto) {
    let bed = Bed::start().await;
    let mut client = bed.client(proto).await;
    let (here, there) = (key_in_slot(0), key_in_slot(9000));
    client.cmd(&["SET", &here, "1"]).await;
    client.cmd(&["SET", &there, "1"]).await;
    let front = bed.cluster.member(0).front();
    // Replies are held back so that the commands are certainly under way when the link breaks.
    front.faults().set_reply_delay(Duration::from_secs(60));
    let seen = front.counts().commands;
    for command in
        [cmd!["GET", &here], cmd!["INCR", &here], cmd!["GET", &there], cmd!["STRLEN", &here]]
    {
        client.send(&command).await;
    }
    wait_for("the commands to be under way", Duration::from_secs(5), async || {
        front.counts().commands >= seen + 3
    })
    .await;
    front.faults().set_reply_delay(Duration::ZERO);
    front.faults().close_all();
    let (first, incr, other, last) =
        (client.read().await, client.read().await, client.read().await, client.read().await);
    assert!(first == Value::bulk("1") || first == Value::bulk("2"), "{first:?}");
    assert!(matches!(&incr, Value::Error(text) if text.contains(UNSURE)), "{incr:?}");
    assert_eq!(other, Value::bulk("1"));
    assert_eq!(last, Value::Int(1));
    assert_eq!(client.cmd(&["GET", &here]).await, Value::bulk("2"), "executed exactly once");
}

async fn a_node_that_refuses_dials_costs_only_time(proto: Proto) {
    let bed = Bed::with(BedOptions {
        op_timeout: Some(Duration::from_secs(15)),
        ..BedOptions::default()
    })
    .await;
    let mut client = bed.client(proto).await;
    let key = key_in_slot(0);
    client.cmd(&["SET", &key, "0"]).await;
    let front = bed.cluster.member(0).front();
    front.faults().set_refused(true);
    front.faults().close_all();
    wait_for("the link to be gone", Duration::from_secs(5), async || {
        front.counts().connections == 0
    })
    .await;
    // Gives the proxy the chance to see the close; a command caught by it may be unsure.
    let mut other = bed.client(proto).await;
    wait_for("another shard", Duration::from_secs(5), async || {
        other.cmd(&["GET", &key_in_slot(9000)]).await == Value::Null
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.send(&["INCR", &key]).await;
    client.send(&["GET", &key]).await;
    client.expect_silence(Duration::from_millis(500)).await;
    let start = Instant::now();
    assert_eq!(other.cmd(&["SET", &key_in_slot(9000), "v"]).await, Value::ok());
    assert!(start.elapsed() < Duration::from_secs(3), "another shard waited {:?}", start.elapsed());
    front.faults().set_refused(false);
    assert_eq!(client.read().await, Value::Int(1), "never sent, so retried");
    assert_eq!(client.read().await, Value::bulk("1"));
}

#[tokio::test]
async fn a_dead_node_ends_in_a_clear_error_and_the_rest_goes_on() {
    let cluster = crate::support::cluster::ClusterOptions {
        server_args: ["--cluster-require-full-coverage", "no"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    let op_timeout = Some(Duration::from_secs(2));
    let bed = Bed::with(BedOptions { cluster, op_timeout, ..BedOptions::default() }).await;
    let mut client = bed.client(Proto::Resp2).await;
    let (dead, alive) = (key_in_slot(0), key_in_slot(9000));
    client.cmd(&["SET", &dead, "v"]).await;
    client.cmd(&["SET", &alive, "v"]).await;
    bed.cluster.kill(0);
    for _ in 0..3 {
        let start = Instant::now();
        let reply = client.cmd(&["GET", &dead]).await;
        let took = start.elapsed();
        assert!(matches!(reply, Value::Error(_)), "{reply:?}");
        assert!(took < Duration::from_secs(5), "took {took:?} with a deadline of two seconds");
        assert_eq!(client.cmd(&["GET", &alive]).await, Value::bulk("v"));
    }
    // The seed is the dead node: others tell the layout.
    assert_eq!(bed.proxy.get("/liveness").await.status, 200);
    bed.cluster.restart(0).await;
    wait_for("the restarted node to serve", Duration::from_secs(30), async || {
        client.cmd(&["SET", &dead, "w"]).await == Value::ok()
    })
    .await;
    assert_eq!(client.cmd(&["GET", &dead]).await, Value::bulk("w"));
}

#[tokio::test]
async fn a_frozen_node_holds_up_only_its_own_shard() {
    let op_timeout = Some(Duration::from_secs(2));
    let bed = Bed::with(BedOptions { op_timeout, ..BedOptions::default() }).await;
    let mut client = bed.client(Proto::Resp2).await;
    let mut other = bed.client(Proto::Resp2).await;
    bed.cluster.member(0).node.pause();
    client.send(&["GET", &key_in_slot(0)]).await;
    let start = Instant::now();
    for n in 0..50 {
        let reply = other.cmd(&cmd!["SET", &key_in_slot(9000 + n), "v"]).await;
        // Nodes may already have noticed the missing one and say CLUSTERDOWN by then.
        assert!(reply == Value::ok() || start.elapsed() > Duration::from_secs(1), "{reply:?}");
    }
    let reply = client.read().await;
    let took = start.elapsed();
    assert!(matches!(reply, Value::Error(_)), "{reply:?}");
    assert!(took < Duration::from_secs(6), "took {took:?} with a deadline of two seconds");
    bed.cluster.member(0).node.resume();
    wait_for("the node to serve again", Duration::from_secs(30), async || {
        client.cmd(&["SET", &key_in_slot(0), "v"]).await == Value::ok()
    })
    .await;
}

#[tokio::test]
async fn connections_that_break_all_the_time_never_run_a_write_twice() {
    let bed = Bed::start().await;
    for front in bed.cluster.fronts() {
        front.faults().close_after_commands(Some(300));
    }
    let traffic = Traffic::start(bed.proxy.addr(), Proto::Resp2, spread_keys(6, 6));
    traffic.progress(10_000).await;
    // Traffic itself checks that every INCR ran once, or at most once after an unsure answer.
    let report = traffic.stop().await;
    assert!(report.errors.iter().all(|e| e.contains(UNSURE)), "{:?}", report.errors.first());
    assert!(bed.cluster.fronts().all(|f| f.counts().dials > 3));
}
