//! What the HTTP side reads: `watch` channels, latches, and what the app tells through a trait.
//!
//! Invariant: reading never blocks the writer. It decides nothing (see `health`) and holds no socket.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use serde::Serialize;
use tokio::sync::watch;

use crate::cluster::backend::BackendStatus;
use crate::cluster::topology::Topology;
use crate::cluster::watcher::WatcherStatus;
use crate::credentials::CredentialState;

/// Steps of the process's life. Each is a latch: once set it stays.
#[derive(Debug, Default)]
pub struct Lifecycle {
    listening: AtomicBool,
    draining: AtomicBool,
}

impl Lifecycle {
    /// All client listeners accept.
    pub fn set_listening(&self) {
        self.listening.store(true, Ordering::Release);
    }

    /// True once all client listeners accept.
    pub fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Acquire)
    }

    /// The process is stopping: no new clients should be sent here.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// True once the process is stopping.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// Connections to one node, all workers together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// `host:port`.
    pub node: String,
    /// Connections that take commands.
    pub ready: u64,
    /// Connections being dialled or authenticated.
    pub connecting: u64,
    /// Commands sent and not answered.
    pub in_flight: u64,
    /// `ready`: carries commands; `connecting`; `backoff`: refused or failed, and is left alone for a
    /// while; `idle`: nobody needed it.
    pub state: &'static str,
    /// Since when its oldest connection is authenticated.
    pub authenticated_seconds_ago: Option<u64>,
    /// When a connection will be authenticated again, or replaced.
    pub next_renewal_in_seconds: Option<u64>,
    /// For how long it is left alone.
    pub backoff_seconds: Option<u64>,
    /// Why the last connection failed or ended, without anything secret.
    pub last_error: Option<String>,
}

impl NodeStatus {
    /// A node without connections.
    pub fn idle(node: String) -> Self {
        Self {
            node,
            ready: 0,
            connecting: 0,
            in_flight: 0,
            state: "idle",
            authenticated_seconds_ago: None,
            next_renewal_in_seconds: None,
            backoff_seconds: None,
            last_error: None,
        }
    }

    /// Adds what one worker says of the node.
    pub fn learn(&mut self, n: &crate::worker::hub::NodeStatus) {
        self.ready += n.ready as u64;
        self.connecting += n.connecting as u64;
        self.in_flight += n.in_flight as u64;
        if let Some(error) = &n.last_error {
            self.last_error = Some(error.to_string());
        }
        let seconds = |ms: u64| ms.div_ceil(1000);
        let both = |a: Option<u64>, b: Option<u64>, pick: fn(u64, u64) -> u64| match (a, b) {
            (Some(a), Some(b)) => Some(pick(a, b)),
            (a, b) => a.or(b),
        };
        let since = n.authenticated_ms_ago.map(|ms| ms / 1000);
        self.authenticated_seconds_ago = both(self.authenticated_seconds_ago, since, u64::max);
        let renewal = n.next_renewal_in_ms.map(seconds);
        self.next_renewal_in_seconds = both(self.next_renewal_in_seconds, renewal, u64::min);
        self.backoff_seconds = both(self.backoff_seconds, n.backoff_ms.map(seconds), u64::max);
        self.state = match (self.ready > 0, self.backoff_seconds, self.connecting > 0) {
            (true, ..) => "ready",
            (false, Some(_), _) => "backoff",
            (false, None, true) => "connecting",
            (false, None, false) => "idle",
        };
    }
}

/// A value that may take a worker's answer to get.
pub type Soon<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What only the app knows.
pub trait StatusSource: Send + Sync {
    /// Bound addresses of the client listeners: `127.0.0.1:6379`, `unix:/run/redis.sock`.
    fn listeners(&self) -> Vec<String>;

    /// Client connections open now.
    fn clients(&self) -> u64;

    /// Connections per node; for `/status` only, so it may ask the workers.
    fn nodes(&self) -> Soon<'_, Vec<NodeStatus>>;

    /// Whether the process works at all: an error (a worker thread ended) makes `/liveness` fail, so
    /// that the process is restarted. It must not depend on nodes, tokens or the network.
    ///
    /// # Errors
    /// What no longer works.
    fn alive(&self) -> Result<(), String> {
        Ok(())
    }
}

/// One instance as the HTTP side sees it.
pub struct InstanceState {
    /// What it is called.
    pub name: Arc<str>,
    /// The current slot map.
    pub topology: watch::Receiver<Option<Arc<Topology>>>,
    /// What the watcher last did.
    pub watcher: watch::Receiver<WatcherStatus>,
    /// Whether its primaries answer; only with `--with-backend-check`.
    pub backend: Option<watch::Receiver<BackendStatus>>,
    /// Listeners, clients, connections.
    pub source: Arc<dyn StatusSource>,
}

/// Everything the HTTP side reads.
pub struct AppState {
    /// The current credential.
    pub credentials: watch::Receiver<CredentialState>,
    /// What is served.
    pub instances: Vec<InstanceState>,
    /// Listening and draining.
    pub lifecycle: Arc<Lifecycle>,
    /// When the process started.
    pub started_at: SystemTime,
}
