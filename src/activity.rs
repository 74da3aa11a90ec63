//! Whether clients want anything, for `--lazy-refresh`: tokens and slot maps are then only fetched
//! while somebody uses them.
//!
//! Invariant: noting activity is one relaxed load when there is nothing new to tell; one task reads
//! it, so no note is lost between two looks.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// See the module header.
#[derive(Debug, Default)]
pub struct Activity {
    seen: AtomicBool,
    bell: Notify,
}

impl Activity {
    /// Clients wanted something.
    #[inline]
    pub fn note(&self) {
        if !self.seen.load(Ordering::Relaxed) {
            self.seen.store(true, Ordering::Relaxed);
            self.bell.notify_one();
        }
    }

    /// Whether they did since the last call.
    pub fn take(&self) -> bool {
        self.seen.swap(false, Ordering::Relaxed)
    }

    /// Ready when they do; cancel-safe. A second look may find that they did before the last
    /// [`Activity::take`]: look again.
    pub async fn noted(&self) {
        self.bell.notified().await;
    }
}

/// The same where there may be none; then never.
pub async fn noted(activity: Option<&Activity>) {
    match activity {
        Some(activity) => activity.noted().await,
        None => std::future::pending().await,
    }
}
