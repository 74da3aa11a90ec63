//! TLS, to the cluster and for clients: real handshakes with certificates made for each test.

mod local;
mod rotation;
mod trust;

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use crate::both_protocols;
use crate::support::bed::{Bed, BedOptions};
use crate::support::client::Proto;
use crate::support::cluster::{Cluster, ClusterOptions, Failover};
use crate::support::metadata::FakeMetadata;
use crate::support::proxy::{Proxy, ProxyOptions};
use crate::support::resp::Value;
use crate::support::slots::{key_in_slot, keys_on_shard};
use crate::support::tls::{Authority, Identity};
use crate::support::traffic::{Traffic, spread_keys};
use crate::support::wait::wait_for;

const LIMIT: Duration = Duration::from_secs(20);

both_protocols!(
    commands_pipelines_and_large_values_pass,
    subscriptions_and_blocking_commands_work,
    a_failover_under_traffic_costs_no_command,
);

/// Files of one test.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::with_prefix("tls-").expect("a temporary directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Puts a file there as a whole, as whoever rotates certificates does.
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        let new = self.path(&format!("{name}.new"));
        std::fs::write(&new, text).expect("written");
        std::fs::rename(&new, &path).expect("renamed");
        path.display().to_string()
    }
}

/// A cluster whose fronts show this, and where its tokens come from.
async fn cluster(identity: Option<Identity>) -> (Cluster, FakeMetadata) {
    let metadata = FakeMetadata::start(Duration::from_secs(3600)).await;
    let options = ClusterOptions { tls: identity, ..ClusterOptions::default() };
    (Cluster::start(options, metadata.tokens()).await, metadata)
}

/// The usual: everything is in order.
async fn bed(options: ClusterOptions, args: &[&str]) -> (Bed, Files) {
    let (files, authority) = (Files::new(), Authority::new("authority"));
    let file = files.write("ca.pem", &authority.pem);
    let tls = Some(authority.leaf(&["127.0.0.1"]));
    let mut all = vec![format!("--server-ca-file={file}")];
    all.extend(args.iter().map(|&arg| arg.to_owned()));
    let cluster = ClusterOptions { tls, ..options };
    let bed = Bed::with(BedOptions { cluster, args: all, ..BedOptions::default() }).await;
    (bed, files)
}

/// Waits until readiness fails with all of this in its reason.
async fn refused_with(proxy: &Proxy, texts: &[&str]) {
    let mut body = String::new();
    let found = crate::support::wait::holds(LIMIT, async || {
        let response = proxy.get("/readiness").await;
        body = response.body;
        response.status == 503 && texts.iter().all(|text| body.contains(text))
    })
    .await;
    assert!(found, "wanted {texts:?}, readiness says: {body}");
}

/// Every shard answers.
async fn all_shards_answer(proxy: &Proxy) {
    let mut client = proxy.client(Proto::Resp3).await;
    for slot in [1, 8000, 16000] {
        let key = key_in_slot(slot);
        assert_eq!(client.cmd(&["SET", &key, "here"]).await, Value::ok());
        assert_eq!(client.cmd(&["GET", &key]).await, Value::bulk("here"));
    }
}

async fn commands_pipelines_and_large_values_pass(proto: Proto) {
    let (bed, _files) = bed(ClusterOptions::default(), &[]).await;
    let mut client = bed.client(proto).await;
    // More than a record, a read and a write hold; sizes that end within records.
    for (shard, size) in [(0, 8 << 20), (1, (8 << 20) + 1), (2, 16 * 1024 - 7), (0, 64 * 1024)] {
        let key = &keys_on_shard(shard, 3, 1)[0];
        let value: Vec<u8> = (0..size).map(|n: u32| (n % 251) as u8).collect();
        assert_eq!(client.cmd(&[b"SET".as_slice(), key.as_bytes(), &value]).await, Value::ok());
        // Compared in words: a failure would print 8 MiB twice.
        assert!(client.cmd(&["GET", key]).await == Value::bulk(&value), "{size} bytes changed");
    }
    let keys: Vec<_> = spread_keys(1, 300).remove(0);
    for round in 0..20 {
        let value = |n: usize| format!("{round}-{n}-{}", "x".repeat(n * 7));
        let commands: Vec<_> = keys
            .iter()
            .enumerate()
            .flat_map(|(n, key)| [cmd!["SET", key, value(n)], cmd!["GET", key]])
            .collect();
        for (n, pair) in client.pipeline(&commands).await.chunks(2).enumerate() {
            assert_eq!(pair, [Value::ok(), Value::bulk(value(n))]);
        }
    }
    for front in bed.cluster.fronts() {
        assert!(front.tls().handshakes().full > 0);
        assert_eq!(front.tls().handshakes().failed, 0);
    }
}

async fn subscriptions_and_blocking_commands_work(proto: Proto) {
    let (bed, _files) = bed(ClusterOptions::default(), &[]).await;
    let (mut hears, mut waits, mut says) =
        (bed.client(proto).await, bed.client(proto).await, bed.client(Proto::Resp2).await);
    for channel in ["a", "b", "c"] {
        let told = hears.cmd(&["SUBSCRIBE", channel]).await;
        assert_eq!(told.items()[1], Value::bulk(channel));
    }
    for n in 0..200 {
        let text = format!("{n} {}", "y".repeat(n * 31));
        for channel in ["a", "b", "c"] {
            says.cmd(&["PUBLISH", channel, &text]).await;
            let heard = hears.read().await;
            assert_eq!(heard.items()[1..], [Value::bulk(channel), Value::bulk(&text)]);
        }
    }
    for slot in [1, 8000, 16000] {
        let key = key_in_slot(slot);
        waits.send(&["BLPOP", &key, "20"]).await;
        wait_for("the node to hold the command", LIMIT, async || {
            bed.cluster.stat("blocked_clients").await == 1
        })
        .await;
        assert_eq!(says.cmd(&["RPUSH", &key, "item"]).await, Value::Int(1));
        assert_eq!(waits.read().await.items(), [Value::bulk(&key), Value::bulk("item")]);
    }
}

async fn a_failover_under_traffic_costs_no_command(proto: Proto) {
    let options = ClusterOptions { replicas: 1, ..ClusterOptions::default() };
    let (bed, _files) = bed(options, &[]).await;
    let traffic = Traffic::start(bed.proxy.addr(), proto, spread_keys(8, 6));
    traffic.progress(500).await;
    let replica = bed.cluster.replicas_of(0).start;
    bed.cluster.failover(replica, Failover::Coordinated).await;
    bed.cluster.wait_primary(replica).await;
    traffic.progress(2000).await;
    traffic.stop_clean().await;
    assert!(bed.cluster.member(replica).front().tls().handshakes().done() > 0);
}

#[tokio::test]
async fn sessions_are_resumed_with_the_node_they_were_made_with() {
    let (bed, _files) = bed(ClusterOptions::default(), &[]).await;
    all_shards_answer(&bed.proxy).await;
    for front in bed.cluster.fronts() {
        front.faults().close_all();
        let before = front.tls().handshakes();
        let mut client = bed.client(Proto::Resp2).await;
        wait_for("a resumed session", LIMIT, async || {
            for slot in [1, 8000, 16000] {
                client.cmd(&["GET", &key_in_slot(slot)]).await;
            }
            front.tls().handshakes().resumed > before.resumed
        })
        .await;
        assert_eq!(front.tls().handshakes().failed, 0);
    }
}

#[tokio::test]
async fn a_chain_signed_with_rsassa_pss_is_trusted() {
    crate::support::process::require("openssl", "openssl");
    let files = Files::new();
    let run = |line: &str| {
        let args: Vec<_> = line.split_whitespace().collect();
        let done = std::process::Command::new("openssl")
            .args(&args)
            .current_dir(files.path(""))
            .output()
            .expect("openssl runs");
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let pss = "-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32";
    for name in ["root", "middle", "leaf"] {
        run(&format!("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out {name}.key"));
    }
    std::fs::write(files.path("ca.ext"), "basicConstraints=critical,CA:true\n").expect("written");
    std::fs::write(files.path("leaf.ext"), "subjectAltName=IP:127.0.0.1\n").expect("written");
    run(&format!("req -x509 -new -key root.key -subj /CN=root -days 9 -out root.pem {pss}"));
    for (name, signer, ext) in [("middle", "root", "ca"), ("leaf", "middle", "leaf")] {
        run(&format!("req -new -key {name}.key -subj /CN={name} -out {name}.csr {pss}"));
        run(&format!(
            "x509 -req -in {name}.csr -CA {signer}.pem -CAkey {signer}.key -CAcreateserial \
             -days 9 -extfile {ext}.ext -out {name}.pem {pss}"
        ));
    }
    let read = |name: &str| std::fs::read_to_string(files.path(name)).expect("a file");
    // The node sends the leaf alone: Google's API gives the intermediate with the root.
    let identity = Identity { chain: read("leaf.pem"), key: read("leaf.key") };
    let authorities = files.write("ca.pem", &(read("middle.pem") + &read("root.pem")));
    let (cluster, metadata) = cluster(Some(identity.clone())).await;
    let options = |file: &str| {
        ProxyOptions::new(cluster.seed())
            .metadata(metadata.host())
            .args([format!("--server-ca-file={file}")])
    };
    all_shards_answer(&Proxy::start(options(&authorities)).await).await;

    // Or it sends the chain, and only the root is known.
    let chain = identity.chain + &read("middle.pem");
    for front in cluster.fronts() {
        front.tls().show(&Identity { chain: chain.clone(), key: identity.key.clone() });
    }
    let root = files.path("root.pem").display().to_string();
    all_shards_answer(&Proxy::start(options(&root)).await).await;
}
