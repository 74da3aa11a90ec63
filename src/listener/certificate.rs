//! What the TCP listener shows to clients that speak TLS: a certificate, its chain and its key.
//!
//! The files are read again when they change (cert-manager replaces them every few weeks), so that
//! no restart is needed; connections that are open keep what they were made with. Invariant: a
//! certificate whose key is another's, as between two writes, is not taken: the last good pair stays.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ProducesTickets;
use tokio::sync::watch;

use crate::error::Error;
use crate::upstream::tls::files::Files;
use crate::upstream::tls::provider;

/// The current configuration of the listener.
#[derive(Debug, Clone)]
pub struct LocalTls(watch::Receiver<Arc<ServerConfig>>);

impl LocalTls {
    /// For a client that has just come.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.0.borrow().clone()
    }
}

/// Reads the pair and follows its changes.
///
/// # Errors
/// When it cannot be used at the start: a wrong setting.
pub async fn follow(certificate: PathBuf, key: PathBuf) -> Result<LocalTls, Error> {
    let names = (certificate.display().to_string(), key.display().to_string());
    let unusable = |why: &dyn std::fmt::Display| {
        Error::config(format_args!(
            "--tls-cert {} with --tls-key {} cannot be used: {why}; give PEM files with a certificate \
             (its chain behind it) and its key",
            names.0, names.1
        ))
    };
    // Sessions survive a new certificate: the key of the tickets stays.
    let tickets = rustls::crypto::ring::Ticketer::new()
        .map_err(|e| Error::runtime("cannot make keys for TLS sessions", e))?;
    let mut files = Files::new(vec![certificate, key]);
    let pair = files.read().await.map_err(|e| unusable(&e))?;
    let first = configuration(&pair[0], &pair[1], &tickets).map_err(|e| unusable(&e))?;
    let (sender, receiver) = watch::channel(first);
    tokio::spawn(async move {
        let mut failing = false;
        loop {
            files.changed().await;
            let outcome = match files.read().await {
                Ok(pair) => configuration(&pair[0], &pair[1], &tickets),
                Err(e) => Err(e.to_string()),
            };
            match outcome {
                Ok(config) => {
                    failing = false;
                    tracing::info!("TLS to clients: certificate read again");
                    if sender.send(config).is_err() {
                        return;
                    }
                }
                Err(cause) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(
                            "--tls-cert and --tls-key cannot be used: {cause}; the certificate read before stays in use"
                        );
                    }
                }
            }
        }
    });
    Ok(LocalTls(receiver))
}

fn configuration(
    certificate: &[u8],
    key: &[u8],
    tickets: &Arc<dyn ProducesTickets>,
) -> Result<Arc<ServerConfig>, String> {
    let chain = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("the certificate is not PEM ({e})"))?;
    if chain.is_empty() {
        return Err("no certificate is in the first".to_owned());
    }
    // The error never repeats what stands in the file.
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| "no PEM private key is in the second".to_owned())?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|e| e.to_string())?;
    config.ticketer = tickets.clone();
    Ok(Arc::new(config))
}
