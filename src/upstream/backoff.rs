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
    }
}
