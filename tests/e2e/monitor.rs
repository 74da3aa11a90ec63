//! MONITOR through the proxy: what all primaries execute, in the server's form.

use std::time::Duration;

use crate::both_protocols;
use crate::support::bed::Bed;
use crate::support::client::{Client, Proto};
use crate::support::resp::Value;
use crate::support::slots::keys_on_shard;
use crate::support::wait::wait_for;

both_protocols!(commands_of_all_shards_are_shown, a_monitoring_session_is_what_a_server_makes_it);

const SOON: Duration = Duration::from_secs(20);

/// Reads lines until one names `text`; returns it.
async fn line_with(client: &mut Client, text: &str) -> String {
    loop {
        let line = String::from_utf8_lossy(&client.read_raw().await).into_owned();
        if line.contains(text) {
            return line;
        }
    }
}

async fn commands_of_all_shards_are_shown(proto: Proto) {
    let bed = Bed::start().await;
    let mut monitor = bed.client(proto).await;
    assert_eq!(monitor.cmd(&["MONITOR"]).await, Value::ok());
    let mut client = bed.client(proto).await;
    for shard in 0..3 {
        let key = keys_on_shard(shard, 3, 1).remove(0);
        client.cmd(&["SET", &key, "two\r\nlines \"quoted\""]).await;
        let line = line_with(&mut monitor, &key).await;
        // `+1700000000.123456 [0 127.0.0.1:1234] "SET" "key" "value"`
        let (time, rest) = line[1..].split_once(' ').expect("a time");
        assert!(time.parse::<f64>().is_ok(), "{line}");
        let rest = rest.split_once("] ").expect("an address").1;
        assert_eq!(rest, format!("\"SET\" \"{key}\" \"two\\r\\nlines \\\"quoted\\\"\"\r\n"));
        assert!(line.starts_with('+') && !line.contains("AUTH"), "{line}");
    }
    // A lost connection is made again.
    for front in bed.cluster.fronts() {
        front.faults().close_all();
    }
    for shard in 0..3 {
        let key = keys_on_shard(shard, 3, 1).remove(0);
        let seen = async {
            loop {
                client.cmd(&["GET", &key]).await;
                let wait = Duration::from_millis(200);
                let line = line_with(&mut monitor, "\"GET\"");
                if tokio::time::timeout(wait, line).await.is_ok_and(|l| l.contains(&key)) {
                    return;
                }
            }
        };
        tokio::time::timeout(SOON, seen).await.expect("MONITOR goes on after a loss");
    }
}

async fn a_monitoring_session_is_what_a_server_makes_it(proto: Proto) {
    let bed = Bed::start().await;
    let connections = async || bed.cluster.fronts().map(|f| f.counts().connections).sum::<u64>();
    let mut client = bed.client(proto).await;
    client.cmd(&["GET", "k"]).await;
    let before = connections().await;
    let mut monitor = bed.client(proto).await;
    assert_eq!(monitor.cmd(&["MONITOR"]).await, Value::ok());
    assert_eq!(connections().await, before + 3);
    let refused = monitor.cmd(&["GET", "k"]).await;
    assert_eq!(refused, Value::Error("ERR Replica can't interact with the keyspace".into()));
    assert_eq!(monitor.cmd(&["PING"]).await, Value::Simple("PONG".into()));
    assert_eq!(monitor.cmd(&["RESET"]).await, Value::Simple("RESET".into()));
    assert_eq!(monitor.cmd(&["GET", "k"]).await, Value::Null);
    wait_for("its connections to end", SOON, async || connections().await <= before + 1).await;
    let mut gone = bed.client(proto).await;
    assert_eq!(gone.cmd(&["MONITOR"]).await, Value::ok());
    drop(gone);
    wait_for("its connections to end", SOON, async || connections().await <= before + 1).await;
    let mut queued = bed.client(proto).await;
    queued.cmd(&["MULTI"]).await;
    assert!(matches!(queued.cmd(&["MONITOR"]).await, Value::Error(_)));
    assert!(queued.cmd(&["EXEC"]).await.is_error("EXECABORT"));
}
