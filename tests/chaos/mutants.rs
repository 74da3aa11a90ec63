//! The checker sees a broken proxy: the promises that `src/sabotage.rs` can break are broken one by
//! one, and every run must end with the objection that fits. `make chaos-mutants` builds and runs
//! them; no other build has them.

use std::time::Duration;

use crate::load::{OP_TIMEOUT, Settings, run};
use crate::plan::Plan;

/// Half a minute of network faults and migrations with one promise broken; objections of these kinds
/// must be among those that come. A plan may miss what it takes, so a few are tried.
async fn turns_red(sabotage: &'static str, kinds: &[&str]) {
    let mut all = Vec::new();
    // Of connections that are never replaced: a leak does not end by itself.
    for seed in [4, 6, 7] {
        let plan = Plan::of_the_network(seed, Duration::from_secs(20), OP_TIMEOUT);
        let verdict = run(Settings { plan, sabotage: Some(sabotage) }).await;
        println!("{sabotage}: {verdict}");
        if verdict.objections.iter().any(|o| kinds.iter().any(|kind| o.contains(kind))) {
            return;
        }
        all.extend(verdict.objections);
    }
    panic!("{sabotage} was broken and nobody saw it; objections: {all:?}");
}

#[tokio::test]
async fn a_broken_order_fence_is_seen() {
    turns_red("fence", &["was told", "was executed after"]).await;
}

#[tokio::test]
async fn a_repeated_write_is_seen() {
    turns_red("retry", &["was told", "was written twice", "came 2 times"]).await;
}

#[tokio::test]
async fn a_dropped_resubscription_is_seen() {
    turns_red("resubscribe", &["recovery: ", "messages: "]).await;
}

#[tokio::test]
async fn a_connection_that_is_kept_is_seen() {
    turns_red("lease", &["leak: "]).await;
}

/// Without sabotage the same plans end well.
#[tokio::test]
async fn an_unbroken_proxy_is_not_accused() {
    let plan = Plan::of_the_network(4, Duration::from_secs(20), OP_TIMEOUT);
    let verdict = run(Settings { plan, sabotage: None }).await;
    assert!(verdict.objections.is_empty(), "{verdict}");
}
