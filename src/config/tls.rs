//! The settings of encryption, towards the cluster and towards clients.
//!
//! Invariant: what is on can be done: a cluster that is to be verified has a file with authorities
//! (or is given by resource name, whose API has them), and a certificate has its key.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::path::PathBuf;

use super::values::{boolean, path};
use super::{Endpoint, Instance, Reader};
use crate::args::Origin;
use crate::error::Error;
use crate::upstream::tls::Verify;
use crate::upstream::tls::error::HOW_TO_GET_CA;

/// See the module header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Whether the cluster encrypts; `None`: neither said nor implied.
    pub on: Option<bool>,
    /// How much of a node's certificate must be right.
    pub verify: Verify,
    /// A file with the cluster's authorities.
    pub authorities: Option<PathBuf>,
    /// What the TCP listener shows.
    pub local: Option<LocalCertificate>,
}

/// The files of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalCertificate {
    /// The certificate and its chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Tls {
    /// What to say once at the start.
    pub(super) fn warning(&self) -> Option<String> {
        (self.verify == Verify::Insecure && self.on != Some(false)).then(|| {
            "--tls-verify=insecure: whoever is between the proxy and the cluster can read and change \
             everything, the credentials too; give --server-ca-file instead"
                .to_owned()
        })
    }
}

fn verify(text: &str) -> Result<Verify, String> {
    match text {
        "full" => Ok(Verify::Full),
        "ca" => Ok(Verify::Ca),
        "insecure" => Ok(Verify::Insecure),
        _ => Err(format!("'{text}' is none of full, ca and insecure; give one of them")),
    }
}

impl Reader<'_> {
    pub(super) fn tls(&self, instances: &[Instance]) -> Result<Tls, Error> {
        let local = self.local_certificate()?;
        let verify_as = self.typed("tls-verify", verify)?;
        let authorities = self.given("server-ca-file", path)?;
        let said = self.given("tls", boolean)?;
        let off_by = self.0.get("tls").map(|v| v.origin).filter(|_| said == Some(false));
        let origin = |name| self.0.get(name).map(|v| v.origin);
        if let Some(off) = off_by {
            // What a weaker place says is overridden, as everywhere.
            for name in ["server-ca-file", "tls-verify"] {
                if let Some(given) = origin(name).filter(|given| *given >= off) {
                    let rival = format!("{}=false", self.0.spelling("tls", off));
                    return self.fail(
                        name,
                        given,
                        format_args!("contradicts {rival}; keep only one of the two"),
                    );
                }
            }
            return Ok(Tls { on: said, verify: verify_as, authorities: None, local });
        }
        let on = said.or(authorities.is_some().then_some(true));
        if instances.iter().any(|i| matches!(i.endpoint, Endpoint::Seeds(_))) {
            if on.is_none()
                && let Some(given) = origin("tls-verify").filter(|given| *given != Origin::File)
            {
                return self.fail(
                    "tls-verify",
                    given,
                    "does nothing without TLS; give --tls or --server-ca-file as well",
                );
            }
            if on == Some(true) && authorities.is_none() && verify_as != Verify::Insecure {
                let origin = origin("tls").unwrap_or(Origin::Flag);
                return self.fail(
                    "tls",
                    origin,
                    format_args!(
                        "needs --server-ca-file, because Memorystore's authorities are private; \
                         {HOW_TO_GET_CA} (for trials: --tls-verify=insecure)"
                    ),
                );
            }
        }
        Ok(Tls { on, verify: verify_as, authorities, local })
    }

    fn local_certificate(&self) -> Result<Option<LocalCertificate>, Error> {
        let pair = (self.given("tls-cert", path)?, self.given("tls-key", path)?);
        let lonely = |name: &str, missing: &str| {
            let origin = self.0.get(name).map_or(Origin::Flag, |v| v.origin);
            self.fail(name, origin, format_args!("needs --{missing} as well; give both or none"))
        };
        match pair {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => Ok(Some(LocalCertificate { certificate, key })),
            (Some(_), None) => lonely("tls-cert", "tls-key"),
            (None, Some(_)) => lonely("tls-key", "tls-cert"),
        }
    }
}
