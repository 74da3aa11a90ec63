//! What the proxy holds on to: file descriptors, connections, threads and memory, before a run and
//! after it.

use std::time::Duration;

use crate::support::bed::Bed;
use crate::support::wait::holds;

/// Time for idle connections to come of age and go.
const PATIENCE: Duration = Duration::from_secs(30);
/// Connections to a node that may stay: each RESP version's shared one, a subscriber, idle ones of
/// blocking commands, for each of two threads.
const CONNECTIONS_A_NODE: u64 = 12;
/// What resident memory may grow by from its first measure to its last (bytes): allocators keep what
/// bursts have needed.
const GROWTH: u64 = 48 << 20;

/// What nodes know of clients: nothing may be left of it.
const OF_CLIENTS: [&str; 4] =
    ["blocked_clients", "pubsub_channels", "pubsub_patterns", "pubsubshard_channels"];

/// What it held at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Resources {
    files: u64,
    upstream: u64,
    threads: u64,
}

impl Resources {
    /// What it holds now.
    pub async fn of(bed: &Bed) -> Self {
        let upstream = bed.proxy.metric("memorystore_proxy_upstream_connections", &[]).await;
        Self {
            files: bed.proxy.open_files(),
            upstream: upstream.unwrap_or_default() as u64,
            threads: bed.proxy.threads(),
        }
    }

    /// Files that are no connections to nodes.
    fn others(&self) -> u64 {
        self.files.saturating_sub(self.upstream)
    }

    /// Holds what was there before all clients came against what is there after all have gone.
    pub async fn judge(self, bed: &Bed, memory: &[u64]) -> Vec<String> {
        let mut objections = Vec::new();
        let clients = async || bed.proxy.metric("memorystore_proxy_client_connections", &[]).await;
        if !holds(PATIENCE, async || clients().await == Some(0.0)).await {
            let left = clients().await;
            objections.push(format!("leak: {left:?} client connections are left"));
        }
        let mut of_clients = Vec::new();
        let forgotten = holds(PATIENCE, async || {
            of_clients.clear();
            for field in OF_CLIENTS {
                of_clients.push((field, bed.cluster.stat(field).await));
            }
            of_clients.iter().all(|(_, left)| *left == 0)
        })
        .await;
        if !forgotten {
            objections
                .push(format!("leak: nodes still have {of_clients:?} of clients that are gone"));
        }
        let nodes = bed.cluster.members().len() as u64;
        let mut now = Self::of(bed).await;
        let mut accepted = 0;
        let fits = holds(PATIENCE, async || {
            now = Self::of(bed).await;
            accepted = bed.cluster.fronts().map(|f| f.counts().connections).sum();
            now.others() <= self.others() + 2
                && now.upstream <= nodes * CONNECTIONS_A_NODE
                // One connection more reads the slot map.
                && accepted <= now.upstream + 1
        })
        .await;
        println!("before: {self:?}; after: {now:?}, {accepted} connections accepted by fronts");
        if !fits {
            show(bed).await;
            objections.push(format!(
                "leak: {now:?} and {accepted} connections accepted by fronts when all clients are \
                 gone, {self:?} before they came"
            ));
        }
        if now.threads > self.threads + 2 {
            objections.push(format!("leak: {} threads, {} before", now.threads, self.threads));
        }
        if let (Some(first), Some(last)) = (memory.first(), memory.last())
            && *last > first + GROWTH
        {
            objections.push(format!("leak: resident memory grew from {first} to {last} bytes"));
        }
        objections
    }
}

/// What the nodes and the proxy know of connections, for whoever looks for a leak.
async fn show(bed: &Bed) {
    let metrics = bed.proxy.get("/metrics").await.body;
    for line in metrics.lines().filter(|l| l.starts_with("memorystore_proxy_upstream_connections"))
    {
        println!("{line}");
    }
    for (member, one) in bed.cluster.members().iter().enumerate() {
        let Ok(clients) = one.node.try_run(&["CLIENT", "LIST"]).await else { continue };
        for client in clients.text().lines() {
            let wanted = ["age=", "idle=", "flags=", "sub=", "ssub=", "cmd=", "resp="];
            let fields = client.split(' ').filter(|f| wanted.iter().any(|w| f.starts_with(w)));
            println!("member {member}: {}", fields.collect::<Vec<_>>().join(" "));
        }
    }
}
