//! Where clients come in: TCP and Unix sockets on the control thread.
//!
//! Invariant: an accept error never ends the listener; a client goes to the worker with the fewest
//! sessions. It reads and writes nothing: the worker owns the socket from its first byte on, the TLS
//! handshake included.

pub mod certificate;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixStream};

use self::certificate::LocalTls;
use crate::net;
use crate::session::core::Profile;
use crate::telemetry::metrics::WorkerMetrics;
use crate::worker::socket::Stream;
use crate::worker::{Accepted, Place, Worker};

/// Clients the kernel may hold for us before we accept them.
const BACKLOG: u32 = 4096;

/// Pause after an accept that failed for want of resources (descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Refused clients of the Unix socket are logged so often at most.
const AUDIT_PAUSE: Duration = Duration::from_secs(1);

/// The Unix socket's path; the file is removed on drop.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Binds the TCP listener.
///
/// # Errors
/// What the operating system reports, e.g. that the address is in use.
pub fn bind_tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Binds the Unix listener with the given permission bits, replacing a socket nobody listens on.
///
/// # Errors
/// What the operating system reports; `AddrInUse` when another process listens there.
pub fn bind_unix(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another process listens on this socket",
            ));
        }
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
        Err(_) => {}
    }
    // Bound under another name first: the socket is never reachable with wider permissions.
    let mut hidden = path.as_os_str().to_owned();
    hidden.push(format!(".{}", std::process::id()));
    let hidden = PathBuf::from(hidden);
    let listener = UnixListener::bind(&hidden)?;
    let file = SocketFile(path.to_owned());
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&hidden, path)?;
    Ok((listener, file))
}

/// The door: all instances of the process together have one limit. Handshakes under way count too.
#[derive(Debug)]
pub struct Gate {
    most: usize,
    taken: Arc<AtomicUsize>,
}

impl Gate {
    /// Lets so many clients in at once; 0: any number.
    pub fn new(most: usize) -> Self {
        Self { most, taken: Arc::default() }
    }

    fn enter(&self) -> Option<Place> {
        Place::take(&self.taken, self.most)
    }
}

/// What a server says to a client too many.
const TOO_MANY: &[u8] = b"-ERR max number of clients reached\r\n";

/// What a client of the wrong user of the machine is told.
const NOT_PERMITTED: &[u8] = b"-NOPERM memorystore-auth-proxy: your user may not use this socket \
    (--unix-socket-allow-uid)\r\n";

/// Hands clients to workers.
#[derive(Debug)]
pub struct Reception {
    workers: Arc<Vec<Worker>>,
    gate: Arc<Gate>,
    metrics: Arc<WorkerMetrics>,
    next_id: AtomicU64,
    /// TCP clients speak TLS, and nothing else.
    tls: Option<LocalTls>,
}

impl Reception {
    /// For these workers.
    pub fn new(
        workers: Arc<Vec<Worker>>,
        gate: Arc<Gate>,
        metrics: Arc<WorkerMetrics>,
        tls: Option<LocalTls>,
    ) -> Self {
        Self { workers, gate, metrics, next_id: AtomicU64::new(1), tls }
    }

    /// Accepts TCP clients for ever.
    pub async fn serve_tcp(&self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let local = stream.local_addr();
                    let ready = net::configure(&stream).and_then(|()| stream.into_std());
                    match ready.and_then(|stream| Ok((stream, local?))) {
                        Ok((stream, local)) => {
                            let profile = Profile {
                                peer: peer.to_string(),
                                local_host: local.ip().to_string(),
                                local_port: local.port(),
                                ..Profile::default()
                            };
                            let tls = self.tls.as_ref().map(LocalTls::current);
                            self.hand_over(Stream::Tcp(stream), profile, tls);
                        }
                        // The client is gone already.
                        Err(error) => tracing::debug!(%error, "a client went away at once"),
                    }
                }
                Err(error) => pause(&error).await,
            }
        }
    }

    /// Accepts Unix clients for ever; the file is removed at the end. With `uids`, clients of other
    /// users of the machine are turned away.
    pub async fn serve_unix(
        &self,
        listener: UnixListener,
        file: SocketFile,
        uids: Option<Vec<u32>>,
    ) {
        let shown = format!("{}:0", file.0.display());
        let mut said_at = None;
        loop {
            let accepted = match listener.accept().await {
                Ok((stream, _)) => {
                    let welcome =
                        uids.as_deref().is_none_or(|of| self.is_welcome(&stream, of, &mut said_at));
                    stream.into_std().map(|stream| (Stream::Unix(stream), welcome))
                }
                Err(error) => {
                    pause(&error).await;
                    continue;
                }
            };
            match accepted {
                Ok((stream, true)) => {
                    let profile = Profile { peer: shown.clone(), ..Profile::default() };
                    self.hand_over(stream, profile, None);
                }
                Ok((stream, false)) => turn_away(stream, NOT_PERMITTED),
                Err(error) => tracing::debug!(%error, "a client went away at once"),
            }
        }
    }

    /// Whether the kernel says that the peer's user is one of these. Refusals are counted, and logged
    /// once a second; `said_at` is when that was last.
    fn is_welcome(&self, stream: &UnixStream, of: &[u32], said_at: &mut Option<Instant>) -> bool {
        let uid = stream.peer_cred().map(|cred| cred.uid()).ok();
        if uid.is_some_and(|uid| of.contains(&uid)) {
            return true;
        }
        self.metrics.refused_unix_uid.inc();
        if said_at.is_none_or(|at| at.elapsed() >= AUDIT_PAUSE) {
            *said_at = Some(Instant::now());
            tracing::warn!(target: "audit", uid, reason = "unix_uid", "refused a client of the Unix socket");
        }
        false
    }

    fn hand_over(
        &self,
        stream: Stream,
        mut profile: Profile,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) {
        let Some(place) = self.gate.enter() else {
            self.metrics.client_connections_rejected.inc();
            tracing::debug!("a client was refused: --max-connections is reached");
            return turn_away(stream, TOO_MANY);
        };
        profile.id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if let Some(worker) = self.workers.iter().min_by_key(|w| w.sessions())
            && !worker.serve(Accepted { place, stream, profile, tls })
        {
            tracing::debug!("a client came while the proxy stops");
        }
    }
}

/// Says why, as far as the socket takes it at once, and hangs up.
fn turn_away(stream: Stream, why: &[u8]) {
    // Whoever does not take the few bytes has gone already.
    let _ = match stream {
        Stream::Tcp(mut s) => s.write(why),
        Stream::Unix(mut s) => s.write(why),
    };
}

async fn pause(error: &io::Error) {
    match error.kind() {
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset => {}
        _ => {
            tracing::warn!(%error, "a client could not be accepted; is the limit of open files reached?");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}
