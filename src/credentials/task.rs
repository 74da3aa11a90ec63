//! The one task that fetches credentials and publishes the newest on a `watch` channel.
//!
//! Being one task makes it single-flight: however many connections ask, at most one request is
//! under way. Invariant: a credential that has not expired is never withdrawn because a refresh
//! failed, and one that has expired is withdrawn at that moment, also while a refresh hangs. Sources
//! know how to fetch, [`super::schedule`] knows when; here is neither.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::schedule::{BackoffRange, Moment, Planner};
use super::sources::{CredentialSource, Minted, Source, SourceError, SourceKind, no_answer};
use super::{Credential, CredentialState};
use crate::activity::{Activity, noted};
use crate::env::Environment;

/// Every source bounds its own time; this is for one that forgets to.
const MINT_TIMEOUT: Duration = Duration::from_secs(60);

/// When a clock has jumped past the expiry, the source has this long to mend it before the credential
/// is withdrawn.
const GRACE: Duration = Duration::from_secs(2);

/// The wall clock, which tests replace.
pub type WallClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// How the task works.
#[derive(Clone)]
pub struct Options {
    /// User name of AUTH.
    pub username: Arc<str>,
    /// Waits after failed and after forced refreshes.
    pub backoff: BackoffRange,
    /// The wall clock.
    pub wall_clock: WallClock,
    /// Renew only after this was noted since the last time; `None`: always (`--lazy-refresh`).
    pub activity: Option<Arc<Activity>>,
}

impl Options {
    /// With the system's clock.
    pub fn new(username: Arc<str>, backoff: BackoffRange) -> Self {
        Self { username, backoff, wall_clock: Arc::new(SystemTime::now), activity: None }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("username", &self.username)
            .field("backoff", &self.backoff)
            .finish_non_exhaustive()
    }
}

/// How often what happened, since the start.
#[derive(Debug, Default)]
pub struct Counters {
    refreshes: [AtomicU64; SourceKind::ALL.len()],
    failures: [AtomicU64; SourceKind::ALL.len()],
    forced: AtomicU64,
}

impl Counters {
    /// Credentials this source gave.
    pub fn refreshes(&self, kind: SourceKind) -> u64 {
        self.refreshes[kind as usize].load(Ordering::Relaxed)
    }

    /// Requests this source failed.
    pub fn failures(&self, kind: SourceKind) -> u64 {
        self.failures[kind as usize].load(Ordering::Relaxed)
    }

    /// Rejections by the cluster that led to a refresh ahead of time.
    pub fn forced(&self) -> u64 {
        self.forced.load(Ordering::Relaxed)
    }
}

/// What the rest of the program holds. The task ends when the last handle and the last clone of its
/// receiver are gone.
#[derive(Debug, Clone)]
pub struct CredentialHandle {
    /// The newest state; read it, or wait for a change.
    pub watch: watch::Receiver<CredentialState>,
    /// For metrics.
    pub counters: Arc<Counters>,
    /// To be noted when clients want something, if the task is lazy.
    pub activity: Option<Arc<Activity>>,
    rejections: Arc<Rejections>,
}

/// The newest rejected generation, 0 for none, whether somebody waits, and a bell.
#[derive(Debug, Default)]
struct Rejections {
    generation: AtomicU64,
    wanted: AtomicBool,
    bell: Notify,
}

impl CredentialHandle {
    /// For a cluster that wants no AUTH: the state is [`CredentialState::NotNeeded`] for good.
    pub fn not_needed() -> Self {
        let (_, watch) = watch::channel(CredentialState::NotNeeded);
        Self { watch, counters: Arc::default(), activity: None, rejections: Arc::default() }
    }

    /// Tells the task that the cluster rejected the credential of this generation. It fetches
    /// another one unless it has a newer one already; many such calls make one request, and
    /// repeated rejections slow down. Returns at once.
    pub fn force_refresh(&self, rejected_generation: u64) {
        let newest = &self.rejections.generation;
        newest.fetch_max(rejected_generation, Ordering::Relaxed);
        self.rejections.bell.notify_one();
    }

    /// Tells the task that commands wait for a credential: a source that failed is asked again soon,
    /// however long its backoff has become. Returns at once.
    pub fn wanted(&self) {
        if !self.rejections.wanted.swap(true, Ordering::Relaxed) {
            self.rejections.bell.notify_one();
        }
    }
}

/// Starts the task for the source the user chose. Needs a Tokio runtime with time and I/O.
pub fn start(source: &CredentialSource, options: Options, env: &Environment) -> CredentialHandle {
    match source.build(env) {
        Some(source) => spawn(source, options),
        None => CredentialHandle::not_needed(),
    }
}

/// Starts the task in front of `source`. Needs a Tokio runtime with time and I/O.
pub fn spawn(source: Box<dyn Source>, options: Options) -> CredentialHandle {
    let (publish, watch) = watch::channel(CredentialState::Pending);
    let handle = CredentialHandle {
        watch,
        counters: Arc::default(),
        activity: options.activity.clone(),
        rejections: Arc::default(),
    };
    let now = moment(&options.wall_clock);
    let task = Task {
        planner: Planner::new(options.backoff, source.reread_every(), now),
        source,
        options,
        publish,
        generation: 0,
        reported: None,
        counters: Arc::clone(&handle.counters),
        rejections: Arc::clone(&handle.rejections),
    };
    tokio::spawn(task.run());
    handle
}

fn moment(wall_clock: &WallClock) -> Moment {
    Moment { wall: wall_clock(), mono: Instant::now().into_std() }
}

/// Nobody is left to publish to.
struct Abandoned;

struct Task {
    source: Box<dyn Source>,
    options: Options,
    planner: Planner,
    publish: watch::Sender<CredentialState>,
    /// Of the newest credential; 0 before the first.
    generation: u64,
    /// The failure that goes on and was logged.
    reported: Option<Arc<str>>,
    counters: Arc<Counters>,
    rejections: Arc<Rejections>,
}

impl Task {
    async fn run(mut self) {
        loop {
            let now = self.now();
            let due = self.planner.is_due(&now);
            let rests = due && self.rests();
            if due && !rests {
                match self.refresh().await {
                    Ok(()) => continue,
                    Err(Abandoned) => return,
                }
            }
            if self.planner.failures() > 0 {
                withdraw_if_expired(&self.publish, &self.planner, &now);
            }
            let mut changed = false;
            tokio::select! {
                () = self.publish.closed() => return,
                () = tokio::time::sleep(self.planner.sleep(&now)), if !rests => {}
                () = noted(self.options.activity.as_deref()), if rests => {}
                () = self.rejections.bell.notified() => self.on_rejection(),
                () = self.source.changed() => changed = true,
            }
            if changed {
                self.planner.due_now(self.now());
            }
        }
    }

    fn now(&self) -> Moment {
        moment(&self.options.wall_clock)
    }

    /// Nobody has used the credential since it was fetched, so it need not be renewed yet.
    fn rests(&self) -> bool {
        let is_good =
            self.generation > 0 && self.planner.failures() == 0 && !self.planner.is_forced();
        is_good && self.options.activity.as_ref().is_some_and(|activity| !activity.take())
    }

    fn on_rejection(&mut self) {
        if self.rejections.wanted.swap(false, Ordering::Relaxed) {
            self.planner.hurry();
        }
        let rejected = self.rejections.generation.swap(0, Ordering::Relaxed);
        if rejected > 0 && rejected >= self.generation && self.planner.force(self.now()) {
            self.counters.forced.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(
                generation = rejected,
                "the cluster rejected the credential, asking for another one"
            );
        }
    }

    async fn refresh(&mut self) -> Result<(), Abandoned> {
        let outcome = {
            let mut mint = pin!(tokio::time::timeout(MINT_TIMEOUT, self.source.mint()));
            loop {
                let now = moment(&self.options.wall_clock);
                let ready = matches!(*self.publish.borrow(), CredentialState::Ready { .. });
                let expiry = self.planner.until_expiry(&now).filter(|_| ready);
                let expiry = expiry.map(|left| if left.is_zero() { GRACE } else { left });
                tokio::select! {
                    biased;
                    () = self.publish.closed() => return Err(Abandoned),
                    outcome = &mut mint => break outcome,
                    () = tokio::time::sleep(expiry.unwrap_or_default()), if expiry.is_some() => {
                        let now = moment(&self.options.wall_clock);
                        withdraw_if_expired(&self.publish, &self.planner, &now);
                    }
                }
            }
        };
        let now = self.now();
        match outcome {
            Ok(Ok(minted)) if minted.expires_at.is_some_and(|at| at <= now.wall) => {
                self.count_failure(minted.kind);
                let place = minted.kind.name();
                self.on_failure(now, &format!(
                    "no credentials: {place}: gave a token that has already expired. Check this machine's clock."
                ));
            }
            Ok(Ok(minted)) => self.on_success(now, minted),
            Ok(Err(error)) => {
                self.count_failures(&error);
                self.on_failure(now, &error.to_string());
            }
            Err(_) => self.on_failure(now, &format!("no credentials: {}", no_answer(MINT_TIMEOUT))),
        }
        Ok(())
    }

    fn count_failures(&self, error: &SourceError) {
        for kind in error.attempts.iter().filter_map(|attempt| attempt.failed) {
            self.count_failure(kind);
        }
    }

    fn count_failure(&self, kind: SourceKind) {
        self.counters.failures[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn on_success(&mut self, now: Moment, minted: Minted) {
        let source = minted.kind.name();
        self.counters.refreshes[minted.kind as usize].fetch_add(1, Ordering::Relaxed);
        self.planner.succeeded(now, minted.expires_at, fastrand::f64());
        self.reported = None;
        let (old, recovered) = match &*self.publish.borrow() {
            CredentialState::Ready { credential, refresh_error } => {
                (Some(Arc::clone(credential)), refresh_error.is_some())
            }
            CredentialState::Failed { .. } => (None, true),
            _ => (None, false),
        };
        // A metadata server gives the same token until shortly before its end, a file the same
        // content until it is replaced: that is no new credential.
        let same = old.as_ref().is_some_and(|old| old.secret.expose() == minted.secret.expose());
        if !same {
            self.generation += 1;
        }
        let lives = minted.expires_at.and_then(|at| {
            let life = at.duration_since(now.wall).ok()?;
            Some(humantime::format_duration(Duration::from_secs(life.as_secs())).to_string())
        });
        let lives = lives.as_deref().unwrap_or("an unknown time");
        let generation = self.generation;
        if self.generation == 1 && !same || recovered {
            tracing::info!(generation, "got a credential from {source}, valid for {lives}");
        } else {
            tracing::debug!(generation, same, "got a credential from {source}, valid for {lives}");
        }
        if same && !recovered && minted.expires_at.is_none() {
            return;
        }
        let credential = Arc::new(Credential {
            username: Arc::clone(&self.options.username),
            secret: minted.secret,
            expires_at: minted.expires_at,
            obtained_at: now.wall,
            generation,
            source,
            principal: minted.principal,
        });
        self.publish.send_replace(CredentialState::Ready { credential, refresh_error: None });
    }

    fn on_failure(&mut self, now: Moment, said: &str) {
        self.planner.failed(now, fastrand::f64());
        let retry = Duration::from_millis(self.planner.sleep(&now).as_millis() as u64);
        let retry = humantime::format_duration(retry);
        // One line for a fault, not one for each attempt.
        if self.reported.as_deref() == Some(said) {
            tracing::debug!("{said} (next attempt in {retry})");
        } else {
            tracing::warn!(
                "{said} (next attempt in {retry}; repetitions are logged at level debug)"
            );
        }
        let error: Arc<str> = said.into();
        self.reported = Some(Arc::clone(&error));
        self.publish.send_modify(|state| match state {
            CredentialState::Ready { refresh_error, .. } => *refresh_error = Some(error),
            state => *state = CredentialState::Failed { error },
        });
        withdraw_if_expired(&self.publish, &self.planner, &now);
    }
}

/// An expired credential is worse than none: every AUTH with it counts against IAM's rate.
fn withdraw_if_expired(publish: &watch::Sender<CredentialState>, planner: &Planner, now: &Moment) {
    if !planner.is_expired(now) {
        return;
    }
    publish.send_if_modified(|state| {
        let CredentialState::Ready { credential, refresh_error } = state else {
            return false;
        };
        let why = refresh_error.as_deref().unwrap_or("no answer yet");
        let text = format!(
            "the credential from {} has expired and could not be renewed: {why}",
            credential.source
        );
        tracing::error!("{text}");
        *state = CredentialState::Failed { error: text.into() };
        true
    });
}

#[cfg(test)]
mod tests;
