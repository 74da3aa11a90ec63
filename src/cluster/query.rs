//! Asking one node for its slot map.
//!
//! Invariant: one node is asked over one connection that the caller opened; what counts as an answer
//! is `discovery`'s to say. It does not dial, authenticate or choose the node (see `watcher`).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::discovery::{DiscoveryError, SlotMap, parse_shards, parse_slots, says_no_cluster};
use super::topology::{NodeAddr, Server};
use crate::resp::value::Value;
use crate::upstream::client::{Client, ClientError};

/// Why one node gave no map.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the slot map of {addr} is unusable: {cause}")]
    Map { addr: NodeAddr, cause: DiscoveryError },
    #[error("{addr}, a node of the cluster, now says that it has no cluster support")]
    LeftCluster { addr: NodeAddr },
    #[error("the cluster's endpoint is not known: {0}")]
    NoSeeds(Arc<str>),
    #[error("there is no credential to authenticate with: {0}")]
    NoCredential(Arc<str>),
}

impl AskError {
    /// True when another node would say the same about the credential.
    pub(super) fn is_auth_fault(&self) -> bool {
        match self {
            Self::Client(e) => e.is_auth_fault(),
            Self::NoCredential(_) => true,
            Self::Map { .. } | Self::LeftCluster { .. } | Self::NoSeeds(_) => false,
        }
    }
}

/// Reads the map by CLUSTER SHARDS, and where a server lacks it (before Redis 7.0) CLUSTER SLOTS.
pub(super) async fn read_map(
    client: &mut Client,
    prefer_tls: bool,
    timeout: Duration,
) -> Result<SlotMap, AskError> {
    let addr = client.addr().clone();
    let deadline = || Instant::now() + timeout;
    let unusable = |cause| AskError::Map { addr: addr.clone(), cause };
    let shards_error = match client.call(&[b"CLUSTER", b"SHARDS"], deadline()).await {
        Ok(reply) => match parse_shards(&reply, &addr, prefer_tls) {
            Ok(map) => return Ok(map),
            Err(DiscoveryError::NoSlots) => return Err(unusable(DiscoveryError::NoSlots)),
            Err(cause) => Some(unusable(cause)),
        },
        Err(ClientError::Server { .. }) => None,
        Err(e) => return Err(e.into()),
    };
    match client.call(&[b"CLUSTER", b"SLOTS"], deadline()).await {
        Ok(reply) => parse_slots(&reply, &addr).map_err(unusable),
        Err(ClientError::Server { text, .. })
            if shards_error.is_none() && says_no_cluster(&text) =>
        {
            Ok(SlotMap::standalone(&addr))
        }
        Err(e) => Err(shards_error.unwrap_or(e.into())),
    }
}

/// The map as one node tells it, for people.
///
/// # Errors
/// Why there is none, in words.
pub async fn ask_map(
    client: &mut Client,
    prefer_tls: bool,
    timeout: Duration,
) -> Result<SlotMap, String> {
    read_map(client, prefer_tls, timeout).await.map_err(|error| error.to_string())
}

/// What the server calls itself, if it says so.
pub(super) async fn read_server(client: &mut Client, timeout: Duration) -> Option<Server> {
    let reply = client.call(&[b"HELLO"], Instant::now() + timeout).await.ok()?;
    let text = |name: &str| reply.field(name).and_then(Value::as_str).map(Arc::from);
    Some(Server { name: text("server")?, version: text("version")? })
}

/// The first few errors of a round.
pub(super) fn summary(errors: &[AskError]) -> String {
    const SHOWN: usize = 3;
    let mut text = match errors {
        [] => return "there is no node to ask".to_owned(),
        shown => shown.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join("; "),
    };
    if errors.len() > SHOWN {
        text.push_str(&format!("; and {} other nodes failed", errors.len() - SHOWN));
    }
    text
}
