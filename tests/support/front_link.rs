//! The side of an IAM front that faces its node: logging in, carrying replies back, and joining
//! links between nodes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::faults::OnExpiry;
use super::front::{FrontOptions, Shared};
use super::replies::{Expected, ReplyOrder};
use super::resp;

/// A connection to the node, authenticated with the node's own password.
pub(super) async fn login(options: &FrontOptions) -> std::io::Result<TcpStream> {
    let mut node = TcpStream::connect(options.node).await?;
    node.set_nodelay(true)?;
    node.write_all(&resp::encode(&["AUTH", &options.node_password])).await?;
    let mut reply = [0; 5];
    node.read_exact(&mut reply).await?;
    if &reply == b"+OK\r\n" {
        Ok(node)
    } else {
        Err(std::io::Error::other("the node refused the bed's own password"))
    }
}

/// Writes all of it, and what TLS makes of it.
pub(super) async fn send(
    client: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
) -> std::io::Result<()> {
    client.write_all(bytes).await?;
    client.flush().await
}

/// Carries replies back, puts the front's own replies where they belong, and applies reply faults.
/// True when it ended because the peer is gone.
pub(super) async fn reply_side(
    shared: &Shared,
    mut node: OwnedReadHalf,
    mut client: impl AsyncWrite + Unpin,
    mut incoming: mpsc::UnboundedReceiver<Expected>,
    mut stalled: watch::Receiver<bool>,
    mut authenticated_at: watch::Receiver<Option<Instant>>,
    unanswered: Arc<AtomicU64>,
) -> bool {
    let mut order = ReplyOrder::default();
    let mut buf = BytesMut::with_capacity(64 * 1024);
    let mut out = Vec::new();
    loop {
        while let Ok(expected) = incoming.try_recv() {
            order.push(expected);
        }
        let mut cut = order.injected(&mut out);
        while !cut && let Ok(Some(len)) = resp::frame_len(&buf) {
            if shared.faults.take_cut_mid_reply() {
                out.extend_from_slice(&buf[..len / 2]);
                cut = true;
                break;
            }
            if order.reply(&buf[..len]) {
                unanswered.fetch_sub(1, Ordering::Relaxed);
            }
            out.extend_from_slice(&buf[..len]);
            buf.advance(len);
            cut = order.injected(&mut out);
        }
        if !out.is_empty() {
            let delay = shared.faults.reply_delay();
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let _ = stalled.wait_for(|stalled| !stalled).await;
            if send(&mut client, &out).await.is_err() {
                return true;
            }
            out.clear();
        }
        if cut {
            return false;
        }
        if buf.capacity() - buf.len() < 16 * 1024 {
            buf.reserve(256 * 1024);
        }
        tokio::select! {
            biased;
            () = expiry(shared, &mut authenticated_at) => return false,
            expected = incoming.recv() => match expected {
                Some(expected) => order.push(expected),
                None => return false,
            },
            read = node.read_buf(&mut buf) => if !matches!(read, Ok(n) if n > 0) { return false },
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
pub(super) async fn splice(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    node: SocketAddr,
    first: &[u8],
    rest: &[u8],
) {
    let Ok(mut node) = TcpStream::connect(node).await else {
        return;
    };
    if node.write_all(first).await.is_ok() && node.write_all(rest).await.is_ok() {
        let _ = tokio::io::copy_bidirectional(&mut client, &mut node).await;
    }
}
