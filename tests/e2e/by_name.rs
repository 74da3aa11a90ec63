//! Instances by resource name: looked up with a fake of Google's admin APIs, served as any other.

use std::time::Duration;

use serde_json::json;

use crate::support::client::{Client, Proto};
use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::google::{ApiFault, FakeApi, authority, redis_cluster, valkey_single};
use crate::support::metadata::FakeMetadata;
use crate::support::proxy::{Proxy, ProxyOptions};
use crate::support::resp::Value;
use crate::support::slots::key_in_slot;
use crate::support::standalone::Standalone;
use crate::support::tls::Authority;
use crate::support::wait::wait_for;

const HOUR: Duration = Duration::from_secs(3600);
const LONG: Duration = Duration::from_secs(30);
const CLUSTER: &str = "projects/p/locations/europe-west6/clusters/c1";
const INSTANCE: &str = "projects/p/locations/europe-west6/instances/i1";

struct World {
    metadata: FakeMetadata,
    api: FakeApi,
    cluster: Cluster,
}

impl World {
    async fn start() -> Self {
        let metadata = FakeMetadata::start(HOUR).await;
        let api = FakeApi::start(metadata.tokens()).await;
        let cluster = Cluster::start(ClusterOptions::default(), metadata.tokens()).await;
        Self { metadata, api, cluster }
    }

    fn publish(&self) {
        let discovery = self.cluster.seed().parse().expect("an address");
        self.api.put(CLUSTER, redis_cluster(CLUSTER, discovery, "IAM_AUTH", "DISABLED"));
    }

    fn options(&self, endpoint: &str) -> ProxyOptions {
        ProxyOptions::new(endpoint)
            .metadata(self.metadata.host())
            .args(self.api.args())
            .op_timeout(Duration::from_secs(1))
    }
}

/// Waits until `/readiness` says this.
async fn unready_because(proxy: &Proxy, says: &str) {
    let mut last = String::new();
    wait_for(says, LONG, async || {
        let response = proxy.get("/readiness").await;
        last = response.body;
        response.status == 503 && last.contains(says)
    })
    .await;
}

#[tokio::test]
async fn the_name_alone_is_enough() {
    let world = World::start().await;
    world.publish();
    let options = world.options(CLUSTER).args(["--quota-project=billed"]);
    let proxy = Proxy::start(options).await;
    for proto in [Proto::Resp2, Proto::Resp3] {
        let mut client = proxy.client(proto).await;
        for slot in [1, 8000, 16000] {
            assert_eq!(client.cmd(&["SET", &key_in_slot(slot), "v"]).await, Value::ok());
            assert_eq!(client.cmd(&["GET", &key_in_slot(slot)]).await, Value::bulk("v"));
        }
    }
    assert_eq!(world.api.calls(), [CLUSTER], "one call, and none for the CA of a plain cluster");
    assert_eq!(world.api.quota_projects(), ["billed"]);
    let label = format!("instance_name=\"{CLUSTER}\"");
    let commands = proxy.metric("memorystore_proxy_commands_total", &[&label]).await;
    assert!(commands.is_some_and(|n| n >= 12.0), "{commands:?}");
    // With the API gone everything goes on.
    world.api.set_fault(Some(ApiFault::Internal));
    let mut client = proxy.client(Proto::Resp2).await;
    assert_eq!(client.cmd(&["GET", &key_in_slot(1)]).await, Value::bulk("v"));
}

#[tokio::test]
async fn each_refusal_has_its_own_sentence_and_is_got_over() {
    let world = World::start().await;
    world.publish();
    for (fault, says) in [
        (ApiFault::Forbidden, "lacks the permission redis.clusters.get"),
        (ApiFault::Disabled, "gcloud services enable redis.googleapis.com"),
        (ApiFault::TooMany, "60 requests a minute"),
        (ApiFault::Internal, "has trouble of its own"),
        (ApiFault::Garbage, "is not understood"),
    ] {
        world.api.set_fault(Some(fault));
        let proxy = Proxy::spawn(world.options(CLUSTER)).await;
        unready_because(&proxy, says).await;
        let mut client = proxy.client(Proto::Resp2).await;
        assert!(client.cmd(&["GET", "k"]).await.is_error("CLUSTERDOWN"));
        // One line for the fault, however often it is met.
        let lines = proxy.logs().lines().filter(|l| l.contains(says)).count();
        assert_eq!(lines, 1, "{}", proxy.logs());
        for token in world.metadata.tokens().all() {
            assert!(!proxy.logs().contains(&token), "a token was logged");
        }
    }
    let other = CLUSTER.replace("c1", "c2");
    world.api.set_fault(None);
    let proxy = Proxy::spawn(world.options(&other)).await;
    unready_because(&proxy, "there is no cluster 'c2'").await;
    // A server's own trouble is over soon.
    world.api.set_fault(Some(ApiFault::Internal));
    let proxy = Proxy::spawn(world.options(CLUSTER)).await;
    unready_because(&proxy, "has trouble of its own").await;
    world.api.set_fault(None);
    proxy.wait_ready().await;
    assert_eq!(proxy.client(Proto::Resp2).await.cmd(&["GET", "k"]).await, Value::Null);
}

#[tokio::test]
async fn the_proxy_may_start_before_its_credentials_exist() {
    let world = World::start().await;
    world.publish();
    world.metadata.set_up(false);
    let proxy = Proxy::spawn(world.options(CLUSTER)).await;
    unready_because(&proxy, "metadata server").await;
    let mut early = proxy.client(Proto::Resp2).await;
    assert!(early.cmd(&["GET", "k"]).await.is_error("CLUSTERDOWN"));
    world.metadata.set_up(true);
    proxy.wait_ready().await;
    assert_eq!(early.cmd(&["SET", "k", "v"]).await, Value::ok());
}

#[tokio::test]
async fn a_valkey_instance_without_cluster_mode_has_a_primary_and_readers() {
    let metadata = FakeMetadata::start(HOUR).await;
    let api = FakeApi::start(metadata.tokens()).await;
    let (primary, replica) = (Standalone::start().await, Standalone::start().await);
    for server in [&primary, &replica] {
        server.open_to_all().await;
    }
    let (host, port) = (primary.addr().ip().to_string(), primary.addr().port().to_string());
    for command in [&["CONFIG", "SET", "masterauth", ""][..], &["REPLICAOF", &host, &port]] {
        assert_eq!(replica.node().run(command).await, Value::ok());
    }
    wait_for("the replica to follow", LONG, async || {
        replica.node().run(&["INFO", "replication"]).await.text().contains("master_link_status:up")
    })
    .await;
    api.put(INSTANCE, valkey_single(INSTANCE, primary.addr(), Some(replica.addr())));
    let port = crate::support::ports::free_port();
    let options = ProxyOptions::new(INSTANCE)
        .metadata(metadata.host())
        .args(api.args())
        .args([format!("{INSTANCE}?port={port}&read-from=replica")]);
    let proxy = Proxy::start(options).await;
    let mut writer = proxy.client(Proto::Resp2).await;
    assert_eq!(writer.cmd(&["SET", "k", "v"]).await, Value::ok());
    assert_eq!(writer.cmd(&["WAIT", "1", "5000"]).await, Value::Int(1));
    // AUTH is off by the API's word: no token is sent, though there is one.
    let mut reader = Client::connect(([127, 0, 0, 1], port).into()).await;
    wait_for("the reader to serve", LONG, async || {
        reader.cmd(&["GET", "k"]).await == Value::bulk("v")
    })
    .await;
    let stats = replica.node().run(&["INFO", "commandstats"]).await;
    assert!(stats.text().contains("cmdstat_get:"), "the replica answered: {stats:?}");
    assert_eq!(api.calls(), [INSTANCE, INSTANCE]);
}

#[tokio::test]
async fn a_name_that_is_none_is_refused_at_once() {
    let home = tempfile::TempDir::new().unwrap();
    for (name, says) in [
        ("projects/p/clusters/c", "is not the name of a cluster or instance"),
        ("projects/p/locations/-/clusters/c", "leaves the region open"),
    ] {
        let output = crate::support::proxy::command(&home).arg(name).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(says), "{text}");
    }
}

#[tokio::test]
async fn an_instance_that_is_being_created_is_waited_for() {
    let world = World::start().await;
    world.api.put(CLUSTER, json!({"name": CLUSTER, "state": "CREATING"}));
    let proxy = Proxy::spawn(world.options(CLUSTER)).await;
    unready_because(&proxy, "still being created (state CREATING)").await;
}

/// The name alone is enough for a cluster that encrypts too; when its authority changes the API is
/// asked again, and no command fails.
#[tokio::test]
async fn certificates_come_from_the_api_and_are_fetched_again_when_they_do_not_fit() {
    let [old, new] = ["old", "new"].map(Authority::new);
    let metadata = FakeMetadata::start(HOUR).await;
    let api = FakeApi::start(metadata.tokens()).await;
    let options =
        ClusterOptions { tls: Some(old.leaf(&["127.0.0.1"])), ..ClusterOptions::default() };
    let cluster = Cluster::start(options, metadata.tokens()).await;
    let discovery = cluster.seed().parse().expect("an address");
    api.put(CLUSTER, redis_cluster(CLUSTER, discovery, "IAM_AUTH", "SERVER_AUTHENTICATION"));
    let ca = format!("{CLUSTER}/certificateAuthority");
    api.put(&ca, authority(CLUSTER, &[&[&old.pem]]));
    let options = ProxyOptions::new(CLUSTER).metadata(metadata.host()).args(api.args());
    let proxy = Proxy::start(options).await;
    let mut client = proxy.client(Proto::Resp3).await;
    for slot in [1, 8000, 16000] {
        assert_eq!(client.cmd(&["SET", &key_in_slot(slot), "v"]).await, Value::ok());
    }
    assert_eq!(api.calls(), [CLUSTER, &ca]);

    // Several chains at once while one authority takes over from another.
    api.put(&ca, authority(CLUSTER, &[&[&old.pem], &[&new.pem]]));
    for front in cluster.fronts() {
        front.tls().show(&new.leaf(&["127.0.0.1"]));
        front.faults().close_all();
    }
    wait_for(
        "the new certificates to be fetched and trusted",
        Duration::from_secs(90),
        async || client.cmd(&["GET", &key_in_slot(1)]).await == Value::bulk("v"),
    )
    .await;
    assert!(api.calls().len() >= 4, "{:?}", api.calls());
}

#[tokio::test]
async fn the_wrong_authority_is_named_with_what_to_do() {
    let [right, wrong] = ["right", "wrong"].map(Authority::new);
    let metadata = FakeMetadata::start(HOUR).await;
    let api = FakeApi::start(metadata.tokens()).await;
    let options =
        ClusterOptions { tls: Some(right.leaf(&["127.0.0.1"])), ..ClusterOptions::default() };
    let cluster = Cluster::start(options, metadata.tokens()).await;
    let discovery = cluster.seed().parse().expect("an address");
    api.put(CLUSTER, redis_cluster(CLUSTER, discovery, "IAM_AUTH", "SERVER_AUTHENTICATION"));
    let options = || ProxyOptions::new(CLUSTER).metadata(metadata.host()).args(api.args());
    let without = Proxy::spawn(options()).await;
    unready_because(&without, "HTTP 404").await;
    let ca = format!("{CLUSTER}/certificateAuthority");
    api.put(&ca, authority(CLUSTER, &[&[&wrong.pem]]));
    let proxy = Proxy::spawn(options()).await;
    unready_because(&proxy, "no TLS connection to").await;
    // One more look for other certificates, not one for each dial.
    let calls = api.calls().iter().filter(|path| **path == ca).count();
    assert!(calls <= 6, "{:?}", api.calls());
}

/// The life of a sidecar: up before its credentials, serving, drained in the midst of work.
#[tokio::test]
async fn a_sidecar_lives_from_before_its_credentials_to_a_drained_end() {
    let world = World::start().await;
    world.publish();
    world.metadata.set_up(false);
    let mut proxy = Proxy::spawn(world.options(CLUSTER)).await;
    let mut early = proxy.client(Proto::Resp2).await;
    assert!(early.cmd(&["GET", "k"]).await.is_error("CLUSTERDOWN"));
    assert_eq!(proxy.get("/startup").await.status, 503);
    world.metadata.set_up(true);
    proxy.wait_ready().await;
    assert_eq!(proxy.get("/startup").await.status, 200);
    assert_eq!(early.cmd(&["SET", "{t}n", "1"]).await, Value::ok());

    let mut waiting = proxy.client(Proto::Resp3).await;
    waiting.send(&["BLPOP", "{t}queue", "0"]).await;
    wait_for("BLPOP to reach its node", LONG, async || {
        world.cluster.fronts().map(|front| front.seen("BLPOP")).sum::<usize>() > 0
    })
    .await;
    assert_eq!(early.cmd(&["MULTI"]).await, Value::ok());
    assert_eq!(early.cmd(&["INCR", "{t}n"]).await, Value::Simple("QUEUED".into()));
    proxy.signal("TERM");
    waiting.expect_close().await;
    assert_eq!(proxy.get("/readiness").await.status, 503);
    assert_eq!(early.cmd(&["EXEC"]).await, Value::Array(vec![Value::Int(2)]));
    early.expect_close().await;
    let status = proxy.wait(LONG).await.expect("it ends in 30 s");
    assert_eq!(status.code(), Some(143));
    // Nobody took an element for a client that is gone.
    let owner = world.cluster.owner_of(crate::support::slots::slot_of(b"t")).await;
    let node = &world.cluster.member(owner).node;
    assert_eq!(node.run(&["RPUSH", "{t}queue", "job"]).await, Value::Int(1));
}
