//! The IAM front: what Memorystore puts before each node, on loopback.
//!
//! It demands AUTH (or HELLO … AUTH) with a live access token before anything else, logs in to the
//! node behind it with the node's own password, and passes everything on. Invariants: a token never
//! reaches the node; replies leave in request order, also those the front makes itself; a
//! connection that authenticates with the node's password is a link between nodes (replication
//! goes by announced addresses) and is passed through untouched, unjudged and uncounted.
//! It does not alter what CLUSTER commands say: the nodes themselves announce the fronts.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::faults::{
    AuthFault, Counters, Counts, Faults, IAM_EXHAUSTED, IAM_OTHER, NOAUTH, OnExpiry, WRONGPASS,
    bump,
};
use super::metadata::Tokens;
use super::ports::free_port;
use super::replies::{Expected, ReplyOrder, reply_of};
use super::resp::{self, Request};

/// Names kept per connection; a load test must not fill the memory with them.
const LOG_LIMIT: usize = 4096;

/// What a front needs to know.
#[derive(Debug, Clone)]
pub struct FrontOptions {
    /// The node behind it.
    pub node: SocketAddr,
    /// The node's `requirepass`.
    pub node_password: String,
    /// The only user name accepted.
    pub username: String,
    /// Which tokens are live.
    pub tokens: Arc<Tokens>,
}

/// The commands one connection sent, `NAME first-argument` each; credentials are left out.
pub type CommandLog = Arc<Mutex<Vec<String>>>;

#[derive(Debug)]
struct Shared {
    options: FrontOptions,
    faults: Faults,
    counters: Counters,
    logs: Mutex<Vec<CommandLog>>,
}

/// A running front; closes everything on drop.
#[derive(Debug)]
pub struct IamFront {
    addr: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

/// A bound front that does not know its node yet: nodes announce the front's port, so it must be
/// there first.
#[derive(Debug)]
pub struct BoundFront {
    addr: SocketAddr,
    listener: TcpListener,
}

impl BoundFront {
    /// Binds a loopback port.
    pub async fn bind() -> Self {
        loop {
            let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
            if let Ok(listener) = TcpListener::bind(addr).await {
                return Self { addr, listener };
            }
        }
    }

    /// The port nodes announce.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Starts serving.
    pub fn start(self, options: FrontOptions) -> IamFront {
        let shared = Arc::new(Shared {
            options,
            faults: Faults::new(),
            counters: Counters::default(),
            logs: Mutex::default(),
        });
        let task = tokio::spawn(accept(self.addr, self.listener, shared.clone())).abort_handle();
        IamFront {
            addr: self.addr,
            shared,
            task,
        }
    }
}

impl IamFront {
    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its fault switches.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// What it has counted.
    pub fn counts(&self) -> Counts {
        self.shared.counters.read()
    }

    /// Command logs of all connections so far, oldest first.
    pub fn logs(&self) -> Vec<Vec<String>> {
        lock(&self.shared.logs)
            .iter()
            .map(|log| lock(log).clone())
            .collect()
    }

    /// How many logged commands, over all connections, start with `prefix` (upper case name).
    pub fn seen(&self, prefix: &str) -> usize {
        self.logs()
            .iter()
            .flatten()
            .filter(|c| c.starts_with(prefix))
            .count()
    }
}

impl Drop for IamFront {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.faults.close_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

async fn accept(addr: SocketAddr, listener: TcpListener, shared: Arc<Shared>) {
    let mut refused = shared.faults.refused.subscribe();
    let mut listener = Some(listener);
    loop {
        if *refused.borrow_and_update() {
            listener = None;
            if refused.changed().await.is_err() {
                return;
            }
            continue;
        }
        if listener.is_none() {
            listener = TcpListener::bind(addr).await.ok();
        }
        let Some(open) = &listener else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        tokio::select! {
            accepted = open.accept() => if let Ok((stream, _)) = accepted {
                let shared = shared.clone();
                let mut cuts = shared.faults.cuts.subscribe();
                tokio::spawn(async move {
                    tokio::select! {
                        () = connection(stream, &shared) => {}
                        _ = cuts.changed() => {}
                    }
                });
            },
            changed = refused.changed() => if changed.is_err() { return },
        }
    }
}

async fn connection(client: TcpStream, shared: &Shared) {
    if shared.faults.take_close_on_accept() {
        bump(&shared.counters.dials);
        return;
    }
    let _ = client.set_nodelay(true);
    bump(&shared.counters.dials);
    bump(&shared.counters.connections);
    let mut session = Session {
        shared,
        log: CommandLog::default(),
        stalled: shared.faults.stalled.subscribe(),
        authenticated_at: watch::Sender::new(None),
        commands: 0,
        in_multi: false,
        open: Some(Open(&shared.counters)),
    };
    lock(&shared.logs).push(session.log.clone());
    session.serve(client).await;
}

/// Counts a connection as open, also when its task is cancelled.
struct Open<'a>(&'a Counters);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Session<'a> {
    shared: &'a Shared,
    log: CommandLog,
    stalled: watch::Receiver<bool>,
    /// When the last good AUTH was; the reply side watches it to close at expiry.
    authenticated_at: watch::Sender<Option<Instant>>,
    commands: u64,
    in_multi: bool,
    open: Option<Open<'a>>,
}

/// What becomes of an AUTH.
enum Verdict {
    Accepted,
    Refused(&'static str),
    Hangup,
    Silence,
}

/// What the side that reads requests does next.
enum Step {
    /// Answer without the node.
    Reply(Vec<u8>),
    /// Send these bytes to the node; so many replies come back.
    Forward(Vec<u8>, Expected),
    /// Answer, then close.
    ReplyAndClose(Vec<u8>),
    /// The connection belongs to another node.
    Internal,
    Close,
    Stall,
}

impl Session<'_> {
    async fn serve(&mut self, mut client: TcpStream) {
        let mut buf = BytesMut::with_capacity(16 * 1024);
        // Before authentication: no node behind.
        let first = loop {
            let request = match resp::parse_request(&buf) {
                Ok(Some((request, len))) => {
                    let raw = buf.split_to(len);
                    if request.args.is_empty() {
                        continue;
                    }
                    (request, raw)
                }
                Ok(None) => {
                    self.unstalled().await;
                    match client.read_buf(&mut buf).await {
                        Ok(n) if n > 0 => continue,
                        _ => return,
                    }
                }
                Err(e) => {
                    let _ = client
                        .write_all(format!("-ERR Protocol error: {}\r\n", e.0).as_bytes())
                        .await;
                    return;
                }
            };
            let (reply, close) = match self.before_auth(&request.0) {
                Step::Reply(bytes) => (bytes, false),
                Step::ReplyAndClose(bytes) => (bytes, true),
                Step::Internal => {
                    self.open = None;
                    self.shared.counters.dials.fetch_sub(1, Ordering::Relaxed);
                    return splice(client, self.shared.options.node, &request.1, &buf).await;
                }
                Step::Forward(bytes, expected) => break (bytes, expected),
                Step::Close => return,
                Step::Stall => return drain(&mut client).await,
            };
            if client.write_all(&reply).await.is_err() || close {
                return;
            }
        };
        let Ok(node) = self.login().await else {
            return;
        };
        let (client_rd, client_wr) = client.into_split();
        let (node_rd, node_wr) = node.into_split();
        let (order_tx, order_rx) = mpsc::unbounded_channel();
        let replies = reply_side(
            self.shared,
            node_rd,
            client_wr,
            order_rx,
            self.stalled.clone(),
            self.authenticated_at.subscribe(),
        );
        let requests = self.request_side(first, buf, client_rd, node_wr, order_tx);
        tokio::select! {
            () = requests => {}
            () = replies => {}
        }
    }

    fn before_auth(&mut self, request: &Request) -> Step {
        let name = request.name();
        match name.as_str() {
            "AUTH" if self.is_internal(request) => Step::Internal,
            "AUTH" => match self.judge(request, 0) {
                Verdict::Accepted => {
                    Step::Forward(Vec::new(), Expected::Inject(b"+OK\r\n".to_vec()))
                }
                Verdict::Refused(text) => Step::Reply(error(text)),
                Verdict::Hangup => Step::Close,
                Verdict::Silence => Step::Stall,
            },
            "HELLO" => match auth_option(request) {
                None => Step::Reply(error(
                    "NOAUTH HELLO must be called with the client already authenticated, otherwise \
                     the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the \
                     client and select the RESP protocol version at the same time",
                )),
                Some(at) => match self.judge(request, at) {
                    Verdict::Accepted => Step::Forward(
                        resp::encode(&without_auth(request, at)),
                        Expected::Replies(1),
                    ),
                    Verdict::Refused(text) => Step::Reply(error(text)),
                    Verdict::Hangup => Step::Close,
                    Verdict::Silence => Step::Stall,
                },
            },
            "QUIT" => Step::ReplyAndClose(b"+OK\r\n".to_vec()),
            "RESET" => Step::Reply(b"+RESET\r\n".to_vec()),
            _ => {
                self.note(request);
                bump(&self.shared.counters.unauthenticated);
                Step::Reply(error(NOAUTH))
            }
        }
    }

    fn after_auth(&mut self, request: &Request, raw: &[u8]) -> Step {
        let name = request.name();
        let auth_at = match name.as_str() {
            "AUTH" => Some(0),
            "HELLO" => auth_option(request),
            _ => None,
        };
        if let Some(at) = auth_at {
            if self.in_multi {
                // Real servers queue it; whoever does this gets it back in EXEC.
                return Step::Forward(
                    resp::encode(&cmd!["AUTH", &self.shared.options.node_password]),
                    Expected::Replies(1),
                );
            }
            return match self.judge(request, at) {
                Verdict::Accepted if name == "AUTH" => Step::Reply(b"+OK\r\n".to_vec()),
                Verdict::Accepted => Step::Forward(
                    resp::encode(&without_auth(request, at)),
                    Expected::Replies(1),
                ),
                Verdict::Refused(text) => Step::Reply(error(text)),
                Verdict::Hangup => Step::Close,
                Verdict::Silence => Step::Stall,
            };
        }
        if name == "HELLO" {
            return Step::Forward(raw.to_vec(), Expected::Replies(1));
        }
        self.note(request);
        bump(&self.shared.counters.commands);
        self.commands += 1;
        if self
            .shared
            .faults
            .command_limit()
            .is_some_and(|n| self.commands > n)
        {
            return Step::Close;
        }
        if let Some(reply) = self.shared.faults.take_canned(&name) {
            return Step::Reply(reply);
        }
        if let Some((ttl, OnExpiry::NoAuth)) = self.shared.faults.auth_ttl()
            && self
                .authenticated_at
                .borrow()
                .is_none_or(|at| at.elapsed() >= ttl)
        {
            return Step::Reply(error(NOAUTH));
        }
        match name.as_str() {
            "MULTI" => self.in_multi = true,
            "EXEC" | "DISCARD" | "RESET" => self.in_multi = false,
            _ => {}
        }
        Step::Forward(raw.to_vec(), reply_of(request, &name))
    }

    async fn request_side(
        &mut self,
        first: (Vec<u8>, Expected),
        mut buf: BytesMut,
        mut client: tokio::net::tcp::OwnedReadHalf,
        mut node: tokio::net::tcp::OwnedWriteHalf,
        order: mpsc::UnboundedSender<Expected>,
    ) {
        let mut out = first.0;
        let _ = order.send(first.1);
        loop {
            let mut stop = None;
            loop {
                match resp::parse_request(&buf) {
                    Ok(Some((request, len))) => {
                        let raw = buf.split_to(len);
                        if request.args.is_empty() {
                            continue;
                        }
                        match self.after_auth(&request, &raw) {
                            Step::Forward(bytes, expected) => {
                                let _ = order.send(expected);
                                out.extend_from_slice(&bytes);
                            }
                            Step::Reply(bytes) => {
                                let _ = order.send(Expected::Inject(bytes));
                            }
                            other => {
                                stop = Some(other);
                                break;
                            }
                        }
                    }
                    Ok(None) => break,
                    // The node shall say what it thinks of it.
                    Err(_) => out.extend_from_slice(&buf.split()),
                }
            }
            self.unstalled().await;
            if node.write_all(&out).await.is_err() {
                return;
            }
            out.clear();
            match stop {
                None => {}
                Some(Step::Stall) => return std::future::pending().await,
                Some(_) => return,
            }
            if buf.capacity() - buf.len() < 16 * 1024 {
                buf.reserve(256 * 1024);
            }
            match client.read_buf(&mut buf).await {
                Ok(n) if n > 0 => {}
                _ => return,
            }
        }
    }

    fn judge(&mut self, request: &Request, at: usize) -> Verdict {
        self.note_auth(request);
        let verdict = match self.shared.faults.take_auth() {
            Some(AuthFault::WrongPass) => Verdict::Refused(WRONGPASS),
            Some(AuthFault::IamExhausted) => Verdict::Refused(IAM_EXHAUSTED),
            Some(AuthFault::IamOther) => Verdict::Refused(IAM_OTHER),
            Some(AuthFault::Close) => Verdict::Hangup,
            Some(AuthFault::Stall) => Verdict::Silence,
            None => self.check(request, at),
        };
        if matches!(verdict, Verdict::Accepted) {
            bump(&self.shared.counters.auths_ok);
            self.authenticated_at.send_replace(Some(Instant::now()));
        } else {
            bump(&self.shared.counters.auths_failed);
        }
        verdict
    }

    /// Judges the credentials after position `at` (the word AUTH).
    fn check(&self, request: &Request, at: usize) -> Verdict {
        let options = &self.shared.options;
        let (user, token) = match (request.args.len(), request.name().as_str()) {
            (2, "AUTH") => ("default".to_owned(), request.arg(1)),
            (3, "AUTH") | (_, "HELLO") => (request.arg(at + 1), request.arg(at + 2)),
            (1, _) => return Verdict::Refused("ERR wrong number of arguments for 'auth' command"),
            _ => return Verdict::Refused("ERR syntax error"),
        };
        if user == options.username && options.tokens.is_live(&token) {
            Verdict::Accepted
        } else {
            Verdict::Refused(WRONGPASS)
        }
    }

    fn is_internal(&self, request: &Request) -> bool {
        request
            .args
            .last()
            .is_some_and(|p| *p == self.shared.options.node_password.as_bytes())
    }

    fn note(&self, request: &Request) {
        let mut log = lock(&self.log);
        if log.len() < LOG_LIMIT {
            let argument: String = request.arg(1).chars().take(64).collect();
            log.push(
                format!("{} {argument}", request.name())
                    .trim_end()
                    .to_owned(),
            );
        }
    }

    fn note_auth(&self, request: &Request) {
        let mut log = lock(&self.log);
        if log.len() < LOG_LIMIT {
            log.push(request.name());
        }
    }

    async fn unstalled(&mut self) {
        let _ = self.stalled.wait_for(|stalled| !stalled).await;
    }

    async fn login(&self) -> std::io::Result<TcpStream> {
        let mut node = TcpStream::connect(self.shared.options.node).await?;
        node.set_nodelay(true)?;
        node.write_all(&resp::encode(&["AUTH", &self.shared.options.node_password]))
            .await?;
        let mut reply = [0; 5];
        node.read_exact(&mut reply).await?;
        if &reply == b"+OK\r\n" {
            Ok(node)
        } else {
            Err(std::io::Error::other(
                "the node refused the bed's own password",
            ))
        }
    }
}

/// Carries replies back, puts the front's own replies where they belong, and applies reply faults.
async fn reply_side(
    shared: &Shared,
    mut node: tokio::net::tcp::OwnedReadHalf,
    mut client: tokio::net::tcp::OwnedWriteHalf,
    mut incoming: mpsc::UnboundedReceiver<Expected>,
    mut stalled: watch::Receiver<bool>,
    mut authenticated_at: watch::Receiver<Option<Instant>>,
) {
    let mut order = ReplyOrder::default();
    let mut buf = BytesMut::with_capacity(64 * 1024);
    let mut out = Vec::new();
    loop {
        while let Ok(expected) = incoming.try_recv() {
            order.push(expected);
        }
        order.injected(&mut out);
        let mut cut = false;
        while let Ok(Some(len)) = resp::frame_len(&buf) {
            if shared.faults.take_cut_mid_reply() {
                out.extend_from_slice(&buf[..len / 2]);
                cut = true;
                break;
            }
            order.reply(&buf[..len]);
            out.extend_from_slice(&buf[..len]);
            buf.advance(len);
            order.injected(&mut out);
        }
        if !out.is_empty() {
            let delay = shared.faults.reply_delay();
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let _ = stalled.wait_for(|stalled| !stalled).await;
            if client.write_all(&out).await.is_err() {
                return;
            }
            out.clear();
        }
        if cut {
            return;
        }
        if buf.capacity() - buf.len() < 16 * 1024 {
            buf.reserve(256 * 1024);
        }
        tokio::select! {
            biased;
            () = expiry(shared, &mut authenticated_at) => return,
            expected = incoming.recv() => match expected {
                Some(expected) => order.push(expected),
                None => return,
            },
            read = node.read_buf(&mut buf) => if !matches!(read, Ok(n) if n > 0) { return },
        }
    }
}

/// Ends when the connection's authentication does and the front is set to close it then.
async fn expiry(shared: &Shared, authenticated_at: &mut watch::Receiver<Option<Instant>>) {
    loop {
        let at = *authenticated_at.borrow_and_update();
        if let Some((ttl, OnExpiry::Close)) = shared.faults.auth_ttl()
            && at.is_some_and(|at| at.elapsed() >= ttl)
        {
            return;
        }
        // The setting may come later: looked at again and again rather than once.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Joins a link between nodes.
async fn splice(mut client: TcpStream, node: SocketAddr, first: &[u8], rest: &[u8]) {
    let Ok(mut node) = TcpStream::connect(node).await else {
        return;
    };
    if node.write_all(first).await.is_ok() && node.write_all(rest).await.is_ok() {
        let _ = tokio::io::copy_bidirectional(&mut client, &mut node).await;
    }
}

/// Reads and forgets until the peer closes.
async fn drain(client: &mut TcpStream) {
    let mut sink = [0; 1024];
    while client.read(&mut sink).await.is_ok_and(|n| n > 0) {}
}

fn error(text: &str) -> Vec<u8> {
    format!("-{text}\r\n").into_bytes()
}

/// Where the word AUTH stands in a HELLO that could carry it.
fn auth_option(request: &Request) -> Option<usize> {
    (2..request.args.len()).find(|&i| request.arg(i).eq_ignore_ascii_case("AUTH"))
}

fn without_auth(request: &Request, at: usize) -> Vec<Vec<u8>> {
    let mut args = request.args.clone();
    args.drain(at..(at + 3).min(args.len()));
    args
}
