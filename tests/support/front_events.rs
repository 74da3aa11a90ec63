//! What happened to the connections of an IAM front, with times: what proves the rates of dials and
//! AUTHs, and who cut what.
//!
//! Invariant: each connection is dialled first and closed last, also when its task is cancelled;
//! links between nodes leave no trace.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::time::Instant;

/// One happening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Instant,
    /// On which connection; counted from 0.
    pub connection: u64,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The connection was accepted.
    Dial,
    /// AUTH, or HELLO with AUTH.
    Auth {
        /// The connection never was authenticated before.
        first: bool,
        /// It was accepted.
        ok: bool,
    },
    /// The connection is gone.
    Closed {
        /// The proxy closed it; else the front did, or the node behind it.
        by_proxy: bool,
        /// The front had stopped reading it for good.
        stalled: bool,
        /// Commands read from it and not answered.
        unanswered: u64,
    },
}

impl Event {
    /// An IAM check of its own: a dial (its first AUTH goes with it) or a repeated AUTH.
    pub fn is_permit(&self) -> bool {
        matches!(self.what, What::Dial | What::Auth { first: false, .. })
    }

    /// The connection ended, or was given up, because of the front: what was sent on it and not
    /// answered may have run.
    pub fn is_cut(&self) -> bool {
        matches!(self.what, What::Closed { by_proxy, stalled, .. } if stalled || !by_proxy)
    }
}

/// All events of a front.
#[derive(Debug, Clone, Default)]
pub(super) struct Events {
    log: Arc<Mutex<Vec<Event>>>,
    dialled: Arc<AtomicU64>,
}

impl Events {
    /// A connection was accepted.
    pub(super) fn dialled(&self) -> Watched {
        let connection = self.dialled.fetch_add(1, Ordering::Relaxed);
        let watched = Watched {
            events: self.clone(),
            connection,
            ours: true,
            unanswered: Arc::default(),
            by_proxy: Arc::default(),
            stalled: AtomicBool::new(false),
        };
        watched.push(What::Dial);
        watched
    }

    /// All so far.
    pub(super) fn all(&self) -> Vec<Event> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.log.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The events of one connection; its drop is the close.
#[derive(Debug)]
pub(super) struct Watched {
    events: Events,
    connection: u64,
    ours: bool,
    unanswered: Arc<AtomicU64>,
    by_proxy: Arc<AtomicBool>,
    stalled: AtomicBool,
}

impl Watched {
    /// An AUTH was judged.
    pub(super) fn auth(&self, first: bool, ok: bool) {
        self.push(What::Auth { first, ok });
    }

    /// The peer ended the connection.
    pub(super) fn peer_closed(&self) {
        self.by_proxy.store(true, Ordering::Relaxed);
    }

    /// Nothing of it is answered any more.
    pub(super) fn stalled(&self) {
        self.stalled.store(true, Ordering::Relaxed);
    }

    /// Counts the commands that await their answers.
    pub(super) fn unanswered(&self) -> Arc<AtomicU64> {
        self.unanswered.clone()
    }

    /// It is a link between nodes: forgotten.
    pub(super) fn forget(&mut self) {
        self.ours = false;
        self.events.lock().retain(|event| event.connection != self.connection);
    }

    fn push(&self, what: What) {
        if self.ours {
            let event = Event { at: Instant::now(), connection: self.connection, what };
            self.events.lock().push(event);
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.push(What::Closed {
            by_proxy: self.by_proxy.load(Ordering::Relaxed),
            stalled: self.stalled.load(Ordering::Relaxed),
            unanswered: self.unanswered.load(Ordering::Relaxed),
        });
    }
}
