//! The HTTP client for everything that is asked over HTTP: Google's APIs, token endpoints, the
//! metadata server.
//!
//! All of them are asked a few times an hour, so a call has a connection of its own and nothing is
//! pooled: one call, one answer, no task left behind when it is dropped. Invariant: a call is bounded
//! in time, an answer in size, and no error text holds the body of an answer but for the message of
//! an error in Google's form, cleaned ([`Complaint`]). Redirects are not followed, and there are no
//! retries: each caller knows its own.

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{AUTHORIZATION, HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use crate::credentials::Secret;
use crate::error::chain;

/// Time a call has when its caller says nothing else.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Size an answer may have when the caller says nothing else.
const MAX_BYTES: usize = 1024 * 1024;
/// Longest message that is taken over from an error of Google's.
const MAX_MESSAGE: usize = 300;

/// `http://` or `https://`, a host, a port and a path. `Debug` and `Display` leave the query out, as
/// it may hold a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

impl Url {
    /// Reads an absolute URL.
    ///
    /// # Errors
    /// The rest of a sentence that begins with the setting's name, without the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        const SHAPE: &str = "is not a URL; give one such as https://HOST or http://127.0.0.1:PORT";
        let uri: hyper::Uri = text.parse().map_err(|_| SHAPE.to_owned())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(SHAPE.to_owned()),
        };
        let authority = uri.authority().ok_or(SHAPE)?;
        let name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        let host = authority.host();
        let host = match host.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')) {
            Some(ip) => Some(ip).filter(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
            None => Some(host).filter(|host| !host.is_empty() && host.bytes().all(name)),
        };
        let host = host.filter(|_| !authority.as_str().contains('@')).ok_or(SHAPE)?;
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self { tls, host: host.to_owned(), port, path: path.to_owned() })
    }

    /// The same, and refused unless it is fit for secrets: `https`, or a host on this machine.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn for_secrets(text: &str) -> Result<Self, String> {
        let url = Self::parse(text)?;
        let ip = url.host.parse::<std::net::IpAddr>();
        let local = url.host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
        if !url.tls && !local {
            return Err("would send secrets in clear text; give an https:// URL".to_owned());
        }
        Ok(url)
    }

    /// Plain HTTP to a host, without a path.
    pub fn plain(host: &str, port: u16) -> Self {
        Self { tls: false, host: host.to_owned(), port, path: "/".to_owned() }
    }

    /// The URL of `path`, which begins with a slash, below this one.
    #[must_use]
    pub fn join(&self, path: &str) -> Self {
        let base = self.path.split('?').next().unwrap_or_default().trim_end_matches('/');
        Self { path: format!("{base}{path}"), ..self.clone() }
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }

    /// `HOST:PORT`, the port left out where it is the usual one.
    pub fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())?;
        if self.path() != "/" {
            f.write_str(self.path())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

/// One request. No `Debug`: headers and body hold secrets.
pub struct Call {
    method: Method,
    url: Url,
    headers: Vec<(String, HeaderValue)>,
    body: Bytes,
    bearer: Option<Secret>,
    timeout: Duration,
    limit: usize,
    bad_header: Option<String>,
}

impl Call {
    /// `GET`.
    pub fn get(url: Url) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: Vec::new(),
            body: Bytes::new(),
            bearer: None,
            timeout: TIMEOUT,
            limit: MAX_BYTES,
            bad_header: None,
        }
    }

    /// `POST` of a JSON body.
    pub fn post_json(url: Url, body: &serde_json::Value) -> Self {
        let call = Self { method: Method::POST, body: body.to_string().into(), ..Self::get(url) };
        call.header("content-type", "application/json")
    }

    /// `POST` of a form.
    pub fn post_form(url: Url, fields: &[(&str, &str)]) -> Self {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields);
        let call = Self { method: Method::POST, body: form.finish().into(), ..Self::get(url) };
        call.header("content-type", "application/x-www-form-urlencoded")
    }

    /// With this header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        match HeaderValue::from_str(value) {
            Ok(mut value) if hyper::header::HeaderName::try_from(name).is_ok() => {
                value.set_sensitive(true);
                self.headers.push((name.to_owned(), value));
            }
            _ => self.bad_header = Some(clean(name)),
        }
        self
    }

    /// With this access token.
    #[must_use]
    pub fn bearer(mut self, token: &Secret) -> Self {
        self.bearer = Some(token.clone());
        self.header(AUTHORIZATION.as_str(), &format!("Bearer {}", token.expose()))
    }

    /// Billed to this project, if there is one.
    #[must_use]
    pub fn quota_project(self, project: Option<&str>) -> Self {
        match project {
            Some(project) => self.header("x-goog-user-project", project),
            None => self,
        }
    }

    /// With another time limit.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// With another limit to the size of the answer.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }
}

/// Why there is no answer. The texts name no host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpError {
    /// The host name has no address.
    Unresolved,
    /// No connection, or none that TLS could verify, or it broke before an answer.
    Connection(String),
    /// The answer began and broke off, or is too long.
    Answer(String),
    /// Nothing within this time.
    Timeout(Duration),
    /// The call cannot be made as it is.
    Call(String),
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved => f.write_str("host name not found"),
            Self::Connection(said) | Self::Answer(said) | Self::Call(said) => f.write_str(said),
            Self::Timeout(within) => {
                write!(f, "no answer within {}", humantime::format_duration(*within))
            }
        }
    }
}

impl std::error::Error for HttpError {}

/// What came back. No `Debug`: the body may hold a token.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// How long the server asks to be left alone (in seconds; the form with a date is not in use).
    pub retry_after: Option<Duration>,
    /// Its body.
    pub body: Bytes,
    bearer: Option<Secret>,
}

impl Answer {
    /// The body as JSON; `None` when it is something else. serde's text may quote the body and so is
    /// not passed on.
    pub fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }

    /// What an error answer says in Google's own form; empty when it is in another one.
    pub fn complaint(&self) -> Complaint {
        let mut complaint = Complaint::read(&self.body);
        if let (Some(message), Some(bearer)) = (&mut complaint.message, &self.bearer)
            && message.contains(bearer.expose())
        {
            *message = message.replace(bearer.expose(), "…");
        }
        complaint
    }
}

/// An error in the form of Google's APIs, or in that of OAuth.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Complaint {
    /// `error.message` or `error_description`, cleaned.
    pub message: Option<String>,
    /// `error.status`, such as `PERMISSION_DENIED`, or the `error` of OAuth, such as `invalid_grant`.
    pub status: Option<String>,
    /// The reason of the ErrorInfo in the details, such as `SERVICE_DISABLED`.
    pub reason: Option<String>,
    /// `metadata.consumer` of the ErrorInfo: the project that the error is about.
    pub consumer: Option<String>,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: serde_json::Value,
    error_description: Option<String>,
}

impl Complaint {
    fn read(body: &[u8]) -> Self {
        let Ok(body) = serde_json::from_slice::<ErrorBody>(body) else {
            return Self::default();
        };
        let text = |value: &serde_json::Value| value.as_str().map(clean).filter(|t| !t.is_empty());
        if body.error.is_string() {
            let message = body.error_description.as_deref().map(clean);
            return Self { message, status: text(&body.error), ..Self::default() };
        }
        let details = body.error["details"].as_array();
        let info = details.and_then(|all| all.iter().find(|detail| detail["reason"].is_string()));
        Self {
            message: text(&body.error["message"]),
            status: text(&body.error["status"]),
            reason: info.and_then(|info| text(&info["reason"])),
            consumer: info.and_then(|info| text(&info["metadata"]["consumer"])),
        }
    }
}

/// ` (PERMISSION_DENIED: the message)`, or nothing.
impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.status, &self.message) {
            (Some(status), Some(message)) => write!(f, " ({status}: {message})"),
            (Some(one), None) | (None, Some(one)) => write!(f, " ({one})"),
            (None, None) => Ok(()),
        }
    }
}

/// Text of somebody else, fit for one line of a log: short, printable, and without any word that may
/// be a token or a key.
pub fn clean(text: &str) -> String {
    let mut clean = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty())
    {
        if !clean.is_empty() {
            clean.push(' ');
        }
        clean.push_str(if is_secret(word) { "…" } else { word });
    }
    if clean.chars().count() > MAX_MESSAGE {
        clean = clean.chars().take(MAX_MESSAGE).chain(['…']).collect();
    }
    clean
}

/// Google's tokens, JWTs, keys, and any other long run of letters and digits that no name has.
fn is_secret(word: &str) -> bool {
    const MARKS: [&str; 5] = ["ya29.", "eyJ", "1//", "GOCSPX-", "AIza"];
    let part = |c: char| !(c.is_ascii_alphanumeric() || "-_.~+/=".contains(c));
    let runs = || word.split(part);
    let long = |run: &str| {
        // Paths and host names are long as well, but made of short parts.
        let mut parts = run.split(['/', '.']);
        parts.any(|part| {
            part.len() >= 32
                && part.bytes().any(|b| b.is_ascii_digit())
                && part.bytes().any(|b| b.is_ascii_alphabetic())
        })
    };
    runs().any(|run| MARKS.iter().any(|mark| run.contains(mark)) || long(run))
}

/// The client. Clones share the certificates it trusts, which are read from disk once, at the first
/// call that needs them.
#[derive(Clone, Default)]
pub struct Http {
    tls: Arc<OnceCell<TlsConnector>>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

impl Http {
    /// Trusts what the system trusts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts these certificates only.
    ///
    /// # Errors
    /// What the TLS library says.
    pub fn trusting(roots: RootCertStore) -> Result<Self, HttpError> {
        let tls = Arc::new(OnceCell::new_with(Some(connector(roots)?)));
        Ok(Self { tls })
    }

    /// Makes one call.
    ///
    /// # Errors
    /// Why there is no answer. An answer with an error status is an answer.
    pub async fn send(&self, call: Call) -> Result<Answer, HttpError> {
        if let Some(name) = &call.bad_header {
            return Err(HttpError::Call(format!("the value of header {name} has a bad character")));
        }
        let timeout = call.timeout;
        match tokio::time::timeout(timeout, self.exchange(call)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(HttpError::Timeout(timeout)),
        }
    }

    async fn exchange(&self, call: Call) -> Result<Answer, HttpError> {
        let stream = connect(&call.url.host, call.url.port).await?;
        if !call.url.tls {
            return request(call, stream).await;
        }
        let tls = self.tls.get_or_try_init(system_roots).await?;
        let name = ServerName::try_from(call.url.host.clone())
            .map_err(|_| HttpError::Call("the host is no name TLS can verify".to_owned()))?;
        let stream = tls
            .connect(name, stream)
            .await
            .map_err(|error| HttpError::Connection(format!("TLS failed: {}", chain(&error))))?;
        request(call, stream).await
    }
}

async fn request<S>(call: Call, stream: S) -> Result<Answer, HttpError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let broken = |error: hyper::Error| HttpError::Connection(chain(&error));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let Call { method, url, headers, body, bearer, limit, .. } = call;
    let mut request = hyper::Request::builder()
        .method(method)
        .uri(&url.path)
        .header(HOST, url.authority())
        .header(USER_AGENT, concat!("memorystore-auth-proxy/", env!("CARGO_PKG_VERSION")));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request
        .body(Full::new(body))
        .map_err(|_| HttpError::Call("the URL has a bad character".to_owned()))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(seconds);
        let body = Limited::new(response.into_body(), limit).collect().await;
        let body = body.map_err(|error| HttpError::Answer(format!("broken reply ({error})")))?;
        Ok(Answer { status, retry_after, body: body.to_bytes(), bearer })
    };
    tokio::select! {
        outcome = exchange => outcome,
        never = drive(connection) => match never {},
    }
}

/// Moves the bytes of the exchange and never ends: what happens is told to the exchange as well.
async fn drive(connection: impl Future) -> Infallible {
    connection.await;
    pending().await
}

fn seconds(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// A fuzzer's bytes.
#[cfg(fuzzing)]
async fn connect(_: &str, _: u16) -> Result<crate::fuzzing::Fed, HttpError> {
    Ok(crate::fuzzing::Fed::connect())
}

/// Connects to the first address that takes the connection.
#[cfg(not(fuzzing))]
async fn connect(host: &str, port: u16) -> Result<TcpStream, HttpError> {
    let addresses =
        tokio::net::lookup_host((host, port)).await.map_err(|_| HttpError::Unresolved)?;
    let mut said = HttpError::Unresolved;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                said = HttpError::Connection("connection refused".to_owned());
            }
            Err(error) => said = HttpError::Connection(error.to_string()),
        }
    }
    Err(said)
}

async fn system_roots() -> Result<TlsConnector, HttpError> {
    let load = || {
        let mut roots = RootCertStore::empty();
        // Single certificates that cannot be read or parsed are not missed before one is needed.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    };
    let roots = tokio::task::spawn_blocking(load).await;
    let roots = roots.map_err(|error| HttpError::Call(error.to_string()))?;
    if roots.is_empty() {
        let said =
            "this system has no CA certificates; install ca-certificates, or set SSL_CERT_FILE";
        return Err(HttpError::Call(said.to_owned()));
    }
    connector(roots)
}

fn connector(roots: RootCertStore) -> Result<TlsConnector, HttpError> {
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| HttpError::Call(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, shown) in [
            ("https://redis.googleapis.com", "https://redis.googleapis.com"),
            ("https://h:443/v1/x?secret=hush", "https://h/v1/x"),
            ("http://127.0.0.1:81/", "http://127.0.0.1:81"),
            ("http://[::1]:81/a", "http://[::1]:81/a"),
        ] {
            let url = Url::for_secrets(text).unwrap();
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("hush"));
        }
        let base = Url::parse("http://h/prefix/").unwrap();
        assert_eq!(base.join("/v1/x").to_string(), "http://h/prefix/v1/x");
        for text in ["", "h", "ftp://h", "https://", "https://user:hush@h/", "https://a b/", "/v1"]
        {
            let error = Url::parse(text).unwrap_err();
            assert!(error.contains("is not a URL") && !error.contains("hush"), "{text}: {error}");
        }
        assert!(Url::for_secrets("http://10.0.0.1/").unwrap_err().contains("clear text"));
    }

    #[test]
    fn complaints() {
        let body = br#"{"error":{"code":403,"message":"Permission 'a.b.c' denied on resource\n'//r/projects/p' (or it may not exist).","status":"PERMISSION_DENIED","details":[{"@type":"x"},{"reason":"IAM_PERMISSION_DENIED","metadata":{"consumer":"projects/1"}}]}}"#;
        let complaint = Complaint::read(body);
        assert_eq!(complaint.reason.as_deref(), Some("IAM_PERMISSION_DENIED"));
        assert_eq!(complaint.consumer.as_deref(), Some("projects/1"));
        assert_eq!(
            complaint.to_string(),
            " (PERMISSION_DENIED: Permission 'a.b.c' denied on resource '//r/projects/p' (or it may not exist).)"
        );
        let body = br#"{"error":"invalid_grant","error_description":"Bad Request"}"#;
        assert_eq!(Complaint::read(body).to_string(), " (invalid_grant: Bad Request)");
        for body in [
            &b""[..],
            b"<html>hush</html>",
            b"{}",
            b"[]",
            br#"{"error":{"code":1}}"#,
            br#"{"error":null}"#,
        ] {
            assert_eq!(Complaint::read(body).to_string(), "", "{body:?}");
        }
        let answer = Answer {
            status: StatusCode::UNAUTHORIZED,
            retry_after: None,
            body: r#"{"error":{"message":"token shush! is bad"}}"#.into(),
            bearer: Some(Secret::new("shush!".to_owned())),
        };
        assert_eq!(answer.complaint().to_string(), " (token … is bad)");
    }

    #[test]
    fn cleaned_texts_hold_no_secret_and_fit_a_line() {
        for (text, want) in [
            ("a\r\n\tb\u{1b}[1mc", "a b [1mc"),
            ("token ya29.c.b0Aaeky is bad", "token … is bad"),
            ("got 'eyJhbGciOi.x.y', sorry", "got … sorry"),
            ("refresh 1//0gabc", "refresh …"),
            ("key 0123456789abcdef0123456789abcdef", "key …"),
            (
                "projects/my-long-project-name-0001/locations/europe-west6/clusters/a-cluster-9",
                "projects/my-long-project-name-0001/locations/europe-west6/clusters/a-cluster-9",
            ),
            (
                "sa@my-project-123456.iam.gserviceaccount.com",
                "sa@my-project-123456.iam.gserviceaccount.com",
            ),
        ] {
            assert_eq!(clean(text), want);
        }
        assert_eq!(clean(&"x ".repeat(1000)).chars().count(), MAX_MESSAGE + 1);
    }

    /// Found by fuzzing: `+[::1]` was taken for a host.
    #[test]
    fn a_host_is_a_name_or_an_address() {
        for bad in ["http://+[::1]:80/x", "http://[x]/", "http://a$b/", "http://u@h/"] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
        for good in ["http://[::1]:80/x", "https://a-b_c.example./", "http://127.0.0.1"] {
            assert!(Url::parse(good).is_ok(), "{good}");
        }
    }
}
