//! `make demo`: a three-shard Redis Cluster that demands IAM tokens, the proxy before it, and
//! redis-cli talking to the proxy as if it were one plain server. All on loopback, all gone at the
//! end.
//!
//! `--check` ends by itself with the outcome as exit status; without it the demo stays up until
//! Ctrl-C. `--proxy PATH` names the proxy's binary (default: the one beside the example).
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a demo talks on stdout, and shares the test bed, where a panic is how things fail"
)]

#[path = "../support/mod.rs"]
#[macro_use]
#[allow(dead_code, unused_macros, reason = "the demo needs a part of the bed")]
mod support;

use std::net::TcpListener;
use std::process::ExitCode;
use std::time::Duration;

use support::client::Client;
use support::cluster::{Cluster, ClusterOptions};
use support::metadata::FakeMetadata;
use support::proxy::{Proxy, ProxyOptions};
use support::resp::Value;
use support::slots::slot_of;

/// Lifetime of the demo's tokens: short, so that renewal can be watched.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut check = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--check" => check = true,
            "--proxy" => match args.next() {
                Some(path) => support::proxy::set_binary(path.into()),
                None => return usage("--proxy wants the path of the proxy's binary"),
            },
            other => return usage(&format!("unknown argument {other}")),
        }
    }
    let binary = support::proxy::binary();
    if !binary.is_file() {
        return usage(&format!(
            "no proxy at {}: run `make demo`, or build it first",
            binary.display()
        ));
    }
    // One future: Ctrl-C drops it, and with it every process.
    tokio::select! {
        outcome = run(check) => match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                eprintln!("demo failed: {problem}");
                ExitCode::FAILURE
            }
        },
        _ = stopped() => {
            println!("\nstopped; everything is cleaned up");
            ExitCode::SUCCESS
        }
    }
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("demo: {problem}\nusage: demo [--check] [--proxy PATH]");
    ExitCode::from(2)
}

/// Ctrl-C or SIGTERM.
async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("a SIGTERM handler");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

async fn run(check: bool) -> Result<(), String> {
    println!("starting a three-shard Redis Cluster whose nodes demand IAM access tokens …");
    let metadata = FakeMetadata::start(TOKEN_LIFETIME).await;
    let cluster = Cluster::start(ClusterOptions::default(), metadata.tokens()).await;
    println!(
        "  metadata server  {}  (tokens live {} s)",
        metadata.host(),
        TOKEN_LIFETIME.as_secs()
    );
    for (shard, member) in cluster.members().iter().enumerate() {
        println!("  shard {}          {}", shard + 1, member.addr());
    }
    let port = if TcpListener::bind(("127.0.0.1", 6379)).is_ok() { 6379 } else { 0 };
    let mut options = ProxyOptions::new(cluster.seed()).metadata(metadata.host());
    options.port = port;
    let proxy = Proxy::start(options).await;
    let at = proxy.addr();
    if port == 0 {
        println!("port 6379 is taken, so the proxy listens on another one");
    }
    println!("memorystore-auth-proxy {} listens on {at}\n", cluster.seed());

    a_node_refuses_without_a_token(&cluster).await?;
    plain_commands(&proxy).await?;
    keys_land_on_all_shards(&cluster, &proxy).await?;
    a_slot_moves(&cluster, &proxy).await?;

    let tokens = metadata.token_requests();
    let auths: u64 = cluster.fronts().map(|f| f.counts().auths_ok).sum();
    println!("tokens fetched by the proxy: {tokens}, AUTHs accepted by the nodes: {auths}");
    if check {
        println!("demo check passed");
        return Ok(());
    }
    println!(
        "\ntry it, from another terminal:\n  \
         redis-cli -p {port}\n  \
         redis-benchmark -p {port} -c 50 -P 16 -n 1000000 -r 100000 -t set,get -q\n  \
         curl -s http://{http}/status\n  \
         curl -s http://{http}/metrics\n\
         or what it is like without the proxy:\n  \
         redis-cli -p {node} GET a\n\n\
         Ctrl-C ends the demo.",
        port = at.port(),
        http = proxy.http_addr(),
        node = cluster.member(0).addr().port(),
    );
    watch(proxy).await
}

/// Stays until the proxy dies, which it should not.
async fn watch(mut proxy: Proxy) -> Result<(), String> {
    while proxy.is_running() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err(format!("the proxy ended by itself; it wrote:\n{}", proxy.logs()))
}

async fn a_node_refuses_without_a_token(cluster: &Cluster) -> Result<(), String> {
    let node = cluster.member(0).addr();
    let reply = Client::connect(node).await.cmd(&["GET", "a"]).await;
    println!("$ redis-cli -p {} GET a        # straight to a node, without a token", node.port());
    println!("{}\n", shown(&reply));
    if reply.is_error("NOAUTH") {
        Ok(())
    } else {
        Err(format!("a node answered {reply:?} without a token"))
    }
}

/// A few commands by redis-cli, through the proxy, without a password.
async fn plain_commands(proxy: &Proxy) -> Result<(), String> {
    let port = proxy.addr().port().to_string();
    for (line, wanted) in [
        ("PING", "PONG"),
        ("SET greeting hello", "OK"),
        ("GET greeting", "hello"),
        ("HSET user:7 name Ada city London", "2"),
        ("HGET user:7 city", "London"),
        ("RPUSH queue a b c", "3"),
        ("LRANGE queue 0 -1", "a\nb\nc"),
        ("EXPIRE greeting 600", "1"),
    ] {
        let output = tokio::process::Command::new("redis-cli")
            .args(["-p", &port])
            .args(line.split(' '))
            .output()
            .await
            .map_err(|e| format!("redis-cli does not start: {e} (apt-get install redis-tools)"))?;
        let got = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        println!("$ redis-cli -p {port} {line}\n{got}");
        if got != wanted {
            return Err(format!("{line} answered {got:?}, expected {wanted:?}"));
        }
    }
    println!();
    Ok(())
}

/// One connection, one pipeline, three shards.
async fn keys_land_on_all_shards(cluster: &Cluster, proxy: &Proxy) -> Result<(), String> {
    let mut client = Client::connect(proxy.addr()).await;
    let sets: Vec<_> = (0..300).map(|n| cmd!["SET", format!("item:{n}"), n.to_string()]).collect();
    let gets: Vec<_> = (0..300).map(|n| cmd!["GET", format!("item:{n}")]).collect();
    let stored = client.pipeline(&sets).await;
    let read = client.pipeline(&gets).await;
    let all_read = read.iter().enumerate().all(|(n, reply)| *reply == Value::bulk(n.to_string()));
    if stored.iter().any(|r| *r != Value::ok()) || !all_read {
        return Err(format!("300 keys were not stored and read back: {stored:?} {read:?}"));
    }
    println!("300 keys in one pipeline through one plain connection, and where they went:");
    for (shard, member) in cluster.members().iter().enumerate() {
        let keys = cluster.admin(shard).await.cmd(&["DBSIZE"]).await.int();
        println!("  shard {} {}  {keys} keys", shard + 1, member.addr());
        if keys == 0 {
            return Err(format!("no key on shard {}", shard + 1));
        }
    }
    println!();
    Ok(())
}

/// The slot of a key moves to another shard between two reads.
async fn a_slot_moves(cluster: &Cluster, proxy: &Proxy) -> Result<(), String> {
    let slot = slot_of(b"greeting");
    let from = cluster.owner_of(slot).await;
    let to = (from + 1) % cluster.shards();
    cluster.migrate_slot(slot, to).await;
    let reply = Client::connect(proxy.addr()).await.cmd(&["GET", "greeting"]).await;
    println!(
        "slot {slot} of key `greeting` moved from shard {} to shard {}; GET greeting → {}\n",
        from + 1,
        to + 1,
        shown(&reply)
    );
    if reply == Value::bulk("hello") {
        Ok(())
    } else {
        Err(format!("after the move GET greeting answered {reply:?}"))
    }
}

fn shown(reply: &Value) -> String {
    match reply {
        Value::Error(text) => format!("(error) {text}"),
        other => other.text(),
    }
}
