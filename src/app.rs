//! Wiring: what is started, in which order, and how it stops.
//!
//! The control thread (this one) runs the credential task, the slot-map watchers, the listeners and
//! the HTTP side; the workers run everything a command touches. Invariant: listeners are bound
//! before anything is minted or dialled, so that a client that starts first is not refused, and the
//! exit is decided by the first cause alone.

pub mod access;
mod http;
mod instance;
mod limits;
mod line;
mod service;
mod stop;
mod tls;
pub mod upstream;

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::state::Lifecycle;
use crate::config::Config;
use crate::credentials::task::{self, CredentialHandle};
use crate::env::Environment;
use crate::error::{Error, chain};
use crate::listener::Gate;
use crate::worker::Worker;
use http::Shown;
use instance::{Running, Shared, Sockets};
use stop::{Cause, Stop};
use upstream::{Upstream, for_whom};

/// Runs the proxy until a signal or `/quitquitquit` stops it.
///
/// # Errors
/// What could not be had at start: an address, a thread, a name; [`Error::Signal`] for a signal.
pub fn run(config: Config, env: Environment) -> Result<(), Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::runtime("cannot start the control thread", e))?
        .block_on(serve(config, env))
}

async fn serve(config: Config, env: Environment) -> Result<(), Error> {
    let mut stop = Stop::listen()?;
    let (clients, budget) = (limits::clients(&config.limits), limits::budget(&config.limits));
    let skip = config.lifecycle.skip_failed_instance_config;
    let mut bound = Vec::new();
    for instance in &config.instances {
        let sockets = Sockets::bind(&instance.listen).map(|sockets| (instance, sockets));
        bound.extend(usable(sockets, skip, &instance.name)?);
    }
    let mut options = task::Options::new(config.upstream_username.clone(), config.auth_backoff);
    options.activity = config.lifecycle.lazy_refresh.then(Arc::default);
    let credentials = task::start(&config.credential_source, options, &env);
    // Workers end by the first, the HTTP servers by the second.
    let (workers_end, servers_end) = (CancellationToken::new(), CancellationToken::new());
    let for_whom = for_whom(&config, &credentials, &env);
    let local_tls = tls::local(&config).await?;
    let rules = access::follow(&config).await?;
    let shared = Shared {
        config: &config,
        credentials: &credentials,
        rules: &rules,
        budget: &budget,
        stop: &workers_end,
    };
    let mut instances = Vec::new();
    for (instance, sockets) in bound {
        let upstream = Upstream::of(&config, instance, &for_whom).await?;
        let running = Running::start(&shared, instance, sockets, upstream)?;
        instances.push(running);
    }
    if config.lifecycle.run_connection_test {
        instances = tested(instances, &config, &credentials).await?;
    }
    if instances.is_empty() {
        return Err(Error::runtime("no instance could be set up", "the log says why"));
    }

    let lifecycle = Arc::new(Lifecycle::default());
    let shown = Shown {
        config: &config,
        credentials: &credentials,
        instances: &instances,
        lifecycle: &lifecycle,
    };
    let http = http::start(&shown, &servers_end).await?;
    http::start_admin(config.lifecycle.quitquitquit, stop.quit.clone(), &servers_end).await?;
    let gate = Arc::new(Gate::new(clients));
    let mut accepting = JoinSet::new();
    for instance in &mut instances {
        let uids = config.access.unix_uids.as_deref();
        instance.accept(&mut accepting, &gate, local_tls.as_ref(), uids);
    }
    lifecycle.set_listening();
    let watchdog = service::started(&instances);

    let cause = tokio::select! {
        cause = stop.next() => cause,
        () = a_worker_ends(&instances) => Cause::Broken,
    };
    service::stopping();
    lifecycle.set_draining();
    drain(&config, cause, &mut stop, accepting, &workers_end, &instances).await?;
    watchdog.abort();
    servers_end.cancel();
    if let Some(http) = http {
        http.abort();
    }
    cause.outcome(config.lifecycle.exit_zero_on_sigterm)
}

/// Waits until the thread of some worker is gone.
async fn a_worker_ends(instances: &[Running]) {
    let workers = instances.iter().flat_map(|instance| instance.workers.iter());
    let mut ends: JoinSet<()> = workers.map(Worker::ended).collect();
    ends.join_next().await;
}

/// What an instance came to; a failure ends the process unless it may be skipped.
fn usable<T>(outcome: Result<T, Error>, skip: bool, name: &str) -> Result<Option<T>, Error> {
    match outcome {
        Ok(it) => Ok(Some(it)),
        Err(error) if skip => {
            tracing::error!(instance = %name, "skipped (--skip-failed-instance-config): {}", chain(&error));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Those instances whose nodes answer.
async fn tested(
    instances: Vec<Running>,
    config: &Config,
    credentials: &CredentialHandle,
) -> Result<Vec<Running>, Error> {
    let mut good = Vec::with_capacity(instances.len());
    for instance in instances {
        let outcome = instance.test_connection(config, credentials).await;
        let skip = config.lifecycle.skip_failed_instance_config;
        if usable(outcome, skip, &instance.name)?.is_some() {
            tracing::info!(instance = %instance.name, "connection test passed");
            good.push(instance);
        }
    }
    Ok(good)
}

/// Stops: clients are taken for `--min-sigterm-delay` more, then what they are owed has
/// `--max-sigterm-delay` to leave. Another signal cuts the waiting short.
async fn drain(
    config: &Config,
    cause: Cause,
    stop: &mut Stop,
    mut accepting: JoinSet<()>,
    workers_end: &CancellationToken,
    instances: &[Running],
) -> Result<(), Error> {
    let delay = config.lifecycle.min_sigterm_delay;
    if !delay.is_zero() {
        let shown = humantime::format_duration(delay);
        tracing::info!(
            "stopping on {cause}: clients are taken for {shown} more (--min-sigterm-delay)"
        );
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            _ = stop.next() => {}
        }
    }
    tracing::info!("stopping on {cause}: finishing the replies and transactions that are due");
    accepting.shutdown().await;
    workers_end.cancel();
    let joined = async {
        for instance in instances {
            instance.join().await?;
        }
        Ok(())
    };
    tokio::select! {
        outcome = joined => outcome,
        again = stop.next() => {
            tracing::warn!("{again} while stopping: clients that are still served are cut off");
            Ok(())
        }
    }
}
