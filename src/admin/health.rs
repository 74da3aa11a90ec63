//! `/startup`, `/liveness`, `/readiness`: yes, or no with the reasons.
//!
//! Invariant: a function of what the proxy knows at that moment. `/startup` cannot fall back once the
//! process is up, because both of its conditions are latches: listening, and a slot map (which is
//! never forgotten and which a node only gives to an authenticated connection). `/liveness` knows
//! nothing of the backend: restarting the proxy does not mend a cluster.

use super::state::AppState;
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
    if state.topology.borrow().is_none() {
        reasons.extend(credential_problem(state));
        reasons.push(no_map(state));
    }
    outcome(reasons)
}

/// Does the process work?
///
/// # Errors
/// What no longer works.
pub fn liveness(state: &AppState) -> Result<(), Unhealthy> {
    state.source.alive().map_err(|reason| Unhealthy(vec![reason]))
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
    match state.topology.borrow().as_deref() {
        None => reasons.push(no_map(state)),
        Some(map) => {
            let covered = map.slots_covered();
            if covered < SLOTS {
                reasons.push(format!(
                    "only {covered} of {SLOTS} slots have an owner: the cluster is down in part"
                ));
            }
        }
    }
    outcome(reasons)
}

fn credential_problem(state: &AppState) -> Option<String> {
    match &*state.credentials.borrow() {
        CredentialState::Ready { .. } | CredentialState::NotNeeded => None,
        CredentialState::Pending => Some("the first credential is awaited".to_owned()),
        CredentialState::Failed { error } => Some(format!("no usable credential: {error}")),
    }
}

fn no_map(state: &AppState) -> String {
    match &state.watcher.borrow().error {
        Some(error) => format!("the cluster map is not known: {error}"),
        None => "the cluster map is not known yet".to_owned(),
    }
}
