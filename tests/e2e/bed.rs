//! The bed itself: what the other suites take for granted about fronts, tokens, redirects and
//! migrations, asked straight from the fronts without the proxy.

use std::time::Duration;

use crate::support::client::Client;
use crate::support::clock::WallClock;
use crate::support::cluster::{Cluster, ClusterOptions, Failover};
use crate::support::faults::{
    AuthFault, AuthScope, IAM_EXHAUSTED, IAM_OTHER, NOAUTH, OnExpiry, WRONGPASS,
};
use crate::support::front_events::{Event, What};
use crate::support::http;
use crate::support::metadata::{FakeMetadata, MetadataFault};
use crate::support::resp::Value;
use crate::support::slots::{key_in_slot, keys_in_slot, slot_of};
use crate::support::wait::wait_for;

const HOUR: Duration = Duration::from_secs(3600);

async fn cluster(options: ClusterOptions) -> (FakeMetadata, Cluster) {
    let metadata = FakeMetadata::start(HOUR).await;
    let cluster = Cluster::start(options, metadata.tokens()).await;
    (metadata, cluster)
}

async fn login(cluster: &Cluster, metadata: &FakeMetadata, member: usize) -> Client {
    let mut client = Client::connect(cluster.member(member).addr()).await;
    let token = metadata.tokens().mint(HOUR);
    assert_eq!(client.cmd(&["AUTH", "default", &token]).await, Value::ok());
    client
}

#[tokio::test]
async fn the_front_demands_a_live_token() {
    let (metadata, cluster) = cluster(ClusterOptions::default()).await;
    let key = key_in_slot(1);
    let mut client = Client::connect(cluster.member(0).addr()).await;
    assert_eq!(client.cmd(&["GET", &key]).await, Value::Error(NOAUTH.into()));
    assert!(client.cmd(&["HELLO", "3"]).await.is_error("NOAUTH HELLO must be called"));
    assert_eq!(client.cmd(&["AUTH", "wrong"]).await, Value::Error(WRONGPASS.into()));
    let short = metadata.tokens().mint(Duration::ZERO);
    assert_eq!(client.cmd(&["AUTH", "default", &short]).await, Value::Error(WRONGPASS.into()));
    let token = metadata.tokens().mint(HOUR);
    assert_eq!(client.cmd(&["AUTH", "someone", &token]).await, Value::Error(WRONGPASS.into()));
    assert!(client.cmd(&["AUTH", "a", "b", "c"]).await.is_error("ERR syntax error"));
    assert_eq!(client.cmd(&["AUTH", &token]).await, Value::ok());
    assert_eq!(client.cmd(&["SET", &key, "v"]).await, Value::ok());
    let mut hello = Client::connect(cluster.member(0).addr()).await;
    let reply = hello.cmd(&["HELLO", "3", "AUTH", "default", &token, "SETNAME", "me"]).await;
    assert_eq!(reply.field("proto"), Some(Value::Int(3)));
    assert_eq!(hello.cmd(&["CLIENT", "GETNAME"]).await, Value::bulk("me"));
    let counts = cluster.member(0).front().counts();
    assert_eq!((counts.dials, counts.auths_ok, counts.auths_failed), (2, 2, 4));
    assert_eq!((counts.commands, counts.unauthenticated, counts.connections), (2, 1, 2));
    assert_eq!(cluster.member(0).front().seen("SET"), 1);
    drop(client);
    drop(hello);
    wait_for("connections to be counted down", Duration::from_secs(5), async || {
        cluster.member(0).front().counts().connections == 0
    })
    .await;
}

#[tokio::test]
async fn the_token_never_reaches_the_node_and_in_band_auth_keeps_the_order() {
    let (metadata, cluster) = cluster(ClusterOptions::default()).await;
    let key = key_in_slot(1);
    let mut client = login(&cluster, &metadata, 0).await;
    let token = metadata.tokens().mint(HOUR);
    let replies = client
        .pipeline(&[
            cmd!["SET", &key, "1"],
            cmd!["AUTH", "default", &token],
            cmd!["INCR", &key],
            cmd!["AUTH", "default", "stale"],
            cmd!["HELLO", "3", "AUTH", "default", &token],
            cmd!["GET", &key],
        ])
        .await;
    assert_eq!(replies[..3], [Value::ok(), Value::ok(), Value::Int(2)]);
    assert_eq!(replies[3], Value::Error(WRONGPASS.into()));
    assert!(matches!(replies[4], Value::Map(_)));
    assert_eq!(replies[5], Value::bulk("2"));
    let acl_log = cluster.member(0).node.run(&["ACL", "LOG"]).await;
    assert_eq!(acl_log, Value::Array(vec![]), "a token was shown to the node");
}

#[tokio::test]
async fn moved_ask_and_discovery_lead_through_fronts() {
    let (metadata, cluster) = cluster(ClusterOptions::default()).await;
    let mut client = login(&cluster, &metadata, 0).await;
    let key = key_in_slot(16_000);
    let expected = format!("MOVED 16000 {}", cluster.member(2).addr());
    assert_eq!(client.cmd(&["GET", &key]).await, Value::Error(expected));
    let slots = client.cmd(&["CLUSTER", "SLOTS"]).await;
    let mut ports: Vec<_> = slots.items().iter().map(|r| r.items()[2].items()[1].int()).collect();
    ports.sort_unstable();
    let mut fronts: Vec<_> = cluster.fronts().map(|f| i64::from(f.addr().port())).collect();
    fronts.sort_unstable();
    assert_eq!(ports, fronts);
    let shards = client.cmd(&["CLUSTER", "SHARDS"]).await;
    assert_eq!(shards.items().len(), 3);
}

#[tokio::test]
async fn a_migration_passes_through_ask_and_tryagain() {
    let (metadata, cluster) = cluster(ClusterOptions::default()).await;
    let keys = keys_in_slot(5, 4);
    let mut source = login(&cluster, &metadata, 0).await;
    let mut target = login(&cluster, &metadata, 1).await;
    for key in &keys {
        assert_eq!(source.cmd(&["SET", key, "v"]).await, Value::ok());
    }
    let mut migration = cluster.begin_migration(5, 1).await;
    assert_eq!(source.cmd(&["GET", &keys[0]]).await, Value::bulk("v"));
    migration.move_named(&keys[..1]).await;
    let ask = format!("ASK 5 {}", cluster.member(1).addr());
    assert_eq!(source.cmd(&["GET", &keys[0]]).await, Value::Error(ask));
    assert!(source.cmd(&["MGET", &keys[0], &keys[1]]).await.is_error("TRYAGAIN"));
    assert!(target.cmd(&["GET", &keys[0]]).await.is_error("MOVED"));
    assert_eq!(target.cmd(&["ASKING"]).await, Value::ok());
    assert_eq!(target.cmd(&["GET", &keys[0]]).await, Value::bulk("v"));
    while migration.move_keys(2).await > 0 {}
    migration.finish().await;
    assert_eq!(target.cmd(&["GET", &keys[3]]).await, Value::bulk("v"));
    let moved = format!("MOVED 5 {}", cluster.member(1).addr());
    assert_eq!(source.cmd(&["GET", &keys[3]]).await, Value::Error(moved));
    let back = cluster.begin_migration(5, 0).await;
    back.abandon().await;
    assert_eq!(target.cmd(&["GET", &keys[3]]).await, Value::bulk("v"));
}

#[tokio::test]
async fn replicas_follow_through_fronts_and_take_over() {
    let options = ClusterOptions { replicas: 1, ..ClusterOptions::default() };
    let (metadata, cluster) = cluster(options).await;
    let replica = cluster.replicas_of(0).start;
    let key = key_in_slot(7);
    let mut primary = login(&cluster, &metadata, 0).await;
    assert_eq!(primary.cmd(&["SET", &key, "v"]).await, Value::ok());
    assert_eq!(primary.cmd(&["WAIT", "1", "5000"]).await, Value::Int(1));
    cluster.failover(replica, Failover::Coordinated).await;
    assert_eq!(cluster.owner_of(7).await, replica);
    let mut promoted = login(&cluster, &metadata, replica).await;
    assert_eq!(promoted.cmd(&["GET", &key]).await, Value::bulk("v"));
    // Now the hard way: kill the new primary, the old one takes its place back.
    cluster.wait_whole().await;
    cluster.kill(replica);
    assert!(Client::try_connect(cluster.member(replica).addr()).await.is_err());
    cluster.wait_primary(0).await;
    let mut again = login(&cluster, &metadata, 0).await;
    assert_eq!(again.cmd(&["GET", &key]).await, Value::bulk("v"));
    cluster.restart(replica).await;
    cluster.wait_whole().await;
}

#[tokio::test]
async fn faults_do_what_they_say() {
    let (metadata, cluster) = cluster(ClusterOptions::default()).await;
    let front = cluster.member(0).front();
    let token = metadata.tokens().mint(HOUR);
    let auth = cmd!["AUTH", "default", &token];
    let mut client = Client::connect(front.addr()).await;
    for (fault, text) in [
        (AuthFault::IamExhausted, IAM_EXHAUSTED),
        (AuthFault::IamOther, IAM_OTHER),
        (AuthFault::WrongPass, WRONGPASS),
    ] {
        front.faults().fail_auth(fault, 1);
        assert_eq!(client.cmd(&auth).await, Value::Error(text.into()));
    }
    front.faults().fail_auth(AuthFault::Close, 1);
    client.send(&auth).await;
    client.expect_close().await;
    front.faults().close_on_accept(1);
    Client::connect(front.addr()).await.expect_close().await;

    let key = key_in_slot(3);
    let mut client = login(&cluster, &metadata, 0).await;
    front.faults().answer_error("GET", "LOADING Redis is loading the dataset in memory", 1);
    let replies =
        client.pipeline(&[cmd!["SET", &key, "v"], cmd!["GET", &key], cmd!["GET", &key]]).await;
    assert_eq!(replies[0], Value::ok());
    assert!(replies[1].is_error("LOADING"));
    assert_eq!(replies[2], Value::bulk("v"));

    front.faults().set_reply_delay(Duration::from_millis(200));
    let start = tokio::time::Instant::now();
    client.cmd(&["GET", &key]).await;
    assert!(start.elapsed() >= Duration::from_millis(200));
    front.faults().set_reply_delay(Duration::ZERO);

    front.faults().set_stalled(true);
    client.send(&["GET", &key]).await;
    client.expect_silence(Duration::from_millis(300)).await;
    front.faults().set_stalled(false);
    assert_eq!(client.read().await, Value::bulk("v"));

    front.faults().set_refused(true);
    wait_for("refused dials", Duration::from_secs(5), async || {
        Client::try_connect(front.addr()).await.is_err()
    })
    .await;
    assert_eq!(client.cmd(&["GET", &key]).await, Value::bulk("v"), "open connections stay");
    front.faults().set_refused(false);
    wait_for("accepted dials", Duration::from_secs(5), async || {
        Client::try_connect(front.addr()).await.is_ok()
    })
    .await;

    front.faults().close_after_commands(Some(0));
    client.send(&["GET", &key]).await;
    client.expect_close().await;
    front.faults().close_after_commands(None);

    let mut client = login(&cluster, &metadata, 0).await;
    front.faults().cut_mid_reply(1);
    client.send(&["GET", &key]).await;
    assert_eq!(client.try_read().await.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);

    let mut client = login(&cluster, &metadata, 0).await;
    front.faults().close_all();
    client.expect_close().await;
}

#[tokio::test]
async fn an_authentication_ends_in_its_three_ways() {
    let (metadata, cluster) = cluster(ClusterOptions::default()).await;
    let front = cluster.member(0).front();
    let key = key_in_slot(3);
    let ttl = Duration::from_millis(300);

    front.faults().set_auth_ttl(Some((ttl, OnExpiry::NoAuth)));
    let mut client = login(&cluster, &metadata, 0).await;
    assert_eq!(client.cmd(&["GET", &key]).await, Value::Null);
    wait_for("the authentication to end", Duration::from_secs(5), async || {
        client.cmd(&["GET", &key]).await == Value::Error(NOAUTH.into())
    })
    .await;
    let token = metadata.tokens().mint(HOUR);
    assert_eq!(client.cmd(&["AUTH", "default", &token]).await, Value::ok());
    assert_eq!(client.cmd(&["GET", &key]).await, Value::Null);

    front.faults().set_auth_ttl(Some((ttl, OnExpiry::Close)));
    let mut client = login(&cluster, &metadata, 0).await;
    client.expect_close().await;

    // A repeated AUTH prolongs it, or does not.
    for first_counts in [false, true] {
        let ttl = Duration::from_millis(800);
        front.faults().set_auth_ttl(Some((ttl, OnExpiry::Close)));
        front.faults().set_first_auth_counts(first_counts);
        let mut client = login(&cluster, &metadata, 0).await;
        let start = tokio::time::Instant::now();
        while client.try_cmd(&["AUTH", "default", &token]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if start.elapsed() > ttl * 2 {
                break;
            }
        }
        assert_eq!(start.elapsed() < ttl * 2, first_counts);
    }

    front.faults().set_auth_ttl(Some((Duration::ZERO, OnExpiry::Nothing)));
    let mut client = login(&cluster, &metadata, 0).await;
    assert_eq!(client.cmd(&["GET", &key]).await, Value::Null);
}

/// The events of a front say who did what, and when.
#[tokio::test]
async fn a_front_tells_dials_auths_and_who_closed() {
    let (metadata, cluster) = cluster(ClusterOptions::default()).await;
    let front = cluster.member(0).front();
    let key = key_in_slot(3);
    let start = tokio::time::Instant::now();
    let mut client = login(&cluster, &metadata, 0).await;
    let token = metadata.tokens().mint(HOUR);
    assert_eq!(client.cmd(&["AUTH", "default", &token]).await, Value::ok());
    assert!(client.cmd(&["AUTH", "default", "stale"]).await.is_error("WRONGPASS"));
    assert_eq!(client.cmd(&["GET", &key]).await, Value::Null);
    drop(client);
    let happened = async |count: usize| {
        wait_for("events", Duration::from_secs(5), async || front.events().len() >= count).await;
        front.events()
    };
    let events = happened(5).await;
    let auth = |first, ok| What::Auth { first, ok };
    let closed = |by_proxy, stalled, unanswered| What::Closed { by_proxy, stalled, unanswered };
    let whats: Vec<_> = events.iter().map(|e| e.what).collect();
    let wanted = [
        What::Dial,
        auth(true, true),
        auth(false, true),
        auth(false, false),
        closed(true, false, 0),
    ];
    assert_eq!(whats, wanted);
    assert!(events.windows(2).all(|w| w[0].at <= w[1].at && w[0].connection == w[1].connection));
    assert!(events[0].at >= start);
    assert_eq!(events.iter().filter(|e| e.is_permit()).count(), 3);
    assert!(!events.iter().any(Event::is_cut));

    // A wait cut by the front is unanswered.
    let mut client = login(&cluster, &metadata, 0).await;
    client.send(&["BLPOP", &key, "0"]).await;
    wait_for("a blocked client", Duration::from_secs(5), async || {
        cluster.member(0).node.stat("blocked_clients").await == 1
    })
    .await;
    front.faults().close_all();
    client.expect_close().await;
    assert_eq!(happened(8).await[7].what, closed(false, false, 1));
    assert!(front.events()[7].is_cut());

    // A renewal that is never answered, or by half.
    front.faults().fail_auth_of(AuthScope::Renewal, AuthFault::Stall, 1);
    let mut client = login(&cluster, &metadata, 0).await;
    client.send(&["AUTH", "default", &token]).await;
    client.send(&["GET", &key]).await;
    client.expect_silence(Duration::from_millis(200)).await;
    drop(client);
    assert_eq!(happened(12).await[11].what, closed(true, true, 1));
    front.faults().fail_auth_of(AuthScope::Renewal, AuthFault::HalfReply, 1);
    let mut client = login(&cluster, &metadata, 0).await;
    client.send(&["AUTH", "default", &token]).await;
    assert_eq!(client.try_read().await.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    assert_eq!(happened(16).await[15].what, closed(false, true, 0));
}

#[tokio::test]
async fn authentications_end_on_command() {
    let (metadata, cluster) = cluster(ClusterOptions::default()).await;
    let front = cluster.member(0).front();
    let key = key_in_slot(3);
    let mut client = login(&cluster, &metadata, 0).await;
    front.faults().expire_all();
    assert_eq!(client.cmd(&["GET", &key]).await, Value::Error(NOAUTH.into()));
    let token = metadata.tokens().mint(HOUR);
    assert_eq!(client.cmd(&["AUTH", "default", &token]).await, Value::ok());
    assert_eq!(client.cmd(&["GET", &key]).await, Value::Null);
    let mut client = login(&cluster, &metadata, 0).await;
    assert_eq!(client.cmd(&["GET", &key]).await, Value::Null);
    assert_eq!(front.counts().rejected, 1);
}

/// Only the wall clock is set, only for that process, and while it runs.
#[tokio::test]
async fn a_process_can_be_given_another_wall_clock() {
    let clock = WallClock::new();
    let date = || {
        let mut date = std::process::Command::new("date");
        let output = date.arg("+%s").envs(clock.env()).output().expect("date runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.trim().parse::<i64>().expect("seconds")
    };
    let before = date();
    clock.set_offset(-7200);
    let after = date();
    assert!((-7210..-7150).contains(&(after - before)), "{before} {after}");
}

#[tokio::test]
async fn a_paused_node_is_silent_and_comes_back() {
    let (metadata, cluster) = cluster(ClusterOptions::default()).await;
    let mut client = login(&cluster, &metadata, 0).await;
    cluster.member(0).node.pause();
    client.send(&["PING"]).await;
    client.expect_silence(Duration::from_millis(300)).await;
    cluster.member(0).node.resume();
    assert_eq!(client.read().await, Value::Simple("PONG".into()));
}

#[tokio::test]
async fn the_metadata_server_mints_and_fails_on_command() {
    let metadata = FakeMetadata::start(Duration::from_secs(2)).await;
    let addr = metadata.host().parse().unwrap();
    let path = "/computeMetadata/v1/instance/service-accounts/default/token";
    // This client does not send the header that keeps browsers out.
    assert_eq!(http::try_get(addr, path).await.unwrap().status, 403);
    let ask = async || -> Option<(String, u64)> {
        let flavored = format!("{path} HTTP/1.1\r\nMetadata-Flavor: Google\r\nX: ");
        let response = http::try_get(addr, &flavored).await.ok()?;
        let json: serde_json::Value = serde_json::from_str(&response.body).ok()?;
        Some((json["access_token"].as_str()?.to_owned(), json["expires_in"].as_u64()?))
    };
    let (first, lives) = ask().await.unwrap();
    assert_eq!(lives, 2);
    assert!(metadata.tokens().is_live(&first));
    let (second, _) = ask().await.unwrap();
    assert_ne!(first, second);
    metadata.set_sticky(true);
    assert_eq!(ask().await.unwrap().0, second);
    metadata.tokens().revoke(&second);
    assert!(!metadata.tokens().is_live(&second));
    wait_for("the token to expire", Duration::from_secs(5), async || {
        !metadata.tokens().is_live(&first)
    })
    .await;
    for fault in [
        MetadataFault::InternalError,
        MetadataFault::Garbage,
        MetadataFault::MissingToken,
        MetadataFault::Close,
    ] {
        metadata.set_fault(Some(fault));
        assert_eq!(ask().await, None);
    }
    for (fault, says) in [(MetadataFault::ExpiredToken, 0), (MetadataFault::DeadToken, 2)] {
        metadata.set_fault(Some(fault));
        let (token, lives) = ask().await.unwrap();
        assert_eq!(lives, says);
        assert!(!metadata.tokens().is_live(&token));
    }
    metadata.set_fault(Some(MetadataFault::Stall));
    let (stalled, ()) = tokio::join!(ask(), async {
        let asked = metadata.token_requests();
        // A request that waits is not counted: it never got as far as a token.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(metadata.token_requests(), asked);
        metadata.set_fault(None);
    });
    assert_eq!(stalled, None, "a stalled request ends with the fault");
    metadata.set_fault(None);
    metadata.set_advertised(Some(Duration::from_secs(300)));
    assert_eq!(ask().await.unwrap().1, 300);
    metadata.set_up(false);
    wait_for("refused dials", Duration::from_secs(5), async || {
        Client::try_connect(addr).await.is_err()
    })
    .await;
    metadata.set_up(true);
    wait_for("a token again", Duration::from_secs(5), async || ask().await.is_some()).await;
}

#[test]
fn slots_are_those_of_the_specification() {
    assert_eq!(slot_of(b"123456789"), 0x31C3);
    assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
    assert_ne!(slot_of(b"foo{}{bar}"), slot_of(b"bar"));
    assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
}
