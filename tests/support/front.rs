//! The IAM front: what Memorystore puts before each node, on loopback.
//!
//! It demands AUTH (or HELLO … AUTH) with a live access token before anything else, logs in to the
//! node behind it with the node's own password, and passes everything on. Invariants: a token never
//! reaches the node; replies leave in request order, also those the front makes itself; a
//! connection that authenticates with the node's password is a link between nodes (replication
//! goes by announced addresses) and is passed through untouched, unjudged and uncounted.
//! It does not alter what CLUSTER commands say: the nodes themselves announce the fronts.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::faults::{Counters, Counts, Faults, bump};
use super::front_events::{Event, Events};
use super::front_session::Session;
use super::metadata::Tokens;
use super::network::Network;
use super::ports::free_port;
use super::tls::{FrontTls, Identity};

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
    /// What it shows to clients that must speak TLS then; plaintext is for links between nodes.
    pub tls: Option<Identity>,
}

/// The commands one connection sent, `NAME first-argument` each; credentials are left out.
pub type CommandLog = Arc<Mutex<Vec<String>>>;

#[derive(Debug)]
pub(super) struct Shared {
    pub options: FrontOptions,
    pub faults: Faults,
    pub network: Network,
    pub counters: Counters,
    pub events: Events,
    pub early: Mutex<BTreeSet<String>>,
    pub tls: Option<FrontTls>,
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
            tls: options.tls.as_ref().map(FrontTls::new),
            options,
            faults: Faults::new(),
            network: Network::new(),
            counters: Counters::default(),
            events: Events::default(),
            early: Mutex::default(),
            logs: Mutex::default(),
        });
        let task = tokio::spawn(accept(self.addr, self.listener, shared.clone())).abort_handle();
        IamFront { addr: self.addr, shared, task }
    }
}

impl IamFront {
    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its TLS side; panics when it has none.
    pub fn tls(&self) -> &FrontTls {
        self.shared.tls.as_ref().expect("the front was started with TLS")
    }

    /// Its fault switches.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// The network before it.
    pub fn network(&self) -> &Network {
        &self.shared.network
    }

    /// What it has counted.
    pub fn counts(&self) -> Counts {
        self.shared.counters.read()
    }

    /// The commands that came before authentication, `NAME first-argument` each, links between
    /// nodes included.
    pub fn early(&self) -> BTreeSet<String> {
        lock(&self.shared.early).clone()
    }

    /// Dials, AUTHs and closes with their times, oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.shared.events.all()
    }

    /// Command logs of all connections so far, oldest first.
    pub fn logs(&self) -> Vec<Vec<String>> {
        lock(&self.shared.logs).iter().map(|log| lock(log).clone()).collect()
    }

    /// How many logged commands, over all connections, start with `prefix` (upper case name).
    pub fn seen(&self, prefix: &str) -> usize {
        self.logs().iter().flatten().filter(|c| c.starts_with(prefix)).count()
    }
}

impl Drop for IamFront {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.faults.close_all();
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
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
    bump(&shared.counters.dials);
    let watched = shared.events.dialled();
    if shared.faults.take_close_on_accept() {
        return;
    }
    let _ = client.set_nodelay(true);
    bump(&shared.counters.connections);
    let mut session = Session::new(shared, Open(&shared.counters), watched);
    lock(&shared.logs).push(session.log());
    let Some(tls) = &shared.tls else {
        if let Some(wire) = shared.network.wire(&client).await {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let (rd, wr) = tokio::io::split(near);
            tokio::join!(wire.carry(client, far), session.serve(rd, wr));
            return;
        }
        let (rd, wr) = client.into_split();
        return session.serve(rd, wr).await;
    };
    session.unstalled().await;
    if FrontTls::is_asked_by(&client).await {
        if let Some(stream) = tls.accept(client).await {
            let (rd, wr) = tokio::io::split(stream);
            session.serve(rd, wr).await;
        }
    } else {
        session.only_links();
        let (rd, wr) = client.into_split();
        session.serve(rd, wr).await;
    }
}

/// Counts a connection as open, also when its task is cancelled.
pub(super) struct Open<'a>(&'a Counters);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
