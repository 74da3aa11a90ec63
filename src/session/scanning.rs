//! One SCAN of a client under way: what was asked, and what has come in so far.
//!
//! Invariant: the answers of a round are told by the node that gave them, which need not be the one
//! that was meant (a failover in between). It sends nothing: see `worker::hub::scan`.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::cluster::topology::NodeAddr;
use crate::command::merge::text_of;
use crate::resp::encode;

use super::sample::{Sample, read_nodes, read_restored};
use super::scan::{Cursor, Stop, Told};

/// What each node is asked in a round.
pub const QUESTIONS: [&[u8]; 2] =
    [b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nNODES\r\n", b"*2\r\n$4\r\nINFO\r\n$12\r\ncommandstats\r\n"];

/// See the module header.
#[derive(Debug)]
pub struct Scanning {
    /// The client's cursor, or the first of its scan.
    pub number: u64,
    /// The request.
    pub request: Bytes,
    /// The nodes were asked already in this call.
    pub sampled: bool,
    /// What is awaited.
    pub stage: Stage,
}

/// What a SCAN waits for.
#[derive(Debug)]
pub enum Stage {
    /// The state of its scan, from another worker.
    State,
    /// Samples, before a visit begins.
    Before(Round),
    /// The node's reply.
    Visit {
        /// Asked with.
        cursor: Cursor,
        /// Of.
        node: NodeAddr,
    },
    /// Samples, after the last visit.
    After {
        /// The visit asked with.
        cursor: Cursor,
        /// Place of the client's reply.
        ticket: u32,
        /// The node's reply.
        reply: Bytes,
        /// What came in.
        round: Round,
    },
}

/// The answers of a round of questions.
#[derive(Debug, Default)]
pub struct Round {
    /// Answers that are due.
    left: usize,
    told: BTreeMap<NodeAddr, Answers>,
}

#[derive(Debug, Default)]
struct Answers {
    sample: Option<Sample<NodeAddr>>,
    refused: bool,
    restored: Option<u64>,
}

impl Round {
    /// So many nodes are asked.
    pub fn of(nodes: usize) -> Self {
        Self { left: nodes * QUESTIONS.len(), told: BTreeMap::new() }
    }

    /// Takes in an answer to a part's question; true when it was the last. `shards`: the nodes the slot
    /// map knows.
    pub fn take(
        &mut self,
        node: Option<NodeAddr>,
        part: u16,
        reply: &[u8],
        shards: &[Stop<NodeAddr>],
    ) -> bool {
        self.left = self.left.saturating_sub(1);
        if let Some(node) = node {
            let answers = self.told.entry(node).or_default();
            let text = text_of(reply).map(String::from_utf8_lossy);
            if usize::from(part) % QUESTIONS.len() == 0 {
                let known = |addr: &NodeAddr| shards.iter().any(|(_, n)| n == addr);
                answers.sample = text.and_then(|t| read_nodes(&t, known));
                answers.refused = answers.sample.is_none();
            } else {
                answers.restored = text.and_then(|t| read_restored(&t));
            }
        }
        self.left == 0
    }

    /// What the nodes told.
    pub fn told(self) -> Vec<(NodeAddr, Told<NodeAddr>)> {
        let told = |(node, a): (NodeAddr, Answers)| match a.sample {
            Some(sample) => Some((node, Told::Sample(Sample { restored: a.restored, ..sample }))),
            None => a.refused.then_some((node, Told::Refused)),
        };
        self.told.into_iter().filter_map(told).collect()
    }
}

/// The node's cursor in a reply to SCAN, and what follows it. `*2 $n <cursor> *…`
pub fn split_reply(reply: &[u8]) -> Option<(u64, &[u8])> {
    let rest = reply.strip_prefix(b"*2\r\n$")?;
    let line = rest.iter().position(|&b| b == b'\r')?;
    let len: usize = std::str::from_utf8(&rest[..line]).ok()?.parse().ok()?;
    let (digits, keys) = rest.get(line + 2..)?.split_at_checked(len)?;
    let cursor = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some((cursor, keys.strip_prefix(b"\r\n")?))
}

/// A reply to SCAN with another cursor.
pub fn with_cursor(reply: &[u8], number: u64) -> Vec<u8> {
    let (_, keys) = split_reply(reply).unwrap_or((0, b"*0\r\n"));
    let mut out = Vec::with_capacity(keys.len() + 40);
    encode::header(&mut out, b'*', 2);
    encode::bulk(&mut out, number.to_string().as_bytes());
    out.extend_from_slice(keys);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_gets_another_cursor() {
        let reply = b"*2\r\n$2\r\n17\r\n*1\r\n$1\r\nk\r\n";
        assert_eq!(split_reply(reply), Some((17, &b"*1\r\n$1\r\nk\r\n"[..])));
        assert_eq!(with_cursor(reply, 4096), b"*2\r\n$4\r\n4096\r\n*1\r\n$1\r\nk\r\n");
        assert_eq!(split_reply(b"-ERR no\r\n"), None);
        // Found by fuzzing: the length counts, not the next line end.
        assert_eq!(split_reply(b"*2\r\n$11\r\n7\r\n*0\r\nabcd\r\n*0\r\n"), None);
    }

    #[test]
    fn a_round_is_told_by_those_who_answered() {
        let addr = |port| NodeAddr { host: "h".into(), port };
        let nodes = b"$47\r\nid h:1@2 myself,master - 0 0 3 connected 0-16383\r\n";
        let stats = b"$42\r\ncmdstat_restore-asking:calls=5,usec=1,x=y,z\r\n";
        let mut round = Round::of(2);
        assert!(!round.take(Some(addr(1)), 0, nodes, &[]));
        assert!(!round.take(Some(addr(1)), 1, stats, &[]));
        assert!(!round.take(Some(addr(2)), 2, b"-NOPERM no\r\n", &[]));
        // The node of this part had gone.
        assert!(round.take(None, 3, stats, &[]));
        let told = round.told();
        assert_eq!(told.len(), 2);
        let Told::Sample(sample) = &told[0].1 else { panic!("{told:?}") };
        assert_eq!((sample.epoch, sample.restored), (3, Some(5)));
        assert_eq!(told[1], (addr(2), Told::Refused));
    }
}
