//! Tokens that come, go and fail, on the way up; clients must not notice what can be mended.

use std::io::Write as _;
use std::time::Duration;

use tokio::time::Instant;

use crate::both_protocols;
use crate::support::bed::{Bed, BedOptions};
use crate::support::client::{Client, Proto};
use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::faults::{AuthFault, NOAUTH, OnExpiry};
use crate::support::metadata::{FakeMetadata, MetadataFault};
use crate::support::proxy::{Proxy, ProxyOptions};
use crate::support::resp::Value;
use crate::support::slots::key_in_slot;
use crate::support::standalone::Standalone;
use crate::support::traffic::{Traffic, spread_keys};
use crate::support::wait::wait_for;

const HOUR: Duration = Duration::from_secs(3600);

both_protocols!(
    tokens_rotate_under_load_without_an_error,
    an_authentication_that_turns_noauth_is_renewed_without_an_error,
    in_band_noauth_is_mended_and_the_command_retried,
);

async fn tokens_rotate_under_load_without_an_error(proto: Proto) {
    let lifetime = Duration::from_secs(3);
    let bed =
        Bed::with(BedOptions { token_lifetime: Some(lifetime), ..BedOptions::default() }).await;
    let traffic = Traffic::start(bed.proxy.addr(), proto, spread_keys(10, 6));
    traffic.progress(100).await;
    let requests = bed.metadata.token_requests();
    // Long enough for every token alive now to end.
    traffic.run_for(lifetime * 2 + Duration::from_secs(1)).await;
    traffic.stop_clean().await;
    assert!(bed.metadata.token_requests() >= requests + 2, "tokens were not renewed");
    assert!(bed.metadata.token_requests() < requests + 60, "tokens were asked for in a storm");
    for front in bed.cluster.fronts() {
        assert_eq!(front.counts().unauthenticated, 0);
        assert_eq!(front.counts().auths_failed, 0, "a stale token was sent");
    }
    // New connections get a live token at once.
    for front in bed.cluster.fronts() {
        front.faults().close_all();
    }
    let mut client = bed.client(proto).await;
    for slot in [0, 8000, 16000] {
        assert_eq!(client.cmd(&["GET", &key_in_slot(slot)]).await, Value::Null);
    }
}

async fn an_authentication_that_turns_noauth_is_renewed_without_an_error(proto: Proto) {
    let bed = Bed::start().await;
    for front in bed.cluster.fronts() {
        front.faults().set_auth_ttl(Some((Duration::from_millis(700), OnExpiry::NoAuth)));
    }
    let traffic = Traffic::start(bed.proxy.addr(), proto, spread_keys(8, 6));
    traffic.run_for(Duration::from_secs(4)).await;
    traffic.stop_clean().await;
}

#[tokio::test]
async fn connections_closed_when_their_authentication_ends_cost_no_read() {
    let bed = Bed::start().await;
    for front in bed.cluster.fronts() {
        front.faults().set_auth_ttl(Some((Duration::from_millis(500), OnExpiry::Close)));
    }
    let mut client = bed.client(Proto::Resp3).await;
    let end = Instant::now() + Duration::from_secs(4);
    let mut reads = 0;
    while Instant::now() < end {
        for slot in [0, 8000, 16000] {
            assert_eq!(client.cmd(&["GET", &key_in_slot(slot)]).await, Value::Null);
            reads += 1;
        }
    }
    assert!(reads > 30, "only {reads} reads in four seconds");
    assert!(bed.cluster.fronts().all(|f| f.counts().dials >= 4), "the closes happened");
}

async fn in_band_noauth_is_mended_and_the_command_retried(proto: Proto) {
    let bed = Bed::start().await;
    let mut client = bed.client(proto).await;
    let key = key_in_slot(0);
    assert_eq!(client.cmd(&["SET", &key, "0"]).await, Value::ok());
    let front = bed.cluster.member(0).front();
    for round in 1..=5 {
        front.faults().answer_error("INCR", NOAUTH, 1);
        front.faults().answer_error("GET", NOAUTH, 1);
        let replies =
            client.pipeline(&[cmd!["INCR", &key], cmd!["GET", &key], cmd!["ECHO", "x"]]).await;
        assert_eq!(replies[0], Value::Int(round), "rejected by NOAUTH means not executed");
        assert_eq!(replies[1], Value::bulk(round.to_string()));
        assert_eq!(replies[2], Value::bulk("x"));
    }
}

#[tokio::test]
async fn passing_authentication_errors_are_waited_out() {
    for fault in
        [AuthFault::WrongPass, AuthFault::IamExhausted, AuthFault::IamOther, AuthFault::Close]
    {
        let bed = Bed::start().await;
        let mut client = bed.client(Proto::Resp2).await;
        let key = key_in_slot(0);
        client.cmd(&["SET", &key, "v"]).await;
        let front = bed.cluster.member(0).front();
        front.faults().fail_auth(fault, 2);
        front.faults().close_all();
        assert_eq!(client.cmd(&["GET", &key]).await, Value::bulk("v"), "{fault:?}");
        assert_eq!(client.cmd(&["SET", &key, "w"]).await, Value::ok(), "{fault:?}");
        assert!(front.counts().auths_failed >= 2, "{fault:?} did not happen");
    }
}

#[tokio::test]
async fn a_quota_that_stays_exhausted_gives_an_error_in_time_and_no_storm() {
    let op_timeout = Some(Duration::from_secs(2));
    let bed = Bed::with(BedOptions { op_timeout, ..BedOptions::default() }).await;
    let mut client = bed.client(Proto::Resp2).await;
    let (key, elsewhere) = (key_in_slot(0), key_in_slot(9000));
    client.cmd(&["SET", &key, "v"]).await;
    let front = bed.cluster.member(0).front();
    front.faults().fail_auth(AuthFault::IamExhausted, u32::MAX);
    front.faults().close_all();
    let before = front.counts();
    let start = Instant::now();
    let reply = client.cmd(&["GET", &key]).await;
    assert!(start.elapsed() < Duration::from_secs(6), "took {:?}", start.elapsed());
    let Value::Error(text) = &reply else {
        panic!("expected an error, got {reply:?}");
    };
    assert!(text.contains("ERR_IAM_EXHAUSTED"), "the error names its cause: {text}");
    assert!(text.contains(&front.addr().to_string()), "the error names the endpoint: {text}");
    let attempts = front.counts().auths_failed - before.auths_failed;
    assert!((1..=40).contains(&attempts), "{attempts} AUTHs in two seconds");
    assert_eq!(client.cmd(&["SET", &elsewhere, "v"]).await, Value::ok(), "other shards go on");
    front.faults().heal_auth();
    wait_for("the shard to come back", Duration::from_secs(20), async || {
        client.cmd(&["GET", &key]).await == Value::bulk("v")
    })
    .await;
}

#[tokio::test]
async fn an_auth_that_is_never_answered_does_not_hold_clients_for_ever() {
    let op_timeout = Some(Duration::from_secs(1));
    let bed = Bed::with(BedOptions { op_timeout, ..BedOptions::default() }).await;
    let mut client = bed.client(Proto::Resp2).await;
    let front = bed.cluster.member(0).front();
    front.faults().fail_auth(AuthFault::Stall, u32::MAX);
    front.faults().close_all();
    let start = Instant::now();
    let reply = client.cmd(&["GET", &key_in_slot(0)]).await;
    assert!(matches!(reply, Value::Error(_)), "{reply:?}");
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
    assert_eq!(client.cmd(&["GET", &key_in_slot(9000)]).await, Value::Null);
    front.faults().heal_auth();
    wait_for("the shard to come back", Duration::from_secs(30), async || {
        client.cmd(&["GET", &key_in_slot(0)]).await == Value::Null
    })
    .await;
}

#[tokio::test]
async fn a_silent_metadata_server_delays_readiness_and_says_so() {
    let metadata = FakeMetadata::start(HOUR).await;
    metadata.set_fault(Some(MetadataFault::InternalError));
    let cluster = Cluster::start(ClusterOptions::default(), metadata.tokens()).await;
    let proxy = Proxy::spawn(ProxyOptions::new(cluster.seed()).metadata(metadata.host())).await;
    wait_for("a token to be asked for", Duration::from_secs(15), async || {
        metadata.token_requests() > 0
    })
    .await;
    let readiness = proxy.get("/readiness").await;
    assert_eq!(readiness.status, 503, "{}", readiness.body);
    assert!(!readiness.body.trim().is_empty(), "the body tells why");
    assert_eq!(proxy.get("/liveness").await.status, 200);
    metadata.set_fault(None);
    proxy.wait_ready().await;
    let mut client = proxy.client(Proto::Resp2).await;
    assert_eq!(client.cmd(&["SET", "a", "1"]).await, Value::ok());
}

#[tokio::test]
async fn a_token_endpoint_that_fails_later_costs_nothing_while_the_token_lives() {
    let lifetime = Duration::from_secs(6);
    let bed =
        Bed::with(BedOptions { token_lifetime: Some(lifetime), ..BedOptions::default() }).await;
    let traffic = Traffic::start(bed.proxy.addr(), Proto::Resp2, spread_keys(4, 4));
    for fault in [
        MetadataFault::InternalError,
        MetadataFault::Garbage,
        MetadataFault::MissingToken,
        MetadataFault::Close,
    ] {
        bed.metadata.set_fault(Some(fault));
        traffic.run_for(Duration::from_secs(1)).await;
    }
    bed.metadata.set_fault(None);
    let requests = bed.metadata.token_requests();
    wait_for("a new token", Duration::from_secs(15), async || {
        bed.metadata.token_requests() > requests
    })
    .await;
    traffic.run_for(Duration::from_secs(3)).await;
    traffic.stop_clean().await;
}

#[tokio::test]
async fn revoked_tokens_are_replaced() {
    let bed = Bed::with(BedOptions {
        token_lifetime: Some(Duration::from_secs(4)),
        ..BedOptions::default()
    })
    .await;
    let mut client = bed.client(Proto::Resp2).await;
    client.cmd(&["SET", "k", "v"]).await;
    bed.metadata.tokens().revoke_all();
    for front in bed.cluster.fronts() {
        front.faults().close_all();
    }
    // WRONGPASS for the cached token; the next token heals it.
    wait_for("service with the next token", Duration::from_secs(20), async || {
        client.cmd(&["GET", "k"]).await == Value::bulk("v")
    })
    .await;
}

#[tokio::test]
async fn a_given_token_is_used_and_no_metadata_server_is_asked() {
    let metadata = FakeMetadata::start(HOUR).await;
    let cluster = Cluster::start(ClusterOptions::default(), metadata.tokens()).await;
    let token = metadata.tokens().mint(HOUR);
    let options = ProxyOptions::new(cluster.seed()).metadata(metadata.host());
    let proxy = Proxy::start(options.args(["--token", &token])).await;
    let mut client = proxy.client(Proto::Resp2).await;
    assert_eq!(client.cmd(&["SET", "a", "1"]).await, Value::ok());
    assert_eq!(metadata.token_requests(), 0);
    assert!(!proxy.logs().contains(&token));
}

#[tokio::test]
async fn a_token_file_is_read_again_when_it_changes() {
    let metadata = FakeMetadata::start(HOUR).await;
    let cluster = Cluster::start(ClusterOptions::default(), metadata.tokens()).await;
    let tokens = metadata.tokens();
    let first = tokens.mint(HOUR);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("token");
    std::fs::write(&path, format!("{first}\n")).expect("token written");
    let flags = ["--token-file".to_owned(), path.display().to_string()];
    let proxy = Proxy::start(ProxyOptions::new(cluster.seed()).args(flags)).await;
    let mut client = proxy.client(Proto::Resp2).await;
    assert_eq!(client.cmd(&["SET", "a", "1"]).await, Value::ok());

    let second = tokens.mint(HOUR);
    // Replaced by rename, like Kubernetes and Vault do.
    let mut staged = tempfile::NamedTempFile::new_in(dir.path()).expect("a file");
    staged.write_all(second.as_bytes()).expect("token written");
    staged.persist(&path).expect("renamed");
    tokens.revoke(&first);
    let front = cluster.member(0).front();
    wait_for("the new token to be used", Duration::from_secs(30), async || {
        front.faults().close_all();
        client.cmd(&["GET", &key_in_slot(0)]).await == Value::Null
    })
    .await;
}

#[tokio::test]
async fn a_static_password_is_sent_instead_of_a_token() {
    let options = ClusterOptions { fronts: false, ..ClusterOptions::default() };
    let metadata = FakeMetadata::start(HOUR).await;
    let cluster = Cluster::start(options, metadata.tokens()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("password");
    std::fs::write(&path, cluster.password()).expect("password written");
    let flags = ["--no-iam-auth", "--upstream-password-file", path.to_str().expect("path")];
    let proxy = Proxy::start(ProxyOptions::new(cluster.seed()).args(flags)).await;
    let mut client = proxy.client(Proto::Resp3).await;
    for slot in [0, 8000, 16000] {
        assert_eq!(client.cmd(&["SET", &key_in_slot(slot), "v"]).await, Value::ok());
    }
    assert!(!proxy.logs().contains(cluster.password()));
}

#[tokio::test]
async fn a_single_server_without_cluster_support_is_used_as_one_node() {
    let server = Standalone::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("password");
    std::fs::write(&path, server.password()).expect("password written");
    let flags = ["--no-iam-auth", "--upstream-password-file", path.to_str().expect("path")];
    let proxy = Proxy::start(ProxyOptions::new(server.addr().to_string()).args(flags)).await;
    let mut client = proxy.client(Proto::Resp2).await;
    for slot in [0, 8000, 16000] {
        assert_eq!(client.cmd(&["SET", &key_in_slot(slot), "v"]).await, Value::ok());
    }
    assert_eq!(server.connect().await.cmd(&["DBSIZE"]).await, Value::Int(3));
}

#[tokio::test]
async fn a_configured_user_name_is_sent() {
    let cluster =
        ClusterOptions { username: "svc@project.iam".to_owned(), ..ClusterOptions::default() };
    let args = vec!["--upstream-username".to_owned(), "svc@project.iam".to_owned()];
    let bed = Bed::with(BedOptions { cluster, args, ..BedOptions::default() }).await;
    let mut client = bed.client(Proto::Resp2).await;
    assert_eq!(client.cmd(&["SET", "a", "1"]).await, Value::ok());
}

#[tokio::test]
async fn what_a_client_says_to_auth_goes_nowhere() {
    let bed = Bed::start().await;
    let mut client = Client::connect(bed.proxy.addr()).await;
    client.cmd(&["AUTH", "default", "client-secret-one"]).await;
    client.cmd(&["HELLO", "3", "AUTH", "default", "client-secret-two"]).await;
    assert_eq!(client.cmd(&["SET", "a", "1"]).await, Value::ok());
    for front in bed.cluster.fronts() {
        assert_eq!(front.counts().auths_failed, 0);
    }
    let logs = bed.proxy.logs();
    assert!(!logs.contains("client-secret"), "{logs}");
}
