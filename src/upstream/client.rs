//! The cold-path client: one request at a time to one node, each with a deadline.
//!
//! Cluster discovery uses it; user traffic never does. It speaks RESP2 (no HELLO), so a refusal of
//! AUTH is always about the credential. Invariant: after any failure that leaves a reply due, the
//! client refuses further calls, so that a late reply is never taken for the answer to another
//! request. It does not retry, does not reconnect and keeps no credential.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::cluster::topology::NodeAddr;
use crate::credentials::{Credential, Secret};
use crate::net::Stream;
use crate::resp::value::{Decoder, Value};
use crate::upstream::tls::{ConnectError, Plan, Trust};

/// How long the steps of [`Client::connect`] may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Name resolution, TCP connect and TLS handshake together.
    pub connect: Duration,
    /// AUTH and its reply.
    pub auth: Duration,
}

/// Why a request got no data, or a connection did not come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The node could not be connected to.
    #[error(transparent)]
    Dial(#[from] ConnectError),
    /// `WRONGPASS`: Memorystore answers it to a bad or expired token, a wrong user name and a
    /// missing role alike.
    #[error(
        "{addr} refused the credential (WRONGPASS): the token is bad or expired, the user name is \
         wrong, or the principal lacks roles/redis.dbConnectionUser (a new grant takes minutes)"
    )]
    WrongPass {
        /// The node.
        addr: NodeAddr,
    },
    /// `ERR_IAM_EXHAUSTED`.
    #[error(
        "{addr} cannot check the token: the quota of its IAM backend is exhausted \
         (ERR_IAM_EXHAUSTED); tried again with backoff"
    )]
    IamExhausted {
        /// The node.
        addr: NodeAddr,
    },
    /// `ERR_IAM_OTHER`.
    #[error(
        "{addr} cannot check the token: its IAM backend failed (ERR_IAM_OTHER); tried again with \
         backoff"
    )]
    IamOther {
        /// The node.
        addr: NodeAddr,
    },
    /// `NOAUTH`: the connection is not authenticated, or no longer.
    #[error(
        "{addr} demands authentication (NOAUTH): its authentication ended, or the proxy runs \
         without a credential; with --no-iam-auth give --upstream-password-file or drop the flag"
    )]
    NoAuth {
        /// The node.
        addr: NodeAddr,
    },
    /// `LOADING`.
    #[error("{addr} is loading its dataset and answers nothing yet (LOADING)")]
    Loading {
        /// The node.
        addr: NodeAddr,
    },
    /// Any other error reply.
    #[error("{addr} answered {command} with an error: {text}")]
    Server {
        /// The node.
        addr: NodeAddr,
        /// What was asked, without arguments that could be secret.
        command: String,
        /// The server's words.
        text: String,
    },
    /// The deadline passed before the reply was whole.
    #[error("{addr} did not answer {command} in time; the node is overloaded, stalled or gone")]
    Timeout {
        /// The node.
        addr: NodeAddr,
        /// What was asked.
        command: String,
    },
    /// The connection ended.
    #[error(
        "{addr} closed the connection ({cause}); the node restarts, is replaced, or wants TLS (give --server-ca-file)"
    )]
    Closed {
        /// The node.
        addr: NodeAddr,
        /// How it ended.
        cause: String,
    },
    /// The node sent what is no reply.
    #[error(
        "{addr} does not speak RESP: {cause}; is this a Redis or Valkey port? (If it speaks TLS: --tls)"
    )]
    Protocol {
        /// The node.
        addr: NodeAddr,
        /// What was wrong.
        cause: String,
    },
}

impl ClientError {
    /// True when AUTH was refused or could not be checked: another node would say the same, so the
    /// caller backs off instead of asking around.
    pub fn is_auth_fault(&self) -> bool {
        matches!(
            self,
            Self::WrongPass { .. }
                | Self::IamExhausted { .. }
                | Self::IamOther { .. }
                | Self::NoAuth { .. }
        )
    }

    /// True when the connection ended under an idle client; asking again on a new one is worth it.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    fn from_reply(addr: &NodeAddr, command: &str, text: &str) -> Self {
        let addr = addr.clone();
        match text.split(' ').next().unwrap_or_default() {
            "WRONGPASS" => Self::WrongPass { addr },
            "NOAUTH" => Self::NoAuth { addr },
            "LOADING" => Self::Loading { addr },
            // Memorystore varies the sentence around the code (Cluster and Valkey differ).
            "ERR" if text.contains("(ERR_IAM_EXHAUSTED)") => Self::IamExhausted { addr },
            "ERR" if text.contains("(ERR_IAM_OTHER)") => Self::IamOther { addr },
            _ => Self::Server { addr, command: command.to_owned(), text: text.to_owned() },
        }
    }
}

/// A connection to one node.
pub struct Client {
    addr: NodeAddr,
    stream: Box<dyn Stream>,
    buf: BytesMut,
    /// Generation of the credential the last successful AUTH used.
    generation: Option<u64>,
    /// A reply may still be due.
    broken: bool,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("addr", &self.addr)
            .field("generation", &self.generation)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Dials a node and authenticates; without a credential no AUTH is sent.
    ///
    /// # Errors
    /// [`ClientError::Dial`], or what AUTH ended with.
    pub async fn connect(
        addr: &NodeAddr,
        credential: Option<&Credential>,
        timeouts: Timeouts,
        trust: &Trust,
    ) -> Result<Self, ClientError> {
        let stream = trust.dial(addr, timeouts.connect, secure).await?;
        let mut client = Self::over(addr.clone(), stream);
        if let Some(credential) = credential {
            client.authenticate(credential, Instant::now() + timeouts.auth).await?;
        }
        Ok(client)
    }

    /// Wraps a stream that is already connected to `addr`; not authenticated.
    pub fn over(addr: NodeAddr, stream: Box<dyn Stream>) -> Self {
        Self { addr, stream, buf: BytesMut::new(), generation: None, broken: false }
    }

    /// The node this client is connected to.
    pub fn addr(&self) -> &NodeAddr {
        &self.addr
    }

    /// Generation of the credential this connection authenticated with, if it did.
    pub fn generation(&self) -> Option<u64> {
        self.generation
    }

    /// False once a failure made the connection useless.
    pub fn is_usable(&self) -> bool {
        !self.broken
    }

    /// Sends `AUTH user secret`, first or again.
    ///
    /// # Errors
    /// The node's refusal. It leaves an earlier authentication in force and the client usable.
    pub async fn authenticate(
        &mut self,
        credential: &Credential,
        deadline: Instant,
    ) -> Result<(), ClientError> {
        let args = [b"AUTH", credential.username.as_bytes(), credential.secret.expose().as_bytes()];
        match self.exchange("AUTH", &args, deadline).await? {
            Value::Error(text) => {
                let text = without_secret(text, &credential.secret);
                Err(ClientError::from_reply(&self.addr, "AUTH", &text))
            }
            _ => {
                self.generation = Some(credential.generation);
                Ok(())
            }
        }
    }

    /// Sends one command and waits for its reply. `args` must hold nothing secret: the first two
    /// are named in errors.
    ///
    /// # Errors
    /// An error reply, by kind; a missed deadline; a lost connection; bytes that are no reply. After
    /// the last three the client is no longer [usable](Self::is_usable).
    pub async fn call(&mut self, args: &[&[u8]], deadline: Instant) -> Result<Value, ClientError> {
        let command = args
            .iter()
            .take(2)
            .map(|arg| String::from_utf8_lossy(arg))
            .collect::<Vec<_>>()
            .join(" ");
        match self.exchange(&command, args, deadline).await? {
            Value::Error(text) => Err(ClientError::from_reply(&self.addr, &command, &text)),
            value => Ok(value),
        }
    }

    async fn exchange(
        &mut self,
        command: &str,
        args: &[&[u8]],
        deadline: Instant,
    ) -> Result<Value, ClientError> {
        if self.broken {
            return Err(self.closed("after an earlier failure"));
        }
        if !self.buf.is_empty() {
            self.broken = true;
            return Err(self.protocol("it sent bytes nobody asked for"));
        }
        // Set first: a caller that drops this future leaves a reply due as well.
        self.broken = true;
        let request = encode(args);
        let value = match timeout_at(deadline, self.round_trip(&request)).await {
            Ok(outcome) => outcome?,
            Err(_) => {
                return Err(ClientError::Timeout {
                    addr: self.addr.clone(),
                    command: command.to_owned(),
                });
            }
        };
        self.broken = false;
        Ok(value)
    }

    async fn round_trip(&mut self, request: &[u8]) -> Result<Value, ClientError> {
        if let Err(e) = self.stream.write_all(request).await {
            return Err(self.closed(&e.to_string()));
        }
        let mut decoder = Decoder::default();
        loop {
            match decoder.decode(&self.buf) {
                Ok(Some((value, len))) => {
                    let _ = self.buf.split_to(len);
                    // Pushes answer nothing; the reply is still due.
                    if !matches!(value, Value::Push(_)) {
                        return Ok(value);
                    }
                }
                Ok(None) => match self.stream.read_buf(&mut self.buf).await {
                    Ok(0) => return Err(self.closed("end of stream before the reply")),
                    Ok(_) => {}
                    Err(e) => return Err(self.closed(&e.to_string())),
                },
                Err(e) => return Err(self.protocol(&e.to_string())),
            }
        }
    }

    fn closed(&self, cause: &str) -> ClientError {
        ClientError::Closed { addr: self.addr.clone(), cause: cause.to_owned() }
    }

    fn protocol(&self, cause: &str) -> ClientError {
        ClientError::Protocol { addr: self.addr.clone(), cause: cause.to_owned() }
    }
}

/// The stream as it is, or after the TLS handshake if that is the plan.
async fn secure(stream: TcpStream, plan: Option<Plan>) -> std::io::Result<Box<dyn Stream>> {
    Ok(match plan {
        None => Box::new(stream),
        Some(Plan { config, name }) => {
            Box::new(TlsConnector::from(config).connect(name, stream).await?)
        }
    })
}

/// The request as RESP, wiped when dropped. Its size is reserved first: growing would leave copies
/// of the secret behind in freed memory.
fn encode(args: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    const HEADER: usize = 32;
    let size = HEADER + args.iter().map(|arg| HEADER + arg.len()).sum::<usize>();
    let mut out = Zeroizing::new(Vec::with_capacity(size));
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// A server that does not know AUTH repeats its arguments in the error, cut at some length. Such a
/// text is replaced.
fn without_secret(text: String, secret: &Secret) -> String {
    let start: String = secret.expose().chars().take(6).collect();
    if text.contains("with args") || (!start.is_empty() && text.contains(&start)) {
        "ERR (text withheld: it may repeat the credential)".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
