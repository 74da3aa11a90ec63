//! A run: sessions of all kinds while a plan is carried out, then the checker.
//!
//! After each phase comes a calm: everybody must get on again within [`RECOVERY`], and from then on
//! nothing may fail and no message be missed. `CHAOS_SEED` and `CHAOS_SECONDS` make a run again, or a
//! long one: `make chaos MINUTES=60 SEED=7`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::history::{Op, Span};
use crate::inject::{Injector, Record};
use crate::judge::{self, Queue};
use crate::leaks::Resources;
use crate::plan::{Plan, SHARDS};
use crate::roster::{self, Left};
use crate::sessions::{Fact, lists, ms};
use crate::support::bed::Bed;
use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::faults::OnExpiry;
use crate::support::metadata::FakeMetadata;
use crate::support::proxy::{Proxy, ProxyOptions};
use crate::support::resp::Value;
use crate::support::slots::slot_of;
use crate::support::wait::holds;
use crate::talk::{Fact as Spoken, Failure, Run};

/// How long a command may take.
pub const OP_TIMEOUT: Duration = Duration::from_secs(4);
/// After the last fault of a phase everybody gets on again within this time.
const RECOVERY: Duration = Duration::from_secs(15);
/// How long a calm is watched.
const CALM: Duration = Duration::from_secs(3);
/// A message of the calm's last moments may be on its way when faults begin again.
const MARGIN: u32 = 1_000;
/// A healthy shard answers within this time (ms), far below [`OP_TIMEOUT`].
const HEALTHY: u32 = 2_000;
/// A shard whose fault is over counts as healthy after this time (ms).
const CONVALESCENCE: u32 = 3_000;
/// The machine stood still when its clock made such a leap (ms).
const LEAP: u32 = 300;

/// How a run goes.
pub struct Settings {
    pub plan: Plan,
    /// What the proxy is told to break.
    pub sabotage: Option<&'static str>,
}

/// What came of it.
pub struct Verdict {
    pub objections: Vec<String>,
}

/// See the module header.
pub async fn run(settings: Settings) -> Verdict {
    let Settings { plan, sabotage } = settings;
    let seed = plan.seed;
    println!("CHAOS_SEED={seed} makes these faults again: {} phases", plan.phases.len());
    let bed = bed(seed, sabotage).await;
    let before = Resources::of(&bed).await;
    let run = Run::new(bed.proxy.addr(), stale(seed));
    let injector = Injector::new(&bed, &run, roster::slots());
    let pulse = Pulse::start(&run);
    let (mut sessions, fleeting) = roster::start(&run);
    let mut objections = Vec::new();
    let mut calms = Vec::new();
    let mut memory = Vec::new();
    let mut recoveries = Vec::new();
    for (number, phase) in plan.phases.iter().enumerate() {
        println!("at {} ms: {}. {phase}", ms(&run), number + 1);
        injector.carry_out(phase).await;
        let ended = Instant::now();
        if let Err(stuck) = recovered(&run).await {
            objections.push(format!("recovery: after phase {}: {stuck}", number + 1));
            break;
        }
        recoveries.push(ended.elapsed());
        let from = ms(&run);
        tokio::time::sleep(CALM).await;
        calms.push(Span { from, until: ms(&run) });
        memory.push(bed.proxy.memory());
    }
    let record = injector.into_record().await;
    run.stop();
    let left = join(&mut sessions, &mut objections).await;
    end_fleeting(fleeting, &mut objections).await;
    let pulse = pulse.stop().await;
    let history = History { left, calms, record, pulse, stale: stale(seed) };
    objections.extend(history.judge(&bed).await);
    objections.extend(before.judge(&bed, &memory).await);
    history.summary(seed, run.done(), &recoveries, &memory);
    Verdict { objections }
}

/// Whether replicas answer reads.
fn stale(seed: u64) -> bool {
    seed.is_multiple_of(5)
}

/// A cluster with replicas that outlives kills, behind armed networks, and a proxy before it.
async fn bed(seed: u64, sabotage: Option<&str>) -> Bed {
    let metadata = FakeMetadata::start(Duration::from_secs(8)).await;
    // What was acknowledged is in the file before the reply leaves: a killed process loses nothing.
    let server_args = [
        "--appendonly",
        "yes",
        "--appendfsync",
        "no",
        "--cluster-require-full-coverage",
        "no",
        "--repl-timeout",
        "10",
    ];
    let options = ClusterOptions {
        shards: SHARDS,
        replicas: 1,
        server_args: server_args.map(str::to_owned).to_vec(),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options, metadata.tokens()).await;
    let expiry = [OnExpiry::NoAuth, OnExpiry::Nothing, OnExpiry::Close][(seed % 3) as usize];
    // Connections that are replaced all the time, or never: then nothing but the proxy's care ends them.
    let young = expiry == OnExpiry::Close || (seed >> 2).is_multiple_of(2);
    let age = if young { "--max-connection-age=4s" } else { "--max-connection-age=0" };
    for front in cluster.fronts() {
        front.network().arm();
        front.faults().set_auth_ttl(Some((Duration::from_secs(7), expiry)));
        // Where connections are retired in time, that must be enough.
        front.faults().set_first_auth_counts(young);
    }
    let threads = (1 + seed % 2).to_string();
    // The default waits up to half a minute, but never long after a short fault.
    let backoff = if seed % 4 < 2 { "--auth-backoff-max=1s" } else { "--auth-backoff-min=100ms" };
    let args = [
        "--threads",
        &threads,
        age,
        if stale(seed) { "--read-from=prefer-replica" } else { "--read-from=primary" },
        backoff,
        "--connect-timeout=2s",
        "--dial-rate-limit=200",
        "--topology-refresh=10s",
    ];
    let mut options = ProxyOptions::new(cluster.seeds())
        .metadata(metadata.host())
        .op_timeout(OP_TIMEOUT)
        .args(args);
    if let Some(what) = sabotage {
        options = options.env("MEMORYSTORE_PROXY_SABOTAGE", what);
    }
    println!("an authentication that ends: {expiry:?}; {args:?}");
    let proxy = Proxy::start(options).await;
    Bed { proxy, cluster, metadata }
}

/// Waits until every session has got some good replies or messages more.
async fn recovered(run: &Run) -> Result<(), String> {
    const SOME: u64 = 4;
    let before = run.progress();
    let mut stuck = Vec::new();
    let recovered = holds(RECOVERY, async || {
        let now = run.progress();
        let behind = before.iter().zip(&now).filter(|(b, n)| n.1 < b.1 + SOME);
        stuck = behind.map(|(_, n)| n.0.clone()).collect();
        stuck.is_empty()
    })
    .await;
    if recovered { Ok(()) } else { Err(format!("no progress within {RECOVERY:?}: {stuck:?}")) }
}

async fn join(sessions: &mut JoinSet<Left>, objections: &mut Vec<String>) -> Vec<Left> {
    let mut all = Vec::new();
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match tokio::time::timeout_at(end, sessions.join_next()).await {
            Ok(Some(Ok(left))) => all.push(left),
            Ok(Some(Err(panic))) => objections.push(format!("a session failed: {panic}")),
            Ok(None) => return all,
            Err(_) => {
                objections.push(format!("recovery: {} sessions do not end", sessions.len()));
                sessions.abort_all();
                return all;
            }
        }
    }
}

async fn end_fleeting(mut fleeting: JoinSet<()>, objections: &mut Vec<String>) {
    while let Some(ended) = fleeting.join_next().await {
        objections.extend(ended.err().map(|e| format!("a fleeting client failed: {e}")));
    }
}

/// When this process itself, and so perhaps the whole machine, stood still.
struct Pulse {
    task: JoinHandle<Vec<Span>>,
}

impl Pulse {
    fn start(run: &Arc<Run>) -> Self {
        let run = run.clone();
        let task = tokio::spawn(async move {
            let mut leaps = Vec::new();
            let mut last = ms(&run);
            while !run.stopped() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let now = ms(&run);
                if now - last > LEAP {
                    leaps.push(Span { from: last, until: now });
                }
                last = now;
            }
            leaps
        });
        Self { task }
    }

    async fn stop(self) -> Vec<Span> {
        self.task.await.unwrap_or_default()
    }
}

/// All that is known of a run.
struct History {
    left: Vec<Left>,
    calms: Vec<Span>,
    record: Record,
    pulse: Vec<Span>,
    stale: bool,
}

impl History {
    async fn judge(&self, bed: &Bed) -> Vec<String> {
        let mut objections = Vec::new();
        for Left { report, .. } in &self.left {
            objections.extend(report.objections.iter().cloned());
        }
        objections.extend(self.judge_errors());
        objections.extend(self.judge_hearing());
        objections.extend(self.judge_facts(bed).await);
        objections
    }

    /// While all is well nothing fails, and what fails says so in the proxy's words or a server's.
    fn judge_errors(&self) -> Vec<String> {
        let mut objections = Vec::new();
        for Left { report, .. } in &self.left {
            for Failure { at, waited, text, .. } in &report.failures {
                let at = millis(*at);
                let calm = self.calms.iter().any(|c| (c.from..=c.until).contains(&at));
                let known = KNOWN.iter().any(|words| text.contains(words));
                if calm || !known {
                    let why = if calm { "in calm times" } else { "in unknown words" };
                    objections.push(format!(
                        "errors: {} failed {why} at {at} ms after {waited:?}: {text}",
                        report.name
                    ));
                }
            }
        }
        objections.truncate(20);
        objections
    }

    fn judge_hearing(&self) -> Vec<String> {
        let facts = || self.left.iter().flat_map(|l| &l.report.facts);
        let published: BTreeMap<&str, Vec<_>> = facts()
            .filter_map(|fact| match fact {
                Spoken::Published { channel, messages } => Some((
                    channel.as_str(),
                    messages.iter().map(|m| (millis(m.0), m.1, m.2)).collect(),
                )),
                _ => None,
            })
            .collect();
        let until = |c: &Span| Span { until: c.until.saturating_sub(MARGIN), ..*c };
        let calm: Vec<Span> = self.calms.iter().map(until).collect();
        let mut objections = Vec::new();
        for fact in facts() {
            let Spoken::Heard { channel, messages } = fact else { continue };
            let heard: Vec<_> = messages.iter().map(|m| (millis(m.0), m.1)).collect();
            let twice =
                if channel.starts_with("shard:") { &self.record.failovers[..] } else { &[] };
            let wrong = judge::messages(&published[channel.as_str()], &heard, &calm, twice);
            objections.extend(wrong.into_iter().map(|why| format!("messages: {channel}: {why}")));
        }
        objections
    }

    async fn judge_facts(&self, bed: &Bed) -> Vec<String> {
        let mut objections = Vec::new();
        let mut told: BTreeMap<&str, Vec<Op>> = BTreeMap::new();
        let mut queues: BTreeMap<&str, Queue> = BTreeMap::new();
        let mut judged = 0;
        for fact in self.left.iter().flat_map(|l| &l.facts) {
            let (key, wrong) = match fact {
                Fact::Counter { key, ops } => {
                    let end = number(bed, key).await;
                    (key, judge::counter(ops, &self.losses(key), Some(end)))
                }
                Fact::Register { key, accesses } => {
                    (key, judge::register(accesses, &self.losses(key), self.stale))
                }
                Fact::Log { key, pushes, list } => {
                    (key, judge::log(pushes, &self.losses(key), list))
                }
                Fact::Told { key, ops } => {
                    told.entry(key).or_default().extend(ops);
                    continue;
                }
                Fact::Pushed { queue, ops } => {
                    queues.entry(queue).or_default().pushed.extend(ops);
                    continue;
                }
                Fact::Taken { queue, ops } => {
                    queues.entry(queue).or_default().taken.extend(ops);
                    continue;
                }
                Fact::Moved { queue, ops } => {
                    queues.entry(queue).or_default().moved.extend(ops);
                    continue;
                }
                Fact::Probe { shard, ops } => {
                    let (count, wrong) = judge::healthy(
                        *shard,
                        ops,
                        &self.record.troubles,
                        &self.pulse,
                        HEALTHY,
                        CONVALESCENCE,
                    );
                    judged += count;
                    objections.extend(wrong.into_iter().take(5).map(|w| format!("latency: {w}")));
                    continue;
                }
            };
            objections.extend(wrong.into_iter().take(5).map(|why| format!("writes: {key} {why}")));
        }
        for (key, ops) in told {
            let wrong = judge::told(&ops, &self.losses(key));
            objections.extend(wrong.into_iter().map(|why| format!("writes: {key}: {why}")));
        }
        for (key, moves) in roster::queues() {
            let mut queue = queues.remove(key.as_str()).unwrap_or_default();
            let [first, last] = lists(&key, moves);
            queue.left = list(bed, &last).await;
            if moves {
                queue.left.extend(list(bed, &first).await);
            }
            let wrong = queue.objections(&self.losses(&key));
            objections.extend(wrong.into_iter().map(|why| format!("queues: {key}: {why}")));
        }
        println!("{judged} commands to healthy shards judged while another shard was ill");
        objections
    }

    fn losses(&self, key: &str) -> Vec<Span> {
        self.record.losses.of(slot_of(key.as_bytes()))
    }

    fn summary(&self, seed: u64, done: u64, recoveries: &[Duration], memory: &[u64]) {
        let Record { losses, faults, failovers, .. } = &self.record;
        println!("--- CHAOS_SEED={seed}: {} phases", recoveries.len());
        for (fault, times) in faults {
            println!("{times:>6} {fault}");
        }
        let failovers = failovers.len();
        println!(
            "{failovers:>6} failovers in all, {} of them may have lost writes",
            losses.0.len()
        );
        let failures = || self.left.iter().flat_map(|l| &l.report.failures);
        let unknown = failures().filter(|f| f.unknown).count();
        let checked: usize = self.left.iter().flat_map(|l| &l.facts).map(Fact::len).sum();
        println!(
            "{done} commands answered, {checked} operations checked, {} errors, {unknown} of them \
             of unknown outcome",
            failures().count()
        );
        let slowest = recoveries.iter().max().copied().unwrap_or_default();
        println!("all sessions got on again at most {slowest:.1?} after a phase");
        let mib: Vec<String> = memory.iter().map(|m| format!("{}", m >> 20)).collect();
        println!("resident MiB after each phase: {}", mib.join(" "));
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// What errors may say.
const KNOWN: &[&str] = &[
    "may have been executed",
    "could not be reached within",
    "no node for this slot was found within",
    "no reply from",
    "refused the command for",
    "was still loading its dataset after",
    "the nodes do not agree who owns the slot",
    "the subscription could not be made within",
];

async fn ask(bed: &Bed, key: &str, command: &[&str]) -> Value {
    let owner = bed.cluster.owner_of(slot_of(key.as_bytes())).await;
    bed.cluster.member(owner).node.run(command).await
}

async fn number(bed: &Bed, key: &str) -> i64 {
    match ask(bed, key, &["GET", key]).await {
        Value::Null => 0,
        value => value.text().parse().expect("a counter"),
    }
}

async fn list(bed: &Bed, key: &str) -> Vec<i64> {
    let all = ask(bed, key, &["LRANGE", key, "0", "-1"]).await;
    all.items().iter().map(|item| item.text().parse().expect("an element")).collect()
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} objections", self.objections.len())?;
        self.objections.iter().take(60).try_for_each(|objection| writeln!(f, "{objection}"))
    }
}

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

/// Faults for about a minute, or as long as `CHAOS_SECONDS` says.
#[tokio::test]
async fn holds_what_is_promised() {
    let seed = setting("CHAOS_SEED", fastrand::u64(..1 << 32));
    let length = Duration::from_secs(setting("CHAOS_SECONDS", 36));
    let plan = Plan::new(seed, length, OP_TIMEOUT);
    let verdict = run(Settings { plan, sabotage: None }).await;
    assert!(verdict.objections.is_empty(), "CHAOS_SEED={seed} shows {verdict}");
}
