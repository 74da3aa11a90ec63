//! One instance at run time: its listeners, its slot-map watcher, its workers.
//!
//! Invariant: instances share the credential task, the HTTP side and the end of the process, and
//! nothing else: what happens to one costs the others nothing.

use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::access::Rules;
use super::line::Line;
use super::upstream::Upstream;
use crate::activity::Activity;
use crate::admin::state::{NodeStatus, Soon, StatusSource};
use crate::cluster::backend::{Backend, BackendStatus};
use crate::cluster::watcher::{self, Seeds, WatcherHandle};
use crate::config::{Config, Instance, Listen};
use crate::credentials::CredentialState;
use crate::credentials::task::CredentialHandle;
use crate::error::Error;
use crate::listener::certificate::LocalTls;
use crate::listener::{self, Gate, Reception, SocketFile};
use crate::telemetry::control::Resting;
use crate::telemetry::metrics::WorkerMetrics;
use crate::upstream::tls::Trust;
use crate::worker::budget::Budget;
use crate::worker::hub::Settings;
use crate::worker::{Feeds, Worker, introduce};

/// Most the nodes' replies to one command may hold together while they are merged (bytes); KEYS of more
/// is refused.
const MAX_MERGE: usize = 256 << 20;

/// Bound listeners; nothing is accepted yet.
pub(super) struct Sockets {
    tcp: TcpListener,
    unix: Option<(UnixListener, SocketFile)>,
    /// Where they listen: `127.0.0.1:6379`, `unix:/run/redis.sock`.
    pub shown: Vec<String>,
}

impl Sockets {
    /// Binds what an instance listens on.
    pub(super) fn bind(listen: &Listen) -> Result<Self, Error> {
        let address = (listen.address, listen.port).into();
        let tcp = listener::bind_tcp(address).map_err(|e| {
            Error::runtime(
                format!(
                    "cannot listen on {address} (--address, --port; --port=0 takes a free one)"
                ),
                e,
            )
        })?;
        let bound =
            tcp.local_addr().map_err(|e| Error::runtime("cannot read the bound address", e))?;
        let mut shown = vec![bound.to_string()];
        let unix = match &listen.unix_socket {
            None => None,
            Some(u) => {
                let bound = listener::bind_unix(&u.path, u.mode).map_err(|e| {
                    let path = u.path.display();
                    Error::runtime(format!("cannot listen on {path} (--unix-socket)"), e)
                })?;
                shown.push(format!("unix:{}", u.path.display()));
                Some(bound)
            }
        };
        Ok(Self { tcp, unix, shown })
    }
}

/// What all instances share.
pub(super) struct Shared<'a> {
    /// The settings.
    pub config: &'a Config,
    /// The AUTH password.
    pub credentials: &'a CredentialHandle,
    /// What clients may do.
    pub rules: &'a Rules,
    /// What buffers may hold.
    pub budget: &'a Arc<Budget>,
    /// Ends the workers.
    pub stop: &'a CancellationToken,
}

/// A running instance.
pub(super) struct Running {
    /// What it is called.
    pub name: Arc<str>,
    /// Its slot map.
    pub watcher: WatcherHandle,
    /// Whom it trusts, and what it says to them.
    trust: Trust,
    credential: watch::Receiver<CredentialState>,
    /// Its threads.
    pub workers: Arc<Vec<Worker>>,
    /// What each of them counts.
    pub metrics: Vec<Arc<WorkerMetrics>>,
    /// Which nodes each of them leaves alone.
    pub resting: Vec<Arc<Resting>>,
    /// What is counted at the door.
    pub reception_metrics: Arc<WorkerMetrics>,
    /// Whether its primaries answer, if that is asked all the time.
    pub backend: Option<watch::Receiver<BackendStatus>>,
    /// Where its clients connect.
    pub listeners: Vec<String>,
    sockets: Option<Sockets>,
}

impl Running {
    /// Starts the watcher and the workers. Clients are not accepted yet.
    pub(super) fn start(
        shared: &Shared<'_>,
        instance: &Instance,
        sockets: Sockets,
        upstream: Upstream,
    ) -> Result<Self, Error> {
        let &Shared { config, credentials, rules, budget, stop } = shared;
        let Upstream { seeds, trust, credential } = upstream;
        let activity = config.lifecycle.lazy_refresh.then(Arc::<Activity>::default);
        let watcher =
            start_watcher(config, seeds, credentials, &credential, &trust, activity.clone());
        let activities: Vec<_> = activity.into_iter().chain(credentials.activity.clone()).collect();
        let metrics: Vec<Arc<WorkerMetrics>> =
            (0..config.threads.get()).map(|_| Arc::default()).collect();
        let resting: Vec<Arc<Resting>> = metrics.iter().map(|_| Arc::default()).collect();
        let settings = settings(config, instance);
        let workers = metrics
            .iter()
            .zip(&resting)
            .enumerate()
            .map(|(i, (metrics, resting))| {
                let control = Arc::new(Line {
                    credentials: credentials.clone(),
                    watcher: watcher.clone(),
                    metrics: metrics.clone(),
                    resting: resting.clone(),
                    activities: activities.clone(),
                });
                let feeds = Feeds {
                    topology: watcher.topology.clone(),
                    credential: credential.clone(),
                    trust: trust.clone(),
                    access: rules.clone(),
                    budget: budget.clone(),
                };
                let grace = config.lifecycle.max_sigterm_delay;
                Worker::start(i, settings.clone(), feeds, control, stop.clone(), grace)
                    .map_err(|e| Error::runtime("cannot start a worker thread (--threads)", e))
            })
            .collect::<Result<Vec<_>, _>>()?;
        introduce(&workers);
        let backend = config.http.with_backend_check.then(|| {
            let (publish, status) = watch::channel(BackendStatus::default());
            tokio::spawn(backend(config, &watcher, &credential, &trust).watch(publish));
            status
        });
        Ok(Self {
            name: instance.name.clone(),
            watcher,
            trust,
            credential,
            workers: Arc::new(workers),
            metrics,
            resting,
            reception_metrics: Arc::default(),
            backend,
            listeners: sockets.shown.clone(),
            sockets: Some(sockets),
        })
    }

    /// Asks each primary once, when the slot map is known.
    ///
    /// # Errors
    /// Who does not answer, or why there is no map after twice `--connect-timeout`.
    pub(super) async fn test_connection(
        &self,
        config: &Config,
        credentials: &CredentialHandle,
    ) -> Result<(), Error> {
        let mut topology = self.watcher.topology.clone();
        let known = topology.wait_for(Option::is_some);
        let outcome = match tokio::time::timeout(config.connect_timeout * 2, known).await {
            Ok(_) => backend(config, &self.watcher, &self.credential, &self.trust).check().await,
            Err(_) => Err(vec![no_map(&self.watcher, credentials)]),
        };
        outcome.map_err(|failures| {
            Error::runtime(
                format!("the connection test of {} failed (--run-connection-test)", self.name),
                failures.join("; "),
            )
        })
    }

    /// Accepts clients until the returned tasks are ended.
    pub(super) fn accept(
        &mut self,
        accepting: &mut tokio::task::JoinSet<()>,
        gate: &Arc<Gate>,
        tls: Option<&LocalTls>,
        unix_uids: Option<&[u32]>,
    ) {
        let Some(Sockets { tcp, unix, shown }) = self.sockets.take() else {
            return;
        };
        let reception = Arc::new(Reception::new(
            self.workers.clone(),
            gate.clone(),
            self.reception_metrics.clone(),
            tls.cloned(),
        ));
        let desk = reception.clone();
        accepting.spawn(async move { desk.serve_tcp(tcp).await });
        if let Some((listener, file)) = unix {
            let uids = unix_uids.map(<[u32]>::to_vec);
            accepting.spawn(async move { reception.serve_unix(listener, file, uids).await });
        }
        for address in shown {
            tracing::info!(%address, instance = %self.name, "listening");
        }
    }

    /// Waits for the threads, which must have been told to stop.
    pub(super) async fn join(&self) -> Result<(), Error> {
        let workers = self.workers.clone();
        tokio::task::spawn_blocking(move || workers.iter().for_each(Worker::join))
            .await
            .map_err(|e| Error::runtime("cannot wait for the workers", e))
    }
}

fn backend(
    config: &Config,
    watcher: &WatcherHandle,
    credential: &watch::Receiver<CredentialState>,
    trust: &Trust,
) -> Backend {
    let (topology, credential) = (watcher.topology.clone(), credential.clone());
    Backend::new(topology, credential, trust.clone(), config.connect_timeout)
}

/// Why there is no slot map: the credential, or what the watcher says.
fn no_map(watcher: &WatcherHandle, credentials: &CredentialHandle) -> String {
    if let CredentialState::Failed { error } = &*credentials.watch.borrow() {
        return error.to_string();
    }
    match &watcher.status.borrow().error {
        Some(error) => error.to_string(),
        None => "no node gave a cluster map in time".to_owned(),
    }
}

fn start_watcher(
    config: &Config,
    seeds: watch::Receiver<Seeds>,
    credentials: &CredentialHandle,
    credential: &watch::Receiver<CredentialState>,
    trust: &Trust,
    activity: Option<Arc<Activity>>,
) -> WatcherHandle {
    let rejected = credentials.clone();
    watcher::spawn(
        seeds,
        credential.clone(),
        watcher::Settings {
            topology_refresh: config.topology_refresh,
            connect_timeout: config.connect_timeout,
            request_timeout: config.connect_timeout,
            auth_backoff: (config.auth_backoff.min, config.auth_backoff.max),
            trust: trust.clone(),
            activity,
            on_rejected: Some(Arc::new(move |generation| rejected.force_refresh(generation))),
        },
    )
}

fn settings(config: &Config, instance: &Instance) -> Settings {
    Settings {
        op_timeout: config.op_timeout,
        connect_timeout: config.connect_timeout,
        max_redirects: u8::try_from(config.max_redirects).unwrap_or(u8::MAX),
        read_from: instance.read_from,
        auth_backoff_min: config.auth_backoff.min,
        auth_backoff_max: config.auth_backoff.max,
        max_connection_age: config.max_connection_age,
        // The workers share what the instance may do.
        dial_rate_limit: f64::from(config.dial_rate_limit) / config.threads.get() as f64,
        max_request: config.limits.request,
        max_client_output: config.limits.client_output,
        max_pipeline: config.limits.pipeline,
        max_merge: MAX_MERGE,
        client_idle_timeout: config.limits.idle_timeout,
    }
}

/// What `/status` and the probes ask of an instance's workers.
pub(super) struct Inside {
    /// The workers.
    pub workers: Arc<Vec<Worker>>,
    /// Where their clients connect.
    pub listeners: Vec<String>,
}

impl StatusSource for Inside {
    fn listeners(&self) -> Vec<String> {
        self.listeners.clone()
    }

    fn clients(&self) -> u64 {
        self.workers.iter().map(|w| w.sessions() as u64).sum()
    }

    fn nodes(&self) -> Soon<'_, Vec<NodeStatus>> {
        Box::pin(async {
            let mut all: Vec<NodeStatus> = Vec::new();
            for worker in self.workers.iter() {
                for n in worker.nodes().await {
                    let name = n.addr.to_string();
                    let at = all.iter().position(|known| known.node == name).unwrap_or_else(|| {
                        all.push(NodeStatus::idle(name));
                        all.len() - 1
                    });
                    all[at].learn(&n);
                }
            }
            all
        })
    }

    fn alive(&self) -> Result<(), String> {
        match self.workers.iter().position(Worker::has_ended) {
            None => Ok(()),
            Some(i) => Err(format!("worker thread {i} has ended")),
        }
    }
}
