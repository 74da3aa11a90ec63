//! Replies of all shards merged into one: bounded in memory, and given back when they are out.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::client::Proto;
use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::metadata::FakeMetadata;
use crate::support::proxy::{Proxy, ProxyOptions};
use crate::support::resp::Value;
use crate::support::wait::wait_for;

const MIB: u64 = 1 << 20;

/// Most that is merged.
const LIMIT: u64 = 256 * MIB;

/// Bytes of one key in a reply, about: `$104`, the key, two line ends.
const KEY: u64 = 111;

/// Gives every node so many keys of about 104 bytes. A node lists them, wherever they belong.
async fn populate(cluster: &Cluster, keys: u64) {
    let prefix = "k".repeat(98);
    for member in cluster.members() {
        let command = ["DEBUG", "POPULATE", &keys.to_string(), &prefix, "1"];
        assert_eq!(member.node.run(&command).await, Value::ok());
    }
}

/// Sends `KEYS *` and reads its reply without keeping it: the first line, and how many lines follow
/// until the reply is whole.
async fn keys(stream: &mut TcpStream) -> (String, usize) {
    stream.write_all(b"KEYS *\r\n").await.expect("write to the proxy");
    let mut buffer = vec![0; 1 << 20];
    let mut first = Vec::new();
    let mut lines = 0;
    loop {
        let read = timeout(Duration::from_secs(60), stream.read(&mut buffer)).await;
        let n = read.expect("a reply in a minute").expect("read from the proxy");
        assert!(n > 0, "the proxy closed after {lines} lines");
        let ends = buffer[..n].iter().filter(|&&b| b == b'\n').count();
        if lines == 0 {
            first.extend_from_slice(&buffer[..n.min(300)]);
        }
        lines += ends;
        let line = String::from_utf8_lossy(&first);
        let Some((line, _)) = line.split_once("\r\n") else {
            continue;
        };
        let due = match line.strip_prefix('*') {
            Some(count) => 2 * count.parse::<usize>().expect("a count"),
            None => 0,
        };
        if lines > due {
            assert_eq!(lines, due + 1, "more lines than the reply has");
            return (line.to_owned(), due);
        }
    }
}

async fn memory_falls_below(proxy: &Proxy, bytes: u64) {
    wait_for("the memory to be given back", Duration::from_secs(20), async || {
        proxy.memory() < bytes
    })
    .await;
}

#[tokio::test]
async fn keys_of_all_shards_cost_their_size_once_and_have_a_limit() {
    // Without fronts, which would look at every byte on its way.
    let options = ClusterOptions { fronts: false, ..ClusterOptions::default() };
    let metadata = FakeMetadata::start(Duration::from_secs(3600)).await;
    let cluster = Cluster::start(options, metadata.tokens()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("password");
    std::fs::write(&path, cluster.password()).expect("password written");
    let flags = ["--no-iam-auth", "--upstream-password-file", path.to_str().expect("path")];
    let proxy = Proxy::start(ProxyOptions::new(cluster.seed()).args(flags)).await;
    let mut other = proxy.client(Proto::Resp3).await;
    let base = proxy.memory();
    let mut stream = TcpStream::connect(proxy.addr()).await.expect("connect");
    // A third of the limit.
    let few = LIMIT / 3 / 3 / KEY;
    populate(&cluster, few).await;
    let size = 3 * few * KEY;
    let (line, _) = keys(&mut stream).await;
    assert_eq!(line, format!("*{}", 3 * few));
    let peak = proxy.peak_memory() - base;
    assert!(peak < size * 3 / 2 + 16 * MIB, "{} MiB for {} MiB", peak / MIB, size / MIB);
    memory_falls_below(&proxy, base + 64 * MIB).await;
    // Half as much again as the limit: refused, and what comes is dropped as it comes.
    populate(&cluster, LIMIT / 2 / KEY).await;
    for _ in 0..2 {
        let (line, _) = keys(&mut stream).await;
        assert!(
            line.starts_with("-ERR memorystore-auth-proxy: the nodes' replies to 'keys'"),
            "{line}"
        );
        assert!(line.ends_with("256 MiB together, the most that is merged; use SCAN"), "{line}");
        let peak = proxy.peak_memory() - base;
        assert!(peak < LIMIT + 64 * MIB, "{} MiB", peak / MIB);
        // The connections to the nodes are as good as before.
        assert_eq!(other.cmd(&["SET", "a", "1"]).await, Value::ok());
        assert_eq!(other.cmd(&["MGET", "a", "b", "c", "d"]).await.items().len(), 4);
    }
    memory_falls_below(&proxy, base + 64 * MIB).await;
    // Nobody waits for it any more.
    stream.write_all(b"KEYS *\r\n").await.expect("write to the proxy");
    drop(stream);
    assert_eq!(other.cmd(&["GET", "a"]).await, Value::bulk("1"));
    memory_falls_below(&proxy, base + 64 * MIB).await;
}
