//! Ordinary, non-cluster clients while slots move and tokens end: redis-py and ioredis.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::bed::{Bed, BedOptions};
use crate::support::slots::slot_of;

use super::run::{Running, names_no_node, script};

/// The names of this file's scenarios, for the page.
pub const SCENARIOS: &[&str] = &["redis_py_resp2", "redis_py_resp3", "ioredis"];

/// Runs a client script against a proxy whose tokens live three seconds, and moves the slots of its
/// loop's keys around while it reads them.
async fn run_through_reshard_and_expiry(path: &str, resp: &str, prefix: &str) {
    let bed = Bed::with(BedOptions {
        token_lifetime: Some(Duration::from_secs(3)),
        ..BedOptions::default()
    })
    .await;
    let mut command = script(path, bed.proxy.addr().port()).await;
    command.env("RESP", resp).env("LOOP_SECONDS", "6");
    let mut running = Running::start(command);
    let mut lines = BufReader::new(running.stdout()).lines();
    let reading = async {
        let mut output = String::new();
        while let Ok(Some(line)) = lines.next_line().await {
            output += &line;
            output.push('\n');
            if line == "looping" {
                for n in 0..6 {
                    let slot = slot_of(format!("{prefix}:loop:{n}").as_bytes());
                    let owner = bed.cluster.owner_of(slot).await;
                    bed.cluster.migrate_slot(slot, (owner + 1) % 3).await;
                }
            }
        }
        output
    };
    let (output, (status, _, errors)) = tokio::join!(reading, running.end());
    assert!(status.success(), "{status}\n{output}{errors}");
    assert!(output.ends_with("ok\n"), "{output}{errors}");
    names_no_node(&bed, &format!("{output}{errors}"));
    assert!(bed.metadata.token_requests() >= 2, "tokens were renewed during the run");
}

#[tokio::test]
async fn redis_py_resp2() {
    run_through_reshard_and_expiry("python/plain.py", "2", "py").await;
}

#[tokio::test]
async fn redis_py_resp3() {
    run_through_reshard_and_expiry("python/plain.py", "3", "py").await;
}

#[tokio::test]
async fn ioredis() {
    run_through_reshard_and_expiry("node/plain.js", "2", "js").await;
}
