//! MONITOR: a session hears what all primaries execute.
//!
//! Each primary is asked on a connection of its own, and its lines go to the session as they come;
//! the address in a line is that of the connection to the node, which is often the proxy's.
//! Invariant: MONITOR is answered when every primary monitors; a lost connection is made again.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use bytes::Bytes;

use crate::command::spec::Row;
use crate::key::Key;
use crate::resp::Version;
use crate::resp::request::Request;
use crate::session::local;
use crate::session::streams::Monitor;
use crate::session::window::Reply;
use crate::upstream::pipe::{Duty, State};

use super::Hub;

const MONITOR: &[u8] = b"*1\r\n$7\r\nMONITOR\r\n";

impl Hub {
    /// MONITOR. False: the session must wait first.
    pub(super) fn monitor(&mut self, key: Key, row: &'static Row, request: &Request<'_>) -> bool {
        if !local::arity_fits(row, request.len()) {
            self.refuse(key, &local::wrong_arity(row.name));
            return true;
        }
        if self.must_be_alone(key) {
            return false;
        }
        let now = self.now;
        let Some(s) = self.sessions.get_mut(key) else {
            return true;
        };
        let streams = s.streams.get_or_insert_default();
        if streams.monitor.is_some() {
            // A server does not answer it a second time.
            return true;
        }
        streams.monitor = Some(Monitor { pipes: Vec::new(), starting: true, since: now });
        s.alone = true;
        self.monitors.push(key);
        self.start_ticking();
        self.cover_monitor(key);
        true
    }

    /// A connection to every primary.
    pub(super) fn cover_monitor(&mut self, key: Key) {
        let Some(m) = self.sessions.get(key).and_then(|s| s.streams.as_deref()?.monitor.as_ref())
        else {
            return;
        };
        let known: Vec<u16> = m.pipes.iter().map(|(n, _)| *n).collect();
        for node in self.primaries.clone() {
            if known.contains(&node) {
                continue;
            }
            let preamble = Some(Bytes::from_static(MONITOR));
            let pipe = self.private_pipe(node, Version::V2.into(), Duty::Monitor(key), preamble);
            if let Some(m) = self.monitor_mut(key) {
                m.pipes.push((node, pipe));
            }
        }
    }

    pub(super) fn cover_monitors(&mut self) {
        for key in self.monitors.clone() {
            self.cover_monitor(key);
        }
    }

    fn monitor_mut(&mut self, key: Key) -> Option<&mut Monitor> {
        self.sessions.get_mut(key)?.streams.as_deref_mut()?.monitor.as_mut()
    }

    /// A primary monitors now.
    pub(super) fn monitor_ready(&mut self, key: Key) {
        let Some(m) = self.sessions.get(key).and_then(|s| s.streams.as_deref()?.monitor.as_ref())
        else {
            return;
        };
        let is_ready =
            |pipe: Key| self.pipes.get(pipe).is_some_and(|p| matches!(p.state, State::Ready));
        let all = self
            .primaries
            .iter()
            .all(|n| m.pipes.iter().any(|(node, pipe)| node == n && is_ready(*pipe)));
        if m.starting && all {
            if let Some(m) = self.monitor_mut(key) {
                m.starting = false;
            }
            self.ok(key);
            self.end_alone(key);
        }
    }

    /// A node refuses MONITOR: the client is told in the node's words.
    pub(super) fn monitor_refused(&mut self, key: Key, text: &str) {
        if self.monitor_mut(key).is_some_and(|m| m.starting) {
            self.end_monitor(key);
            self.refuse(key, text);
            self.end_alone(key);
        }
    }

    /// A line of a node that monitors.
    pub(super) fn monitored(&mut self, session: Key, line: Reply<'_>) {
        let heard = self.monitor_mut(session).is_some_and(|m| !m.starting);
        if heard {
            self.hear(session, line);
        }
    }

    /// A connection of a MONITOR is gone.
    pub(super) fn monitor_lost(&mut self, session: Key, pipe: Key) {
        if let Some(m) = self.monitor_mut(session) {
            m.pipes.retain(|(_, p)| *p != pipe);
            // Not from here: the pipe is being taken apart.
            self.uncovered.push(session);
        }
    }

    /// The session monitors no more.
    pub(super) fn end_monitor(&mut self, key: Key) {
        self.monitors.retain(|k| *k != key);
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        let monitor = s.streams.as_deref_mut().and_then(|x| x.monitor.take());
        s.tidy_streams();
        if let Some(m) = monitor {
            self.drop_monitor_pipes(m);
        }
    }

    pub(super) fn drop_monitor_pipes(&mut self, monitor: Monitor) {
        for (_, pipe) in monitor.pipes {
            self.drop_pipe(pipe, "its client monitors no more");
        }
    }

    /// CLIENT TRACKING ON and MONITOR that wait too long for their connections fail with the cause.
    pub(super) fn fail_late_streams(&mut self) {
        let limit = self.settings.op_timeout.as_millis() as u64;
        let mut late: Vec<(Key, bool)> = Vec::new();
        for key in self.trackers.iter().chain(&self.monitors).copied() {
            let Some(x) = self.sessions.get(key).and_then(|s| s.streams.as_deref()) else {
                continue;
            };
            let is_late = |since: u64| self.now.saturating_sub(since) >= limit;
            if x.tracking.as_ref().is_some_and(|t| t.starting && is_late(t.since)) {
                late.push((key, true));
            }
            if x.monitor.as_ref().is_some_and(|m| m.starting && is_late(m.since)) {
                late.push((key, false));
            }
        }
        for (key, tracks) in late {
            let cause = self.late_cause(key);
            let what = if tracks { "CLIENT TRACKING" } else { "MONITOR" };
            let text = format!(
                "ERR memorystore-auth-proxy: {what} needs connections of its own, which could not be made within \
                 {} (--op-timeout): {cause}",
                super::trouble::humantime(self.settings.op_timeout)
            );
            self.counters.fail_deadline += 1;
            if tracks {
                self.tracking_refused(key, &text);
            } else {
                self.monitor_refused(key, &text);
            }
        }
    }

    /// Why a stream's connections are not there.
    fn late_cause(&self, key: Key) -> String {
        let streams = self.sessions.get(key).and_then(|s| s.streams.as_deref());
        let pipes = streams.into_iter().flat_map(|x| {
            let tracking = x.tracking.iter().flat_map(|t| &t.pipes);
            tracking.chain(x.monitor.iter().flat_map(|m| &m.pipes))
        });
        let is_ready =
            |pipe: Key| self.pipes.get(pipe).is_some_and(|p| matches!(p.state, State::Ready));
        match pipes.map(|(_, pipe)| *pipe).find(|pipe| !is_ready(*pipe)) {
            Some(pipe) => self.waiting_cause(pipe),
            None => self.no_route_cause(),
        }
    }

    /// True while a session waits for connections of its own.
    pub(super) fn streams_start(&self) -> bool {
        self.trackers.iter().chain(&self.monitors).any(|&key| {
            self.sessions.get(key).and_then(|s| s.streams.as_deref()).is_some_and(|x| {
                x.tracking.as_ref().is_some_and(|t| t.starting)
                    || x.monitor.as_ref().is_some_and(|m| m.starting)
            })
        })
    }

    /// Sessions that lost a connection of their own get another.
    pub(super) fn cover_again(&mut self) {
        for key in std::mem::take(&mut self.uncovered) {
            self.cover_tracker(key);
            self.cover_monitor(key);
        }
    }
}
