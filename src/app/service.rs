//! What systemd is told, when it started us (`Type=notify`): that we are up, stopping, alive.
//!
//! Without systemd (no `NOTIFY_SOCKET`) nothing happens.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinHandle;

use super::instance::Running;
use crate::worker::Worker;

/// The proxy listens. The returned task feeds the watchdog, while every worker answers.
pub(super) fn started(instances: &[Running]) -> JoinHandle<()> {
    tell(NotifyState::Ready);
    let workers: Vec<Arc<Vec<Worker>>> = instances.iter().map(|i| i.workers.clone()).collect();
    tokio::spawn(async move {
        if let Some(limit) = sd_notify::watchdog_enabled() {
            feed(&workers, limit).await;
        }
    })
}

/// The proxy was asked to stop.
pub(super) fn stopping() {
    tell(NotifyState::Stopping);
}

/// A worker that hangs or has ended starves the watchdog, so that systemd restarts the process.
async fn feed(workers: &[Arc<Vec<Worker>>], limit: Duration) {
    let mut beat = tokio::time::interval(limit / 3);
    loop {
        beat.tick().await;
        for worker in workers.iter().flat_map(|all| all.iter()) {
            worker.nodes().await;
        }
        if workers.iter().flat_map(|all| all.iter()).all(|w| !w.has_ended()) {
            tell(NotifyState::Watchdog);
        }
    }
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("systemd cannot be told of our state: {error}");
    }
}
