//! Connections come of age: authentication is renewed in band, and the connection itself is replaced.
//!
//! A connection says AUTH again with the newest token some time after that was obtained, spread over
//! a part of the token's life; a refused AUTH leaves the old authentication in force and is tried
//! again with backoff. At a jittered age every connection is replaced: the next one is made ready
//! before the old one takes no more commands; how subscriptions follow is `handover`'s to say. What
//! a blocking command occupies is not renewed: that command is sent with a shorter timeout, and
//! again for the rest. Invariant: dials and AUTHs go through one token bucket a worker, dials first;
//! nothing here delays a command longer than a round trip.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use crate::credentials::Credential;
use crate::key::Key;
use crate::upstream::pipe::{Duty, Pipe, State};

use super::{Alarm, Hub};

/// Renewals are spread over this part of a token's life …
const SPREAD: f64 = 0.25;

/// … or over this (ms), if the credential does not expire.
const SPREAD_STATIC_MS: u64 = 5_000;

/// A connection's age is jittered between this part of the longest and all of it.
const AGE_FROM: f64 = 0.8;

/// A command blocks for a time between this part of what its connection has left and all of it.
const BLOCK_FROM: f64 = 0.7;

/// A borrowed connection with less than this part of its life left is not lent to a command that
/// blocks; nor does a command block for less than this part of a token's life.
const LENDABLE: u64 = 4;

impl Hub {
    fn max_age(&self) -> Option<u64> {
        let age = self.settings.max_connection_age.as_millis() as u64;
        (age > 0).then_some(age)
    }

    /// A connection became ready: its life is planned.
    pub(super) fn plan_life(&mut self, key: Key) {
        let (now, random) = (self.now, self.rng.f64());
        let age =
            self.max_age().map(|age| (age as f64 * (AGE_FROM + (1.0 - AGE_FROM) * random)) as u64);
        let generation = self.credential().map_or(0, |c| c.generation);
        let Some(p) = self.pipes.get_mut(key) else {
            return;
        };
        p.authenticated_at = now;
        p.renew_at = u64::MAX;
        p.retire_at = age.map_or(u64::MAX, |age| now + age.max(1));
        let (retire_at, late) = (p.retire_at, p.credential != 0 && p.credential < generation);
        if retire_at != u64::MAX {
            self.set_alarm(retire_at, Alarm::Life(key));
        }
        if late {
            // A newer token came while it was being made.
            self.plan_renewal(key);
        }
    }

    /// A new credential: every connection is to use it, in time.
    pub(super) fn plan_renewals(&mut self) {
        let Some(generation) = self.credential().map(|c| c.generation) else {
            return;
        };
        // Also one that was refused an older credential and waits for long because of that.
        let soon = self.now + self.renewal_spread();
        let older = |p: &Pipe| {
            matches!(p.state, State::Ready)
                && p.credential != 0
                && p.credential < generation
                && p.renew_at > soon
        };
        let due: Vec<Key> = self.pipes.iter().filter(|(_, p)| older(p)).map(|(k, _)| k).collect();
        for key in due {
            self.plan_renewal(key);
        }
    }

    /// For how long (ms) the renewals of one new credential are spread.
    fn renewal_spread(&self) -> u64 {
        self.credential()
            .and_then(|c| life(c))
            .map_or(SPREAD_STATIC_MS, |life| (life.as_millis() as f64 * SPREAD) as u64)
    }

    fn plan_renewal(&mut self, key: Key) {
        let spread = self.renewal_spread();
        let at = self.now + self.rng.u64(0..=spread);
        self.renew_at(key, at);
    }

    pub(super) fn renew_at(&mut self, key: Key, at: u64) {
        if let Some(p) = self.pipes.get_mut(key) {
            p.renew_at = at;
            self.set_alarm(at, Alarm::Life(key));
        }
    }

    /// The time of a connection to be renewed or replaced may have come.
    pub(super) fn come_of_age(&mut self, key: Key) {
        let now = self.now;
        let Some(p) = self.pipes.get(key) else {
            return;
        };
        if !matches!(p.state, State::Ready) || p.retiring {
            return;
        }
        if p.retire_at <= now {
            self.replace(key);
        } else if p.renew_at <= now && p.duty != Duty::Lease {
            self.renew(key);
        } else if p.renew_at <= now {
            // In use by a blocking command, it is renewed when that is over.
            let blocked = p.in_flight() > 0 && p.silent_until > now;
            if !blocked {
                self.renew(key);
            }
        }
    }

    /// Says AUTH again, when the bucket allows it.
    pub(super) fn renew(&mut self, key: Key) {
        let now = self.now;
        let generation = self.credential().map_or(0, |c| c.generation);
        let Some(p) = self.pipes.get_mut(key) else {
            return;
        };
        if p.credential == 0 || p.reauthenticating {
            return;
        }
        if let Duty::Monitor(_) = p.duty {
            // Its replies are lines of their own; it is made anew when its node ends it.
            p.renew_at = u64::MAX;
            return;
        }
        if generation <= p.credential {
            p.renew_at = u64::MAX;
            return;
        }
        let at = usize::from(p.node);
        let node_says = self.nodes.get(at).map_or(0, |n| n.next_dial());
        if node_says > now {
            // Its AUTHs fail at the moment: after the others that wait, not with them.
            let at = node_says + self.rng.u64(0..=node_says - now);
            return self.renew_at(key, at);
        }
        match self.pace.take(now) {
            Ok(()) => {
                p.renew_at = u64::MAX;
                self.counters.reauths += 1;
                if let Some(node) = self.nodes.get_mut(at) {
                    node.attempt(now);
                }
                self.reauthenticate(key);
            }
            Err(at) => self.renew_at(key, at),
        }
    }

    /// Makes the connection that follows an old one; the old one serves until that is ready.
    fn replace(&mut self, key: Key) {
        let now = self.now;
        let Some(p) = self.pipes.get_mut(key) else {
            return;
        };
        p.retire_at = u64::MAX;
        let (node, kind, duty, preamble) = (p.node, p.kind, p.duty, p.preamble.clone());
        match duty {
            Duty::Lease => {
                // Idle: nobody waits for it. In use: it is closed when it comes back.
                let idle = self.nodes[usize::from(node)].idle.iter().any(|(_, k)| *k == key);
                if let Some(p) = self.pipes.get_mut(key) {
                    p.retire_at = now;
                }
                if idle {
                    self.counters.retirements += 1;
                    self.drop_pipe(key, "it reached --max-connection-age");
                }
            }
            // It opens another by itself.
            Duty::Monitor(_) => self.drop_pipe(key, "it reached --max-connection-age"),
            Duty::Subscriber if !self.topics.carries(key) => {
                self.counters.retirements += 1;
                self.drop_pipe(key, "it reached --max-connection-age");
            }
            Duty::Shared | Duty::Tracking(_) | Duty::Subscriber => {
                let next = self.private_pipe(node, kind, duty, preamble);
                if let Some(p) = self.pipes.get_mut(next) {
                    p.replaces = Some(key);
                }
            }
        }
    }

    /// A connection that replaces another is ready: commands go to it from now on.
    pub(super) fn take_over(&mut self, key: Key) {
        let Some((old, node, kind, duty)) = self.pipes.get_mut(key).and_then(|p| {
            let old = p.replaces.take()?;
            Some((old, p.node, p.kind, p.duty))
        }) else {
            return;
        };
        let mut in_place = false;
        match duty {
            Duty::Subscriber => return self.begin_handover(old, key, node),
            Duty::Shared => {
                let node = &mut self.nodes[usize::from(node)];
                let current = node.pipe(kind).unwrap_or(Key::NONE);
                if current == old || self.pipes.get(current).is_none() {
                    node.set_pipe(kind, key);
                    in_place = true;
                }
            }
            Duty::Tracking(session) => {
                if let Some(t) = self.sessions.get_mut(session).and_then(|s| s.tracking_mut())
                    && let Some(at) = t.pipes.iter_mut().find(|(n, p)| *n == node && *p == old)
                {
                    at.1 = key;
                    in_place = true;
                }
            }
            Duty::Lease | Duty::Monitor(_) => {}
        }
        if !in_place {
            // The old one was lost meanwhile, and another took its place.
            return self.drop_pipe(key, "it is not needed");
        }
        let Some(p) = self.pipes.get_mut(old) else {
            return;
        };
        p.retiring = true;
        let is_idle = p.in_flight() == 0;
        self.retiring += 1;
        self.counters.pipes_retiring += 1;
        self.counters.retirements += 1;
        if is_idle {
            self.drop_pipe(old, "it reached --max-connection-age");
        }
    }

    /// The connection that was to replace `old` did not come about: try again later.
    pub(super) fn replacement_failed(&mut self, old: Key) {
        let Some(p) = self.pipes.get(old) else {
            return;
        };
        let node = p.node;
        let at = self.nodes.get(usize::from(node)).map_or(0, |n| n.next_dial());
        let at =
            at.max(self.now + self.settings.auth_backoff_min.as_millis() as u64).max(self.now + 1);
        if let Some(p) = self.pipes.get_mut(old) {
            p.retire_at = at;
        }
        self.set_alarm(at, Alarm::Life(old));
    }

    /// Until when a command may block on this connection (ms of the worker's clock). Jittered, so that
    /// commands that began to block together do not all come back, and look for connections, together.
    pub(super) fn may_block_until(&mut self, lease: Key) -> u64 {
        let random = self.rng.f64();
        let ends = self.life_ends(lease);
        let left = ends.saturating_sub(self.now) as f64;
        match ends {
            u64::MAX => ends,
            _ => self.now + (left * (BLOCK_FROM + (1.0 - BLOCK_FROM) * random)) as u64,
        }
    }

    /// Until when (ms) this connection surely lives, and the newest token with it.
    fn life_ends(&self, lease: Key) -> u64 {
        let by_age = self.max_age().map(|age| (age as f64 * AGE_FROM) as u64);
        let by_token = self.credential().and_then(|c| life(c)).map(|l| l.as_millis() as u64);
        let Some(p) = self.pipes.get(lease) else {
            return u64::MAX;
        };
        let age_ends = match (&p.state, by_age) {
            (State::Ready, _) => p.retire_at,
            (_, Some(age)) => self.now + age,
            (_, None) => u64::MAX,
        };
        // While no newer one comes, a turn is a part of its life: many more are left before the server
        // ends the connection.
        let token_ends = by_token.map_or(u64::MAX, |life| {
            let since = if p.authenticated_at > 0 { p.authenticated_at } else { self.now };
            (since + life).max(self.now + life / LENDABLE)
        });
        age_ends.min(token_ends)
    }

    /// True when a lease is too old to be lent.
    pub(super) fn is_too_old(&self, lease: Key) -> bool {
        let (Some(age), Some(p)) = (self.max_age(), self.pipes.get(lease)) else {
            return false;
        };
        matches!(p.state, State::Ready) && p.retire_at.saturating_sub(self.now) < age / LENDABLE
    }

    /// A lease comes back: renewed if it is due, closed if it is too old. False: it is gone.
    pub(super) fn renew_lease(&mut self, key: Key) -> bool {
        let now = self.now;
        let Some(p) = self.pipes.get(key) else {
            return false;
        };
        if p.retire_at <= now {
            self.counters.retirements += 1;
            self.drop_pipe(key, "it reached --max-connection-age");
            return false;
        }
        if p.renew_at != u64::MAX {
            // There is a newer credential: who borrows the connection next may keep it for long.
            self.renew(key);
        }
        true
    }
}

/// How long a token lives from when it was obtained; `None`: for ever.
fn life(c: &Credential) -> Option<Duration> {
    c.expires_at.map(|at| at.duration_since(c.obtained_at).unwrap_or_default())
}
