//! Refused AUTHs in a row, and how long no further one is sent.
//!
//! Invariant: between two AUTHs that fail lies a wait inside the bounds, its ceiling doubling each
//! time, jittered so that a fleet does not fall upon the IAM backend at once; a credential other than
//! the refused one may be tried without waiting. The clock and the random number are handed in.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::{Duration, Instant};

use crate::upstream::client::ClientError;

/// Refusals in a row that each ask for a new credential; after them only the source's own refresh
/// brings one (a missing role does not heal by minting tokens).
const MAX_FORCED_REFRESHES: u32 = 3;

/// What happened to the last AUTHs.
#[derive(Debug)]
pub struct AuthFaults {
    bounds: (Duration, Duration),
    count: u32,
    until: Option<Instant>,
    last: Option<ClientError>,
    /// Generation of the credential that met the last fault.
    generation: u64,
}

impl AuthFaults {
    /// No fault yet; waits lie in `bounds` (shortest, longest).
    pub fn new(bounds: (Duration, Duration)) -> Self {
        Self { bounds, count: 0, until: None, last: None, generation: 0 }
    }

    /// Notes a fault; `random` lies in `[0, 1)`. True when a new credential should be asked for: this
    /// one was rejected, and not for the umpteenth time.
    pub fn note(
        &mut self,
        fault: &ClientError,
        generation: u64,
        now: Instant,
        random: f64,
    ) -> bool {
        let (min, max) = self.bounds;
        let ceiling = min.saturating_mul(1 << self.count.min(20)).min(max);
        self.count = self.count.saturating_add(1);
        self.until = Some(now + min.max(ceiling.mul_f64(random.clamp(0.0, 1.0))));
        self.last = Some(fault.clone());
        self.generation = generation;
        matches!(fault, ClientError::WrongPass { .. }) && self.count <= MAX_FORCED_REFRESHES
    }

    /// Ends the wait when `generation` is not the refused credential's; true when it did.
    pub fn forgive(&mut self, generation: u64) -> bool {
        let other = self.count > 0 && self.generation != generation;
        if other {
            self.until = None;
        }
        other
    }

    /// The fault that forbids an AUTH at `now`.
    pub fn pending(&self, now: Instant) -> Option<&ClientError> {
        self.last.as_ref().filter(|_| self.until.is_some_and(|until| now < until))
    }

    /// When AUTH may be sent again, if it had to wait.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Faults since the last success.
    pub fn count(&self) -> u32 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "a test hands the core its clock")]

    use super::*;
    use crate::cluster::topology::NodeAddr;

    #[test]
    fn waits_grow_within_bounds_and_forced_refreshes_end() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(3));
        let addr = NodeAddr { host: "n".into(), port: 1 };
        let fault = ClientError::WrongPass { addr };
        let t = Instant::now();
        let mut faults = AuthFaults::new((min, max));
        assert!(faults.pending(t).is_none());
        let mut forced = Vec::new();
        for i in 0..70u32 {
            forced.push(faults.note(&fault, 1, t, 1.0));
            let wait = faults.until().unwrap() - t;
            assert_eq!(wait, min.saturating_mul(1 << i.min(20)).min(max));
            assert!(faults.pending(t + wait - Duration::from_millis(1)).is_some());
            assert!(faults.pending(t + wait).is_none());
        }
        assert_eq!(forced.iter().filter(|f| **f).count(), 3);
        faults.note(&fault, 1, t, 0.0);
        assert_eq!(faults.until(), Some(t + min));
        assert!(!faults.forgive(1));
        assert!(faults.forgive(2));
        assert!(faults.pending(t).is_none());
    }
}
