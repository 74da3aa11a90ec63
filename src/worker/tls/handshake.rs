//! The handshake of one connection, before the worker serves it.
//!
//! It runs in the task that dials or accepts, so whoever is slow at it keeps nobody else waiting;
//! its buffer lives as long as it does. Invariant: an [`Engine`] that comes out of it has sent all
//! it had to send. It sets no time limit: the caller does.

use std::io;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Engine, Side, failed, invalid};

/// Room for what is read during the handshake (bytes): a flight of a server with its chain.
const BUFFER: usize = 8 * 1024;

/// More than this (bytes) is no handshake.
const LIMIT: usize = 256 * 1024;

/// Makes the connection's client side.
///
/// # Errors
/// What rustls says of the configuration, or as [`accept`].
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> io::Result<Engine> {
    let client = UnbufferedClientConnection::new(config, name).map_err(failed)?;
    shake(stream, Engine::new(Side::Client(Box::new(client)))).await
}

/// Makes the connection's server side.
///
/// # Errors
/// What the socket reports, or [`rustls::Error`] within an `InvalidData`.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    config: Arc<ServerConfig>,
) -> io::Result<Engine> {
    let server = UnbufferedServerConnection::new(config).map_err(failed)?;
    shake(stream, Engine::new(Side::Server(Box::new(server)))).await
}

async fn shake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    mut engine: Engine,
) -> io::Result<Engine> {
    let mut incoming = Vec::with_capacity(BUFFER);
    loop {
        let mut early = std::mem::take(&mut engine.early);
        let (used, outcome) = engine.process(&mut incoming, |payload| {
            early.extend_from_slice(payload);
            Ok(())
        });
        engine.early = early;
        drop(incoming.drain(..used));
        let answers = std::mem::take(&mut engine.unsent);
        if !answers.is_empty() {
            let written = stream.write_all(&answers).await;
            // A refusal by us is the cause, though the peer may hear it too late.
            if outcome.is_ok() {
                written?;
            }
        }
        outcome?;
        if !engine.is_handshaking() {
            engine.partial = incoming;
            engine.partial.shrink_to_fit();
            return Ok(engine);
        }
        if engine.peer_closed {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if incoming.len() > LIMIT {
            return Err(invalid("the TLS handshake does not end"));
        }
        if stream.read_buf(&mut incoming).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
