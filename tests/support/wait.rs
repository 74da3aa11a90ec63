//! Waiting for a condition with a deadline, instead of sleeping for luck.

use std::time::Duration;

use tokio::time::Instant;

/// Whether `condition` becomes true within `limit`.
pub async fn holds(limit: Duration, mut condition: impl AsyncFnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition().await {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until `condition` is true; panics with `what` after `limit`.
pub async fn wait_for(what: &str, limit: Duration, condition: impl AsyncFnMut() -> bool) {
    assert!(holds(limit, condition).await, "waited {limit:?} in vain for {what}");
}
