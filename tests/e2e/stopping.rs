//! How the process starts and stops: connection test, limit of clients, drain, exit codes.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::bed::{Bed, BedOptions};
use crate::support::client::{Client, Proto};
use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::http;
use crate::support::metadata::FakeMetadata;
use crate::support::ports::free_port;
use crate::support::proxy::{Proxy, ProxyOptions};
use crate::support::resp::Value;
use crate::support::wait::wait_for;

const LONG: Duration = Duration::from_secs(30);

async fn bed(args: &[&str]) -> Bed {
    let args = args.iter().map(|&arg| arg.to_owned()).collect();
    Bed::with(BedOptions { args, ..BedOptions::default() }).await
}

fn code(status: Option<std::process::ExitStatus>) -> Option<i32> {
    status.expect("it ends in 30 s").code()
}

#[tokio::test]
async fn exit_codes_tell_what_ended_it() {
    let mut bed = bed(&[]).await;
    bed.proxy.signal("INT");
    assert_eq!(code(bed.proxy.wait(LONG).await), Some(130));

    let port = free_port();
    let mut bed = self::bed(&["--quitquitquit", &format!("--admin-port={port}")]).await;
    let mut client = bed.client(Proto::Resp2).await;
    assert_eq!(client.cmd(&["SET", "k", "v"]).await, Value::ok());
    let admin = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(http::try_get(admin, "/nothing").await.unwrap().status, 404);
    assert_eq!(http::try_get(admin, "/quitquitquit").await.unwrap().status, 200);
    assert_eq!(code(bed.proxy.wait(LONG).await), Some(0));

    let mut bed = self::bed(&["--exit-zero-on-sigterm"]).await;
    assert_eq!(code(bed.proxy.terminate(LONG).await), Some(0));
    // Nothing of this is an error worth a word on stderr.
    assert!(!bed.proxy.logs().contains("stopped by signal"), "{}", bed.proxy.logs());
}

#[tokio::test]
async fn a_transaction_is_finished_and_a_waiting_blpop_and_idle_clients_are_let_go() {
    let mut bed = bed(&[]).await;
    let mut idle = bed.client(Proto::Resp3).await;
    let mut blocked = bed.client(Proto::Resp2).await;
    let mut writer = bed.client(Proto::Resp2).await;
    let mut watcher = bed.client(Proto::Resp2).await;
    blocked.send(&["BLPOP", "{t}list", "0"]).await;
    assert_eq!(writer.cmd(&["MULTI"]).await, Value::ok());
    assert_eq!(writer.cmd(&["SET", "{t}a", "1"]).await, Value::Simple("QUEUED".into()));
    assert_eq!(watcher.cmd(&["WATCH", "{t}b"]).await, Value::ok());
    wait_for("BLPOP to reach its node", LONG, async || {
        bed.cluster.fronts().map(|front| front.seen("BLPOP")).sum::<usize>() > 0
    })
    .await;
    bed.proxy.signal("TERM");
    idle.expect_close().await;
    blocked.expect_close().await;
    // New clients are not taken any more.
    assert!(Client::try_connect(bed.proxy.addr()).await.is_err());
    assert_eq!(bed.proxy.get("/readiness").await.status, 503);
    assert_eq!(bed.proxy.get("/liveness").await.status, 200);
    assert_eq!(writer.cmd(&["INCR", "{t}a"]).await, Value::Simple("QUEUED".into()));
    assert_eq!(writer.cmd(&["EXEC"]).await, Value::Array(vec![Value::ok(), Value::Int(2)]));
    writer.expect_close().await;
    assert_eq!(watcher.cmd(&["MULTI"]).await, Value::ok());
    assert_eq!(watcher.cmd(&["SET", "{t}b", "1"]).await, Value::Simple("QUEUED".into()));
    assert_eq!(watcher.cmd(&["EXEC"]).await, Value::Array(vec![Value::ok()]));
    watcher.expect_close().await;
    assert_eq!(code(bed.proxy.wait(LONG).await), Some(143));
}

#[tokio::test]
async fn a_transaction_that_never_ends_is_cut_at_the_limit() {
    let mut bed = bed(&["--max-sigterm-delay=300ms"]).await;
    let mut client = bed.client(Proto::Resp2).await;
    assert_eq!(client.cmd(&["MULTI"]).await, Value::ok());
    let start = Instant::now();
    assert_eq!(code(bed.proxy.terminate(LONG).await), Some(143));
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert!(bed.proxy.logs().contains("replies are still due"), "{}", bed.proxy.logs());
    client.expect_close().await;
}

#[tokio::test]
async fn clients_are_taken_for_the_least_delay_and_a_second_signal_ends_it() {
    let mut bed = bed(&["--min-sigterm-delay=1h"]).await;
    bed.proxy.signal("TERM");
    wait_for("the probe to tell", LONG, async || bed.proxy.get("/readiness").await.status == 503)
        .await;
    let mut late = bed.client(Proto::Resp2).await;
    assert_eq!(late.cmd(&["SET", "k", "v"]).await, Value::ok());
    bed.proxy.signal("TERM");
    assert_eq!(code(bed.proxy.wait(LONG).await), Some(143));
    late.expect_close().await;
}

#[tokio::test]
async fn one_client_too_many_is_told_so_and_counted() {
    let bed = bed(&["--max-connections=2"]).await;
    let mut first = bed.client(Proto::Resp2).await;
    let mut second = bed.client(Proto::Resp2).await;
    for client in [&mut first, &mut second] {
        assert_eq!(client.cmd(&["PING"]).await, Value::Simple("PONG".into()));
    }
    let mut third = Client::connect(bed.proxy.addr()).await;
    assert_eq!(third.read().await, Value::Error("ERR max number of clients reached".into()));
    third.expect_close().await;
    let rejected = bed.proxy.metric("memorystore_proxy_client_connections_rejected_total", &[]);
    assert_eq!(rejected.await, Some(1.0));
    drop(first);
    wait_for("a place to be free", LONG, async || {
        let mut next = Client::connect(bed.proxy.addr()).await;
        next.try_cmd(&["PING"]).await.is_ok_and(|reply| reply == Value::Simple("PONG".into()))
    })
    .await;
}

#[tokio::test]
async fn a_burst_of_silent_clients_is_held_to_the_limit() {
    let bed = bed(&["--max-connections=2"]).await;
    let mut clients = Vec::new();
    for _ in 0..12 {
        clients.push(Client::connect(bed.proxy.addr()).await);
    }
    let rejected = "memorystore_proxy_client_connections_rejected_total";
    wait_for("all but two to be refused", LONG, async || {
        bed.proxy.metric(rejected, &[]).await == Some(10.0)
    })
    .await;
    drop(clients);
    wait_for("their places to be free", LONG, async || {
        let mut next = Client::connect(bed.proxy.addr()).await;
        next.try_cmd(&["PING"]).await.is_ok_and(|reply| reply == Value::Simple("PONG".into()))
    })
    .await;
}

#[tokio::test]
async fn the_connection_test_passes_before_clients_come_or_ends_the_process() {
    let bed = bed(&["--run-connection-test"]).await;
    assert!(bed.proxy.logs().contains("connection test passed"), "{}", bed.proxy.logs());
    for front in bed.cluster.fronts() {
        assert!(front.seen("PING") >= 1);
    }
    let metadata = FakeMetadata::start(Duration::from_secs(3600)).await;
    let cluster = Cluster::start(ClusterOptions::default(), metadata.tokens()).await;
    cluster.member(2).front().faults().set_refused(true);
    let home = tempfile::TempDir::new().unwrap();
    let run = |endpoint: String| {
        let mut command = crate::support::proxy::command(&home);
        command.env("GCE_METADATA_HOST", metadata.host()).args([
            "--run-connection-test",
            "--connect-timeout=1s",
            "--port=0",
            &endpoint,
        ]);
        tokio::process::Command::from(command)
    };
    for endpoint in [cluster.seed(), format!("127.0.0.1:{}", free_port())] {
        let output = run(endpoint.clone()).output().await.unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(&format!("the connection test of {endpoint} failed")), "{text}");
        assert!(text.contains("refused: nothing listens there"), "{text}");
    }
}

#[tokio::test]
async fn the_backend_check_makes_probes_ask_the_nodes() {
    let metadata = FakeMetadata::start(Duration::from_secs(3600)).await;
    let cluster = Cluster::start(ClusterOptions::default(), metadata.tokens()).await;
    cluster.member(1).front().faults().answer_error("PING", "ERR go away", 1);
    let options = ProxyOptions::new(cluster.seed())
        .metadata(metadata.host())
        .args(["--with-backend-check", "--connect-timeout=1s"]);
    let proxy = Proxy::spawn(options).await;
    wait_for("the failure to show", LONG, async || {
        let startup = proxy.get("/startup").await;
        startup.status == 503 && startup.body.contains("ERR go away")
    })
    .await;
    proxy.wait_ready().await;
    assert_eq!(proxy.get("/startup").await.status, 200);
}

#[tokio::test]
async fn systemd_is_told_when_the_proxy_listens_lives_and_stops() {
    let metadata = FakeMetadata::start(Duration::from_secs(3600)).await;
    let cluster = Cluster::start(ClusterOptions::default(), metadata.tokens()).await;
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("notify");
    let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
    let options = ProxyOptions::new(cluster.seed())
        .metadata(metadata.host())
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "300000");
    let mut proxy = Proxy::start(options).await;
    let next = async || {
        let mut message = [0; 256];
        let read = tokio::time::timeout(LONG, socket.recv(&mut message)).await;
        let length = read.expect("a message in 30 s").unwrap();
        String::from_utf8_lossy(&message[..length]).trim().to_owned()
    };
    assert_eq!(next().await, "READY=1");
    for _ in 0..3 {
        assert_eq!(next().await, "WATCHDOG=1");
    }
    proxy.signal("TERM");
    let mut last = next().await;
    while last == "WATCHDOG=1" {
        last = next().await;
    }
    assert_eq!(last, "STOPPING=1");
    assert_eq!(code(proxy.wait(LONG).await), Some(143));
}
