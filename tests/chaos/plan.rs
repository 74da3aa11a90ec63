//! The faults of one run, all from one seed: what strikes, where, from when and for how long.
//!
//! A run is a row of phases, each followed by a calm in which everything must be well again. In a
//! *mixed* phase faults of the network, of IAM and of nodes overlap while slots migrate; in a *solo*
//! phase there is one long fault alone, mostly of one shard, so that the others can be held to be
//! well. Pure.
//! Invariant: the same seed gives the same plan. Times are those at which a fault is due: faults of
//! nodes, and migrations, go one after the other and each waits until the cluster is whole.

use std::fmt;
use std::time::Duration;

use crate::iam;
use crate::support::cluster::Failover;
use crate::support::network::{Close, Share, Way, Weather};

/// Shards, each with one replica.
pub const SHARDS: usize = 3;
const MEMBERS: usize = SHARDS * 2;

/// What a run goes through.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub seed: u64,
    pub phases: Vec<Phase>,
}

/// Faults until a calm.
#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    /// One fault alone, and no slot moves.
    pub solo: bool,
    pub length: Duration,
    pub wires: Vec<Window>,
    pub iam: Option<iam::Plan>,
    pub nodes: Vec<Step>,
    pub moves: Vec<Move>,
}

/// A fault of the network.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// From the start of the phase.
    pub at: Duration,
    pub length: Duration,
    pub front: Front,
    pub fault: WireFault,
    /// How it ends: what was cut by then at any byte is never completed.
    pub then: Option<Close>,
    pub share: Share,
}

/// Before which nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    All,
    Member(usize),
    PrimaryOf(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireFault {
    Weather(Weather),
    Close(Close),
    /// No dial gets through; what is connected stays.
    Refuse,
    /// The same, and what is connected is reset.
    Gone,
}

/// A fault of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Not before this time of the phase.
    pub at: Duration,
    pub shard: usize,
    pub fault: NodeFault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeFault {
    /// SIGSTOP of the primary, and SIGCONT.
    StopPrimary(Duration),
    StopReplica(Duration),
    /// SIGKILL of the primary; it is started again after this time.
    KillPrimary(Duration),
    /// The same, but not before its replica has taken over.
    KillUntilFailover,
    KillReplica(Duration),
    Failover(Failover),
}

/// A slot goes to another shard, key by key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Which of the slots in use.
    pub slot: usize,
    /// So many shards further.
    pub hop: usize,
    /// Keys at a time.
    pub keys: usize,
    /// Between two steps.
    pub pause: Duration,
}

impl Plan {
    /// At least so long, calms left out; mixed and solo phases take turns. `op_timeout` is the
    /// proxy's: some faults last longer.
    pub fn new(seed: u64, length: Duration, op_timeout: Duration) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut phases = Vec::new();
        let mut planned = Duration::ZERO;
        while planned < length || phases.len() < 2 {
            let phase = if phases.len() % 2 == 0 {
                Phase::mixed(&mut rng, op_timeout)
            } else {
                Phase::solo(&mut rng, op_timeout)
            };
            planned += phase.length;
            phases.push(phase);
        }
        Self { seed, phases }
    }

    /// One mixed phase of this length, without faults of nodes.
    #[cfg(feature = "sabotage")]
    pub fn of_the_network(seed: u64, length: Duration, op_timeout: Duration) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut phase = Phase::mixed(&mut rng, op_timeout);
        phase.length = length;
        phase.wires = wires(&mut rng, length, op_timeout);
        phase.nodes.clear();
        Self { seed, phases: vec![phase] }
    }
}

impl Phase {
    fn mixed(rng: &mut fastrand::Rng, op_timeout: Duration) -> Self {
        let length = millis(rng, 13_000, 16_000);
        let seed = rng.u64(..);
        Self {
            solo: false,
            length,
            wires: wires(rng, length, op_timeout),
            iam: Some(iam::Plan::new(seed, length, MEMBERS, iam::Roughness::Cutting)),
            nodes: steps(rng, length),
            moves: (0..64).map(|_| a_move(rng)).collect(),
        }
    }

    fn solo(rng: &mut fastrand::Rng, op_timeout: Duration) -> Self {
        let shard = rng.usize(..SHARDS);
        let at = millis(rng, 300, 800);
        let long = op_timeout + millis(rng, 300, 2_000);
        let mut phase = Self {
            solo: true,
            length: at + long,
            wires: Vec::new(),
            iam: None,
            nodes: Vec::new(),
            moves: Vec::new(),
        };
        let all = Share { percent: 100, salt: rng.u64(..) };
        let mut front = Front::PrimaryOf(shard);
        let fault = match rng.u8(..6) {
            0 => WireFault::Weather(Weather::Stall(None)),
            1 => WireFault::Weather(Weather::Stall(Some(way(rng)))),
            2 => WireFault::Weather(Weather::Lost),
            3 => {
                phase.nodes = vec![Step { at, shard, fault: NodeFault::KillUntilFailover }];
                return phase;
            }
            4 => {
                // The whole network is gone.
                front = Front::All;
                WireFault::Gone
            }
            _ => {
                phase.nodes = vec![Step { at, shard, fault: NodeFault::StopPrimary(long) }];
                return phase;
            }
        };
        phase.wires = vec![Window { at, length: long, front, fault, then: None, share: all }];
        phase
    }
}

fn millis(rng: &mut fastrand::Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.u64(from..=to))
}

fn way(rng: &mut fastrand::Rng) -> Way {
    if rng.bool() { Way::ToNode } else { Way::ToProxy }
}

fn wires(rng: &mut fastrand::Rng, phase: Duration, op_timeout: Duration) -> Vec<Window> {
    let mut windows = Vec::new();
    let mut at = millis(rng, 300, 900);
    loop {
        let front = match rng.u8(..8) {
            0 => Front::All,
            1 | 2 => Front::Member(rng.usize(..MEMBERS)),
            _ => Front::PrimaryOf(rng.usize(..SHARDS)),
        };
        let fault = wire_fault(rng);
        let length = match fault {
            WireFault::Close(_) => Duration::ZERO,
            // Longer than a command may take, now and then.
            _ if front != Front::All && rng.u8(..6) == 0 => op_timeout + millis(rng, 200, 1_500),
            _ => millis(rng, 100, 1_500),
        };
        let percent = if rng.bool() { 100 } else { rng.u8(20..90) };
        let share = Share { percent, salt: rng.u64(..) };
        if at + length > phase {
            return windows;
        }
        let then = (length > Duration::ZERO && rng.bool()).then(|| close(rng));
        windows.push(Window { at, length, front, fault, then, share });
        at += length + millis(rng, 200, 900);
    }
}

fn wire_fault(rng: &mut fastrand::Rng) -> WireFault {
    match rng.u8(..12) {
        0 => WireFault::Weather(Weather::Stall(None)),
        1 | 2 => WireFault::Weather(Weather::Stall(Some(way(rng)))),
        3 | 4 => WireFault::Weather(Weather::Lost),
        5 | 6 => WireFault::Weather(Weather::Slow(rng.usize(1..200))),
        7 => WireFault::Refuse,
        _ => WireFault::Close(close(rng)),
    }
}

fn close(rng: &mut fastrand::Rng) -> Close {
    match rng.u8(..4) {
        0 => Close::Reset,
        1 => Close::Finish,
        2 => Close::Half,
        _ => Close::Late(millis(rng, 50, 800)),
    }
}

/// One after the other; each takes a few seconds until the cluster is whole again.
fn steps(rng: &mut fastrand::Rng, phase: Duration) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut at = millis(rng, 500, 1_500);
    while at + Duration::from_secs(4) < phase {
        let fault = match rng.u8(..12) {
            0 | 1 => NodeFault::StopPrimary(millis(rng, 200, 900)),
            2 => NodeFault::StopPrimary(millis(rng, 3_000, 5_000)),
            3 => NodeFault::StopReplica(millis(rng, 200, 3_000)),
            4 => NodeFault::KillPrimary(millis(rng, 0, 300)),
            5 => NodeFault::KillUntilFailover,
            6 => NodeFault::KillReplica(millis(rng, 0, 1_000)),
            7..10 => NodeFault::Failover(Failover::Coordinated),
            10 => NodeFault::Failover(Failover::Force),
            _ => NodeFault::Failover(Failover::Takeover),
        };
        steps.push(Step { at, shard: rng.usize(..SHARDS), fault });
        at += millis(rng, 2_000, 4_000);
    }
    steps
}

fn a_move(rng: &mut fastrand::Rng) -> Move {
    Move {
        slot: rng.usize(..1 << 16),
        hop: rng.usize(1..SHARDS),
        keys: rng.usize(1..4),
        pause: millis(rng, 0, 60),
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.solo { "solo" } else { "mixed" };
        writeln!(f, "{kind} phase of {:?}, {} slots may move", self.length, self.moves.len())?;
        for Window { at, length, front, fault, then, share } in &self.wires {
            let percent = share.percent;
            write!(f, "  {at:>8.3?} {length:>8.3?} {front:?}: {fault:?}")?;
            if let Some(close) = then {
                write!(f, ", then {close:?}")?;
            }
            writeln!(f, ", {percent} % of the wires")?;
        }
        for Step { at, shard, fault } in &self.nodes {
            writeln!(f, "  {at:>8.3?}          shard {shard}: {fault:?}")?;
        }
        match &self.iam {
            Some(iam) => write!(f, "  IAM: {iam}"),
            None => Ok(()),
        }
    }
}

#[test]
fn a_seed_makes_one_plan() {
    let (minute, op_timeout) = (Duration::from_secs(60), Duration::from_secs(4));
    let shown = |plan: &Plan| plan.phases.iter().map(Phase::to_string).collect::<String>();
    for seed in 0..100 {
        let plan = Plan::new(seed, minute, op_timeout);
        assert_eq!(plan, Plan::new(seed, minute, op_timeout));
        assert_eq!(shown(&plan), shown(&Plan::new(seed, minute, op_timeout)));
        assert_ne!(plan.phases, Plan::new(seed + 1, minute, op_timeout).phases);
        for phase in &plan.phases {
            let faults = phase.wires.len() + phase.nodes.len();
            assert!(if phase.solo { faults == 1 } else { faults > 4 }, "{phase}");
            assert!(phase.wires.iter().all(|w| w.at + w.length <= phase.length), "{phase}");
        }
    }
}

#[test]
fn an_hour_holds_every_fault() {
    let plan = Plan::new(1, Duration::from_secs(3600), Duration::from_secs(4));
    let shown: String = plan.phases.iter().map(Phase::to_string).collect();
    for fault in [
        "Stall(None)",
        "Stall(Some(ToNode))",
        "Stall(Some(ToProxy))",
        "Lost",
        "Slow(",
        "Refuse",
        "Gone",
        "Reset",
        "Finish",
        "Half",
        "Late(",
        "StopPrimary",
        "StopReplica",
        "KillPrimary",
        "KillUntilFailover",
        "KillReplica",
        "Failover(Coordinated)",
        "Failover(Force)",
        "Failover(Takeover)",
        "token source",
        "IamExhausted",
        "IamOther",
    ] {
        assert!(shown.contains(fault), "{fault} is never planned");
    }
}
