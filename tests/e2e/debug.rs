//! DEBUG: the server's own answers, save for what would take a node away from everybody.

use std::time::Duration;

use tokio::time::Instant;

use crate::both_protocols;
use crate::support::bed::{Bed, BedOptions};
use crate::support::client::Proto;
use crate::support::pair::Pair;
use crate::support::resp::Value;
use crate::support::slots::{key_in_slot, keys_on_shard};

both_protocols!(debug_answers_as_the_server, a_sleeping_node_keeps_no_other_session_waiting);

async fn debug_answers_as_the_server(proto: Proto) {
    let mut pair = Pair::start(proto).await;
    pair.agree(
        &[
            &["DEBUG"],
            &["DEBUG", "HELP"],
            &["DEBUG", "NONSENSE"],
            &["DEBUG", "OBJECT"],
            &["DEBUG", "OBJECT", "absent"],
            &["DEBUG", "SLEEP"],
            &["DEBUG", "SLEEP", "0.01"],
            &["DEBUG", "SLEEP", "word"],
            &["DEBUG", "STRUCTSIZE"],
            &["DEBUG", "ERROR", "ERR as you like"],
            &["DEBUG", "PROTOCOL", "map"],
            &["DEBUG", "PROTOCOL", "verbatim"],
            &["DEBUG", "SET-ACTIVE-EXPIRE", "1"],
            &["DEBUG", "DIGEST-VALUE"],
            &["RPUSH", "{l}", "a", "b"],
            &["DEBUG", "LISTPACK", "absent"],
            &["DEBUG", "DIGEST-VALUE", "{l}", "{l}x"],
            &["MULTI"],
            &["DEBUG", "DIGEST-VALUE", "{l}"],
            &["EXEC"],
        ],
        true,
    )
    .await;
    // A key is looked for on the node that has it.
    for slot in [1, 8000, 16000] {
        let key = key_in_slot(slot);
        assert_eq!(pair.ours.cmd(&["SET", &key, "v"]).await, Value::ok());
        let object = pair.ours.cmd(&["DEBUG", "OBJECT", &key]).await.text();
        assert!(object.contains("encoding:embstr"), "{key}: {object}");
    }
    let (a, b) = (key_in_slot(1), key_in_slot(16000));
    assert!(pair.ours.cmd(&["DEBUG", "DIGEST-VALUE", &a, &b]).await.is_error("CROSSSLOT"));
    for killer in ["SEGFAULT", "panic", "ASSERT", "OOM", "RESTART", "CRASH-AND-RECOVER"] {
        let reply = pair.ours.cmd(&["DEBUG", killer]).await;
        assert!(reply.is_error("ERR memorystore-auth-proxy: 'debug"), "{killer}: {reply:?}");
    }
    assert_eq!(pair.ours.cmd(&["MULTI"]).await, Value::ok());
    assert!(pair.ours.cmd(&["DEBUG", "SEGFAULT"]).await.is_error("ERR"));
    assert!(pair.ours.cmd(&["EXEC"]).await.is_error("EXECABORT"));
    assert!(pair.bed.cluster.is_whole().await);
}

/// The node sleeps for longer than any command may wait: its own command is waited for all the same.
async fn a_sleeping_node_keeps_no_other_session_waiting(proto: Proto) {
    let bed = Bed::with(BedOptions {
        op_timeout: Some(Duration::from_millis(1500)),
        ..BedOptions::default()
    })
    .await;
    let mut others = Vec::new();
    for shard in 0..3 {
        let key = keys_on_shard(shard, 3, 1).remove(0);
        let mut client = bed.client(proto).await;
        assert_eq!(client.cmd(&["SET", &key, "v"]).await, Value::ok());
        others.push((client, key));
    }
    let mut sleeper = bed.client(proto).await;
    let start = Instant::now();
    sleeper.send(&["DEBUG", "SLEEP", "2.5"]).await;
    sleeper.send(&["ECHO", "behind"]).await;
    let mut served = 0;
    for (client, key) in &mut others {
        let at = Instant::now();
        // The one on the sleeping node learns that its node does not answer.
        let reply = client.cmd(&["GET", key.as_str()]).await;
        if at.elapsed() < Duration::from_secs(1) {
            assert_eq!(reply, Value::bulk("v"));
            served += 1;
        }
    }
    assert!(served >= 2, "only {served} of three shards answered while one node slept");
    assert_eq!(sleeper.read().await, Value::ok());
    assert!(start.elapsed() >= Duration::from_millis(2400), "slept {:?}", start.elapsed());
    assert_eq!(sleeper.read().await, Value::bulk("behind"));
}
