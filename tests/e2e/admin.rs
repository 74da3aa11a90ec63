//! What operators see: health, metrics, status and logs, without a secret in any of them.

use std::time::Duration;

use crate::support::bed::{Bed, BedOptions};
use crate::support::client::{Client, Proto};
use crate::support::faults::{AuthFault, IAM_OTHER, NOAUTH};
use crate::support::proxy::{Proxy, ProxyOptions};
use crate::support::resp::Value;
use crate::support::slots::key_in_slot;

#[tokio::test]
async fn health_metrics_and_status_answer() {
    let bed = Bed::start().await;
    let mut client = bed.client(Proto::Resp2).await;
    for slot in [0, 8000, 16000] {
        client.cmd(&["SET", &key_in_slot(slot), "v"]).await;
    }
    for path in ["/startup", "/liveness", "/readiness"] {
        assert_eq!(bed.proxy.get(path).await.status, 200, "{path}");
    }
    assert_eq!(bed.proxy.get("/nonsense").await.status, 404);
    let metrics = bed.proxy.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    let mut samples = 0;
    for line in metrics.body.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("NAME VALUE");
        assert!(value.parse::<f64>().is_ok(), "not a sample: {line}");
        assert!(!name.is_empty());
        samples += 1;
    }
    assert!(samples > 5, "{}", metrics.body);
    assert!(metrics.body.contains("# TYPE") && metrics.body.contains("# HELP"));
    let status = bed.proxy.get("/status").await;
    assert_eq!(status.status, 200);
    let json: serde_json::Value = serde_json::from_str(&status.body).expect("/status is JSON");
    assert!(json.is_object());
    for member in bed.cluster.members() {
        let addr = member.addr().to_string();
        assert!(status.body.contains(&addr), "/status names {addr}: {}", status.body);
    }
    let port = bed.proxy.addr().port().to_string();
    assert!(status.body.contains(&port), "/status tells the bound port: {}", status.body);
}

#[tokio::test]
async fn an_unreachable_cluster_is_not_ready_but_alive_and_says_why() {
    let metadata = crate::support::metadata::FakeMetadata::start(Duration::from_secs(3600)).await;
    let nobody = format!("127.0.0.1:{}", crate::support::ports::free_port());
    let options = ProxyOptions::new(&nobody).metadata(metadata.host());
    let proxy = Proxy::spawn(options.op_timeout(Duration::from_secs(1))).await;
    let readiness = proxy.get("/readiness").await;
    assert_eq!(readiness.status, 503);
    assert!(!readiness.body.trim().is_empty());
    assert_eq!(proxy.get("/liveness").await.status, 200);
    let mut client = Client::connect(proxy.addr()).await;
    assert_eq!(client.cmd(&["PING"]).await, Value::Simple("PONG".into()));
    let reply = client.cmd(&["GET", "k"]).await;
    assert!(matches!(reply, Value::Error(_)), "{reply:?}");
}

#[tokio::test]
async fn no_secret_and_no_key_name_appears_anywhere() {
    let bed = Bed::with(BedOptions {
        token_lifetime: Some(Duration::from_secs(3)),
        op_timeout: Some(Duration::from_secs(1)),
        args: vec!["--debug-logs".to_owned()],
        ..BedOptions::default()
    })
    .await;
    let mut client = bed.client(Proto::Resp3).await;
    client.cmd(&["AUTH", "default", "secret-client-password"]).await;
    let key = |n: u16| key_in_slot(n).replace('}', "}secret-key-name");
    for slot in (0..16384).step_by(1000) {
        client.cmd(&["SET", &key(slot), "secret-value"]).await;
    }
    client.cmd(&["RENAME", "secret-key-name-a", "secret-key-name-b"]).await;
    client.cmd(&["NOSUCH", "secret-key-name"]).await;
    client.cmd(&["GET", "secret-key-name", "secret-value"]).await;
    let front = bed.cluster.member(0).front();
    let faults = front.faults();
    for text in [NOAUTH, IAM_OTHER, "CLUSTERDOWN Hash slot not served", "LOADING x", "TRYAGAIN x"] {
        faults.answer_error("GET", text, 2);
        client.cmd(&["GET", &key(0)]).await;
    }
    for fault in [AuthFault::WrongPass, AuthFault::IamExhausted, AuthFault::IamOther] {
        faults.fail_auth(fault, 3);
        faults.close_all();
        client.cmd(&["GET", &key(0)]).await;
    }
    faults.heal_auth();
    faults.cut_mid_reply(1);
    client.cmd(&["INCR", &key(0)]).await;
    bed.cluster.migrate_slot(0, 1).await;
    client.cmd(&["GET", &key(0)]).await;
    let mut broken = bed.client(Proto::Resp2).await;
    broken.send_raw(b"*2\r\n$3\r\nGET\r\n+secret-key-name\r\n").await;
    let _ = broken.try_read().await;
    bed.cluster.kill(2);
    client.cmd(&["SET", &key(16000), "secret-value"]).await;
    client.cmd(&["GET", &key(16000)]).await;
    let mut places = vec![("the log", bed.proxy.logs())];
    for path in ["/metrics", "/status", "/readiness", "/startup", "/liveness"] {
        places.push((path, bed.proxy.get(path).await.body));
    }
    let mut secrets = bed.metadata.tokens().all();
    assert!(secrets.len() >= 2, "tokens were minted and rotated");
    secrets.extend(["secret-", "ya29.", bed.cluster.password()].map(str::to_owned));
    for (place, text) in places {
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{place} holds {secret:?}:\n{text}");
        }
    }
}

#[tokio::test]
async fn structured_logs_are_cloud_logging_json() {
    let args = vec!["--structured-logs".to_owned()];
    let bed = Bed::with(BedOptions { args, ..BedOptions::default() }).await;
    bed.client(Proto::Resp2).await.cmd(&["SET", "k", "v"]).await;
    let logs = bed.proxy.logs();
    assert!(logs.lines().count() > 0);
    for line in logs.lines() {
        let entry: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON ({e}): {line}"));
        for field in ["severity", "message", "time"] {
            assert!(entry.get(field).is_some(), "no {field} in {line}");
        }
    }
}

#[tokio::test]
async fn sigterm_ends_it_cleanly_and_idle_clients_do_not_hold_it() {
    let mut bed = Bed::start().await;
    let mut client = bed.client(Proto::Resp2).await;
    client.cmd(&["SET", "k", "v"]).await;
    let status = bed.proxy.terminate(Duration::from_secs(30)).await.expect("ends in 30 s");
    assert_eq!(status.code(), Some(143), "exit status {status}");
    client.expect_close().await;
}
