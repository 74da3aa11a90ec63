//! Faults of AUTH: waited out inside the deadline, shared by a node, named when they last, and
//! never a storm.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{HOUR, bed, since};
use crate::support::bed::Bed;
use crate::support::client::{Client, Proto};
use crate::support::faults::{AuthFault, AuthScope};
use crate::support::front::IamFront;
use crate::support::front_events::{Event, What};
use crate::support::resp::{self, Value};
use crate::support::slots::{key_in_slot, keys_in_slot};
use crate::support::wait::wait_for;

both_at_once!(commands_rejected_by_noauth_are_sent_again_in_order);
both_at_once!(noauth_while_no_auth_succeeds_is_waited_out);

const UNKNOWN: &str = "may have been executed";

/// Times of refused AUTHs after `start`.
fn refusals(front: &IamFront, start: Instant) -> Vec<Duration> {
    let refused = |e: &&Event| matches!(e.what, What::Auth { ok: false, .. });
    since(front, start).iter().filter(refused).map(|e| e.at - start).collect()
}

/// Refused AUTHs after `start` that began when a first one had been answered: before that nobody
/// can know.
fn repeated(front: &IamFront, start: Instant) -> Vec<Duration> {
    let mut times = refusals(front, start);
    let known = times.first().copied().unwrap_or_default() + Duration::from_millis(50);
    times.retain(|time| *time > known);
    times
}

/// Twenty clients of one node, half of which need a connection of their own.
async fn twenty(bed: &Bed, key: &str) -> JoinSet<(Value, Duration)> {
    let mut clients = JoinSet::new();
    for n in 0..20 {
        let proto = if n % 4 < 2 { Proto::Resp2 } else { Proto::Resp3 };
        let mut client = bed.client(proto).await;
        let command =
            if n % 2 == 0 { cmd!["GET", key] } else { cmd!["BLPOP", format!("{key}:queue"), "0"] };
        clients.spawn(async move {
            let start = Instant::now();
            (client.cmd(&command).await, start.elapsed())
        });
    }
    clients
}

async fn a_quota_is_shared_by_a_node(fault: AuthFault, code: &str) {
    let args = ["--op-timeout=2s", "--auth-backoff-min=100ms", "--auth-backoff-max=1s"];
    let bed = bed(HOUR, &args).await;
    let front = bed.cluster.member(0).front();
    let (key, elsewhere) = (key_in_slot(0), key_in_slot(9000));
    let mut client = bed.client(Proto::Resp2).await;
    assert_eq!(client.cmd(&["SET", &key, "v"]).await, Value::ok());
    let clients = twenty(&bed, &key);
    front.faults().fail_auth(fault, u32::MAX);
    front.faults().close_all();
    let start = Instant::now();
    let mut clients = clients.await;
    while let Some(ended) = clients.join_next().await {
        let (reply, took) = ended.expect("a client");
        let Value::Error(text) = &reply else { panic!("expected an error, got {reply:?}") };
        assert!(text.contains(code), "the error names its cause: {text}");
        assert!(text.contains(&front.addr().to_string()), "and the node: {text}");
        let deadline = Duration::from_millis(1900)..Duration::from_millis(3500);
        assert!(deadline.contains(&took), "waited for {took:?} with a deadline of two seconds");
    }
    let seconds = start.elapsed().as_secs_f64();
    let attempts = repeated(front, start);
    // 100, 200, 400, 800 ms and a second each, with jitter, however many wait.
    let most = 4 + (4.0 * seconds) as usize;
    let (first, count) = (refusals(front, start).len() - attempts.len(), attempts.len());
    assert!(
        (1..=most).contains(&count),
        "20 clients: {first} AUTHs at first and {count} more in {seconds} s: {attempts:.0?}"
    );
    assert_eq!(client.cmd(&["SET", &elsewhere, "v"]).await, Value::ok(), "other nodes go on");
    // A command that waits when the fault ends is served within the longest backoff.
    client.send(&["GET", &key]).await;
    client.expect_silence(Duration::from_millis(200)).await;
    front.faults().heal_auth();
    let healed = Instant::now();
    assert_eq!(client.read().await, Value::bulk("v"));
    let took = healed.elapsed();
    assert!(took < Duration::from_millis(1500), "recovered after {took:?}");
}

/// Memorystore for Valkey says less when its quota is exhausted: the code in parentheses counts.
#[tokio::test]
async fn a_failing_iam_is_asked_once_for_all_of_a_node_and_named() {
    tokio::join!(
        a_quota_is_shared_by_a_node(AuthFault::IamExhausted, "ERR_IAM_EXHAUSTED"),
        a_quota_is_shared_by_a_node(AuthFault::IamExhaustedShort, "ERR_IAM_EXHAUSTED"),
        a_quota_is_shared_by_a_node(AuthFault::IamOther, "ERR_IAM_OTHER"),
    );
}

#[tokio::test]
async fn wrongpass_refreshes_the_token_once_then_retries_slowly_and_says_what_to_check() {
    let args = ["--op-timeout=2s", "--auth-backoff-min=100ms", "--auth-backoff-max=2s"];
    let bed = bed(HOUR, &args).await;
    let front = bed.cluster.member(0).front();
    let key = key_in_slot(0);
    let mut client = bed.client(Proto::Resp2).await;
    assert_eq!(client.cmd(&["SET", &key, "v"]).await, Value::ok());
    let requests = bed.metadata.token_requests();
    front.faults().fail_auth(AuthFault::WrongPass, u32::MAX);
    front.faults().close_all();
    let start = Instant::now();
    let mut texts = Vec::new();
    while start.elapsed() < Duration::from_secs(5) {
        match client.cmd(&["GET", &key]).await {
            Value::Error(text) => texts.push(text),
            other => panic!("expected an error, got {other:?}"),
        }
    }
    let attempts = repeated(front, start);
    // Waits of 100, 200, 400, 800, 1600 ms and then two seconds at most, jittered down to 100 ms: eight
    // on the average. Who retries at the shortest wait makes fifty.
    assert!((1..=16).contains(&attempts.len()), "AUTHs again and again: {attempts:.0?}");
    let requests = bed.metadata.token_requests() - requests;
    assert!((1..=2).contains(&requests), "{requests} tokens were asked for in five seconds");
    for text in texts {
        for part in [
            "WRONGPASS",
            &front.addr().to_string(),
            "proxy@test-project.iam.gserviceaccount.com",
            "roles/redis.dbConnectionUser",
            "redis.clusters.connect",
        ] {
            assert!(text.contains(part), "the error names {part}: {text}");
        }
    }
    front.faults().heal_auth();
    wait_for("the grant to be noticed", Duration::from_secs(5), async || {
        client.cmd(&["GET", &key]).await == Value::bulk("v")
    })
    .await;
}

/// A token that was revoked is replaced at once, however long the backoff.
#[tokio::test]
async fn a_new_token_ends_the_wait_at_once() {
    let args = ["--op-timeout=4s", "--auth-backoff-min=10s", "--auth-backoff-max=30s"];
    let bed = bed(HOUR, &args).await;
    let keys = [0, 8000, 16000].map(key_in_slot);
    let mut client = bed.client(Proto::Resp2).await;
    for key in &keys {
        assert_eq!(client.cmd(&["SET", key, "v"]).await, Value::ok());
    }
    bed.metadata.tokens().revoke_all();
    for front in bed.cluster.fronts() {
        front.faults().close_all();
    }
    let start = Instant::now();
    for key in &keys {
        assert_eq!(client.cmd(&["GET", key]).await, Value::bulk("v"));
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(2), "recovered after {took:?}");
}

async fn commands_rejected_by_noauth_are_sent_again_in_order(proto: Proto) {
    let bed = bed(HOUR, &[]).await;
    let front = bed.cluster.member(0).front();
    let keys = keys_in_slot(0, 8);
    let mut sessions = JoinSet::new();
    for key in keys {
        let mut client = bed.client(proto).await;
        sessions.spawn(async move {
            for round in 0..60i64 {
                let mut commands = Vec::new();
                let mut wanted = Vec::new();
                for n in round * 20 + 1..=round * 20 + 20 {
                    commands.push(cmd!["INCR", &key]);
                    wanted.push(Value::Int(n));
                    commands.push(cmd!["APPEND", format!("{key}:log"), format!("{n:06};")]);
                    wanted.push(Value::Int(n * 7));
                    commands.push(cmd!["GET", &key]);
                    wanted.push(Value::bulk(n.to_string()));
                }
                let got = client.pipeline(&commands).await;
                let wrong = got.iter().zip(&wanted).position(|(got, wanted)| got != wanted);
                if let Some(at) = wrong {
                    panic!("{key}, round {round}: reply {at} is {:?}", got[at]);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let log = client.cmd(&["GET", &format!("{key}:log")]).await.text();
            assert_eq!(log, (1..=1200).map(|n| format!("{n:06};")).collect::<String>());
        });
    }
    // Again and again under way, until all are done.
    loop {
        match tokio::time::timeout(Duration::from_millis(130), sessions.join_next()).await {
            Err(_) => front.faults().expire_all(),
            Ok(Some(ended)) => ended.expect("a session"),
            Ok(None) => break,
        }
    }
    assert!(front.counts().rejected >= 20, "only {} were rejected", front.counts().rejected);
    assert_eq!(front.counts().unauthenticated, 0);
}

/// What NOAUTH rejected did not run, so nobody is told that it may have: it waits for the AUTH, also
/// when that is refused for a while.
async fn noauth_while_no_auth_succeeds_is_waited_out(proto: Proto) {
    tokio::join!(
        noauth_waited_out(proto, AuthFault::IamOther),
        noauth_waited_out(proto, AuthFault::IamExhausted),
        noauth_waited_out(proto, AuthFault::WrongPass),
    );
}

async fn noauth_waited_out(proto: Proto, fault: AuthFault) {
    let args = ["--auth-backoff-min=50ms", "--auth-backoff-max=250ms"];
    let bed = bed(HOUR, &args).await;
    let front = bed.cluster.member(0).front();
    let start = Instant::now();
    let mut sessions = JoinSet::new();
    for key in keys_in_slot(0, 6) {
        let mut client = bed.client(proto).await;
        sessions.spawn(async move {
            let mut n = 0;
            while start.elapsed() < Duration::from_secs(3) {
                n += 1;
                let reply = client.cmd(&["INCR", &key]).await;
                assert_eq!(reply, Value::Int(n), "{fault:?}");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    front.faults().fail_auth(fault, u32::MAX);
    front.faults().expire_all();
    wait_for("refused AUTHs", Duration::from_secs(3), async || refusals(front, start).len() >= 3)
        .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    front.faults().heal_auth();
    while let Some(ended) = sessions.join_next().await {
        ended.expect("a session");
    }
}

/// A transaction and a wait, piecemeal, on a connection whose authentication ends in between.
#[tokio::test]
async fn noauth_between_the_parts_of_a_transaction_is_not_seen() {
    let bed = bed(HOUR, &[]).await;
    let front = bed.cluster.member(0).front();
    let key = key_in_slot(0);
    let mut client = bed.client(Proto::Resp2).await;
    let queued = Value::Simple("QUEUED".into());
    for n in 1..=5 {
        front.faults().expire_all();
        assert_eq!(client.cmd(&["MULTI"]).await, Value::ok());
        front.faults().expire_all();
        assert_eq!(client.cmd(&["INCR", &key]).await, queued);
        front.faults().expire_all();
        assert_eq!(client.cmd(&["EXEC"]).await, Value::Array(vec![Value::Int(n)]));
        front.faults().expire_all();
        let push = client.cmd(&["RPUSH", &format!("{key}:queue"), "e"]).await;
        assert_eq!(push, Value::Int(1));
        front.faults().expire_all();
        let popped = client.cmd(&["BLPOP", &format!("{key}:queue"), "0"]).await;
        assert_eq!(popped.items()[1], Value::bulk("e"));
    }
}

/// Connections that end during AUTH, or between AUTH and its reply, or in the middle of the reply,
/// before any command was sent on them: clients notice nothing.
#[tokio::test]
async fn connections_closed_while_they_are_made_cost_only_time() {
    tokio::join!(closed_while_made(AuthFault::Close), closed_while_made(AuthFault::HalfReply));
}

async fn closed_while_made(fault: AuthFault) {
    let bed = Bed::start().await;
    let front = bed.cluster.member(0).front();
    let key = key_in_slot(0);
    let mut client = bed.client(Proto::Resp3).await;
    for n in 1..=5 {
        front.faults().fail_auth_of(AuthScope::First, fault, 3);
        front.faults().close_all();
        wait_for("the connections to be closed", Duration::from_secs(5), async || {
            front.counts().connections == 0 || front.counts().auths_failed > 0
        })
        .await;
        let reply = client.cmd(&["GET", &key]).await;
        assert!(!matches!(reply, Value::Error(_)), "{fault:?}: {reply:?}");
        assert_eq!(client.cmd(&["INCR", &key]).await, Value::Int(n), "{fault:?}");
    }
    assert!(front.counts().auths_failed >= 3, "{fault:?} happened");
}

/// Connections in use that end or hang during a renewal: reads are answered, writes ran once or
/// are reported.
#[tokio::test]
async fn connections_lost_during_a_renewal_lose_no_read_and_double_no_write() {
    tokio::join!(
        lost_during_a_renewal(AuthFault::Close),
        lost_during_a_renewal(AuthFault::HalfReply),
        lost_during_a_renewal(AuthFault::Stall),
    );
}

async fn lost_during_a_renewal(fault: AuthFault) {
    let args = ["--max-connection-age=0", "--connect-timeout=500ms"];
    let bed = bed(Duration::from_secs(1), &args).await;
    let front = bed.cluster.member(0).front();
    let key = key_in_slot(0);
    let mut client = bed.client(Proto::Resp2).await;
    let start = Instant::now();
    front.faults().fail_auth_of(AuthScope::Renewal, fault, u32::MAX);
    let (mut value, mut open) = (0, 0);
    while refusals(front, start).len() < 3 {
        assert!(start.elapsed() < Duration::from_secs(30), "renewals happen");
        let got = counted(&mut client, &key).await;
        let (incr, get) = (&got[0], &got[1]);
        match incr {
            Value::Int(n) => {
                let least = value + 1;
                assert!((least..=least + open).contains(n), "{fault:?}: {n} after {value}");
                (value, open) = (*n, 0);
            }
            Value::Error(text) if text.contains(UNKNOWN) => open += 1,
            other => panic!("{fault:?}: INCR answered {other:?}"),
        }
        let read = match get {
            Value::Null => 0,
            Value::Bulk(text) => String::from_utf8_lossy(text).parse().expect("a number"),
            other => panic!("{fault:?}: GET answered {other:?}"),
        };
        assert!((value..=value + open).contains(&read), "{fault:?}: {read} after {value}");
    }
    front.faults().heal_auth();
    // It may stand behind the last AUTH that hangs.
    let unknown = |reply: &Value| matches!(reply, Value::Error(text) if text.contains(UNKNOWN));
    let mut reply = client.cmd(&["INCR", &key]).await;
    if fault == AuthFault::Stall && unknown(&reply) {
        reply = client.cmd(&["INCR", &key]).await;
    }
    assert!(matches!(reply, Value::Int(_)), "{fault:?}: {reply:?}");
}

async fn counted(client: &mut Client, key: &str) -> Vec<Value> {
    let commands = [cmd!["INCR", key], cmd!["GET", key]];
    let bytes: Vec<u8> = commands.iter().flat_map(|c| resp::encode(c)).collect();
    client.pipeline_raw(&bytes, 2).await
}

/// NOPERM is the server's word to the client, not a fault of AUTH.
#[tokio::test]
async fn noperm_passes_through() {
    let bed = Bed::start().await;
    let front = bed.cluster.member(0).front();
    let mut client = bed.client(Proto::Resp2).await;
    let key = key_in_slot(0);
    client.cmd(&["SET", &key, "v"]).await;
    let noperm = "NOPERM this user has no permissions to run the 'get' command";
    front.faults().answer_error("GET", noperm, 1);
    let (seen, auths) = (front.seen("GET"), front.counts().auths_ok);
    assert_eq!(client.cmd(&["GET", &key]).await, Value::Error(noperm.into()));
    assert_eq!(front.seen("GET"), seen + 1, "not sent again");
    assert_eq!(front.counts().auths_ok, auths);
    assert_eq!(client.cmd(&["GET", &key]).await, Value::bulk("v"));
}
