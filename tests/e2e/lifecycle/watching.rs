//! What operators see of the life cycle: `/status`, metrics, and one log line per change.

use std::time::Duration;

use serde_json::Value as Json;
use tokio::time::Instant;

use super::{HOUR, bed, renewals, since};
use crate::support::bed::Bed;
use crate::support::client::Proto;
use crate::support::faults::{AuthFault, NOAUTH};
use crate::support::front_events::What;
use crate::support::metadata::MetadataFault;
use crate::support::resp::Value;
use crate::support::slots::key_in_slot;
use crate::support::wait::wait_for;

async fn touch_all(bed: &Bed) {
    let mut client = bed.client(Proto::Resp2).await;
    for slot in [0, 8000, 16000] {
        assert_eq!(client.cmd(&["SET", &key_in_slot(slot), "v"]).await, Value::ok());
    }
}

/// The part of `/status` about one node.
async fn node_status(bed: &Bed, member: usize) -> Json {
    let addr = bed.cluster.member(member).addr().to_string();
    let status: Json = serde_json::from_str(&bed.proxy.get("/status").await.body).expect("JSON");
    let nodes = status["instances"][0]["nodes"].as_array().expect("nodes").clone();
    let found = nodes.into_iter().find(|node| node["node"].as_str() == Some(&addr));
    found.unwrap_or_else(|| panic!("/status names {addr}: {status}"))
}

/// The first field, at any depth, whose name has all these parts.
fn field<'a>(json: &'a Json, parts: &[&str]) -> Option<&'a Json> {
    match json {
        Json::Object(fields) => fields
            .iter()
            .find(|(name, value)| parts.iter().all(|p| name.contains(p)) && !value.is_null())
            .map(|(_, value)| value)
            .or_else(|| fields.values().find_map(|value| field(value, parts))),
        Json::Array(items) => items.iter().find_map(|item| field(item, parts)),
        _ => None,
    }
}

#[tokio::test]
async fn status_tells_state_authentication_renewal_and_error_of_each_node() {
    let args = ["--max-connection-age=30s", "--op-timeout=1s", "--auth-backoff-max=500ms"];
    let bed = bed(Duration::from_secs(20), &args).await;
    touch_all(&bed).await;
    for member in 0..3 {
        let node = node_status(&bed, member).await;
        let state = field(&node, &["state"]).unwrap_or_else(|| panic!("no state: {node}"));
        assert!(state.as_str().is_some_and(|s| !s.is_empty()), "{node}");
        let since = field(&node, &["authenticated"]);
        assert!(since.is_some_and(|s| !s.is_null()), "authenticated since: {node}");
        let next = field(&node, &["renewal"]);
        assert!(next.is_some_and(|n| !n.is_null()), "next renewal: {node}");
        assert!(node.get("last_error").is_some(), "last error: {node}");
    }
    let well = field(&node_status(&bed, 0).await, &["state"]).expect("a state").clone();
    let front = bed.cluster.member(0).front();
    front.faults().fail_auth(AuthFault::IamExhausted, u32::MAX);
    front.faults().close_all();
    let mut client = bed.client(Proto::Resp2).await;
    assert!(matches!(client.cmd(&["GET", &key_in_slot(0)]).await, Value::Error(_)));
    let node = node_status(&bed, 0).await;
    assert_ne!(field(&node, &["state"]), Some(&well), "the state changed: {node}");
    let error = node["last_error"].as_str().unwrap_or_default();
    assert!(error.contains("ERR_IAM_EXHAUSTED"), "{node}");
    assert_eq!(field(&node_status(&bed, 1).await, &["state"]), Some(&well), "others are well");
    front.faults().heal_auth();
    wait_for("the node to be well", Duration::from_secs(5), async || {
        client.cmd(&["GET", &key_in_slot(0)]).await;
        field(&node_status(&bed, 0).await, &["state"]) == Some(&well)
    })
    .await;
}

/// `authenticated since` is the time since the AUTH, also when nothing else happens; `next renewal`,
/// when there is one planned, is ahead and not beyond the token's end.
#[tokio::test]
async fn status_follows_the_renewals() {
    let lifetime = 4;
    let bed = bed(Duration::from_secs(lifetime), &["--max-connection-age=0"]).await;
    touch_all(&bed).await;
    // Not the seed: only one connection is made to this node.
    let front = bed.cluster.member(1).front();
    let start = Instant::now();
    let mut wrong = Vec::new();
    while renewals(&since(front, start), true) < 2 {
        assert!(start.elapsed() < Duration::from_secs(30), "renewals happen");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let node = node_status(&bed, 1).await;
        let number = |part| field(&node, &[part]).and_then(Json::as_f64);
        let events = front.events();
        let auth = events.iter().rfind(|e| matches!(e.what, What::Auth { ok: true, .. }));
        let age = auth.expect("an AUTH").at.elapsed().as_secs_f64();
        let told = number("authenticated");
        // Whole seconds, and the AUTH may be under way.
        let right = told.is_some_and(|told| (told - age).abs() <= 1.2 || age < 0.2);
        let next = number("renewal");
        if !right || next.is_some_and(|next| next > lifetime as f64 + 1.0) {
            wrong.push(format!("told {told:?} and {next:?}, authenticated {age:.1} s ago"));
        }
    }
    assert!(wrong.is_empty(), "{} times, e.g. {}", wrong.len(), wrong[0]);
}

/// All samples of `/metrics`: name with labels, and value.
async fn metrics(bed: &Bed) -> Vec<(String, f64)> {
    let body = bed.proxy.get("/metrics").await.body;
    let lines = body.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("NAME VALUE");
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

/// The sum of the samples whose name has all these parts; `None` when there is none.
fn sum(metrics: &[(String, f64)], parts: &[&str]) -> Option<f64> {
    let found = metrics.iter().filter(|(name, _)| parts.iter().all(|part| name.contains(part)));
    found.map(|(_, value)| *value).reduce(|a, b| a + b)
}

#[tokio::test]
async fn the_metrics_of_the_life_cycle_exist_and_move() {
    let args = [
        "--max-connection-age=1s",
        "--op-timeout=1s",
        "--auth-backoff-min=100ms",
        "--auth-backoff-max=500ms",
    ];
    let bed = bed(Duration::from_secs(2), &args).await;
    touch_all(&bed).await;
    let front = bed.cluster.member(0).front();
    let before = metrics(&bed).await;
    let mut client = bed.client(Proto::Resp2).await;
    let mut move_all = async || {
        front.faults().answer_error("GET", NOAUTH, 1);
        client.cmd(&["GET", &key_in_slot(0)]).await;
        front.faults().answer_error("GET", "MOVED 0 127.0.0.1:1", 0);
        front.faults().fail_auth(AuthFault::IamExhausted, u32::MAX);
        front.faults().close_all();
        client.cmd(&["GET", &key_in_slot(0)]).await;
    };
    move_all().await;
    let backing_off = metrics(&bed).await;
    front.faults().fail_auth(AuthFault::WrongPass, u32::MAX);
    wait_for("WRONGPASS to be met", Duration::from_secs(10), async || {
        // Nobody authenticates for nobody.
        client.cmd(&["GET", &key_in_slot(0)]).await;
        bed.proxy.get("/metrics").await.body.lines().any(|line| {
            line.starts_with("memorystore_proxy_upstream_auths_total")
                && line.contains("wrongpass")
                && !line.ends_with(" 0")
        })
    })
    .await;
    front.faults().heal_auth();
    bed.metadata.set_fault(Some(MetadataFault::InternalError));
    tokio::time::sleep(Duration::from_millis(2500)).await;
    bed.metadata.set_fault(None);
    bed.proxy.wait_ready().await;
    wait_for("service again", Duration::from_secs(10), async || {
        client.cmd(&["GET", &key_in_slot(0)]).await == Value::bulk("v")
    })
    .await;
    bed.cluster.migrate_slot(8000, 0).await;
    client.cmd(&["GET", &key_in_slot(8000)]).await;
    let after = metrics(&bed).await;

    let mut wrong = Vec::new();
    let mut grows =
        |what: &str, parts: &[&str]| match (sum(&before, parts).unwrap_or(0.0), sum(&after, parts))
        {
            (_, None) => wrong.push(format!("{what}: no metric named like {parts:?}")),
            (old, Some(new)) if new <= old => {
                wrong.push(format!("{what}: {parts:?} stays at {new}"));
            }
            _ => {}
        };
    grows("refreshes by source", &["token_refreshes_total{source="]);
    grows("failures by source", &["token_refresh_failures_total{source="]);
    grows("AUTHs by outcome", &["auths_total{", "\"ok\""]);
    grows("AUTHs by outcome", &["auths_total{", "\"wrongpass\""]);
    grows("AUTHs by outcome", &["auths_total{", "\"exhausted\""]);
    grows("retirements", &["retire", "_total"]);
    grows("retries by reason", &["retries_total{", "reason=\"noauth\""]);
    grows("redirects", &["redirects_total"]);
    grows("commands", &["commands_total"]);
    grows("errors", &["error_replies_total{", "reason=\"deadline\""]);
    let upstream = |parts: &'static [&'static str], upstream: bool| {
        let named = |(name, _): &&(String, f64)| {
            parts.iter().all(|p| name.contains(p)) && name.contains("upstream") == upstream
        };
        after.iter().filter(named).map(|(_, value)| value).sum::<f64>()
    };
    for (what, side) in [("latency of nodes", true), ("latency of the proxy itself", false)] {
        if upstream(&["_seconds_bucket{", "le="], side) <= 0.0 {
            wrong.push(format!("{what}: no histogram in seconds that counts"));
        }
    }
    for (what, parts) in [
        ("token age", &["token_age_seconds"][..]),
        ("connections by state", &["upstream_connections{state="]),
        ("nodes in backoff", &["nodes_in_backoff"]),
    ] {
        if sum(&after, parts).is_none() {
            wrong.push(format!("{what}: no metric named like {parts:?}"));
        }
    }
    let backoff = sum(&backing_off, &["nodes_in_backoff"]).unwrap_or(0.0);
    if backoff <= 0.0 {
        wrong.push(format!("backoff of a node that refuses AUTH: {backoff}"));
    }
    let backoff = sum(&after, &["nodes_in_backoff"]).unwrap_or(0.0);
    if backoff != 0.0 {
        wrong.push(format!("backoff of a node that is well: {backoff}"));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Commands and renewals leave no line; a fault leaves one when it begins and one when it ends, not
/// one for each attempt.
#[tokio::test]
async fn one_log_line_per_change_and_none_per_command() {
    let args = [
        "--max-connection-age=2s",
        "--op-timeout=5s",
        "--auth-backoff-min=50ms",
        "--auth-backoff-max=200ms",
    ];
    let bed = bed(HOUR, &args).await;
    touch_all(&bed).await;
    let front = bed.cluster.member(0).front();
    let mut client = bed.client(Proto::Resp2).await;
    let counter = format!("{}:count", key_in_slot(0));
    let lines = || bed.proxy.logs().lines().map(str::to_owned).collect::<Vec<_>>();
    let mut seen = lines().len();
    let mut new_lines = || {
        let lines = lines();
        let new = lines[seen..].to_vec();
        seen = lines.len();
        new
    };
    let start = Instant::now();
    let mut n = 0;
    while start.elapsed() < Duration::from_secs(3) {
        n += 1;
        client.cmd(&["INCR", &counter]).await.int();
    }
    let calm = new_lines();
    assert!(calm.len() <= 2, "{n} commands and replacements of connections: {calm:#?}");

    front.faults().fail_auth(AuthFault::IamExhausted, u32::MAX);
    front.faults().close_all();
    client.send(&["GET", &counter]).await;
    let fault = Instant::now();
    wait_for("ten refused AUTHs", Duration::from_secs(4), async || {
        front.counts().auths_failed >= 10
    })
    .await;
    front.faults().heal_auth();
    assert_eq!(client.read().await, Value::bulk(n.to_string()));
    assert!(renewals(&since(front, fault), false) <= 10);
    let told = new_lines();
    assert!((2..=6).contains(&told.len()), "ten refused AUTHs: {told:#?}");
    assert!(told.iter().any(|line| line.contains("ERR_IAM_EXHAUSTED")), "{told:#?}");
}

#[tokio::test]
async fn a_failing_token_source_is_logged_once() {
    let args = ["--auth-backoff-min=50ms", "--auth-backoff-max=200ms"];
    let bed = bed(Duration::from_secs(1), &args).await;
    touch_all(&bed).await;
    bed.metadata.set_fault(Some(MetadataFault::InternalError));
    let before = bed.metadata.token_requests();
    let seen = bed.proxy.logs().lines().count();
    wait_for("ten failed requests", Duration::from_secs(10), async || {
        bed.metadata.token_requests() >= before + 10
    })
    .await;
    bed.metadata.set_fault(None);
    bed.proxy.wait_ready().await;
    let logs = bed.proxy.logs();
    let told: Vec<_> = logs.lines().skip(seen).collect();
    let failures = told.iter().filter(|line| line.contains("HTTP 500")).count();
    assert!((1..=3).contains(&failures), "ten failed requests: {told:#?}");
}
