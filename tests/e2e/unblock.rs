//! CLIENT UNBLOCK: the wait of another client ends as on one server, and no element is lost.

use std::time::Duration;

use crate::both_protocols;
use crate::support::bed::{Bed, BedOptions};
use crate::support::client::{Client, Proto};
use crate::support::cluster::Cluster;
use crate::support::pair::Pair;
use crate::support::resp::Value;
use crate::support::slots::key_in_slot;
use crate::support::wait::wait_for;

both_protocols!(
    a_wait_ends_in_the_servers_words,
    an_element_goes_to_the_client_or_stays,
    a_client_of_another_thread_is_unblocked,
    a_refused_unblock_is_passed_on_and_changes_nothing,
);

const SOON: Duration = Duration::from_secs(15);

async fn blocked(cluster: &Cluster, count: i64) {
    wait_for(&format!("{count} blocked clients"), SOON, async || {
        cluster.stat("blocked_clients").await == count
    })
    .await;
}

async fn id(client: &mut Client) -> String {
    client.cmd(&["CLIENT", "ID"]).await.int().to_string()
}

/// Waits until the one asked says that the client blocks.
async fn shown_blocked(asked: &mut Client, id: &str) {
    wait_for("the client to block", SOON, async || {
        asked.cmd(&["CLIENT", "LIST", "ID", id]).await.text().contains(" flags=b ")
    })
    .await;
}

async fn a_wait_ends_in_the_servers_words(proto: Proto) {
    let mut pair = Pair::start(proto).await;
    pair.reset(proto).await;
    let mut near = pair.bed.client(proto).await;
    let mut far = Client::connect_proto(pair.server.addr(), proto).await;
    let (ours, theirs) = (id(&mut pair.ours).await, id(&mut pair.theirs).await);
    pair.agree(&[&["XGROUP", "CREATE", "{t}g", "g", "$", "MKSTREAM"]], false).await;
    for wait in [
        "BLPOP {t}a {t}b 0",
        "BRPOP {t}a 100",
        "BLMOVE {t}a {t}b LEFT RIGHT 0",
        "BRPOPLPUSH {t}a {t}b 0",
        "BLMPOP 0 1 {t}a LEFT",
        "BZPOPMIN {t}a 0",
        "BZMPOP 0 1 {t}a MIN",
        "XREAD BLOCK 0 STREAMS {t}x $",
        "XREADGROUP GROUP g c BLOCK 0 STREAMS {t}g >",
        // It waits for all shards.
        "WAIT 1 0",
    ] {
        for how in [&[][..], &["TIMEOUT"], &["error"]] {
            let words: Vec<&str> = wait.split(' ').collect();
            for (client, observer, id) in
                [(&mut pair.ours, &mut near, &ours), (&mut pair.theirs, &mut far, &theirs)]
            {
                client.send(&words).await;
                client.send(&["ECHO", "behind"]).await;
                // At once, though the node may not have heard of the wait yet.
                shown_blocked(observer, id).await;
                let unblock = [&["CLIENT", "UNBLOCK", id.as_str()][..], how].concat();
                assert_eq!(observer.cmd(&unblock).await, Value::Int(1), "{wait} {how:?}");
            }
            for _ in 0..2 {
                let (ours, theirs) = (pair.ours.read_raw().await, pair.theirs.read_raw().await);
                assert_eq!(
                    String::from_utf8_lossy(&ours),
                    String::from_utf8_lossy(&theirs),
                    "{wait} {how:?}"
                );
            }
            // Nobody to unblock any more.
            assert_eq!(near.cmd(&["CLIENT", "UNBLOCK", &ours]).await, Value::Int(0));
        }
    }
    blocked(&pair.bed.cluster, 0).await;
}

/// A push and an unblock race for the same client, again and again.
async fn an_element_goes_to_the_client_or_stays(proto: Proto) {
    let bed = Bed::start().await;
    let queue = key_in_slot(11);
    let mut waiting = bed.client(proto).await;
    let mut pusher = bed.client(proto).await;
    let mut unblocker = bed.client(proto).await;
    let id = id(&mut waiting).await;
    let (mut popped, mut ended) = (0, 0);
    for n in 0..200 {
        waiting.send(&["BLPOP", &queue, "0"]).await;
        shown_blocked(&mut unblocker, &id).await;
        let push = ["RPUSH", &queue, &n.to_string()];
        let unblock = ["CLIENT", "UNBLOCK", &id];
        let (length, unblocked) = tokio::join!(pusher.cmd(&push), unblocker.cmd(&unblock));
        let reply = waiting.read().await;
        match unblocked.int() {
            1 => {
                ended += 1;
                assert_eq!(reply, Value::Null, "{n}");
                // What was pushed is still there, and nothing else.
                assert_eq!(length, Value::Int(1));
                assert_eq!(pusher.cmd(&["LPOP", &queue]).await, Value::bulk(n.to_string()));
            }
            _ => {
                popped += 1;
                let element = Value::Array(vec![Value::bulk(&queue), Value::bulk(n.to_string())]);
                assert_eq!(reply, element);
            }
        }
        assert_eq!(pusher.cmd(&["LLEN", &queue]).await, Value::Int(0));
    }
    assert_eq!(popped + ended, 200);
}

async fn a_client_of_another_thread_is_unblocked(proto: Proto) {
    let args = vec!["--threads".to_owned(), "3".to_owned()];
    let bed = Bed::with(BedOptions { args, ..BedOptions::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = bed.client(proto).await;
        let id = id(&mut client).await;
        clients.push((client, id));
    }
    let (mut waiting, waits) = clients.remove(0);
    for (client, _) in &mut clients {
        waiting.send(&["BLPOP", "queue", "0"]).await;
        shown_blocked(client, &waits).await;
        let commands = [cmd!["CLIENT", "UNBLOCK", &waits, "ERROR"], cmd!["PING"]];
        let replies = client.pipeline(&commands).await;
        assert_eq!(replies, [Value::Int(1), Value::Simple("PONG".into())]);
        assert!(waiting.read().await.is_error("UNBLOCKED client unblocked via CLIENT UNBLOCK"));
        assert_eq!(client.cmd(&["CLIENT", "UNBLOCK", &waits]).await, Value::Int(0));
    }
}

/// As Memorystore does.
async fn a_refused_unblock_is_passed_on_and_changes_nothing(proto: Proto) {
    let bed = Bed::start().await;
    let refusal = "NOPERM this user has no permissions to run the 'client|unblock' command";
    for front in bed.cluster.fronts() {
        front.faults().answer_error("CLIENT UNBLOCK", refusal, u32::MAX);
    }
    let mut waiting = bed.client(proto).await;
    let id = id(&mut waiting).await;
    waiting.send(&["BLPOP", "queue", "0"]).await;
    blocked(&bed.cluster, 1).await;
    let mut other = bed.client(proto).await;
    assert_eq!(other.cmd(&["CLIENT", "UNBLOCK", &id]).await, Value::Error(refusal.into()));
    assert_eq!(other.cmd(&["RPUSH", "queue", "e"]).await, Value::Int(1));
    let popped = Value::Array(vec![Value::bulk("queue"), Value::bulk("e")]);
    assert_eq!(waiting.read().await, popped);
    assert_eq!(other.cmd(&["CLIENT", "UNBLOCK", &id]).await, Value::Int(0));
}

#[tokio::test]
async fn nodes_that_do_not_tell_ids_unblock_nobody_and_all_else_works() {
    let bed = Bed::start().await;
    for front in bed.cluster.fronts() {
        front.faults().answer_error("CLIENT ID", "NOPERM no", u32::MAX);
    }
    let mut waiting = bed.client(Proto::Resp2).await;
    let id = id(&mut waiting).await;
    waiting.send(&["BLPOP", "queue", "0"]).await;
    blocked(&bed.cluster, 1).await;
    let mut other = bed.client(Proto::Resp2).await;
    let reply = other.cmd(&["CLIENT", "UNBLOCK", &id]).await;
    assert!(reply.is_error("ERR memorystore-auth-proxy: the node does not tell"), "{reply:?}");
    assert_eq!(other.cmd(&["RPUSH", "queue", "e"]).await, Value::Int(1));
    assert_eq!(waiting.read().await.items().len(), 2);
}
