//! Nodes that fail, in virtual time.

use std::time::Duration;

use super::wait_tests::Bench;

/// However long a network was gone and whatever `--auth-backoff-max` says.
#[test]
fn a_node_that_cannot_be_reached_is_dialled_every_other_second() {
    const STEP: u64 = 50;
    let mut b = Bench::new();
    b.hub.settings.auth_backoff_max = Duration::from_secs(30);
    b.primary(1);
    let mut dials = vec![b.hub.now()];
    while b.hub.now() < 120_000 {
        b.send("GET a");
        b.pass(STEP);
        for dial in std::mem::take(&mut b.hub.work.dials) {
            dials.push(b.hub.now());
            b.hub.pipe_lost(dial.pipe, "Connection refused");
        }
    }
    let longest = dials.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(longest.is_some_and(|gap| gap <= 2_000 + STEP), "{longest:?}");
    assert!(dials.len() < 300, "{} dials in two minutes", dials.len());
}

/// A failover refuses a script often, and ends on a node that does not know it.
#[test]
fn a_script_is_told_however_often_its_command_was_refused_before() {
    let sha = sha1_smol::Sha1::from("return(1)").digest().to_string();
    let mut b = Bench::new();
    b.send("EVAL return(1) 1 a");
    let (pipe, _) = b.sent();
    b.hub.pipe_data(pipe, b":1\r\n");
    b.send(&format!("EVALSHA {sha} 1 a"));
    for _ in 0..5 {
        let (pipe, sent) = b.sent();
        if sent.starts_with("SCRIPT LOAD") {
            b.hub.pipe_data(pipe, b"+loaded\r\n");
        }
        b.hub.pipe_data(pipe, b"-CLUSTERDOWN The cluster is down\r\n");
        b.pass(100);
    }
    let (pipe, _) = b.sent();
    b.got();
    b.hub.pipe_data(pipe, b"-NOSCRIPT No matching script.\r\n");
    let (pipe, sent) = b.sent();
    assert_eq!(sent, format!("SCRIPT LOAD return(1) EVALSHA {sha} 1 a"));
    b.hub.pipe_data(pipe, b"+loaded\r\n:1\r\n");
    assert_eq!(b.got(), ":1\r\n");
    // A node that never knows it is believed in the end.
    b.send(&format!("EVALSHA {sha} 1 a"));
    for _ in 0..4 {
        let (pipe, sent) = b.sent();
        if sent.starts_with("SCRIPT LOAD") {
            b.hub.pipe_data(pipe, b"+loaded\r\n");
        }
        assert_eq!(b.got(), "");
        b.hub.pipe_data(pipe, b"-NOSCRIPT No matching script.\r\n");
    }
    assert_eq!(b.got(), "-NOSCRIPT No matching script.\r\n");
}

/// A connection that was lent for one command, and is still dialled when that is given up.
#[test]
fn a_connection_lent_for_a_command_that_was_given_up_is_not_forgotten() {
    let mut b = Bench::new();
    b.send("BLPOP q 0.1");
    let dials = std::mem::take(&mut b.hub.work.dials);
    assert_eq!(dials.len(), 1);
    // Not yet dialled when the time is over.
    b.pass(3_000);
    assert_ne!(b.got(), "");
    b.hub.work.dials = dials;
    b.connect();
    assert_eq!(b.hub.pipes.iter().count(), 1);
    let idle: usize = b.hub.nodes.iter().map(|n| n.idle.len()).sum();
    assert_eq!(idle, 1, "it can be lent again");
}
