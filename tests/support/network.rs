//! The wire between the proxy and a front, and what a network does to it: stalls, trickles, losses
//! without a word, and closes of every kind.
//!
//! A front whose network is armed carries its connections through a [`Wire`], which hands bytes on as
//! the network's condition allows. Invariants: bytes are never altered or reordered, and a wire that
//! has swallowed some never delivers another one; links between nodes have no wire, so replication
//! is not touched. It knows neither commands nor replies.

use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// What a node says first to another one, before its AUTH.
const OF_A_NODE: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    ToNode,
    ToProxy,
}

/// A state of the network for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Nothing flows this way, or either way when `None`; it does afterwards.
    Stall(Option<Way>),
    /// The other side is gone without a word: bytes are taken and lost. Wires that lost some are
    /// reset when the weather ends, as by a peer that has forgotten them.
    Lost,
    /// At most so many bytes at a time, a thousand times a second: frames are cut anywhere.
    Slow(usize),
}

/// A close of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// RST, both ways at once.
    Reset,
    /// FIN, both ways at once.
    Finish,
    /// FIN to the proxy; what is on its way to the node still arrives there.
    Half,
    /// The node's side at once, the proxy's after a while of at most this, for each connection
    /// another one: closes arrive in any order.
    Late(Duration),
}

/// Which connections of a front something strikes: so many of a hundred, others for another salt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub percent: u8,
    pub salt: u64,
}

impl Share {
    fn strikes(self, wire: u64) -> bool {
        mixed(self.salt ^ wire) % 100 < u64::from(self.percent)
    }
}

fn mixed(number: u64) -> u64 {
    fastrand::Rng::with_seed(number).u64(..)
}

/// The network before one front.
#[derive(Debug)]
pub struct Network {
    armed: AtomicBool,
    wires: AtomicU64,
    weather: watch::Sender<Option<(Weather, Share)>>,
    closes: watch::Sender<Option<(Close, Share)>>,
}

impl Network {
    pub(super) fn new() -> Self {
        Self {
            armed: AtomicBool::new(false),
            wires: AtomicU64::new(0),
            weather: watch::Sender::new(None),
            closes: watch::Sender::new(None),
        }
    }

    /// Connections from now on go through wires, and are not logged.
    pub fn arm(&self) {
        self.armed.store(true, Ordering::Relaxed);
    }

    /// Whether it is armed.
    pub fn is_armed(&self) -> bool {
        self.armed.load(Ordering::Relaxed)
    }

    /// Weather for this share of the connections, those to come included; fair when `None`.
    pub fn set_weather(&self, weather: Option<(Weather, Share)>) {
        self.weather.send_replace(weather);
    }

    /// Closes this share of the connections that are open now.
    pub fn close(&self, close: Close, share: Share) {
        self.closes.send_replace(Some((close, share)));
    }

    /// A wire for a connection just accepted; none when it comes from a node.
    pub(super) async fn wire(&self, client: &TcpStream) -> Option<Wire> {
        if !self.is_armed() || is_from_a_node(client).await {
            return None;
        }
        let number = self.wires.fetch_add(1, Ordering::Relaxed);
        let (weather, closes) = (self.weather.subscribe(), self.closes.subscribe());
        Some(Wire { number, weather, closes, dead: AtomicBool::new(false) })
    }
}

async fn is_from_a_node(client: &TcpStream) -> bool {
    let mut first = [0; OF_A_NODE.len()];
    loop {
        match client.peek(&mut first).await {
            Ok(n) if n > 0 && first[..n].eq_ignore_ascii_case(&OF_A_NODE[..n]) => {
                if n == first.len() {
                    return true;
                }
            }
            _ => return false,
        }
        // Part of it: the rest is on its way.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// How a wire ended.
enum End {
    /// One side closed by itself.
    Own,
    Closed(Close),
    /// It was dead, and the weather is over.
    Forgotten,
}

/// One connection's way through the network.
pub(super) struct Wire {
    number: u64,
    weather: watch::Receiver<Option<(Weather, Share)>>,
    closes: watch::Receiver<Option<(Close, Share)>>,
    /// It has swallowed bytes.
    dead: AtomicBool,
}

impl Wire {
    /// Joins the proxy's side and the front's until either ends or a close strikes.
    pub(super) async fn carry(&self, proxy: TcpStream, front: DuplexStream) {
        let (mut from_front, mut to_front) = tokio::io::split(front);
        let end = {
            let muted = AtomicBool::new(false);
            let up = self.up(&proxy, &mut to_front);
            let down = self.down(&mut from_front, &proxy, &muted);
            tokio::pin!(up, down);
            let mut down_ended = false;
            loop {
                tokio::select! {
                    biased;
                    close = self.closed(&muted) => {
                        if close != Close::Half {
                            break End::Closed(close);
                        }
                        muted.store(true, Ordering::Relaxed);
                        let _ = SockRef::from(&proxy).shutdown(Shutdown::Write);
                    }
                    () = self.forgotten() => break End::Forgotten,
                    () = &mut up => break End::Own,
                    () = &mut down, if !down_ended => {
                        down_ended = true;
                        if !muted.load(Ordering::Relaxed) {
                            break End::Own;
                        }
                    }
                }
            }
        };
        drop((from_front, to_front));
        match end {
            End::Own | End::Closed(Close::Finish | Close::Half) => {}
            End::Closed(Close::Late(most)) => {
                let share = mixed(self.number) % 1000;
                tokio::time::sleep(most.mul_f64(share as f64 / 1000.0)).await;
            }
            End::Closed(Close::Reset) | End::Forgotten => {
                let _ = SockRef::from(&proxy).set_linger(Some(Duration::ZERO));
            }
        }
    }

    async fn up(&self, proxy: &TcpStream, front: &mut (impl AsyncWrite + Unpin)) {
        let mut buf = vec![0; 16 * 1024];
        loop {
            let most = self.let_through(Way::ToNode).await.min(buf.len());
            let read = loop {
                if proxy.readable().await.is_err() {
                    return;
                }
                match proxy.try_read(&mut buf[..most]) {
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                    read => break read,
                }
            };
            let Some(n) = read.ok().filter(|&n| n > 0) else { return };
            // What is read when a stall begins waits for its end.
            let most = self.let_through(Way::ToNode).await;
            if !self.swallows() && front.write_all(&buf[..n]).await.is_err() {
                return;
            }
            trickle(most).await;
        }
    }

    async fn down(
        &self,
        front: &mut (impl AsyncRead + Unpin),
        proxy: &TcpStream,
        muted: &AtomicBool,
    ) {
        let mut buf = vec![0; 16 * 1024];
        loop {
            let most = self.let_through(Way::ToProxy).await.min(buf.len());
            let read = front.read(&mut buf[..most]).await;
            let Some(n) = read.ok().filter(|&n| n > 0) else { return };
            let most = self.let_through(Way::ToProxy).await;
            let mut rest = &buf[..n];
            while !rest.is_empty() && !muted.load(Ordering::Relaxed) && !self.swallows() {
                if proxy.writable().await.is_err() {
                    return;
                }
                match proxy.try_write(rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
            trickle(most).await;
        }
    }

    /// The weather it meets.
    fn weather(&self) -> Option<Weather> {
        let (weather, share) = (*self.weather.borrow())?;
        share.strikes(self.number).then_some(weather)
    }

    /// Waits until something may flow this way; how much at a time.
    async fn let_through(&self, way: Way) -> usize {
        let mut changes = self.weather.clone();
        loop {
            changes.mark_unchanged();
            match self.weather() {
                Some(Weather::Stall(which)) if which.is_none_or(|w| w == way) => {}
                Some(Weather::Slow(bytes)) => return bytes.max(1),
                _ => return usize::MAX,
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Whether bytes are lost here.
    fn swallows(&self) -> bool {
        if self.weather() == Some(Weather::Lost) {
            self.dead.store(true, Ordering::Relaxed);
        }
        self.dead.load(Ordering::Relaxed)
    }

    /// Ends when a close strikes; a wire that is half closed already hears of no second half.
    async fn closed(&self, muted: &AtomicBool) -> Close {
        let mut closes = self.closes.clone();
        if muted.load(Ordering::Relaxed) {
            closes.mark_unchanged();
        }
        loop {
            if closes.changed().await.is_err() {
                return std::future::pending().await;
            }
            let close = *closes.borrow_and_update();
            if let Some((close, share)) = close
                && share.strikes(self.number)
                && !(muted.load(Ordering::Relaxed) && close == Close::Half)
            {
                return close;
            }
        }
    }

    /// Ends when it is dead and the weather that killed it is over.
    async fn forgotten(&self) {
        let mut changes = self.weather.clone();
        loop {
            changes.mark_unchanged();
            if self.weather() != Some(Weather::Lost) && self.dead.load(Ordering::Relaxed) {
                return;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

async fn trickle(most: usize) {
    if most < usize::MAX {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
