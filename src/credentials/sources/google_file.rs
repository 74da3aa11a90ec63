//! Credential files that Google's tools write, exchanged for access tokens.
//!
//! Service account keys go through gcp_auth, which signs the assertion and exchanges it; it knows no
//! other type anywhere but in one place. The other types are a call or three each, made here with
//! the program's one HTTP client. The crate google-cloud-auth knows them all, but gives a key file's
//! self-signed JWT, which Memorystore is not known to take, tells no expiry, so that nothing could
//! renew in time, refreshes behind our back (a second cache), and wants a newer compiler and a second
//! HTTP stack. Invariant: the content is read anew each time, so a rotated key is picked up, and no
//! error text holds any of it.

mod external;
mod reply;
mod subject;
mod user;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gcp_auth::{CustomServiceAccount, Token, TokenProvider as _};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::impersonation::Impersonation;
use super::{
    BoxFuture, Context, Minted, SCOPE, Source, SourceError, SourceKind, access_token, no_answer,
};
use crate::credentials::Secret;
use crate::error::chain;

/// gcp_auth tries five times in a row, so this covers all of them.
const TIMEOUT: Duration = Duration::from_secs(10);
const MEND: &str = "Give a credentials file that is still valid.";

/// A credential file, or its content.
#[derive(Debug, Clone)]
pub struct GoogleFile {
    content: Content,
    context: Context,
}

#[derive(Debug, Clone)]
enum Content {
    Path(PathBuf),
    Inline(Secret),
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

/// Whether a text can be the content of such a file.
pub fn is_credentials(text: &str) -> bool {
    serde_json::from_str::<FileType>(text).is_ok()
}

#[derive(Deserialize)]
struct FileType {
    r#type: String,
}

#[derive(Deserialize)]
struct Owner {
    client_email: String,
}

/// `impersonated_service_account`.
#[derive(Deserialize)]
struct ImpersonatedFile {
    service_account_impersonation_url: String,
    source_credentials: serde_json::Value,
    delegates: Option<Vec<String>>,
    quota_project_id: Option<String>,
}

impl GoogleFile {
    /// The file at `path`, which may appear later.
    pub fn new(path: PathBuf, context: Context) -> Self {
        Self { content: Content::Path(path), context }
    }

    /// The content itself.
    pub fn inline(json: Secret, context: Context) -> Self {
        Self { content: Content::Inline(json), context }
    }

    /// Reads the file and exchanges what is in it for an access token.
    ///
    /// # Errors
    /// What went wrong; never content of the file.
    pub async fn token(&self) -> Result<Minted, Refusal> {
        let json = match &self.content {
            Content::Path(path) => tokio::fs::read(path).await.map_err(Refusal::Unreadable)?,
            Content::Inline(json) => json.expose().as_bytes().to_vec(),
        };
        exchange(Zeroizing::new(json), self.context.clone()).await
    }
}

/// Where it is.
impl fmt::Display for GoogleFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.content {
            Content::Path(path) => path.display().fmt(f),
            Content::Inline(_) => f.write_str("--json-credentials"),
        }
    }
}

impl Source for GoogleFile {
    fn mint(&mut self) -> BoxFuture<'_, Result<Minted, SourceError>> {
        let file = &*self;
        Box::pin(async move {
            file.token().await.map_err(|refusal| {
                let place = match file.content {
                    Content::Path(_) => format!("credentials file {file}"),
                    Content::Inline(_) => file.to_string(),
                };
                SourceError::one(refusal.kind(), place, refusal.said(), MEND)
            })
        })
    }
}

/// Boxed, as a file may hold another one.
fn exchange(
    json: Zeroizing<Vec<u8>>,
    context: Context,
) -> BoxFuture<'static, Result<Minted, Refusal>> {
    Box::pin(async move {
        let file_type = serde_json::from_slice::<FileType>(&json).map(|t| t.r#type);
        let failed = |kind| move |said| Refusal::Failed(kind, said);
        match file_type.as_deref() {
            Ok("service_account") => {
                let kind = SourceKind::ServiceAccount;
                service_account(json).await.map_err(failed(kind))
            }
            Ok("authorized_user") => {
                let kind = SourceKind::UserCredentials;
                user::token(&json, &context).await.map_err(failed(kind))
            }
            Ok("external_account") => {
                let kind = SourceKind::ExternalAccount;
                external::token(&json, &context).await.map_err(failed(kind))
            }
            Ok("impersonated_service_account") => impersonated(&json, context).await,
            Ok(other) => {
                // The type is the file's own word; a long one is no type.
                let other: String = other.chars().take(40).collect();
                Err(failed(SourceKind::ServiceAccount)(format!(
                    "credentials of type '{other}' are not supported; it takes service_account, \
                     authorized_user, impersonated_service_account and external_account"
                )))
            }
            Err(_) => Err(failed(SourceKind::ServiceAccount)(
                "not a credentials file (JSON with a \"type\")".to_owned(),
            )),
        }
    })
}

async fn impersonated(json: &[u8], context: Context) -> Result<Minted, Refusal> {
    let failed = |said| Refusal::Failed(SourceKind::Impersonated, said);
    let what = "impersonated credentials (service_account_impersonation_url, source_credentials)";
    let file: ImpersonatedFile = read(json, what).map_err(failed)?;
    let own = file.quota_project_id.map(Arc::from);
    let quota_project = context.quota_project.clone().or(own);
    let target = Impersonation::from_file(
        &file.service_account_impersonation_url,
        &file.delegates.unwrap_or_default(),
        None,
        Context { quota_project, ..context.clone() },
    )
    .map_err(failed)?;
    let inner = Zeroizing::new(file.source_credentials.to_string().into_bytes());
    let by = exchange(inner, Context { is_base: true, ..context }).await.map_err(|refusal| {
        Refusal::Failed(refusal.kind(), format!("its source_credentials: {}", refusal.said()))
    })?;
    target.token(&by).await.map_err(failed)
}

/// Reads a file's fields; the error says where they are wrong, but not serde's words, which may quote
/// a value.
fn read<T: DeserializeOwned>(json: &[u8], what: &str) -> Result<T, String> {
    serde_json::from_slice(json).map_err(|error| {
        format!("not {what}, see line {}, column {}", error.line(), error.column())
    })
}

async fn service_account(json: Zeroizing<Vec<u8>>) -> Result<Minted, String> {
    let owner = serde_json::from_slice::<Owner>(&json);
    let token = match tokio::time::timeout(TIMEOUT, signed(json)).await {
        Ok(Ok(token)) => token,
        Ok(Err(error)) => return Err(text(&error)),
        Err(_) => return Err(no_answer(TIMEOUT)),
    };
    let secret = access_token(token.as_str()).ok_or("the reply has an empty or garbled token")?;
    Ok(Minted {
        secret,
        expires_at: Some(SystemTime::from(token.expires_at())),
        kind: SourceKind::ServiceAccount,
        principal: owner.ok().map(|owner| owner.client_email.into()),
    })
}

/// A provider of gcp_auth keeps its token until 20 s before the end, so a refresh ahead of time needs
/// a new one.
async fn signed(json: Zeroizing<Vec<u8>>) -> Result<Arc<Token>, gcp_auth::Error> {
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
