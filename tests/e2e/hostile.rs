//! Hostile and clumsy clients: each costs its own connection, a bounded piece of memory, and nobody
//! else anything.
//!
//! Memory is what the kernel says of the proxy's process; every bound is the limit that is tested
//! and some slack for the allocator.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::bed::{Bed, BedOptions};
use crate::support::client::{Client, Proto};
use crate::support::proxy::Proxy;
use crate::support::resp::{Value, encode};
use crate::support::slots::keys_on_shard;
use crate::support::wait::wait_for;

const MIB: u64 = 1 << 20;
const LONG: Duration = Duration::from_secs(30);
const PONG: &[u8] = b"+PONG\r\n";

async fn bed(args: &[&str]) -> Bed {
    let args = args.iter().map(|&arg| arg.to_owned()).collect();
    Bed::with(BedOptions { args, ..BedOptions::default() }).await
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.addr()).await.expect("connect")
}

/// Somebody else is served.
async fn others_are_served(client: &mut Client) {
    assert_eq!(client.cmd(&["SET", "bystander", "1"]).await, Value::ok());
    assert_eq!(client.cmd(&["GET", "bystander"]).await, Value::bulk("1"));
}

async fn disconnects(proxy: &Proxy, limit: &str) -> f64 {
    let label = format!("limit=\"{limit}\"");
    let name = "memorystore_proxy_client_disconnects_total";
    proxy.metric(name, &[&label]).await.expect("the metric is there")
}

/// Everything the peer says until it closes.
async fn last_words(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    // A reset is an end as well.
    let _ = timeout(LONG, stream.read_to_end(&mut said)).await.expect("the end");
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn declared_lengths_are_believed_as_they_arrive() {
    let bed = bed(&[]).await;
    let mut other = bed.client(Proto::Resp2).await;
    others_are_served(&mut other).await;
    let before = bed.proxy.memory();
    let mut clients = Vec::new();
    for _ in 0..200 {
        let mut client = connect(&bed.proxy).await;
        client.write_all(b"*2\r\n$3\r\nGET\r\n$536870000\r\nx").await.expect("write");
        let mut many = connect(&bed.proxy).await;
        many.write_all(b"*1000000\r\n$1\r\nx\r\n").await.expect("write");
        clients.extend([client, many]);
    }
    wait_for("all to be connected", LONG, async || {
        let open = bed.proxy.metric("memorystore_proxy_client_connections", &[]).await;
        open == Some(clients.len() as f64 + 1.0)
    })
    .await;
    others_are_served(&mut other).await;
    let more = bed.proxy.peak_memory() - before;
    assert!(more < 24 * MIB, "{} MiB for bytes that were only announced", more / MIB);
    // Nesting is no request, however deep.
    let mut nested = connect(&bed.proxy).await;
    nested.write_all(&b"*1\r\n".repeat(100_000)).await.expect("write");
    let said = last_words(&mut nested).await;
    assert!(said.starts_with("-ERR Protocol error: expected '$', got '*'"), "{said}");
}

#[tokio::test]
async fn whole_replies_for_those_who_dribble_or_close_half() {
    let bed = bed(&[]).await;
    let mut other = bed.client(Proto::Resp2).await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        slow.push(connect(&bed.proxy).await);
    }
    let request = encode(&["SET", "dribbled", "value"]);
    for byte in &request {
        for client in &mut slow {
            client.write_all(&[*byte]).await.expect("write");
        }
        others_are_served(&mut other).await;
    }
    for client in &mut slow {
        let mut reply = [0; 5];
        timeout(LONG, client.read_exact(&mut reply)).await.expect("in time").expect("a reply");
        assert_eq!(&reply, b"+OK\r\n");
    }
    // Half a request is no request; what came before it is answered.
    let mut half = connect(&bed.proxy).await;
    let all =
        [encode(&["GET", "dribbled"]).repeat(1000), b"*2\r\n$3\r\nGET\r\n$9\r\ndrib".to_vec()];
    half.write_all(&all.concat()).await.expect("write");
    half.shutdown().await.expect("shutdown");
    assert_eq!(last_words(&mut half).await, "$5\r\nvalue\r\n".repeat(1000));
}

#[tokio::test]
async fn who_never_reads_is_disconnected_at_the_limit() {
    let bed = bed(&["--max-client-output-bytes=8MiB"]).await;
    let mut other = bed.client(Proto::Resp2).await;
    let large = "x".repeat(MIB as usize);
    assert_eq!(other.cmd(&["SET", "large", &large]).await, Value::ok());
    let before = bed.proxy.memory();
    let mut deaf = connect(&bed.proxy).await;
    deaf.write_all(&encode(&["GET", "large"]).repeat(400)).await.expect("write");
    wait_for("the limit to strike", LONG, async || disconnects(&bed.proxy, "output").await == 1.0)
        .await;
    others_are_served(&mut other).await;
    let more = bed.proxy.peak_memory().saturating_sub(before);
    assert!(more < 24 * MIB, "{} MiB for a client that reads nothing", more / MIB);
}

/// Replies that have to wait for an earlier one count as well.
#[tokio::test]
async fn replies_that_wait_for_their_turn_are_limited_too() {
    let bed = Bed::with(BedOptions {
        args: vec!["--max-client-output-bytes=8MiB".to_owned()],
        op_timeout: Some(Duration::from_secs(60)),
        ..BedOptions::default()
    })
    .await;
    let mut other = bed.client(Proto::Resp2).await;
    let (stalled, large) = (&keys_on_shard(0, 3, 1)[0], &keys_on_shard(1, 3, 1)[0]);
    let value = "x".repeat(MIB as usize);
    assert_eq!(other.cmd(&["SET", large, &value]).await, Value::ok());
    assert_eq!(other.cmd(&["SET", stalled, "1"]).await, Value::ok());
    bed.cluster.member(0).node.pause();
    let before = bed.proxy.memory();
    let mut client = connect(&bed.proxy).await;
    let all = [encode(&["GET", stalled]), encode(&["GET", large]).repeat(400)].concat();
    client.write_all(&all).await.expect("write");
    wait_for("the limit to strike", LONG, async || disconnects(&bed.proxy, "output").await == 1.0)
        .await;
    bed.cluster.member(0).node.resume();
    let more = bed.proxy.peak_memory().saturating_sub(before);
    assert!(more < 24 * MIB, "{} MiB of replies out of turn", more / MIB);
    others_are_served(&mut other).await;
}

#[tokio::test]
async fn who_sends_without_end_is_not_read_beyond_the_pipeline() {
    let bed = Bed::with(BedOptions {
        args: vec!["--max-pipeline=100".to_owned()],
        op_timeout: Some(Duration::from_secs(60)),
        ..BedOptions::default()
    })
    .await;
    let mut other = bed.client(Proto::Resp2).await;
    others_are_served(&mut other).await;
    let key = &keys_on_shard(0, 3, 1)[0];
    bed.cluster.member(0).node.pause();
    let taken = "memorystore_proxy_commands_total";
    let commands = bed.proxy.metric(taken, &[]).await.expect("counted");
    let before = bed.proxy.memory();
    let (mut reader, mut writer) = connect(&bed.proxy).await.into_split();
    let request = encode(&["SET", key, &"v".repeat(1000)]);
    let many = 20_000;
    let sending = tokio::spawn(async move {
        for _ in 0..many {
            writer.write_all(&request).await.expect("write");
        }
        writer
    });
    wait_for("a full pipeline", LONG, async || {
        bed.proxy.metric(taken, &[]).await == Some(commands + 100.0)
    })
    .await;
    assert!(!sending.is_finished(), "20 MB do not fit into socket buffers");
    let more = bed.proxy.peak_memory().saturating_sub(before);
    assert!(more < 8 * MIB, "{} MiB for requests beyond --max-pipeline", more / MIB);
    bed.cluster.member(0).node.resume();
    let mut replies = vec![0; 5 * many];
    timeout(LONG, reader.read_exact(&mut replies)).await.expect("in time").expect("all replies");
    assert_eq!(replies, b"+OK\r\n".repeat(many));
    sending.await.expect("sent");
}

#[tokio::test]
async fn too_large_a_request_is_refused_with_its_limit() {
    let bed = bed(&["--max-request-bytes=1MiB"]).await;
    let mut other = bed.client(Proto::Resp2).await;
    let fits = "x".repeat(MIB as usize - 100);
    assert_eq!(other.cmd(&["SET", "k", &fits]).await, Value::ok());
    let parts: Vec<String> = (0..20).map(|n| format!("{n}{}", "v".repeat(65_536))).collect();
    let whole: Vec<&str> = ["MSET"].into_iter().chain(parts.iter().map(String::as_str)).collect();
    let announced = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048577\r\n".to_vec();
    for request in [announced, encode(&whole)] {
        let mut client = connect(&bed.proxy).await;
        // The proxy may hang up before all is written.
        let _ = client.write_all(&request).await;
        let said = last_words(&mut client).await;
        let wanted = "-ERR Protocol error: the request is larger than --max-request-bytes\r\n";
        assert!(said == wanted || said.is_empty() && request.len() > 100, "{said}");
    }
    assert_eq!(disconnects(&bed.proxy, "request").await, 2.0);
    others_are_served(&mut other).await;
}

#[tokio::test]
async fn all_buffers_together_are_limited_and_the_largest_client_goes() {
    let bed = bed(&["--max-buffer-total=32MiB"]).await;
    let mut other = bed.client(Proto::Resp2).await;
    let before = bed.proxy.memory();
    let mut clients = Vec::new();
    // The last but one of them holds most, and is what goes when the last comes.
    for size in [8, 8, 12, 8] {
        let mut client = connect(&bed.proxy).await;
        let head = b"*2\r\n$3\r\nGET\r\n$500000000\r\n";
        client.write_all(head).await.expect("write");
        // The kernel holds some of it until the proxy has read.
        client.write_all(&vec![b'x'; size * MIB as usize]).await.expect("write");
        let held = |n: f64| n >= ((size * MIB as usize) as f64);
        if clients.len() < 3 {
            wait_for("it to be held", LONG, async || {
                bed.proxy.metric("memorystore_proxy_buffered_bytes", &[]).await.is_some_and(held)
            })
            .await;
        }
        clients.push(client);
    }
    wait_for("the limit to strike", LONG, async || {
        disconnects(&bed.proxy, "buffer_total").await == 1.0
    })
    .await;
    let said = last_words(&mut clients[2]).await;
    assert!(
        said.starts_with("-ERR closing connection: the proxy buffers more than --max-buffer-total"),
        "{said}"
    );
    let more = bed.proxy.peak_memory().saturating_sub(before);
    assert!(more < 56 * MIB, "{} MiB", more / MIB);
    assert!(bed.proxy.logs().contains("--max-buffer-total is reached"), "{}", bed.proxy.logs());
    others_are_served(&mut other).await;
    assert_eq!(disconnects(&bed.proxy, "buffer_total").await, 1.0);
    drop(clients);
    wait_for("all to be given back", LONG, async || {
        bed.proxy.metric("memorystore_proxy_buffered_bytes", &[]).await == Some(0.0)
            && bed.proxy.memory() < before + 8 * MIB
    })
    .await;
}

#[tokio::test]
async fn idle_clients_go_and_waiting_ones_stay() {
    let bed = bed(&["--client-idle-timeout=1s"]).await;
    let mut subscriber = bed.client(Proto::Resp2).await;
    subscriber.send(&["SUBSCRIBE", "channel"]).await;
    subscriber.read().await;
    let mut blocked = bed.client(Proto::Resp2).await;
    blocked.send(&["BLPOP", "queue", "0"]).await;
    let mut idle = bed.client(Proto::Resp2).await;
    let mut in_multi = bed.client(Proto::Resp2).await;
    assert_eq!(in_multi.cmd(&["MULTI"]).await, Value::ok());
    idle.expect_close().await;
    in_multi.expect_close().await;
    wait_for("both to be counted", LONG, async || disconnects(&bed.proxy, "idle").await == 2.0)
        .await;
    let mut other = bed.client(Proto::Resp2).await;
    assert_eq!(other.cmd(&["PUBLISH", "channel", "m"]).await, Value::Int(1));
    assert_eq!(subscriber.read().await.items()[2], Value::bulk("m"));
    assert_eq!(other.cmd(&["RPUSH", "queue", "e"]).await, Value::Int(1));
    assert_eq!(blocked.read().await.items()[1], Value::bulk("e"));
}

#[tokio::test]
async fn a_value_of_64_mib_is_held_once() {
    let bed = bed(&[]).await;
    let mut other = bed.client(Proto::Resp2).await;
    others_are_served(&mut other).await;
    let before = bed.proxy.memory();
    let size = 64 * MIB as usize;
    let mut client = connect(&bed.proxy).await;
    let head = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${size}\r\n");
    client.write_all(head.as_bytes()).await.expect("write");
    let chunk = vec![b'x'; MIB as usize];
    for _ in 0..64 {
        client.write_all(&chunk).await.expect("write");
    }
    client.write_all(b"\r\n").await.expect("write");
    let mut ok = [0; 5];
    timeout(LONG, client.read_exact(&mut ok)).await.expect("in time").expect("a reply");
    assert_eq!(&ok, b"+OK\r\n");
    client.write_all(&encode(&["GET", "k"])).await.expect("write");
    let mut reply = vec![0; size + 13];
    timeout(LONG, client.read_exact(&mut reply)).await.expect("in time").expect("a reply");
    assert!(reply.starts_with(b"$67108864\r\nxx") && reply.ends_with(b"x\r\n"));
    let more = bed.proxy.peak_memory().saturating_sub(before);
    assert!(more < 80 * MIB, "{} MiB for a value of 64", more / MIB);
    wait_for("it to be given back", LONG, async || bed.proxy.memory() < before + 8 * MIB).await;
}

/// As many as the machine lets a process have, up to 10,000.
#[tokio::test]
async fn a_storm_of_connections_is_served_and_idles_cheaply() {
    let files = rlimit::increase_nofile_limit(u64::MAX).expect("the limit of open files");
    let many = usize::try_from(files.saturating_sub(1000)).expect("a number").min(9_900);
    let bed = bed(&[]).await;
    let mut other = bed.client(Proto::Resp2).await;
    others_are_served(&mut other).await;
    let before = bed.proxy.memory();
    let storm = (0..100).map(|_| {
        let addr = bed.proxy.addr();
        tokio::spawn(async move {
            let mut clients = Vec::new();
            for _ in 0..many / 100 {
                let mut client = TcpStream::connect(addr).await.expect("connect");
                client.write_all(b"PING\r\n").await.expect("write");
                clients.push(client);
            }
            for client in &mut clients {
                let mut reply = [0; PONG.len()];
                let read = timeout(LONG, client.read_exact(&mut reply)).await;
                read.expect("in time").expect("a reply");
                assert_eq!(reply, PONG);
            }
            clients
        })
    });
    let mut clients = Vec::new();
    for part in storm.collect::<Vec<_>>() {
        clients.extend(part.await.expect("served"));
    }
    others_are_served(&mut other).await;
    let each = bed.proxy.memory().saturating_sub(before) / clients.len() as u64;
    assert!(each < 4096, "{each} bytes for an idle client");
    drop(clients);
    wait_for("all to be gone", LONG, async || {
        bed.proxy.metric("memorystore_proxy_client_connections", &[]).await == Some(1.0)
    })
    .await;
    others_are_served(&mut other).await;
}
