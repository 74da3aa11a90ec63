//! A cluster that refuses what Memorystore refuses: client libraries connect as ever, and all other
//! refusals reach the client as the server worded them.

use crate::both_protocols;
use crate::support::bed::Bed;
use crate::support::client::{Client, Proto};
use crate::support::resp::Value;

both_protocols!(refusals_reach_the_client_unchanged, what_libraries_ask_at_connect_is_answered);

/// What Memorystore for Redis Cluster or for Valkey blocks.
const BLOCKED: &[&str] = &[
    "ACL",
    "BGREWRITEAOF",
    "BGSAVE",
    "CLIENT NO-EVICT",
    "CLIENT PAUSE",
    "CLIENT SETINFO",
    "CLIENT UNBLOCK",
    "CLIENT UNPAUSE",
    "CLUSTER ADDSLOTS",
    "CLUSTER ADDSLOTSRANGE",
    "CLUSTER BUMPEPOCH",
    "CLUSTER DELSLOTS",
    "CLUSTER DELSLOTSRANGE",
    "CLUSTER FAILOVER",
    "CLUSTER FLUSHSLOTS",
    "CLUSTER FORGET",
    "CLUSTER MEET",
    "CLUSTER REPLICATE",
    "CLUSTER RESET",
    "CLUSTER SAVECONFIG",
    "CLUSTER SET-CONFIG-EPOCH",
    "CLUSTER SETSLOT",
    "CONFIG GET",
    "CONFIG RESETSTAT",
    "CONFIG REWRITE",
    "CONFIG SET",
    "DEBUG",
    "FAILOVER",
    "LASTSAVE",
    "MIGRATE",
    "MODULE LIST",
    "MODULE LOAD",
    "MODULE LOADEX",
    "MODULE UNLOAD",
    "MOVE",
    "PFDEBUG",
    "PFSELFTEST",
    "PSYNC",
    "REPLCONF",
    "REPLICAOF",
    "RESTORE-ASKING",
    "SAVE",
    "SHUTDOWN",
    "SLAVEOF",
    "SLOWLOG GET",
    "SLOWLOG LEN",
    "SLOWLOG RESET",
    "SWAPDB",
    "SYNC",
    "XSETID",
];

fn refusal(command: &str) -> String {
    let name = command.to_ascii_lowercase().replace(' ', "|");
    format!("NOPERM this user has no permissions to run the '{name}' command")
}

/// A cluster whose fronts refuse all that is blocked.
async fn memorystore() -> Bed {
    let bed = Bed::start().await;
    for front in bed.cluster.fronts() {
        for command in BLOCKED {
            front.faults().answer_error(command, &refusal(command), u32::MAX);
        }
    }
    bed
}

async fn refusals_reach_the_client_unchanged(proto: Proto) {
    let bed = memorystore().await;
    let mut client = bed.client(proto).await;
    for (command, blocked) in [
        ("ACL WHOAMI", "ACL"),
        ("ACL LIST", "ACL"),
        ("ACL SETUSER x", "ACL"),
        ("BGREWRITEAOF", "BGREWRITEAOF"),
        ("BGSAVE", "BGSAVE"),
        ("CONFIG RESETSTAT", "CONFIG RESETSTAT"),
        ("CONFIG REWRITE", "CONFIG REWRITE"),
        ("CONFIG SET maxmemory 1gb", "CONFIG SET"),
        ("DEBUG OBJECT k", "DEBUG"),
        ("DEBUG SLEEP 0", "DEBUG"),
        ("LASTSAVE", "LASTSAVE"),
        ("MODULE LIST", "MODULE LIST"),
        ("MOVE k 1", "MOVE"),
        ("PFDEBUG ENCODING k", "PFDEBUG"),
        ("PFSELFTEST", "PFSELFTEST"),
        ("SAVE", "SAVE"),
        ("SLOWLOG GET", "SLOWLOG GET"),
        ("SLOWLOG LEN", "SLOWLOG LEN"),
        ("SLOWLOG RESET", "SLOWLOG RESET"),
        ("XSETID k 1-1", "XSETID"),
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        assert_eq!(client.cmd(&words).await, Value::Error(refusal(blocked)), "{command}");
    }
    assert!(matches!(client.cmd(&["LATENCY", "LATEST"]).await, Value::Array(_)));
}

async fn what_libraries_ask_at_connect_is_answered(proto: Proto) {
    let bed = memorystore().await;
    let mut client = bed.client(proto).await;
    for (name, value) in [
        ("appendonly", "no"),
        ("databases", "1"),
        ("notify-keyspace-events", ""),
        ("proto-max-bulk-len", "536870912"),
        ("save", ""),
        ("slave-read-only", "yes"),
        ("replica-read-only", "yes"),
        ("timeout", "0"),
        ("TIMEOUT", "0"),
    ] {
        let reply = client.cmd(&["CONFIG", "GET", name]).await;
        let name = name.to_ascii_lowercase();
        assert_eq!(reply.pairs(), [(Value::bulk(name), Value::bulk(value))]);
    }
    assert_eq!(client.cmd(&["CONFIG", "GET", "no-such-setting"]).await.pairs(), []);
    let several = client.cmd(&["CONFIG", "GET", "save", "app*", "databases"]).await;
    assert_eq!(several.pairs().len(), 3, "{several:?}");
    for command in ["CLIENT SETINFO LIB-NAME x", "CLIENT NO-EVICT on", "CLIENT UNPAUSE"] {
        let words: Vec<&str> = command.split(' ').collect();
        assert_eq!(client.cmd(&words).await, Value::ok(), "{command}");
    }
}

/// What a library says before its first command; pipelined, as libraries do. An error may stand only
/// where the library is known to go on after one: those end in `?`.
const HANDSHAKES: &[(&str, &[&str])] = &[
    (
        "redis-py 5",
        &["CLIENT SETINFO LIB-NAME redis-py", "CLIENT SETINFO LIB-VER 5.0.8", "SELECT 0", "PING"],
    ),
    (
        "redis-py 6, RESP3",
        &[
            "HELLO 3",
            "CLIENT SETNAME worker",
            "CLIENT SETINFO LIB-NAME redis-py",
            "CLIENT SETINFO LIB-VER 6.2.0",
        ],
    ),
    (
        "ioredis 5",
        &[
            "CLIENT SETNAME cache",
            "CLIENT SETINFO LIB-NAME ioredis",
            "CLIENT SETINFO LIB-VER 5.8.0",
            "INFO",
        ],
    ),
    (
        "node-redis 5",
        &[
            "HELLO 3",
            "CLIENT SETNAME x",
            "CLIENT SETINFO LIB-NAME node-redis",
            "CLIENT SETINFO LIB-VER 5.1.0",
        ],
    ),
    (
        "go-redis 9",
        &[
            "HELLO 3 AUTH default whatever",
            "CLIENT SETINFO LIB-NAME go-redis(,go1.23.1)",
            "CLIENT SETINFO LIB-VER 9.7.0",
            "CLIENT MAINT_NOTIFICATIONS ON moving-endpoint-type none?",
        ],
    ),
    (
        "Lettuce 6.3",
        &[
            "HELLO 3",
            "CLIENT SETNAME app",
            "CLIENT SETINFO lib-name Lettuce",
            "CLIENT SETINFO lib-ver 6.3.2.RELEASE",
            "PING",
        ],
    ),
    ("Jedis 5", &["CLIENT SETINFO LIB-NAME jedis", "CLIENT SETINFO LIB-VER 5.1.0", "SELECT 0"]),
    (
        "StackExchange.Redis 2.8",
        &[
            "CLIENT SETNAME host(SE.Redis-v2.8.0)",
            "CLIENT SETINFO LIB-NAME SE.Redis",
            "CLIENT SETINFO LIB-VER 2.8.0",
            "CLIENT ID",
            "CONFIG GET timeout",
            "CONFIG GET slave-read-only",
            "CONFIG GET databases",
            "INFO replication",
            "INFO server",
            "SENTINEL MASTERS?",
            "CLUSTER NODES",
            "GET __Booksleeve_TieBreak",
            "ECHO 0123456789abcdef",
        ],
    ),
    (
        "hiredis based tools",
        &["CLIENT NO-TOUCH on", "CLIENT CAPA redirect", "READONLY", "ROLE", "COMMAND COUNT"],
    ),
];

#[tokio::test]
async fn libraries_connect_as_ever() {
    let bed = memorystore().await;
    for (library, handshake) in HANDSHAKES {
        let mut client = Client::connect(bed.proxy.addr()).await;
        let words = |line: &str| -> Vec<Vec<u8>> {
            line.trim_end_matches('?').split(' ').map(|w| w.as_bytes().to_vec()).collect()
        };
        let commands: Vec<Vec<Vec<u8>>> = handshake.iter().map(|line| words(line)).collect();
        let replies = client.pipeline(&commands).await;
        for (line, reply) in handshake.iter().zip(&replies) {
            let refused = matches!(reply, Value::Error(_));
            assert_eq!(refused, line.ends_with('?'), "{library}: {line} was answered {reply:?}");
        }
        if *library == "ioredis 5" {
            assert!(replies[3].text().contains("loading:0\r\n"), "the ready check reads this");
        }
        if library.starts_with("StackExchange") {
            assert!(replies[7].text().contains("role:master"), "{:?}", replies[7]);
            assert!(replies[8].text().contains("redis_mode:standalone"), "{:?}", replies[8]);
        }
        assert_eq!(client.cmd(&["SET", "k", library]).await, Value::ok(), "{library}");
        assert_eq!(client.cmd(&["GET", "k"]).await, Value::bulk(library), "{library}");
    }
    // What was answered here did not reach a node.
    for front in bed.cluster.fronts() {
        for name in ["CLIENT SETINFO", "CLIENT NO-EVICT", "CLIENT SETNAME", "SELECT"] {
            assert_eq!(front.seen(name), 0, "{name}");
        }
    }
}

#[tokio::test]
async fn redis_cli_works_all_the_same() {
    let bed = memorystore().await;
    let port = bed.proxy.addr().port().to_string();
    for (args, wanted) in [
        (vec!["SET", "cli", "v"], "OK"),
        (vec!["-3", "GET", "cli"], "\"v\""),
        (vec!["PING"], "PONG"),
    ] {
        let output = tokio::process::Command::new("redis-cli")
            .args(["-p", &port])
            .args(&args)
            .output()
            .await
            .expect("redis-cli comes with redis-tools");
        let stdout = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let wanted = wanted.trim_matches('"');
        assert_eq!(stdout.trim_matches('"'), wanted, "{args:?}");
    }
}
