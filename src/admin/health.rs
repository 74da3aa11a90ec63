//! `/startup`, `/liveness`, `/readiness`: yes, or no with the reasons.
//!
//! Invariant: a function of what the proxy knows at that moment. `/startup` cannot fall back once the
//! process is up, because both of its conditions are latches: listening, and a slot map (which is
//! never forgotten and which a node only gives to an authenticated connection). `/liveness` knows
//! nothing of the backend: restarting the proxy does not mend a cluster. With `--with-backend-check`
//! the other two also want every primary to answer; a task asks, no probe dials.

use super::state::{AppState, InstanceState};
use crate::cluster::topology::SLOTS;
use crate::credentials::CredentialState;

/// Why a probe fails; at least one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unhealthy(pub Vec<String>);

fn outcome(reasons: Vec<String>) -> Result<(), Unhealthy> {
    if reasons.is_empty() { Ok(()) } else { Err(Unhealthy(reasons)) }
}

/// Has the proxy come up: listeners, first credential, first slot map?
///
/// # Errors
/// What is still awaited.
pub fn startup(state: &AppState) -> Result<(), Unhealthy> {
    let mut reasons = Vec::new();
    if !state.lifecycle.is_listening() {
        reasons.push("not listening for clients yet".to_owned());
    }
    let unknown = |i: &&InstanceState| i.topology.borrow().is_none();
    if state.instances.iter().any(|i| unknown(&i)) {
        reasons.extend(credential_problem(state));
        reasons.extend(state.instances.iter().filter(unknown).map(|i| of(state, i, no_map(i))));
    }
    for instance in &state.instances {
        let never_whole = instance.backend.as_ref().is_some_and(|b| !b.borrow().was_whole);
        if never_whole {
            reasons.extend(silent_nodes(state, instance));
            reasons.push(of(state, instance, "its nodes have not all answered yet".to_owned()));
        }
    }
    outcome(reasons)
}

/// Does the process work?
///
/// # Errors
/// What no longer works.
pub fn liveness(state: &AppState) -> Result<(), Unhealthy> {
    let dead = |i: &InstanceState| i.source.alive().err().map(|reason| of(state, i, reason));
    outcome(state.instances.iter().filter_map(dead).collect())
}

/// Should clients be sent here now?
///
/// # Errors
/// Everything that speaks against it.
pub fn readiness(state: &AppState) -> Result<(), Unhealthy> {
    let mut reasons = Vec::new();
    if state.lifecycle.is_draining() {
        reasons.push("draining: the proxy is stopping".to_owned());
    }
    if !state.lifecycle.is_listening() {
        reasons.push("not listening for clients yet".to_owned());
    }
    reasons.extend(credential_problem(state));
    for instance in &state.instances {
        reasons.extend(map_problem(instance).map(|reason| of(state, instance, reason)));
        reasons.extend(silent_nodes(state, instance));
    }
    outcome(reasons)
}

/// With `--with-backend-check`: who did not answer when last asked.
fn silent_nodes(state: &AppState, instance: &InstanceState) -> Vec<String> {
    let failures = instance.backend.as_ref().map(|b| b.borrow().failures.clone());
    failures.iter().flat_map(|f| f.iter()).map(|f| of(state, instance, f.clone())).collect()
}

fn map_problem(instance: &InstanceState) -> Option<String> {
    let topology = instance.topology.borrow();
    let Some(map) = topology.as_deref() else {
        return Some(no_map(instance));
    };
    let covered = map.slots_covered();
    (covered < SLOTS).then(|| {
        format!("only {covered} of {SLOTS} slots have an owner: the cluster is down in part")
    })
}

/// The reason, with the name of the instance when there are others.
fn of(state: &AppState, instance: &InstanceState, reason: String) -> String {
    if state.instances.len() > 1 { format!("{}: {reason}", instance.name) } else { reason }
}

fn credential_problem(state: &AppState) -> Option<String> {
    match &*state.credentials.borrow() {
        CredentialState::Ready { .. } | CredentialState::NotNeeded => None,
        CredentialState::Pending => Some("the first credential is awaited".to_owned()),
        CredentialState::Failed { error } => Some(format!("no usable credential: {error}")),
    }
}

fn no_map(instance: &InstanceState) -> String {
    match &instance.watcher.borrow().error {
        Some(error) => format!("the cluster map is not known: {error}"),
        None => "the cluster map is not known yet".to_owned(),
    }
}
