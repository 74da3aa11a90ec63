//! Why a connection that was to be encrypted did not come about, and what to do.

use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error};

use crate::cluster::topology::NodeAddr;
use crate::net::DialError;

/// How to get the certificates of the authorities, for error texts.
pub const HOW_TO_GET_CA: &str =
    "'gcloud redis clusters get-cluster-certificate-authority CLUSTER --region=REGION' prints them";

/// Why a node could not be connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// There is no connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// There is one, but no trust or no TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Why TLS with a node did not come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no TLS connection to {addr}: {cause}")]
pub struct TlsError {
    /// The node.
    pub addr: NodeAddr,
    /// Why.
    pub cause: Refused,
}

/// The cause of a [`TlsError`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nobody to trust yet.
    #[error("the certificates of the cluster's authorities are not known yet")]
    NoAuthorities,
    /// The host cannot be a name in a certificate.
    #[error("its host is not a name that TLS knows; give an IP address or a DNS name")]
    NoName,
    /// No known authority vouches for the certificate.
    #[error(
        "no authority the proxy trusts has signed its certificate ({0}); if the cluster's authorities \
         were rotated, give all current ones with --server-ca-file ({HOW_TO_GET_CA})"
    )]
    Untrusted(String),
    /// The certificate is out of its time.
    #[error(
        "its certificate, or an authority's, is out of date ({0}); check the clock of this machine, \
         else have the certificate rotated and give all current authorities with --server-ca-file \
         ({HOW_TO_GET_CA})"
    )]
    OutOfDate(String),
    /// The certificate is somebody else's.
    #[error(
        "its certificate is for {0}, which is neither the address dialled nor a discovery endpoint; \
         if it is the right cluster all the same, give --tls-verify=ca"
    )]
    OtherName(String),
    /// The certificate cannot be used.
    #[error("its certificate cannot be used ({0})")]
    Certificate(String),
    /// What came is no TLS.
    #[error(
        "it does not speak TLS ({0}); if the cluster has no in-transit encryption, give --tls=false"
    )]
    NotTls(String),
    /// It did not answer.
    #[error(
        "the handshake did not end within {0:?}; the node is overloaded or stalled, or it does not \
         speak TLS (then give --tls=false)"
    )]
    Timeout(Duration),
    /// It hung up.
    #[error(
        "it closed the connection during the handshake ({0}); the node restarts or is replaced, or \
         it does not speak TLS (then give --tls=false)"
    )]
    Closed(String),
    /// It refused.
    #[error(
        "it refused the handshake ({0}); the proxy speaks TLS 1.2 and 1.3 without a client certificate"
    )]
    Alert(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Refused {
    /// What an error of a handshake means.
    pub fn of(error: &io::Error) -> Self {
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
            return match error.kind() {
                io::ErrorKind::InvalidData => Self::Other(error.to_string()),
                _ => Self::Closed(error.to_string()),
            };
        };
        match tls {
            Error::InvalidCertificate(certificate) => Self::certificate(certificate),
            Error::InvalidMessage(_) => Self::NotTls(tls.to_string()),
            Error::AlertReceived(AlertDescription::CloseNotify) => Self::Closed(tls.to_string()),
            Error::AlertReceived(_) | Error::PeerIncompatible(_) => Self::Alert(tls.to_string()),
            Error::NoCertificatesPresented => Self::Certificate(tls.to_string()),
            _ => Self::Other(tls.to_string()),
        }
    }

    fn certificate(error: &CertificateError) -> Self {
        use CertificateError as E;
        match error {
            E::UnknownIssuer | E::BadSignature => Self::Untrusted(error.to_string()),
            E::Expired
            | E::ExpiredContext { .. }
            | E::NotValidYet
            | E::NotValidYetContext { .. } => Self::OutOfDate(error.to_string()),
            E::NotValidForNameContext { presented, .. } => Self::OtherName(list(presented)),
            E::NotValidForName => Self::OtherName("no name at all".to_owned()),
            _ => Self::Certificate(error.to_string()),
        }
    }

    /// Whether other authorities could help.
    pub fn is_distrust(&self) -> bool {
        matches!(self, Self::Untrusted(_) | Self::OutOfDate(_))
    }
}

/// `DnsName("a")` and `IpAddress(1.2.3.4)`, as webpki shows them, in plain words.
fn list(presented: &[String]) -> String {
    let names: Vec<&str> = presented
        .iter()
        .map(|name| {
            let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
            inner.unwrap_or(name).trim_matches('"')
        })
        .collect();
    if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") }
}
