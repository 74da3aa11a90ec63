//! What a client can ask about the cluster names the proxy and no node behind it.

use crate::both_protocols;
use crate::support::bed::{Bed, BedOptions};
use crate::support::client::{Client, Proto};
use crate::support::resp::Value;
use crate::support::slots::slot_of;

use super::run::names_no_node;

both_protocols!(no_answer_names_a_node);

async fn no_answer_names_a_node(proto: Proto) {
    let bed = Bed::start().await;
    let mut client = bed.client(proto).await;
    let id = client.cmd(&["CLUSTER", "MYID"]).await.text();
    let slot = slot_of(b"key").to_string();
    assert_eq!(client.cmd(&["SET", "key", "v"]).await, Value::ok());
    let questions: &[&[&str]] = &[
        &["CLUSTER", "INFO"],
        &["CLUSTER", "NODES"],
        &["CLUSTER", "SLOTS"],
        &["CLUSTER", "SHARDS"],
        &["CLUSTER", "LINKS"],
        &["CLUSTER", "REPLICAS", &id],
        &["CLUSTER", "SLAVES", &id],
        &["CLUSTER", "COUNT-FAILURE-REPORTS", &id],
        &["CLUSTER", "KEYSLOT", "key"],
        &["CLUSTER", "COUNTKEYSINSLOT", &slot],
        &["CLUSTER", "GETKEYSINSLOT", &slot, "10"],
        &["CLUSTER", "HELP"],
        &["CLUSTER", "NO-SUCH"],
        &["CLUSTER", "MEET", "127.0.0.1", "1"],
        &["INFO"],
        &["INFO", "everything"],
        &["ROLE"],
        &["CLIENT", "LIST"],
        &["CLIENT", "INFO"],
        &["HELLO"],
        &["DEBUG", "JMAP"],
        &["ASKING"],
        &["READONLY"],
        &["SCRIPT", "EXISTS", "00"],
        &["EVAL", "return redis.call('GET', KEYS[1])", "1", "key"],
        &["EVAL", "return redis.call('GET', 'another')", "1", "key"],
        &["MGET", "key", "another"],
        &["SUNION", "key", "another"],
        &["OBJECT", "HELP"],
        &["MEMORY", "STATS"],
        &["SLOWLOG", "GET"],
    ];
    for question in questions {
        let answer = client.cmd(question).await;
        names_no_node(&bed, &format!("{question:?}: {answer:?}"));
    }
}

/// Two addresses of the proxy: who came by one is shown that one.
#[tokio::test]
async fn a_client_sees_the_address_it_came_by() {
    let args = ["--address", "0.0.0.0", "--allow-non-loopback"].map(str::to_owned).to_vec();
    let bed = Bed::with(BedOptions { args, ..BedOptions::default() }).await;
    let port = bed.proxy.addr().port();
    for host in ["127.0.0.1", "127.0.0.2"] {
        let address: std::net::IpAddr = host.parse().unwrap();
        let mut client = Client::connect((address, port).into()).await;
        let slots = client.cmd(&["CLUSTER", "SLOTS"]).await;
        let range = &slots.items()[0];
        assert_eq!((range.items()[0].int(), range.items()[1].int()), (0, 16383));
        let node = &range.items()[2];
        assert_eq!(
            (node.items()[0].text(), node.items()[1].int()),
            (host.to_owned(), i64::from(port))
        );
        let id = client.cmd(&["CLUSTER", "MYID"]).await.text();
        assert_eq!(node.items()[2].text(), id);
        let shards = client.cmd(&["CLUSTER", "SHARDS"]).await;
        let shown = shards.items()[0].field("nodes").unwrap().items()[0].field("endpoint").unwrap();
        assert_eq!(shown.text(), host);
        let nodes = client.cmd(&["CLUSTER", "NODES"]).await.text();
        let start = format!("{id} {host}:{port}@");
        assert!(nodes.starts_with(&start) && nodes.ends_with(" connected 0-16383\n"), "{nodes}");
        assert_eq!(nodes.lines().count(), 1, "{nodes}");
    }
}
