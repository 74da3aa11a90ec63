//! One client connection of an IAM front: judging credentials, and handing requests to the node.
//!
//! Invariant: before the first good AUTH there is no connection to the node; after it, every request
//! gets exactly one place in the order of replies, whether the node or the front answers it.

use std::sync::atomic::Ordering;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::faults::{
    AuthFault, IAM_EXHAUSTED, IAM_EXHAUSTED_SHORT, IAM_OTHER, NOAUTH, WRONGPASS, bump,
};
use super::front::{CommandLog, Open, Shared, lock};
use super::front_events::Watched;
use super::front_link::{login, reply_side, send, splice};
use super::replies::{Expected, reply_of};
use super::resp::{self, Request};

/// Names kept per connection; a load test must not fill the memory with them.
const LOG_LIMIT: usize = 4096;

/// One connection, from its accept to its close.
pub(super) struct Session<'a> {
    shared: &'a Shared,
    log: CommandLog,
    stalled: watch::Receiver<bool>,
    /// When the last good AUTH was; the reply side watches it to close at expiry.
    authenticated_at: watch::Sender<Option<Instant>>,
    commands: u64,
    in_multi: bool,
    open: Option<Open<'a>>,
    watched: Watched,
    unauthenticated: u64,
    /// Whoever does not log in as a node is hung up on.
    only_links: bool,
}

/// What becomes of an AUTH.
enum Verdict {
    Accepted,
    Refused(&'static str),
    Hangup,
    Silence,
    Half,
}

impl Verdict {
    /// What to do when it is not acceptance.
    fn refusal(self) -> Step {
        match self {
            Self::Accepted => unreachable!("asked only for refusals"),
            Self::Refused(text) => Step::Reply(error(text)),
            Self::Hangup => Step::Close,
            Self::Silence => Step::Stall,
            Self::Half => Step::ReplyAndClose(b"+O".to_vec()),
        }
    }
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

impl<'a> Session<'a> {
    /// A connection just accepted; `open` counts it, `watched` tells what becomes of it.
    pub(super) fn new(shared: &'a Shared, open: Open<'a>, watched: Watched) -> Self {
        Self {
            shared,
            log: CommandLog::default(),
            stalled: shared.faults.stalled.subscribe(),
            authenticated_at: watch::Sender::new(None),
            commands: 0,
            in_multi: false,
            open: Some(open),
            watched,
            unauthenticated: 0,
            only_links: false,
        }
    }

    /// What it sends is noted here.
    pub(super) fn log(&self) -> CommandLog {
        self.log.clone()
    }

    /// It spoke plaintext where TLS is due: only nodes may.
    pub(super) fn only_links(&mut self) {
        self.only_links = true;
    }

    /// Serves it to its end.
    pub(super) async fn serve(
        &mut self,
        mut client_rd: impl AsyncRead + Unpin,
        mut client_wr: impl AsyncWrite + Unpin,
    ) {
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
                    match client_rd.read_buf(&mut buf).await {
                        Ok(n) if n > 0 => continue,
                        _ => return self.watched.peer_closed(),
                    }
                }
                Err(e) => {
                    let _ = client_wr
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
                    self.watched.forget();
                    let counters = &self.shared.counters;
                    counters.dials.fetch_sub(1, Ordering::Relaxed);
                    // A replica says PING before its AUTH.
                    counters.unauthenticated.fetch_sub(self.unauthenticated, Ordering::Relaxed);
                    let client = tokio::io::join(client_rd, client_wr);
                    return splice(client, self.shared.options.node, &request.1, &buf).await;
                }
                Step::Forward(bytes, expected) => break (bytes, expected),
                Step::Close => return,
                Step::Stall => return self.swallow(buf, &mut client_rd).await,
            };
            if send(&mut client_wr, &reply).await.is_err() || close {
                return;
            }
        };
        let Ok(node) = login(&self.shared.options).await else {
            return;
        };
        let (node_rd, node_wr) = node.into_split();
        let (order_tx, order_rx) = mpsc::unbounded_channel();
        let replies = reply_side(
            self.shared,
            node_rd,
            client_wr,
            order_rx,
            self.stalled.clone(),
            self.authenticated_at.subscribe(),
            self.watched.unanswered(),
        );
        let requests = self.request_side(first, buf, client_rd, node_wr, order_tx);
        let peer_gone = tokio::select! {
            () = requests => false,
            gone = replies => gone,
        };
        if peer_gone {
            self.watched.peer_closed();
        }
    }

    fn before_auth(&mut self, request: &Request) -> Step {
        let name = request.name();
        match name.as_str() {
            "AUTH" if self.is_internal(request) => Step::Internal,
            "PING" if self.only_links => Step::Reply(error(NOAUTH)),
            _ if self.only_links => Step::Close,
            "AUTH" => match self.judge(request, 0) {
                Verdict::Accepted => {
                    Step::Forward(Vec::new(), Expected::Inject(b"+OK\r\n".to_vec()))
                }
                verdict => verdict.refusal(),
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
                    verdict => verdict.refusal(),
                },
            },
            "QUIT" => Step::ReplyAndClose(b"+OK\r\n".to_vec()),
            "RESET" => Step::Reply(b"+RESET\r\n".to_vec()),
            _ => {
                self.note(request);
                bump(&self.shared.counters.unauthenticated);
                self.unauthenticated += 1;
                let text = format!("{} {}", request.name(), request.arg(1));
                lock(&self.shared.early).insert(text.trim_end().to_owned());
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
                Verdict::Accepted => {
                    Step::Forward(resp::encode(&without_auth(request, at)), Expected::Replies(1))
                }
                verdict => verdict.refusal(),
            };
        }
        if name == "HELLO" {
            return Step::Forward(raw.to_vec(), Expected::Replies(1));
        }
        self.note(request);
        bump(&self.shared.counters.commands);
        self.commands += 1;
        if self.shared.faults.command_limit().is_some_and(|n| self.commands > n) {
            return Step::Close;
        }
        let canned = self.shared.faults.take_canned(&name);
        let of_sub = || {
            let sub = request.arg(1).to_ascii_uppercase();
            self.shared.faults.take_canned(&format!("{name} {sub}"))
        };
        if let Some(reply) = canned.or_else(of_sub) {
            return Step::Reply(reply);
        }
        if self.shared.faults.has_expired(*self.authenticated_at.borrow()) {
            bump(&self.shared.counters.rejected);
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
        mut client: impl AsyncRead + Unpin,
        mut node: tokio::net::tcp::OwnedWriteHalf,
        order: mpsc::UnboundedSender<Expected>,
    ) {
        let unanswered = self.watched.unanswered();
        let await_reply = |expected: Expected| {
            if expected.is_due() {
                unanswered.fetch_add(1, Ordering::Relaxed);
            }
            let _ = order.send(expected);
        };
        let mut out = first.0;
        await_reply(first.1);
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
                                await_reply(expected);
                                out.extend_from_slice(&bytes);
                            }
                            Step::Reply(bytes) => await_reply(Expected::Inject(bytes)),
                            Step::ReplyAndClose(bytes) => {
                                await_reply(Expected::InjectAndClose(bytes));
                                stop = Some(Step::Stall);
                                break;
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
                Some(Step::Stall) => return self.swallow(buf, &mut client).await,
                Some(_) => return,
            }
            if buf.capacity() - buf.len() < 16 * 1024 {
                buf.reserve(256 * 1024);
            }
            match client.read_buf(&mut buf).await {
                Ok(n) if n > 0 => {}
                _ => return self.watched.peer_closed(),
            }
        }
    }

    /// Reads and forgets until the peer closes; what comes is not answered.
    async fn swallow(&mut self, mut buf: BytesMut, client: &mut (impl AsyncRead + Unpin)) {
        self.watched.stalled();
        let unanswered = self.watched.unanswered();
        loop {
            while let Ok(Some((_, len))) = resp::parse_request(&buf) {
                let _ = buf.split_to(len);
                unanswered.fetch_add(1, Ordering::Relaxed);
            }
            if !matches!(client.read_buf(&mut buf).await, Ok(n) if n > 0) {
                return self.watched.peer_closed();
            }
        }
    }

    fn judge(&mut self, request: &Request, at: usize) -> Verdict {
        self.note_auth(request);
        let first = self.authenticated_at.borrow().is_none();
        let verdict = match self.shared.faults.take_auth(first) {
            Some(AuthFault::WrongPass) => Verdict::Refused(WRONGPASS),
            Some(AuthFault::IamExhausted) => Verdict::Refused(IAM_EXHAUSTED),
            Some(AuthFault::IamExhaustedShort) => Verdict::Refused(IAM_EXHAUSTED_SHORT),
            Some(AuthFault::IamOther) => Verdict::Refused(IAM_OTHER),
            Some(AuthFault::Close) => Verdict::Hangup,
            Some(AuthFault::Stall) => Verdict::Silence,
            Some(AuthFault::HalfReply) => Verdict::Half,
            None => self.check(request, at),
        };
        let accepted = matches!(verdict, Verdict::Accepted);
        self.watched.auth(first, accepted);
        if accepted {
            bump(&self.shared.counters.auths_ok);
            let at = *self.authenticated_at.borrow();
            let faults = &self.shared.faults;
            if !faults.first_auth_counts() || faults.has_expired(at) {
                self.authenticated_at.send_replace(Some(Instant::now()));
            }
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
        request.args.last().is_some_and(|p| *p == self.shared.options.node_password.as_bytes())
    }

    fn note(&self, request: &Request) {
        if self.shared.network.is_armed() {
            return;
        }
        let mut log = lock(&self.log);
        if log.len() < LOG_LIMIT {
            let argument: String = request.arg(1).chars().take(64).collect();
            log.push(format!("{} {argument}", request.name()).trim_end().to_owned());
        }
    }

    fn note_auth(&self, request: &Request) {
        let mut log = lock(&self.log);
        if log.len() < LOG_LIMIT {
            log.push(request.name());
        }
    }

    /// Waits while the front is told to stall.
    pub(super) async fn unstalled(&mut self) {
        let _ = self.stalled.wait_for(|stalled| !stalled).await;
    }
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
