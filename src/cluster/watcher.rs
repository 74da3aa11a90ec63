//! The task that keeps the slot map current.
//!
//! It runs on the control thread and publishes snapshots by `watch`. Invariant: only a changed map
//! is published, its epoch one higher; the last good map stays in force while refreshes fail. One
//! refresh at a time, each candidate within its own time limits, so a stalled seed delays but never
//! blocks. When to refresh and whom to ask is decided in `refresh`, what a reply means in
//! `discovery`. It moves no user traffic and reports state changes only, each in one log line.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::auth_faults::AuthFaults;
use super::discovery::SlotMap;
use super::query::{AskError, read_map, read_server, summary};
use super::refresh::{Action, Outcome, Policy, Reason, Schedule, candidates, prefer, unconfirmed};
use super::topology::{Mode, NodeAddr, SLOTS, Topology};
use crate::activity::{Activity, noted};
use crate::credentials::{Credential, CredentialState};
use crate::upstream::client::{Client, ClientError, Timeouts};
use crate::upstream::tls::Trust;

/// Requests waiting to be read; more are dropped, for a refresh is due anyway.
const REQUEST_QUEUE: usize = 64;

/// Nodes asked in one refresh besides the seeds; another refresh asks others.
const MAX_KNOWN_ASKED: usize = 8;

/// Called with the generation of a credential that a node answered WRONGPASS to.
pub type OnRejected = Arc<dyn Fn(u64) + Send + Sync>;

/// Where to ask first; may become known later, and change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seeds {
    /// Discovery endpoints, or the primary of a server without cluster mode; none: not known yet.
    pub nodes: Vec<NodeAddr>,
    /// The endpoint at which the replicas of a server without cluster mode answer.
    pub reader: Option<NodeAddr>,
    /// Why there are none yet.
    pub missing: Option<Arc<str>>,
}

impl From<Vec<NodeAddr>> for Seeds {
    fn from(nodes: Vec<NodeAddr>) -> Self {
        Self { nodes, reader: None, missing: None }
    }
}

/// How the watcher behaves.
#[derive(Clone)]
pub struct Settings {
    /// Mean time between periodic refreshes.
    pub topology_refresh: Duration,
    /// Limit of one dial, name resolution included.
    pub connect_timeout: Duration,
    /// Limit of one AUTH or CLUSTER request.
    pub request_timeout: Duration,
    /// Shortest and longest wait after a refused or failed AUTH.
    pub auth_backoff: (Duration, Duration),
    /// Whether and how nodes prove who they are. With TLS the `tls-port` of CLUSTER SHARDS is taken
    /// before `port`.
    pub trust: Trust,
    /// Refresh periodically only after this was noted since the last time; `None`: always.
    pub activity: Option<Arc<Activity>>,
    /// Told of rejected credentials, to have a new one minted; must not block.
    pub on_rejected: Option<OnRejected>,
}

/// What the watcher last did, for `/status` and `/metrics`.
#[derive(Debug, Clone, Default)]
pub struct WatcherStatus {
    /// Refreshes that brought a map, changed or not.
    pub refreshes: u64,
    /// Refreshes that brought none.
    pub failures: u64,
    /// Why there is no current map; cleared by the next success. Holds no secret.
    pub error: Option<Arc<str>>,
    /// The node that gave the last map.
    pub answered_by: Option<NodeAddr>,
    /// When it did.
    pub refreshed_at: Option<SystemTime>,
}

/// Access to the watcher. The task ends when the last handle is gone.
#[derive(Debug, Clone)]
pub struct WatcherHandle {
    /// The newest map; `None` until the first is known.
    pub topology: watch::Receiver<Option<Arc<Topology>>>,
    /// What the watcher last did.
    pub status: watch::Receiver<WatcherStatus>,
    requests: mpsc::Sender<Reason>,
}

impl WatcherHandle {
    /// Asks for a refresh. Never waits; many requests become one refresh.
    pub fn request_refresh(&self, reason: Reason) {
        // A full queue means that a refresh is due, a closed one that the proxy stops.
        let _ = self.requests.try_send(reason);
    }
}

/// Starts the watcher on the current runtime. The first refresh starts as soon as there is a
/// credential, or the state says that none is needed.
pub fn spawn(
    seeds: watch::Receiver<Seeds>,
    credentials: watch::Receiver<CredentialState>,
    settings: Settings,
) -> WatcherHandle {
    let (topology_tx, topology) = watch::channel(None);
    let (status_tx, status) = watch::channel(WatcherStatus::default());
    let (requests, inbox) = mpsc::channel(REQUEST_QUEUE);
    let now = Instant::now().into_std();
    let watcher = Watcher {
        schedule: Schedule::new(Policy::new(settings.topology_refresh), now),
        seeds,
        credentials,
        topology: topology_tx,
        status: status_tx,
        inbox,
        client: None,
        failed_last: Vec::new(),
        reported: false,
        auth: AuthFaults::new(settings.auth_backoff),
        settings,
    };
    tokio::spawn(watcher.run());
    WatcherHandle { topology, status, requests }
}

/// What the connection is to authenticate with.
enum Auth {
    With(Arc<Credential>),
    NotNeeded,
    Missing(Arc<str>),
}

struct Watcher {
    seeds: watch::Receiver<Seeds>,
    credentials: watch::Receiver<CredentialState>,
    settings: Settings,
    topology: watch::Sender<Option<Arc<Topology>>>,
    status: watch::Sender<WatcherStatus>,
    inbox: mpsc::Receiver<Reason>,
    schedule: Schedule,
    /// To the node that answered last.
    client: Option<Client>,
    /// Nodes that gave no map when they were asked last, since the last periodic refresh.
    failed_last: Vec<NodeAddr>,
    auth: AuthFaults,
    /// The failure that goes on was logged.
    reported: bool,
}

impl Watcher {
    async fn run(mut self) {
        let mut credentials_end = false;
        let mut seeds_end = false;
        loop {
            while let Ok(reason) = self.inbox.try_recv() {
                self.schedule.request(reason);
            }
            let missing = self.missing();
            let next = self.schedule.next(Instant::now().into_std());
            let rests = missing.is_none() && next == Action::Refresh && self.rests();
            let wait = match (&missing, next) {
                (None, Action::Refresh) if rests => None,
                (None, Action::Refresh | Action::InFlight) => {
                    self.refresh().await;
                    continue;
                }
                (None, Action::WaitUntil(at)) => Some(Instant::from_std(at)),
                (Some(why), _) => {
                    // Who is to bring it reports its own failures; no second line for them here.
                    let error = why.to_string();
                    self.status.send_if_modified(|s| set_error(s, &error));
                    None
                }
            };
            tokio::select! {
                () = until(wait) => {}
                () = noted(self.settings.activity.as_deref()), if rests => {}
                reason = self.inbox.recv() => match reason {
                    Some(reason) => self.schedule.request(reason),
                    None => return,
                },
                changed = self.credentials.changed(), if !credentials_end => {
                    credentials_end = changed.is_err();
                    self.credential_changed();
                }
                changed = self.seeds.changed(), if !seeds_end => {
                    seeds_end = changed.is_err();
                    if !seeds_end {
                        self.client = None;
                        self.schedule.request(Reason::Seeds);
                        self.schedule.hurry(Instant::now().into_std());
                    }
                }
            }
        }
    }

    /// The map is good, and nobody has used it since it was read.
    fn rests(&self) -> bool {
        let is_good = !self.schedule.is_requested() && self.status.borrow().error.is_none();
        let is_good = is_good && self.topology.borrow().is_some();
        is_good && self.settings.activity.as_ref().is_some_and(|activity| !activity.take())
    }

    /// What must be known before anybody can be asked.
    fn missing(&self) -> Option<AskError> {
        let seeds = self.seeds.borrow();
        if seeds.nodes.is_empty() {
            let why = seeds.missing.clone().unwrap_or_else(|| "it is being looked up".into());
            return Some(AskError::NoSeeds(why));
        }
        drop(seeds);
        match (self.current_auth(), &self.client) {
            (Auth::Missing(why), None) => Some(AskError::NoCredential(why)),
            _ => None,
        }
    }

    /// A credential other than the refused one is worth a try at once.
    fn credential_changed(&mut self) {
        if let Auth::With(credential) = self.current_auth()
            && self.auth.forgive(credential.generation)
        {
            self.schedule.hurry(Instant::now().into_std());
        }
    }

    fn current_auth(&self) -> Auth {
        match &*self.credentials.borrow() {
            CredentialState::Pending => Auth::Missing("the first token is still awaited".into()),
            CredentialState::NotNeeded => Auth::NotNeeded,
            CredentialState::Ready { credential, .. } => Auth::With(credential.clone()),
            CredentialState::Failed { error } => Auth::Missing(error.clone()),
        }
    }

    async fn refresh(&mut self) {
        let requested = self.schedule.is_requested();
        let hints = self.schedule.start(Instant::now().into_std());
        let known = self.topology.borrow().clone();
        if !requested {
            // A periodic refresh gives those that failed another chance in their proper place.
            self.failed_last.clear();
        }
        let avoid = self.failed_last.as_slice();
        let seeds = self.seeds.borrow().clone();
        let mut order = candidates(&seeds.nodes, known.as_deref(), avoid, |n| fastrand::usize(..n));
        order.truncate(seeds.nodes.len() + MAX_KNOWN_ASKED);
        // An AUTH fault ends the round (all nodes check the same token), so a node that alone has
        // the fault must not stand first for ever.
        if order.first().is_some_and(|first| avoid.is_empty() || avoid.contains(first)) {
            let first = self.auth.count() as usize % order.len();
            order.rotate_left(first);
        }

        let mut errors: Vec<AskError> = Vec::new();
        for addr in order {
            match self.ask(&addr).await {
                Ok(mut map) => {
                    self.failed_last.retain(|failed| *failed != addr);
                    if let Some(hint) = unconfirmed(&hints, &map)
                        && hint.addr != addr
                        && let Ok(hinted) = self.ask(&hint.addr).await
                    {
                        map = prefer(map, hinted, hint);
                    }
                    return self.succeeded(addr, map);
                }
                Err(e) => {
                    if !self.failed_last.contains(&addr) {
                        self.failed_last.push(addr);
                    }
                    let auth_fault = e.is_auth_fault();
                    errors.push(e);
                    if auth_fault {
                        break;
                    }
                }
            }
        }
        self.failed(&errors);
    }

    /// Reads the map of one node, by the connection that is open or by a new one.
    async fn ask(&mut self, addr: &NodeAddr) -> Result<SlotMap, AskError> {
        if let Some(mut client) = self.client.take_if(|c| c.addr() == addr && c.is_usable()) {
            match self.ask_by(&mut client).await {
                Ok(map) => {
                    self.client = Some(client);
                    return Ok(map);
                }
                // It ended while idle; that says nothing about the node.
                Err(AskError::Client(e)) if e.is_closed() => {}
                Err(e) => return Err(e),
            }
        }
        let mut client = self.connect(addr).await?;
        let map = self.ask_by(&mut client).await?;
        self.client = Some(client);
        Ok(map)
    }

    async fn connect(&mut self, addr: &NodeAddr) -> Result<Client, AskError> {
        let auth = self.current_auth();
        if let Auth::Missing(why) = auth {
            return Err(AskError::NoCredential(why));
        }
        if let Some(fault) = self.auth.pending(Instant::now().into_std()) {
            return Err(fault.clone().into());
        }
        let timeouts = Timeouts {
            connect: self.settings.connect_timeout,
            auth: self.settings.request_timeout,
        };
        let trust = &self.settings.trust;
        let Auth::With(credential) = auth else {
            return Ok(Client::connect(addr, None, timeouts, trust).await?);
        };
        let outcome = Client::connect(addr, Some(&credential), timeouts, trust).await;
        self.note_auth(outcome.as_ref().err(), &credential);
        Ok(outcome?)
    }

    /// Authenticates an open connection with a credential newer than its own. A refusal leaves the
    /// old authentication in force, so only NOAUTH (`must`) makes it an error.
    async fn reauthenticate(&mut self, client: &mut Client, must: bool) -> Result<(), ClientError> {
        let Auth::With(credential) = self.current_auth() else {
            return Ok(());
        };
        if !must && client.generation() == Some(credential.generation) {
            return Ok(());
        }
        if let Some(fault) = self.auth.pending(Instant::now().into_std()) {
            return if must { Err(fault.clone()) } else { Ok(()) };
        }
        let deadline = Instant::now() + self.settings.request_timeout;
        let outcome = client.authenticate(&credential, deadline).await;
        self.note_auth(outcome.as_ref().err(), &credential);
        match outcome {
            Err(e) if must || !e.is_auth_fault() => Err(e),
            _ => Ok(()),
        }
    }

    async fn ask_by(&mut self, client: &mut Client) -> Result<SlotMap, AskError> {
        let limit = self.settings.request_timeout;
        let prefer_tls = self.settings.trust.encrypts();
        self.reauthenticate(client, false).await?;
        let mut map = match read_map(client, prefer_tls, limit).await {
            Err(AskError::Client(ClientError::NoAuth { .. }))
                if matches!(self.current_auth(), Auth::With(_)) =>
            {
                self.reauthenticate(client, true).await?;
                read_map(client, prefer_tls, limit).await?
            }
            outcome => outcome?,
        };
        // A seed may be any server; a node that a cluster named is one of its nodes.
        if map.mode == Mode::Standalone {
            let seeds = self.seeds.borrow();
            if !seeds.nodes.contains(client.addr()) {
                return Err(AskError::LeftCluster { addr: client.addr().clone() });
            }
            for shard in &mut map.shards {
                shard.replicas.extend(seeds.reader.clone());
            }
        }
        let known = self.topology.borrow().as_ref().map(|t| t.server.clone());
        if let Some(server) = read_server(client, limit).await.or(known) {
            map.server = server;
        }
        Ok(map)
    }

    fn note_auth(&mut self, error: Option<&ClientError>, credential: &Credential) {
        match error {
            None => self.auth = AuthFaults::new(self.settings.auth_backoff),
            Some(e) if e.is_auth_fault() => {
                let now = Instant::now().into_std();
                let ask_for_another =
                    self.auth.note(e, credential.generation, now, fastrand::f64());
                if let (true, Some(on_rejected)) = (ask_for_another, &self.settings.on_rejected) {
                    on_rejected(credential.generation);
                }
            }
            Some(_) => {}
        }
    }

    fn succeeded(&mut self, addr: NodeAddr, map: SlotMap) {
        let known = self.topology.borrow().clone();
        let changed = !known.as_deref().is_some_and(|known| map.same_as(known));
        if changed {
            log_map(&addr, &map, known.as_deref());
            let epoch = known.map_or(1, |known| known.epoch + 1);
            self.topology.send_replace(Some(Arc::new(map.into_topology(epoch))));
        } else if self.reported {
            tracing::info!("the cluster map can be read again, from {addr}; it has not changed");
        }
        self.reported = false;
        self.status.send_modify(|status| {
            status.refreshes += 1;
            status.error = None;
            status.answered_by = Some(addr);
            status.refreshed_at = Some(SystemTime::now());
        });
        let outcome = if changed { Outcome::Changed } else { Outcome::Unchanged };
        self.schedule.finish(outcome, Instant::now().into_std(), fastrand::f64());
    }

    fn failed(&mut self, errors: &[AskError]) {
        let error = summary(errors);
        let consequence = if self.topology.borrow().is_some() {
            "the last known map stays in use"
        } else {
            "no command can be routed until it can"
        };
        if !std::mem::replace(&mut self.reported, true) {
            tracing::warn!("the cluster map cannot be read: {error}; {consequence}");
        } else {
            tracing::debug!("the cluster map still cannot be read: {error}");
        }
        self.status.send_modify(|status| {
            status.failures += 1;
            set_error(status, &error);
        });
        let now = Instant::now().into_std();
        self.schedule.finish(Outcome::Failed, now, fastrand::f64());
        if let (Some(until), true) = (self.auth.until(), errors.iter().any(AskError::is_auth_fault))
        {
            self.schedule.not_before(until);
        }
    }
}

/// Ends at that moment, or never.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn set_error(status: &mut WatcherStatus, error: &str) -> bool {
    let new = status.error.as_deref() != Some(error);
    if new {
        status.error = Some(error.into());
    }
    new
}

fn log_map(addr: &NodeAddr, map: &SlotMap, known: Option<&Topology>) {
    if map.mode == Mode::Standalone {
        tracing::info!("{addr} has no cluster support; it serves all slots as a single server");
        return;
    }
    let what = if known.is_some() { "the cluster map changed" } else { "cluster map discovered" };
    let replicas: usize = map.shards.iter().map(|s| s.replicas.len()).sum();
    let (shards, covered) = (map.shards.len(), map.slots_covered());
    if covered == SLOTS {
        tracing::info!("{what}: {shards} shards, {replicas} replicas (told by {addr})");
    } else {
        tracing::warn!(
            "{what}: {shards} shards, {replicas} replicas (told by {addr}); only {covered} of \
             {SLOTS} slots have an owner, commands for the others will fail"
        );
    }
}

#[cfg(test)]
#[path = "watcher_tests.rs"]
mod tests;
