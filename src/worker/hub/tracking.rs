//! CLIENT TRACKING: a session that tracks has a RESP3 connection of its own to each node.
//!
//! All it says to a node goes that way, so the node itself remembers what it read and what it
//! changed. Invariant: after anything that may have lost an invalidation (a lost connection, a node
//! that joined late, a read on a lease) the client is told to forget everything it caches, as a
//! server says after FLUSHALL; so it may forget too much, never too little.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use bytes::Bytes;

use crate::command::spec::Row;
use crate::key::Key;
use crate::resp::Version;
use crate::resp::request::Request;
use crate::session::core::Closing;
use crate::session::local;
use crate::session::tracking::{self, Asked, Options, Tracking};
use crate::session::window::Reply;
use crate::upstream::pipe::{Duty, Entry, Purpose, State};

use super::Hub;
use super::request::entry;

/// What a server says when all keys are gone.
const FORGET_ALL: &[u8] = b">2\r\n$10\r\ninvalidate\r\n_\r\n";

impl Hub {
    /// CLIENT TRACKING. False: the session must wait first.
    pub(super) fn client_tracking(
        &mut self,
        key: Key,
        row: &'static Row,
        request: &Request<'_>,
    ) -> bool {
        if !local::arity_fits(row, request.len()) {
            self.refuse(key, &local::wrong_arity(row.name));
            return true;
        }
        if self.must_be_alone(key) {
            return false;
        }
        let Some(s) = self.sessions.get(key) else {
            return true;
        };
        let version = s.version;
        let now = s.tracking().map(|t| &t.options);
        let exists =
            |id: i64| self.sessions.iter().any(|(_, s)| i64::try_from(s.profile.id) == Ok(id));
        match tracking::parse(request, now, exists) {
            Err(text) => self.refuse(key, &text),
            Ok(Asked::Off) => {
                self.end_tracking(key);
                self.ok(key);
            }
            Ok(Asked::On(options)) => self.track(key, options, version),
        }
        true
    }

    /// CLIENT CACHING.
    pub(super) fn client_caching(&mut self, key: Key, row: &'static Row, request: &Request<'_>) {
        if !local::arity_fits(row, request.len()) {
            return self.refuse(key, &local::wrong_arity(row.name));
        }
        let streams = self.sessions.get_mut(key).and_then(|s| s.streams.as_deref_mut());
        match streams.and_then(|x| x.tracking.as_mut()) {
            Some(t) if t.options.optin || t.options.optout => match t.cache_next(request.arg(2)) {
                Ok(()) => self.ok(key),
                Err(text) => self.refuse(key, text),
            },
            _ => self.refuse(
                key,
                "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT \
                 mode enabled",
            ),
        }
    }

    fn track(&mut self, key: Key, options: Options, version: Version) {
        let now = self.now;
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        let command = Bytes::from(options.command());
        let t = s.streams.get_or_insert_default().tracking.get_or_insert_default();
        t.options = options;
        let pipes = t.pipes.clone();
        if version == Version::V2 {
            // A server remembers it, and has no way to tell a RESP2 client anything.
            return self.ok(key);
        }
        t.starting = true;
        t.since = now;
        s.alone = true;
        for (_, pipe) in pipes {
            if let Some(p) = self.pipes.get_mut(pipe) {
                p.preamble = Some(command.clone());
                if matches!(p.state, State::Ready) {
                    let change = Entry { purpose: Purpose::Discard, ..entry(Key::NONE, 0, 0) };
                    p.push_bytes(change, command.clone(), now);
                }
            }
            self.mark_pipe(pipe);
        }
        if !self.trackers.contains(&key) {
            self.trackers.push(key);
        }
        self.start_ticking();
        self.start_listening();
        self.cover_tracker(key);
        self.tracking_ready(key);
    }

    /// Makes the connections a tracking session needs now: with BCAST to every primary, else to one,
    /// which shows whether the servers permit it; the others are made when something is read there.
    pub(super) fn cover_tracker(&mut self, key: Key) {
        let Some(s) = self.sessions.get(key).filter(|s| s.version == Version::V3) else {
            return;
        };
        let Some(t) = s.tracking() else {
            return;
        };
        let wanted: Vec<u16> = if t.options.bcast {
            self.primaries.clone()
        } else if t.starting && t.pipes.is_empty() {
            self.any_node(key).into_iter().collect()
        } else {
            Vec::new()
        };
        for node in wanted {
            self.tracking_pipe(key, node);
        }
    }

    /// The session's own pipe to `node`.
    pub(super) fn tracking_pipe(&mut self, session: Key, node: u16) -> Key {
        let Some(s) = self.sessions.get(session) else {
            return Key::NONE;
        };
        let kind = s.kind();
        let Some(t) = s.tracking() else {
            return Key::NONE;
        };
        if let Some(&(_, pipe)) = t.pipes.iter().find(|(n, _)| *n == node) {
            return pipe;
        }
        let preamble = Bytes::from(t.options.command());
        let duty = Duty::Tracking(session);
        let pipe = self.private_pipe(node, kind, duty, Some(preamble));
        if let Some(t) = self.sessions.get_mut(session).and_then(|s| s.tracking_mut()) {
            t.pipes.push((node, pipe));
        }
        pipe
    }

    /// The pipe for a command of a tracking session.
    pub(super) fn tracking_pipe_for(&mut self, session: Key, slot: u16) -> Option<Key> {
        let node = self.node_for(session, slot)?;
        Some(self.tracking_pipe(session, node))
    }

    /// A connection of a tracking session may be ready: answers CLIENT TRACKING when it was waited
    /// for; else what was changed before it was there is unknown.
    pub(super) fn tracking_ready(&mut self, key: Key) {
        let Some(s) = self.sessions.get(key) else {
            return;
        };
        let Some(t) = s.tracking() else {
            return;
        };
        if !t.starting {
            if t.options.bcast {
                self.hear(key, Reply::Borrowed(FORGET_ALL));
            }
            return;
        }
        let is_ready =
            |pipe: &Key| self.pipes.get(*pipe).is_some_and(|p| matches!(p.state, State::Ready));
        let covered = self.primaries.iter().all(|n| t.pipes.iter().any(|(node, _)| node == n));
        let all = !t.pipes.is_empty()
            && t.pipes.iter().all(|(_, pipe)| is_ready(pipe))
            && (covered || !t.options.bcast);
        if !all {
            return;
        }
        if let Some(t) = self.sessions.get_mut(key).and_then(|s| s.tracking_mut()) {
            t.starting = false;
        }
        self.ok(key);
        self.end_alone(key);
    }

    /// A node refuses to track: the client is told in the node's words.
    pub(super) fn tracking_refused(&mut self, key: Key, text: &str) {
        let starting =
            self.sessions.get(key).and_then(|s| s.tracking()).is_some_and(|t| t.starting);
        if starting {
            self.end_tracking(key);
            self.refuse(key, text);
            self.end_alone(key);
        }
    }

    /// A connection of a tracking session is gone.
    pub(super) fn tracking_lost(&mut self, session: Key, pipe: Key, carried: bool) {
        let Some(t) = self.sessions.get_mut(session).and_then(|s| s.tracking_mut()) else {
            return;
        };
        let was_its_own = t.pipes.iter().any(|(_, p)| *p == pipe);
        t.pipes.retain(|(_, p)| *p != pipe);
        if !was_its_own {
            return;
        }
        if carried {
            self.hear(session, Reply::Borrowed(FORGET_ALL));
        }
        // Not from here: the pipe is being taken apart.
        self.uncovered.push(session);
    }

    /// The session hears a push.
    pub(super) fn hear(&mut self, key: Key, push: Reply<'_>) {
        let limit = self.settings.max_client_output;
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        if s.out.unsent() > limit {
            if s.closing != Closing::Now {
                s.closing = Closing::Now;
                self.counters.closed_output += 1;
            }
        } else {
            match push {
                Reply::Borrowed(bytes) => s.out.push(bytes),
                Reply::Shared(bytes) => s.out.push_shared(bytes),
            }
        }
        self.mark_session(key);
    }

    /// A tracking session read something on a connection that is not its own: it must not cache it.
    pub(super) fn forget_cached(&mut self, key: Key) {
        let tracks = self.sessions.get(key).is_some_and(|s| s.tracks());
        if tracks {
            self.hear(key, Reply::Borrowed(FORGET_ALL));
        }
    }

    /// The session tracks no more.
    pub(super) fn end_tracking(&mut self, key: Key) {
        self.trackers.retain(|k| *k != key);
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        let tracking = s.streams.as_deref_mut().and_then(|x| x.tracking.take());
        s.tidy_streams();
        if let Some(t) = tracking {
            self.drop_tracking_pipes(t);
        }
    }

    pub(super) fn drop_tracking_pipes(&mut self, tracking: Tracking) {
        for (_, pipe) in tracking.pipes {
            self.drop_pipe(pipe, "its client tracks no more");
        }
    }

    /// HELLO may have changed the protocol of a session that tracks.
    pub(super) fn tracking_after_hello(&mut self, key: Key) {
        let version = self.sessions.get(key).map_or(Version::V2, |s| s.version);
        let Some(t) = self.sessions.get_mut(key).and_then(|s| s.tracking_mut()) else {
            return;
        };
        if version == Version::V2 {
            let pipes = std::mem::take(&mut t.pipes);
            self.trackers.retain(|k| *k != key);
            for (_, pipe) in pipes {
                self.drop_pipe(pipe, "its client speaks RESP2 now");
            }
        } else if !self.trackers.contains(&key) {
            self.trackers.push(key);
            self.start_listening();
            self.cover_tracker(key);
        }
    }

    /// Every session that tracks all keys has a connection to every primary.
    pub(super) fn cover_trackers(&mut self) {
        for key in self.trackers.clone() {
            self.cover_tracker(key);
        }
    }
}
