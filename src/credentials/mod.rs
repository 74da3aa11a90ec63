//! Where the AUTH password comes from: one cached credential in front of every source.
//!
//! Invariant: a secret is only ever readable through [`Secret::expose`], never through `Debug`,
//! `Display` or serialisation. Connections read the newest credential from a `watch`; nothing on
//! the command path ever waits for a token endpoint.

pub mod schedule;
pub mod sources;
pub mod task;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use zeroize::Zeroizing;

/// A token or password. `Debug` hides it; the memory is wiped on drop.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: String) -> Self {
        Self(Arc::new(Zeroizing::new(text)))
    }

    /// The text itself, for the AUTH frame only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What AUTH is sent with.
#[derive(Debug, Clone)]
pub struct Credential {
    /// AUTH user name; Memorystore knows `default` unless an ACL policy is attached.
    pub username: Arc<str>,
    /// OAuth2 access token or static password.
    pub secret: Secret,
    /// When the token ends; `None` for static secrets.
    pub expires_at: Option<SystemTime>,
    /// When it was obtained.
    pub obtained_at: SystemTime,
    /// Grows by one with every new credential; a connection remembers with which it authenticated.
    pub generation: u64,
    /// Which source gave it, e.g. `metadata server`, `--token-file`.
    pub source: &'static str,
    /// Whom it stands for, if the source tells; for error texts.
    pub principal: Option<Arc<str>>,
}

/// What the credential task publishes on its `watch` channel.
#[derive(Debug, Clone, Default)]
pub enum CredentialState {
    /// The first mint is still under way.
    #[default]
    Pending,
    /// Upstreams want no AUTH at all (`--no-iam-auth` without a password file).
    NotNeeded,
    /// A usable credential; `refresh_error` tells why the last refresh failed, if it did.
    Ready {
        /// The newest credential.
        credential: Arc<Credential>,
        /// Text of the last failed refresh, cleared by the next success.
        refresh_error: Option<Arc<str>>,
    },
    /// No usable credential: never had one, or it expired and could not be renewed.
    Failed {
        /// Which sources were tried and what each said.
        error: Arc<str>,
    },
}
