//! What an IAM front can be told to do wrong, live, and what it has counted.
//!
//! Every setting acts from the next moment it is looked at: an accept, an AUTH, a command or a
//! reply. Faults with a count are used up one by one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// The quota error of Memorystore for Redis Cluster, as documented.
pub const IAM_EXHAUSTED: &str = "ERR (ERR_IAM_EXHAUSTED) Memorystore IAM authentication backend \
    quota exceeded. See https://cloud.google.com/memorystore/docs/cluster/manage-iam-auth#error_messages.";
/// The transient IAM error of Memorystore for Redis Cluster, as documented.
pub const IAM_OTHER: &str = "ERR (ERR_IAM_OTHER) Memorystore IAM authentication backend error. \
    See https://cloud.google.com/memorystore/docs/cluster/manage-iam-auth#error_messages.";
/// The quota error of Memorystore for Valkey, as documented.
pub const IAM_EXHAUSTED_SHORT: &str =
    "ERR (ERR_IAM_EXHAUSTED) Memorystore IAM authentication backend quota exceeded.";
/// Redis's answer to wrong credentials.
pub const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";
/// Redis's answer to a command before AUTH.
pub const NOAUTH: &str = "NOAUTH Authentication required.";

/// How an AUTH with a good token fails all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthFault {
    WrongPass,
    IamExhausted,
    /// In the words of Memorystore for Valkey.
    IamExhaustedShort,
    IamOther,
    /// Closes the connection instead of answering.
    Close,
    /// Never answers.
    Stall,
    /// Accepts, sends half of the answer and closes.
    HalfReply,
}

/// Which AUTHs of a connection a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthScope {
    /// All.
    Any,
    /// Those of connections that never were authenticated: no command can be under way.
    First,
    /// Those of connections that are in use already.
    Renewal,
}

impl AuthScope {
    fn strikes(self, first: bool) -> bool {
        match self {
            Self::Any => true,
            Self::First => first,
            Self::Renewal => !first,
        }
    }
}

/// What happens when a connection's authentication is older than its time to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExpiry {
    /// The connection is closed.
    Close,
    /// Every command is answered NOAUTH until the next good AUTH.
    NoAuth,
    /// Nothing: the connection goes on.
    Nothing,
}

/// Counts of one front since its start. Internal links between nodes are not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted.
    pub dials: u64,
    /// AUTH or HELLO … AUTH accepted, first and repeated.
    pub auths_ok: u64,
    /// AUTH or HELLO … AUTH refused.
    pub auths_failed: u64,
    /// Commands other than AUTH and HELLO.
    pub commands: u64,
    /// Commands other than AUTH, HELLO, QUIT and RESET that came before authentication.
    pub unauthenticated: u64,
    /// Commands answered NOAUTH because the connection's authentication had ended.
    pub rejected: u64,
    /// Connections open now.
    pub connections: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub dials: AtomicU64,
    pub auths_ok: AtomicU64,
    pub auths_failed: AtomicU64,
    pub commands: AtomicU64,
    pub unauthenticated: AtomicU64,
    pub rejected: AtomicU64,
    pub connections: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self) -> Counts {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Counts {
            dials: get(&self.dials),
            auths_ok: get(&self.auths_ok),
            auths_failed: get(&self.auths_failed),
            commands: get(&self.commands),
            unauthenticated: get(&self.unauthenticated),
            rejected: get(&self.rejected),
            connections: get(&self.connections),
        }
    }
}

pub(super) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[derive(Debug, Default)]
struct Settings {
    auth: Option<(AuthFault, AuthScope, u32)>,
    close_on_accept: u32,
    close_after_commands: Option<u64>,
    cut_mid_reply: u32,
    reply_delay: Duration,
    auth_ttl: Option<(Duration, OnExpiry)>,
    first_auth_counts: bool,
    expired_before: Option<Instant>,
    canned: HashMap<String, (Vec<u8>, u32)>,
}

/// The fault switches of one front; clones act on the same front.
#[derive(Debug, Clone)]
pub struct Faults {
    settings: Arc<Mutex<Settings>>,
    pub(super) refused: watch::Sender<bool>,
    pub(super) stalled: watch::Sender<bool>,
    pub(super) cuts: watch::Sender<u64>,
}

impl Faults {
    pub(super) fn new() -> Self {
        Self {
            settings: Arc::default(),
            refused: watch::Sender::new(false),
            stalled: watch::Sender::new(false),
            cuts: watch::Sender::new(0),
        }
    }

    /// The next `times` AUTHs fail so, whatever their token (`u32::MAX`: all of them).
    pub fn fail_auth(&self, fault: AuthFault, times: u32) {
        self.fail_auth_of(AuthScope::Any, fault, times);
    }

    /// Like [`Self::fail_auth`] for some AUTHs only.
    pub fn fail_auth_of(&self, scope: AuthScope, fault: AuthFault, times: u32) {
        self.lock().auth = Some((fault, scope, times));
    }

    /// AUTHs are judged by their token again.
    pub fn heal_auth(&self) {
        self.lock().auth = None;
    }

    /// The next `times` connections are closed as soon as they are accepted.
    pub fn close_on_accept(&self, times: u32) {
        self.lock().close_on_accept = times;
    }

    /// Every connection is closed when it sends its `n + 1`-th command, which is not forwarded.
    pub fn close_after_commands(&self, n: Option<u64>) {
        self.lock().close_after_commands = n;
    }

    /// The next `times` replies are sent by half, then their connection is closed.
    pub fn cut_mid_reply(&self, times: u32) {
        self.lock().cut_mid_reply = times;
    }

    /// Holds every reply back for this long.
    pub fn set_reply_delay(&self, delay: Duration) {
        self.lock().reply_delay = delay;
    }

    /// Lifetime of a connection's authentication, and what happens at its end.
    pub fn set_auth_ttl(&self, ttl: Option<(Duration, OnExpiry)>) {
        self.lock().auth_ttl = ttl;
    }

    /// While true a repeated AUTH does not prolong a live authentication: its lifetime runs from the
    /// connection's first AUTH. What Memorystore does is not published.
    pub fn set_first_auth_counts(&self, first: bool) {
        self.lock().first_auth_counts = first;
    }

    /// Ends the authentication of all connections that are open now: each answers NOAUTH until its
    /// next good AUTH.
    pub fn expire_all(&self) {
        self.lock().expired_before = Some(Instant::now());
    }

    /// The next `times` commands called `name` (`NAME` or `NAME SUBCOMMAND`) are answered with the
    /// error `text` (no leading dash), in their place in the order, and are not forwarded.
    pub fn answer_error(&self, name: &str, text: &str, times: u32) {
        self.answer(name, format!("-{text}\r\n").as_bytes(), times);
    }

    /// Like [`Self::answer_error`] with any reply bytes.
    pub fn answer(&self, name: &str, reply: &[u8], times: u32) {
        self.lock().canned.insert(name.to_ascii_uppercase(), (reply.to_vec(), times));
    }

    /// Refuses new dials (the port is closed) or listens again.
    pub fn set_refused(&self, refused: bool) {
        self.refused.send_replace(refused);
    }

    /// Accepts, reads nothing and answers nothing while true; what was held back flows after.
    pub fn set_stalled(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    /// Closes all connections that are open now.
    pub fn close_all(&self) {
        self.cuts.send_modify(|n| *n += 1);
    }

    pub(super) fn take_auth(&self, first: bool) -> Option<AuthFault> {
        let mut settings = self.lock();
        let (fault, scope, left) = settings.auth.as_mut()?;
        let fault = *fault;
        if !scope.strikes(first) {
            return None;
        }
        if !take_one(left) {
            settings.auth = None;
            return None;
        }
        Some(fault)
    }

    pub(super) fn take_close_on_accept(&self) -> bool {
        take_one(&mut self.lock().close_on_accept)
    }

    pub(super) fn take_cut_mid_reply(&self) -> bool {
        take_one(&mut self.lock().cut_mid_reply)
    }

    pub(super) fn take_canned(&self, name: &str) -> Option<Vec<u8>> {
        let mut settings = self.lock();
        let (reply, left) = settings.canned.get_mut(name)?;
        take_one(left).then(|| reply.clone())
    }

    pub(super) fn command_limit(&self) -> Option<u64> {
        self.lock().close_after_commands
    }

    pub(super) fn reply_delay(&self) -> Duration {
        self.lock().reply_delay
    }

    pub(super) fn auth_ttl(&self) -> Option<(Duration, OnExpiry)> {
        self.lock().auth_ttl
    }

    pub(super) fn first_auth_counts(&self) -> bool {
        self.lock().first_auth_counts
    }

    /// Whether a connection last authenticated at `at` must be answered NOAUTH.
    pub(super) fn has_expired(&self, at: Option<Instant>) -> bool {
        let settings = self.lock();
        let ended = |at: Instant| {
            settings.expired_before.is_some_and(|end| at <= end)
                || matches!(settings.auth_ttl, Some((ttl, OnExpiry::NoAuth)) if at.elapsed() >= ttl)
        };
        at.is_none_or(ended)
    }

    fn lock(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Uses one up; `u32::MAX` never ends.
fn take_one(left: &mut u32) -> bool {
    match *left {
        0 => false,
        u32::MAX => true,
        _ => {
            *left -= 1;
            true
        }
    }
}
