//! Asks every primary whether it answers: the connection test, and the deep health checks.
//!
//! Invariant: one connection a node, kept between two checks and authenticated as all others are, so
//! that checks cost the cluster's limit on new connections next to nothing. It moves no user traffic.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::topology::{NodeAddr, Topology};
use crate::credentials::{Credential, CredentialState};
use crate::upstream::client::{Client, ClientError, Timeouts};
use crate::upstream::tls::Trust;

/// Time between two deep health checks.
const PERIOD: Duration = Duration::from_secs(10);

/// What the checks found so far.
#[derive(Debug, Clone, Default)]
pub struct BackendStatus {
    /// All primaries answered, once at least.
    pub was_whole: bool,
    /// Who did not answer in the last check, and why; empty: all did, or there was none yet.
    pub failures: Arc<[String]>,
}

/// See the module header.
pub struct Backend {
    topology: watch::Receiver<Option<Arc<Topology>>>,
    credentials: watch::Receiver<CredentialState>,
    trust: Trust,
    timeout: Duration,
    clients: HashMap<NodeAddr, Client>,
}

impl Backend {
    /// Checks the primaries of this map; each may take `timeout` to connect, and to answer.
    pub fn new(
        topology: watch::Receiver<Option<Arc<Topology>>>,
        credentials: watch::Receiver<CredentialState>,
        trust: Trust,
        timeout: Duration,
    ) -> Self {
        Self { topology, credentials, trust, timeout, clients: HashMap::new() }
    }

    /// Asks each primary now.
    ///
    /// # Errors
    /// Who did not answer, and why.
    pub async fn check(&mut self) -> Result<(), Vec<String>> {
        let Some(map) = self.topology.borrow().clone() else {
            return Err(vec!["the cluster map is not known yet".to_owned()]);
        };
        let credential = match &*self.credentials.borrow() {
            CredentialState::Ready { credential, .. } => Some(credential.clone()),
            CredentialState::NotNeeded => None,
            CredentialState::Pending => {
                return Err(vec!["the first credential is awaited".to_owned()]);
            }
            CredentialState::Failed { error } => return Err(vec![error.to_string()]),
        };
        self.clients.retain(|addr, _| map.shards.iter().any(|s| s.primary == *addr));
        let mut failures = Vec::new();
        for shard in &map.shards {
            if let Err(error) = self.ask(&shard.primary, credential.as_deref()).await {
                failures.push(error.to_string());
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }

    async fn ask(
        &mut self,
        addr: &NodeAddr,
        credential: Option<&Credential>,
    ) -> Result<(), ClientError> {
        if let Some(mut client) = self.clients.remove(addr)
            && ping(&mut client, credential, self.timeout).await.is_ok()
        {
            self.clients.insert(addr.clone(), client);
            return Ok(());
        }
        let timeouts = Timeouts { connect: self.timeout, auth: self.timeout };
        let mut client = Client::connect(addr, credential, timeouts, &self.trust).await?;
        ping(&mut client, credential, self.timeout).await?;
        self.clients.insert(addr.clone(), client);
        Ok(())
    }

    /// Checks again and again, and publishes what it finds; ends when nobody reads it any more.
    pub async fn watch(mut self, publish: watch::Sender<BackendStatus>) {
        let mut topology = self.topology.clone();
        loop {
            let failures = self.check().await.err().unwrap_or_default();
            publish.send_modify(|status| {
                status.was_whole |= failures.is_empty();
                status.failures = failures.into();
            });
            tokio::select! {
                () = publish.closed() => return,
                () = tokio::time::sleep(PERIOD) => {}
                // A new map is worth a look at once; a watcher that ended is not.
                Ok(()) = topology.changed() => {}
            }
        }
    }
}

async fn ping(
    client: &mut Client,
    credential: Option<&Credential>,
    timeout: Duration,
) -> Result<(), ClientError> {
    if let Some(newer) = credential.filter(|c| client.generation() != Some(c.generation)) {
        client.authenticate(newer, Instant::now() + timeout).await?;
    }
    client.call(&[b"PING"], Instant::now() + timeout).await.map(drop)
}
