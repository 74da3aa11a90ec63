//! Many clients at once: order, fairness and other people's load tools.

use std::time::Duration;

use crate::both_protocols;
use crate::support::bed::{Bed, BedOptions};
use crate::support::client::{Client, Proto};
use crate::support::resp::Value;
use crate::support::traffic::{Traffic, spread_keys};
use crate::support::wait::wait_for;

both_protocols!(two_hundred_clients_each_keep_their_order);

async fn two_hundred_clients_each_keep_their_order(proto: Proto) {
    let bed = Bed::start().await;
    let mut clients = tokio::task::JoinSet::new();
    for id in 0..200 {
        let addr = bed.proxy.addr();
        clients.spawn(async move {
            let mut client = Client::connect_proto(addr, proto).await;
            // Keys on all shards; every command's answer depends on all before it on its key.
            let keys: Vec<_> = (0..4).map(|k| format!("c{id}:{k}")).collect();
            let logs: Vec<_> = (0..4).map(|k| format!("l{id}:{k}")).collect();
            let mut commands = Vec::new();
            let mut wanted = Vec::new();
            for n in 1..=50i64 {
                for (key, log) in keys.iter().zip(&logs) {
                    commands.push(cmd!["INCR", key]);
                    wanted.push(Value::Int(n));
                    commands.push(cmd!["APPEND", log, format!("{n:04};")]);
                    wanted.push(Value::Int(n * 5));
                }
                commands.push(cmd!["ECHO", n.to_string()]);
                wanted.push(Value::bulk(n.to_string()));
            }
            let got = client.pipeline(&commands).await;
            assert!(got == wanted, "client {id} got replies out of order");
            let text: String = (1..=50).map(|n| format!("{n:04};")).collect();
            for log in &logs {
                assert_eq!(client.cmd(&["GET", log]).await, Value::bulk(&text));
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.expect("a client failed");
    }
    // They shared connections: far fewer upstream dials than clients.
    for front in bed.cluster.fronts() {
        let counts = front.counts();
        assert!(counts.connections < 50, "{} connections for 200 clients", counts.connections);
    }
}

#[tokio::test]
async fn redis_benchmark_runs_without_an_error() {
    let bed = Bed::start().await;
    let port = bed.proxy.addr().port().to_string();
    let run = tokio::process::Command::new("redis-benchmark")
        .args(["-p", &port, "-c", "50", "-P", "16", "-n", "100000", "-r", "100000"])
        .args(["-t", "set,get", "-q"])
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(120), run)
        .await
        .expect("redis-benchmark ends in two minutes")
        .expect("redis-benchmark comes with redis-tools");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("Error") && !text.contains("error"), "{text}");
    assert!(text.contains("SET: ") && text.contains("GET: "), "{text}");
}

#[tokio::test]
async fn several_workers_serve_like_one() {
    let args = vec!["--threads".to_owned(), "2".to_owned()];
    let bed = Bed::with(BedOptions { args, ..BedOptions::default() }).await;
    let traffic = Traffic::start(bed.proxy.addr(), Proto::Resp3, spread_keys(40, 6));
    traffic.progress(20_000).await;
    traffic.stop_clean().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_only_itself() {
    let bed = Bed::start().await;
    let mut client = bed.client(Proto::Resp2).await;
    let value = vec![b'x'; 1 << 20];
    client.cmd(&cmd!["SET", "big", &value]).await;
    let mut lazy = bed.client(Proto::Resp2).await;
    for _ in 0..200 {
        lazy.send(&["GET", "big"]).await;
    }
    for n in 0..200 {
        let start = tokio::time::Instant::now();
        assert_eq!(client.cmd(&cmd!["SET", format!("k{n}"), "v"]).await, Value::ok());
        assert!(start.elapsed() < Duration::from_secs(5), "held up {:?}", start.elapsed());
    }
    for _ in 0..200 {
        assert!(lazy.read().await == Value::Bulk(value.clone()));
    }
}

#[tokio::test]
async fn clients_that_vanish_leave_nothing_behind() {
    let bed = Bed::start().await;
    for round in 0..50 {
        let mut client = bed.client(Proto::Resp2).await;
        for n in 0..100 {
            client.send(&cmd!["INCR", format!("vanish{}", (round * 100 + n) % 7)]).await;
        }
        drop(client);
    }
    let mut client = bed.client(Proto::Resp2).await;
    assert_eq!(client.cmd(&["SET", "after", "1"]).await, Value::ok());
    wait_for("few upstream connections", Duration::from_secs(10), async || {
        bed.cluster.fronts().all(|f| f.counts().connections < 20)
    })
    .await;
}
