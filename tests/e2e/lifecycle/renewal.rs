//! Renewal in band: what it costs, and that a refused one costs nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::check::{Channel, Fate, Hearing};
use super::{bed, renewals, since};
use crate::support::bed::Bed;
use crate::support::client::Proto;
use crate::support::faults::{AuthFault, AuthScope, OnExpiry};
use crate::support::resp::Value;
use crate::support::slots::key_in_slot;
use crate::support::wait::wait_for;

both_at_once!(a_subscriber_misses_nothing_when_its_connection_is_replaced);

const BACKOFF: [&str; 3] =
    ["--max-connection-age=0", "--auth-backoff-min=100ms", "--auth-backoff-max=1s"];

/// A live connection goes on with its old authentication, and the AUTH is tried again, but not in
/// a storm.
async fn refused_renewals_cost_nothing(fault: AuthFault) {
    let bed = bed(Duration::from_secs(2), &BACKOFF).await;
    let front = bed.cluster.member(0).front();
    let key = key_in_slot(0);
    let mut clients = Vec::new();
    // Shared pipes of both versions, and leases.
    for n in 0..6 {
        let proto = if n % 2 == 0 { Proto::Resp2 } else { Proto::Resp3 };
        let mut client = bed.client(proto).await;
        assert_eq!(client.cmd(&["WATCH", &key]).await, Value::ok());
        assert_eq!(client.cmd(&["GET", &format!("{key}:{n}")]).await, Value::Null);
        assert_eq!(client.cmd(&["UNWATCH"]).await, Value::ok());
        clients.push(client);
    }
    front.faults().fail_auth_of(AuthScope::Renewal, fault, u32::MAX);
    let failing = Instant::now();
    wait_for("a refused renewal", Duration::from_secs(10), async || {
        renewals(&since(front, failing), false) > 0
    })
    .await;
    let start = Instant::now();
    let (dials, requests) = (front.counts().dials, bed.metadata.token_requests());
    let mut n = 0;
    while start.elapsed() < Duration::from_secs(3) {
        n += 1;
        for (c, client) in clients.iter_mut().enumerate() {
            let reply = client.cmd(&["INCR", &format!("{key}:{c}")]).await;
            assert_eq!(reply, Value::Int(n), "the old authentication holds");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let events = since(front, start);
    let refused = renewals(&events, false);
    // 100 ms, 200 ms, 400 ms, 800 ms and a second again and again make six; each of two new tokens
    // may be tried at once, and jitter shortens.
    assert!((2..=20).contains(&refused), "{refused} AUTHs in three seconds");
    assert_eq!(front.counts().dials, dials, "the connections were kept");
    let requests = bed.metadata.token_requests() - requests;
    assert!(requests <= 8, "{requests} tokens asked for in three seconds");
    front.faults().heal_auth();
    let healed = Instant::now();
    wait_for("a good renewal", Duration::from_secs(4), async || {
        renewals(&since(front, healed), true) > 0
    })
    .await;
    for (c, client) in clients.iter_mut().enumerate() {
        let reply = client.cmd(&["INCR", &format!("{key}:{c}")]).await;
        assert_eq!(reply, Value::Int(n + 1));
    }
}

#[tokio::test]
async fn refused_renewals() {
    tokio::join!(
        refused_renewals_cost_nothing(AuthFault::WrongPass),
        refused_renewals_cost_nothing(AuthFault::IamExhausted),
        refused_renewals_cost_nothing(AuthFault::IamOther),
    );
}

/// With a round trip of 300 ms no command takes three, whether its connection renews or is replaced.
async fn no_command_waits_beyond_a_round_trip(args: &[&str]) {
    const ROUND_TRIP: Duration = Duration::from_millis(300);
    let bed = bed(Duration::from_secs(2), args).await;
    let (slow, key) = (bed.cluster.member(0).front(), key_in_slot(0));
    let mut client = bed.client(Proto::Resp2).await;
    assert_eq!(client.cmd(&["SET", &key, "0"]).await, Value::ok());
    slow.faults().set_reply_delay(ROUND_TRIP);
    let start = Instant::now();
    let mut n = 0;
    while renewals(&since(slow, start), true) < 4 || start.elapsed() < Duration::from_secs(5) {
        assert!(start.elapsed() < Duration::from_secs(30), "renewals happen");
        n += 1;
        let sent = Instant::now();
        assert_eq!(client.cmd(&["INCR", &key]).await, Value::Int(n));
        let took = sent.elapsed();
        let most = ROUND_TRIP * 2 + Duration::from_millis(250);
        assert!(took < most, "INCR {n} took {took:?}");
    }
}

#[tokio::test]
async fn a_renewal_or_a_replacement_delays_a_command_by_one_round_trip_at_most() {
    tokio::join!(
        no_command_waits_beyond_a_round_trip(&["--max-connection-age=0"]),
        no_command_waits_beyond_a_round_trip(&["--max-connection-age=3s"]),
    );
}

/// A connection that sessions borrow in turn says AUTH again when it comes back, so its
/// authentication never ends.
#[tokio::test]
async fn borrowed_connections_renew_when_they_come_back() {
    let bed = bed(Duration::from_secs(2), &["--max-connection-age=0"]).await;
    let front = bed.cluster.member(0).front();
    front.faults().set_auth_ttl(Some((Duration::from_secs(3), OnExpiry::NoAuth)));
    let key = key_in_slot(0);
    let mut client = bed.client(Proto::Resp2).await;
    let start = Instant::now();
    for n in 1.. {
        assert_eq!(client.cmd(&["WATCH", &key]).await, Value::ok());
        assert_eq!(client.cmd(&["MULTI"]).await, Value::ok());
        assert_eq!(client.cmd(&["INCR", &key]).await, Value::Simple("QUEUED".into()));
        assert_eq!(client.cmd(&["EXEC"]).await, Value::Array(vec![Value::Int(n)]));
        tokio::time::sleep(Duration::from_millis(50)).await;
        if start.elapsed() > Duration::from_secs(5) {
            break;
        }
    }
    assert!(renewals(&since(front, start), true) >= 2);
    assert_eq!(front.counts().rejected, 0, "an authentication ended unrenewed");
}

/// What a front sees of commands behind renewals: each once and in order.
#[tokio::test]
async fn pipelines_through_renewals_keep_their_order() {
    let bed = bed(Duration::from_secs(1), &["--max-connection-age=1500ms"]).await;
    let key = key_in_slot(0);
    let front = bed.cluster.member(0).front();
    let start = Instant::now();
    let mut client = bed.client(Proto::Resp3).await;
    let mut n = 0i64;
    while renewals(&since(front, start), true) < 5 {
        assert!(start.elapsed() < Duration::from_secs(30), "renewals happen");
        let mut commands = Vec::new();
        let mut wanted = Vec::new();
        for _ in 0..200 {
            n += 1;
            commands.push(cmd!["INCR", &key]);
            wanted.push(Value::Int(n));
            commands.push(cmd!["ECHO", n.to_string()]);
            wanted.push(Value::bulk(n.to_string()));
        }
        assert!(client.pipeline(&commands).await == wanted, "out of order near {n}");
    }
}

/// The subscribed connections of all nodes, by id.
async fn listening(bed: &Bed) -> BTreeSet<(usize, String)> {
    let mut ids = BTreeSet::new();
    for (index, member) in bed.cluster.members().iter().enumerate() {
        let list = member.node.run(&["CLIENT", "LIST"]).await.text();
        for line in list.lines() {
            let subscribed = line.split(' ').any(|word| {
                let (name, count) = word.split_once('=').unwrap_or_default();
                ["sub", "psub", "ssub"].contains(&name) && count != "0"
            });
            if subscribed {
                ids.insert((index, line.split(' ').next().unwrap_or_default().to_owned()));
            }
        }
    }
    ids
}

/// Publishes numbers for `time` and lets the checker judge what subscribers of all three manners
/// heard. Returns the subscribed connections that outlived it all.
async fn nothing_is_missed(bed: &Bed, proto: Proto, time: Duration) -> BTreeSet<(usize, String)> {
    let subscriptions =
        [("SUBSCRIBE", "{s}news"), ("PSUBSCRIBE", "{s}n*"), ("SSUBSCRIBE", "{s}news")];
    let start = Instant::now();
    let mut hearing = tokio::task::JoinSet::new();
    for (n, (command, topic)) in subscriptions.into_iter().enumerate() {
        let mut client = bed.client(proto).await;
        let confirmed = client.cmd(&[command, topic]).await;
        assert_eq!(confirmed.items()[2], Value::Int(1));
        hearing.spawn(async move {
            let mut heard = Vec::new();
            loop {
                let message = client.read().await;
                let payload = message.items().last().expect("a payload").text();
                let Ok(number) = payload.parse() else { return (n, heard) };
                heard.push((start.elapsed(), number));
            }
        });
    }
    let first = listening(bed).await;
    assert!(!first.is_empty(), "subscribed connections show in CLIENT LIST");
    let mut publisher = bed.client(Proto::Resp2).await;
    let mut published = [Vec::new(), Vec::new()];
    let mut number = 0u64;
    while start.elapsed() < time {
        number += 1;
        for (command, published) in ["PUBLISH", "SPUBLISH"].into_iter().zip(&mut published) {
            let at = start.elapsed();
            let reply = publisher.cmd(&[command, "{s}news", &number.to_string()]).await;
            assert!(matches!(reply, Value::Int(_)), "{command} answered {reply:?}");
            published.push((at, number, Fate::Done));
        }
        // So dense that a subscription renewed from scratch misses some.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let last = listening(bed).await;
    for command in ["PUBLISH", "SPUBLISH"] {
        publisher.cmd(&[command, "{s}news", "end"]).await;
    }
    let [all, sharded] = published.map(|published| Channel { published, calm_from: time / 2 });
    let limits = Hearing {
        longest_silence: Duration::from_secs(1),
        fresh_within: Duration::from_secs(1),
        gaps: false,
    };
    let mut objections = Vec::new();
    while let Some(ended) = hearing.join_next().await {
        let (n, heard) = ended.expect("a subscriber");
        let channel = if n == 2 { &sharded } else { &all };
        assert!(heard.first().is_some_and(|h| h.1 == 1), "subscribed before the first message");
        let wrong = channel.objections(&heard, limits);
        objections.extend(wrong.into_iter().map(|o| format!("{}: {o}", subscriptions[n].0)));
    }
    assert!(objections.is_empty(), "{objections:#?}");
    first.intersection(&last).cloned().collect()
}

async fn in_band(proto: Proto, expiry: OnExpiry) {
    let bed = bed(Duration::from_secs(2), &["--max-connection-age=0"]).await;
    for front in bed.cluster.fronts() {
        front.faults().set_auth_ttl(Some((Duration::from_secs(3), expiry)));
    }
    let kept = nothing_is_missed(&bed, proto, Duration::from_secs(7)).await;
    assert!(!kept.is_empty(), "a connection was replaced though its age is not limited");
}

#[tokio::test]
async fn a_subscriber_misses_nothing_while_its_authentications_are_renewed() {
    tokio::join!(
        in_band(Proto::Resp2, OnExpiry::NoAuth),
        in_band(Proto::Resp2, OnExpiry::Close),
        in_band(Proto::Resp3, OnExpiry::Close),
    );
}

/// Every connection is replaced at an age, so that it does not matter whether a repeated AUTH
/// prolongs the first: here it does not, and the front closes what is older than three seconds.
async fn a_subscriber_misses_nothing_when_its_connection_is_replaced(proto: Proto) {
    let bed = bed(Duration::from_secs(2), &["--max-connection-age=2s"]).await;
    for front in bed.cluster.fronts() {
        front.faults().set_first_auth_counts(true);
        front.faults().set_auth_ttl(Some((Duration::from_secs(3), OnExpiry::Close)));
    }
    let kept = nothing_is_missed(&bed, proto, Duration::from_secs(7)).await;
    assert!(kept.is_empty(), "connections that listen were never replaced: {kept:?}");
    for front in bed.cluster.fronts() {
        let logs = front.logs();
        for cut in front.events().iter().filter(|event| event.is_cut()) {
            let listened = logs[cut.connection as usize].iter().any(|c| c.contains("SUBSCRIBE "));
            assert!(!listened, "a connection that listened was not replaced in time");
        }
    }
}
