//! Other people's clients in their ordinary, non-cluster mode: redis-py and ioredis, also while
//! slots move and tokens end.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

use crate::support::bed::{Bed, BedOptions};
use crate::support::process::require;
use crate::support::slots::slot_of;

/// Longest run of one script.
const LIMIT: Duration = Duration::from_secs(120);

fn here() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients"))
}

async fn prepared() -> PathBuf {
    require("python3", "python3-venv");
    require("npm", "npm");
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients-cache");
    let output =
        Command::new(here().join("prepare")).arg(&cache).output().await.expect("bash runs");
    assert!(
        output.status.success(),
        "client libraries could not be installed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    cache
}

async fn python() -> Command {
    let cache = prepared().await;
    let mut command = Command::new(cache.join("python/bin/python"));
    command.arg(here().join("python/plain.py"));
    command
}

async fn node() -> Command {
    let cache = prepared().await;
    let mut command = Command::new("node");
    command.arg(here().join("node/plain.js")).env("NODE_PATH", cache.join("node/node_modules"));
    command
}

/// Runs a client script against a proxy whose tokens live three seconds, and moves the slots of its
/// loop's keys around while it reads them.
async fn run_through_reshard_and_expiry(mut command: Command, prefix: &str) {
    let bed = Bed::with(BedOptions {
        token_lifetime: Some(Duration::from_secs(3)),
        ..BedOptions::default()
    })
    .await;
    let mut child = command
        .env("REDIS_PORT", bed.proxy.addr().port().to_string())
        .env("LOOP_SECONDS", "6")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the client starts");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let mut stderr = child.stderr.take().expect("stderr");
    let run = async {
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
        let status = child.wait().await.expect("the client ends");
        (output, status)
    };
    let errors = async {
        let mut text = String::new();
        let _ = stderr.read_to_string(&mut text).await;
        text
    };
    let ((output, status), errors) =
        tokio::time::timeout(LIMIT, async { tokio::join!(run, errors) })
            .await
            .expect("the client ends in time");
    assert!(status.success(), "{status}\n{output}{errors}");
    assert!(output.ends_with("ok\n"), "{output}{errors}");
    assert!(bed.metadata.token_requests() >= 2, "tokens were renewed during the run");
}

#[tokio::test]
async fn redis_py_with_resp2() {
    let mut command = python().await;
    command.env("RESP", "2");
    run_through_reshard_and_expiry(command, "py").await;
}

#[tokio::test]
async fn redis_py_with_resp3() {
    let mut command = python().await;
    command.env("RESP", "3");
    run_through_reshard_and_expiry(command, "py").await;
}

#[tokio::test]
async fn ioredis() {
    run_through_reshard_and_expiry(node().await, "js").await;
}
