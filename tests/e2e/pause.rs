//! CLIENT PAUSE and UNPAUSE: what waits and what does not is what a server lets wait.

use std::time::Duration;

use tokio::time::Instant;

use crate::both_protocols;
use crate::support::bed::{Bed, BedOptions};
use crate::support::client::{Client, Proto};
use crate::support::pair::Pair;
use crate::support::resp::Value;
use crate::support::slots::key_in_slot;
use crate::support::wait::wait_for;

both_protocols!(
    a_pause_of_writes_holds_what_the_servers_holds,
    a_pause_of_all_holds_everything_until_it_ends,
    a_pause_concerns_the_clients_of_all_threads,
);

const SOON: Duration = Duration::from_secs(15);

async fn id(client: &mut Client) -> String {
    client.cmd(&["CLIENT", "ID"]).await.int().to_string()
}

async fn shown_waiting(observer: &mut Client, id: &str) {
    wait_for("the client to be shown as waiting", SOON, async || {
        observer.cmd(&["CLIENT", "LIST", "ID", id]).await.text().contains(" flags=b ")
    })
    .await;
}

/// True when the client is shown as waiting, false when it is answered, whichever comes first. The
/// observer's question is never given up half way.
async fn waits_or_answers(
    observer: &mut Client,
    client: &mut Client,
    id: &str,
    shown: &str,
) -> bool {
    let deadline = tokio::time::Instant::now() + SOON;
    while tokio::time::Instant::now() < deadline {
        if tokio::time::timeout(Duration::from_millis(20), client.read_raw()).await.is_ok() {
            return false;
        }
        let line = observer.cmd(&["CLIENT", "LIST", "ID", id]).await.text();
        if line.contains(shown) {
            return true;
        }
    }
    panic!("client {id} is neither answered nor shown as waiting");
}

/// Whether a command waits in a pause of writes; it is answered when the pause is ended.
async fn waits(observer: &mut Client, client: &mut Client, command: &[&str]) -> bool {
    let id = id(client).await;
    assert_eq!(observer.cmd(&["CLIENT", "PAUSE", "100000", "WRITE"]).await, Value::ok());
    client.send(command).await;
    let waits = waits_or_answers(observer, client, &id, " flags=b ").await;
    assert_eq!(observer.cmd(&["CLIENT", "UNPAUSE"]).await, Value::ok());
    if waits {
        client.read().await;
    }
    waits
}

async fn a_pause_of_writes_holds_what_the_servers_holds(proto: Proto) {
    let pair = Pair::start(proto).await;
    let mut near = pair.bed.client(proto).await;
    let mut far = Client::connect_proto(pair.server.addr(), proto).await;
    let loaded = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
    let readers = "#!lua flags=no-writes\nreturn 1";
    for observer in [&mut near, &mut far] {
        assert_eq!(observer.cmd(&["SCRIPT", "LOAD", "return 1"]).await, Value::bulk(loaded));
    }
    let commands: &[&[&str]] = &[
        &["PING"],
        &["GET", "a"],
        &["SET", "a", "1"],
        &["SET", "a"],
        &["GET"],
        &["NONSENSE", "a"],
        &["CLIENT", "ID"],
        &["CLIENT", "NONSENSE"],
        &["MULTI"],
        &["EXEC"],
        &["RESET"],
        &["PUBLISH", "a", "b"],
        &["SPUBLISH", "a", "b"],
        &["EVAL", "return 1", "0"],
        &["EVAL_RO", "return 1", "0"],
        &["EVAL", readers, "0"],
        &["EVAL", "#!lua\nreturn 1", "0"],
        &["EVALSHA", loaded, "0"],
        &["PFCOUNT", "x"],
        &["SCRIPT", "LOAD", "return 2"],
        &["FUNCTION", "FLUSH"],
        &["FUNCTION", "LIST"],
        &["FCALL", "f", "0"],
        &["FLUSHALL"],
        &["DEL", "a", "b", "c"],
        &["WAIT", "0", "1"],
        &["BLPOP", "q", "0.01"],
        &["SORT", "x"],
        &["GEORADIUS", "x", "0", "0", "1", "m"],
        &["OBJECT", "HELP"],
        &["DBSIZE"],
        &["SCAN", "0"],
        &["CLIENT", "PAUSE", "1", "FOO"],
        &["CLIENT", "PAUSE", "abc"],
        &["CLIENT", "PAUSE", "-1"],
        &["CLIENT", "PAUSE", "1", "WRITE", "x"],
    ];
    for command in commands {
        let mut ours = pair.bed.client(proto).await;
        let mut theirs = Client::connect_proto(pair.server.addr(), proto).await;
        let theirs = waits(&mut far, &mut theirs, command).await;
        assert_eq!(waits(&mut near, &mut ours, command).await, theirs, "{command:?}");
    }
    // Transactions: a write waits before it is queued, and EXEC of a block with writes.
    for (block, want) in [(&["GET", "{t}a"][..], false), (&["SET", "{t}a", "1"], true)] {
        for (observer, client) in [
            (&mut near, &mut pair.bed.client(proto).await),
            (&mut far, &mut Client::connect_proto(pair.server.addr(), proto).await),
        ] {
            assert_eq!(client.cmd(&["MULTI"]).await, Value::ok());
            assert_eq!(waits_raw(observer, client, block).await, want, "{block:?} queued");
            assert_eq!(waits_raw(observer, client, &["EXEC"]).await, want, "EXEC of {block:?}");
        }
    }
}

/// As [`waits`], of a client in MULTI, which cannot be asked for its id: it is the last one.
async fn waits_raw(observer: &mut Client, client: &mut Client, command: &[&str]) -> bool {
    let list = observer.cmd(&["CLIENT", "LIST"]).await.text();
    let line = list.lines().rfind(|l| l.contains(" flags=x ")).expect("in MULTI");
    let id = line.strip_prefix("id=").and_then(|l| l.split(' ').next()).expect("an id").to_owned();
    assert_eq!(observer.cmd(&["CLIENT", "PAUSE", "100000", "WRITE"]).await, Value::ok());
    client.send(command).await;
    let waits = waits_or_answers(observer, client, &id, " flags=xb ").await;
    assert_eq!(observer.cmd(&["CLIENT", "UNPAUSE"]).await, Value::ok());
    if waits {
        client.read().await;
    }
    waits
}

async fn a_pause_of_all_holds_everything_until_it_ends(proto: Proto) {
    let bed = Bed::start().await;
    let mut pauser = bed.client(proto).await;
    let mut other = bed.client(proto).await;
    // The proxy's clock counts whole milliseconds, as the server's does.
    let pause = Duration::from_millis(399);
    for pauses in [
        &[cmd!["CLIENT", "PAUSE", "400"]][..],
        &[cmd!["CLIENT", "PAUSE", "400", "all"]],
        // A later one neither shortens nor narrows it.
        &[cmd!["CLIENT", "PAUSE", "400", "write"], cmd!["CLIENT", "PAUSE", "1", "ALL"]],
    ] {
        let start = Instant::now();
        let replies = pauser.pipeline(&[pauses, &[cmd!["PING"]]].concat()).await;
        assert_eq!(replies.last(), Some(&Value::Simple("PONG".into())));
        assert!(start.elapsed() >= pause, "its own commands wait too: {:?}", start.elapsed());
    }
    // Others wait from the moment the pause is confirmed, and what is malformed does not.
    let pause = Duration::from_millis(2999);
    let start = Instant::now();
    assert_eq!(pauser.cmd(&["CLIENT", "PAUSE", "3000"]).await, Value::ok());
    assert!(other.cmd(&["GET"]).await.is_error("ERR wrong number of arguments"));
    assert!(start.elapsed() < pause, "answered in the pause: {:?}", start.elapsed());
    let keys = [key_in_slot(1), key_in_slot(16000)];
    let commands =
        [cmd!["SET", &keys[0], "1"], cmd!["SET", &keys[1], "2"], cmd!["MGET", &keys[0], &keys[1]]];
    let replies = other.pipeline(&commands).await;
    assert!(start.elapsed() >= pause, "{:?}", start.elapsed());
    let both = Value::Array(vec![Value::bulk("1"), Value::bulk("2")]);
    assert_eq!(replies, [Value::ok(), Value::ok(), both]);
}

async fn a_pause_concerns_the_clients_of_all_threads(proto: Proto) {
    let args = vec!["--threads".to_owned(), "3".to_owned()];
    let bed = Bed::with(BedOptions { args, ..BedOptions::default() }).await;
    let mut clients = Vec::new();
    for n in 0..6 {
        let mut client = bed.client(proto).await;
        let id = id(&mut client).await;
        clients.push((client, id, format!("key:{n}")));
    }
    let (mut pauser, ..) = clients.remove(0);
    assert_eq!(pauser.cmd(&["CLIENT", "PAUSE", "100000", "WRITE"]).await, Value::ok());
    for (client, id, key) in &mut clients {
        client.send(&["SET", key, "v"]).await;
        client.send(&["GET", key]).await;
        shown_waiting(&mut pauser, id).await;
        assert_eq!(pauser.cmd(&["GET", key.as_str()]).await, Value::Null, "reads go on");
    }
    // Who hangs up in a pause leaves nothing behind.
    let (gone, _, left) = clients.remove(0);
    drop(gone);
    wait_for("the client to be gone", SOON, async || {
        pauser.cmd(&["CLIENT", "LIST"]).await.text().lines().count() == 5
    })
    .await;
    // Nobody else is kept from unblocking: a paused client is none that blocks on a server.
    let (_, paused, _) = &clients[0];
    assert_eq!(pauser.cmd(&["CLIENT", "UNBLOCK", paused.as_str()]).await, Value::Int(0));
    assert_eq!(pauser.cmd(&["CLIENT", "UNPAUSE"]).await, Value::ok());
    for (client, ..) in &mut clients {
        assert_eq!(client.read().await, Value::ok());
        assert_eq!(client.read().await, Value::bulk("v"));
    }
    assert_eq!(pauser.cmd(&["EXISTS", &left]).await, Value::Int(0));
    assert_eq!(pauser.cmd(&["CLIENT", "UNPAUSE"]).await, Value::ok());
}
