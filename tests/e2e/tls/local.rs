//! The TCP listener speaks TLS to clients.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{Files, LIMIT, cluster};
use crate::both_protocols;
use crate::support::client::{Client, Proto};
use crate::support::cluster::Cluster;
use crate::support::metadata::FakeMetadata;
use crate::support::proxy::{Proxy, ProxyOptions};
use crate::support::resp::Value;
use crate::support::tls::{Authority, Dialer, Identity, Tunnel};
use crate::support::traffic::{Traffic, spread_keys};
use crate::support::wait::{holds, wait_for};

both_protocols!(traffic_passes_with_encryption_on_both_sides);

/// A proxy that shows clients a certificate.
struct Gateway {
    proxy: Proxy,
    files: Files,
    authority: Authority,
    dialer: Dialer,
    _cluster: Cluster,
    _metadata: FakeMetadata,
}

impl Gateway {
    async fn start() -> Self {
        let (files, authority) = (Files::new(), Authority::new("authority"));
        let identity = authority.leaf(&["127.0.0.1"]);
        let (cluster, metadata) = cluster(Some(authority.leaf(&["127.0.0.1"]))).await;
        let args = [
            format!("--server-ca-file={}", files.write("ca.pem", &authority.pem)),
            format!("--tls-cert={}", files.write("tls.crt", &identity.chain)),
            format!("--tls-key={}", files.write("tls.key", &identity.key)),
        ];
        let options = ProxyOptions::new(cluster.seed()).metadata(metadata.host()).args(args);
        let proxy = Proxy::start(options).await;
        let dialer = Dialer::new(&authority.pem);
        Self { proxy, files, authority, dialer, _cluster: cluster, _metadata: metadata }
    }

    fn addr(&self) -> SocketAddr {
        self.proxy.addr()
    }

    async fn tunnel(&self) -> Tunnel {
        Tunnel::start(self.addr(), self.dialer.clone()).await
    }

    async fn shows(&self, identity: &Identity) -> bool {
        self.dialer.shown_by(self.addr()).await.is_ok_and(|shown| shown == identity.leaf())
    }
}

async fn traffic_passes_with_encryption_on_both_sides(proto: Proto) {
    let gateway = Gateway::start().await;
    let tunnel = gateway.tunnel().await;
    let traffic = Traffic::start(tunnel.addr(), proto, spread_keys(6, 40));
    let mut client = Client::connect_proto(tunnel.addr(), proto).await;
    for size in [8 << 20, 64 * 1024 + 1, 0] {
        let value: Vec<u8> = (0..size).map(|n: u32| (n % 241) as u8).collect();
        assert_eq!(client.cmd(&[b"SET".as_slice(), b"large", &value]).await, Value::ok());
        assert!(client.cmd(&["GET", "large"]).await == Value::bulk(&value), "{size} bytes changed");
    }
    // Replies larger than the socket takes, asked for all at once and read late.
    let value = vec![b'v'; 300_000];
    client.cmd(&[b"SET".as_slice(), b"large", &value]).await;
    let replies = client.pipeline(&vec![cmd!["GET", "large"]; 60]).await;
    assert!(replies.iter().all(|reply| *reply == Value::bulk(&value)));
    let told = client.cmd(&["SUBSCRIBE", "news"]).await;
    assert_eq!(told.items()[1], Value::bulk("news"));
    let mut other = Client::connect(tunnel.addr()).await;
    other.cmd(&["PUBLISH", "news", "hello"]).await;
    assert_eq!(client.read().await.items()[2], Value::bulk("hello"));
    traffic.progress(2000).await;
    traffic.stop_clean().await;

    // The last reply is whole, and the end is told in due form.
    other.send(&["QUIT"]).await;
    assert_eq!(other.read().await, Value::ok());
    other.expect_close().await;
}

#[tokio::test]
async fn redis_cli_speaks_tls_and_plaintext_is_refused() {
    let gateway = Gateway::start().await;
    let port = gateway.addr().port().to_string();
    let ca = gateway.files.path("ca.pem");
    let cli = async |args: &[&str]| {
        let mut command = tokio::process::Command::new("redis-cli");
        command.args(["-h", "127.0.0.1", "-p", &port, "--tls", "--cacert"]).arg(&ca);
        let run = command.args(args).kill_on_drop(true).output();
        let output = tokio::time::timeout(LIMIT, run).await.expect("an end").expect("redis-cli");
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    };
    assert_eq!(cli(&["SET", "key", "value"]).await.trim(), "OK");
    assert_eq!(cli(&["-3", "GET", "key"]).await.trim(), "value");
    assert_eq!(cli(&["-c", "MGET", "key", "other"]).await.trim_end(), "value");

    let mut plain = Client::connect(gateway.addr()).await;
    let answered = plain.try_cmd(&["GET", "key"]).await;
    assert!(!matches!(answered, Ok(Value::Bulk(_))), "plaintext was served: {answered:?}");
}

#[tokio::test]
async fn the_certificate_is_replaced_without_a_restart_and_never_by_half() {
    let gateway = Gateway::start().await;
    let tunnel = gateway.tunnel().await;
    let first = gateway.dialer.shown_by(gateway.addr()).await.expect("a handshake");
    let mut early = Client::connect(tunnel.addr()).await;
    assert_eq!(early.cmd(&["SET", "key", "value"]).await, Value::ok());

    let next = gateway.authority.leaf(&["127.0.0.1"]);
    gateway.files.write("tls.crt", &next.chain);
    // A certificate with the key of another is not taken.
    wait_for("a warning", LIMIT, async || {
        gateway.proxy.logs().contains("the certificate read before stays in use")
    })
    .await;
    assert_eq!(gateway.dialer.shown_by(gateway.addr()).await.expect("a handshake"), first);
    gateway.files.write("tls.key", &next.key);
    wait_for("the new certificate", LIMIT, async || gateway.shows(&next).await).await;

    // Both at once, several times.
    for _ in 0..3 {
        let next = gateway.authority.leaf(&["127.0.0.1"]);
        gateway.files.write("tls.key", &next.key);
        gateway.files.write("tls.crt", &next.chain);
        wait_for("the new certificate", LIMIT, async || gateway.shows(&next).await).await;
    }
    // Open connections stay, and the key was never in the log.
    assert_eq!(early.cmd(&["GET", "key"]).await, Value::bulk("value"));
    assert!(!gateway.proxy.logs().contains("PRIVATE KEY"));
}

#[tokio::test]
async fn clients_that_never_finish_their_handshake_cost_nobody_else_anything() {
    let gateway = Gateway::start().await;
    let tunnel = gateway.tunnel().await;
    let traffic = Traffic::start(tunnel.addr(), Proto::Resp2, spread_keys(4, 4));
    let mut idle = Vec::new();
    for n in 0..60 {
        let mut stream = TcpStream::connect(gateway.addr()).await.expect("a connection");
        // Nothing, half a record header, or a record that does not end.
        let sent: &[u8] = [&[][..], &[0x16, 3], &[0x16, 3, 1, 1, 0, 1, 0, 0, 200]][n % 3];
        stream.write_all(sent).await.expect("sent");
        idle.push(stream);
    }
    traffic.progress(2000).await;
    let mut client = Client::connect(tunnel.addr()).await;
    assert_eq!(client.cmd(&["SET", "key", "value"]).await, Value::ok());
    traffic.stop_clean().await;
    // They are not kept for ever either.
    let mut byte = [0];
    let ended = holds(Duration::from_secs(30), async || {
        idle.retain(|stream| {
            matches!(stream.try_read(&mut byte), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
        });
        idle.is_empty()
    })
    .await;
    assert!(ended, "{} half-open handshakes are still there", idle.len());
}
