//! SCAN over all shards: one call asks one node; the cursor remembers where the scan stands.
//!
//! Before a node is visited for the first time, and when all were, every node is asked what may have
//! come to it (`session::sample`); what that means for the scan is `session::scan`'s to say. Invariant:
//! a SCAN runs alone in its session, so that its reply can be held until its cursor is known; what is
//! asked besides has places of its own in the window, whose replies are dropped.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use bytes::Bytes;

use crate::cluster::refresh::Reason;
use crate::cluster::topology::{NodeAddr, UNASSIGNED};
use crate::command::lookup;
use crate::command::merge::Merge;
use crate::command::spec::Row;
use crate::key::Key;
use crate::resp::encode;
use crate::resp::request::{Request, fill_args};
use crate::session::core::Rewrite;
use crate::session::fence::{Held, Target};
use crate::session::local;
use crate::session::scan::{Call, Cursor, Next, Stop, Told};
use crate::session::scanning::{QUESTIONS, Round, Scanning, Stage, split_reply, with_cursor};
use crate::session::window::{NO_SLOT, Reply};
use crate::upstream::pipe::Entry;

use super::Hub;
use super::peers::{Becomes, Question};
use super::reply::is_refusal;

impl Hub {
    /// SCAN. False: wait first.
    pub(super) fn scan(&mut self, key: Key, row: &'static Row, request: &Request<'_>) -> bool {
        let well_formed = local::arity_fits(row, request.len());
        if self.is_standalone() || !well_formed || self.shard_slots.is_empty() {
            // A single server's own cursors; or its own error; or no map yet.
            let slot = if self.is_standalone() { 0 } else { NO_SLOT };
            self.dispatch(key, Some(row), slot, request, 1);
            return true;
        }
        let number = std::str::from_utf8(request.arg(1)).ok().and_then(|t| t.parse::<u64>().ok());
        let Some(number) = number.filter(|n| Cursor::decode(*n).is_some()) else {
            self.refuse(key, "ERR invalid cursor");
            return true;
        };
        if self.must_be_alone(key) {
            return false;
        }
        let number = match number {
            0 => self.scans.begin(&self.shards_at()).unwrap_or(0),
            old => old,
        };
        let elsewhere = self.scans.is_unknown(number) && self.has_peers();
        let Some(s) = self.sessions.get_mut(key) else {
            return true;
        };
        s.alone = true;
        let (request, sampled) = (request.to_bytes(), false);
        let scanning = Scanning { number, request, sampled, stage: Stage::State };
        s.rewrite = Some(Box::new(Rewrite::Scan(scanning)));
        if elsewhere {
            // The client's last call went to another worker.
            let skip = std::mem::take(&mut s.window.skip_next);
            self.consult(key, row, Question::TakeScan(number), Becomes::Scan);
            if let Some(s) = self.sessions.get_mut(key) {
                s.window.hide_last();
                s.window.skip_next = skip;
            }
        } else {
            self.scan_on(key);
        }
        true
    }

    fn scanning(&mut self, key: Key) -> Option<&mut Scanning> {
        match self.sessions.get_mut(key)?.rewrite.as_deref_mut()? {
            Rewrite::Scan(scanning) => Some(scanning),
            Rewrite::Exec(_) => None,
        }
    }

    /// The next step of a SCAN: samples, or a node's turn.
    fn scan_on(&mut self, key: Key) {
        let shards = self.shards_at();
        let Some((number, sampled)) = self.scanning(key).map(|s| (s.number, s.sampled)) else {
            return;
        };
        let Some(call) = self.scans.resume(number, &shards) else {
            return self.scan_refused(key, b"-ERR invalid cursor\r\n");
        };
        if let Some(scanning) = self.scanning(key) {
            scanning.number = call.cursor.encode().unwrap_or(number);
        }
        if call.sample_first && !sampled {
            let round = self.ask_all(key);
            if let Some(scanning) = self.scanning(key) {
                scanning.stage = Stage::Before(round);
            }
        } else {
            self.visit(key, call);
        }
    }

    /// An error ends the call; the cursor stays good.
    fn scan_refused(&mut self, key: Key, line: &[u8]) {
        if let Some(s) = self.sessions.get_mut(key) {
            s.rewrite = None;
            s.answer(line);
            if s.window.is_empty() {
                self.end_alone(key);
            }
        }
        self.mark_session(key);
    }

    /// Asks a node for a part of its keys.
    fn visit(&mut self, key: Key, call: Call<NodeAddr>) {
        let (slot, node) = call.stop;
        let index = self.node_index(&node);
        let Some(scanning) = self.scanning(key) else {
            return;
        };
        scanning.stage = Stage::Visit { cursor: call.cursor, node };
        let whole = scanning.request.clone();
        let mut ranges = Vec::new();
        fill_args(&whole, &mut ranges);
        let asked = Request::new(&whole, None, &ranges);
        let cursor = call.cursor.node.to_string();
        let args: Vec<&[u8]> =
            [asked.arg(0), cursor.as_bytes()].into_iter().chain(asked.args().skip(2)).collect();
        let mut frame = Vec::new();
        encode::command(&mut frame, &args);
        if self.node_of_slot(slot) == Some(index) {
            return self.dispatch(key, scan_row(), slot, &Request::new(&frame, None, &[]), 1);
        }
        let now = self.now;
        if let Some(s) = self.sessions.get_mut(key) {
            let ticket = s.window.open(scan_row(), slot, Key::NONE, frame.len(), now);
            self.ask_node(key, slot, (ticket, 0), Some(index), frame.into());
        }
    }

    /// Sends a question; to `node` if the slot map would send it elsewhere.
    fn ask_node(
        &mut self,
        key: Key,
        slot: u16,
        (ticket, part): (u32, u16),
        node: Option<u16>,
        frame: Bytes,
    ) {
        let target = node.map_or(Target::Route, Target::Ask);
        let held = Held { ticket, part, frame, replies: 1, target, not_before: 0, why: None };
        self.send_held(key, slot, held);
    }

    /// Asks every node of the scan for a sample.
    fn ask_all(&mut self, key: Key) -> Round {
        let number = self.scanning(key).map_or(0, |s| s.number);
        let stops = self.scans.stops(number, &self.shards_at());
        let slots: Vec<u16> = stops.iter().flat_map(|(slot, _)| [*slot; QUESTIONS.len()]).collect();
        let now = self.now;
        let Some(s) = self.sessions.get_mut(key) else {
            return Round::default();
        };
        let (version, skip) = (s.version, std::mem::take(&mut s.window.skip_next));
        let merge = Merge::AllSucceeded;
        let ticket = s.window.open_parts(scan_row(), &slots, merge, version, 0, now);
        s.window.hide_last();
        s.window.skip_next = skip;
        let mut part = 0;
        for (slot, node) in &stops {
            let index = self.node_index(node);
            let stray = (self.node_of_slot(*slot) != Some(index)).then_some(index);
            for question in QUESTIONS {
                let frame = Bytes::from_static(question);
                self.ask_node(key, *slot, (ticket, part), stray, frame);
                part += 1;
            }
        }
        Round::of(stops.len())
    }

    /// A reply for a session that scans: the node's, or one to a question.
    pub(super) fn scan_reply(&mut self, mut scanning: Scanning, entry: &Entry, reply: Reply<'_>) {
        let key = entry.session;
        let shards = self.shards_at();
        let node = self.answering_node(entry);
        let line = reply.as_slice();
        let failed = line.first() == Some(&b'-') && !is_refusal(line);
        if !matches!(scanning.stage, Stage::Visit { .. }) {
            // Before what follows is sent: it must not wait for a reply that has come, should its slot's
            // connection have been replaced since.
            self.fill(key, entry.ticket, entry.part, Reply::Borrowed(line));
        }
        match &mut scanning.stage {
            Stage::State => {
                self.go_on_scanning(key, scanning);
                self.scan_on(key);
            }
            Stage::Before(_) if failed => self.scan_refused(key, line),
            Stage::After { ticket, .. } if failed => {
                let (session, ticket) = (key, *ticket);
                self.fill(session, ticket, 0, Reply::Borrowed(line));
            }
            Stage::Before(round) => {
                if round.take(node, entry.part, line, &shards) {
                    let told = std::mem::take(round).told();
                    self.see_strangers(&told);
                    self.scans.sampled(scanning.number, &told);
                    scanning.sampled = true;
                    self.go_on_scanning(key, scanning);
                    self.scan_on(key);
                } else {
                    self.go_on_scanning(key, scanning);
                }
            }
            Stage::After { cursor, ticket, reply: held, round } => {
                if round.take(node, entry.part, line, &shards) {
                    let told = std::mem::take(round).told();
                    self.see_strangers(&told);
                    let number = self.scans.conclude(*cursor, &told, &shards);
                    let whole = with_cursor(held, number);
                    self.fill(key, *ticket, 0, Reply::Shared(whole.into()));
                } else {
                    self.go_on_scanning(key, scanning);
                }
            }
            Stage::Visit { cursor, node: meant } => {
                let (cursor, meant) = (*cursor, meant.clone());
                self.visited(scanning, entry, reply, (cursor, meant), node);
            }
        }
    }

    /// A node's part of the keys has come.
    fn visited(
        &mut self,
        mut scanning: Scanning,
        entry: &Entry,
        reply: Reply<'_>,
        (cursor, meant): (Cursor, NodeAddr),
        node: Option<NodeAddr>,
    ) {
        let (key, ticket) = (entry.session, entry.ticket);
        let Some((node_cursor, _)) = split_reply(reply.as_slice()) else {
            // An error is the client's.
            return self.fill(key, ticket, 0, reply);
        };
        let next = if node.is_some_and(|n| n != meant) {
            // It was sent again, to another node, to which the cursor means nothing: begin anew.
            Next::Cursor(self.scans.again(cursor))
        } else {
            self.scans.advance(cursor, node_cursor, &self.shards_at())
        };
        match next {
            Next::Cursor(number) => {
                let whole = with_cursor(reply.as_slice(), number);
                self.fill(key, ticket, 0, Reply::Shared(whole.into()));
            }
            Next::TooLarge => {
                let text = b"-ERR memorystore-auth-proxy: the node's cursor is too large to be passed on\r\n";
                self.fill(key, ticket, 0, Reply::Borrowed(text));
            }
            Next::Sample => {
                let reply = match reply {
                    Reply::Shared(bytes) => bytes,
                    Reply::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
                };
                if let Some(leg) =
                    self.sessions.get_mut(key).and_then(|s| s.window.leg_mut(ticket, 0))
                {
                    // It is answered, though held: a question that must be sent again shall not wait
                    // for it.
                    leg.slot = NO_SLOT;
                }
                let round = Round::default();
                scanning.stage = Stage::After { cursor, ticket, reply, round };
                self.go_on_scanning(key, scanning);
                let asked = self.ask_all(key);
                if let Some(Scanning { stage: Stage::After { round, .. }, .. }) = self.scanning(key)
                {
                    *round = asked;
                }
            }
        }
    }

    fn go_on_scanning(&mut self, key: Key, scanning: Scanning) {
        if let Some(s) = self.sessions.get_mut(key) {
            s.rewrite = Some(Box::new(Rewrite::Scan(scanning)));
        }
    }

    fn fill(&mut self, key: Key, ticket: u32, part: u16, reply: Reply<'_>) {
        if let Some(s) = self.sessions.get_mut(key) {
            s.window.fill(ticket, part, reply, &mut s.out);
        }
    }

    /// Which node answered.
    fn answering_node(&mut self, entry: &Entry) -> Option<NodeAddr> {
        let s = self.sessions.get_mut(entry.session)?;
        let pipe = s.window.leg_mut(entry.ticket, entry.part)?.pipe;
        let node = self.pipes.get(pipe)?.node;
        self.nodes.get(usize::from(node)).map(|n| n.addr.clone())
    }

    /// The nodes know more than the slot map: it is asked for anew.
    fn see_strangers(&mut self, told: &[(NodeAddr, Told<NodeAddr>)]) {
        let strange = |(_, told): &(NodeAddr, Told<NodeAddr>)| match told {
            Told::Sample(s) => !s.is_primary || s.named.iter().any(|n| !n.importing),
            Told::Refused => false,
        };
        if told.iter().any(strange) {
            self.work.refresh = Some(Reason::ClusterDown);
        }
    }

    fn shards_at(&self) -> Vec<Stop<NodeAddr>> {
        let node = |&slot: &u16| {
            let node = self.routes.get(usize::from(slot)).copied().filter(|&n| n != UNASSIGNED)?;
            Some((slot, self.nodes.get(usize::from(node))?.addr.clone()))
        };
        self.shard_slots.iter().filter_map(node).collect()
    }

    /// The slot map says that a slot moved to `node`.
    pub(super) fn scans_see_move(&mut self, node: u16) {
        if !self.scans.is_empty()
            && let Some(node) = self.nodes.get(usize::from(node))
        {
            self.scans.slot_moved_to(&node.addr);
        }
    }
}

fn scan_row() -> Option<&'static Row> {
    lookup::command(b"scan")
}
