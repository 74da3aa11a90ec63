//! `/status`: the proxy's view of the world as JSON, for people and scripts.
//!
//! Invariant: no secret and no user name; times as seconds relative to the answer; a worker that does
//! not tell its connections in time delays the answer by [`NODES_WITHIN`] and no more. Field names are
//! an interface: add, do not rename.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::state::{AppState, NodeStatus};
use crate::cluster::topology::{Mode, Topology};
use crate::cluster::watcher::WatcherStatus;
use crate::credentials::CredentialState;
use crate::telemetry::control::seconds_between;

/// How long the workers may take to tell their connections.
pub const NODES_WITHIN: Duration = Duration::from_secs(1);

/// The answer.
#[derive(Debug, Serialize)]
pub struct Status {
    version: &'static str,
    uptime_seconds: u64,
    listening: bool,
    draining: bool,
    clients: u64,
    credential: CredentialStatus,
    instances: Vec<InstanceStatus>,
}

#[derive(Debug, Serialize)]
struct InstanceStatus {
    name: Arc<str>,
    listeners: Vec<String>,
    clients: u64,
    topology: TopologyStatus,
    /// `null` when the workers did not tell in time.
    nodes: Option<Vec<NodeStatus>>,
}

#[derive(Debug, Default, Serialize)]
struct CredentialStatus {
    state: &'static str,
    source: Option<&'static str>,
    generation: Option<u64>,
    age_seconds: Option<i64>,
    expires_in_seconds: Option<i64>,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct TopologyStatus {
    mode: Option<&'static str>,
    epoch: u64,
    slots_covered: usize,
    shards: Vec<ShardStatus>,
    refreshes: u64,
    refresh_failures: u64,
    answered_by: Option<String>,
    refreshed_seconds_ago: Option<i64>,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct ShardStatus {
    primary: String,
    replicas: Vec<String>,
    /// `first-last`, or one number.
    slots: Vec<String>,
}

/// Gathers the answer.
pub async fn status(state: &AppState) -> Status {
    let deadline = Instant::now() + NODES_WITHIN;
    let mut nodes = Vec::with_capacity(state.instances.len());
    for instance in &state.instances {
        nodes.push(timeout_at(deadline, instance.source.nodes()).await.ok());
    }
    let now = SystemTime::now();
    let instances = state.instances.iter().zip(nodes).map(|(i, nodes)| InstanceStatus {
        name: i.name.clone(),
        listeners: i.source.listeners(),
        clients: i.source.clients(),
        topology: topology(i.topology.borrow().as_deref(), &i.watcher.borrow(), now),
        nodes,
    });
    let instances: Vec<InstanceStatus> = instances.collect();
    Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: now.duration_since(state.started_at).unwrap_or_default().as_secs(),
        listening: state.lifecycle.is_listening(),
        draining: state.lifecycle.is_draining(),
        clients: instances.iter().map(|i| i.clients).sum(),
        credential: credential(&state.credentials.borrow(), now),
        instances,
    }
}

fn whole_seconds(start: SystemTime, end: SystemTime) -> i64 {
    seconds_between(start, end).round() as i64
}

fn credential(state: &CredentialState, now: SystemTime) -> CredentialStatus {
    let bare = |state| CredentialStatus { state, ..CredentialStatus::default() };
    match state {
        CredentialState::Pending => bare("pending"),
        CredentialState::NotNeeded => bare("not_needed"),
        CredentialState::Failed { error } => {
            CredentialStatus { error: Some(error.to_string()), ..bare("failed") }
        }
        CredentialState::Ready { credential, refresh_error } => CredentialStatus {
            state: "ready",
            source: Some(credential.source),
            generation: Some(credential.generation),
            age_seconds: Some(whole_seconds(credential.obtained_at, now)),
            expires_in_seconds: credential.expires_at.map(|end| whole_seconds(now, end)),
            error: refresh_error.as_ref().map(ToString::to_string),
        },
    }
}

fn topology(
    topology: Option<&Topology>,
    watcher: &WatcherStatus,
    now: SystemTime,
) -> TopologyStatus {
    let shards = topology.map_or_else(Vec::new, |t| {
        t.shards
            .iter()
            .zip(t.slot_ranges())
            .map(|(shard, ranges)| ShardStatus {
                primary: shard.primary.to_string(),
                replicas: shard.replicas.iter().map(ToString::to_string).collect(),
                slots: ranges.into_iter().map(range_text).collect(),
            })
            .collect()
    });
    TopologyStatus {
        mode: topology.map(|t| match t.mode {
            Mode::Cluster => "cluster",
            Mode::Standalone => "standalone",
        }),
        epoch: topology.map_or(0, |t| t.epoch),
        slots_covered: topology.map_or(0, Topology::slots_covered),
        shards,
        refreshes: watcher.refreshes,
        refresh_failures: watcher.failures,
        answered_by: watcher.answered_by.as_ref().map(ToString::to_string),
        refreshed_seconds_ago: watcher.refreshed_at.map(|at| whole_seconds(at, now)),
        error: watcher.error.as_ref().map(ToString::to_string),
    }
}

fn range_text((first, last): (u16, u16)) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}
