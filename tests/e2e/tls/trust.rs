//! Whom the proxy trusts, and what it says when it does not.

use std::time::Duration;

use super::{LIMIT, all_shards_answer, bed, cluster, refused_with};
use crate::support::client::Proto;
use crate::support::cluster::ClusterOptions;
use crate::support::proxy::{Proxy, ProxyOptions};
use crate::support::resp::Value;
use crate::support::slots::key_in_slot;
use crate::support::tls::Authority;
use crate::support::wait::wait_for;

/// What readiness says, if the node is refused.
type Refusal = Option<&'static [&'static str]>;

const SIGNER: &[&str] = &["no authority the proxy trusts", "--server-ca-file"];
const DATE: &[&str] = &["out of date", "the clock of this machine"];
const NAME: &[&str] = &["is for 10.9.9.9, which is neither", "--tls-verify=ca"];

#[tokio::test]
async fn each_mode_of_verification_refuses_what_it_should_and_nothing_else() {
    let (files, ours, theirs) =
        (super::Files::new(), Authority::new("ours"), Authority::new("theirs"));
    let more = Authority::new("one more");
    // Several authorities in one file, the right one among them.
    let file = files.write("ca.pem", &format!("{}\n{}", more.pem, ours.pem));
    let right = ours.leaf(&["127.0.0.1"]);
    let (cluster, metadata) = cluster(Some(right.clone())).await;
    let port = cluster.member(0).addr().port();
    let (by_address, by_name) = (cluster.seed(), format!("localhost:{port}"));
    let any = ["127.0.0.1", "localhost"];
    // What the nodes show, the seed, and what full and ca say to it.
    let cases: [(_, _, Refusal, Refusal); 6] = [
        (right, &by_address, None, None),
        (ours.leaf(&["localhost"]), &by_name, None, None),
        (ours.leaf(&["10.9.9.9"]), &by_address, Some(NAME), None),
        (theirs.leaf(&any), &by_address, Some(SIGNER), Some(SIGNER)),
        (ours.expired_leaf(&any), &by_address, Some(DATE), Some(DATE)),
        (more.leaf(&any), &by_name, None, None),
    ];
    for (identity, seed, full, ca) in cases {
        for front in cluster.fronts() {
            front.tls().show(&identity);
        }
        let trusted = format!("--server-ca-file={file}");
        let modes = [
            (vec![trusted.clone()], full),
            (vec![trusted, "--tls-verify=ca".to_owned()], ca),
            (vec!["--tls".to_owned(), "--tls-verify=insecure".to_owned()], None),
        ];
        for (args, refused) in modes {
            let options = ProxyOptions::new(seed.clone()).metadata(metadata.host()).args(args);
            let proxy = Proxy::spawn(options).await;
            match refused {
                Some(texts) => refused_with(&proxy, texts).await,
                None => {
                    proxy.wait_ready().await;
                    all_shards_answer(&proxy).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_node_of_a_foreign_authority_gets_no_command_and_the_others_go_on() {
    let (bed, _files) = bed(ClusterOptions::default(), &["--op-timeout=2s"]).await;
    all_shards_answer(&bed.proxy).await;
    let front = bed.cluster.member(0).front();
    front.tls().show(&Authority::new("foreign").leaf(&["127.0.0.1"]));
    front.faults().close_all();
    let mut client = bed.client(Proto::Resp2).await;
    let mut last = Value::Null;
    let told = crate::support::wait::holds(LIMIT, async || {
        last = client.cmd(&["GET", &key_in_slot(1)]).await;
        matches!(&last, Value::Error(text) if text.contains(SIGNER[0]))
    })
    .await;
    assert!(told, "the error says why: {last:?}");
    let commands = front.counts().commands;
    for slot in [8000, 16000] {
        assert_eq!(client.cmd(&["GET", &key_in_slot(slot)]).await, Value::bulk("here"));
    }
    assert!(client.cmd(&["GET", &key_in_slot(1)]).await.is_error(""));
    assert_eq!(front.counts().commands, commands);
    assert!(front.tls().handshakes().failed > 0);
}

#[tokio::test]
async fn a_node_that_answers_plaintext_is_named_with_the_mend() {
    let files = super::Files::new();
    let file = files.write("ca.pem", &Authority::new("authority").pem);
    let (cluster, metadata) = cluster(None).await;
    let options = ProxyOptions::new(cluster.seed())
        .metadata(metadata.host())
        .args([format!("--server-ca-file={file}"), "--connect-timeout=1s".to_owned()]);
    let proxy = Proxy::spawn(options).await;
    refused_with(&proxy, &["does not speak TLS", "--tls=false", &cluster.seed()]).await;
}

#[tokio::test]
async fn a_node_that_wants_tls_is_named_with_the_mend() {
    let identity = Authority::new("authority").leaf(&["127.0.0.1"]);
    let (cluster, metadata) = cluster(Some(identity)).await;
    let options = ProxyOptions::new(cluster.seed()).metadata(metadata.host()).args(["--tls=false"]);
    let proxy = Proxy::spawn(options).await;
    refused_with(&proxy, &["wants TLS", "--server-ca-file", &cluster.seed()]).await;
}

#[tokio::test]
async fn a_stalled_handshake_ends_by_the_connect_timeout() {
    let (files, authority) = (super::Files::new(), Authority::new("authority"));
    let file = files.write("ca.pem", &authority.pem);
    let (cluster, metadata) = cluster(Some(authority.leaf(&["127.0.0.1"]))).await;
    for front in cluster.fronts() {
        front.faults().set_stalled(true);
    }
    let options = ProxyOptions::new(cluster.seed())
        .metadata(metadata.host())
        .args([format!("--server-ca-file={file}"), "--connect-timeout=400ms".to_owned()]);
    let proxy = Proxy::spawn(options).await;
    refused_with(&proxy, &["the handshake did not end within 400ms"]).await;
    for front in cluster.fronts() {
        front.faults().set_stalled(false);
    }
    proxy.wait_ready().await;
    all_shards_answer(&proxy).await;
}

/// Stalled in the middle of traffic: the shard's commands end by their own deadline, others go on.
#[tokio::test]
async fn a_node_that_stalls_in_the_handshake_holds_up_only_its_own_commands() {
    let args = ["--connect-timeout=400ms", "--op-timeout=2s"];
    let (bed, _files) = bed(ClusterOptions::default(), &args).await;
    all_shards_answer(&bed.proxy).await;
    let front = bed.cluster.member(0).front();
    front.faults().set_stalled(true);
    front.faults().close_all();
    let (mut held, mut free) = (bed.client(Proto::Resp2).await, bed.client(Proto::Resp2).await);
    held.send(&["GET", &key_in_slot(1)]).await;
    for slot in [8000, 16000] {
        assert_eq!(free.cmd(&["GET", &key_in_slot(slot)]).await, Value::bulk("here"));
    }
    assert!(held.read().await.is_error(""));
    front.faults().set_stalled(false);
    wait_for("the shard to be back", Duration::from_secs(20), async || {
        free.cmd(&["GET", &key_in_slot(1)]).await == Value::bulk("here")
    })
    .await;
}
