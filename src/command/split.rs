//! A multi-key command taken apart: one sub-command for each slot.
//!
//! A cluster node refuses keys of different slots even when it owns both, so the parts are by slot,
//! not by shard. Invariant: every key (with its value) stands in exactly one part, keys of a part
//! keep their order, and the merge puts the replies where the keys were. Atomicity across parts is
//! lost; `docs/` says so.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::resp::encode;
use crate::resp::request::Request;

use super::merge::Merge;
use super::slot::slot;

/// Up to so many parts times keys, looking through all keys for each part is cheaper than sorting.
const FEW: usize = 256;

/// The parts of a split command.
#[derive(Debug, PartialEq, Eq)]
pub struct Split {
    /// Slot of each part.
    pub slots: Vec<u16>,
    /// Part of each key, in key order.
    pub part_of_key: Vec<u16>,
    /// Arguments a key takes with it: 1, or 2 for MSET.
    pub step: usize,
}

/// Takes a MGET, MSET, DEL, UNLINK, EXISTS or TOUCH apart; `None` when it is not well formed, or has
/// too many slots (a node's error reply, or a client's patience, says more than a guess).
pub fn split(name: &str, request: &Request<'_>) -> Option<Split> {
    let step = if name == "mset" { 2 } else { 1 };
    let keys = request.len().checked_sub(1)?;
    if keys == 0 || !keys.is_multiple_of(step) {
        return None;
    }
    let mut slots: Vec<u16> = Vec::with_capacity(16.min(keys));
    let mut part_of_key = Vec::with_capacity(keys / step);
    // A linear search is fastest for the usual handful; from here on a table is.
    let mut table: Option<Vec<u16>> = None;
    for i in (1..request.len()).step_by(step) {
        let s = slot(request.arg(i));
        let known = match &table {
            Some(t) => Some(t[usize::from(s)]).filter(|&p| p != u16::MAX),
            None => slots.iter().position(|&known| known == s).map(|p| p as u16),
        };
        let part = known.unwrap_or_else(|| {
            slots.push(s);
            let part = (slots.len() - 1) as u16;
            if let Some(t) = &mut table {
                t[usize::from(s)] = part;
            } else if slots.len() == 32 {
                let mut t = vec![u16::MAX; crate::cluster::topology::SLOTS];
                slots.iter().enumerate().for_each(|(p, &s)| t[usize::from(s)] = p as u16);
                table = Some(t);
            }
            part
        });
        part_of_key.push(part);
    }
    Some(Split { slots, part_of_key, step })
}

impl Split {
    /// Appends the frames of all parts, in order, to `out`; returns where each ends.
    pub fn frames(&self, request: &Request<'_>, out: &mut Vec<u8>) -> Vec<usize> {
        let mut ends = Vec::with_capacity(self.slots.len());
        let keys = self.part_of_key.len();
        if self.slots.len() * keys <= FEW {
            for part in 0..self.slots.len() as u16 {
                let its = || self.part_of_key.iter().enumerate().filter(move |(_, p)| **p == part);
                self.frame(request, its().count(), its().map(|(key, _)| key), out);
                ends.push(out.len());
            }
            return ends;
        }
        // Keys grouped by part, keeping their order: a counting sort.
        let mut starts = vec![0u32; self.slots.len() + 1];
        self.part_of_key.iter().for_each(|&p| starts[usize::from(p) + 1] += 1);
        for p in 1..starts.len() {
            starts[p] += starts[p - 1];
        }
        let mut next = starts.clone();
        let mut grouped = vec![0u32; keys];
        for (key, &p) in self.part_of_key.iter().enumerate() {
            let at = &mut next[usize::from(p)];
            grouped[*at as usize] = key as u32;
            *at += 1;
        }
        for p in 0..self.slots.len() {
            let its = &grouped[starts[p] as usize..starts[p + 1] as usize];
            self.frame(request, its.len(), its.iter().map(|&key| key as usize), out);
            ends.push(out.len());
        }
        ends
    }

    /// Appends the frame of one part, with these of the command's keys.
    fn frame(
        &self,
        request: &Request<'_>,
        count: usize,
        keys: impl Iterator<Item = usize>,
        out: &mut Vec<u8>,
    ) {
        encode::header(out, b'*', (1 + count * self.step) as i64);
        encode::bulk(out, request.arg(0));
        for key in keys {
            for arg in 0..self.step {
                encode::bulk(out, request.arg(1 + key * self.step + arg));
            }
        }
    }

    /// How the replies become one.
    pub fn merge(self, name: &str) -> Merge {
        match name {
            "mget" => Merge::Interleave { order: self.part_of_key },
            "mset" => Merge::AllSucceeded,
            _ => Merge::Sum,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::request::fill_args;

    fn parts(argv: &[&str]) -> Option<(Vec<String>, Merge)> {
        let mut frame = Vec::new();
        encode::command(&mut frame, argv);
        let mut args = Vec::new();
        fill_args(&frame, &mut args);
        let request = Request::new(&frame, None, &args);
        let split = split(argv[0], &request)?;
        let mut out = Vec::new();
        let ends = split.frames(&request, &mut out);
        let mut from = 0;
        let frames = ends
            .into_iter()
            .map(|end| {
                let text = String::from_utf8_lossy(&out[from..end]).replace("\r\n", " ");
                from = end;
                text
            })
            .collect();
        Some((frames, split.merge(argv[0])))
    }

    #[test]
    fn one_part_a_slot_keys_in_order() {
        let (frames, merge) = parts(&["mget", "{a}1", "{b}1", "{a}2"]).expect("well formed");
        assert_eq!(frames, ["*3 $4 mget $4 {a}1 $4 {a}2 ", "*2 $4 mget $4 {b}1 "]);
        assert_eq!(merge, Merge::Interleave { order: vec![0, 1, 0] });
    }

    #[test]
    fn mset_keeps_values_with_their_keys() {
        let (frames, _) =
            parts(&["mset", "{a}1", "x", "{b}1", "y", "{a}2", "z"]).expect("well formed");
        assert_eq!(frames, ["*5 $4 mset $4 {a}1 $1 x $4 {a}2 $1 z ", "*3 $4 mset $4 {b}1 $1 y "]);
        assert!(parts(&["mset", "{a}1", "x", "{b}1"]).is_none());
        assert!(parts(&["del"]).is_none());
    }

    #[test]
    fn hundreds_of_slots() {
        let keys: Vec<String> = (0..2000).map(|i| format!("k{i}")).collect();
        let argv: Vec<&str> =
            std::iter::once("del").chain(keys.iter().map(String::as_str)).collect();
        let (frames, _) = parts(&argv).expect("well formed");
        let slots: std::collections::HashSet<u16> =
            keys.iter().map(|k| slot(k.as_bytes())).collect();
        assert_eq!(frames.len(), slots.len());
    }
}
