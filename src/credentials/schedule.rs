//! When to ask for the next credential.
//!
//! Every date is kept on two clocks, the wall's and the monotonic one, and is reached when either
//! says so: the wall clock may be set back (then the monotonic one still runs), and the monotonic
//! one stands still while a machine sleeps. Invariant: the next attempt is never planned later than
//! the expiry of the credential at hand. It asks no clock and no random source; both are handed in.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::{Duration, Instant, SystemTime};

/// The longest the task sleeps before it looks at the clocks again.
pub const TICK: Duration = Duration::from_secs(30);

/// The shortest wait between attempts that are made because somebody waits for a credential.
const URGENT: Duration = Duration::from_secs(1);

/// A planned refresh falls between these parts of the credential's remaining life.
const REFRESH_FROM: f64 = 0.75;
const REFRESH_TO: f64 = 0.90;

/// The shortest and the longest wait between attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffRange {
    /// Before the first repetition; never zero.
    pub min: Duration,
    /// The ceiling; not below `min`.
    pub max: Duration,
}

impl BackoffRange {
    /// Upper end of the wait after `failures` failures in a row: `min` doubled for each but the
    /// first, up to `max`.
    fn ceiling(self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.min.saturating_mul(1 << doublings).min(self.max)
    }

    /// Full jitter: anywhere from `min` to the ceiling. `random` is in `[0, 1)`.
    pub fn wait(self, failures: u32, random: f64) -> Duration {
        let span = self.ceiling(failures).saturating_sub(self.min);
        self.min + span.mul_f64(random.clamp(0.0, 1.0))
    }
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock, which can be set.
    pub wall: SystemTime,
    /// The monotonic clock, which stands still during suspend.
    pub mono: Instant,
}

impl Moment {
    /// `wait` after this moment. A wait beyond what a clock can show leaves the moment as it is,
    /// which is early, never late.
    pub fn after(self, wait: Duration) -> Self {
        match (self.wall.checked_add(wait), self.mono.checked_add(wait)) {
            (Some(wall), Some(mono)) => Self { wall, mono },
            _ => self,
        }
    }

    /// Time from `now` to this moment by the clock that reaches it first; zero when reached.
    pub fn from_now(self, now: &Self) -> Duration {
        let wall = self.wall.duration_since(now.wall).unwrap_or_default();
        wall.min(self.mono.saturating_duration_since(now.mono))
    }

    /// Whether either clock has reached this moment.
    pub fn reached(self, now: &Self) -> bool {
        self.from_now(now).is_zero()
    }

    fn earlier(self, other: Self) -> Self {
        Self { wall: self.wall.min(other.wall), mono: self.mono.min(other.mono) }
    }
}

/// When a credential with `life` left is refreshed: after 75 to 90 % of it.
pub fn refresh_after(life: Duration, random: f64) -> Duration {
    let part = REFRESH_FROM + (REFRESH_TO - REFRESH_FROM) * random.clamp(0.0, 1.0);
    life.mul_f64(part)
}

/// Decides when the next attempt is due.
#[derive(Debug)]
pub struct Planner {
    backoff: BackoffRange,
    /// For sources that give no expiry but may change, such as files.
    reread: Option<Duration>,
    due: Option<Moment>,
    expiry: Option<Moment>,
    failures: u32,
    last_failed: Option<Moment>,
    last_forced: Option<Moment>,
    /// A forced attempt is planned and not yet made.
    forced_pending: bool,
}

impl Planner {
    /// The first attempt is due at once.
    pub fn new(backoff: BackoffRange, reread: Option<Duration>, now: Moment) -> Self {
        Self {
            backoff,
            reread,
            due: Some(now),
            expiry: None,
            failures: 0,
            last_failed: None,
            last_forced: None,
            forced_pending: false,
        }
    }

    /// An attempt gave a credential that lives until `expires_at` by the wall clock.
    pub fn succeeded(&mut self, now: Moment, expires_at: Option<SystemTime>, random: f64) {
        self.failures = 0;
        self.forced_pending = false;
        let life = expires_at.map(|at| at.duration_since(now.wall).unwrap_or_default());
        self.expiry = life.map(|life| now.after(life));
        self.due = match life {
            Some(life) => {
                // A life shorter than the shortest backoff must not become a tight loop, but the
                // attempt still comes no later than the expiry.
                let wait = refresh_after(life, random).max(self.backoff.min).min(life);
                Some(now.after(wait))
            }
            None => self.reread.map(|period| now.after(period)),
        };
    }

    /// An attempt failed.
    pub fn failed(&mut self, now: Moment, random: f64) {
        self.failures = self.failures.saturating_add(1);
        self.forced_pending = false;
        self.last_failed = Some(now);
        let retry = now.after(self.backoff.wait(self.failures, random));
        self.due = Some(match self.expiry {
            Some(expiry) if !expiry.reached(&now) => retry.earlier(expiry),
            _ => retry,
        });
    }

    /// The source says that it has something new.
    pub fn due_now(&mut self, now: Moment) {
        self.due = Some(now);
    }

    /// Commands wait for a credential, and the source failed: it is asked a second after that at the
    /// latest, so that it is not back for long before that is noticed.
    pub fn hurry(&mut self) {
        if self.failures > 0
            && let Some(last) = self.last_failed
        {
            let at = last.after(URGENT.max(self.backoff.min));
            self.due = Some(self.due.map_or(at, |due| due.earlier(at)));
        }
    }

    /// True when a forced attempt is planned and not yet made.
    pub fn is_forced(&self) -> bool {
        self.forced_pending
    }

    /// The cluster rejected the credential: refresh at once, and when the next one is rejected too,
    /// slowly: a missing permission is not mended by more tokens, and IAM checks every AUTH that tries
    /// one. Says whether this call planned an attempt: it does not while one is planned already, nor
    /// while the source itself is in trouble and its backoff holds.
    pub fn force(&mut self, now: Moment) -> bool {
        if self.failures > 0 || self.forced_pending {
            return false;
        }
        self.forced_pending = true;
        let allowed = self.last_forced.map(|last| last.after(self.backoff.max.saturating_mul(2)));
        let at = allowed.map_or(now, |allowed| now.after(allowed.from_now(&now)));
        self.last_forced = Some(at);
        self.due = Some(self.due.map_or(at, |due| due.earlier(at)));
        true
    }

    /// Whether an attempt is due.
    pub fn is_due(&self, now: &Moment) -> bool {
        self.due.is_some_and(|due| due.reached(now))
    }

    /// Whether the credential at hand has expired.
    pub fn is_expired(&self, now: &Moment) -> bool {
        self.expiry.is_some_and(|expiry| expiry.reached(now))
    }

    /// Time left until the expiry of the credential at hand.
    pub fn until_expiry(&self, now: &Moment) -> Option<Duration> {
        self.expiry.map(|expiry| expiry.from_now(now))
    }

    /// How long the task may sleep: to the next attempt, at most [`TICK`].
    pub fn sleep(&self, now: &Moment) -> Duration {
        self.due.map_or(TICK, |due| due.from_now(now).min(TICK))
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "an Instant has no other origin")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BACKOFF: BackoffRange =
        BackoffRange { min: Duration::from_millis(100), max: Duration::from_secs(30) };

    fn start() -> Moment {
        Moment {
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            mono: Instant::now(),
        }
    }

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    proptest! {
        #[test]
        fn refresh_falls_between_75_and_90_percent(millis in 200_u64..40_000_000, random in 0.0..1.0) {
            let now = start();
            let life = Duration::from_millis(millis);
            let mut planner = Planner::new(BACKOFF, None, now);
            planner.succeeded(now, Some(now.wall + life), random);
            let slack = Duration::from_micros(1);
            prop_assert!(!planner.is_due(&now.after(life.mul_f64(0.75) - slack)));
            prop_assert!(planner.is_due(&now.after(life.mul_f64(0.90) + slack)));
        }

        #[test]
        fn an_attempt_comes_before_expiry_and_backoff_stays_in_range(
            life in 1_u64..100_000,
            steps in proptest::collection::vec((any::<bool>(), 0.0..1.0), 1..40),
        ) {
            let mut now = start();
            let life = Duration::from_millis(life);
            let mut planner = Planner::new(BACKOFF, None, now);
            let mut expiry = None;
            for (ok, random) in steps {
                if ok {
                    planner.succeeded(now, Some(now.wall + life), random);
                    expiry = Some(now.after(life));
                } else {
                    planner.failed(now, random);
                    let wait = planner.due.unwrap().from_now(&now);
                    prop_assert!(wait <= BACKOFF.max);
                    let cut = expiry.is_some_and(|e: Moment| !e.reached(&now));
                    prop_assert!(cut || wait >= BACKOFF.min, "{wait:?}");
                }
                let due = planner.due.unwrap();
                if let Some(expiry) = expiry.filter(|e| !e.reached(&now)) {
                    prop_assert!(due.wall <= expiry.wall && due.mono <= expiry.mono);
                }
                prop_assert!(planner.sleep(&now) <= TICK);
                // Virtual time: the task sleeps until the attempt is due, in ticks.
                let mut sleeps = 0;
                while !planner.is_due(&now) {
                    now = now.after(planner.sleep(&now));
                    sleeps += 1;
                    prop_assert!(sleeps < 10_000);
                }
            }
        }

        #[test]
        fn backoff_doubles_up_to_its_ceiling(failures in 1_u32..200, random in 0.0..1.0) {
            let wait = BACKOFF.wait(failures, random);
            prop_assert!(wait >= BACKOFF.min && wait <= BACKOFF.max);
            let doubled = f64::from(failures - 1).exp2() * BACKOFF.min.as_secs_f64();
            prop_assert!(wait.as_secs_f64() <= doubled + 1e-6);
        }
    }

    #[test]
    fn the_wall_clock_may_jump() {
        let now = start();
        let mut planner = Planner::new(BACKOFF, None, now);
        planner.succeeded(now, Some(now.wall + secs(3600)), 0.0);
        // Set back by a day, and 2700 s pass: the monotonic clock says it is time.
        let back = Moment { wall: now.wall - secs(86_400), mono: now.mono };
        assert!(!planner.is_due(&back));
        assert!(planner.is_due(&back.after(secs(2700))));
        // A machine that slept for a day: the wall clock says it is time.
        let slept = Moment { wall: now.wall + secs(86_400), mono: now.mono };
        assert!(planner.is_due(&slept) && planner.is_expired(&slept));
    }

    #[test]
    fn secrets_without_expiry() {
        let now = start();
        let mut fixed = Planner::new(BACKOFF, None, now);
        fixed.succeeded(now, None, 0.5);
        assert!(!fixed.is_due(&now.after(secs(1_000_000))));
        assert!(!fixed.is_expired(&now.after(secs(1_000_000))));
        assert_eq!(fixed.sleep(&now), TICK);
        let mut file = Planner::new(BACKOFF, Some(secs(30)), now);
        file.succeeded(now, None, 0.5);
        assert!(!file.is_due(&now.after(secs(29))));
        assert!(file.is_due(&now.after(secs(30))));
    }

    #[test]
    fn forced_refreshes_slow_down_and_recover() {
        let mut now = start();
        let mut planner = Planner::new(BACKOFF, None, now);
        let mut gaps = Vec::new();
        for _ in 0..12 {
            planner.succeeded(now, Some(now.wall + secs(3600)), 0.5);
            assert!(planner.force(now));
            assert!(!planner.force(now), "one at a time");
            let forced_at = now;
            while !planner.is_due(&now) {
                now = now.after(planner.sleep(&now));
            }
            gaps.push(now.from_now(&forced_at));
        }
        assert_eq!(gaps[0], Duration::ZERO);
        assert!(gaps[1..].iter().all(|gap| *gap == BACKOFF.max * 2), "{gaps:?}");
        now = now.after(BACKOFF.max * 2);
        planner.succeeded(now, Some(now.wall + secs(3600)), 0.5);
        planner.force(now);
        assert!(planner.is_due(&now), "a quiet time earns a quick refresh again");
    }

    #[test]
    fn force_does_not_shorten_a_backoff() {
        let now = start();
        let mut planner = Planner::new(BACKOFF, None, now);
        planner.failed(now, 0.9);
        assert!(!planner.force(now));
        assert!(!planner.is_due(&now));
    }
}
