//! The faults of one run: which, where, when and for how long, all from one seed.
//!
//! Pure but for [`Plan::carry_out`]. Invariants: the same seed gives the same plan; a window is
//! shorter than a command's deadline by far; windows of one timeline do not touch, so a proxy that
//! retries within its backoff always finds a moment in between.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::bed::Bed;
use crate::support::faults::{AuthFault, AuthScope};
use crate::support::metadata::MetadataFault;

/// What a plan may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roughness {
    /// Nothing that leaves a sent command without an answer: connections in use are never cut by a
    /// fault, and token and AUTH faults do not overlap.
    Gentle,
    /// Faults of the token source and of AUTH overlap as they come, and now and then no AUTH
    /// succeeds for so long that authentications end.
    Overlapping,
    /// Connections in use are cut and stalled too, during their AUTH and when it ends.
    Cutting,
}

/// One fault for a while.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// From the start of the run.
    pub at: Duration,
    /// How long.
    pub length: Duration,
    /// What.
    pub fault: Fault,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// AUTHs of one front, or of all when `None`, at most so many.
    Auth { front: Option<usize>, scope: AuthScope, fault: AuthFault, times: u32 },
    /// The token source misbehaves.
    Source(MetadataFault),
    /// The token source cannot be reached.
    SourceDown,
}

/// All windows, by their start.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What it was made from.
    pub seed: u64,
    /// The windows.
    pub windows: Vec<Window>,
}

const AUTH: &[(AuthScope, AuthFault)] = &[
    (AuthScope::Any, AuthFault::IamExhausted),
    (AuthScope::Any, AuthFault::IamExhausted),
    (AuthScope::Any, AuthFault::IamOther),
    (AuthScope::Any, AuthFault::WrongPass),
    (AuthScope::First, AuthFault::Stall),
    (AuthScope::First, AuthFault::Close),
    (AuthScope::First, AuthFault::HalfReply),
];

const CUTTING: &[(AuthScope, AuthFault)] = &[
    (AuthScope::Renewal, AuthFault::Stall),
    (AuthScope::Renewal, AuthFault::Close),
    (AuthScope::Renewal, AuthFault::HalfReply),
];

const SOURCE: &[MetadataFault] = &[
    MetadataFault::InternalError,
    MetadataFault::Garbage,
    MetadataFault::MissingToken,
    MetadataFault::Close,
    MetadataFault::Stall,
    MetadataFault::ExpiredToken,
    MetadataFault::DeadToken,
];

impl Plan {
    /// Faults for a run of `length` before `fronts` fronts; the first and last second are quiet.
    pub fn new(seed: u64, length: Duration, fronts: usize, roughness: Roughness) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut windows = match roughness {
            Roughness::Gentle => timeline(&mut rng, length, false, |rng| match rng.u8(..3) {
                0 => source(rng),
                _ => auth(rng, fronts, AUTH),
            }),
            Roughness::Overlapping => {
                let mut windows = timeline(&mut rng, length, false, source);
                windows.extend(timeline(&mut rng, length, true, |rng| auth(rng, fronts, AUTH)));
                windows
            }
            Roughness::Cutting => timeline(&mut rng, length, true, |rng| match rng.u8(..4) {
                0 => source(rng),
                1 => auth(rng, fronts, AUTH),
                _ => auth(rng, fronts, CUTTING),
            }),
        };
        windows.sort_by_key(|window| window.at);
        Self { seed, windows }
    }

    /// Does it all to the bed; every fault has ended when this returns.
    pub async fn carry_out(&self, bed: &Bed, start: Instant) {
        let each = self.windows.iter().map(async |window| {
            tokio::time::sleep_until(start + window.at).await;
            switch(bed, &window.fault, true);
            tokio::time::sleep(window.length).await;
            switch(bed, &window.fault, false);
        });
        join_all(each).await;
    }
}

/// Drives all to their ends, on this task.
async fn join_all<F: Future<Output = ()>>(futures: impl Iterator<Item = F>) {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

fn timeline(
    rng: &mut fastrand::Rng,
    run: Duration,
    outages: bool,
    mut fault: impl FnMut(&mut fastrand::Rng) -> Fault,
) -> Vec<Window> {
    let mut windows = Vec::new();
    let mut at = Duration::from_secs(1);
    loop {
        at += millis(rng, 500, 1300);
        let (length, fault) = if outages && windows.len() % 6 == 1 {
            (millis(rng, 2200, 2800), outage(rng))
        } else {
            (millis(rng, 150, 450), fault(rng))
        };
        if at + length + Duration::from_secs(1) > run {
            return windows;
        }
        windows.push(Window { at, length, fault });
        at += length;
    }
}

/// No AUTH succeeds anywhere.
fn outage(rng: &mut fastrand::Rng) -> Fault {
    let fault = if rng.bool() { AuthFault::IamExhausted } else { AuthFault::IamOther };
    Fault::Auth { front: None, scope: AuthScope::Any, fault, times: u32::MAX }
}

fn millis(rng: &mut fastrand::Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.u64(from..=to))
}

fn source(rng: &mut fastrand::Rng) -> Fault {
    match rng.usize(..=SOURCE.len()) {
        n if n == SOURCE.len() => Fault::SourceDown,
        n => Fault::Source(SOURCE[n].clone()),
    }
}

fn auth(rng: &mut fastrand::Rng, fronts: usize, among: &[(AuthScope, AuthFault)]) -> Fault {
    let (scope, fault) = among[rng.usize(..among.len())];
    let front = if rng.u8(..4) == 0 { None } else { Some(rng.usize(..fronts)) };
    // A burst, or for as long as the window lasts.
    let times = if rng.bool() { rng.u32(1..6) } else { u32::MAX };
    Fault::Auth { front, scope, fault, times }
}

fn switch(bed: &Bed, fault: &Fault, on: bool) {
    match fault {
        Fault::Source(fault) => bed.metadata.set_fault(on.then(|| fault.clone())),
        Fault::SourceDown => bed.metadata.set_up(!on),
        Fault::Auth { front, scope, fault, times } => {
            for (index, one) in bed.cluster.fronts().enumerate() {
                if front.is_some_and(|wanted| wanted != index) {
                    continue;
                }
                if on {
                    one.faults().fail_auth_of(*scope, *fault, *times);
                } else {
                    one.faults().heal_auth();
                }
            }
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "LIFECYCLE_SEED={} makes these faults again:", self.seed)?;
        for window in &self.windows {
            let (at, length) = (window.at.as_secs_f64(), window.length.as_millis());
            write!(f, "  at {at:7.3} s for {length:3} ms: ")?;
            match &window.fault {
                Fault::SourceDown => writeln!(f, "token source down")?,
                Fault::Source(fault) => writeln!(f, "token source: {fault:?}")?,
                Fault::Auth { front, scope, fault, times } => {
                    match front {
                        None => write!(f, "all fronts")?,
                        Some(front) => write!(f, "front {front}")?,
                    }
                    write!(f, ": AUTH {fault:?} ({scope:?})")?;
                    match times {
                        &u32::MAX => writeln!(f)?,
                        times => writeln!(f, ", {times} times")?,
                    }
                }
            }
        }
        Ok(())
    }
}

#[test]
fn a_seed_makes_one_plan_and_windows_keep_apart() {
    let minute = Duration::from_secs(60);
    for seed in 0..200 {
        for roughness in [Roughness::Gentle, Roughness::Overlapping, Roughness::Cutting] {
            let plan = Plan::new(seed, minute, 3, roughness);
            assert_eq!(plan, Plan::new(seed, minute, 3, roughness));
            assert!(plan.windows.len() > 20, "{plan}");
            for window in &plan.windows {
                let end = window.at + window.length;
                assert!(window.at >= Duration::from_secs(1) && end < minute, "{plan}");
                let longest = if roughness == Roughness::Gentle { 500 } else { 3000 };
                assert!(window.length < Duration::from_millis(longest), "{plan}");
            }
            let apart = |w: &[Window]| w[0].at + w[0].length + Duration::from_millis(400) < w[1].at;
            if roughness != Roughness::Overlapping {
                assert!(plan.windows.windows(2).all(apart), "{plan}");
            }
            let cuts = plan.windows.iter().any(|window| {
                matches!(&window.fault, Fault::Auth { scope: AuthScope::Renewal, .. })
            });
            assert_eq!(cuts, roughness == Roughness::Cutting, "{plan}");
        }
    }
    assert_ne!(
        Plan::new(1, minute, 3, Roughness::Gentle).windows,
        Plan::new(2, minute, 3, Roughness::Gentle).windows
    );
}
