//! Nodes that cannot be reached or refuse AUTH: who tries again, when, and what becomes of the rest.
//!
//! Invariant: a node that failed is tried by one connection at a time, however many wait for it, and
//! failures that were under way together count once; the first success lets all go. A connection
//! whose authentication ended and is not given anew takes no more commands, and hears the node out:
//! every command in flight on it is told to be rejected, so none is left that may have been executed.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use crate::cluster::refresh::Reason;
use crate::credentials::CredentialState;
use crate::key::Key;
use crate::upstream::handshake::{Refusal, RefusalKind};
use crate::upstream::pipe::{Duty, State};

use super::nodes::Node;
use super::{Hub, Note};

/// For so long (ms) the others wait for the one that tries; a node that keeps silent must not hold
/// them up for all of `--connect-timeout`.
const PROBE_MS: u64 = 1000;

/// Longest wait before a node that could not even be reached is dialled again: that costs IAM
/// nothing, and a network that was gone for a minute is to be noticed within seconds.
const UNREACHED: Duration = Duration::from_secs(2);

impl Node {
    /// A dial or an AUTH begins; after a failure it goes alone.
    pub(super) fn attempt(&mut self, now: u64) {
        if self.backoff.failures() > 0 {
            self.probing = true;
            self.next_dial = now + PROBE_MS;
        }
    }

    /// A dial or an AUTH failed: nobody tries for a while, which is at most `most`.
    pub(super) fn fail(&mut self, now: u64, random: f64, cause: &str, most: Duration) {
        self.last_error = Some(cause.into());
        if self.next_dial > now && !std::mem::take(&mut self.probing) {
            // It began before another failed, and says nothing new: many that fail together must not
            // make the wait long.
            return;
        }
        self.next_dial = now + self.backoff.fail_within(random, most).as_millis() as u64;
    }

    /// A connection is authenticated. True: others may be waiting for this.
    fn succeed(&mut self) -> bool {
        let failed = self.backoff.failures() > 0 || self.next_dial > 0;
        self.backoff.succeed();
        self.next_dial = 0;
        self.probing = false;
        self.last_error = None;
        self.refused_credential = 0;
        failed
    }
}

impl Hub {
    /// The source of credentials failed and the last one, if any, has expired.
    pub(super) fn has_no_credential(&self) -> bool {
        matches!(self.credential, CredentialState::Failed { .. })
    }

    /// Which nodes are left alone for a while; asked when a node fails and when alarms ring.
    pub(super) fn count_backoffs(&mut self) {
        let now = self.now;
        let resting = || self.nodes.iter().filter(|n| !n.may_dial(now));
        let count = resting().count() as u64;
        // Nearly always none, before and now.
        if count > 0 || self.counters.nodes_in_backoff > 0 {
            self.work.resting = Some(resting().map(|n| n.addr.clone()).collect());
        }
        self.counters.nodes_in_backoff = count;
    }

    /// The node of this connection answers and accepts the credential.
    pub(super) fn node_is_well(&mut self, key: Key) {
        let Some(at) = self.pipes.get(key).map(|p| p.node) else {
            return;
        };
        let Some(node) = self.nodes.get_mut(usize::from(at)) else {
            return;
        };
        let failed = node.succeed();
        if std::mem::replace(&mut node.reported, false) {
            self.work.notes.push(Note { node: node.addr.clone(), failing: None });
        }
        if failed {
            self.count_backoffs();
            let waits = |p: &crate::upstream::pipe::Pipe| {
                p.node == at && matches!(p.state, State::Backoff) && !p.queued
            };
            let waiting: Vec<Key> =
                self.pipes.iter().filter(|(_, p)| waits(p)).map(|(k, _)| k).collect();
            waiting.into_iter().for_each(|key| self.try_dial(key));
        }
    }

    /// The node of this connection failed, which makes everybody wait; the operator is told once.
    fn node_fails(&mut self, key: Key, cause: &str, most: Duration) {
        let (random, now) = (self.rng.f64(), self.now);
        let Some(node) = self.pipes.get(key).map(|p| p.node) else {
            return;
        };
        if let Some(node) = self.nodes.get_mut(usize::from(node)) {
            node.fail(now, random, cause, most);
            if !std::mem::replace(&mut node.reported, true) {
                self.work.notes.push(Note { node: node.addr.clone(), failing: Some(cause.into()) });
            }
        }
        self.count_backoffs();
    }

    /// The credential of this generation met a WRONGPASS: another one is wanted, and is tried at once.
    fn wrongpass(&mut self, key: Key, generation: u64) {
        self.counters.auth_wrongpass += 1;
        self.work.rejected_credential = Some(generation);
        if let Some(p) = self.pipes.get(key)
            && let Some(node) = self.nodes.get_mut(usize::from(p.node))
        {
            node.refused_credential = generation;
        }
    }

    /// What to look at when the credential itself is refused.
    fn wrongpass_advice(&self) -> String {
        let principal = match self.credential() {
            Some(c) if c.expires_at.is_none() && c.principal.is_none() => {
                return ". Check the user name (--upstream-username) and the password; or, if it is a token, that \
                        it lives and its principal has roles/redis.dbConnectionUser (permission \
                        redis.clusters.connect) on this cluster"
                    .into();
            }
            Some(c) => c.principal.as_deref().unwrap_or("the principal of the token"),
            None => "the principal",
        };
        format!(
            ". Check that {principal} has roles/redis.dbConnectionUser (permission redis.clusters.connect) on \
             this cluster; a new grant takes some minutes"
        )
    }

    /// Counts a refused AUTH with the credential of this generation, and says what it means.
    fn auth_refused(&mut self, key: Key, refusal: &Refusal, generation: u64) -> String {
        let advice = match refusal.kind {
            RefusalKind::WrongPass => {
                self.wrongpass(key, generation);
                self.wrongpass_advice()
            }
            RefusalKind::IamExhausted => {
                self.counters.auth_exhausted += 1;
                String::new()
            }
            kind => {
                self.counters.auth_other += 1;
                match kind {
                    RefusalKind::NoAuth => {
                        ". The cluster wants AUTH: do not use --no-iam-auth, or give --upstream-password-file"
                    }
                    RefusalKind::NoResp3 => {
                        ". The node does not speak RESP3: let the client use RESP2"
                    }
                    _ => "",
                }
                .to_owned()
            }
        };
        let text = refusal.text.trim_end_matches('.');
        let end = if advice.is_empty() && text.len() < refusal.text.len() { "." } else { "" };
        format!("AUTH was refused: {text}{end}{advice}")
    }

    /// The node refused AUTH or HELLO of a new connection.
    pub(super) fn pipe_refused(&mut self, key: Key, refusal: &Refusal) {
        if refusal.kind == RefusalKind::Preamble {
            match self.pipes.get(key).map(|p| p.duty) {
                Some(Duty::Tracking(session)) => self.tracking_refused(session, &refusal.text),
                Some(Duty::Monitor(session)) => self.monitor_refused(session, &refusal.text),
                Some(Duty::Shared | Duty::Lease | Duty::Subscriber) | None => {}
            }
            return self.dial_failed(key, &refusal.text);
        }
        let generation = self.pipes.get(key).map_or(0, |p| p.credential);
        let cause = self.auth_refused(key, refusal, generation);
        self.dial_failed(key, &cause);
    }

    /// A planned AUTH was refused: the old authentication stays, and it is tried again later.
    pub(super) fn renewal_refused(&mut self, key: Key, refusal: &Refusal) {
        let (random, now) = (self.rng.f64(), self.now);
        let Some((at, generation)) = self.pipes.get(key).map(|p| (p.node, p.tried_credential))
        else {
            return;
        };
        let cause = self.auth_refused(key, refusal, generation);
        let next = self.nodes.get_mut(usize::from(at)).map_or(0, |node| {
            node.fail(now, random, &cause, Duration::MAX);
            node.next_dial()
        });
        self.count_backoffs();
        self.renew_at(key, next.max(now + 1));
    }

    /// The node ended the authentication of a connection in use and refuses another one.
    pub(super) fn authentication_lost(&mut self, key: Key, refusal: &Refusal) {
        let generation = self.pipes.get(key).map_or(0, |p| p.tried_credential);
        let cause = self.auth_refused(key, refusal, generation);
        self.node_fails(key, &cause, Duration::MAX);
        let Some(p) = self.pipes.get_mut(key) else {
            return;
        };
        match p.duty {
            _ if p.in_flight() == 0 => self.drop_pipe(key, &cause),
            Duty::Subscriber | Duty::Monitor(_) => self.drop_pipe(key, &cause),
            Duty::Shared => self.retire(key),
            Duty::Lease | Duty::Tracking(_) => {
                if !std::mem::replace(&mut p.retiring, true) {
                    self.retiring += 1;
                    self.counters.pipes_retiring += 1;
                }
            }
        }
    }

    /// A connection could not be made or authenticated: back off, and give the commands back.
    pub(super) fn dial_failed(&mut self, key: Key, cause: &str) {
        let unreached = matches!(self.pipes.get(key).map(|p| &p.state), Some(State::Dialing));
        self.counters.dials_failed += u64::from(unreached);
        self.node_fails(key, cause, if unreached { UNREACHED } else { Duration::MAX });
        self.drop_pipe(key, cause);
        self.work.refresh = Some(Reason::NodeLost);
    }
}
