//! Tokens of a service account, made by iamcredentials with the credential of somebody else.
//!
//! For `--impersonate-service-account` on top of any source, and for credential files that ask for
//! it. Invariant: nothing is kept between calls but the settings, so the credential behind it is
//! fetched anew each time, and [`crate::credentials::task`] stays the only cache. The token in use is
//! never part of an error.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;

use super::{
    BoxFuture, Context, CredentialSource, Minted, SCOPE, Source, SourceError, SourceKind,
    access_token,
};
use crate::google::http::{Answer, Call, Url};

/// Life that is asked for; more is not given unless an organisation policy permits it.
pub const LIFETIME: Duration = Duration::from_secs(3600);
/// Role that is wanted for it, and the one for identities of other providers.
const ROLE: &str = "roles/iam.serviceAccountTokenCreator";
const FEDERATED_ROLE: &str = "roles/iam.workloadIdentityUser";
const MAX_BYTES: usize = 64 * 1024;

/// Whose tokens are wanted, and through whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The account the tokens stand for.
    pub target: Arc<str>,
    /// Accounts between the credential at hand and the target, in the API's order: the first is used
    /// by the credential at hand, the last uses the target.
    pub delegates: Vec<Arc<str>>,
}

impl Chain {
    /// Reads `TARGET[,DELEGATE...]` as cloud-sql-proxy does: each account is used by the one after it,
    /// so the last is the one the credential at hand uses.
    ///
    /// # Errors
    /// The rest of a sentence that begins with the setting's name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let accounts = text.split(',').map(str::trim);
        let mut accounts = accounts.map(|account| match is_account(account) {
            true => Ok(Arc::from(account)),
            false => Err("has an entry that is no service account; give e-mail addresses such as \
                 NAME@PROJECT.iam.gserviceaccount.com, the target first, separated by commas"
                .to_owned()),
        });
        let target = accounts.next().unwrap_or_else(|| Err("is empty".to_owned()))?;
        let mut delegates = accounts.collect::<Result<Vec<_>, _>>()?;
        delegates.reverse();
        Ok(Self { target, delegates })
    }

    /// The path of the call below the API's endpoint.
    fn path(&self) -> String {
        format!("/v1/projects/-/serviceAccounts/{}:generateAccessToken", self.target)
    }
}

/// Only what can stand in a path as it is.
fn is_account(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    text.split_once('@').is_some_and(|(name, domain)| !name.is_empty() && domain.contains('.'))
        && text.len() < 256
        && text.chars().all(fits)
}

/// What the user chose with `--impersonate-service-account`.
#[derive(Debug, Clone)]
pub struct OnBehalf {
    /// Whose credential makes the tokens.
    pub source: CredentialSource,
    /// Whose tokens.
    pub chain: Chain,
    /// `--iamcredentials-api-endpoint`.
    pub endpoint: Url,
}

/// One way to make a token of another account.
#[derive(Debug, Clone)]
pub struct Impersonation {
    chain: Chain,
    url: Url,
    lifetime: Duration,
    context: Context,
}

impl Impersonation {
    /// At an endpoint of the API.
    pub fn new(chain: Chain, endpoint: &Url, context: Context) -> Self {
        let url = endpoint.join(&chain.path());
        Self { chain, url, lifetime: LIFETIME, context }
    }

    /// As a credential file says it: with the whole URL of the call.
    ///
    /// # Errors
    /// What is wrong with the URL or an account.
    pub fn from_file(
        url: &str,
        delegates: &[String],
        lifetime: Option<u64>,
        context: Context,
    ) -> Result<Self, String> {
        let said = |says: String| format!("its service_account_impersonation_url {says}");
        let parsed = Url::for_secrets(url).map_err(said)?;
        let account = parsed.path().rsplit('/').next().and_then(|last| last.split(':').next());
        let target = account.filter(|account| is_account(account)).ok_or_else(|| {
            said("does not end with /serviceAccounts/EMAIL:generateAccessToken".to_owned())
        })?;
        // Files of old hold resource names.
        let bare = |name: &String| {
            let last = name.rsplit('/').next().unwrap_or_default();
            match is_account(last) {
                true => Ok(Arc::from(last)),
                false => Err("one of its delegates is no service account".to_owned()),
            }
        };
        let delegates = delegates.iter().map(bare).collect::<Result<_, _>>()?;
        let chain = Chain { target: target.into(), delegates };
        let lifetime = lifetime.map_or(LIFETIME, Duration::from_secs);
        Ok(Self { chain, url: parsed, lifetime, context })
    }

    /// Whose tokens they are.
    pub fn target(&self) -> &Arc<str> {
        &self.chain.target
    }

    /// Makes one, with the credential `by`.
    ///
    /// # Errors
    /// What went wrong, and which role is missing if it is that.
    pub async fn token(&self, by: &Minted) -> Result<Minted, String> {
        let delegates = self.chain.delegates.iter();
        let delegates: Vec<_> =
            delegates.map(|email| format!("projects/-/serviceAccounts/{email}")).collect();
        let body = serde_json::json!({
            "scope": [SCOPE],
            "lifetime": format!("{}s", self.lifetime.as_secs()),
            "delegates": delegates,
        });
        let call = Call::post_json(self.url.clone(), &body)
            .bearer(&by.secret)
            .quota_project(self.context.quota_project.as_deref())
            .limit(MAX_BYTES);
        let authority = self.url.authority();
        let answer = self.context.http.send(call).await;
        let answer = answer.map_err(|error| {
            format!("{authority}: {error}; check that it can be reached from here")
        })?;
        if answer.status != StatusCode::OK {
            return Err(self.refusal(&answer, by));
        }
        let reply = answer.json::<Reply>();
        let parsed = reply.and_then(|reply| {
            let secret = access_token(&reply.access_token)?;
            Some((secret, humantime::parse_rfc3339(&reply.expire_time).ok()?))
        });
        let (secret, expires_at) = parsed.ok_or_else(|| {
            format!("{authority}: the reply is not a token (accessToken, expireTime)")
        })?;
        Ok(Minted {
            secret,
            expires_at: Some(expires_at),
            kind: SourceKind::Impersonated,
            principal: Some(Arc::clone(&self.chain.target)),
        })
    }

    fn refusal(&self, answer: &Answer, by: &Minted) -> String {
        let complaint = answer.complaint();
        let status = answer.status.as_u16();
        let caller = Caller(by);
        let target = &self.chain.target;
        let unused = |m: &String| m.contains("has not been used in project");
        let disabled = complaint.reason.as_deref() == Some("SERVICE_DISABLED")
            || complaint.message.as_ref().is_some_and(unused);
        let why = match answer.status {
            StatusCode::FORBIDDEN if disabled => {
                let consumer = complaint.consumer.as_deref();
                let project = consumer.map_or("PROJECT", |c| c.trim_start_matches("projects/"));
                format!(
                    "the IAM Service Account Credentials API is switched off; run 'gcloud services \
                     enable iamcredentials.googleapis.com --project={project}'"
                )
            }
            StatusCode::FORBIDDEN => {
                format!("{caller} may not make tokens for {target}; {}", self.grants(&caller))
            }
            StatusCode::NOT_FOUND => {
                format!("there is no service account {target}; check the name")
            }
            StatusCode::UNAUTHORIZED => format!("the token of {caller} was not accepted"),
            StatusCode::TOO_MANY_REQUESTS => {
                "too many requests; raise the quota of iamcredentials.googleapis.com if this stays"
                    .to_owned()
            }
            StatusCode::BAD_REQUEST => {
                format!("the request for {target} was refused; check the chain of accounts")
            }
            _ => "the API is in trouble".to_owned(),
        };
        format!("HTTP {status} from {}{complaint}: {why}", self.url.authority())
    }

    /// Which roles the chain wants.
    fn grants(&self, caller: &Caller<'_>) -> String {
        let mut user = caller.to_string();
        let mut role = match caller.0.kind {
            SourceKind::ExternalAccount => FEDERATED_ROLE,
            _ => ROLE,
        };
        let accounts = self.chain.delegates.iter().chain([&self.chain.target]);
        let grants = accounts.map(|account| {
            let grant = format!("grant {role} on {account} to {user}");
            (user, role) = (account.to_string(), ROLE);
            grant
        });
        grants.collect::<Vec<_>>().join(" and ")
    }
}

/// Whose credential it is, in words.
struct Caller<'a>(&'a Minted);

impl fmt::Display for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.principal {
            Some(principal) => f.write_str(principal),
            None => write!(f, "the account of the {}", self.0.kind.name()),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reply {
    access_token: String,
    expire_time: String,
}

/// A source whose credential makes the tokens of another account.
pub struct Impersonated {
    inner: Box<dyn Source>,
    target: Impersonation,
}

impl Impersonated {
    /// On top of `inner`.
    pub fn new(inner: Box<dyn Source>, target: Impersonation) -> Self {
        Self { inner, target }
    }
}

impl Source for Impersonated {
    fn mint(&mut self) -> BoxFuture<'_, Result<Minted, SourceError>> {
        Box::pin(async {
            let by = self.inner.mint().await?;
            self.target.token(&by).await.map_err(|said| {
                let place = format!("impersonation of {}", self.target.target());
                let mend = "It is what --impersonate-service-account asks for.";
                SourceError::one(SourceKind::Impersonated, place, said, mend)
            })
        })
    }

    fn changed(&mut self) -> BoxFuture<'_, ()> {
        self.inner.changed()
    }
}
