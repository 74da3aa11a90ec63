//! Carries out a plan: does to the bed what a phase says, and records when the cluster may have lost
//! writes and which shard was ill.
//!
//! Invariants: faults of nodes and migrations never overlap (a failover in the middle of a migration
//! loses keys in Redis itself); before a fault that may lose writes the replica has all that was
//! acknowledged until then, so a loss begins exactly there.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Mutex as Turn, watch};
use tokio::time::Instant;

use crate::history::{Loss, Losses, Span};
use crate::judge::Trouble;
use crate::plan::{Front, Move, NodeFault, Phase, SHARDS, Step, Window, WireFault};
use crate::support::bed::Bed;
use crate::support::cluster::Failover;
use crate::support::network::{Close, Weather};
use crate::support::resp::Value;
use crate::support::wait::{holds, wait_for};
use crate::talk::Run;

/// How long the bed itself may need for a step.
const LONG: Duration = Duration::from_secs(60);

/// What has been done so far.
#[derive(Debug, Default)]
pub struct Record {
    pub losses: Losses,
    pub troubles: Vec<Trouble>,
    /// How often what was done.
    pub faults: BTreeMap<String, u64>,
    /// Failovers, asked for or not, until all nodes agreed.
    pub failovers: Vec<Span>,
}

/// See the module header.
pub struct Injector<'a> {
    bed: &'a Bed,
    run: Arc<Run>,
    /// Slots that sessions use.
    slots: Vec<u16>,
    /// Whoever changes the cluster holds it.
    turn: Turn<()>,
    /// The primaries, and when they were looked at (ms).
    known: Mutex<(u32, Option<[usize; SHARDS]>)>,
    record: Mutex<Record>,
}

impl<'a> Injector<'a> {
    pub fn new(bed: &'a Bed, run: &Arc<Run>, slots: Vec<u16>) -> Self {
        let (run, turn) = (run.clone(), Turn::new(()));
        Self { bed, run, slots, turn, known: Mutex::default(), record: Mutex::default() }
    }

    /// What was done.
    pub async fn into_record(self) -> Record {
        self.settle(None).await;
        self.record.into_inner().unwrap_or_else(|e| e.into_inner())
    }

    /// Milliseconds of the run.
    pub fn ms(&self) -> u32 {
        u32::try_from(self.run.now().as_millis()).unwrap_or(u32::MAX)
    }

    /// Does all of a phase; every fault has ended when this returns.
    pub async fn carry_out(&self, phase: &Phase) {
        self.settle(None).await;
        let start = Instant::now();
        let (over, until) = watch::channel(false);
        let faults = async {
            let iam = async {
                if let Some(plan) = &phase.iam {
                    self.trouble(None, plan.carry_out(self.bed, start)).await;
                    self.count("token source and AUTH", plan.windows.len() as u64);
                }
            };
            let wires = async {
                for window in &phase.wires {
                    tokio::time::sleep_until(start + window.at).await;
                    self.strike(window).await;
                }
            };
            let nodes = async {
                for step in &phase.nodes {
                    tokio::time::sleep_until(start + step.at).await;
                    let _turn = self.turn.lock().await;
                    self.step(step).await;
                }
            };
            let length = tokio::time::sleep_until(start + phase.length);
            tokio::join!(iam, wires, nodes, length);
            over.send_replace(true);
        };
        tokio::join!(faults, self.migrate(&phase.moves, until));
        let _turn = self.turn.lock().await;
        self.settle(None).await;
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn count(&self, what: impl Into<String>, times: u64) {
        *self.record().faults.entry(what.into()).or_default() += times;
    }

    /// Records a shard as ill, or all, for as long as `work` takes.
    async fn trouble<T>(&self, shard: Option<usize>, work: impl Future<Output = T>) -> T {
        let from = self.ms();
        let done = work.await;
        let span = Span { from, until: self.ms() };
        self.record().troubles.push(Trouble { shard, span });
        done
    }

    /// A fault of the network from its start to its end.
    async fn strike(&self, window: &Window) {
        let (members, shard): (Vec<usize>, _) = match window.front {
            Front::All => ((0..SHARDS * 2).collect(), None),
            Front::Member(member) => (vec![member], Some(member % SHARDS)),
            Front::PrimaryOf(shard) => (vec![self.primary(shard).await], Some(shard)),
        };
        self.count(name_of(window.fault), 1);
        if let Some(close) = window.then {
            self.count(name_of(WireFault::Close(close)), 1);
        }
        self.trouble(shard, async {
            for &member in &members {
                self.switch(member, window, true);
            }
            tokio::time::sleep(window.length).await;
            for &member in &members {
                if let Some(close) = window.then {
                    self.bed.cluster.member(member).front().network().close(close, window.share);
                }
                self.switch(member, window, false);
            }
        })
        .await;
    }

    fn switch(&self, member: usize, window: &Window, on: bool) {
        let front = self.bed.cluster.member(member).front();
        match window.fault {
            WireFault::Weather(weather) => {
                front.network().set_weather(on.then_some((weather, window.share)));
            }
            WireFault::Close(close) if on => front.network().close(close, window.share),
            WireFault::Close(_) => {}
            WireFault::Refuse | WireFault::Gone => {
                if on && window.fault == WireFault::Gone {
                    front.network().close(Close::Reset, window.share);
                }
                // A killed node's front refuses by itself.
                if on || !self.bed.cluster.member(member).node.has_exited() {
                    front.faults().set_refused(on);
                }
            }
        }
    }

    /// The member that is a shard's primary.
    async fn primary(&self, shard: usize) -> usize {
        let mut found = None;
        wait_for("a primary of the shard", LONG, async || {
            for member in members_of(shard) {
                let role = self.bed.cluster.member(member).node.try_run(&["ROLE"]).await;
                if role.is_ok_and(|role| role.items()[0] == Value::bulk("master")) {
                    found = Some(member);
                    return true;
                }
            }
            false
        })
        .await;
        found.expect("a primary")
    }

    /// Waits until the cluster is whole, all agree, and no epoch is still on its way. Only the primary
    /// of `planned` should be another one: a machine so busy that a node took another one for dead
    /// may have lost writes as well.
    async fn settle(&self, planned: Option<usize>) {
        let cluster = &self.bed.cluster;
        let whole = holds(LONG, async || {
            cluster.is_whole().await && cluster.agrees_on_epochs().await && self.agrees().await
        })
        .await;
        if !whole {
            for member in cluster.members() {
                let nodes = member.node.try_run(&["CLUSTER", "NODES"]).await;
                println!("{}: {nodes:?}\n{}", member.id, member.node.log_tail());
            }
            panic!("the cluster is not whole again after {LONG:?}");
        }
        let mut primaries = [0; SHARDS];
        for (shard, primary) in primaries.iter_mut().enumerate() {
            *primary = self.primary(shard).await;
        }
        let until = self.ms();
        let mut known = self.known.lock().unwrap_or_else(|e| e.into_inner());
        let (from, before) = std::mem::replace(&mut *known, (until, Some(primaries)));
        let before = before.unwrap_or(primaries);
        if (0..SHARDS).any(|s| planned != Some(s) && before[s] != primaries[s]) {
            self.count("failovers that nobody asked for", 1);
            let loss = Loss { slots: vec![0..=u16::MAX], span: Span { from, until } };
            let mut record = self.record();
            record.losses.0.push(loss);
            record.failovers.push(Span { from, until });
        }
    }

    /// Whether all members name the same owners.
    async fn agrees(&self) -> bool {
        let mut first = None;
        for member in self.bed.cluster.members() {
            let Ok(nodes) = member.node.try_run(&["CLUSTER", "NODES"]).await else { return false };
            let owners = owners_in(&nodes.text());
            if *first.get_or_insert_with(|| owners.clone()) != owners {
                return false;
            }
        }
        true
    }

    async fn slots_of(&self, member: usize) -> Vec<RangeInclusive<u16>> {
        let id = &self.bed.cluster.member(member).id;
        let nodes = self.bed.cluster.member(member).node.run(&["CLUSTER", "NODES"]).await.text();
        owners_in(&nodes).remove(id).unwrap_or_default()
    }

    /// A fault of a node, until the cluster is whole again.
    async fn step(&self, step: &Step) {
        self.settle(None).await;
        self.count(name_of_step(step.fault), 1);
        let shard = step.shard;
        let from = self.ms();
        let primary = self.primary(shard).await;
        let replica = members_of(shard).into_iter().find(|m| *m != primary).expect("a replica");
        self.trouble(Some(shard), async {
            match step.fault {
                NodeFault::StopReplica(length) => {
                    self.stop(replica, length).await;
                    self.settle(Some(shard)).await;
                }
                NodeFault::KillReplica(down) => {
                    self.kill(replica, async || tokio::time::sleep(down).await).await;
                    self.settle(Some(shard)).await;
                }
                NodeFault::Failover(Failover::Coordinated) => {
                    self.fail_over(replica, Failover::Coordinated).await;
                    self.settle(Some(shard)).await;
                }
                lossy => self.lose(lossy, primary, replica).await,
            }
        })
        .await;
        if self.primary(shard).await != primary {
            let span = Span { from, until: self.ms() };
            self.record().failovers.push(span);
        }
    }

    /// A fault that may cost acknowledged writes, if the replica takes over.
    async fn lose(&self, fault: NodeFault, primary: usize, replica: usize) {
        let cluster = &self.bed.cluster;
        let slots = self.slots_of(primary).await;
        let from = self.ms();
        self.catch_up(primary, replica).await;
        match fault {
            NodeFault::StopPrimary(length) => self.stop(primary, length).await,
            NodeFault::KillPrimary(down) => {
                self.kill(primary, async || tokio::time::sleep(down).await).await;
            }
            NodeFault::KillUntilFailover => {
                self.kill(primary, async || cluster.wait_primary(replica).await).await;
            }
            NodeFault::Failover(how) => self.fail_over(replica, how).await,
            NodeFault::StopReplica(_) | NodeFault::KillReplica(_) => {}
        }
        self.settle(Some(primary % SHARDS)).await;
        if self.primary(primary % SHARDS).await != primary {
            let span = Span { from, until: self.ms() };
            self.record().losses.0.push(Loss { slots, span });
        }
    }

    /// Waits until the replica has all that the primary has executed by now.
    async fn catch_up(&self, primary: usize, replica: usize) {
        let cluster = &self.bed.cluster;
        let offset = cluster.member(primary).node.stat("master_repl_offset").await;
        wait_for("the replica to follow", LONG, async || {
            cluster.member(replica).node.stat("slave_repl_offset").await >= offset
        })
        .await;
    }

    /// A loaded machine may be too slow for the five seconds Redis gives it: asked again then.
    async fn fail_over(&self, replica: usize, how: Failover) {
        let node = &self.bed.cluster.member(replica).node;
        let command: &[&str] = match how {
            Failover::Coordinated => &["CLUSTER", "FAILOVER"],
            Failover::Force => &["CLUSTER", "FAILOVER", "FORCE"],
            Failover::Takeover => &["CLUSTER", "FAILOVER", "TAKEOVER"],
        };
        let done = holds(LONG, async || {
            let _ = node.try_run(command).await;
            holds(Duration::from_secs(7), async || {
                let role = node.try_run(&["ROLE"]).await;
                role.is_ok_and(|role| role.items()[0] == Value::bulk("master"))
            })
            .await
        })
        .await;
        assert!(done, "no {how:?} failover in {LONG:?}: {}", node.log_tail());
    }

    async fn stop(&self, member: usize, length: Duration) {
        let node = &self.bed.cluster.member(member).node;
        node.pause();
        tokio::time::sleep(length).await;
        node.resume();
    }

    async fn kill(&self, member: usize, meanwhile: impl AsyncFnOnce()) {
        let cluster = &self.bed.cluster;
        cluster.kill(member);
        meanwhile().await;
        cluster.restart(member).await;
    }

    /// One slot after the other, until the phase is over.
    async fn migrate(&self, moves: &[Move], over: watch::Receiver<bool>) {
        let cluster = &self.bed.cluster;
        for Move { slot, hop, keys, pause } in moves.iter().cycle() {
            if *over.borrow() {
                return;
            }
            let turn = self.turn.lock().await;
            let slot = self.slots[slot % self.slots.len()];
            let to = (cluster.owner_of(slot).await % SHARDS + hop) % SHARDS;
            let to = self.primary(to).await;
            let mut migration = cluster.begin_migration(slot, to).await;
            tokio::time::sleep(*pause).await;
            while migration.move_keys(*keys).await > 0 {
                tokio::time::sleep(*pause).await;
            }
            migration.finish().await;
            drop(turn);
            self.count("slot migrations", 1);
            tokio::time::sleep(*pause * 2).await;
        }
    }
}

/// The two members of a shard.
fn members_of(shard: usize) -> [usize; 2] {
    [shard, shard + SHARDS]
}

/// The slots of each primary, by its id, in the words of CLUSTER NODES.
fn owners_in(nodes: &str) -> BTreeMap<String, Vec<RangeInclusive<u16>>> {
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let ranges: Vec<_> = fields.iter().skip(8).filter_map(|field| range(field)).collect();
        (!ranges.is_empty()).then(|| (fields[0].to_owned(), ranges))
    };
    nodes.lines().filter_map(of_line).collect()
}

/// `7` or `7-9`; what is on its way stands in brackets and is none.
fn range(field: &str) -> Option<RangeInclusive<u16>> {
    let (from, to) = field.split_once('-').unwrap_or((field, field));
    Some(from.parse().ok()?..=to.parse().ok()?)
}

fn name_of(fault: WireFault) -> &'static str {
    match fault {
        WireFault::Weather(Weather::Stall(None)) => "stalls",
        WireFault::Weather(Weather::Stall(Some(_))) => "stalls one way",
        WireFault::Weather(Weather::Lost) => "half-open connections",
        WireFault::Weather(Weather::Slow(_)) => "trickles",
        WireFault::Close(Close::Reset) => "resets",
        WireFault::Close(Close::Finish) => "closes",
        WireFault::Close(Close::Half) => "half closes",
        WireFault::Close(Close::Late(_)) => "late closes",
        WireFault::Refuse => "refused dials",
        WireFault::Gone => "networks that were gone",
    }
}

fn name_of_step(fault: NodeFault) -> &'static str {
    match fault {
        NodeFault::StopPrimary(_) => "stopped primaries",
        NodeFault::StopReplica(_) => "stopped replicas",
        NodeFault::KillPrimary(_) => "killed primaries",
        NodeFault::KillUntilFailover => "killed primaries, replica takes over",
        NodeFault::KillReplica(_) => "killed replicas",
        NodeFault::Failover(Failover::Coordinated) => "failovers",
        NodeFault::Failover(Failover::Force) => "failovers by force",
        NodeFault::Failover(Failover::Takeover) => "takeovers",
    }
}
