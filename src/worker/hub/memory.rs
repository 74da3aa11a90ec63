//! What the worker holds in memory for its clients, and which of them go when that is too much.
//!
//! Counted are bytes: requests until they are answered, replies until they are read, whatever is
//! there in part or waits for its turn. Sessions and pipes are counted when they were written to, once
//! a turn, and sessions that kept something of what was read: not once a command. Invariant: `held` is the sum of what was last counted of each. As with
//! Redis's `maxmemory-clients` it is the client with the most that is let go; one that holds less
//! than [`HEAVY`] never is. It does not know of other workers: whoever owns the limit says how much
//! must go.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::HashMap;

use crate::buffer::ByteQueue;
use crate::key::Key;
use crate::resp::encode;
use crate::session::core::{Closing, Session, hold};

use super::{Alarm, Hub};

/// A client that holds less than this (bytes) is left alone.
const HEAVY: usize = 64 * 1024;

/// For so long (ms) what was let go counts as freed: requests leave memory when nodes answer them.
const PATIENCE: u64 = 100;

/// Idle clients are looked for so often (ms), at least and at most.
const SWEEPS: (u64, u64) = (50, 1000);

const TOO_MUCH: &str = "ERR closing connection: the proxy buffers more than --max-buffer-total, and of its clients this \
     one holds most; send less at once, read replies sooner, or raise the limit";

/// See the module header.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Bytes counted.
    held: usize,
    /// Bytes of clients that were let go lately.
    leaving: usize,
    /// Until when they count (ms).
    leaving_until: u64,
}

/// A client that was let go, for the log.
#[derive(Debug, PartialEq, Eq)]
pub struct Relieved {
    /// Where it came from.
    pub client: String,
    /// What it held (bytes).
    pub bytes: usize,
}

impl Hub {
    /// Bytes held for clients, as last counted.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        self.memory.held
    }

    /// Counts a session that was touched.
    #[inline]
    pub fn weigh_session(&mut self, key: Key) {
        if let Some(s) = self.sessions.get_mut(key) {
            let change = s.recount();
            self.note_held(change);
        }
    }

    /// Counts a pipe that was touched.
    #[inline]
    pub fn weigh_pipe(&mut self, key: Key) {
        if let Some(p) = self.pipes.get_mut(key) {
            let change = p.recount();
            self.note_held(change);
        }
    }

    /// Notes what a session or pipe said when it was counted.
    #[inline]
    pub fn note_held(&mut self, change: isize) {
        self.memory.held = self.memory.held.wrapping_add_signed(change);
    }

    /// What held so much is gone.
    pub(super) fn forget_weight(&mut self, counted: usize) {
        self.memory.held -= counted;
    }

    /// Lets go of the clients that hold most until `excess` bytes are covered; tells whom.
    pub fn relieve(&mut self, excess: usize) -> Vec<Relieved> {
        if self.now >= self.memory.leaving_until {
            self.memory.leaving = 0;
        }
        let mut excess = excess.saturating_sub(self.memory.leaving);
        let mut gone = Vec::new();
        if excess == 0 {
            return gone;
        }
        for (bytes, key) in self.heaviest() {
            gone.extend(self.send_away(key, bytes));
            self.memory.leaving += bytes;
            excess = excess.saturating_sub(bytes);
            if excess == 0 {
                break;
            }
        }
        if !gone.is_empty() {
            self.memory.leaving_until = self.now + PATIENCE;
        }
        gone
    }

    /// The clients that hold much, with the bytes, most first.
    fn heaviest(&self) -> Vec<(usize, Key)> {
        let mut arriving: HashMap<Key, usize> = HashMap::new();
        for (_, pipe) in self.pipes.iter() {
            let (bytes, session) = pipe.arriving();
            if bytes > 0 {
                *arriving.entry(session).or_default() += bytes;
            }
        }
        let weight = |key: Key, s: &Session| {
            let coming = arriving.get(&key).copied().unwrap_or_default();
            s.holds_bytes() + s.window.request_bytes() + coming
        };
        let stays = self.sessions.iter().filter(|(_, s)| s.closing != Closing::Now);
        let mut all: Vec<(usize, Key)> =
            stays.map(|(key, s)| (weight(key, s), key)).filter(|(n, _)| *n >= HEAVY).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all
    }

    /// Ends a client's session. Who waits for no reply is told why; who has replies unread, or due,
    /// would take the words for one of them.
    fn send_away(&mut self, key: Key, bytes: usize) -> Option<Relieved> {
        let s = self.sessions.get_mut(key)?;
        s.input = bytes::BytesMut::new();
        s.transaction = None;
        if s.window.is_empty() && s.out.unsent() == 0 {
            let mut said = Vec::new();
            encode::error(&mut said, TOO_MUCH);
            s.answer(&said);
            s.closing = Closing::AfterReplies;
        } else {
            s.out = ByteQueue::default();
            s.closing = Closing::Now;
        }
        let client = s.profile.peer.clone();
        self.counters.closed_buffer_total += 1;
        self.weigh_session(key);
        self.mark_session(key);
        Some(Relieved { client, bytes })
    }

    /// Begins to look for idle clients, if there is a limit.
    pub(super) fn watch_idle(&mut self) {
        if !self.sweeping
            && let Some(timeout) = self.settings.client_idle_timeout
        {
            self.sweeping = true;
            let period = (timeout.as_millis() as u64 / 8).clamp(SWEEPS.0, SWEEPS.1);
            self.set_alarm(self.now + period, Alarm::Sweep);
        }
    }

    /// Ends the sessions of clients that have said and been told nothing for too long. As with Redis's
    /// `timeout`, those that wait for something are not idle: commands without reply, blocking ones
    /// among them, commands held by CLIENT PAUSE, subscriptions, MONITOR, and tracking.
    pub(super) fn sweep_idle(&mut self) {
        self.sweeping = false;
        let Some(timeout) = self.settings.client_idle_timeout else {
            return;
        };
        let now = self.now;
        let idle = |s: &Session| {
            s.window.is_empty()
                && s.holds & !hold::UNAUTHENTICATED == 0
                && s.streams.is_none()
                && s.closing == Closing::No
                && u128::from(now.saturating_sub(s.active_at)) >= timeout.as_millis()
        };
        let over: Vec<Key> =
            self.sessions.iter().filter(|(_, s)| idle(s)).map(|(k, _)| k).collect();
        for key in over {
            if let Some(s) = self.sessions.get_mut(key) {
                // Nothing is said, as in Redis: the client would take it for the reply to what it says
                // next.
                s.closing = Closing::Now;
                self.counters.closed_idle += 1;
            }
            self.mark_session(key);
        }
        if self.session_count() > 0 {
            self.watch_idle();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::wait_tests::{Bench, settings};
    use super::*;
    use crate::session::core::Profile;

    #[test]
    fn what_is_held_is_counted_and_forgotten() {
        let mut b = Bench::new();
        assert_eq!(b.hub.held_bytes(), 0);
        let half = vec![b'x'; 5000];
        b.hub.client_data(b.client, b"*2\r\n$3\r\nGET\r\n$9000\r\n");
        b.hub.client_data(b.client, &half);
        assert_eq!(b.hub.held_bytes(), 5000 + 20);
        b.hub.client_gone(b.client);
        assert_eq!(b.hub.held_bytes(), 0);
    }

    #[test]
    fn the_heaviest_goes_and_hears_why() {
        let mut b = Bench::new();
        let other = b.hub.client_open(Profile::default());
        let small = b.hub.client_open(Profile::default());
        for (client, n) in [(b.client, 200_000), (other, 100_000), (small, HEAVY - 100)] {
            b.hub.client_data(client, b"*2\r\n$3\r\nGET\r\n$900000\r\n");
            b.hub.client_data(client, &vec![b'x'; n]);
        }
        let gone = b.hub.relieve(150_000);
        assert_eq!(gone.iter().map(|g| g.bytes).collect::<Vec<_>>(), [200_022]);
        let s = b.hub.session_mut(b.client).expect("still there to hear it");
        assert_eq!(s.closing, Closing::AfterReplies);
        assert!(s.out.unsent() > 0);
        assert!(b.hub.held_bytes() < 200_000, "{}", b.hub.held_bytes());
        // For a moment what it held counts as gone; then the next goes, and never the small one.
        assert!(b.hub.relieve(150_000).is_empty());
        b.hub.set_now(PATIENCE);
        assert_eq!(b.hub.relieve(150_000).len(), 1);
        b.hub.set_now(2 * PATIENCE);
        assert!(b.hub.relieve(150_000).is_empty());
        assert_eq!(b.hub.session_mut(small).map(|s| s.closing), Some(Closing::No));
        assert_eq!(b.hub.counters.closed_buffer_total, 2);
    }

    /// Clients of a worker that lets go of idle ones after four seconds, and commands wait a minute.
    fn impatient(clients: usize) -> (Hub, Vec<Key>) {
        let mut hub = Hub::new(
            super::super::Settings {
                client_idle_timeout: Some(Duration::from_secs(4)),
                op_timeout: Duration::from_secs(60),
                ..settings()
            },
            7,
        );
        let clients = (0..clients).map(|_| hub.client_open(Profile::default())).collect();
        (hub, clients)
    }

    fn pass(hub: &mut Hub, ms: u64) {
        for now in (0..=ms).step_by(100) {
            hub.set_now(now);
            hub.on_time();
        }
    }

    const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";

    #[test]
    fn idle_clients_end_and_waiting_ones_do_not() {
        let (mut hub, clients) = impatient(2);
        let (idle, waits) = (clients[0], clients[1]);
        hub.client_data(waits, GET);
        pass(&mut hub, 3900);
        assert_eq!(hub.session_mut(idle).map(|s| s.closing), Some(Closing::No));
        pass(&mut hub, 4600);
        assert_eq!(hub.session_mut(idle).map(|s| s.closing), Some(Closing::Now));
        assert_eq!(hub.session_mut(waits).map(|s| s.closing), Some(Closing::No));
        assert_eq!(hub.counters.closed_idle, 1);
    }

    #[test]
    fn whose_command_is_held_by_a_pause_is_not_idle() {
        let (mut hub, clients) = impatient(2);
        let (asks, held) = (clients[0], clients[1]);
        hub.client_data(asks, b"CLIENT PAUSE 60000\r\n");
        hub.client_data(held, GET);
        assert_ne!(hub.session_mut(held).map(|s| s.holds), Some(0), "it is held");
        pass(&mut hub, 4600);
        assert_eq!(hub.session_mut(asks).map(|s| s.closing), Some(Closing::Now));
        assert_eq!(hub.session_mut(held).map(|s| s.closing), Some(Closing::No));
    }
}
