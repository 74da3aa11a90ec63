//! The two admin APIs: what an instance is, and which CA signs its servers' certificates.
//!
//! One call, one answer: [`super::lookup`] caches and repeats. Invariant: each way to fail has a
//! sentence of its own that says what to do, also when the account may connect but not read
//! (`roles/redis.dbConnectionUser` alone), for then the flags can say all that the API would.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;

use super::describe::{self, DescribeError, Facts, ServerCa};
use super::http::{Answer, Call, Complaint, Http, HttpError, Url};
use super::name::{Product, ResourceName};
use crate::credentials::Credential;

/// Where the APIs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bases {
    /// `--redis-api-endpoint`.
    pub redis: Url,
    /// `--memorystore-api-endpoint`.
    pub memorystore: Url,
}

impl Bases {
    fn of(&self, product: Product) -> &Url {
        match product {
            Product::RedisCluster => &self.redis,
            Product::Valkey => &self.memorystore,
        }
    }
}

/// A client of both APIs.
#[derive(Debug, Clone)]
pub struct Api {
    http: Http,
    bases: Bases,
    quota_project: Option<Arc<str>>,
}

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// 401: the token does not count.
    Unauthenticated,
    /// 403: the account lacks a permission.
    PermissionDenied,
    /// 403: the API is switched off in the project.
    ApiDisabled,
    /// 404.
    NotFound,
    /// 429.
    TooManyRequests,
    /// 5xx.
    Server,
    /// No answer.
    Network,
    /// Any other answer that is not understood.
    Garbled,
    /// An answer that says that the instance cannot be connected to (yet).
    NotUsable,
}

/// Why there are no facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// For the pace of repetitions.
    pub kind: ErrorKind,
    /// How long the API asks to be left alone.
    pub retry_after: Option<Duration>,
    text: String,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ApiError {}

impl ApiError {
    /// For tests of the pace.
    #[cfg(test)]
    pub(super) fn for_test(kind: ErrorKind, retry_after: Option<Duration>) -> Self {
        Self { kind, retry_after, text: String::new() }
    }

    fn new(kind: ErrorKind, text: String) -> Self {
        Self { kind, retry_after: None, text }
    }
}

impl Api {
    /// Asks the APIs at `bases`, billed to `quota_project` if there is one.
    pub fn new(http: Http, bases: Bases, quota_project: Option<Arc<str>>) -> Self {
        Self { http, bases, quota_project }
    }

    /// What the instance is and where to connect.
    ///
    /// # Errors
    /// What went wrong and what to do; never a token or the body of the answer.
    pub async fn describe(
        &self,
        name: &ResourceName,
        credential: &Credential,
    ) -> Result<Facts, ApiError> {
        let answer = self.get(name, name.path(), credential).await?;
        describe::describe(name, &answer.body).map_err(|error| self.not_understood(name, &error))
    }

    /// The certificates that sign the servers' certificates, in PEM. `mode` says which of the two
    /// authorities is the likely one; the other is asked when that one does not exist.
    ///
    /// # Errors
    /// As [`Self::describe`].
    pub async fn server_ca(
        &self,
        name: &ResourceName,
        mode: &ServerCa,
        credential: &Credential,
    ) -> Result<String, ApiError> {
        let (first, second) = match mode {
            ServerCa::Shared => (name.shared_ca_path(), name.ca_path()),
            _ => (name.ca_path(), name.shared_ca_path()),
        };
        let answer = match self.get(name, first, credential).await {
            Err(error) if error.kind == ErrorKind::NotFound => {
                self.get(name, second, credential).await?
            }
            outcome => outcome?,
        };
        describe::ca_bundle(&answer.body).map_err(|error| self.not_understood(name, &error))
    }

    async fn get(
        &self,
        name: &ResourceName,
        path: String,
        credential: &Credential,
    ) -> Result<Answer, ApiError> {
        let url = self.bases.of(name.product()).join(&path);
        let call =
            Call::get(url).bearer(&credential.secret).quota_project(self.quota_project.as_deref());
        let answer = self.http.send(call).await.map_err(|error| self.unreachable(name, &error))?;
        match answer.status {
            StatusCode::OK => Ok(answer),
            _ => Err(self.refused(name, credential, &answer)),
        }
    }

    fn unreachable(&self, name: &ResourceName, error: &HttpError) -> ApiError {
        let base = self.bases.of(name.product());
        let text = format!(
            "cannot look up {name}: {base}: {error}. The API must be reachable from here (Private \
             Google Access, Cloud NAT or a proxy-free way out); or do without it: {WITHOUT}"
        );
        ApiError::new(ErrorKind::Network, text)
    }

    fn not_understood(&self, name: &ResourceName, error: &DescribeError) -> ApiError {
        match error {
            DescribeError::NotUsable(said) => {
                ApiError::new(ErrorKind::NotUsable, format!("{name} {said}"))
            }
            DescribeError::Garbled(said) => {
                let base = self.bases.of(name.product());
                let text = format!(
                    "cannot look up {name}: the answer of {base} is not understood: {said}. Check what \
                     answers there; or do without it: {WITHOUT}"
                );
                ApiError::new(ErrorKind::Garbled, text)
            }
        }
    }

    fn refused(&self, name: &ResourceName, credential: &Credential, answer: &Answer) -> ApiError {
        let complaint = answer.complaint();
        let refusal = Refusal {
            name,
            who: credential.principal.as_deref(),
            status: answer.status.as_u16(),
            complaint: &complaint,
            quota_project: self.quota_project.as_deref(),
        };
        let (kind, text) = match (answer.status, complaint.reason.as_deref()) {
            (StatusCode::UNAUTHORIZED, _) => {
                (ErrorKind::Unauthenticated, refusal.unauthenticated(credential.source))
            }
            (StatusCode::FORBIDDEN, Some("SERVICE_DISABLED")) => {
                (ErrorKind::ApiDisabled, refusal.disabled())
            }
            (StatusCode::FORBIDDEN, Some("ACCESS_TOKEN_SCOPE_INSUFFICIENT")) => {
                (ErrorKind::PermissionDenied, refusal.scope())
            }
            (StatusCode::FORBIDDEN, Some("USER_PROJECT_DENIED")) => {
                (ErrorKind::PermissionDenied, refusal.quota_project())
            }
            (StatusCode::FORBIDDEN, _) => (ErrorKind::PermissionDenied, refusal.permission()),
            (StatusCode::NOT_FOUND, _) => (ErrorKind::NotFound, refusal.not_found()),
            (StatusCode::TOO_MANY_REQUESTS, _) => (ErrorKind::TooManyRequests, refusal.too_many()),
            (status, _) if status.is_server_error() => (ErrorKind::Server, refusal.server()),
            _ => (ErrorKind::Garbled, refusal.other(self.bases.of(name.product()))),
        };
        ApiError { kind, retry_after: answer.retry_after, text }
    }
}

/// What to do when the API cannot be asked.
const WITHOUT: &str = "give HOST:PORT of its discovery endpoint instead of the name, with --server-ca-file if it uses TLS";

/// The words for each refusal.
struct Refusal<'a> {
    name: &'a ResourceName,
    who: Option<&'a str>,
    status: u16,
    complaint: &'a Complaint,
    quota_project: Option<&'a str>,
}

impl Refusal<'_> {
    fn who(&self) -> &str {
        self.who.unwrap_or("the account of the credentials")
    }

    fn unauthenticated(&self, source: &str) -> String {
        let Self { name, status, complaint, .. } = self;
        let whose = self.who.map(|who| format!(" of {who}")).unwrap_or_default();
        format!(
            "cannot look up {name}: HTTP {status}{complaint}: the access token{whose} from {source} is \
             not accepted. It may have expired or been revoked, or this machine's clock is wrong"
        )
    }

    fn permission(&self) -> String {
        let Self { name, status, complaint, .. } = self;
        let product = name.product();
        let permission = product.read_permission();
        let role = product.viewer_role();
        let project = name.project();
        format!(
            "cannot look up {name}: HTTP {status}{complaint}: {} lacks the permission {permission}. \
             Grant it the role {role} in project {project} (next to {}, which permits to connect but \
             not to look up), and wait some minutes; or do without it: {WITHOUT}",
            self.who(),
            product.connect_role(),
        )
    }

    fn scope(&self) -> String {
        let Self { name, status, complaint, .. } = self;
        format!(
            "cannot look up {name}: HTTP {status}{complaint}: the access token of {} lacks the scope \
             cloud-platform. Set the access scope of the VM or node pool to cloud-platform; AUTH needs \
             it as well",
            self.who()
        )
    }

    fn quota_project(&self) -> String {
        let Self { name, status, complaint, .. } = self;
        let project = self.quota_project.unwrap_or("of the credentials");
        format!(
            "cannot look up {name}: HTTP {status}{complaint}: {} may not use the quota project \
             {project}. Grant it roles/serviceusage.serviceUsageConsumer there, or change \
             --quota-project",
            self.who()
        )
    }

    fn disabled(&self) -> String {
        let Self { name, status, complaint, quota_project, .. } = self;
        let product = name.product();
        let (title, service) = (product.title(), product.service());
        let consumer = complaint.consumer.as_deref().and_then(|c| c.strip_prefix("projects/"));
        let project = consumer.or(*quota_project).unwrap_or(name.project());
        format!(
            "cannot look up {name}: HTTP {status}: the API of {title} is not enabled in project \
             {project}. Enable it with 'gcloud services enable {service} --project={project}' and wait \
             some minutes; or do without it: {WITHOUT}"
        )
    }

    fn not_found(&self) -> String {
        let Self { name, status, .. } = self;
        let product = name.product();
        let (id, project, region) = (name.id(), name.project(), name.location());
        let hint = match product {
            Product::RedisCluster => "",
            // The older product has the same words in its names, and another API.
            Product::Valkey => {
                " (instances of Memorystore for Redis are not served by name: give their HOST:PORT)"
            }
        };
        format!(
            "cannot look up {name}: HTTP {status}: there is no {} '{id}' of {} in project '{project}', \
             region '{region}'. Check the three names; '{} --region={region} --project={project}' lists \
             what there is{hint}",
            product.noun(),
            product.title(),
            product.list_command(),
        )
    }

    fn too_many(&self) -> String {
        let Self { name, status, quota_project, .. } = self;
        let project = quota_project.unwrap_or(name.project());
        format!(
            "cannot look up {name}: HTTP {status}: the 60 requests a minute that the API permits to \
             project '{project}' are used up; it waits and asks again. Fewer proxies that start at the \
             same moment help, or none that looks up: {WITHOUT}"
        )
    }

    fn server(&self) -> String {
        let Self { name, status, complaint, .. } = self;
        format!(
            "cannot look up {name}: HTTP {status}{complaint}: {} has trouble of its own; it is asked \
             again",
            name.product().service()
        )
    }

    fn other(&self, base: &Url) -> String {
        let Self { name, status, complaint, .. } = self;
        format!(
            "cannot look up {name}: {base} answered HTTP {status}{complaint}, which is not expected. \
             Check what answers there; or do without it: {WITHOUT}"
        )
    }
}
