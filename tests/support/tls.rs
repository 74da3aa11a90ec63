//! TLS for the bed: authorities and the certificates they sign, the TLS side of an IAM front, and a
//! tunnel through which a plain client reaches a listener that speaks TLS.
//!
//! Certificates can be swapped while a front runs; open connections keep theirs. Handshakes are
//! counted where they happen. Nothing here decides what is right: tests do.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::front::lock;

/// First byte of a TLS record that carries a handshake.
const HANDSHAKE: u8 = 0x16;

/// Who signs certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, PEM.
    pub pem: String,
}

impl Authority {
    /// A root of this name.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for these addresses or DNS names.
    pub fn leaf(&self, names: &[&str]) -> Identity {
        self.sign(names, |_| {})
    }

    /// One that was good until 2020.
    pub fn expired_leaf(&self, names: &[&str]) -> Identity {
        self.sign(names, |params| {
            params.not_before = rcgen::date_time_ymd(2019, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        })
    }

    fn sign(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, "node");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity { chain: certificate.pem(), key: key.serialize_pem() }
    }
}

/// A certificate with its chain, and its key, PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    pub chain: String,
    pub key: String,
}

impl Identity {
    /// The certificate itself, DER.
    pub fn leaf(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).expect("a certificate")
    }

    fn server_config(&self) -> Arc<ServerConfig> {
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes())
            .collect::<Result<_, _>>()
            .expect("a chain");
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key");
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .expect("a certificate with its key");
        Arc::new(config)
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Handshakes of a front since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Handshakes {
    /// With a certificate.
    pub full: u64,
    /// With a session of before.
    pub resumed: u64,
    /// Refused or broken off by either side.
    pub failed: u64,
}

impl Handshakes {
    /// Those that made a connection.
    pub fn done(&self) -> u64 {
        self.full + self.resumed
    }
}

/// The TLS side of one front.
#[derive(Debug)]
pub struct FrontTls {
    config: Mutex<Arc<ServerConfig>>,
    full: AtomicU64,
    resumed: AtomicU64,
    failed: AtomicU64,
}

impl FrontTls {
    pub(super) fn new(identity: &Identity) -> Self {
        Self {
            config: Mutex::new(identity.server_config()),
            full: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Shows this from now on; sessions of before are forgotten.
    pub fn show(&self, identity: &Identity) {
        *lock(&self.config) = identity.server_config();
    }

    /// What happened so far.
    pub fn handshakes(&self) -> Handshakes {
        Handshakes {
            full: self.full.load(Relaxed),
            resumed: self.resumed.load(Relaxed),
            failed: self.failed.load(Relaxed),
        }
    }

    /// Whether the peer begins with a handshake.
    pub(super) async fn is_asked_by(stream: &TcpStream) -> bool {
        let mut first = [0];
        matches!(stream.peek(&mut first).await, Ok(1)) && first[0] == HANDSHAKE
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> Option<server::TlsStream<TcpStream>> {
        let config = lock(&self.config).clone();
        let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else {
            self.failed.fetch_add(1, Relaxed);
            return None;
        };
        let count = match stream.get_ref().1.handshake_kind() {
            Some(HandshakeKind::Resumed) => &self.resumed,
            _ => &self.full,
        };
        count.fetch_add(1, Relaxed);
        Some(stream)
    }
}

/// Makes TLS connections that trust one authority.
#[derive(Clone)]
pub struct Dialer(TlsConnector);

impl Dialer {
    /// Trusts these certificates, PEM.
    pub fn new(authorities: &str) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
            roots.add(certificate.expect("PEM")).expect("an authority");
        }
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self(TlsConnector::from(Arc::new(config)))
    }

    /// Connects, and insists on a certificate for 127.0.0.1.
    pub async fn dial(&self, addr: SocketAddr) -> std::io::Result<client::TlsStream<TcpStream>> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        self.0.connect(ServerName::from(std::net::IpAddr::from([127, 0, 0, 1])), stream).await
    }

    /// The certificate a listener shows.
    pub async fn shown_by(&self, addr: SocketAddr) -> std::io::Result<CertificateDer<'static>> {
        let stream = self.dial(addr).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        Ok(shown.expect("a handshake with a certificate").clone().into_owned())
    }
}

/// Plain on this side, TLS on the other; gone on drop, with connections that are open.
#[derive(Debug)]
pub struct Tunnel {
    addr: SocketAddr,
    task: AbortHandle,
}

impl Tunnel {
    /// To a listener that shows a certificate of this authority.
    pub async fn start(to: SocketAddr, dialer: Dialer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let dialer = dialer.clone();
                open.spawn(async move {
                    let _ = near.set_nodelay(true);
                    // A refusal shows as a close.
                    if let Ok(mut far) = dialer.dial(to).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Self { addr, task: task.abort_handle() }
    }

    /// Where plain clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.task.abort();
    }
}
