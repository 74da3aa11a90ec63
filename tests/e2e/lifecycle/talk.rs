//! One session of the load: a client that times every exchange, counts every error and never
//! panics, and the facts it hands to the checker.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::check::{Fate, Heard, Sequence, Tally, fate};
use crate::support::client::{Client, Proto};
use crate::support::resp::{self, Value};

/// What all sessions of a run share.
#[derive(Debug)]
pub struct Run {
    /// The proxy.
    pub addr: SocketAddr,
    /// Whether reads may miss what was just written, as replicas answer them.
    pub stale_reads: bool,
    /// Where the run's clock begins.
    pub start: Instant,
    stop: AtomicBool,
    done: AtomicU64,
    numbers: Mutex<HashMap<String, Arc<AtomicI64>>>,
    progress: Mutex<Vec<(String, Arc<AtomicU64>)>>,
}

impl Run {
    /// A run that begins now.
    pub fn new(addr: SocketAddr, stale_reads: bool) -> Arc<Self> {
        Arc::new(Self {
            addr,
            stale_reads,
            start: Instant::now(),
            stop: AtomicBool::new(false),
            done: AtomicU64::new(0),
            numbers: Mutex::default(),
            progress: Mutex::default(),
        })
    }

    /// Sessions end what they are doing.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether they shall.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Commands answered so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// A number that sessions of a team share, 0 at first.
    pub fn number(&self, name: &str) -> Arc<AtomicI64> {
        self.lock().entry(name.to_owned()).or_default().clone()
    }

    /// How many good replies and messages each session has got so far.
    #[allow(dead_code, reason = "asked by tests/chaos")]
    pub fn progress(&self) -> Vec<(String, u64)> {
        let all = self.progress.lock().unwrap_or_else(|e| e.into_inner());
        all.iter().map(|(name, n)| (name.clone(), n.load(Ordering::Relaxed))).collect()
    }

    fn tracked(&self, name: &str) -> Arc<AtomicU64> {
        let progress = Arc::<AtomicU64>::default();
        let mut all = self.progress.lock().unwrap_or_else(|e| e.into_inner());
        all.push((name.to_owned(), progress.clone()));
        progress
    }

    /// Time since the start.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<AtomicI64>>> {
        self.numbers.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Something a session knows at its end.
#[derive(Debug)]
pub enum Fact {
    /// A counter it alone counts up.
    Counter { key: String, sequence: Sequence },
    /// What it added to a counter of many, and the numbers it was told.
    Shared { key: String, tally: Tally, told: Vec<i64> },
    /// What it pushed.
    Pushed { queue: String, elements: Vec<(u64, Fate)> },
    /// What it took.
    Taken { queue: String, elements: Vec<u64>, unknown: u64 },
    /// What it published.
    Published { channel: String, messages: Vec<(Duration, u64, Fate)> },
    /// What it heard.
    Heard { channel: String, messages: Vec<Heard> },
}

/// An error reply.
#[derive(Debug)]
pub struct Failure {
    /// When it came, on the run's clock.
    pub at: Duration,
    /// How long after the command was sent.
    pub waited: Duration,
    /// Command name and error text.
    pub text: String,
    /// Whether it says that the command may have been executed.
    pub unknown: bool,
}

/// What a session leaves.
#[derive(Debug)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// Commands answered.
    pub done: u64,
    /// The longest wait for a reply, blocking commands apart.
    pub slowest: Duration,
    /// Error replies.
    pub failures: Vec<Failure>,
    /// What was wrong in itself.
    pub objections: Vec<String>,
    /// For the checker.
    pub facts: Vec<Fact>,
}

/// The client side of a session.
pub struct Talk {
    pub run: Arc<Run>,
    pub proto: Proto,
    client: Client,
    progress: Arc<AtomicU64>,
    pub report: Report,
}

/// The connection is gone or hangs; the objection is noted already.
#[derive(Debug)]
pub struct Gone;

impl Talk {
    /// Connects.
    pub async fn new(run: &Arc<Run>, proto: Proto, name: String) -> Self {
        let client = Client::connect_proto(run.addr, proto).await;
        let progress = run.tracked(&name);
        let report = Report {
            name,
            done: 0,
            slowest: Duration::ZERO,
            failures: Vec::new(),
            objections: Vec::new(),
            facts: Vec::new(),
        };
        Self { run: run.clone(), proto, client, progress, report }
    }

    /// Notes what is wrong.
    pub fn object(&mut self, what: impl Into<String>) {
        // The first few tell it; a broken session repeats itself.
        if self.report.objections.len() < 20 {
            let at = self.run.now();
            self.report.objections.push(format!(
                "{} at {at:.3?}: {}",
                self.report.name,
                what.into()
            ));
        }
    }

    /// Objects when a check does.
    pub fn check(&mut self, what: &str, outcome: Result<(), String>) {
        if let Err(objection) = outcome {
            self.object(format!("{what}: {objection}"));
        }
    }

    /// Sends one command and reads its reply.
    pub async fn one(&mut self, command: Vec<Vec<u8>>) -> Result<Value, Gone> {
        let mut replies = self.all(&[command]).await?;
        Ok(replies.remove(0))
    }

    /// Sends all commands at once and reads their replies.
    pub async fn all(&mut self, commands: &[Vec<Vec<u8>>]) -> Result<Vec<Value>, Gone> {
        let sent = Instant::now();
        self.send(commands).await?;
        let mut replies = Vec::with_capacity(commands.len());
        for command in commands {
            replies.push(self.answer(command, sent).await?);
        }
        self.report.slowest = self.report.slowest.max(sent.elapsed());
        Ok(replies)
    }

    /// Sends a command that waits as long as it takes and reads its reply.
    pub async fn wait(&mut self, command: Vec<Vec<u8>>) -> Result<Value, Gone> {
        let sent = Instant::now();
        self.send(std::slice::from_ref(&command)).await?;
        self.answer(&command, sent).await
    }

    /// Sends commands whose replies [`Self::frame`] reads.
    pub async fn send(&mut self, commands: &[Vec<Vec<u8>>]) -> Result<(), Gone> {
        let bytes: Vec<u8> = commands.iter().flat_map(|c| resp::encode(c)).collect();
        match self.client.try_send_raw(&bytes).await {
            Ok(()) => Ok(()),
            Err(e) => self.gone("sending", &e),
        }
    }

    /// One frame, if it comes within the limit.
    pub async fn frame(&mut self, limit: Duration) -> Result<Option<Value>, Gone> {
        match tokio::time::timeout(limit, self.client.try_read()).await {
            Err(_) => Ok(None),
            Ok(Ok(value)) => {
                self.progress.fetch_add(1, Ordering::Relaxed);
                Ok(Some(value))
            }
            Ok(Err(e)) => self.gone("listening", &e),
        }
    }

    /// The reply to a command that was sent before.
    pub async fn answer(&mut self, command: &[Vec<u8>], sent: Instant) -> Result<Value, Gone> {
        let name = String::from_utf8_lossy(&command[0]).into_owned();
        let value = match self.client.try_read().await {
            Ok(value) => value,
            Err(e) => return self.gone(&name, &e),
        };
        self.report.done += 1;
        if fate(&value) == Fate::Done {
            self.progress.fetch_add(1, Ordering::Relaxed);
        }
        self.run.done.fetch_add(1, Ordering::Relaxed);
        self.note(&name, &value, sent.elapsed());
        Ok(value)
    }

    fn note(&mut self, name: &str, value: &Value, waited: Duration) {
        let mut errors = Vec::new();
        match value {
            Value::Error(text) => errors.push(text),
            // The replies inside of EXEC.
            Value::Array(items) => errors.extend(items.iter().filter_map(|item| match item {
                Value::Error(text) => Some(text),
                _ => None,
            })),
            _ => {}
        }
        for text in errors {
            self.report.failures.push(Failure {
                at: self.run.now(),
                waited,
                text: format!("{name}: {text}"),
                unknown: fate(&Value::Error(text.clone())) == Fate::Unknown,
            });
        }
    }

    fn gone<T>(&mut self, doing: &str, error: &std::io::Error) -> Result<T, Gone> {
        self.object(format!("{doing}: the connection failed: {error}"));
        Err(Gone)
    }
}

/// A pause, so that a hundred sessions leave the machine some air.
pub async fn breathe(rng: &mut fastrand::Rng) {
    tokio::time::sleep(Duration::from_millis(rng.u64(4..16))).await;
}
