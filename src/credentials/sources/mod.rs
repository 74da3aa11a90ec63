//! The places a credential can come from.
//!
//! Invariant: a source fetches anew each time it is asked and bounds its own time; caching, retry
//! and the schedule belong to [`super::task`]. No error text holds a secret or the body of a reply.

pub mod adc;
pub mod command;
pub mod file;
pub mod gcloud;
pub mod google_file;
pub mod impersonation;
pub mod metadata;
pub mod token_command;

use std::fmt;
use std::future::{Future, pending};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::credentials::Secret;
use crate::env::Environment;
use crate::google::http::Http;

/// The scope every token is asked with; Memorystore's documentation knows no narrower one.
pub(crate) const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Which source the user chose.
#[derive(Debug, Clone)]
pub enum CredentialSource {
    /// Application default credentials: key file, user file, metadata server, gcloud.
    Adc,
    /// A fixed access token (`--token`).
    Token(Secret),
    /// A file with an access token (`--token-file`).
    TokenFile(PathBuf),
    /// A credentials file of any type (`--credentials-file`).
    CredentialsFile(PathBuf),
    /// The content of such a file (`--json-credentials`).
    JsonCredentials(Secret),
    /// A program that prints an access token (`--token-command`).
    TokenCommand(command::CommandLine),
    /// The gcloud command (`--gcloud-auth`).
    Gcloud,
    /// A file with a fixed password (`--upstream-password-file`).
    Password {
        /// Path of the file.
        file: PathBuf,
    },
    /// No AUTH at all (`--no-iam-auth`).
    None,
    /// Tokens of another account (`--impersonate-service-account`).
    Impersonated(Box<impersonation::OnBehalf>),
    /// Google's endpoints bill their calls to a project (`--quota-project`).
    Billed {
        /// Where the credential comes from.
        source: Box<Self>,
        /// The project.
        project: Arc<str>,
    },
}

/// What sources that call Google's endpoints share.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Variables.
    pub env: Environment,
    /// The client.
    pub http: Http,
    /// `--quota-project`.
    pub quota_project: Option<Arc<str>>,
    /// The credential only makes tokens of another account and never reaches the cluster.
    pub is_base: bool,
}

impl CredentialSource {
    /// The source itself; `None` when no AUTH is wanted.
    pub fn build(&self, env: &Environment) -> Option<Box<dyn Source>> {
        self.assemble(Context { env: env.clone(), ..Context::default() })
    }

    fn assemble(&self, context: Context) -> Option<Box<dyn Source>> {
        let env = &context.env;
        Some(match self {
            Self::Adc => Box::new(adc::Adc::within(context)),
            Self::Token(token) => Box::new(Fixed(token.clone())),
            Self::TokenFile(path) => Box::new(file::SecretFile::token(path.clone())),
            Self::CredentialsFile(path) => {
                Box::new(google_file::GoogleFile::new(path.clone(), context))
            }
            Self::JsonCredentials(json) => {
                Box::new(google_file::GoogleFile::inline(json.clone(), context))
            }
            Self::TokenCommand(line) => {
                Box::new(token_command::TokenCommand::new(line.clone(), env.clone()))
            }
            Self::Gcloud => Box::new(gcloud::Gcloud::new(env.clone())),
            Self::Password { file } => Box::new(file::SecretFile::password(file.clone())),
            Self::None => return None,
            Self::Impersonated(on_behalf) => {
                let impersonation::OnBehalf { source, chain, endpoint } = &**on_behalf;
                let inner = source.assemble(Context { is_base: true, ..context.clone() })?;
                let target = impersonation::Impersonation::new(chain.clone(), endpoint, context);
                Box::new(impersonation::Impersonated::new(inner, target))
            }
            Self::Billed { source, project } => {
                let quota_project = Some(Arc::clone(project));
                return source.assemble(Context { quota_project, ..context });
            }
        })
    }
}

/// The concrete sources, for names and counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants are what name() says")]
pub enum SourceKind {
    ServiceAccount,
    UserCredentials,
    Metadata,
    Gcloud,
    Token,
    TokenFile,
    PasswordFile,
    Impersonated,
    ExternalAccount,
    TokenCommand,
}

impl SourceKind {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 10] = [
        Self::ServiceAccount,
        Self::UserCredentials,
        Self::Metadata,
        Self::Gcloud,
        Self::Token,
        Self::TokenFile,
        Self::PasswordFile,
        Self::Impersonated,
        Self::ExternalAccount,
        Self::TokenCommand,
    ];

    /// The name in logs, `/status` and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::ServiceAccount => "service account file",
            Self::UserCredentials => "user credentials file",
            Self::Metadata => "metadata server",
            Self::Gcloud => "gcloud",
            Self::Token => "--token",
            Self::TokenFile => "--token-file",
            Self::PasswordFile => "--upstream-password-file",
            Self::Impersonated => "impersonated service account",
            Self::ExternalAccount => "external account file",
            Self::TokenCommand => "--token-command",
        }
    }
}

/// What a source gives.
#[derive(Debug, Clone)]
pub struct Minted {
    /// Token or password.
    pub secret: Secret,
    /// When it ends by the wall clock; `None` when that is not known.
    pub expires_at: Option<SystemTime>,
    /// Who gave it.
    pub kind: SourceKind,
    /// Whom it stands for, if the source tells: an e-mail address.
    pub principal: Option<Arc<str>>,
}

/// A boxed future, so that sources can be chosen at run time.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One place a credential can come from.
pub trait Source: Send + 'static {
    /// Fetches a credential, in bounded time. Dropping the future abandons the attempt.
    ///
    /// # Errors
    /// Which places were asked, what each said, and what to do.
    fn mint(&mut self) -> BoxFuture<'_, Result<Minted, SourceError>>;

    /// Ready when the source has something new that is worth a [`Source::mint`] before its time;
    /// cancel-safe.
    fn changed(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(pending())
    }

    /// How often to ask a source that gives no expiry; `None` for never.
    fn reread_every(&self) -> Option<Duration> {
        None
    }
}

/// One place that was asked and had nothing.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Who, for the failure counters; `None` when it was not set up and so did not fail.
    pub failed: Option<SourceKind>,
    /// The place, such as `metadata server 10.0.0.1:80`.
    pub place: String,
    /// What it said.
    pub said: String,
}

/// Why there is no credential.
#[derive(Debug, Clone)]
pub struct SourceError {
    /// The places asked, in order.
    pub attempts: Vec<Attempt>,
    /// What the user can do.
    pub mend: String,
}

impl SourceError {
    /// The failure of a single place.
    pub fn one(kind: SourceKind, place: String, said: String, mend: impl Into<String>) -> Self {
        let failed = Some(kind);
        Self { attempts: vec![Attempt { failed, place, said }], mend: mend.into() }
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no credentials: ")?;
        for (i, attempt) in self.attempts.iter().enumerate() {
            let sep = if i == 0 { "" } else { "; " };
            write!(f, "{sep}{}: {}", attempt.place, attempt.said)?;
        }
        write!(f, ". {}", self.mend)
    }
}

impl std::error::Error for SourceError {}

/// `--token`.
struct Fixed(Secret);

impl Source for Fixed {
    fn mint(&mut self) -> BoxFuture<'_, Result<Minted, SourceError>> {
        let minted = Minted {
            secret: self.0.clone(),
            expires_at: None,
            kind: SourceKind::Token,
            principal: None,
        };
        Box::pin(async { Ok(minted) })
    }
}

/// Text that can be an access token: one line of visible characters. `None` for anything else.
pub(crate) fn access_token(text: &str) -> Option<Secret> {
    let text = text.trim();
    let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    fits.then(|| Secret::new(text.to_owned()))
}

/// "no answer within 5s", for every source alike.
pub(crate) fn no_answer(within: Duration) -> String {
    format!("no answer within {}", humantime::format_duration(within))
}

#[cfg(test)]
mod tests;
