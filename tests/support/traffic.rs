//! Clients that keep a proxy busy while a test does something to the cluster, and that notice every
//! error, every reply out of order and every write that ran twice or not at all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::client::{Client, Proto};
use super::resp::Value;
use super::wait::wait_for;

/// What one client saw.
#[derive(Debug, Default)]
pub struct Report {
    /// Commands answered.
    pub done: u64,
    /// Error replies, in words.
    pub errors: Vec<String>,
    /// The longest wait for one round of replies.
    pub slowest: Duration,
}

/// Traffic under way; [`Traffic::stop`] ends it. Panics of its clients surface there.
#[derive(Debug)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: JoinSet<Report>,
}

impl Traffic {
    /// One client per list of keys. Each pipelines, over and over, SET, GET and INCR on its own keys
    /// and checks every reply; a key belongs to one client only.
    pub fn start(addr: SocketAddr, proto: Proto, keys: Vec<Vec<String>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for keys in keys {
            tasks.spawn(drive(addr, proto, keys, stop.clone(), done.clone()));
        }
        Self { stop, done, tasks }
    }

    /// Waits until `more` further commands were answered, i.e. until whatever the test did before
    /// has met traffic.
    pub async fn progress(&self, more: u64) {
        let target = self.done.load(Ordering::Relaxed) + more;
        wait_for("traffic to go on", Duration::from_secs(30), async || {
            self.done.load(Ordering::Relaxed) >= target || self.tasks.is_empty()
        })
        .await;
    }

    /// Lets it run for `time`.
    pub async fn run_for(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Stops all clients and adds up what they saw.
    pub async fn stop(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = Report::default();
        while let Some(ended) = self.tasks.join_next().await {
            let report = ended.expect("a traffic client failed");
            total.done += report.done;
            total.errors.extend(report.errors);
            total.slowest = total.slowest.max(report.slowest);
        }
        total
    }

    /// Stops and insists that no client saw an error.
    pub async fn stop_clean(self) -> Report {
        let report = self.stop().await;
        assert!(
            report.errors.is_empty(),
            "{} errors reached clients, e.g. {:?}",
            report.errors.len(),
            &report.errors[..report.errors.len().min(5)]
        );
        assert!(report.done > 0, "no traffic at all");
        report
    }
}

/// The state of one counter key as its only writer knows it.
struct Counter {
    key: String,
    value: i64,
    /// A failed INCR may have run or not, after which the exact value is unknown once.
    unsure: i64,
}

async fn drive(
    addr: SocketAddr,
    proto: Proto,
    keys: Vec<String>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) -> Report {
    let mut report = Report::default();
    let mut client = Client::connect_proto(addr, proto).await;
    let mut counters: Vec<_> = keys
        .iter()
        .map(|key| Counter { key: format!("{key}:count"), value: 0, unsure: 0 })
        .collect();
    let mut round = 0u64;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let value = format!("round {round}");
        let commands: Vec<_> = keys
            .iter()
            .zip(&counters)
            .flat_map(|(key, counter)| {
                [cmd!["SET", key, &value], cmd!["GET", key], cmd!["INCR", &counter.key]]
            })
            .collect();
        let start = Instant::now();
        let replies = client.pipeline(&commands).await;
        report.slowest = report.slowest.max(start.elapsed());
        for (replies, counter) in replies.chunks(3).zip(&mut counters) {
            let [set, get, incr] = replies else { unreachable!("three replies a key") };
            match set {
                Value::Error(text) => report.errors.push(text.clone()),
                set => assert_eq!(*set, Value::ok()),
            }
            match get {
                Value::Error(text) => report.errors.push(text.clone()),
                get if *set == Value::ok() => {
                    assert_eq!(*get, Value::bulk(&value), "a read passed a write")
                }
                _ => {}
            }
            match incr {
                Value::Error(text) => {
                    report.errors.push(text.clone());
                    counter.unsure += 1;
                }
                incr => {
                    let got = incr.int();
                    let least = counter.value + 1;
                    assert!(
                        (least..=least + counter.unsure).contains(&got),
                        "{} is {got}, expected {least} (+{} unsure): a write ran twice or was lost",
                        counter.key,
                        counter.unsure
                    );
                    counter.value = got;
                    counter.unsure = 0;
                }
            }
        }
        report.done += replies.len() as u64;
        done.fetch_add(replies.len() as u64, Ordering::Relaxed);
    }
    report
}

/// `clients` lists of `each` keys, spread over all slots, no key twice.
pub fn spread_keys(clients: usize, each: usize) -> Vec<Vec<String>> {
    (0..clients).map(|c| (0..each).map(|k| format!("client{c}:key{k}")).collect()).collect()
}
