//! Commands about the whole keyspace or all servers: asked of every shard, answered once.
//!
//! Invariant: each shard is asked through a slot it owns, so that a retry follows the shard and not
//! the node; how the replies become one is the table's word (`request_policy`, `response_policy`)
//! and `command::merge`'s work. The session's order holds: what was sent before on a pipe is
//! executed before.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::command::info::About;
use crate::command::merge::{Merge, info_reply};
use crate::command::spec::{Gather, ResponsePolicy, Row};
use crate::key::Key;
use crate::resp::Version;
use crate::resp::encode;
use crate::resp::request::Request;
use crate::session::local;
use crate::session::subscriptions::Kind;
use crate::session::window::NO_SLOT;

use super::Hub;

impl Hub {
    /// One command to every shard. False: the session must wait first.
    pub(super) fn gather(
        &mut self,
        key: Key,
        row: &'static Row,
        what: Gather,
        request: &Request<'_>,
    ) -> bool {
        if !local::arity_fits(row, request.len()) {
            self.refuse(key, &local::wrong_arity(row.name));
            return true;
        }
        if matches!(row.name, "wait" | "waitaof") {
            return self.wait(key, row, request);
        }
        let mode = request.len().checked_sub(1).map(|last| request.arg(last).to_ascii_lowercase());
        if row.name == "script|flush"
            && matches!(mode.as_deref(), Some(b"flush" | b"sync" | b"async"))
        {
            // What the user had forgotten is not to be brought back, nor what came before missed.
            if self.must_be_alone(key) {
                return false;
            }
            self.scripts = Default::default();
        }
        let mut slots = self.shard_slots();
        if slots.is_empty() {
            // No map yet: wait for a route like any other command.
            self.dispatch(key, Some(row), NO_SLOT, request, 1);
            return true;
        }
        let merge = match what {
            Gather::Policy => match Merge::of(row.response) {
                Some(merge) => merge,
                None => Merge::AllSucceeded,
            },
            Gather::Info => return self.info(key, row, request, &slots),
            Gather::Randomkey => {
                // Any shard may give the key; an empty one passes the turn on.
                let first = self.rng.usize(0..slots.len());
                slots.rotate_left(first);
                Merge::FirstNotNull
            }
            Gather::PubsubChannels => Merge::Union,
            Gather::PubsubNumsub => {
                Merge::SumByName { plus: self.surplus_of_numsub(Kind::Channel, request) }
            }
            Gather::PubsubShardnumsub => {
                Merge::SumByName { plus: self.surplus_of_numsub(Kind::Shard, request) }
            }
            Gather::ScriptLoad => {
                self.remember(key, request.arg(2));
                Merge::AllSucceeded
            }
            Gather::Lastsave => Merge::Max,
            Gather::Memory if row.name == "memory|stats" => Merge::Stats,
            Gather::Memory => Merge::Texts,
            Gather::Latency if row.name == "latency|histogram" => Merge::Concat,
            Gather::Latency if matches!(row.name, "latency|doctor" | "latency|graph") => {
                Merge::Texts
            }
            Gather::Latency | Gather::Slowlog | Gather::Keys => Merge::Concat,
        };
        let frame = request.frame;
        self.dispatch_parts(key, row, &slots, merge, frame.len(), |_| frame);
        true
    }

    /// Remembers a script that the session's next command brings.
    pub(super) fn remember(&mut self, key: Key, body: &[u8]) {
        let ticket = self.sessions.get(key).map_or(0, |s| s.window.next_ticket());
        self.scripts.remember(body, (key, ticket));
    }

    /// A slot of each shard, by which it is asked.
    fn shard_slots(&self) -> Vec<u16> {
        if self.is_standalone() {
            return vec![0];
        }
        self.shard_slots.clone()
    }

    /// INFO: merged, with a section of the proxy's own.
    fn info(&mut self, key: Key, row: &'static Row, request: &Request<'_>, slots: &[u16]) -> bool {
        let sections: Vec<&[u8]> = request.args().skip(1).collect();
        let is_own = |s: &&[u8]| s.eq_ignore_ascii_case(b"proxy");
        let about = About {
            version: env!("CARGO_PKG_VERSION"),
            shards: self.primaries.len(),
            clients: self.clients_everywhere(),
            uptime_s: self.now / 1000,
            commands: self.counters.commands,
        };
        let all = |s: &&[u8]| {
            [&b"all"[..], b"everything", b"default"].iter().any(|n| s.eq_ignore_ascii_case(n))
        };
        let own = sections.is_empty() || sections.iter().any(|s| is_own(s) || all(s));
        let section = if own { about.section() } else { String::new() };
        let asked: Vec<&[u8]> = sections.iter().copied().filter(|s| !is_own(s)).collect();
        if asked.is_empty() && !sections.is_empty() {
            let version = self.sessions.get(key).map_or(Version::V2, |s| s.version);
            let mut out = Vec::new();
            info_reply(&section, version == Version::V3, &mut out);
            if let Some(s) = self.sessions.get_mut(key) {
                s.answer(&out);
            }
            self.mark_session(key);
            return true;
        }
        let mut frame = Vec::new();
        let args: Vec<&[u8]> = std::iter::once(&b"INFO"[..]).chain(asked).collect();
        encode::command(&mut frame, &args);
        let merge = Merge::Info { section, clients: about.clients };
        self.dispatch_parts(key, row, slots, merge, frame.len(), |_| &frame);
        true
    }

    /// WAIT and WAITAOF. False: the session must wait first.
    ///
    /// They block, so they run on leases. A server counts from the last command of the connection;
    /// the PING in front makes that "everything this node has executed so far", which includes all
    /// the session wrote.
    fn wait(&mut self, key: Key, row: &'static Row, request: &Request<'_>) -> bool {
        if self.must_be_alone(key) {
            return false;
        }
        let slots = self.shard_slots();
        let merge = match row.response {
            ResponsePolicy::AggMin => Merge::Min,
            _ => Merge::Concat,
        };
        let mut frame = super::exclusive::PING.to_vec();
        frame.extend_from_slice(request.frame);
        self.dispatch_parts_leased(key, row, &slots, merge, &frame, 2, request);
        true
    }

    /// Recomputes by which slot each shard is asked.
    pub(super) fn choose_shard_slots(&mut self) {
        let mut seen = vec![false; self.nodes.len()];
        self.shard_slots.clear();
        for (slot, &node) in self.routes.iter().enumerate() {
            if let Some(seen) = seen.get_mut(usize::from(node))
                && !std::mem::replace(seen, true)
            {
                self.shard_slots.push(slot as u16);
            }
        }
    }
}
