//! The task that keeps what Google's API says of one instance: endpoints, modes, certificates.
//!
//! Invariants: what was learnt once stays in force while the API fails; the API is asked rarely, for a
//! project may ask it 60 times a minute with all its proxies together ([`Pace`] says when, from a clock
//! and random numbers that are handed in); one log line for each change, none for each call.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::api::{Api, ApiError, ErrorKind};
use super::describe::{Facts, Transit};
use super::name::ResourceName;
use crate::credentials::{Credential, CredentialState};

/// Mean time between two looks at an instance that is well known.
const PERIOD: Duration = Duration::from_secs(3600);
/// Shortest time between two looks that somebody asked for.
const MIN_GAP: Duration = Duration::from_secs(60);
/// Waits after failures: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// The same where another answer needs a human.
const SLOW_RETRY: Duration = Duration::from_secs(30);

/// What the API said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The instance.
    pub facts: Facts,
    /// Its certificate authorities in PEM, if they were wanted and it encrypts.
    pub authorities: Option<String>,
}

/// What is known.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The newest answer.
    pub found: Option<Arc<Found>>,
    /// Why the last look failed; cleared by the next success.
    pub error: Option<Arc<str>>,
}

/// Access to the task, which ends when the last handle is gone.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// What is known.
    pub known: watch::Receiver<Known>,
    bell: Arc<Notify>,
}

impl Lookup {
    /// Asks to look again soon: what is known does not seem to be true any more. Returns at once.
    pub fn refresh_soon(&self) {
        self.bell.notify_one();
    }
}

/// Which certificates are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// None: a file has them, or nobody looks at them.
    Nothing,
    /// Those of an instance that encrypts.
    Authorities,
}

/// When to look again.
#[derive(Debug, Clone)]
pub struct Pace {
    next: Instant,
    failures: u32,
    /// The next look was asked for.
    hurried: bool,
    /// When the last look was made that was asked for.
    last_hurried: Option<Instant>,
}

impl Pace {
    /// The first look is due at once.
    pub fn new(now: Instant) -> Self {
        Self { next: now, failures: 0, hurried: false, last_hurried: None }
    }

    /// When the next look is due.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Somebody wants a look: it comes as soon as the rate permits.
    pub fn hurry(&mut self, now: Instant) {
        let soonest = self.last_hurried.map_or(now, |last| (last + MIN_GAP).max(now));
        if self.failures == 0 && soonest < self.next {
            self.hurried = true;
            self.next = soonest;
        }
    }

    fn looked(&mut self, now: Instant) {
        if std::mem::take(&mut self.hurried) {
            self.last_hurried = Some(now);
        }
    }

    /// A look brought an answer; `random` lies in `[0, 1)`.
    pub fn succeeded(&mut self, now: Instant, random: f64) {
        self.looked(now);
        self.failures = 0;
        self.next = now + PERIOD.mul_f64(0.8 + 0.4 * random);
    }

    /// A look brought none.
    pub fn failed(&mut self, now: Instant, error: &ApiError, random: f64) {
        let (first, longest) = RETRY;
        let doubled = first.saturating_mul(1 << self.failures.min(16)).min(longest);
        let least = match error.kind {
            ErrorKind::Network | ErrorKind::Server | ErrorKind::Unauthenticated => Duration::ZERO,
            ErrorKind::TooManyRequests => MIN_GAP,
            _ => SLOW_RETRY,
        };
        self.looked(now);
        self.failures += 1;
        // Jitter above all of it: proxies that started together do not ask together.
        let wait = doubled.max(least).max(error.retry_after.unwrap_or_default());
        self.next = now + wait.mul_f64(0.5 + random).max(error.retry_after.unwrap_or_default());
    }
}

/// Starts the task. It asks as soon as there is a credential.
pub fn spawn(
    api: Api,
    name: ResourceName,
    wanted: Wanted,
    credentials: watch::Receiver<CredentialState>,
) -> Lookup {
    let (publish, known) = watch::channel(Known::default());
    let bell = Arc::new(Notify::new());
    let lookup = Lookup { known, bell: bell.clone() };
    let task = Task { api, name, wanted, credentials, publish, bell };
    tokio::spawn(task.run());
    lookup
}

struct Task {
    api: Api,
    name: ResourceName,
    wanted: Wanted,
    credentials: watch::Receiver<CredentialState>,
    publish: watch::Sender<Known>,
    bell: Arc<Notify>,
}

impl Task {
    async fn run(mut self) {
        let mut pace = Pace::new(Instant::now());
        loop {
            let credential = match self.credential() {
                Ok(credential) => credential,
                Err(why) => {
                    self.publish.send_if_modified(|known| set_error(known, &why));
                    tokio::select! {
                        () = self.publish.closed() => return,
                        changed = self.credentials.changed() => match changed {
                            Ok(()) => continue,
                            Err(_) => return,
                        },
                    }
                }
            };
            tokio::select! {
                () = self.publish.closed() => return,
                () = tokio::time::sleep_until(pace.next()) => {
                    match self.look(&credential).await {
                        Ok(found) => {
                            pace.succeeded(Instant::now(), fastrand::f64());
                            self.found(found);
                        }
                        Err(error) => {
                            pace.failed(Instant::now(), &error, fastrand::f64());
                            self.failed(&error);
                        }
                    }
                }
                () = self.bell.notified() => pace.hurry(Instant::now()),
            }
        }
    }

    fn credential(&self) -> Result<Arc<Credential>, Arc<str>> {
        match &*self.credentials.borrow() {
            CredentialState::Ready { credential, .. } => Ok(credential.clone()),
            CredentialState::Pending => Err("the first credential is awaited".into()),
            CredentialState::Failed { error } => Err(error.clone()),
            CredentialState::NotNeeded => Err("there is no credential to ask the API with".into()),
        }
    }

    async fn look(&self, credential: &Credential) -> Result<Found, ApiError> {
        let facts = self.api.describe(&self.name, credential).await?;
        let authorities = match (self.wanted, &facts.transit) {
            (Wanted::Nothing, _) | (_, Transit::Plain) => None,
            _ => Some(self.api.server_ca(&self.name, &facts.server_ca, credential).await?),
        };
        Ok(Found { facts, authorities })
    }

    fn found(&self, found: Found) {
        let before = self.publish.borrow().clone();
        if before.found.as_deref() != Some(&found) {
            let Facts { endpoints, authorization, transit, state, .. } = &found.facts;
            let what = if before.found.is_none() { "looked up" } else { "has changed" };
            tracing::info!(
                "{} {what}: state {state}, {endpoints}, authorization {authorization}, {transit}",
                self.name
            );
        } else if before.error.is_some() {
            tracing::info!("{} can be looked up again; it has not changed", self.name);
        } else {
            return;
        }
        self.publish.send_replace(Known { found: Some(Arc::new(found)), error: None });
    }

    fn failed(&self, error: &ApiError) {
        let text: Arc<str> = error.to_string().into();
        let (news, known) = {
            let known = self.publish.borrow();
            (known.error.as_ref() != Some(&text), known.found.is_some())
        };
        let consequence = if known { "; what is known stays in force" } else { "" };
        if news {
            tracing::warn!("{text}{consequence}");
        } else {
            tracing::debug!("{text}{consequence}");
        }
        self.publish.send_modify(|known| known.error = Some(text));
    }
}

fn set_error(known: &mut Known, why: &Arc<str>) -> bool {
    let news = known.error.as_ref() != Some(why);
    if news {
        known.error = Some(why.clone());
    }
    news
}

#[cfg(test)]
#[path = "lookup_tests.rs"]
mod tests;
