//! Encryption, as the settings want it: whom to trust, and what to show to clients.

use super::Config;
use crate::cluster::topology::NodeAddr;
use crate::error::Error;
use crate::listener::certificate::{self, LocalTls};
use crate::upstream::tls::{Trust, files};

/// Whom to trust; with `--server-ca-file` a task keeps that current.
pub(super) async fn trust(config: &Config, seeds: &[NodeAddr]) -> Result<Trust, Error> {
    let tls = &config.tls;
    if tls.on != Some(true) {
        return Ok(Trust::plain());
    }
    let trust = Trust::new(tls.verify, seeds);
    if let Some(path) = &tls.authorities {
        files::follow_authorities(path.clone(), trust.clone()).await?;
    }
    Ok(trust)
}

/// The same for an instance given by name, of which the API tells the rest.
pub(super) async fn trust_by_name(config: &Config) -> Result<Trust, Error> {
    let tls = &config.tls;
    if tls.on == Some(false) {
        return Ok(Trust::plain());
    }
    let trust = Trust::new(tls.verify, &[]);
    if let Some(path) = &tls.authorities {
        files::follow_authorities(path.clone(), trust.clone()).await?;
    }
    Ok(trust)
}

/// What to show to TCP clients, if they are to speak TLS; a task keeps it current.
pub(super) async fn local(config: &Config) -> Result<Option<LocalTls>, Error> {
    match &config.tls.local {
        None => Ok(None),
        Some(local) => {
            certificate::follow(local.certificate.clone(), local.key.clone()).await.map(Some)
        }
    }
}
