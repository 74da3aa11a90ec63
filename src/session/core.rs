//! The state of one client connection.
//!
//! Invariant: replies leave through the window, in request order, and nothing else is ever written
//! to `out`; a command is parsed only while the session may take one in. It does not route: the hub
//! does, with the session's fences.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::Arc;

use bytes::BytesMut;

use crate::access::User;
use crate::buffer::ByteQueue;
use crate::command::spec::Row;
use crate::key::Key;
use crate::resp::Version;
use crate::resp::scan::RequestScanner;
use crate::upstream::kind::Kind;

use super::fence::Fences;
use super::scanning::Scanning;
use super::streams::Streams;
use super::tracking::Tracking;
use super::transaction::{Own, Transaction};
use super::window::{NO_SLOT, Reply, Window};

/// Most request bytes a session may have in flight before its socket is not read any more.
pub const MAX_IN_FLIGHT_BYTES: usize = 64 * 1024 * 1024;

/// Why a session is held: it takes no command in while any of these is set.
pub mod hold {
    /// A server is being asked what its next command is.
    pub const LEARNING: u8 = 1 << 0;
    /// CLIENT PAUSE.
    pub const PAUSED: u8 = 1 << 1;
    /// It has to say who it is first.
    pub const UNAUTHENTICATED: u8 = 1 << 2;
}

/// How the end of a session comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// It goes on.
    No,
    /// No more commands are taken; it ends when all replies are written (QUIT, protocol error, EOF).
    AfterReplies,
    /// It ends now; what is buffered is dropped.
    Now,
}

/// Who the client says it is; cold.
#[derive(Debug, Default)]
pub struct Profile {
    /// CLIENT ID, unique in this process.
    pub id: u64,
    /// Peer address, as CLIENT LIST would show it.
    pub peer: String,
    /// Address the client connected to, without port.
    pub local_host: String,
    /// Port the client connected to; 0 on a Unix socket.
    pub local_port: u16,
    /// Its descriptor.
    pub fd: i32,
    /// Who it is to the proxy's access control; `None` without users.
    pub user: Option<Arc<User>>,
    /// When it connected (ms of the worker's clock).
    pub since: u64,
    /// CLIENT NO-EVICT ON: nobody is evicted here, but it is shown.
    pub no_evict: bool,
    /// CLIENT NO-TOUCH ON; likewise.
    pub no_touch: bool,
    /// CLIENT SETNAME.
    pub name: Vec<u8>,
    /// CLIENT SETINFO LIB-NAME.
    pub lib_name: Vec<u8>,
    /// CLIENT SETINFO LIB-VER.
    pub lib_version: Vec<u8>,
}

/// What becomes of a reply before it is the client's.
#[derive(Debug)]
pub enum Rewrite {
    /// The client gets a cursor of the proxy's, when it is known.
    Scan(Scanning),
    /// Answers of the proxy's own belong between the node's.
    Exec(Vec<Own>),
}

/// What a lost connection means to a session that WATCHes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// Nothing more: EXEC sees by itself that the connection of its one WATCH is gone.
    First,
    /// A later WATCH would hide that what the earlier ones watched is gone.
    Holds,
    /// So it is: EXEC answers nil, as if a watched key had changed.
    Lost,
}

/// The times of a blocking command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// It waits no longer than to this time (ms of the worker's clock; `u64::MAX`: for ever).
    pub until: u64,
    /// When it was sent last.
    pub sent_at: u64,
    /// It was sent to wait to this time only: before `until` if its connection comes of age first.
    pub ends: u64,
    /// It may be sent anew when that time is over.
    pub in_turns: bool,
    /// CLIENT UNBLOCK ended it: the nil that comes is the last word.
    pub unblocked: bool,
}

/// See the module header.
#[derive(Debug)]
pub struct Session {
    /// Its own name.
    pub key: Key,
    /// Replies in order.
    pub window: Window,
    /// Bytes for the client.
    pub out: ByteQueue,
    /// Bytes read and not yet parsed.
    pub input: BytesMut,
    /// Most commands it may have without reply before its socket is not read any more.
    pub max_pipeline: usize,
    /// What it was last counted to hold beside requests in flight (bytes).
    pub counted: usize,
    /// Position in a request that is not there whole.
    pub scanner: RequestScanner,
    /// Protocol version the client chose.
    pub version: Version,
    /// Database the client chose.
    pub db: u32,
    /// Order fences; nearly always none.
    pub fences: Option<Box<Fences>>,
    /// Epoch of the slot map under which everything in flight was sent, or a later one.
    pub epoch: u32,
    /// When this ticket is reached, `epoch` may become the second value.
    barrier: Option<(u32, u32)>,
    /// A command waits until all replies before it are flushed (e.g. HELLO 3).
    pub waits_for_empty: bool,
    /// A command runs alone: nothing is parsed until it is answered.
    pub alone: bool,
    /// Why it is held, a union of the constants in [`hold`]; 0: it is not.
    pub holds: u8,
    /// The client has sent its last byte while it was held: what it sent is still taken in.
    pub ends_after_input: bool,
    /// MULTI was said: commands are gathered.
    pub transaction: Option<Box<Transaction>>,
    /// Slot of the keys it WATCHes, on its lease.
    pub watched_slot: Option<u16>,
    /// How safe that is.
    pub watch: Watch,
    /// What is to be made of the reply of the command that runs alone.
    pub rewrite: Option<Box<Rewrite>>,
    /// The command that runs alone blocks: it ends when the client hangs up.
    pub blocked: bool,
    /// What it hears without asking; nearly always nothing.
    pub streams: Option<Box<Streams>>,
    /// How long that may take.
    pub wait: Option<Box<Wait>>,
    /// A connection of its own, on which it WATCHes.
    pub lease: Option<Key>,
    /// How it ends.
    pub closing: Closing,
    /// Who the client is.
    pub profile: Box<Profile>,
    /// The row of its last command.
    pub last: Option<&'static Row>,
    /// When it last said or was told something (ms of the worker's clock).
    pub active_at: u64,
    /// It has been queued for writing and not yet been served.
    pub dirty: bool,
    /// Its socket is not being read.
    pub read_paused: bool,
    /// It has been queued for parsing again.
    pub resuming: bool,
}

impl Session {
    /// A session of a client that just connected.
    pub fn new(key: Key, profile: Profile, epoch: u32) -> Self {
        Self {
            key,
            window: Window::default(),
            out: ByteQueue::default(),
            input: BytesMut::new(),
            max_pipeline: usize::MAX,
            counted: 0,
            scanner: RequestScanner::default(),
            version: Version::V2,
            db: 0,
            fences: None,
            epoch,
            barrier: None,
            waits_for_empty: false,
            alone: false,
            holds: 0,
            ends_after_input: false,
            transaction: None,
            watched_slot: None,
            watch: Watch::First,
            lease: None,
            rewrite: None,
            streams: None,
            blocked: false,
            wait: None,
            closing: Closing::No,
            active_at: profile.since,
            profile: Box::new(profile),
            last: None,
            dirty: false,
            read_paused: false,
            resuming: false,
        }
    }

    /// What a connection for its commands must be ready for.
    #[inline]
    pub fn kind(&self) -> Kind {
        Kind::of(self.version, self.db)
    }

    /// True when another command may be taken in.
    #[inline]
    pub fn may_parse(&self) -> bool {
        self.closing == Closing::No
            && !self.alone
            && self.holds == 0
            && (!self.waits_for_empty || self.window.is_empty())
            && self.window.len() < self.max_pipeline
            && self.window.request_bytes() < MAX_IN_FLIGHT_BYTES
    }

    /// True when a stalled session has drained enough to go on.
    pub fn may_resume(&self) -> bool {
        self.may_parse()
            && self.window.len() <= self.max_pipeline / 2
            && self.window.request_bytes() <= MAX_IN_FLIGHT_BYTES / 2
    }

    /// Puts a reply the proxy made itself in its place in the order.
    pub fn answer(&mut self, reply: &[u8]) {
        if reply.is_empty() {
            return;
        }
        if self.window.is_empty() && !self.window.silent && !self.window.skip_next {
            self.out.push(reply);
        } else {
            let ticket = self.window.open(None, NO_SLOT, Key::NONE, 0, 0);
            self.window.fill(ticket, 0, Reply::Borrowed(reply), &mut self.out);
        }
    }

    /// Prepares a dispatch for `slot`, last re-mapped at `slot_epoch`, to `pipe`, under map `epoch`.
    ///
    /// Returns how many commands of the slot are in flight elsewhere and must come home first; `own`
    /// legs of the command itself stand in the window already, not sent.
    #[inline]
    pub fn must_wait_for(
        &mut self,
        slot: u16,
        slot_epoch: u32,
        pipe: Key,
        epoch: u32,
        own: u32,
    ) -> u32 {
        if self.epoch == epoch {
            return 0;
        }
        self.adopt_epoch(epoch);
        if self.epoch == epoch || slot_epoch <= self.epoch {
            return 0;
        }
        self.in_flight_elsewhere(slot, pipe, own)
    }

    /// Moves on to a newer slot map once nothing sent under the older one is in flight.
    pub fn adopt_epoch(&mut self, epoch: u32) {
        if self.window.is_empty() {
            self.epoch = epoch;
            self.barrier = None;
            return;
        }
        if let Some((ticket, reached)) = self.barrier
            && self.window.reached(ticket)
        {
            self.epoch = reached;
            self.barrier = None;
        }
        if self.barrier.is_none() && self.epoch != epoch {
            self.barrier = Some((self.window.next_ticket(), epoch));
        }
    }

    /// How many commands of `slot` are in flight, if any of them is not on `pipe`; else 0.
    pub fn in_flight_elsewhere(&self, slot: u16, pipe: Key, own: u32) -> u32 {
        let legs = || self.window.waiting_legs().filter(|l| l.slot == slot);
        let count = legs().count() as u32;
        let here = legs().filter(|l| l.pipe == pipe).count() as u32;
        if count > here + own { count - own } else { 0 }
    }

    /// How many commands of `slot` wait for a reply.
    pub fn in_flight_of(&self, slot: u16) -> u32 {
        self.window.waiting_legs().filter(|l| l.slot == slot).count() as u32
    }

    /// True when it has said all it has to say and is to be closed.
    pub fn is_done(&self) -> bool {
        match self.closing {
            Closing::No => false,
            Closing::AfterReplies => self.window.is_empty() && self.out.unsent() == 0,
            Closing::Now => true,
        }
    }

    /// What it tracks, if it does.
    pub fn tracking(&self) -> Option<&Tracking> {
        self.streams.as_deref()?.tracking.as_ref()
    }

    /// What it tracks, if it does.
    pub fn tracking_mut(&mut self) -> Option<&mut Tracking> {
        self.streams.as_deref_mut()?.tracking.as_mut()
    }

    /// True when all it says goes over connections of its own.
    #[inline]
    pub fn tracks(&self) -> bool {
        self.streams.is_some() && self.version == Version::V3 && self.tracking().is_some()
    }

    /// What CLIENT CACHING puts before the next command, if anything.
    #[inline]
    pub fn take_preamble(&mut self) -> Option<&'static [u8]> {
        self.streams.as_ref()?;
        let tracks = self.version == Version::V3;
        let t = self.tracking_mut()?;
        let preamble = t.preamble().filter(|_| tracks);
        t.caching = None;
        preamble
    }

    /// Forgets streams nothing of which is in force.
    pub fn tidy_streams(&mut self) {
        if self.streams.as_deref().is_some_and(Streams::is_empty) {
            self.streams = None;
        }
    }

    /// True when a subscriber leaves too much unread: more than `most` bytes, or more than `slow`
    /// bytes for `patience` ms.
    pub fn is_too_slow(&mut self, now: u64, most: usize, slow: usize, patience: u64) -> bool {
        let unread = self.out.unsent();
        let Some(streams) = self.streams.as_deref_mut() else {
            return false;
        };
        let since = &mut streams.subscriptions.slow_since;
        if unread <= slow {
            *since = None;
            return false;
        }
        unread > most || now.saturating_sub(*since.get_or_insert(now)) >= patience
    }

    /// Counts anew what it holds; by how many bytes that changed.
    #[inline]
    pub fn recount(&mut self) -> isize {
        let now = self.holds_bytes();
        let before = std::mem::replace(&mut self.counted, now);
        now.wrapping_sub(before) as isize
    }

    /// Bytes held for it beside its requests that are on their way, which connections to nodes hold.
    #[inline]
    pub fn holds_bytes(&self) -> usize {
        let rare = match (&self.transaction, &self.fences) {
            (None, None) => 0,
            (t, f) => {
                t.as_deref().map_or(0, Transaction::len) + f.as_deref().map_or(0, Fences::bytes)
            }
        };
        self.input.len() + self.out.held() + self.window.holds_bytes() + rare
    }

    /// Gives idle memory back.
    pub fn shrink(&mut self) {
        self.window.shrink();
        if self.input.is_empty() && self.input.capacity() > 0 {
            self.input = BytesMut::new();
        }
    }
}
