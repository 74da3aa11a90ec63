//! Pub/Sub: the server's own confirmations and messages, over lost nodes and moving slots, for
//! subscribers that read and for one that does not.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::both_protocols;
use crate::support::bed::{Bed, BedOptions};
use crate::support::client::{Client, Proto};
use crate::support::cluster::{ClusterOptions, Failover};
use crate::support::pair::Pair;
use crate::support::resp::{self, Value};
use crate::support::slots::{key_in_slot, slot_of};
use crate::support::wait::wait_for;

both_protocols!(confirmations_and_messages_are_the_servers, thousands_of_channels_work);
both_protocols!(a_replaced_connection_loses_and_doubles_no_message);
both_protocols!(subscriptions_outlive_lost_connections, a_sharded_channel_follows_its_slot);
both_protocols!(a_failover_does_not_end_subscriptions);

const SOON: Duration = Duration::from_secs(20);

/// What a subscriber says, the number of frames it gets for it, and what is published after.
type Scene = (&'static [&'static str], usize, &'static [&'static [&'static str]], usize);

const SCENES: &[Scene] = &[
    (&["SUBSCRIBE", "a", "b", "a"], 3, &[&["PUBLISH", "a", "one"], &["PUBLISH", "c", "none"]], 1),
    (&["PSUBSCRIBE", "a*", "?"], 2, &[&["PUBLISH", "a", "two"]], 3),
    (&["SUBSCRIBE", ""], 1, &[&["PUBLISH", "", ""]], 1),
    (&["UNSUBSCRIBE", "a", "zzz"], 2, &[&["PUBLISH", "a", "three"]], 2),
    (&["PUNSUBSCRIBE", "?"], 1, &[&["PUBLISH", "a", "four"], &["PUBLISH", "b", "\r\n"]], 2),
    (&["PUNSUBSCRIBE"], 1, &[&["PUBLISH", "b", "five"]], 1),
    (
        &["SSUBSCRIBE", "{s}one"],
        1,
        &[&["SPUBLISH", "{s}one", "six"], &["PUBLISH", "{s}one", "no"]],
        1,
    ),
    (&["SSUBSCRIBE", "{s}two", "{s}three"], 2, &[&["SPUBLISH", "{s}two", "seven"]], 1),
    (
        &["SUNSUBSCRIBE", "{s}one"],
        1,
        &[&["SPUBLISH", "{s}one", "gone"], &["SPUBLISH", "{s}two", "8"]],
        1,
    ),
    (&["SUNSUBSCRIBE"], 2, &[], 0),
    (&["UNSUBSCRIBE"], 2, &[], 0),
    (&["UNSUBSCRIBE"], 1, &[], 0),
    (&["PUNSUBSCRIBE"], 1, &[], 0),
    (&["SUNSUBSCRIBE"], 1, &[], 0),
    (&["GET", "ordinary"], 1, &[], 0),
];

async fn confirmations_and_messages_are_the_servers(proto: Proto) {
    let mut pair = Pair::start(proto).await;
    let mut ours = pair.bed.client(proto).await;
    let mut theirs = Client::connect_proto(pair.server.addr(), proto).await;
    for (command, confirmations, published, messages) in SCENES {
        let (a, b) = pair.both(&resp::encode(command), *confirmations).await;
        // The order in which all are given up is that of a hash table.
        assert_eq!(readable(a, command.len() == 1), readable(b, command.len() == 1), "{command:?}");
        for publish in *published {
            // How many got it differs: a cluster counts the subscribers of one node.
            assert!(matches!(ours.cmd(publish).await, Value::Int(_)), "{publish:?}");
            assert!(matches!(theirs.cmd(publish).await, Value::Int(_)), "{publish:?}");
        }
        let (a, b) = pair.both(b"", *messages).await;
        assert_eq!(readable(a, true), readable(b, true), "{published:?} after {command:?}");
    }
}

fn readable(frames: Vec<Vec<u8>>, any_order: bool) -> Vec<String> {
    let mut texts: Vec<_> =
        frames.iter().map(|f| String::from_utf8_lossy(f).into_owned()).collect();
    if any_order {
        // The count of what is left goes with the place, not with the channel.
        let mut parts: Vec<_> =
            texts.iter().flat_map(|t| t.split("\r\n").map(str::to_owned)).collect();
        parts.sort();
        texts = parts;
    }
    texts
}

/// A subscribed RESP2 session allows some commands and refuses the others in the server's words; a
/// RESP3 session allows all.
#[tokio::test]
async fn a_subscribed_session_allows_what_the_server_allows() {
    for proto in [Proto::Resp2, Proto::Resp3] {
        let mut pair = Pair::start(proto).await;
        for subscribe in ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"] {
            pair.reset(proto).await;
            let commands: &[&[&str]] = &[
                &[subscribe, "c"],
                &["PING"],
                &["PING", "hello"],
                &["GET", "k"],
                &["SET", "k", "v"],
                &["MULTI"],
                &["EXEC"],
                &["NOSUCH"],
                &["CLIENT", "GETNAME"],
                &["PUBLISH", "other", "m"],
                &["SUBSCRIBE", "d"],
                &["RESET"],
                &["GET", "k"],
                &[subscribe, "c"],
                &["QUIT"],
            ];
            pair.agree(commands, true).await;
            pair.ours.expect_close().await;
            pair.theirs.expect_close().await;
        }
    }
}

async fn subscribe(client: &mut Client, command: &str, channels: &[String]) {
    let mut args = vec![command.to_owned()];
    args.extend_from_slice(channels);
    let replies = client.pipeline_raw(&resp::encode(&args), channels.len()).await;
    for (n, (reply, channel)) in replies.iter().zip(channels).enumerate() {
        let items = reply.items();
        assert_eq!(items[0].text(), command.to_lowercase());
        assert_eq!((items[1].text(), items[2].int()), (channel.clone(), n as i64 + 1));
    }
}

/// Reads messages until one says `payload`; what else arrives must be of an earlier attempt.
async fn read_until(client: &mut Client, payload: &str) {
    loop {
        let message = client.read().await;
        let items = message.items();
        assert!(
            ["message", "pmessage", "smessage"].contains(&items[0].text().as_str()),
            "not a message: {message:?}"
        );
        if items[items.len() - 1].text() == payload {
            return;
        }
    }
}

/// Publishes until it arrives: after a loss, messages of a short while are lost as in any cluster.
async fn arrives(bed: &Bed, subscriber: &mut Client, publish: &str, channel: &str, mark: &str) {
    let mut publisher = bed.client(Proto::Resp2).await;
    let end = Instant::now() + SOON;
    for n in 0.. {
        assert!(Instant::now() < end, "nothing arrives on {channel} after {mark}");
        let payload = format!("{mark} {n}");
        // An error is possible while a node is gone.
        publisher.cmd(&[publish, channel, &payload]).await;
        if timeout(Duration::from_millis(300), read_until(subscriber, &payload)).await.is_ok() {
            return;
        }
    }
}

async fn thousands_of_channels_work(proto: Proto) {
    let bed = Bed::start().await;
    let mut subscriber = bed.client(proto).await;
    let channels: Vec<_> = (0..2000).map(|n| format!("channel:{n}")).collect();
    subscribe(&mut subscriber, "SUBSCRIBE", &channels).await;
    let mut publisher = bed.client(proto).await;
    let publishes: Vec<_> =
        channels.iter().enumerate().map(|(n, c)| cmd!["PUBLISH", c, n.to_string()]).collect();
    let replies = publisher.pipeline(&publishes).await;
    assert!(replies.iter().all(|r| matches!(r, Value::Int(_))));
    let mut got = Vec::new();
    for _ in 0..2000 {
        let message = subscriber.read().await;
        let items = message.items();
        assert_eq!(items[1].text(), format!("channel:{}", items[2].text()));
        got.push(items[2].text().parse::<usize>().expect("a number"));
    }
    got.sort_unstable();
    assert_eq!(got, (0..2000).collect::<Vec<_>>());
    // Each once, and nothing more.
    subscriber.expect_silence(Duration::from_millis(300)).await;
    let listed = publisher.cmd(&["PUBSUB", "CHANNELS", "channel:*"]).await;
    assert_eq!(listed.items().len(), 2000);
}

/// Messages of one publisher on one channel arrive in their order, at all of many subscribers.
#[tokio::test]
async fn every_subscriber_gets_every_message_in_order() {
    let bed = Bed::start().await;
    let mut subscribers = Vec::new();
    for n in 0..20 {
        let proto = if n % 2 == 0 { Proto::Resp2 } else { Proto::Resp3 };
        let mut client = bed.client(proto).await;
        subscribe(&mut client, "SUBSCRIBE", &["news".to_owned()]).await;
        subscribers.push(client);
    }
    let mut publisher = bed.client(Proto::Resp3).await;
    let publishes: Vec<_> = (0..500).map(|n| cmd!["PUBLISH", "news", n.to_string()]).collect();
    publisher.pipeline(&publishes).await;
    for client in &mut subscribers {
        for n in 0..500 {
            let message = client.read().await;
            assert_eq!(message.items()[2], Value::bulk(n.to_string()));
        }
    }
}

/// Connections live a second; the subscriptions follow from one to the next, and nobody notices.
async fn a_replaced_connection_loses_and_doubles_no_message(proto: Proto) {
    let args = vec!["--max-connection-age=1s".to_owned()];
    let bed = Bed::with(BedOptions { args, ..BedOptions::default() }).await;
    let mut plain = bed.client(proto).await;
    let mut pattern = bed.client(proto).await;
    let mut sharded = bed.client(proto).await;
    subscribe(&mut plain, "SUBSCRIBE", &["news".to_owned()]).await;
    subscribe(&mut pattern, "PSUBSCRIBE", &["n*".to_owned()]).await;
    subscribe(&mut sharded, "SSUBSCRIBE", &["shard".to_owned()]).await;
    let mut publisher = bed.client(proto).await;
    let start = tokio::time::Instant::now();
    let mut sent = 0;
    while start.elapsed() < Duration::from_secs(5) {
        for _ in 0..10 {
            publisher.cmd(&["PUBLISH", "news", &sent.to_string()]).await;
            publisher.cmd(&["SPUBLISH", "shard", &sent.to_string()]).await;
            sent += 1;
        }
        for (client, payload) in [(&mut plain, 2), (&mut pattern, 3), (&mut sharded, 2)] {
            for n in sent - 10..sent {
                let message = client.read().await;
                assert_eq!(message.items()[payload], Value::bulk(n.to_string()), "{message:?}");
            }
        }
    }
    assert!(sent > 100, "only {sent} messages");
    let retired = bed.proxy.metric("memorystore_proxy_upstream_retirements_total", &[]).await;
    let retired = retired.expect("the metric");
    // The publisher's connections and the subscribers', once a second.
    assert!(retired >= 8.0, "{retired} connections were replaced");
}

async fn subscriptions_outlive_lost_connections(proto: Proto) {
    let bed = Bed::start().await;
    let mut plain = bed.client(proto).await;
    let mut pattern = bed.client(proto).await;
    let mut sharded = bed.client(proto).await;
    subscribe(&mut plain, "SUBSCRIBE", &["news".to_owned()]).await;
    subscribe(&mut pattern, "PSUBSCRIBE", &["n*s".to_owned()]).await;
    subscribe(&mut sharded, "SSUBSCRIBE", &["shard".to_owned()]).await;
    for round in 0..3 {
        let mark = format!("round {round}");
        arrives(&bed, &mut plain, "PUBLISH", "news", &mark).await;
        arrives(&bed, &mut pattern, "PUBLISH", "news", &mark).await;
        arrives(&bed, &mut sharded, "SPUBLISH", "shard", &mark).await;
        for front in bed.cluster.fronts() {
            front.faults().close_all();
        }
    }
}

async fn a_failover_does_not_end_subscriptions(proto: Proto) {
    let bed = Bed::with(BedOptions {
        cluster: ClusterOptions { replicas: 1, ..ClusterOptions::default() },
        ..BedOptions::default()
    })
    .await;
    let channel = key_in_slot(2);
    let mut plain = bed.client(proto).await;
    let mut sharded = bed.client(proto).await;
    subscribe(&mut plain, "SUBSCRIBE", &["news".to_owned()]).await;
    subscribe(&mut sharded, "SSUBSCRIBE", std::slice::from_ref(&channel)).await;
    arrives(&bed, &mut sharded, "SPUBLISH", &channel, "before").await;
    let replica = bed.cluster.replicas_of(0).start;
    bed.cluster.kill(0);
    bed.cluster.failover(replica, Failover::Takeover).await;
    arrives(&bed, &mut plain, "PUBLISH", "news", "after").await;
    arrives(&bed, &mut sharded, "SPUBLISH", &channel, "after").await;
}

async fn a_sharded_channel_follows_its_slot(proto: Proto) {
    let bed = Bed::start().await;
    let channel = "{follow}channel".to_owned();
    let slot = slot_of(channel.as_bytes());
    let mut subscriber = bed.client(proto).await;
    subscribe(&mut subscriber, "SSUBSCRIBE", std::slice::from_ref(&channel)).await;
    for round in 0..3 {
        arrives(&bed, &mut subscriber, "SPUBLISH", &channel, &format!("round {round}")).await;
        let owner = bed.cluster.owner_of(slot).await;
        // The old owner says SUNSUBSCRIBE to its subscribers; the client does not hear of it.
        bed.cluster.migrate_slot(slot, (owner + 1) % 3).await;
    }
    arrives(&bed, &mut subscriber, "SPUBLISH", &channel, "at last").await;
    // Still subscribed as far as the session is concerned.
    let reply = subscriber.pipeline_raw(&resp::encode(&["SUNSUBSCRIBE", &channel]), 1).await;
    assert_eq!(reply[0].items()[2], Value::Int(0));
}

/// The subscriptions a client leaves behind do not stay on the nodes.
#[tokio::test]
async fn a_hangup_ends_its_subscriptions() {
    let bed = Bed::start().await;
    let mut clients = Vec::new();
    for n in 0..10 {
        let mut client = bed.client(Proto::Resp2).await;
        subscribe(&mut client, "SUBSCRIBE", &["shared".to_owned(), format!("own:{n}")]).await;
        clients.push(client);
    }
    let nodes = async |channel: &str| {
        let mut sum = 0;
        for member in bed.cluster.members() {
            sum += member.node.run(&["PUBSUB", "NUMSUB", channel]).await.items()[1].int();
        }
        sum
    };
    assert!(nodes("shared").await >= 1);
    assert_eq!(nodes("own:3").await, 1);
    drop(clients);
    wait_for("no subscription left on the nodes", SOON, async || {
        nodes("shared").await == 0 && nodes("own:3").await == 0
    })
    .await;
}

/// A node takes shard channels of one slot at a time: those of several slots are given up one by one.
#[tokio::test]
async fn a_hangup_ends_subscriptions_to_shard_channels_of_several_slots() {
    let bed = Bed::start().await;
    let mut client = bed.client(Proto::Resp3).await;
    subscribe(&mut client, "SSUBSCRIBE", &[1, 2, 3, 4000].map(key_in_slot)).await;
    let left = async || bed.cluster.member(0).node.run(&["PUBSUB", "SHARDCHANNELS"]).await;
    assert_eq!(left().await.items().len(), 4, "all on the first node");
    drop(client);
    wait_for("no shard channel left", SOON, async || left().await.items().is_empty()).await;
}

/// Redis cuts a subscriber at 32 MB of unread messages; the proxy does so too, and the rest of the
/// subscribers of the channel hear everything.
#[tokio::test]
async fn a_slow_subscriber_is_cut_and_memory_stays_bounded_under_load() {
    let bed = Bed::start().await;
    let mut slow = bed.client(Proto::Resp2).await;
    subscribe(&mut slow, "SUBSCRIBE", &["flood".to_owned()]).await;
    let mut healthy = bed.client(Proto::Resp2).await;
    subscribe(&mut healthy, "SUBSCRIBE", &["flood".to_owned()]).await;
    const MESSAGES: usize = 1500;
    const SIZE: usize = 100 * 1024;
    let payload = vec![b'x'; SIZE];
    let mut publisher = bed.client(Proto::Resp2).await;
    let before = bed.proxy.memory();
    let mut most = 0;
    let publish = async {
        for n in 0..MESSAGES {
            publisher.cmd(&cmd!["PUBLISH", "flood", &payload]).await.int();
            if n % 50 == 0 {
                most = most.max(bed.proxy.memory());
            }
        }
    };
    let hear = async {
        for n in 0..MESSAGES {
            let message = healthy.read_raw().await;
            assert!(message.len() > SIZE, "message {n} has {} bytes", message.len());
        }
    };
    tokio::join!(publish, hear);
    let grown = most.saturating_sub(before);
    assert!(grown < 128 << 20, "the proxy's memory grew by {grown} bytes for {MESSAGES} messages");
    // The slow one reads what was under way, then sees the end.
    let mut got = 0;
    while slow.try_read().await.is_ok() {
        got += 1;
    }
    assert!(got < MESSAGES, "a subscriber that did not read got all {got} messages");
    let mut client = bed.client(Proto::Resp3).await;
    assert_eq!(client.cmd(&["SET", "after", "1"]).await, Value::ok());
}
