//! What real client libraries say before their first command, answered by the proxy itself.

use std::time::Duration;

use crate::both_protocols;
use crate::support::bed::{Bed, BedOptions};
use crate::support::client::{Client, Proto};
use crate::support::resp::Value;
use crate::support::wait::wait_for;

both_protocols!(
    connection_commands_answer_like_a_standalone_server,
    commands_of_a_later_issue_answer_something_and_leave_the_connection_usable,
);

#[tokio::test]
async fn hello_switches_the_protocol_and_presents_a_standalone_primary() {
    let bed = Bed::start().await;
    let mut client = Client::connect(bed.proxy.addr()).await;
    let two = client.cmd(&["HELLO"]).await;
    assert!(matches!(two, Value::Array(_)), "RESP2 HELLO is a flat array: {two:?}");
    let three = client.cmd(&["HELLO", "3", "AUTH", "default", "whatever", "SETNAME", "me"]).await;
    assert!(matches!(three, Value::Map(_)), "RESP3 HELLO is a map: {three:?}");
    let field = |name: &str| three.field(name).map(|v| v.text());
    assert_eq!(field("proto").as_deref(), Some("3"));
    assert_eq!(field("mode").as_deref(), Some("standalone"));
    assert_eq!(field("role").as_deref(), Some("master"));
    assert!(field("server").is_some() && field("version").is_some() && field("id").is_some());
    assert_eq!(three.field("modules"), Some(Value::Array(vec![])));
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]).await, Value::bulk("me"));
    client.send(&["GET", "absent"]).await;
    assert_eq!(client.read_raw().await, b"_\r\n");
    let back = client.cmd(&["HELLO", "2"]).await;
    assert!(matches!(back, Value::Array(_)), "{back:?}");
    client.send(&["GET", "absent"]).await;
    assert_eq!(client.read_raw().await, b"$-1\r\n");
    assert!(client.cmd(&["HELLO", "4"]).await.is_error("NOPROTO"));
    assert!(client.cmd(&["HELLO", "x"]).await.is_error("ERR Protocol version is not an integer"));
    assert!(client.cmd(&["HELLO", "3", "NONSENSE"]).await.is_error("ERR"));
}

#[tokio::test]
async fn a_protocol_switch_in_the_middle_of_a_pipeline_acts_in_its_place() {
    let bed = Bed::start().await;
    let mut client = Client::connect(bed.proxy.addr()).await;
    client.cmd(&["HSET", "h", "f", "v"]).await;
    client
        .send_raw(
            b"HGETALL h\r\nHELLO 3\r\nHGETALL h\r\nGET absent\r\nHELLO 2\r\nHGETALL h\r\nGET absent\r\n",
        )
        .await;
    assert!(matches!(client.read().await, Value::Array(_)));
    assert!(matches!(client.read().await, Value::Map(_)));
    assert!(matches!(client.read().await, Value::Map(_)));
    assert_eq!(client.read_raw().await, b"_\r\n");
    assert!(matches!(client.read().await, Value::Array(_)));
    assert!(matches!(client.read().await, Value::Array(_)));
    assert_eq!(client.read_raw().await, b"$-1\r\n");
}

async fn connection_commands_answer_like_a_standalone_server(proto: Proto) {
    let bed = Bed::start().await;
    let mut client = bed.client(proto).await;
    assert_eq!(client.cmd(&["PING"]).await, Value::Simple("PONG".into()));
    assert_eq!(client.cmd(&["ping", "hi"]).await, Value::bulk("hi"));
    assert_eq!(client.cmd(&["ECHO", "a\r\nb"]).await, Value::bulk("a\r\nb"));
    assert_eq!(client.cmd(&["AUTH", "anything"]).await, Value::ok());
    assert_eq!(client.cmd(&["AUTH", "default", "anything"]).await, Value::ok());
    assert!(client.cmd(&["AUTH"]).await.is_error("ERR wrong number of arguments"));
    assert!(client.cmd(&["AUTH", "a", "b", "c"]).await.is_error("ERR syntax error"));
    assert_eq!(client.cmd(&["SELECT", "0"]).await, Value::ok());
    assert!(client.cmd(&["SELECT", "1"]).await.is_error("ERR"));
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]).await, Value::Null);
    assert_eq!(client.cmd(&["CLIENT", "SETNAME", "worker-7"]).await, Value::ok());
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]).await, Value::bulk("worker-7"));
    assert!(client.cmd(&["CLIENT", "SETNAME", "with space"]).await.is_error("ERR"));
    assert_eq!(client.cmd(&["CLIENT", "SETINFO", "LIB-NAME", "redis-py"]).await, Value::ok());
    assert_eq!(client.cmd(&["CLIENT", "SETINFO", "lib-ver", "5.0"]).await, Value::ok());
    let id = client.cmd(&["CLIENT", "ID"]).await.int();
    let other = bed.client(proto).await.cmd(&["CLIENT", "ID"]).await.int();
    assert!(id > 0 && other > 0 && id != other, "ids {id} and {other}");
    assert_eq!(client.cmd(&["CLIENT", "ID"]).await.int(), id);
    let commands = client.cmd(&["COMMAND"]).await;
    assert!(commands.items().len() > 200, "COMMAND lists {} commands", commands.items().len());
    let get = commands
        .items()
        .iter()
        .find(|row| row.items()[0].text() == "get")
        .expect("COMMAND lists GET");
    assert_eq!(get.items()[1], Value::Int(2));
    assert!(client.cmd(&["COMMAND", "COUNT"]).await.int() > 200);
    // redis-cli asks this at its start.
    let docs = client.cmd(&["COMMAND", "DOCS"]).await;
    assert!(!matches!(docs, Value::Null), "{docs:?}");
    assert_eq!(client.cmd(&["RESET"]).await, Value::Simple("RESET".into()));
    client.send(&["GET", "absent"]).await;
    assert_eq!(client.read_raw().await, b"$-1\r\n", "RESET goes back to RESP2");
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]).await, Value::Null, "RESET forgets the name");
    assert_eq!(client.cmd(&["QUIT"]).await, Value::ok());
    client.expect_close().await;
    for front in bed.cluster.fronts() {
        for name in ["ECHO", "SELECT", "CLIENT SETNAME", "RESET", "QUIT"] {
            assert_eq!(front.seen(name), 0, "{name} must not reach a node");
        }
    }
}

#[tokio::test]
async fn replies_before_quit_are_delivered() {
    let bed = Bed::start().await;
    let mut client = Client::connect(bed.proxy.addr()).await;
    client.send_raw(b"SET a 1\r\nGET a\r\nQUIT\r\nSET a 2\r\n").await;
    assert_eq!(client.read().await, Value::ok());
    assert_eq!(client.read().await, Value::bulk("1"));
    assert_eq!(client.read().await, Value::ok());
    client.expect_close().await;
    let mut other = Client::connect(bed.proxy.addr()).await;
    assert_eq!(other.cmd(&["GET", "a"]).await, Value::bulk("1"), "nothing after QUIT runs");
}

async fn commands_of_a_later_issue_answer_something_and_leave_the_connection_usable(proto: Proto) {
    let bed = Bed::start().await;
    for line in [
        "MULTI",
        "EXEC",
        "DISCARD",
        "WATCH k",
        "UNWATCH",
        "BLPOP q 0.1",
        "BRPOPLPUSH {q}1 {q}2 0.1",
        "BZPOPMIN z 0.1",
        "XREAD BLOCK 100 STREAMS x $",
        "UNSUBSCRIBE c",
        "PUBLISH c m",
        "SCAN 0",
        "KEYS *",
        "DBSIZE",
        "RANDOMKEY",
        "FLUSHALL",
        "INFO",
        "CONFIG GET maxmemory",
        "TIME",
        "LOLWUT",
        "MGET a b c d e f",
        "MSET a 1 b 2 c 3 d 4",
        "DEL a b c d e f",
        "RENAME a b",
        "SCRIPT LOAD return",
        "CLUSTER INFO",
        "CLUSTER SLOTS",
        "CLUSTER SHARDS",
        "CLUSTER NODES",
        "CLUSTER KEYSLOT a",
        "CLIENT LIST",
        "CLIENT INFO",
        "CLIENT TRACKING ON",
        "CLIENT NO-EVICT ON",
        "MONITOR",
        "ROLE",
        "WAIT 0 10",
        "FUNCTION LIST",
        "MEMORY USAGE k",
        "OBJECT HELP",
        "DEBUG SLEEP 0",
        "SAVE",
        "REPLICAOF NO ONE",
        "SHUTDOWN",
        "ASKING",
        "READONLY",
        "CLUSTER RESET",
        "FAILOVER",
        "PSYNC ? -1",
        "MIGRATE h 1 k 0 1",
        "ACL WHOAMI",
        "MODULE LIST",
        "EVALSHA abc 0",
        "NONSENSE x y",
    ] {
        let mut client = bed.client(proto).await;
        let args: Vec<_> = line.split(' ').collect();
        // A hang or a close fails here; which answer it is belongs to the later issues.
        let reply = client.cmd(&args).await;
        if matches!(line, "MONITOR" | "MULTI" | "PSYNC ? -1") && !matches!(reply, Value::Error(_)) {
            continue;
        }
        let echo = client.cmd(&["ECHO", line]).await;
        assert_eq!(echo, Value::bulk(line), "after {line} → {reply:?}");
        assert_eq!(bed.proxy.get("/liveness").await.status, 200, "after {line}");
    }
    // Whatever those did, no node was shut down, reset or made a replica.
    assert!(bed.cluster.is_whole().await);
    wait_for("a served key after all that", Duration::from_secs(10), async || {
        bed.client(proto).await.cmd(&["SET", "k", "v"]).await == Value::ok()
    })
    .await;
}

#[tokio::test]
async fn redis_cli_works_interactively_and_in_one_shot() {
    let bed = Bed::start().await;
    let port = bed.proxy.addr().port().to_string();
    for (args, wanted) in [
        (vec!["SET", "cli", "v"], "OK"),
        (vec!["GET", "cli"], "v"),
        (vec!["-3", "HSET", "hash", "f", "1"], "1"),
        (vec!["-a", "any-password", "--no-auth-warning", "GET", "cli"], "v"),
    ] {
        let output = tokio::process::Command::new("redis-cli")
            .args(["-p", &port])
            .args(&args)
            .output()
            .await
            .expect("redis-cli comes with redis-tools");
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert_eq!(stdout.trim(), wanted, "{args:?} {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success());
    }
    let mut child = tokio::process::Command::new("redis-cli")
        .args(["-p", &port])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("redis-cli");
    let mut stdin = child.stdin.take().expect("stdin");
    tokio::io::AsyncWriteExt::write_all(&mut stdin, b"SET piped 1\nINCR piped\nGET piped\n")
        .await
        .expect("write");
    drop(stdin);
    let output = child.wait_with_output().await.expect("redis-cli ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "OK\n2\n2\n");
}

#[tokio::test]
async fn a_unix_socket_serves_like_the_port_and_is_gone_at_the_end() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("proxy.sock");
    let args = ["--unix-socket".to_owned(), path.display().to_string()].to_vec();
    let mut bed = Bed::with(BedOptions { args, ..BedOptions::default() }).await;
    let mode = std::fs::metadata(&path).expect("the socket is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    for (line, wanted) in [("SET unix v", "OK"), ("GET unix", "v")] {
        let output = tokio::process::Command::new("redis-cli")
            .arg("-s")
            .arg(&path)
            .args(line.split(' '))
            .output()
            .await
            .expect("redis-cli comes with redis-tools");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), wanted, "{line}");
    }
    bed.proxy.terminate(Duration::from_secs(30)).await.expect("ends in 30 s");
    assert!(!path.exists(), "the socket file is left behind");
}
