//! Authorities and certificates change while the proxy works.

use super::{Files, LIMIT, all_shards_answer, cluster};
use crate::both_protocols;
use crate::support::client::Proto;
use crate::support::cluster::Cluster;
use crate::support::proxy::{Proxy, ProxyOptions};
use crate::support::resp::Value;
use crate::support::slots::key_in_slot;
use crate::support::tls::{Authority, Identity};
use crate::support::traffic::{Traffic, spread_keys};
use crate::support::wait::wait_for;

both_protocols!(authorities_and_certificates_rotate_without_a_failing_command);

const READ_AGAIN: &str = "authorities read again";

/// Waits until the file was read so often after the start.
async fn read_again(proxy: &Proxy, times: usize) {
    wait_for("the authorities to be read again", LIMIT, async || {
        proxy.logs().matches(READ_AGAIN).count() >= times
    })
    .await;
}

/// All nodes show this from now on; returns their counts of handshakes.
fn show(cluster: &Cluster, identity: &Identity) -> Vec<u64> {
    cluster
        .fronts()
        .map(|front| {
            front.tls().show(identity);
            front.tls().handshakes().done()
        })
        .collect()
}

/// Waits until every node has new connections.
async fn dialled_again(cluster: &Cluster, before: &[u64]) {
    wait_for("new connections to every node", LIMIT, async || {
        cluster
            .fronts()
            .zip(before)
            .all(|(front, before)| front.tls().handshakes().done() > *before)
    })
    .await;
}

async fn authorities_and_certificates_rotate_without_a_failing_command(proto: Proto) {
    let files = Files::new();
    let [old, new, last] = ["old", "new", "last"].map(Authority::new);
    let leaf = |authority: &Authority| authority.leaf(&["127.0.0.1"]);
    let file = files.write("ca.pem", &old.pem);
    let (cluster, metadata) = cluster(Some(leaf(&old))).await;
    let args = [format!("--server-ca-file={file}"), "--max-connection-age=1s".to_owned()];
    let options = ProxyOptions::new(cluster.seed()).metadata(metadata.host()).args(args);
    let proxy = Proxy::start(options).await;
    let traffic = Traffic::start(proxy.addr(), proto, spread_keys(6, 6));
    traffic.progress(500).await;

    // As it should be done: both, then the nodes, then the new one alone.
    files.write("ca.pem", &(old.pem.clone() + &new.pem));
    read_again(&proxy, 1).await;
    let before = show(&cluster, &leaf(&new));
    dialled_again(&cluster, &before).await;
    files.write("ca.pem", &new.pem);
    read_again(&proxy, 2).await;
    let before = show(&cluster, &leaf(&new));
    dialled_again(&cluster, &before).await;
    for front in cluster.fronts() {
        assert_eq!(front.tls().handshakes().failed, 0, "nothing was refused so far");
    }

    // All of a sudden: the dial that meets the unknown authority has the file read again.
    let before = show(&cluster, &leaf(&last));
    files.write("ca.pem", &last.pem);
    dialled_again(&cluster, &before).await;
    traffic.progress(500).await;
    traffic.stop_clean().await;

    // Whoever is no longer in the file is no longer trusted.
    let refused: u64 = cluster.fronts().map(|front| front.tls().handshakes().failed).sum();
    show(&cluster, &leaf(&old));
    wait_for("the old authority to be refused", LIMIT, async || {
        cluster.fronts().map(|front| front.tls().handshakes().failed).sum::<u64>() > refused
    })
    .await;
}

#[tokio::test]
async fn a_file_that_cannot_be_used_leaves_what_was_trusted_and_is_named_once() {
    let (files, authority) = (Files::new(), Authority::new("authority"));
    let file = files.write("ca.pem", &authority.pem);
    let (cluster, metadata) = cluster(Some(authority.leaf(&["127.0.0.1"]))).await;
    let args = [format!("--server-ca-file={file}")];
    let options = ProxyOptions::new(cluster.seed()).metadata(metadata.host()).args(args);
    let proxy = Proxy::start(options).await;
    files.write("ca.pem", "nothing of use\n");
    let warning = "the authorities read before stay trusted";
    wait_for("a warning", LIMIT, async || proxy.logs().contains(warning)).await;
    for front in cluster.fronts() {
        front.faults().close_all();
    }
    let mut client = proxy.client(Proto::Resp2).await;
    wait_for("new connections", LIMIT, async || {
        client.cmd(&["GET", &key_in_slot(1)]).await == Value::Null
    })
    .await;
    all_shards_answer(&proxy).await;

    // Mended, with another authority: taken without a restart.
    let next = Authority::new("next");
    let before = show(&cluster, &next.leaf(&["127.0.0.1"]));
    files.write("ca.pem", &next.pem);
    wait_for("the mended file", LIMIT, async || proxy.logs().contains(READ_AGAIN)).await;
    for front in cluster.fronts() {
        front.faults().close_all();
    }
    wait_for("connections under the new authority", LIMIT, async || {
        let mut all = true;
        for slot in [1, 8000, 16000] {
            all &= client.cmd(&["GET", &key_in_slot(slot)]).await == Value::bulk("here");
        }
        all
    })
    .await;
    dialled_again(&cluster, &before).await;
    assert_eq!(proxy.logs().matches(warning).count(), 1, "{}", proxy.logs());
}
