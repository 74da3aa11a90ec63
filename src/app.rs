//! Wiring: what is started, in which order, and how it stops.
//!
//! The control thread (this one) runs the credential task, the slot-map watcher, the listeners and
//! the HTTP side; the workers run everything a command touches. Invariant: listeners are bound
//! before anything is minted or dialled, so that a client that starts first is not refused, and the
//! exit is decided by the first cause alone.

mod tls;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::admin::server;
use crate::admin::state::{AppState, Lifecycle, NodeStatus, Soon, StatusSource};
use crate::cluster::refresh::Reason;
use crate::cluster::watcher::{self, WatcherHandle};
use crate::config::{Config, Endpoint};
use crate::credentials::sources::SourceKind;
use crate::credentials::task::{self, CredentialHandle};
use crate::env::Environment;
use crate::error::Error;
use crate::listener::{self, Reception};
use crate::telemetry::control::{ControlSources, SourceCounts, registry};
use crate::telemetry::metrics::WorkerMetrics;
use crate::upstream::tls::Trust;
use crate::worker::hub::{Counters, Settings};
use crate::worker::io::Control;
use crate::worker::{Feeds, Worker, introduce};

/// How long replies that are due may take when the process stops.
const GRACE: Duration = Duration::from_secs(10);

/// Largest request taken from a client (bytes): one value of 512 MB and its command around it.
const MAX_REQUEST: usize = 1 << 30;

/// A client that leaves more than this unread (bytes) is disconnected.
const MAX_CLIENT_OUTPUT: usize = 256 << 20;

/// Most the nodes' replies to one command may hold together while they are merged (bytes); KEYS of more
/// is refused.
const MAX_MERGE: usize = 256 << 20;

/// Runs the proxy until a signal stops it.
///
/// # Errors
/// What could not be had at start: an address, a thread, a name.
pub fn run(config: Config, env: Environment) -> Result<(), Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::runtime("cannot start the control thread", e))?
        .block_on(serve(config, env))
}

async fn serve(config: Config, env: Environment) -> Result<(), Error> {
    let seeds = match config.endpoint.clone() {
        Endpoint::Seeds(seeds) => seeds,
        Endpoint::Resource(name) => {
            return Err(Error::config(format!(
                "the endpoint {name} is a resource name, which is not supported yet: give the \
                 discovery endpoint as HOST:PORT"
            )));
        }
    };
    let address = (config.listen.address, config.listen.port).into();
    let tcp = listener::bind_tcp(address).map_err(|e| {
        Error::runtime(
            format!("cannot listen on {address} (--address, --port; --port=0 takes a free one)"),
            e,
        )
    })?;
    let bound = tcp.local_addr().map_err(|e| Error::runtime("cannot read the bound address", e))?;
    let unix = match &config.listen.unix_socket {
        None => None,
        Some(u) => Some(listener::bind_unix(&u.path, u.mode).map_err(|e| {
            Error::runtime(format!("cannot listen on {} (--unix-socket)", u.path.display()), e)
        })?),
    };

    let trust = tls::trust(&config, &seeds).await?;
    let local_tls = tls::local(&config).await?;
    let options = task::Options::new(config.upstream_username.clone(), config.auth_backoff);
    let credentials = task::start(&config.credential_source, options, &env);
    let watcher = start_watcher(&config, seeds, &credentials, &trust);
    let stop = CancellationToken::new();
    let metrics: Vec<Arc<WorkerMetrics>> =
        (0..config.threads.get()).map(|_| Arc::default()).collect();
    let workers =
        Arc::new(start_workers(&config, &metrics, &credentials, &watcher, &trust, &stop)?);
    introduce(&workers);

    let mut listeners = vec![bound.to_string()];
    listeners
        .extend(config.listen.unix_socket.iter().map(|u| format!("unix:{}", u.path.display())));
    let lifecycle = Arc::new(Lifecycle::default());
    let http = start_http(
        &config,
        &metrics,
        &credentials,
        &watcher,
        &lifecycle,
        &workers,
        &listeners,
        &stop,
    )
    .await?;

    let reception = Arc::new(Reception::new(workers.clone(), local_tls));
    let mut accepting = tokio::task::JoinSet::new();
    let desk = reception.clone();
    accepting.spawn(async move { desk.serve_tcp(tcp).await });
    let mut socket_file = None;
    if let (Some((listener, file)), Some(u)) = (unix, &config.listen.unix_socket) {
        let (desk, path) = (reception.clone(), u.path.clone());
        accepting.spawn(async move { desk.serve_unix(listener, &path).await });
        socket_file = Some(file);
    }
    lifecycle.set_listening();
    for address in &listeners {
        tracing::info!(%address, "listening");
    }

    let name = stop_signal().await?;
    tracing::info!("stopping on {name}: finishing the replies that are due");
    lifecycle.set_draining();
    accepting.shutdown().await;
    drop(socket_file);
    stop.cancel();
    tokio::task::spawn_blocking(move || {
        for worker in workers.iter() {
            worker.join();
        }
    })
    .await
    .map_err(|e| Error::runtime("cannot wait for the workers", e))?;
    if let Some(http) = http {
        http.abort();
    }
    Ok(())
}

async fn stop_signal() -> Result<&'static str, Error> {
    let hook = |kind| signal(kind).map_err(|e| Error::runtime("cannot wait for signals", e));
    let (mut term, mut int) = (hook(SignalKind::terminate())?, hook(SignalKind::interrupt())?);
    Ok(tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    })
}

fn start_watcher(
    config: &Config,
    seeds: Vec<crate::cluster::topology::NodeAddr>,
    credentials: &CredentialHandle,
    trust: &Trust,
) -> WatcherHandle {
    let rejected = credentials.clone();
    watcher::spawn(
        seeds,
        credentials.watch.clone(),
        watcher::Settings {
            topology_refresh: config.topology_refresh,
            connect_timeout: config.connect_timeout,
            request_timeout: config.connect_timeout,
            auth_backoff: (config.auth_backoff.min, config.auth_backoff.max),
            trust: trust.clone(),
            on_rejected: Some(Arc::new(move |generation| rejected.force_refresh(generation))),
        },
    )
}

fn start_workers(
    config: &Config,
    metrics: &[Arc<WorkerMetrics>],
    credentials: &CredentialHandle,
    watcher: &WatcherHandle,
    trust: &Trust,
    stop: &CancellationToken,
) -> Result<Vec<Worker>, Error> {
    let settings = Settings {
        op_timeout: config.op_timeout,
        connect_timeout: config.connect_timeout,
        max_redirects: u8::try_from(config.max_redirects).unwrap_or(u8::MAX),
        read_from: config.read_from,
        auth_backoff_min: config.auth_backoff.min,
        auth_backoff_max: config.auth_backoff.max,
        max_connection_age: config.max_connection_age,
        // The workers share what the process may do.
        dial_rate_limit: f64::from(config.dial_rate_limit) / config.threads.get() as f64,
        max_request: MAX_REQUEST,
        max_client_output: MAX_CLIENT_OUTPUT,
        max_merge: MAX_MERGE,
    };
    metrics
        .iter()
        .enumerate()
        .map(|(i, metrics)| {
            let control = Arc::new(Line {
                credentials: credentials.clone(),
                watcher: watcher.clone(),
                metrics: metrics.clone(),
            });
            let feeds = Feeds {
                topology: watcher.topology.clone(),
                credential: credentials.watch.clone(),
                trust: trust.clone(),
            };
            Worker::start(i, settings.clone(), feeds, control, stop.clone(), GRACE)
                .map_err(|e| Error::runtime("cannot start a worker thread (--threads)", e))
        })
        .collect()
}

#[allow(clippy::too_many_arguments, reason = "wiring: each is one thing the HTTP side shows")]
async fn start_http(
    config: &Config,
    metrics: &[Arc<WorkerMetrics>],
    credentials: &CredentialHandle,
    watcher: &WatcherHandle,
    lifecycle: &Arc<Lifecycle>,
    workers: &Arc<Vec<Worker>>,
    listeners: &[String],
    stop: &CancellationToken,
) -> Result<Option<tokio::task::JoinHandle<()>>, Error> {
    if !config.http.enabled() {
        return Ok(None);
    }
    let started_at = SystemTime::now();
    let socket = server::bind(&config.http.address.to_string(), config.http.port)
        .await
        .map_err(|e| Error::runtime("cannot start the HTTP side", e))?;
    if let Ok(address) = socket.local_addr() {
        tracing::info!(%address, "serving health checks and metrics");
    }
    let registry = if config.http.prometheus {
        let counts = credentials.counters.clone();
        let sources = ControlSources {
            credentials: credentials.watch.clone(),
            topology: watcher.topology.clone(),
            watcher: watcher.status.clone(),
            credential_counts: Arc::new(move || {
                SourceKind::ALL
                    .into_iter()
                    .map(|kind| SourceCounts {
                        source: kind.name(),
                        refreshes: counts.refreshes(kind),
                        failures: counts.failures(kind),
                    })
                    .collect()
            }),
            started_at,
        };
        let registry = registry(metrics.to_vec(), sources)
            .map_err(|e| Error::runtime("cannot set up the metrics", e))?;
        Some(registry)
    } else {
        None
    };
    let state = AppState {
        credentials: credentials.watch.clone(),
        topology: watcher.topology.clone(),
        watcher: watcher.status.clone(),
        lifecycle: lifecycle.clone(),
        source: Arc::new(Inside { workers: workers.clone(), listeners: listeners.to_vec() }),
        started_at,
    };
    let router = server::router(Arc::new(state), config.http.health_check, registry);
    let stop = stop.clone();
    Ok(Some(tokio::spawn(async move {
        // Probes are answered until the very end: a draining proxy is alive and not ready.
        let stopped = async move { stop.cancelled().await };
        if let Err(error) = server::serve(socket, router, stopped).await {
            tracing::error!(%error, "the HTTP side ended");
        }
    })))
}

/// A worker's line to the control thread.
#[derive(Debug)]
struct Line {
    credentials: CredentialHandle,
    watcher: WatcherHandle,
    metrics: Arc<WorkerMetrics>,
}

impl Control for Line {
    fn refresh(&self, reason: Reason) {
        self.watcher.request_refresh(reason);
    }

    fn credential_rejected(&self, generation: u64) {
        self.credentials.force_refresh(generation);
    }

    fn credential_wanted(&self) {
        self.credentials.wanted();
    }

    fn observe(&self, turn_us: Option<u64>, upstream_us: &[u64]) {
        let latencies = &self.metrics.latencies;
        if let Some(us) = turn_us {
            latencies.turn.observe(us);
        }
        upstream_us.iter().for_each(|&us| latencies.upstream.observe(us));
    }

    fn publish(&self, c: &Counters, sessions: usize) {
        let m = &*self.metrics;
        m.client_connections.set(sessions as u64);
        m.client_connections_total.set(c.clients);
        m.commands.set(c.commands);
        m.replies.set(c.replies);
        m.client_bytes_in.set(c.client_bytes_in);
        m.client_bytes_out.set(c.client_bytes_out);
        m.client_writes.set(c.client_writes);
        m.upstream_bytes_in.set(c.upstream_bytes_in);
        m.upstream_bytes_out.set(c.upstream_bytes_out);
        m.upstream_writes.set(c.upstream_writes);
        m.error_replies_deadline.set(c.fail_deadline);
        m.error_replies_maybe_executed.set(c.fail_maybe_executed);
        m.error_replies_redirects.set(c.fail_redirects);
        m.error_replies_protocol.set(c.protocol_errors);
        m.error_replies_output_limit.set(c.output_limit);
        m.error_replies_other.set(
            c.error_replies
                .saturating_sub(c.fail_deadline + c.fail_maybe_executed + c.fail_redirects),
        );
        m.dials_ok.set(c.dials_ok);
        m.dials_failed.set(c.dials_failed);
        m.auth_ok.set(c.auth_ok);
        m.auth_wrongpass.set(c.auth_wrongpass);
        m.auth_exhausted.set(c.auth_exhausted);
        m.auth_other.set(c.auth_other);
        m.auth_noauth.set(c.noauth);
        m.redirects_moved.set(c.moved);
        m.redirects_ask.set(c.ask);
        m.retries_tryagain.set(c.retries_tryagain);
        m.retries_clusterdown.set(c.retries_clusterdown);
        m.retries_loading.set(c.retries_loading);
        m.retries_role.set(c.retries_role);
        m.retries_noauth.set(c.retries_noauth);
        m.retries_lost.set(c.retries_lost);
        m.retries_noroute.set(c.retries_noroute);
        m.retries_noscript.set(c.retries_noscript);
        m.renewals.set(c.reauths);
        m.retirements.set(c.retirements);
        m.nodes_in_backoff.set(c.nodes_in_backoff);
        m.messages.set(c.messages);
        m.subscriptions.set(c.subscriptions);
        m.retries_replica.set(c.retries_replica);
        m.replica_reads.set(c.reads_replica);
        m.replica_reads_fallback.set(c.reads_fallback);
        m.upstream_connecting.set(c.pipes_connecting);
        m.upstream_ready.set(c.pipes_ready.saturating_sub(c.pipes_retiring));
        m.upstream_draining.set(c.pipes_retiring);
    }
}

/// What `/status` asks of the workers.
struct Inside {
    workers: Arc<Vec<Worker>>,
    listeners: Vec<String>,
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
                        all.push(NodeStatus {
                            node: name,
                            ready: 0,
                            connecting: 0,
                            in_flight: 0,
                            state: "idle",
                            authenticated_seconds_ago: None,
                            next_renewal_in_seconds: None,
                            backoff_seconds: None,
                            last_error: None,
                        });
                        all.len() - 1
                    });
                    all[at].ready += n.ready as u64;
                    all[at].connecting += n.connecting as u64;
                    all[at].in_flight += n.in_flight as u64;
                    all[at].learn(&n);
                    if let Some(error) = n.last_error {
                        all[at].last_error = Some(error.to_string());
                    }
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
