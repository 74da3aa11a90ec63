//! One worker: a thread with a current-thread runtime, its hub of sessions and pipes, its sockets.
//!
//! Workers share nothing on the command path. Invariant: everything a worker learns from outside
//! (clients, slot maps, credentials) comes through channels served by tasks of its own thread.

pub mod budget;
mod guard;
pub mod hub;
pub mod io;
pub mod socket;
pub mod tls;

use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::cluster::topology::Topology;
use crate::credentials::CredentialState;
use crate::session::core::Profile;
use crate::upstream::tls::Trust;

use budget::Budget;
use hub::{Hub, Letter, NodeStatus, Settings};
use io::{Control, Io};
use socket::Stream;

/// A client's place among all that may be served at once; given back when it is dropped.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Place {
    /// Takes one of `taken`. `None`: they are `most` already (0: no limit).
    pub fn take(taken: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let before = taken.fetch_add(1, Ordering::Relaxed);
        let place = Self(taken.clone());
        (most == 0 || before < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client on its way to a worker.
#[derive(Debug)]
pub struct Accepted {
    /// Its place among all.
    pub place: Place,
    /// Its socket.
    pub stream: Stream,
    /// Who it is.
    pub profile: Profile,
    /// How it is to encrypt; `None`: not.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

/// What a worker is asked.
#[derive(Debug)]
enum Message {
    Serve(Accepted),
    Status(oneshot::Sender<Vec<NodeStatus>>),
    /// Who the workers are, and which of them this one is.
    Peers(usize, Vec<Peer>),
}

/// What one worker has of another.
#[derive(Debug, Clone)]
struct Peer {
    letters: mpsc::UnboundedSender<Letter>,
    sessions: Arc<AtomicUsize>,
}

/// Makes workers known to each other, for commands that concern the clients of all.
pub fn introduce(workers: &[Worker]) {
    let peer = |w: &Worker| Peer { letters: w.letters.clone(), sessions: w.sessions.clone() };
    let peers: Vec<Peer> = workers.iter().map(peer).collect();
    for (me, worker) in workers.iter().enumerate() {
        // A worker that is gone needs to know nobody.
        let _ = worker.messages.send(Message::Peers(me, peers.clone()));
    }
}

/// What a worker reads of the control thread.
#[derive(Debug, Clone)]
pub struct Feeds {
    /// The slot map.
    pub topology: watch::Receiver<Option<Arc<Topology>>>,
    /// The credential.
    pub credential: watch::Receiver<CredentialState>,
    /// Whom to trust.
    pub trust: Trust,
    /// What clients may do.
    pub access: watch::Receiver<Option<Arc<Access>>>,
    /// What the buffers of all workers may hold.
    pub budget: Arc<Budget>,
}

/// The control side of a worker.
#[derive(Debug)]
pub struct Worker {
    messages: mpsc::UnboundedSender<Message>,
    letters: mpsc::UnboundedSender<Letter>,
    sessions: Arc<AtomicUsize>,
    thread: Mutex<Option<JoinHandle<()>>>,
    ended: CancellationToken,
}

impl Worker {
    /// Starts the thread. `stop` ends it: replies that are due are still delivered, for at most
    /// `grace`.
    ///
    /// # Errors
    /// When the operating system refuses a thread or the runtime its resources.
    pub fn start(
        index: usize,
        settings: Settings,
        feeds: Feeds,
        control: Arc<dyn Control>,
        stop: CancellationToken,
        grace: Duration,
    ) -> std::io::Result<Self> {
        let (messages, inbox) = mpsc::unbounded_channel();
        let (letters, letterbox) = mpsc::unbounded_channel();
        let inbox = (inbox, letterbox);
        let sessions = Arc::new(AtomicUsize::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // All sockets that are ready belong to one turn; see `io`.
            .event_interval(1024)
            .max_io_events_per_tick(2048)
            .build()?;
        let gauge = sessions.clone();
        let ended = CancellationToken::new();
        // Cancelled when the thread is gone, by a panic too.
        let guard = ended.clone().drop_guard();
        let thread =
            std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                let _guard = guard;
                let local = tokio::task::LocalSet::new();
                local
                    .block_on(&runtime, serve(settings, feeds, control, inbox, gauge, stop, grace));
            })?;
        Ok(Self { messages, letters, sessions, thread: Mutex::new(Some(thread)), ended })
    }

    /// Clients this worker serves, those on their way included.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Hands a client over. False: the worker is gone.
    pub fn serve(&self, accepted: Accepted) -> bool {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        self.messages.send(Message::Serve(accepted)).is_ok()
    }

    /// The worker's view of the nodes.
    pub async fn nodes(&self) -> Vec<NodeStatus> {
        let (answer, status) = oneshot::channel();
        if self.messages.send(Message::Status(answer)).is_err() {
            return Vec::new();
        }
        status.await.unwrap_or_default()
    }

    /// Waits until the thread has ended, for whatever reason.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        self.ended.clone().cancelled_owned()
    }

    /// True when the thread has ended, for whatever reason.
    pub fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Waits for the thread, which must have been told to stop.
    pub fn join(&self) {
        let thread = self.thread.lock().ok().and_then(|mut t| t.take());
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("a worker thread ended by a panic; this is a bug, please report it");
        }
    }
}

async fn serve(
    settings: Settings,
    feeds: Feeds,
    control: Arc<dyn Control>,
    inbox: (mpsc::UnboundedReceiver<Message>, mpsc::UnboundedReceiver<Letter>),
    gauge: Arc<AtomicUsize>,
    stop: CancellationToken,
    grace: Duration,
) {
    let (mut inbox, mut letters) = inbox;
    let connect_timeout = settings.connect_timeout;
    let hub = Hub::new(settings, fastrand::u64(..));
    let Feeds { mut topology, mut credential, trust, mut access, budget } = feeds;
    let io = Io::new(hub, control, connect_timeout, gauge, trust, budget);
    let mut flusher = tokio::task::spawn_local(io.clone().run());

    let rules = access.borrow_and_update().clone();
    io.with_hub(|hub| hub.set_access(rules));
    let state = credential.borrow_and_update().clone();
    io.with_hub(|hub| hub.set_credential(state));
    if let Some(map) = topology.borrow_and_update().clone() {
        io.with_hub(|hub| hub.set_topology(map));
    }
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            // It never ends but by a panic, and without it nothing is written any more.
            _ = &mut flusher => return,
            Ok(()) = topology.changed() => {
                if let Some(map) = topology.borrow_and_update().clone() {
                    io.with_hub(|hub| hub.set_topology(map));
                }
            }
            Ok(()) = credential.changed() => {
                let state = credential.borrow_and_update().clone();
                io.with_hub(|hub| hub.set_credential(state));
            }
            Ok(()) = access.changed() => {
                let rules = access.borrow_and_update().clone();
                io.with_hub(|hub| hub.set_access(rules));
            }
            message = inbox.recv() => match message {
                None => break,
                Some(message) => take(&io, message),
            },
            Some(letter) = letters.recv() => io.with_hub(|hub| hub.receive(letter)),
        }
    }
    let drained = async {
        while io.peek(Hub::session_count) > 0 {
            io.with_hub(Hub::drain);
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
                // Workers that still serve may ask.
                Some(letter) = letters.recv() => io.with_hub(|hub| hub.receive(letter)),
            }
        }
    };
    if tokio::time::timeout(grace, drained).await.is_err() {
        let left = io.peek(Hub::session_count);
        tracing::warn!(sessions = left, "stopping with clients whose replies are still due");
    }
}

#[allow(
    clippy::result_large_err,
    reason = "a letter that cannot be sent comes back to be answered; rare"
)]
fn take(io: &Rc<Io>, message: Message) {
    match message {
        Message::Status(answer) => {
            // Whoever asked may have gone away.
            let _ = answer.send(io.peek(Hub::node_statuses));
        }
        Message::Serve(client) => {
            if let Err(error) = io.serve_client(client) {
                tracing::warn!(%error, "a client could not be served");
            }
        }
        Message::Peers(me, peers) => {
            let sessions = peers.iter().map(|p| p.sessions.clone()).collect();
            io.set_post(Box::new(move |to, letter| match peers.get(to) {
                Some(peer) => peer.letters.send(letter).map_err(|unsent| unsent.0),
                None => Err(letter),
            }));
            io.with_hub(|hub| hub.set_peers(me, sessions));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::refresh::Reason;
    use crate::cluster::topology::NodeAddr;
    use hub::Counters;

    /// A control thread that breaks the worker at its first turn.
    struct Breaks;

    impl Control for Breaks {
        fn refresh(&self, _: Reason) {}
        fn credential_rejected(&self, _: u64) {}
        fn credential_wanted(&self) {}
        fn resting(&self, _: Vec<NodeAddr>) {}
        fn observe(&self, _: Option<u64>, _: &[u64]) {}
        fn publish(&self, _: &Counters, _: usize, _: usize) {
            panic!("as a bug would");
        }
    }

    #[tokio::test]
    async fn a_panic_where_all_is_written_ends_the_thread() {
        let (_topology, topology) = watch::channel(None);
        let (_credential, credential) = watch::channel(CredentialState::NotNeeded);
        let (_access, access) = watch::channel(None);
        let (trust, budget) = (Trust::plain(), Budget::new(None));
        let feeds = Feeds { topology, credential, trust, access, budget };
        let settings = hub::test_settings();
        let stop = CancellationToken::new();
        let worker =
            Worker::start(0, settings, feeds, Arc::new(Breaks), stop, Duration::from_secs(1))
                .expect("a thread");
        let ended = tokio::time::timeout(Duration::from_secs(20), worker.ended()).await;
        assert!(ended.is_ok() && worker.has_ended());
    }
}
