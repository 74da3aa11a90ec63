//! The load: many sessions of all kinds while authentications and tokens end every few seconds and
//! a seeded schedule spoils IAM and the token source; then the checker.
//!
//! `LIFECYCLE_SEED`, `LIFECYCLE_SECONDS` and `LIFECYCLE_SESSIONS` make a run again, or a long one:
//! `make lifecycle MINUTES=10`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::check::{Channel, Hearing, Queue, Tally, densest, moved, told};
use super::plan::{Plan, Roughness};
use super::queues::{GROUP, Kind, moved as moved_key};
use super::talk::{Fact, Failure, Report, Run};
use super::teams::{Member, crowd, queues_of, start};
use crate::support::bed::{Bed, BedOptions};
use crate::support::client::Client;
use crate::support::cluster::ClusterOptions;
use crate::support::faults::OnExpiry;
use crate::support::front::IamFront;
use crate::support::front_events::{Event, What};
use crate::support::resp::Value;
use crate::support::slots::{shard_range, slot_of};

const TOKEN: Duration = Duration::from_secs(2);
const AUTHENTICATION: Duration = Duration::from_secs(3);
/// Without faults, before the end: time for what must recover.
const CALM: Duration = Duration::from_secs(3);

/// One way a run can go.
struct Variant {
    /// What the fronts do at the end of an authentication.
    expiry: OnExpiry,
    /// `--max-connection-age`.
    age: &'static str,
    roughness: Roughness,
    replicas: usize,
    /// Whether a command may end as "may have been executed" when a front has cut a connection
    /// with commands under way.
    unknown_if_cut: bool,
}

#[tokio::test]
async fn close() {
    run(Variant {
        expiry: OnExpiry::Close,
        age: "2s",
        roughness: Roughness::Gentle,
        replicas: 0,
        unknown_if_cut: false,
    })
    .await;
}

#[tokio::test]
async fn noauth() {
    run(Variant {
        expiry: OnExpiry::NoAuth,
        age: "2s",
        roughness: Roughness::Overlapping,
        replicas: 0,
        unknown_if_cut: false,
    })
    .await;
}

/// Replicas answer reads.
#[tokio::test]
async fn nothing() {
    run(Variant {
        expiry: OnExpiry::Nothing,
        age: "2s",
        roughness: Roughness::Overlapping,
        replicas: 1,
        unknown_if_cut: false,
    })
    .await;
}

/// Connections are never retired: renewal in band alone carries them.
#[tokio::test]
async fn noauth_renewed_in_band_alone() {
    run(Variant {
        expiry: OnExpiry::NoAuth,
        age: "0",
        roughness: Roughness::Overlapping,
        replicas: 0,
        unknown_if_cut: false,
    })
    .await;
}

#[tokio::test]
async fn nothing_renewed_in_band_alone() {
    run(Variant {
        expiry: OnExpiry::Nothing,
        age: "0",
        roughness: Roughness::Overlapping,
        replicas: 0,
        unknown_if_cut: false,
    })
    .await;
}

/// Connections in use are cut by expiries and during their AUTH.
#[tokio::test]
async fn cut_at_any_moment() {
    run(Variant {
        expiry: OnExpiry::Close,
        age: "0",
        roughness: Roughness::Cutting,
        replicas: 0,
        unknown_if_cut: true,
    })
    .await;
}

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

async fn run(variant: Variant) {
    let seed = setting("LIFECYCLE_SEED", fastrand::u64(..1 << 32));
    let length = Duration::from_secs(setting("LIFECYCLE_SECONDS", 6));
    let members = crowd(setting("LIFECYCLE_SESSIONS", 24) as usize);
    let cluster = ClusterOptions { replicas: variant.replicas, ..ClusterOptions::default() };
    let fronts = cluster.shards * (1 + variant.replicas);
    let plan = Plan::new(seed, length, fronts, variant.roughness);
    println!("{} sessions for {length:?}; {plan}", members.len());
    let limit = 50.max(members.len() * 3 / 2);
    let args = [
        "--max-connection-age",
        variant.age,
        "--dial-rate-limit",
        &limit.to_string(),
        "--auth-backoff-min=50ms",
        "--auth-backoff-max=250ms",
        "--connect-timeout=500ms",
        if variant.replicas > 0 { "--read-from=prefer-replica" } else { "--read-from=primary" },
    ];
    let bed = Bed::with(BedOptions {
        cluster,
        token_lifetime: Some(TOKEN),
        op_timeout: None,
        args: args.map(str::to_owned).to_vec(),
    })
    .await;
    for front in bed.cluster.fronts() {
        front.faults().set_auth_ttl(Some((AUTHENTICATION, variant.expiry)));
        // Where connections are retired, that must be enough.
        front.faults().set_first_auth_counts(variant.age != "0");
    }
    let run = Run::new(bed.proxy.addr(), variant.replicas > 0);
    let mut sessions = start(&run, &members);
    plan.carry_out(&bed, run.start).await;
    tokio::time::sleep_until(run.start + length).await;
    let calm_from = run.now();
    tokio::time::sleep(CALM).await;
    run.stop();
    let mut reports = Vec::new();
    let mut objections = Vec::new();
    while let Some(ended) = sessions.join_next().await {
        match ended {
            Ok(report) => reports.push(report),
            Err(panic) => objections.push(format!("a session failed: {panic}")),
        }
    }
    let events: Vec<Event> = bed.cluster.fronts().flat_map(|f| f.events()).collect();
    let cuts = Cuts::of(&bed, run.start);
    objections.extend(judge_errors(&reports, variant.unknown_if_cut.then_some(&cuts)));
    objections.extend(judge_facts(&bed, &members, &mut reports, calm_from, &variant).await);
    objections.extend(judge_rates(&events, run.start, limit));
    for front in bed.cluster.fronts() {
        // What the proxy itself asks with its AUTH, and what replicas say to their primaries.
        let of_handshake = ["CLIENT ID", "READONLY", "PING"];
        let early = front.early();
        let early: Vec<_> = early.iter().filter(|c| !of_handshake.contains(&c.as_str())).collect();
        if !early.is_empty() {
            objections.push(format!("{} got {early:?} before AUTH", front.addr()));
        }
    }
    let done = run.done();
    if done < 100 * length.as_secs() {
        objections.push(format!("only {done} commands in {length:?}"));
    }
    summary(&bed, &reports, &events, done);
    assert!(
        objections.is_empty(),
        "LIFECYCLE_SEED={seed} shows {} objections:\n{}",
        objections.len(),
        objections[..objections.len().min(60)].join("\n")
    );
}

fn summary(bed: &Bed, reports: &[Report], events: &[Event], done: u64) {
    let mut auths = [0; 4];
    for event in events {
        if let What::Auth { first, ok } = event.what {
            auths[usize::from(first) + 2 * usize::from(ok)] += 1;
        }
    }
    let [renewals_refused, firsts_refused, renewals, firsts] = auths;
    let rejected: u64 = bed.cluster.fronts().map(|f| f.counts().rejected).sum();
    println!(
        "AUTHs: {firsts} first ({firsts_refused} refused), {renewals} repeated ({renewals_refused} \
         refused); {rejected} commands met NOAUTH"
    );
    let slowest = reports.iter().max_by_key(|r| r.slowest);
    let cuts = events.iter().filter(|e| e.is_cut()).count();
    let unknown = reports.iter().flat_map(|r| &r.failures).filter(|f| f.unknown).count();
    let permits = events.iter().filter(|e| e.is_permit()).count();
    println!(
        "{done} commands answered, {permits} dials and renewals, {cuts} cuts by fronts, {unknown} unknown"
    );
    if let Some(report) = slowest {
        println!("slowest reply: {:?} for {}", report.slowest, report.name);
    }
}

/// When each front cut a connection that was in use, or stopped serving it.
struct Cuts(Vec<(String, Vec<Duration>)>);

impl Cuts {
    fn of(bed: &Bed, start: Instant) -> Self {
        let of_front = |front: &IamFront| {
            let events = front.events();
            let used: BTreeSet<u64> = events
                .iter()
                .filter(|e| matches!(e.what, What::Auth { ok: true, .. }))
                .map(|e| e.connection)
                .collect();
            let cuts = events
                .iter()
                .filter(|e| e.is_cut() && used.contains(&e.connection))
                .map(|e| e.at.saturating_duration_since(start));
            (front.addr().to_string(), cuts.collect())
        };
        Self(bed.cluster.fronts().map(of_front).collect())
    }

    /// Whether a cut explains that nobody knows what became of a command. A stalled connection
    /// counts as cut when the proxy has given it up.
    fn explain(&self, failure: &Failure) -> bool {
        let leeway = Duration::from_millis(500);
        let sent = failure.at.saturating_sub(failure.waited);
        let window = sent.saturating_sub(leeway)..=failure.at + leeway;
        let on = self.0.iter().filter(|(front, _)| failure.text.contains(front.as_str()));
        on.flat_map(|(_, cuts)| cuts).any(|cut| window.contains(cut))
    }
}

/// Errors that reached clients, by their words; only cuts excuse unknown outcomes, and only where
/// they may happen.
fn judge_errors(reports: &[Report], excuse: Option<&Cuts>) -> Vec<String> {
    let mut by_text: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let mut objections = Vec::new();
    for report in reports {
        objections.extend(report.objections.iter().cloned());
        let excused = |f: &&Failure| f.unknown && excuse.is_some_and(|cuts| cuts.explain(f));
        for failure in report.failures.iter().filter(|f| !excused(f)) {
            // Ports and times differ from run to run.
            let text: String =
                failure.text.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect();
            let entry = by_text.entry(text).or_insert_with(|| {
                let Failure { at, waited, text, .. } = failure;
                (0, format!("first for {} at {at:.3?} after {waited:.3?}: {text}", report.name))
            });
            entry.0 += 1;
        }
    }
    let tell = |(count, first)| format!("{count} errors reached clients, {first}");
    objections.extend(by_text.into_values().map(tell));
    objections
}

/// Counters, queues and channels.
async fn judge_facts(
    bed: &Bed,
    members: &[Member],
    reports: &mut [Report],
    calm_from: Duration,
    variant: &Variant,
) -> Vec<String> {
    let mut objections = Vec::new();
    let mut store = Store::new(bed).await;
    let mut shared: BTreeMap<String, (Tally, Vec<i64>)> = BTreeMap::new();
    let mut queues: BTreeMap<String, Queue> = BTreeMap::new();
    let mut channels: BTreeMap<String, Channel> = BTreeMap::new();
    let mut heard = Vec::new();
    for report in reports {
        for fact in std::mem::take(&mut report.facts) {
            match fact {
                Fact::Counter { key, sequence } => {
                    let end = sequence.end(store.number(&key).await);
                    let total = sequence.tally().end(store.number(&key).await);
                    let wrong = [end.err(), total.err()].into_iter().flatten();
                    objections.extend(wrong.map(|why| format!("{key} {why}")));
                }
                Fact::Shared { key, tally, told } => {
                    let entry = shared.entry(key).or_default();
                    entry.0.add(tally);
                    entry.1.extend(told);
                }
                Fact::Pushed { queue, elements } => {
                    queues.entry(queue).or_default().pushed = elements;
                }
                Fact::Taken { queue, elements, unknown } => {
                    let queue = queues.entry(queue).or_default();
                    queue.taken.push(elements);
                    queue.unknown_takes += unknown;
                }
                Fact::Published { channel, messages } => {
                    let channel = channels.entry(channel).or_default();
                    channel.published = messages;
                    channel.calm_from = calm_from;
                }
                Fact::Heard { channel, messages } => {
                    heard.push((report.name.clone(), channel, messages));
                }
            }
        }
    }
    for (key, (tally, numbers)) in shared {
        let end = tally.end(store.number(&key).await).err();
        objections.extend(end.into_iter().chain(told(numbers)).map(|why| format!("{key} {why}")));
    }
    for (kind, key) in queues_of(members) {
        let mut queue = queues.remove(&key).unwrap_or_default();
        let mut wrong = Vec::new();
        match kind {
            Kind::List => queue.left = store.list(&key).await,
            Kind::Move => {
                let there = store.list(&moved_key(&key)).await;
                wrong = moved(&queue.taken.concat(), &there, queue.unknown_takes);
                queue.taken = vec![there];
                queue.unknown_takes = 0;
                queue.left = store.list(&key).await;
            }
            Kind::Stream => queue.left = store.undelivered(&key).await,
        }
        wrong.extend(queue.objections());
        objections.extend(wrong.into_iter().map(|why| format!("queue {key}: {why}")));
    }
    let limits = Hearing {
        longest_silence: Duration::from_secs(5),
        fresh_within: CALM,
        // Where nothing in use was cut nothing may be missing.
        gaps: variant.unknown_if_cut,
    };
    let mut missed = 0;
    for (name, channel, messages) in heard {
        let channel = channels.entry(channel).or_default();
        missed += channel.missed(&messages).len();
        let wrong = channel.objections(&messages, limits);
        objections.extend(wrong.into_iter().map(|why| format!("{name}: {why}")));
    }
    println!("{missed} messages missed by subscribers");
    objections
}

/// Dials and AUTHs of all fronts together against the token bucket: a second's worth at once, and
/// as many again in every second. The fronts see them a little later than the bucket, and the
/// connection that reads the slot map is no part of a wave: a tenth more.
fn judge_rates(events: &[Event], start: Instant, limit: usize) -> Vec<String> {
    let mut times: Vec<_> = events
        .iter()
        .filter(|event| event.is_permit())
        .map(|event| event.at.saturating_duration_since(start))
        .filter(|at| !at.is_zero())
        .collect();
    times.sort_unstable();
    let most = densest(&times, Duration::from_secs(1));
    println!("at most {most} dials and renewals in a second, {limit} allowed");
    if most <= 2 * limit + limit / 10 {
        return Vec::new();
    }
    vec![format!("{most} dials and renewals within a second, with --dial-rate-limit={limit}")]
}

/// The nodes themselves, past proxy and fronts.
struct Store {
    nodes: Vec<Client>,
}

impl Store {
    async fn new(bed: &Bed) -> Self {
        let mut nodes = Vec::new();
        for shard in 0..bed.cluster.shards() {
            nodes.push(bed.cluster.admin(shard).await);
        }
        Self { nodes }
    }

    /// Asks the node that owns the key.
    async fn ask(&mut self, key: &str, command: &[&str]) -> Value {
        let shards = self.nodes.len();
        let slot = slot_of(key.as_bytes());
        let owner = (0..shards).find(|&shard| shard_range(shard, shards).contains(&slot));
        self.nodes[owner.expect("every slot has an owner")].cmd(command).await
    }

    async fn number(&mut self, key: &str) -> i64 {
        match self.ask(key, &["GET", key]).await {
            Value::Null => 0,
            value => value.text().parse().expect("a counter"),
        }
    }

    async fn list(&mut self, key: &str) -> Vec<u64> {
        let all = self.ask(key, &["LRANGE", key, "0", "-1"]).await;
        all.items().iter().map(|item| item.text().parse().expect("an element")).collect()
    }

    /// Elements of a stream that its group never gave to anybody.
    async fn undelivered(&mut self, key: &str) -> Vec<u64> {
        let groups = self.ask(key, &["XINFO", "GROUPS", key]).await;
        let group = groups.items().iter().find(|g| g.field("name") == Some(Value::bulk(GROUP)));
        let last = group.and_then(|g| g.field("last-delivered-id")).expect("the group").text();
        let rest = self.ask(key, &["XRANGE", key, &format!("({last}"), "+"]).await;
        let element = |entry: &Value| entry.items()[1].items()[1].text().parse().expect("a number");
        rest.items().iter().map(element).collect()
    }
}
