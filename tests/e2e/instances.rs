//! Several instances in one process: each has its own listener, they share nothing but the credential.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::client::{Client, Proto};
use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::metadata::FakeMetadata;
use crate::support::ports::free_port;
use crate::support::proxy::{Proxy, ProxyOptions};
use crate::support::resp::Value;
use crate::support::slots::key_in_slot;
use crate::support::wait::wait_for;

const HOUR: Duration = Duration::from_secs(3600);

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

async fn get(addr: SocketAddr, slot: u16) -> Value {
    Client::connect(addr).await.cmd(&["GET", &key_in_slot(slot)]).await
}

async fn readiness(proxy: &Proxy, status: u16) -> String {
    let mut body = String::new();
    wait_for("readiness to follow", Duration::from_secs(20), async || {
        let response = proxy.get("/readiness").await;
        body = response.body;
        response.status == status
    })
    .await;
    body
}

#[tokio::test]
async fn two_clusters_in_one_process_do_not_touch_each_other() {
    let metadata = FakeMetadata::start(HOUR).await;
    let first = Cluster::start(ClusterOptions::default(), metadata.tokens()).await;
    let second = Cluster::start(ClusterOptions::default(), metadata.tokens()).await;
    let port = free_port();
    let (one, two) = (first.seed(), format!("{}?port={port}", second.seed()));
    let options = ProxyOptions::new(one.clone()).metadata(metadata.host()).args([two]);
    let proxy = Proxy::start(options.op_timeout(Duration::from_secs(1))).await;
    for (addr, value) in [(proxy.addr(), "first"), (local(port), "second")] {
        let mut client = Client::connect_proto(addr, Proto::Resp3).await;
        for slot in [1, 8000, 16000] {
            assert_eq!(client.cmd(&["SET", &key_in_slot(slot), value]).await, Value::ok());
        }
    }
    for slot in [1, 8000, 16000] {
        assert_eq!(get(proxy.addr(), slot).await, Value::bulk("first"));
        assert_eq!(get(local(port), slot).await, Value::bulk("second"));
    }
    let status: serde_json::Value =
        serde_json::from_str(&proxy.get("/status").await.body).expect("JSON");
    let instances = status["instances"].as_array().expect("instances");
    let names: Vec<_> = instances.iter().filter_map(|i| i["name"].as_str()).collect();
    assert_eq!(names, [first.seed(), second.seed()]);
    assert_eq!(instances[1]["listeners"][0], format!("127.0.0.1:{port}"));
    for name in names {
        let label = format!("instance_name=\"{name}\"");
        let commands = proxy.metric("memorystore_proxy_commands_total", &[&label]).await;
        assert!(commands.expect("a sample of each instance") >= 6.0, "{name}: {commands:?}");
    }

    // One instance in trouble costs the other nothing, and is named.
    for front in second.fronts() {
        front.faults().set_refused(true);
        front.faults().close_all();
    }
    assert!(matches!(get(local(port), 1).await, Value::Error(_)));
    assert_eq!(get(proxy.addr(), 1).await, Value::bulk("first"));
    for front in second.fronts() {
        front.faults().set_refused(false);
    }
    wait_for("the second to be well again", Duration::from_secs(20), async || {
        get(local(port), 1).await == Value::bulk("second")
    })
    .await;
}

#[tokio::test]
async fn the_same_cluster_may_be_served_twice_for_writers_and_readers() {
    let metadata = FakeMetadata::start(HOUR).await;
    let options = ClusterOptions { replicas: 1, ..ClusterOptions::default() };
    let cluster = Cluster::start(options, metadata.tokens()).await;
    let port = free_port();
    let readers = format!("{}?port={port}&read-from=replica", cluster.seed());
    let options = ProxyOptions::new(cluster.seed()).metadata(metadata.host()).args([readers]);
    let proxy = Proxy::start(options).await;
    let mut writer = Client::connect(proxy.addr()).await;
    assert_eq!(writer.cmd(&["SET", &key_in_slot(1), "v"]).await, Value::ok());
    assert_eq!(writer.cmd(&["WAIT", "1", "5000"]).await, Value::Int(1));
    let replica = cluster.replicas_of(0).start;
    let before = cluster.member(replica).front().seen("GET");
    assert_eq!(get(local(port), 1).await, Value::bulk("v"));
    assert_eq!(cluster.member(replica).front().seen("GET"), before + 1);
    assert_eq!(get(proxy.addr(), 1).await, Value::bulk("v"));
    assert_eq!(cluster.member(replica).front().seen("GET"), before + 1);
}

#[tokio::test]
async fn an_instance_without_a_cluster_is_named_by_the_probes() {
    let metadata = FakeMetadata::start(HOUR).await;
    let cluster = Cluster::start(ClusterOptions::default(), metadata.tokens()).await;
    let nobody = format!("127.0.0.1:{}", free_port());
    let args = [format!("{nobody}?port={}", free_port())];
    let options = ProxyOptions::new(cluster.seed()).metadata(metadata.host()).args(args);
    let proxy = Proxy::spawn(options).await;
    wait_for("the first to serve", Duration::from_secs(20), async || {
        get(proxy.addr(), 1).await == Value::Null
    })
    .await;
    let body = readiness(&proxy, 503).await;
    assert!(body.lines().all(|line| line.starts_with(&nobody)), "{body}");
    assert_eq!(proxy.get("/startup").await.status, 503);
}

#[tokio::test]
async fn an_address_in_use_ends_the_process_or_is_skipped() {
    let metadata = FakeMetadata::start(HOUR).await;
    let cluster = Cluster::start(ClusterOptions::default(), metadata.tokens()).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let second = format!("{}?port={port}", cluster.seed());
    let home = tempfile::TempDir::new().unwrap();
    let output = crate::support::proxy::command(&home)
        .args(["--no-iam-auth", "--port=0", &cluster.seed(), &second])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{text}");

    let options = ProxyOptions::new(cluster.seed())
        .metadata(metadata.host())
        .args([second.as_str(), "--skip-failed-instance-config"]);
    let proxy = Proxy::start(options).await;
    assert_eq!(get(proxy.addr(), 1).await, Value::Null);
    assert!(proxy.logs().contains("skipped (--skip-failed-instance-config)"), "{}", proxy.logs());
}
