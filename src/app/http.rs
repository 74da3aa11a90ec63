//! Starts the HTTP servers: health, metrics and status on one port, `/quitquitquit` on another.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::instance::{Inside, Running};
use crate::admin::state::{AppState, InstanceState, Lifecycle};
use crate::admin::{quit, server};
use crate::config::Config;
use crate::credentials::sources::SourceKind;
use crate::credentials::task::CredentialHandle;
use crate::error::Error;
use crate::telemetry::control::{MapSources, ProcessSources, SourceCounts};
use crate::telemetry::scrape::{InstanceSources, Scrape};

/// What the HTTP side shows.
pub(super) struct Shown<'a> {
    /// The settings.
    pub config: &'a Config,
    /// The one credential.
    pub credentials: &'a CredentialHandle,
    /// The instances.
    pub instances: &'a [Running],
    /// Listening and draining.
    pub lifecycle: &'a Arc<Lifecycle>,
}

/// Serves probes, metrics and status until `stop`, as far as the flags want them.
pub(super) async fn start(
    shown: &Shown<'_>,
    stop: &CancellationToken,
) -> Result<Option<JoinHandle<()>>, Error> {
    let Shown { config, credentials, instances, lifecycle } = *shown;
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
    let scrape = match config.http.prometheus {
        false => None,
        true => Some(
            scrape(credentials, instances, started_at)
                .map_err(|e| Error::runtime("cannot set up the metrics", e))?,
        ),
    };
    let state = AppState {
        credentials: credentials.watch.clone(),
        instances: instances
            .iter()
            .map(|i| InstanceState {
                name: i.name.clone(),
                topology: i.watcher.topology.clone(),
                watcher: i.watcher.status.clone(),
                backend: i.backend.clone(),
                source: Arc::new(Inside {
                    workers: i.workers.clone(),
                    listeners: i.listeners.clone(),
                }),
            })
            .collect(),
        lifecycle: lifecycle.clone(),
        started_at,
    };
    let router = server::router(Arc::new(state), config.http.health_check, scrape);
    // Probes are answered until the very end: a draining proxy is alive and not ready.
    Ok(Some(serve(socket, router, stop.clone())))
}

/// Serves `/quitquitquit`, if it is wanted, on localhost.
pub(super) async fn start_admin(
    port: Option<u16>,
    quit: Arc<Notify>,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let Some(port) = port else {
        return Ok(());
    };
    let socket = TcpListener::bind(("127.0.0.1", port)).await.map_err(|e| {
        Error::runtime(
            format!("cannot listen for /quitquitquit on 127.0.0.1:{port} (--admin-port)"),
            e,
        )
    })?;
    if let Ok(address) = socket.local_addr() {
        tracing::info!(%address, "serving /quitquitquit");
    }
    // Until the process is gone: whoever asked waits for that.
    drop(serve(socket, quit::router(quit), stop.clone()));
    Ok(())
}

fn serve(socket: TcpListener, router: axum::Router, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let stopped = async move { stop.cancelled().await };
        if let Err(error) = server::serve(socket, router, stopped).await {
            tracing::error!(%error, "the HTTP side ended");
        }
    })
}

fn scrape(
    credentials: &CredentialHandle,
    instances: &[Running],
    started_at: SystemTime,
) -> prometheus::Result<Scrape> {
    let counts = credentials.counters.clone();
    let process = ProcessSources {
        credentials: credentials.watch.clone(),
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
    let instances = instances.iter().map(|i| InstanceSources {
        name: i.name.clone(),
        threads: i.metrics.iter().cloned().chain([i.reception_metrics.clone()]).collect(),
        map: MapSources {
            resting: i.resting.clone(),
            topology: i.watcher.topology.clone(),
            watcher: i.watcher.status.clone(),
        },
    });
    Scrape::new(process, instances.collect())
}
