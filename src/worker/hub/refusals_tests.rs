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
