//! How long to wait before the next try: exponential, with jitter.
//!
//! Invariant: delays lie in `[min, max]`, and their ceiling doubles with every failure. The random
//! number is handed in, so that a test can choose it. It does not sleep.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

/// Failures in a row, and the bounds of the delay they cause.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// No failure yet; delays will lie in `[min, max]`.
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max: max.max(min), failures: 0 }
    }

    /// Notes a failure and returns the delay before the next try; `random` lies in `[0, 1)`.
    ///
    /// Full jitter: uniform between `min` and the doubled ceiling, so that many proxies that failed
    /// together do not come back together.
    pub fn fail(&mut self, random: f64) -> Duration {
        let doublings = self.failures.min(20);
        self.failures = self.failures.saturating_add(1);
        let ceiling = self.min.saturating_mul(1 << doublings).clamp(self.min, self.max);
        self.min + (ceiling - self.min).mul_f64(random.clamp(0.0, 1.0))
    }

    /// The same with a delay of at most `most`, for a failure that costs nobody anything; however many
    /// there are, a failure of another kind waits no longer than twice that.
    pub fn fail_within(&mut self, random: f64, most: Duration) -> Duration {
        let failures = self.failures;
        let max = most.clamp(self.min, self.max);
        let mut brief = Self { max, ..*self };
        let delay = brief.fail(random);
        let grown = self.min.saturating_mul(1 << failures.min(20)) >= max;
        self.failures = if grown { failures.max(1) } else { brief.failures };
        delay
    }

    /// Forgets the failures.
    pub fn succeed(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stays_in_bounds_and_grows(randoms in proptest::collection::vec(0.0f64..1.0, 1..60)) {
            let (min, max) = (Duration::from_millis(10), Duration::from_secs(3));
            let mut b = Backoff::new(min, max);
            for (i, r) in randoms.into_iter().enumerate() {
                let d = b.fail(r);
                prop_assert!(d >= min && d <= max);
                prop_assert!(d <= min.saturating_mul(1 << i.min(20)));
            }
            b.succeed();
            prop_assert_eq!(b.fail(0.999), min);
        }

        #[test]
        fn brief_failures_do_not_make_others_long(random in 0.0f64..1.0, times in 1usize..60) {
            let (min, max) = (Duration::from_millis(100), Duration::from_secs(30));
            let most = Duration::from_secs(2);
            let mut b = Backoff::new(min, max);
            for _ in 0..times {
                let d = b.fail_within(random, most);
                prop_assert!(d >= min && d <= most && b.failures() > 0);
            }
            prop_assert!(b.fail(random) <= most * 2);
            // Bounds that leave no room are kept.
            let mut b = Backoff::new(max, max);
            prop_assert_eq!(b.fail_within(random, most), max);
            prop_assert!(b.failures() > 0);
        }
    }
}
