//! The metadata server of Compute Engine, GKE and Cloud Run.
//!
//! gcp_auth has a client for it too, but with the host name fixed (`GCE_METADATA_HOST` is ignored),
//! five tries without a time limit, and a second request for the project that can fail the first.
//! So one client of ours serves the default host and the variable alike. Invariant: one request,
//! one answer, bounded in time and size.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::StatusCode;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

use super::{BoxFuture, Minted, Source, SourceError, SourceKind, access_token, no_answer};
use crate::env::Environment;
use crate::error::chain;

/// Overrides the server's `HOST` or `HOST:PORT`, as in Google's own libraries.
pub const HOST_VARIABLE: &str = "GCE_METADATA_HOST";
const DEFAULT_HOST: &str = "metadata.google.internal";
const TOKEN_PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token";
const EMAIL_PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/email";
/// The server on GKE can take seconds when a node has just started.
const TIMEOUT: Duration = Duration::from_secs(5);
const EMAIL_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_BYTES: usize = 64 * 1024;

/// A metadata server.
#[derive(Debug, Clone)]
pub struct Metadata {
    host: String,
    port: u16,
    /// Whether the user named the server, so that there must be one.
    pub named: bool,
    timeout: Duration,
    /// Whose tokens it gives, once it has told.
    principal: OnceLock<Arc<str>>,
}

/// Why there is no token.
#[derive(Debug)]
pub struct Refusal {
    /// What went wrong.
    pub said: String,
    /// A metadata server answered, but not with a token though it should have one.
    pub present: bool,
}

#[derive(Deserialize)]
struct Reply {
    access_token: String,
    expires_in: u64,
}

impl Metadata {
    /// The server that the environment names, or the usual one.
    pub fn new(env: &Environment) -> Self {
        let named = env.var(HOST_VARIABLE).map(|host| host.to_string_lossy());
        let text = named.as_deref().unwrap_or(DEFAULT_HOST);
        let text = text.strip_prefix("http://").unwrap_or(text);
        let text = text.trim_end_matches('/');
        let (host, port) = split(text);
        Self { named: named.is_some(), ..Self::at(host, port) }
    }

    /// A server that need not be there.
    pub fn at(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            port,
            named: false,
            timeout: TIMEOUT,
            principal: OnceLock::new(),
        }
    }

    /// The same with another time limit.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The server in words, for error texts.
    pub fn place(&self) -> String {
        let Self { host, port, .. } = self;
        match host.contains(':') {
            true => format!("metadata server [{host}]:{port}"),
            false => format!("metadata server {host}:{port}"),
        }
    }

    /// One request.
    ///
    /// # Errors
    /// What went wrong; never the body of a reply.
    pub async fn token(&self) -> Result<Minted, Refusal> {
        let mut minted = match tokio::time::timeout(self.timeout, self.fetch_token()).await {
            Ok(result) => result?,
            Err(_) => return Err(Refusal { said: no_answer(self.timeout), present: false }),
        };
        if self.principal.get().is_none()
            // A help in error texts, never a reason to wait or to fail.
            && let Ok(Some(email)) = tokio::time::timeout(EMAIL_TIMEOUT, self.fetch_email()).await
        {
            // Somebody else may have been quicker, and has the same.
            let _ = self.principal.set(email);
        }
        minted.principal = self.principal.get().cloned();
        Ok(minted)
    }

    async fn fetch_email(&self) -> Option<Arc<str>> {
        let (status, body) = self.get(EMAIL_PATH).await.ok()?;
        let email = std::str::from_utf8(&body).ok()?.trim();
        let is_email = email.contains('@')
            && email.len() < 256
            && email.chars().all(|c| c.is_ascii_graphic() && c != '<');
        (status == StatusCode::OK && is_email).then(|| email.into())
    }

    async fn get(&self, path: &str) -> Result<(StatusCode, Bytes), Refusal> {
        let absent = |said: String| Refusal { said, present: false };
        let present = |said: String| Refusal { said, present: true };
        let stream = connect(&self.host, self.port).await.map_err(absent)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| absent(chain(&error)))?;
        let request = hyper::Request::get(path)
            .header("Host", format!("{}:{}", self.host, self.port))
            .header("Metadata-Flavor", "Google")
            .body(Empty::<Bytes>::new())
            .map_err(|error| absent(chain(&error)))?;
        let exchange = async {
            let response =
                sender.send_request(request).await.map_err(|error| absent(chain(&error)))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BYTES);
            let body =
                body.collect().await.map_err(|error| present(format!("broken reply ({error})")))?;
            Ok((status, body.to_bytes()))
        };
        tokio::select! {
            outcome = exchange => outcome,
            never = drive(connection) => match never {},
        }
    }

    async fn fetch_token(&self) -> Result<Minted, Refusal> {
        let absent = |said: String| Refusal { said, present: false };
        let present = |said: String| Refusal { said, present: true };
        // Before the request: an expiry that is early by the round trip is safe.
        let asked_at = SystemTime::now();
        let (status, body) = self.get(TOKEN_PATH).await?;
        match status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                return Err(absent(
                    "HTTP 404: no service account is attached to this machine or pod".to_owned(),
                ));
            }
            status => return Err(present(format!("HTTP {}", status.as_u16()))),
        }
        // Not serde's text: that may quote the reply.
        let reply: Reply = serde_json::from_slice(&body).map_err(|_| {
            present("the reply is not a token (access_token, expires_in)".to_owned())
        })?;
        let secret = access_token(&reply.access_token)
            .ok_or_else(|| present("the reply has an empty or garbled token".to_owned()))?;
        let expires_at = asked_at.checked_add(Duration::from_secs(reply.expires_in));
        Ok(Minted {
            secret,
            expires_at: Some(expires_at.ok_or_else(|| present("absurd expires_in".to_owned()))?),
            kind: SourceKind::Metadata,
            principal: None,
        })
    }
}

impl Source for Metadata {
    fn mint(&mut self) -> BoxFuture<'_, Result<Minted, SourceError>> {
        Box::pin(async {
            self.token().await.map_err(|refusal| {
                let mend = "Attach a service account, or check GCE_METADATA_HOST.";
                SourceError::one(SourceKind::Metadata, self.place(), refusal.said, mend)
            })
        })
    }
}

/// Moves the bytes of the exchange and never ends: what happens is told to the exchange as well.
async fn drive(connection: impl Future) -> Infallible {
    connection.await;
    pending().await
}

/// A fuzzer's bytes.
#[cfg(fuzzing)]
async fn connect(_: &str, _: u16) -> Result<crate::fuzzing::Fed, String> {
    Ok(crate::fuzzing::Fed::connect())
}

/// Connects to the first address that takes the connection.
#[cfg(not(fuzzing))]
async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let addresses = tokio::net::lookup_host((host, port))
        .await
        .map_err(|_| "host name not found (not on Google Cloud?)".to_owned())?;
    let mut said = "host name has no address".to_owned();
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                said = "connection refused".to_owned();
            }
            Err(error) => said = error.to_string(),
        }
    }
    Err(said)
}

/// `HOST`, `HOST:PORT`, `[IPv6]:PORT` or a bare IPv6 address.
fn split(text: &str) -> (&str, u16) {
    const HTTP: u16 = 80;
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|t| t.split_once(']')) {
        let port = rest.strip_prefix(':').and_then(|p| p.parse().ok());
        return (host, port.unwrap_or(HTTP));
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, port.parse().unwrap_or(HTTP)),
        _ => (text, HTTP),
    }
}
