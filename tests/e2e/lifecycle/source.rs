//! Faults of the token source: existing connections go on, new ones use the cached token while it
//! lives, readiness tells, and recovery does not wait.

use std::time::Duration;

use tokio::time::Instant;

use super::{HOUR, bed};
use crate::support::bed::Bed;
use crate::support::client::Proto;
use crate::support::clock::WallClock;
use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::metadata::{FakeMetadata, MetadataFault};
use crate::support::proxy::{Proxy, ProxyOptions};
use crate::support::resp::Value;
use crate::support::slots::key_in_slot;
use crate::support::traffic::{Traffic, spread_keys};
use crate::support::wait::wait_for;

const ALL: [MetadataFault; 6] = [
    MetadataFault::InternalError,
    MetadataFault::Garbage,
    MetadataFault::MissingToken,
    MetadataFault::Close,
    MetadataFault::Stall,
    MetadataFault::ExpiredToken,
];

#[tokio::test]
async fn a_token_source_that_comes_up_late_is_waited_for() {
    let metadata = FakeMetadata::start(HOUR).await;
    metadata.set_up(false);
    let cluster = Cluster::start(ClusterOptions::default(), metadata.tokens()).await;
    let options = ProxyOptions::new(cluster.seed()).metadata(metadata.host());
    let proxy = Proxy::spawn(options.op_timeout(Duration::from_secs(20))).await;
    let mut client = proxy.client(Proto::Resp2).await;
    client.send(&["SET", &key_in_slot(0), "v"]).await;
    client.expect_silence(Duration::from_secs(4)).await;
    let readiness = proxy.get("/readiness").await;
    assert_eq!(readiness.status, 503);
    assert!(readiness.body.contains("metadata server"), "says why: {}", readiness.body);
    metadata.set_up(true);
    let start = Instant::now();
    assert_eq!(client.read().await, Value::ok());
    let took = start.elapsed();
    assert!(took < Duration::from_secs(3), "served {took:?} after the token source was up");
    proxy.wait_ready().await;
}

/// While the token lives nothing is noticed, by clients of old connections and of new ones.
#[tokio::test]
async fn while_the_token_lives_a_failing_source_is_not_noticed() {
    let bed = bed(Duration::from_secs(20), &["--max-connection-age=1s"]).await;
    let traffic = Traffic::start(bed.proxy.addr(), Proto::Resp3, spread_keys(4, 4));
    traffic.progress(100).await;
    for fault in ALL {
        bed.metadata.set_fault(Some(fault.clone()));
        traffic.run_for(Duration::from_millis(500)).await;
        assert_eq!(bed.proxy.get("/readiness").await.status, 200, "{fault:?}");
        let mut client = bed.client(Proto::Resp2).await;
        assert_eq!(client.cmd(&["GET", &key_in_slot(9000)]).await, Value::Null);
    }
    traffic.stop_clean().await;
}

/// After the token's end connections go on, new ones cannot be made, readiness says so; and when
/// the source is back, all is well at once.
async fn an_outage_longer_than_the_token(fault: MetadataFault, more: Duration, reasons: &[&str]) {
    let lifetime = Duration::from_secs(3);
    let bed = bed(lifetime, &["--max-connection-age=0", "--op-timeout=3s"]).await;
    let traffic = Traffic::start(bed.proxy.addr(), Proto::Resp2, spread_keys(4, 4));
    traffic.progress(100).await;
    let tokens = bed.metadata.tokens();
    bed.metadata.set_fault(Some(fault));
    wait_for("all tokens to end", Duration::from_secs(10), async || {
        tokens.all().iter().all(|token| !tokens.is_live(token))
    })
    .await;
    wait_for("readiness to fall", Duration::from_secs(5), async || {
        bed.proxy.get("/readiness").await.status == 503
    })
    .await;
    let body = bed.proxy.get("/readiness").await.body;
    for reason in reasons {
        assert!(body.contains(reason), "the body names {reason:?}: {body}");
    }
    assert_eq!(bed.proxy.get("/liveness").await.status, 200);
    traffic.run_for(more).await;
    traffic.stop_clean().await;
    let mut client = bed.client(Proto::Resp2).await;
    let front = bed.cluster.member(0).front();
    front.faults().close_all();
    let reply = client.cmd(&["GET", &key_in_slot(0)]).await;
    let Value::Error(text) = &reply else { panic!("expected an error, got {reply:?}") };
    assert!(reasons.iter().all(|reason| text.contains(reason)), "the error tells why: {text}");
    bed.metadata.set_fault(None);
    let back = Instant::now();
    assert_eq!(client.cmd(&["GET", &key_in_slot(0)]).await, Value::Null);
    let took = back.elapsed();
    assert!(took < Duration::from_secs(2), "served {took:?} after the source was back");
    bed.proxy.wait_ready().await;
}

#[tokio::test]
async fn a_source_that_fails_is_named_and_comes_back_at_once() {
    let second = Duration::from_secs(1);
    tokio::join!(
        // Long enough that the waits between attempts have grown.
        an_outage_longer_than_the_token(
            MetadataFault::InternalError,
            second * 6,
            &["metadata server", "500"]
        ),
        an_outage_longer_than_the_token(
            MetadataFault::ExpiredToken,
            second,
            &["metadata server", "expired"]
        ),
        an_outage_longer_than_the_token(MetadataFault::Stall, second, &["metadata server"]),
    );
}

/// A failing source is not asked in a storm.
#[tokio::test]
async fn a_failing_source_is_asked_with_backoff() {
    let args = ["--auth-backoff-min=100ms", "--auth-backoff-max=1s", "--op-timeout=1s"];
    let bed = bed(Duration::from_secs(1), &args).await;
    bed.metadata.set_fault(Some(MetadataFault::InternalError));
    wait_for("readiness to fall", Duration::from_secs(10), async || {
        bed.proxy.get("/readiness").await.status == 503
    })
    .await;
    let mut clients = Vec::new();
    for front in bed.cluster.fronts() {
        front.faults().close_all();
    }
    for _ in 0..20 {
        let mut client = bed.client(Proto::Resp2).await;
        client.send(&["GET", &key_in_slot(0)]).await;
        clients.push(client);
    }
    let (start, before) = (Instant::now(), bed.metadata.token_requests());
    for client in &mut clients {
        assert!(matches!(client.read().await, Value::Error(_)));
        client.send(&["GET", &key_in_slot(9000)]).await;
    }
    for client in &mut clients {
        assert!(matches!(client.read().await, Value::Error(_)));
    }
    let seconds = start.elapsed().as_secs_f64();
    let requests = bed.metadata.token_requests() - before;
    let most = 4 + (6.0 * seconds) as u64;
    assert!(requests <= most, "{requests} tokens were asked for in {seconds} s by 20 clients");
}

/// The proxy on a machine whose wall clock is set.
async fn with_clock(token: Duration) -> (WallClock, Bed) {
    let clock = WallClock::new();
    let metadata = FakeMetadata::start(token).await;
    let cluster = Cluster::start(ClusterOptions::default(), metadata.tokens()).await;
    let mut options = ProxyOptions::new(cluster.seed()).metadata(metadata.host());
    for (name, value) in clock.env() {
        options = options.env(name, &value);
    }
    let proxy = Proxy::start(options.args(["--max-connection-age=1s"])).await;
    (clock, Bed { proxy, cluster, metadata })
}

/// Neither direction costs a client anything, and tokens are still renewed in time.
async fn a_clock_set_by(seconds: i64) {
    let (clock, bed) = with_clock(Duration::from_secs(4)).await;
    let traffic = Traffic::start(bed.proxy.addr(), Proto::Resp2, spread_keys(4, 4));
    traffic.progress(200).await;
    clock.set_offset(seconds);
    // Old tokens end meanwhile; connections are made all the time.
    let before = bed.metadata.token_requests();
    wait_for("two more tokens", Duration::from_secs(15), async || {
        bed.metadata.token_requests() >= before + 2
    })
    .await;
    traffic.run_for(Duration::from_secs(2)).await;
    clock.set_offset(0);
    traffic.run_for(Duration::from_secs(2)).await;
    traffic.stop_clean().await;
    let asked = bed.metadata.token_requests() - before;
    assert!(asked < 40, "{asked} tokens were asked for");
    bed.proxy.wait_ready().await;
    let refused: u64 = bed.cluster.fronts().map(|f| f.counts().auths_failed).sum();
    assert_eq!(refused, 0, "dead tokens were sent");
}

#[tokio::test]
async fn a_clock_that_jumps_costs_nothing() {
    tokio::join!(a_clock_set_by(7200), a_clock_set_by(-7200));
}
