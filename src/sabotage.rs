//! Promises broken on purpose, so that the chaos test can show that it would see them broken.
//!
//! Only a build with the feature `sabotage` can break anything, and only what the variable
//! `MEMORYSTORE_PROXY_SABOTAGE` names; in all other builds [`breaks`] is the constant `false`.

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Commands held behind a fence leave in the wrong order.
    Fence,
    /// A write that may have been executed is sent again.
    Retry,
    /// Subscriptions of a lost connection are not asked for again.
    Resubscribe,
    /// Connections lent to one session are not given back when that vanishes.
    Lease,
}

/// Whether this promise is to be broken.
#[cfg(not(feature = "sabotage"))]
#[inline(always)]
pub const fn breaks(_: Promise) -> bool {
    false
}

/// Whether this promise is to be broken.
#[cfg(feature = "sabotage")]
pub fn breaks(promise: Promise) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<Promise>> = std::sync::OnceLock::new();
    let chosen = || match std::env::var("MEMORYSTORE_PROXY_SABOTAGE").as_deref() {
        Ok("fence") => Some(Promise::Fence),
        Ok("retry") => Some(Promise::Retry),
        Ok("resubscribe") => Some(Promise::Resubscribe),
        Ok("lease") => Some(Promise::Lease),
        _ => None,
    };
    *CHOSEN.get_or_init(chosen) == Some(promise)
}
