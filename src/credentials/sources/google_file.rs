//! Credential files that Google's tools write, exchanged for access tokens by gcp_auth.
//!
//! A provider of gcp_auth keeps its token until 20 s before the end, so a refresh ahead of time
//! needs a new provider: one is made for every attempt. Invariant: the file is read anew each time,
//! so a rotated key is picked up. Of the file types gcp_auth knows two are supported: service account
//! keys anywhere, user credentials only in their usual place.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gcp_auth::{ConfigDefaultCredentials, CustomServiceAccount, Token, TokenProvider as _};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{BoxFuture, Minted, SCOPE, Source, SourceError, SourceKind, access_token, no_answer};
use crate::error::chain;

/// gcp_auth tries five times in a row, so this covers all of them.
const TIMEOUT: Duration = Duration::from_secs(10);
const MEND: &str = "Give a service account key file that is still valid.";

/// A credential file.
#[derive(Debug, Clone)]
pub struct GoogleFile {
    path: PathBuf,
    timeout: Duration,
}

/// Why there is no token.
#[derive(Debug)]
pub enum Refusal {
    /// The file could not be read.
    Unreadable(io::Error),
    /// It was read, but gave no token.
    Failed(SourceKind, String),
}

impl Refusal {
    /// What went wrong.
    pub fn said(&self) -> String {
        match self {
            Self::Unreadable(error) if error.kind() == io::ErrorKind::NotFound => {
                "not found".to_owned()
            }
            Self::Unreadable(error) => error.to_string(),
            Self::Failed(_, said) => said.clone(),
        }
    }

    /// Whom to count the failure for.
    pub fn kind(&self) -> SourceKind {
        match self {
            Self::Unreadable(_) => SourceKind::ServiceAccount,
            Self::Failed(kind, _) => *kind,
        }
    }
}

#[derive(Deserialize)]
struct FileType {
    r#type: String,
}

#[derive(Deserialize)]
struct Owner {
    client_email: String,
}

impl GoogleFile {
    /// The file at `path`, which may appear later.
    pub fn new(path: PathBuf) -> Self {
        Self { path, timeout: TIMEOUT }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file and exchanges what is in it for an access token.
    ///
    /// # Errors
    /// What went wrong; never content of the file.
    pub async fn token(&self) -> Result<Minted, Refusal> {
        let json = tokio::fs::read(&self.path).await;
        let json = Zeroizing::new(json.map_err(Refusal::Unreadable)?);
        let file_type = serde_json::from_slice::<FileType>(&json).map(|t| t.r#type);
        let failed = |kind| move |said| Refusal::Failed(kind, said);
        match file_type.as_deref() {
            Ok("service_account") => {
                let owner = serde_json::from_slice::<Owner>(&json);
                let minted = self
                    .bounded(SourceKind::ServiceAccount, service_account(json))
                    .await
                    .map_err(failed(SourceKind::ServiceAccount))?;
                Ok(Minted { principal: owner.ok().map(|o| o.client_email.into()), ..minted })
            }
            Ok("authorized_user") => {
                let kind = SourceKind::UserCredentials;
                let place = usual_place().filter(|place| *place == self.path);
                if place.is_none() {
                    return Err(failed(kind)(
                        "holds user credentials, which are only read from \
                         $HOME/.config/gcloud/application_default_credentials.json"
                            .to_owned(),
                    ));
                }
                self.bounded(kind, user_credentials()).await.map_err(failed(kind))
            }
            Ok(other) => {
                // The type is the file's own word; a long one is no type.
                let other: String = other.chars().take(40).collect();
                Err(failed(SourceKind::ServiceAccount)(format!(
                    "credentials of type '{other}' are not supported; it takes a service account key"
                )))
            }
            Err(_) => Err(failed(SourceKind::ServiceAccount)(
                "not a credentials file (JSON with a \"type\")".to_owned(),
            )),
        }
    }

    async fn bounded(
        &self,
        kind: SourceKind,
        exchange: impl Future<Output = Result<Arc<Token>, gcp_auth::Error>>,
    ) -> Result<Minted, String> {
        let token = match tokio::time::timeout(self.timeout, exchange).await {
            Ok(Ok(token)) => token,
            Ok(Err(error)) => return Err(text(&error)),
            Err(_) => return Err(no_answer(self.timeout)),
        };
        let secret =
            access_token(token.as_str()).ok_or("the reply has an empty or garbled token")?;
        Ok(Minted {
            secret,
            expires_at: Some(SystemTime::from(token.expires_at())),
            kind,
            principal: None,
        })
    }
}

impl Source for GoogleFile {
    fn mint(&mut self) -> BoxFuture<'_, Result<Minted, SourceError>> {
        Box::pin(async {
            self.token().await.map_err(|refusal| {
                let place = format!("credentials file {}", self.path.display());
                SourceError::one(refusal.kind(), place, refusal.said(), MEND)
            })
        })
    }
}

async fn service_account(json: Zeroizing<Vec<u8>>) -> Result<Arc<Token>, gcp_auth::Error> {
    // Loads the system's certificates from disk.
    let provider = tokio::task::spawn_blocking(move || {
        let json = std::str::from_utf8(&json)
            .map_err(|_| gcp_auth::Error::Str("the file is not valid UTF-8"))?;
        CustomServiceAccount::from_json(json)
    })
    .await
    .map_err(|error| gcp_auth::Error::Other("reading the key failed", Box::new(error)))??;
    provider.token(&[SCOPE]).await
}

async fn user_credentials() -> Result<Arc<Token>, gcp_auth::Error> {
    ConfigDefaultCredentials::new().await?.token(&[SCOPE]).await
}

/// The one place where gcp_auth looks for user credentials.
fn usual_place() -> Option<PathBuf> {
    let home = std::env::home_dir()?;
    Some(home.join(".config/gcloud/application_default_credentials.json"))
}

/// The error with its causes; for JSON only where it is wrong, as serde's text may quote it.
fn text(error: &gcp_auth::Error) -> String {
    match error {
        gcp_auth::Error::Json(what, error) => {
            format!("{what} (line {}, column {})", error.line(), error.column())
        }
        // The server's own words went to the log at that moment.
        gcp_auth::Error::Str("token request failed") => {
            "the token endpoint refused (its reply is in the log)".to_owned()
        }
        error => chain(error),
    }
}
