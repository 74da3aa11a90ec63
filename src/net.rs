//! Sockets: how a node is dialled and how every TCP stream of the proxy is set up.
//!
//! Invariant: a dial resolves the name anew each time and ends by its timeout, whatever DNS or the
//! network do; a stream handed out has Nagle off and keepalive on. It speaks no protocol; TLS is made
//! above it, by `upstream::tls`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};

use crate::cluster::topology::NodeAddr;

/// Idle time after which the kernel starts to probe the peer. Below the ten minutes after which
/// Google Cloud's connection tracking forgets an idle flow.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// Time between two unanswered keepalive probes.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Unanswered probes after which the connection counts as lost.
pub const KEEPALIVE_PROBES: u32 = 3;

/// Longest time written bytes may stay unacknowledged before the kernel gives the peer up.
/// Keepalive does not run while data is in flight; without this a vanished node is noticed only
/// after the kernel's retransmissions, a quarter of an hour.
pub const UNACKNOWLEDGED_LIMIT: Duration = Duration::from_secs(30);

/// A byte stream to a node: TCP, or TLS over TCP.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why a node could not be connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The host name did not resolve.
    #[error(
        "cannot resolve the host name of {addr}: {cause}; check the name and the DNS of this machine"
    )]
    Dns {
        /// The endpoint.
        addr: NodeAddr,
        /// What the resolver said.
        cause: String,
    },
    /// The peer's machine answered that nothing listens there.
    #[error(
        "connection to {addr} refused: nothing listens there; check host and port, or the node is restarting"
    )]
    Refused {
        /// The endpoint.
        addr: NodeAddr,
    },
    /// No answer in time.
    #[error(
        "no connection to {addr} within {waited:?}: the node is gone or a firewall drops the packets \
         (Memorystore needs TCP 6379 and 11000-13047 open from here)"
    )]
    Timeout {
        /// The endpoint.
        addr: NodeAddr,
        /// The time allowed.
        waited: Duration,
    },
    /// Anything else the operating system reported.
    #[error("cannot connect to {addr}: {cause}; check the route to the Memorystore network")]
    Other {
        /// The endpoint.
        addr: NodeAddr,
        /// The operating system's words.
        cause: String,
    },
}

/// Connects to a node: resolves its host now, tries its addresses in order, gives up `timeout`
/// after the call (name resolution included).
///
/// Each address gets an equal share of the time left, so that a dead first address (an IPv6 record
/// without a route) leaves time for the next.
///
/// # Errors
/// [`DialError`]: the last address's failure.
pub async fn dial(addr: &NodeAddr, timeout: Duration) -> Result<TcpStream, DialError> {
    let deadline = Instant::now() + timeout;
    let timed_out = || DialError::Timeout { addr: addr.clone(), waited: timeout };
    let dns = |cause: String| DialError::Dns { addr: addr.clone(), cause };

    let resolved: Vec<SocketAddr> =
        match timeout_at(deadline, lookup_host((&*addr.host, addr.port))).await {
            Err(_) => return Err(dns(format!("no answer within {timeout:?}"))),
            Ok(Err(e)) => return Err(dns(e.to_string())),
            Ok(Ok(found)) => found.collect(),
        };

    let mut failure = dns("the name has no address".to_owned());
    for (i, target) in resolved.iter().enumerate() {
        let now = Instant::now();
        if now >= deadline {
            return Err(timed_out());
        }
        let share = (deadline - now) / u32::try_from(resolved.len() - i).unwrap_or(u32::MAX);
        failure = match timeout_at(now + share, TcpStream::connect(target)).await {
            Err(_) => timed_out(),
            Ok(Ok(stream)) => match configure(&stream) {
                Ok(()) => return Ok(stream),
                Err(e) => DialError::Other { addr: addr.clone(), cause: e.to_string() },
            },
            Ok(Err(e)) => match e.kind() {
                io::ErrorKind::ConnectionRefused => DialError::Refused { addr: addr.clone() },
                io::ErrorKind::TimedOut => timed_out(),
                _ => DialError::Other { addr: addr.clone(), cause: e.to_string() },
            },
        };
    }
    Err(failure)
}

/// Sets the options every TCP stream of the proxy has, dialled or accepted: no Nagle delay,
/// keepalive, a limit on unacknowledged data.
///
/// # Errors
/// What the operating system reports; the stream is then of no use.
pub fn configure(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_LIMIT))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn node(host: &str, port: u16) -> NodeAddr {
        NodeAddr { host: host.into(), port }
    }

    #[tokio::test]
    async fn a_dialled_stream_is_configured() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = dial(&node("127.0.0.1", port), Duration::from_secs(5)).await.unwrap();
        assert!(stream.nodelay().unwrap());
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED_LIMIT));
    }

    #[tokio::test]
    async fn a_name_with_a_dead_address_falls_through_to_the_next() {
        // `localhost` may resolve to ::1 first, where nothing listens.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        dial(&node("localhost", port), Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn refusal_and_unknown_names_are_told_apart() {
        // Bound but not listening: nobody else can take the port meanwhile.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let free = socket.local_addr().unwrap().port();
        let refused = dial(&node("127.0.0.1", free), Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(refused, DialError::Refused { addr: node("127.0.0.1", free) });
        assert!(refused.to_string().contains(&format!("127.0.0.1:{free}")));

        let dns = dial(&node("no-such-host.invalid", 1), Duration::from_secs(5)).await.unwrap_err();
        assert!(matches!(dns, DialError::Dns { .. }), "{dns}");
    }

    #[tokio::test]
    async fn a_full_backlog_ends_by_the_timeout() {
        // Nothing accepts: once the backlog is full the kernel drops further SYNs.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let addr = node("127.0.0.1", listener.local_addr().unwrap().port());
        let mut held = Vec::new();
        for _ in 0..16 {
            match dial(&addr, Duration::from_millis(200)).await {
                Ok(stream) => held.push(stream),
                Err(e) => {
                    assert!(matches!(e, DialError::Timeout { .. }), "{e}");
                    return;
                }
            }
        }
        panic!("the backlog never filled");
    }
}
