//! How many connections and AUTHs may begin in a second: a token bucket.
//!
//! IAM throttles new connections and checks every AUTH, so what a worker asks of it is spread, whoever
//! asks: no matter how many clients come or how many connections come of age together. Invariant:
//! within any span of `t` seconds at most `burst + rate · t` are let through. It does not sleep and
//! keeps no queue.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// See the module header. Times are ms of the worker's clock.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Per ms; 0: unlimited.
    rate: f64,
    burst: f64,
    tokens: f64,
    at: u64,
}

impl Pace {
    /// So many a second, and as many at once after a quiet second; 0: unlimited.
    pub fn per_second(rate: f64) -> Self {
        let burst = rate.max(1.0);
        Self { rate: rate / 1000.0, burst, tokens: burst, at: 0 }
    }

    /// Lets one through now, or tells when the next may try.
    ///
    /// # Errors
    /// The time, later than `now`, when there will be one.
    pub fn take(&mut self, now: u64) -> Result<(), u64> {
        if self.rate <= 0.0 {
            return Ok(());
        }
        let passed = now.saturating_sub(self.at) as f64;
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed * self.rate).min(self.burst);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        let wait = ((1.0 - self.tokens) / self.rate).ceil() as u64;
        Err(now + wait.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_more_than_the_bucket_holds(rate in 1u32..50, steps in proptest::collection::vec(0u64..400, 1..200)) {
            let mut pace = Pace::per_second(f64::from(rate));
            let mut now = 0;
            let mut passed: Vec<u64> = Vec::new();
            for step in steps {
                now += step;
                for _ in 0..3 {
                    match pace.take(now) {
                        Ok(()) => passed.push(now),
                        Err(at) => prop_assert!(at > now && at <= now + 1001),
                    }
                }
            }
            for (i, &from) in passed.iter().enumerate() {
                for (j, &to) in passed.iter().enumerate().skip(i) {
                    let allowed = f64::from(rate) * (1.0 + (to - from) as f64 / 1000.0) + 0.001;
                    prop_assert!((j - i + 1) as f64 <= allowed.max(1.0) + 1.0, "{} in {} ms", j - i + 1, to - from);
                }
            }
        }
    }

    #[test]
    fn who_waits_as_told_gets_through() {
        let mut pace = Pace::per_second(4.0);
        for _ in 0..4 {
            assert_eq!(pace.take(10), Ok(()));
        }
        let Err(at) = pace.take(10) else { panic!("the bucket is empty") };
        assert_eq!(at, 260);
        assert!(pace.take(at - 1).is_err());
        assert_eq!(pace.take(at), Ok(()));
        assert_eq!(Pace::per_second(0.0).take(0), Ok(()));
    }
}
