//! TLS to the cluster: whether it is spoken, which authorities are trusted, and how a dial becomes
//! a connection that is trusted.
//!
//! One [`Trust`] is shared by all threads. What it trusts may come late (from Google's API) and
//! change while the proxy runs: authorities rotate, and a node that shows a certificate of an unknown
//! one rings the owner, who fetches them again; the dial that found out waits a moment for that and
//! tries once more, so that a rotation costs no command. Invariants: without `--tls-verify=insecure`
//! no connection comes about before authorities are known; sessions are resumed only with the very
//! node they were made with, and only as long as the authorities that vouched for it are trusted.
//! It opens no file and asks no API; `files` and the owner of a resource name do.

pub mod error;
pub mod files;
mod verify;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

pub use error::{ConnectError, Refused, TlsError};

use crate::cluster::topology::NodeAddr;
use crate::net;
use verify::Verifier;

/// How long a dial that met an unknown authority waits for the owner to fetch them again.
const FETCH: Duration = Duration::from_secs(1);

/// Sessions remembered for one node; each connection takes one and brings new ones.
const SESSIONS: usize = 8;

/// Nodes remembered before the memory is begun anew; a cluster has at most 250.
const NODES: usize = 1024;

/// How much of a node's certificate must be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// The chain, its dates, and the name: the address dialled or that of a discovery endpoint.
    Full,
    /// The chain and its dates.
    Ca,
    /// Nothing.
    Insecure,
}

/// Told that a node shows a certificate no known authority vouches for; must not block.
pub type OnUntrusted = Arc<dyn Fn() + Send + Sync>;

/// How one connection is to be encrypted.
#[derive(Debug)]
pub struct Plan {
    /// The configuration; its sessions belong to this node.
    pub config: Arc<ClientConfig>,
    /// The name asked for.
    pub name: ServerName<'static>,
}

/// The cryptography everything here uses.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// See the module header.
#[derive(Clone)]
pub struct Trust(Arc<Shared>);

struct Shared {
    verify: Verify,
    /// Hosts of the discovery endpoints: a node may show a certificate for them instead.
    seeds: Vec<ServerName<'static>>,
    known: watch::Sender<Known>,
    on_untrusted: Mutex<Option<OnUntrusted>>,
}

/// What is known of the cluster's encryption.
#[derive(Clone)]
struct Known {
    mode: Mode,
    /// How often authorities were told, the same or others: whoever waits for news sees that they
    /// came.
    told: u64,
}

#[derive(Clone)]
enum Mode {
    Undecided,
    Plain,
    Encrypted(Arc<Anchors>),
}

/// The trusted authorities, and the sessions that were made under them.
struct Anchors {
    certificates: Vec<CertificateDer<'static>>,
    template: ClientConfig,
    nodes: Mutex<HashMap<NodeAddr, Arc<ClientConfig>>>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match &self.0.known.borrow().mode {
            Mode::Undecided => "undecided".to_owned(),
            Mode::Plain => "plain".to_owned(),
            Mode::Encrypted(anchors) => format!("{} authorities", anchors.certificates.len()),
        };
        f.debug_struct("Trust").field("verify", &self.0.verify).field("mode", &mode).finish()
    }
}

impl Trust {
    /// No encryption.
    pub fn plain() -> Self {
        let trust = Self::new(Verify::Full, &[]);
        trust.set_plain();
        trust
    }

    /// Encryption, with the authorities to be told by [`Self::replace`] (unless nothing is verified);
    /// or [`Self::set_plain`], if that turns out.
    pub fn new(verify: Verify, seeds: &[NodeAddr]) -> Self {
        let seeds: Vec<_> = seeds.iter().filter_map(|seed| name_of(seed).ok()).collect();
        let mode = match verify {
            Verify::Insecure => {
                Mode::Encrypted(Arc::new(Anchors::new(Vec::new(), Verifier::insecure(provider()))))
            }
            Verify::Full | Verify::Ca => Mode::Undecided,
        };
        Self(Arc::new(Shared {
            verify,
            seeds,
            known: watch::Sender::new(Known { mode, told: 0 }),
            on_untrusted: Mutex::new(None),
        }))
    }

    /// Whom to tell of a node that shows a certificate no known authority vouches for.
    pub fn on_untrusted(&self, callback: OnUntrusted) {
        *self.0.on_untrusted.lock().unwrap_or_else(PoisonError::into_inner) = Some(callback);
    }

    /// The cluster does not encrypt.
    pub fn set_plain(&self) {
        self.0.known.send_modify(|known| known.mode = Mode::Plain);
    }

    /// Trusts every certificate of these PEM bundles from now on, intermediate ones too, and no
    /// other. Returns how many there are, and whether that is news. Open connections stay.
    ///
    /// # Errors
    /// Why the text is no such bundle; what was trusted before stays trusted then.
    pub fn replace(&self, pem: &[u8]) -> Result<(usize, bool), String> {
        let mut certificates = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            certificates.push(certificate.map_err(|e| format!("it is not PEM ({e})"))?);
        }
        certificates.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
        certificates.dedup();
        let count = certificates.len();
        if count == 0 {
            return Err("no certificate is in it".to_owned());
        }
        let same = match &self.0.known.borrow().mode {
            Mode::Encrypted(now) => {
                self.0.verify == Verify::Insecure || now.certificates == certificates
            }
            _ => false,
        };
        let mode = if same {
            None
        } else {
            let verifier =
                Verifier::new(self.0.verify, provider(), &certificates, self.0.seeds.clone())?;
            Some(Mode::Encrypted(Arc::new(Anchors::new(certificates, verifier))))
        };
        self.0.known.send_modify(|known| {
            known.told += 1;
            if let Some(mode) = mode {
                known.mode = mode;
            }
        });
        Ok((count, !same))
    }

    /// Whether connections are encrypted, as far as is known.
    pub fn encrypts(&self) -> bool {
        !matches!(self.0.known.borrow().mode, Mode::Plain)
    }

    /// Waits until it is known whether and with which authorities the cluster encrypts.
    pub async fn ready(&self) {
        let mut known = self.0.known.subscribe();
        // The sender lives as long as `self`.
        let _ = known.wait_for(|known| !matches!(known.mode, Mode::Undecided)).await;
    }

    /// Connects to a node within `timeout`, name resolution and handshake included. `shake` is
    /// given the TCP stream and what to do with it: nothing, or the TLS handshake.
    ///
    /// # Errors
    /// [`ConnectError`]: where, why and what to do.
    pub async fn dial<T, F: Future<Output = io::Result<T>>>(
        &self,
        addr: &NodeAddr,
        timeout: Duration,
        shake: impl Fn(TcpStream, Option<Plan>) -> F,
    ) -> Result<T, ConnectError> {
        let deadline = Instant::now() + timeout;
        let fail = |cause| ConnectError::Tls(TlsError { addr: addr.clone(), cause });
        if timeout_at(deadline, self.ready()).await.is_err() {
            return Err(fail(Refused::NoAuthorities));
        }
        let mut again = true;
        loop {
            let Known { mode, told } = self.0.known.borrow().clone();
            let plan = match mode {
                Mode::Encrypted(anchors) => Some(anchors.plan(addr)?),
                Mode::Undecided | Mode::Plain => None,
            };
            let encrypted = plan.is_some();
            let left = deadline.saturating_duration_since(Instant::now());
            let stream = net::dial(addr, left).await?;
            let cause = match timeout_at(deadline, shake(stream, plan)).await {
                Ok(Ok(made)) => return Ok(made),
                Ok(Err(e)) if !encrypted => {
                    return Err(
                        net::DialError::Other { addr: addr.clone(), cause: e.to_string() }.into()
                    );
                }
                Ok(Err(e)) => Refused::of(&e),
                Err(_) => Refused::Timeout(timeout),
            };
            if !cause.is_distrust() {
                return Err(fail(cause));
            }
            self.ring();
            let news = Instant::now() + FETCH;
            if !again || !self.told_since(told, news.min(deadline)).await {
                return Err(fail(cause));
            }
            again = false;
        }
    }

    fn ring(&self) {
        let callback = self.0.on_untrusted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(callback) = callback {
            callback();
        }
    }

    /// Waits for authorities told after that count; false when none were.
    async fn told_since(&self, told: u64, until: Instant) -> bool {
        let mut known = self.0.known.subscribe();
        let news = known.wait_for(|known| known.told > told);
        matches!(timeout_at(until, news).await, Ok(Ok(_)))
    }
}

impl Anchors {
    fn new(certificates: Vec<CertificateDer<'static>>, verifier: Verifier) -> Self {
        Self { certificates, template: verifier.into_config(), nodes: Mutex::default() }
    }

    /// rustls files sessions under the host alone, while Memorystore's nodes are ports of one host:
    /// so each node has a configuration, and in it a memory, of its own.
    fn plan(&self, addr: &NodeAddr) -> Result<Plan, ConnectError> {
        let name = name_of(addr)?;
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if nodes.len() >= NODES && !nodes.contains_key(addr) {
            nodes.clear();
        }
        let config = nodes.entry(addr.clone()).or_insert_with(|| {
            let mut config = self.template.clone();
            config.resumption = Resumption::in_memory_sessions(SESSIONS);
            Arc::new(config)
        });
        Ok(Plan { config: config.clone(), name })
    }
}

/// The host of an address as TLS names it.
fn name_of(addr: &NodeAddr) -> Result<ServerName<'static>, ConnectError> {
    let host = addr.host.strip_suffix('.').unwrap_or(&addr.host);
    ServerName::try_from(host.to_owned())
        .map_err(|_| ConnectError::Tls(TlsError { addr: addr.clone(), cause: Refused::NoName }))
}

#[cfg(test)]
mod tests;
