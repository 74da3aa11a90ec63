//! Reads from replicas (`--read-from`): which node answers a read, and what follows when it cannot.
//!
//! A read that may go to a replica travels in a *lane* of its own: its slot carries [`READ_LANE`], so
//! that fences keep reads in order among themselves, and a replica's trouble holds up no write. Each
//! session reads from the replica of a shard that ranks highest for it, and stays with it while it can
//! serve. Invariant: with `primary` nothing here runs; with `replica` no read reaches a primary; with
//! `prefer-replica` a read whose replica is not ready, refuses it, or knows nothing of its key is
//! answered by the primary. What a replica says of other slots' owners is never learnt: it is told by
//! gossip, later than the primaries are.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::Arc;

use bytes::Bytes;

use crate::cluster::refresh::Reason;
use crate::cluster::topology::{Topology, UNASSIGNED};
use crate::command::spec::{Handler, Row, flag};
use crate::key::Key;
use crate::resp::reply::Class;
use crate::session::redirect::Trouble;
use crate::session::window::{NO_SLOT, READ_LANE, Reply};
use crate::upstream::kind::Kind;
use crate::upstream::pipe::{Entry, State};

use super::request::block_entry;
use super::{Hub, Troubled};

/// How long a replica that refused a read is left alone (ms).
const REST: u64 = 500;

/// Which nodes answer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadFrom {
    /// Primaries: a session sees what it wrote.
    #[default]
    Primary,
    /// Replicas, and primaries where a replica cannot.
    PreferReplica,
    /// Replicas only.
    Replica,
}

/// Reads whose answer belongs to one node: cursors mean nothing to another, and access times are
/// wanted where keys are evicted.
fn is_bound_to_primary(row: &Row) -> bool {
    matches!(row.name, "hscan" | "sscan" | "zscan" | "touch" | "object|idletime" | "object|freq")
}

impl Hub {
    /// The slot, or the lane of its reads if the command may be answered by a replica.
    pub(super) fn read_lane(&self, session: Key, row: &Row, slot: u16) -> u16 {
        if row.flags & flag::READONLY == 0 || slot == NO_SLOT || is_bound_to_primary(row) {
            return slot;
        }
        // What is read under a WATCH decides about the EXEC; who tracks keys does it on one connection.
        if self.sessions.get(session).is_none_or(|s| s.watched_slot.is_some() || s.tracks()) {
            return slot;
        }
        let strict = self.settings.read_from == ReadFrom::Replica;
        if strict || self.has_replicas(slot) { slot | READ_LANE } else { slot }
    }

    fn has_replicas(&self, slot: u16) -> bool {
        let node = self.routes.get(usize::from(slot)).and_then(|&n| self.nodes.get(usize::from(n)));
        node.is_some_and(|n| !n.replicas.is_empty())
    }

    /// True when a command that found no node is a read whose slot has an owner.
    pub(super) fn lacks_replica(&self, t: &Troubled) -> bool {
        let lane = self.sessions.get(t.session).and_then(|s| s.window.slot(t.ticket, t.part));
        lane.filter(|lane| lane & READ_LANE != 0).is_some_and(|lane| {
            let node = self.routes.get(usize::from(lane & !READ_LANE));
            node.is_some_and(|&n| n != UNASSIGNED)
        })
    }

    /// Takes the replicas of a new snapshot.
    pub(super) fn learn_replicas(&mut self, topology: &Topology) {
        if !self.reads_elsewhere {
            return;
        }
        for node in &mut self.nodes {
            node.replicas.clear();
        }
        for shard in &topology.shards {
            let replicas: Vec<u16> = shard.replicas.iter().map(|r| self.node_index(r)).collect();
            let primary = self.node_index(&shard.primary);
            self.nodes[usize::from(primary)].replicas = replicas;
        }
    }

    /// The pipe for a read of `slot`; `None`: no node may answer it now.
    pub(super) fn read_pipe(&mut self, session: Key, slot: u16, kind: Kind) -> Option<Key> {
        let primary = self.routes.get(usize::from(slot)).copied().filter(|&n| n != UNASSIGNED)?;
        let reads = kind.for_reads();
        let now = self.now;
        // The highest rank of all that may be asked, and of those that can answer at once.
        let mut first: Option<(u64, u16)> = None;
        let mut ready: Option<(u64, u16, Key)> = None;
        for &replica in &self.nodes[usize::from(primary)].replicas {
            let node = &self.nodes[usize::from(replica)];
            // A node that rests comes last, but it comes.
            let rests = now < node.rests_until;
            let rank = rank(session, replica) >> u32::from(rests);
            if first.is_none_or(|(best, _)| rank > best) {
                first = Some((rank, replica));
            }
            let Some(pipe) = node.shared(reads) else {
                continue;
            };
            let carries = matches!(self.pipes.get(pipe).map(|p| &p.state), Some(State::Ready));
            if carries && !rests && ready.is_none_or(|(best, ..)| rank > best) {
                ready = Some((rank, replica, pipe));
            }
        }
        let strict = self.settings.read_from == ReadFrom::Replica;
        if let Some((_, first)) = first
            && ready.is_none_or(|(_, replica, _)| replica != first)
        {
            // Dialled for the reads to come; only a strict read waits for it.
            let pipe = self.pipe_to(first, reads);
            if strict && ready.is_none() {
                ready = Some((0, first, pipe));
            }
        }
        if let Some((_, _, pipe)) = ready {
            self.counters.reads_replica += 1;
            return Some(pipe);
        }
        if strict {
            return None;
        }
        self.counters.reads_fallback += 1;
        Some(self.pipe_to(primary, kind))
    }

    /// A replica's reply. True: it is not the client's, the primary was asked instead.
    pub(super) fn doubt(&mut self, pipe: Key, entry: &Entry, reply: &[u8]) -> bool {
        if self.settings.read_from == ReadFrom::Replica {
            return false;
        }
        let row = self.sessions.get(entry.session).and_then(|s| s.window.row(entry.ticket));
        let name = row.map_or("", |r| r.name);
        let Some(p) = self.pipes.get_mut(pipe) else {
            return false;
        };
        // A key may have left the replica with its slot, or not have arrived yet.
        let doubtful = match name {
            "mget" => has_null(reply),
            "exists" => match p.request_of(entry) {
                Some(frame) => count(reply) < count(&frame) - 1,
                None => false,
            },
            _ => is_empty(reply),
        };
        if !doubtful {
            return false;
        }
        let Some(frame) = p.request_of(entry) else {
            return false;
        };
        self.ask_primary(pipe, entry, frame)
    }

    /// A replica refused a read: the primary is asked, or the read is tried again.
    pub(super) fn replica_refused(
        &mut self,
        pipe: Key,
        entry: &Entry,
        frame: Bytes,
        class: &Class,
        said: Arc<str>,
    ) {
        let Some(node) = self.pipes.get(pipe).map(|p| p.node) else {
            return;
        };
        // A MOVED is about one slot: the replica serves the others.
        if !matches!(class, Class::Moved(_)) {
            self.nodes[usize::from(node)].rests_until = self.now + REST;
        }
        self.work.refresh = Some(Reason::ClusterDown);
        if self.settings.read_from == ReadFrom::PreferReplica
            && self.ask_primary(pipe, entry, frame.clone())
        {
            return;
        }
        self.troubled.push(Troubled {
            session: entry.session,
            ticket: entry.ticket,
            part: entry.part,
            frame,
            replies: entry.replies,
            trouble: Trouble::Replica,
            node,
            ask: None,
            said,
        });
    }

    /// Sends a read that a replica did not answer to the primary; it stays in flight all the while.
    /// False: there is none.
    fn ask_primary(&mut self, from: Key, entry: &Entry, frame: Bytes) -> bool {
        let now = self.now;
        let Some(s) = self.sessions.get(entry.session) else {
            return false;
        };
        let kind = s.kind();
        let slot = s.window.slot(entry.ticket, entry.part).map(|lane| lane & !READ_LANE);
        let primary = slot.and_then(|slot| self.routes.get(usize::from(slot)).copied());
        let Some(primary) = primary.filter(|&n| n != UNASSIGNED) else {
            return false;
        };
        let to = self.pipe_to(primary, kind);
        let leg = self.sessions.get_mut(entry.session);
        if let Some(leg) = leg.and_then(|s| s.window.leg_mut(entry.ticket, entry.part)) {
            leg.pipe = to;
        }
        if let Some(row) = self.sessions.get(entry.session).and_then(|s| s.window.row(entry.ticket))
            && row.handler == Handler::Script
        {
            self.tell_script_of(to, row, &frame);
        }
        if let Some(p) = self.pipes.get_mut(to) {
            let entry = block_entry(entry.session, entry.ticket, entry.part, entry.replies);
            p.push_bytes(entry, frame, now);
        }
        self.counters.reads_fallback += 1;
        self.mark_pipe(to);
        self.start_ticking();
        debug_assert!(from != to, "a replica's pipe is not its primary's");
        true
    }

    /// The reply of a replica, other than an error.
    pub(super) fn replica_reply(&mut self, pipe: Key, entry: &Entry, reply: Reply<'_>) {
        let doubted = self.doubt(pipe, entry, reply.as_slice());
        if let Some(p) = self.pipes.get_mut(pipe) {
            p.release(entry);
        }
        if !doubted {
            self.deliver(entry, reply);
        }
    }
}

/// How much a session wants a replica: as good as random, but the same whenever it is asked, and the
/// others keep their order when one goes (rendezvous hashing).
fn rank(session: Key, replica: u16) -> u64 {
    let mixed = (session.index() as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ (u64::from(replica) + 1).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    // The top bit is always set: a rank without it is lower than all others.
    (mixed ^ (mixed >> 29)) | 1 << 63
}

/// The number behind the type byte of a reply, or of a request.
fn count(bytes: &[u8]) -> i64 {
    let line = bytes.get(1..).unwrap_or_default();
    let end = line.iter().position(|&b| b == b'\r').unwrap_or(line.len());
    std::str::from_utf8(&line[..end]).ok().and_then(|t| t.parse().ok()).unwrap_or(0)
}

/// The rest of a reply behind its first line.
fn behind_line(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&b| b == b'\n').map_or(bytes.len(), |n| n + 1);
    &bytes[end..]
}

/// True when a reply is one a server gives for a key that is not there: no element, no length, no
/// type, or nothing but nulls and zeros.
fn is_empty(reply: &[u8]) -> bool {
    let none = |b: &[u8]| match b.first() {
        Some(b'_') => true,
        Some(b'$') => count(b) <= 0,
        Some(b':') => matches!(count(b), 0 | -2),
        Some(b'*' | b'~' | b'%') => count(b) <= 0,
        _ => b.starts_with(b"+none\r\n") || b.starts_with(b"-ERR no such key"),
    };
    if none(reply) {
        return true;
    }
    if !matches!(reply.first(), Some(b'*')) {
        return false;
    }
    let mut rest = behind_line(reply);
    while !rest.is_empty() {
        if !none(rest) {
            return false;
        }
        // What is empty ends with its line; an empty string has one more.
        let empty_string = rest.starts_with(b"$0");
        rest = behind_line(rest);
        if empty_string {
            rest = behind_line(rest);
        }
    }
    true
}

/// True when an array of strings has a null among them.
fn has_null(reply: &[u8]) -> bool {
    let mut rest = behind_line(reply);
    while let Some(&first) = rest.first() {
        let len = count(rest);
        if first == b'_' || len < 0 {
            return true;
        }
        let Some(next) = behind_line(rest).get(len as usize + 2..) else {
            return false;
        };
        rest = next;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_a_missing_key_looks_like() {
        for reply in [
            "$-1\r\n",
            "*-1\r\n",
            "_\r\n",
            "*0\r\n",
            "%0\r\n",
            "~0\r\n",
            ":0\r\n",
            ":-2\r\n",
            "$0\r\n\r\n",
            "+none\r\n",
            "-ERR no such key\r\n",
            "*2\r\n$-1\r\n$-1\r\n",
            "*3\r\n_\r\n_\r\n_\r\n",
            "*2\r\n:0\r\n:0\r\n",
            "*2\r\n*-1\r\n*-1\r\n",
            "*2\r\n$0\r\n\r\n$-1\r\n",
        ] {
            assert!(is_empty(reply.as_bytes()), "{reply:?}");
        }
        for reply in [
            "$1\r\n0\r\n",
            ":1\r\n",
            ":-1\r\n",
            "*1\r\n$1\r\nx\r\n",
            "*2\r\n$-1\r\n$1\r\nx\r\n",
            "*1\r\n*1\r\n$1\r\nx\r\n",
            "%1\r\n$1\r\nf\r\n$1\r\nv\r\n",
            "+string\r\n",
            ",0\r\n",
            "-WRONGTYPE x\r\n",
        ] {
            assert!(!is_empty(reply.as_bytes()), "{reply:?}");
        }
    }

    #[test]
    fn finds_nulls_among_strings() {
        for reply in ["*1\r\n$-1\r\n", "*2\r\n$3\r\n\r\n_\r\n_\r\n", "*2\r\n$0\r\n\r\n$-1\r\n"] {
            assert!(has_null(reply.as_bytes()), "{reply:?}");
        }
        for reply in ["*0\r\n", "*1\r\n$3\r\n$-1\r\n", "*2\r\n$0\r\n\r\n$1\r\n_\r\n"] {
            assert!(!has_null(reply.as_bytes()), "{reply:?}");
        }
    }

    #[test]
    fn sessions_spread_over_replicas_and_keep_theirs_when_another_goes() {
        let choose = |session: u32, replicas: &[u16]| {
            let key = Key::new(session, 1);
            replicas.iter().copied().max_by_key(|&r| rank(key, r))
        };
        let mut served = [0; 3];
        for session in 0..300 {
            let all = choose(session, &[4, 7, 9]).expect("a replica");
            served[[4, 7, 9].iter().position(|&r| r == all).expect("one of them")] += 1;
            if all != 7 {
                assert_eq!(choose(session, &[9, 4]), Some(all));
            }
        }
        assert!(served.iter().all(|&n| n > 50), "{served:?}");
    }
}
