//! Judges the certificate a node shows.
//!
//! Invariant: whatever the mode, the node must prove that it has the key of the certificate it
//! shows. Every certificate trusted is an anchor by itself: Google's API gives chains of an
//! intermediate and a root, and a node need not send the intermediate. Revocation is not looked at:
//! Memorystore's private authorities publish none.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    WantsVerifier,
};

use super::Verify;

#[derive(Debug)]
pub(super) struct Verifier {
    verify: Verify,
    provider: Arc<CryptoProvider>,
    roots: RootCertStore,
    /// Names that are as good as the one dialled.
    others: Vec<ServerName<'static>>,
}

impl Verifier {
    /// Trusts these authorities.
    ///
    /// # Errors
    /// When one of the certificates cannot be an authority.
    pub(super) fn new(
        verify: Verify,
        provider: Arc<CryptoProvider>,
        authorities: &[CertificateDer<'static>],
        others: Vec<ServerName<'static>>,
    ) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in authorities {
            roots
                .add(certificate.clone())
                .map_err(|e| format!("a certificate in it cannot be used ({e})"))?;
        }
        Ok(Self { verify, provider, roots, others })
    }

    /// Trusts everybody.
    pub(super) fn insecure(provider: Arc<CryptoProvider>) -> Self {
        let roots = RootCertStore::empty();
        Self { verify: Verify::Insecure, provider, roots, others: Vec::new() }
    }

    /// A configuration that judges so.
    pub(super) fn into_config(self) -> ClientConfig {
        builder(self.provider.clone())
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self))
            .with_no_client_auth()
    }
}

/// TLS 1.2 and 1.3.
fn builder(provider: Arc<CryptoProvider>) -> ConfigBuilder<ClientConfig, WantsVerifier> {
    let builder = ClientConfig::builder_with_provider(provider);
    #[allow(clippy::expect_used, reason = "ring knows both versions")]
    builder.with_safe_default_protocol_versions().expect("TLS 1.2 and 1.3")
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.verify == Verify::Insecure {
            return Ok(ServerCertVerified::assertion());
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        if self.verify == Verify::Full
            && let Err(refused) = verify_server_name(&certificate, server_name)
            && !self.others.iter().any(|name| verify_server_name(&certificate, name).is_ok())
        {
            return Err(refused);
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
