//! A fake GCE metadata server: mints access tokens over HTTP on loopback and knows which are live.
//!
//! Invariant: a token is live from its minting until its expiry by the real clock or its
//! revocation; [`Tokens`] is the single truth the IAM fronts ask.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::ports::free_port;

/// All tokens ever minted, and which of them are live.
#[derive(Debug, Default)]
pub struct Tokens {
    expiry: Mutex<HashMap<String, Instant>>,
    minted: AtomicU64,
}

impl Tokens {
    /// Mints a token that lives for `lifetime`.
    pub fn mint(&self, lifetime: Duration) -> String {
        let n = self.minted.fetch_add(1, Ordering::Relaxed) + 1;
        let token = format!("ya29.test-{n}-{:016x}", fastrand::u64(..));
        self.lock().insert(token.clone(), Instant::now() + lifetime);
        token
    }

    /// Whether a connection may authenticate with it now.
    pub fn is_live(&self, token: &str) -> bool {
        self.lock().get(token).is_some_and(|end| *end > Instant::now())
    }

    /// Ends a token early.
    pub fn revoke(&self, token: &str) {
        if let Some(end) = self.lock().get_mut(token) {
            *end = Instant::now();
        }
    }

    /// Ends all tokens minted so far.
    pub fn revoke_all(&self) {
        let now = Instant::now();
        self.lock().values_mut().for_each(|end| *end = now);
    }

    /// Every token ever minted, to look for in places where none may be.
    pub fn all(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.expiry.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// What the server does instead of answering with a token.
#[derive(Debug, Clone, PartialEq)]
pub enum MetadataFault {
    /// HTTP 500.
    InternalError,
    /// HTTP 200 with a body that is not JSON.
    Garbage,
    /// HTTP 200 with JSON that has no token.
    MissingToken,
    /// Closes the connection without an answer.
    Close,
    /// Accepts and does not answer; closes when the fault ends.
    Stall,
    /// A token that has expired already, and says so.
    ExpiredToken,
    /// A token that no front accepts, though it says it lives.
    DeadToken,
}

#[derive(Debug)]
struct Settings {
    lifetime: Duration,
    advertised: Option<Duration>,
    delay: Duration,
    fault: Option<MetadataFault>,
    cached: Option<(String, Instant)>,
    sticky: bool,
}

#[derive(Debug)]
struct Shared {
    tokens: Arc<Tokens>,
    settings: Mutex<Settings>,
    token_requests: AtomicU64,
    /// Bumped when the fault changes.
    changes: watch::Sender<u64>,
}

/// The running server; stops on drop.
#[derive(Debug)]
pub struct FakeMetadata {
    addr: SocketAddr,
    shared: Arc<Shared>,
    up: watch::Sender<bool>,
    task: AbortHandle,
}

impl FakeMetadata {
    /// Starts it with tokens that live for `lifetime`.
    pub async fn start(lifetime: Duration) -> Self {
        let (addr, listener) = loop {
            let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
            if let Ok(listener) = TcpListener::bind(addr).await {
                break (addr, listener);
            }
        };
        let shared = Arc::new(Shared {
            tokens: Arc::default(),
            settings: Mutex::new(Settings {
                lifetime,
                advertised: None,
                delay: Duration::ZERO,
                fault: None,
                cached: None,
                sticky: false,
            }),
            token_requests: AtomicU64::new(0),
            changes: watch::Sender::new(0),
        });
        let (up, up_rx) = watch::channel(true);
        let task = tokio::spawn(serve(addr, listener, up_rx, shared.clone())).abort_handle();
        Self { addr, shared, up, task }
    }

    /// `HOST:PORT`, the value of `GCE_METADATA_HOST`.
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    /// The tokens it minted.
    pub fn tokens(&self) -> Arc<Tokens> {
        self.shared.tokens.clone()
    }

    /// Lifetime of tokens minted from now on.
    pub fn set_lifetime(&self, lifetime: Duration) {
        self.settings().lifetime = lifetime;
    }

    /// Makes `expires_in` lie: tokens live for their lifetime, but the answer says this.
    pub fn set_advertised(&self, advertised: Option<Duration>) {
        self.settings().advertised = advertised;
    }

    /// Behaves like the real server: the same token again, with what is left of it, until it ends.
    pub fn set_sticky(&self, sticky: bool) {
        self.settings().sticky = sticky;
    }

    /// Waits this long before each answer.
    pub fn set_delay(&self, delay: Duration) {
        self.settings().delay = delay;
    }

    /// Sets or clears a fault.
    pub fn set_fault(&self, fault: Option<MetadataFault>) {
        self.settings().fault = fault;
        self.shared.changes.send_modify(|n| *n += 1);
    }

    /// Takes the server down (dials are refused) or up again on the same port.
    pub fn set_up(&self, up: bool) {
        self.up.send_replace(up);
    }

    /// How many times a token was asked for.
    pub fn token_requests(&self) -> u64 {
        self.shared.token_requests.load(Ordering::Relaxed)
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.shared.settings.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for FakeMetadata {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    addr: SocketAddr,
    listener: TcpListener,
    mut up: watch::Receiver<bool>,
    shared: Arc<Shared>,
) {
    let mut listener = Some(listener);
    loop {
        if !*up.borrow_and_update() {
            listener = None;
            if up.changed().await.is_err() {
                return;
            }
            continue;
        }
        if listener.is_none() {
            listener = TcpListener::bind(addr).await.ok();
        }
        let Some(open) = &listener else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        tokio::select! {
            accepted = open.accept() => {
                if let Ok((stream, _)) = accepted {
                    tokio::spawn(answer(stream, shared.clone()));
                }
            }
            changed = up.changed() => if changed.is_err() { return },
        }
    }
}

async fn answer(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        match stream.read_buf(&mut head).await {
            Ok(n) if n > 0 && head.len() < 1 << 16 => {}
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split_whitespace().nth(1).unwrap_or("/").to_owned();
    let flavored = head.to_ascii_lowercase().contains("metadata-flavor: google");
    let mut changes = shared.changes.subscribe();
    let (delay, fault) = {
        let settings = shared.settings.lock().unwrap_or_else(|e| e.into_inner());
        (settings.delay, settings.fault.clone())
    };
    tokio::time::sleep(delay).await;
    match fault {
        Some(MetadataFault::Close) => return,
        Some(MetadataFault::Stall) => {
            let mut sink = [0; 64];
            tokio::select! {
                _ = changes.changed() => {}
                () = async { while stream.read(&mut sink).await.is_ok_and(|n| n > 0) {} } => {}
            }
            return;
        }
        _ => {}
    }
    let (status, kind, body) = if !flavored {
        ("403 Forbidden", "text/plain", "Missing Metadata-Flavor:Google header.".to_owned())
    } else {
        respond(&shared, &path, fault)
    };
    let response = format!(
        "HTTP/1.1 {status}\r\nMetadata-Flavor: Google\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    // The caller may have given up waiting; then there is nobody to tell.
    let _ = stream.write_all(response.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn respond(
    shared: &Shared,
    path: &str,
    fault: Option<MetadataFault>,
) -> (&'static str, &'static str, String) {
    let path = path.split('?').next().unwrap_or(path).trim_end_matches('/');
    if path.ends_with("/token") {
        shared.token_requests.fetch_add(1, Ordering::Relaxed);
    }
    match fault {
        Some(MetadataFault::InternalError) => {
            return ("500 Internal Server Error", "text/plain", "backend error".to_owned());
        }
        Some(MetadataFault::Garbage) => {
            return ("200 OK", "text/html", "<html>login</html>".to_owned());
        }
        Some(MetadataFault::MissingToken) => {
            return ("200 OK", "application/json", r#"{"token_type":"Bearer"}"#.to_owned());
        }
        _ => {}
    }
    if path.ends_with("/token") {
        let mut settings = shared.settings.lock().unwrap_or_else(|e| e.into_inner());
        let now = Instant::now();
        let lifetime = settings.lifetime;
        let useless = match fault {
            Some(MetadataFault::ExpiredToken) => Some(0),
            Some(MetadataFault::DeadToken) => Some(lifetime.as_secs_f64().ceil() as u64),
            _ => None,
        };
        if let Some(left) = useless {
            let token = shared.tokens.mint(Duration::ZERO);
            return ("200 OK", "application/json", token_body(&token, left));
        }
        let (token, end) = match settings.cached.take() {
            Some((token, end)) if settings.sticky && end > now + lifetime / 10 => (token, end),
            _ => (shared.tokens.mint(lifetime), now + lifetime),
        };
        let left = settings.advertised.unwrap_or_else(|| end.duration_since(now));
        settings.cached = Some((token.clone(), end));
        // Whole seconds, rounded up: the real server never says 0 for a token it hands out.
        let left = left.as_secs_f64().ceil() as u64;
        return ("200 OK", "application/json", token_body(&token, left));
    }
    let text = if path.ends_with("/email") {
        "proxy@test-project.iam.gserviceaccount.com"
    } else if path.ends_with("/project-id") {
        "test-project"
    } else if path.ends_with("/service-accounts") {
        "default/\n"
    } else if path.is_empty() || path.ends_with("/v1") || path.ends_with("/default") {
        "computeMetadata/\n"
    } else {
        return ("404 Not Found", "text/plain", "not found".to_owned());
    };
    ("200 OK", "text/plain", text.to_owned())
}

fn token_body(token: &str, expires_in: u64) -> String {
    format!(r#"{{"access_token":"{token}","expires_in":{expires_in},"token_type":"Bearer"}}"#)
}
