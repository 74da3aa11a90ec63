//! A command in parts: where each part was sent, and the replies until all are there and become one.
//!
//! Invariant: the parts' replies together, those that are still arriving included, hold no more than a
//! limit; beyond it all are let go at once, what still comes is dropped, and the client is told why.
//! Large replies are kept and handed on by reference: arrays that are put one behind the other are
//! never copied.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use bytes::Bytes;

use crate::buffer::LARGE;
use crate::command::merge::{self, Merge};
use crate::command::spec::Row;
use crate::key::Key;
use crate::resp::Version;
use crate::resp::encode;

use super::window::{Leg, Reply};

/// What there is of the reply of a part.
#[derive(Debug, Clone)]
enum Part {
    /// Nothing yet, or so many bytes in a pipe's buffer.
    Waiting { arriving: usize },
    /// A small reply, in the composite's buffer.
    Near { at: u32, len: u32 },
    /// A large one.
    Far(Bytes),
    /// It came, and was dropped.
    Dropped,
}

/// Room for the head of a merged reply (bytes).
const MERGED_HEAD: usize = 32;

/// See the module header.
#[derive(Debug)]
pub struct Composite {
    parts: Vec<(Leg, Part)>,
    /// Small replies.
    near: Vec<u8>,
    /// Bytes of all replies, whole or arriving.
    held: usize,
    /// Bytes of those that are kept here.
    kept: usize,
    /// Most of them.
    limit: usize,
    left: usize,
    /// They were more than the limit.
    too_large: bool,
    merge: Merge,
    version: Version,
}

impl Composite {
    /// One part for each of `slots`; their replies may hold `limit` bytes together.
    pub fn new(slots: &[u16], merge: Merge, version: Version, limit: usize) -> Self {
        let part = |&slot| (Leg::new(slot, Key::NONE), Part::Waiting { arriving: 0 });
        Self {
            parts: slots.iter().map(part).collect(),
            near: Vec::new(),
            held: 0,
            kept: 0,
            limit: limit.min(u32::MAX as usize),
            left: slots.len(),
            too_large: false,
            merge,
            version,
        }
    }

    /// The leg of a part that waits for a reply.
    pub fn leg(&self, part: u16) -> Option<&Leg> {
        self.parts.get(usize::from(part)).filter(|(_, p)| p.is_waiting()).map(|(leg, _)| leg)
    }

    /// The same, to be changed.
    pub fn leg_mut(&mut self, part: u16) -> Option<&mut Leg> {
        self.parts.get_mut(usize::from(part)).filter(|(_, p)| p.is_waiting()).map(|(leg, _)| leg)
    }

    /// The legs that wait for a reply.
    pub fn waiting_legs(&self) -> impl Iterator<Item = &Leg> {
        self.parts.iter().filter(|(_, p)| p.is_waiting()).map(|(leg, _)| leg)
    }

    /// Bytes of the replies that are kept here.
    pub fn holds_bytes(&self) -> usize {
        self.kept
    }

    /// True when every part has its reply.
    pub fn is_whole(&self) -> bool {
        self.left == 0
    }

    /// So many bytes of the reply of a part are there, and not all. False: they are not wanted.
    pub fn arriving(&mut self, part: u16, len: usize) -> bool {
        if let Some((_, Part::Waiting { arriving })) = self.parts.get_mut(usize::from(part)) {
            self.held = self.held - *arriving + len;
            *arriving = len;
            self.check_limit();
        }
        !self.too_large
    }

    /// Takes the reply of a part; false when it is not awaited.
    pub fn fill(&mut self, part: u16, reply: Reply<'_>) -> bool {
        let Some((_, part)) = self.parts.get_mut(usize::from(part)) else {
            return false;
        };
        let Part::Waiting { arriving } = *part else {
            return false;
        };
        self.held = self.held - arriving + reply.as_slice().len();
        self.left -= 1;
        self.kept += reply.as_slice().len();
        *part = match reply {
            _ if self.too_large || self.held > self.limit => {
                self.kept = 0;
                Part::Dropped
            }
            Reply::Shared(bytes) if bytes.len() >= LARGE => Part::Far(bytes),
            reply => {
                let bytes = reply.as_slice();
                if self.near.capacity() == 0 {
                    // The others are probably alike.
                    self.near.reserve((bytes.len() * (self.left + 1)).min(LARGE));
                }
                let at = self.near.len() as u32;
                self.near.extend_from_slice(bytes);
                Part::Near { at, len: bytes.len() as u32 }
            }
        };
        self.check_limit();
        true
    }

    /// Beyond the limit nothing is kept.
    fn check_limit(&mut self) {
        if self.held <= self.limit || self.too_large {
            return;
        }
        self.too_large = true;
        self.near = Vec::new();
        self.kept = 0;
        for (_, part) in &mut self.parts {
            if !part.is_waiting() {
                *part = Part::Dropped;
            }
        }
    }

    /// The one reply of all parts, in pieces; `row` is the command's.
    pub fn into_reply(self, row: Option<&Row>) -> Vec<Bytes> {
        if self.too_large {
            let mut out = Vec::new();
            encode::error(&mut out, &too_large(row, self.limit));
            return vec![out.into()];
        }
        let is_far = |(_, part): &(Leg, Part)| matches!(part, Part::Far(_));
        if self.merge == Merge::Concat && self.parts.iter().any(is_far) {
            return self.in_pieces();
        }
        let mut out = Vec::with_capacity(self.held + MERGED_HEAD);
        let parts = self.parts.iter().map(|(_, part)| match part {
            Part::Near { at, len } => &self.near[*at as usize..(*at + *len) as usize],
            Part::Far(bytes) => &bytes[..],
            Part::Waiting { .. } | Part::Dropped => &[],
        });
        self.merge.merge(parts, self.version, &mut out);
        vec![out.into()]
    }

    /// Arrays one behind the other, the large ones by reference.
    fn in_pieces(self) -> Vec<Bytes> {
        let mut head = Vec::new();
        let near = Bytes::from(self.near);
        let parts: Vec<Bytes> = self
            .parts
            .into_iter()
            .map(|(_, part)| match part {
                Part::Near { at, len } => near.slice(at as usize..(at + len) as usize),
                Part::Far(bytes) => bytes,
                Part::Waiting { .. } | Part::Dropped => Bytes::new(),
            })
            .collect();
        if let Some(bodies) = merge::concat_head(parts.iter().map(|p| &p[..]), &mut head) {
            let bodies = parts.into_iter().zip(bodies).map(|(part, at)| part.slice(at..));
            return std::iter::once(head.into()).chain(bodies).collect();
        }
        self.merge.merge(parts.iter().map(|p| &p[..]), self.version, &mut head);
        vec![head.into()]
    }
}

impl Part {
    fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting { .. })
    }
}

fn too_large(row: Option<&Row>, limit: usize) -> String {
    let name = row.map_or("this command", |row| row.name).replace('|', " ");
    let limit = match limit >> 20 {
        0 => format!("{limit} bytes"),
        mebibytes => format!("{mebibytes} MiB"),
    };
    let instead = if name == "keys" { "use SCAN" } else { "ask for less at a time" };
    format!(
        "ERR memorystore-auth-proxy: the nodes' replies to '{name}' are larger than {limit} together, the most \
         that is merged; {instead}"
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::command::lookup;

    fn array(items: usize, fill: u8) -> Vec<u8> {
        let mut out = Vec::new();
        encode::header(&mut out, b'*', items as i64);
        (0..items).for_each(|_| encode::bulk(&mut out, &[fill; 100]));
        out
    }

    fn whole(c: Composite, name: &str) -> Vec<u8> {
        assert!(c.is_whole());
        c.into_reply(lookup::command(name.as_bytes())).concat()
    }

    proptest! {
        /// However the parts come, the reply is what the merge makes of them, and nothing is held
        /// beyond the limit.
        #[test]
        fn parts_in_any_order_and_size(
            sizes in proptest::collection::vec(0usize..600, 1..6),
            seed: u64,
            limit in 0usize..200_000,
            sums: bool,
        ) {
            let merge = if sums { Merge::Union } else { Merge::Concat };
            let parts: Vec<Vec<u8>> =
                sizes.iter().enumerate().map(|(i, &n)| array(n, b'a' + i as u8)).collect();
            let slots = vec![0; parts.len()];
            let mut c = Composite::new(&slots, merge.clone(), Version::V2, limit);
            let mut order: Vec<usize> = (0..parts.len()).collect();
            fastrand::Rng::with_seed(seed).shuffle(&mut order);
            for i in order {
                let reply = &parts[i];
                c.arriving(i as u16, reply.len() / 2);
                let shared = i % 2 == 0;
                let given =
                    if shared { Reply::Shared(reply.clone().into()) } else { Reply::Borrowed(reply) };
                prop_assert!(c.fill(i as u16, given));
                prop_assert!(!c.fill(i as u16, Reply::Borrowed(b"*0\r\n")), "twice");
                let kept = c.near.len() + c.parts.iter().map(|(_, p)| match p {
                    Part::Far(b) => b.len(),
                    _ => 0,
                }).sum::<usize>();
                prop_assert!(kept <= limit);
            }
            let total: usize = parts.iter().map(Vec::len).sum();
            let got = whole(c, "keys");
            if total > limit {
                prop_assert!(got.starts_with(b"-ERR memorystore-auth-proxy") && got.ends_with(b"use SCAN\r\n"));
            } else {
                let mut want = Vec::new();
                merge.merge(parts.iter().map(Vec::as_slice), Version::V2, &mut want);
                prop_assert_eq!(got, want);
            }
        }
    }

    #[test]
    fn what_is_still_arriving_counts() {
        let mut c = Composite::new(&[0, 1, 2], Merge::Concat, Version::V2, 1000);
        assert!(c.arriving(0, 400) && c.arriving(1, 400) && c.arriving(0, 500));
        assert!(!c.arriving(2, 101), "together they are too many");
        assert!(!c.arriving(0, 600), "and all are let go");
        for part in 0..3 {
            assert!(c.fill(part, Reply::Borrowed(b"*0\r\n")));
        }
        let text = String::from_utf8(whole(c, "mget")).expect("text");
        assert!(
            text.contains("'mget' are larger than 1000 bytes") && text.contains("ask for less")
        );
    }

    #[test]
    fn large_arrays_are_not_copied() {
        let mut c = Composite::new(&[0, 1], Merge::Concat, Version::V2, 1 << 20);
        let big: Bytes = array(1000, b'x').into();
        assert!(c.fill(0, Reply::Shared(big.clone())));
        assert!(c.fill(1, Reply::Borrowed(b"*1\r\n:7\r\n")));
        let pieces = c.into_reply(None);
        assert_eq!(&pieces[0][..], b"*1001\r\n");
        assert_eq!(pieces[1].as_ptr(), big[b"*1000\r\n".len()..].as_ptr());
        assert_eq!(&pieces[2][..], b":7\r\n");
    }

    #[test]
    fn an_error_of_one_part_is_the_reply() {
        let mut c = Composite::new(&[0, 1], Merge::Concat, Version::V2, 1 << 20);
        assert!(c.fill(0, Reply::Borrowed(b"*1\r\n:7\r\n")));
        assert!(c.fill(1, Reply::Borrowed(b"-NOPERM no\r\n")));
        assert_eq!(whole(c, "keys"), b"-NOPERM no\r\n");
    }
}
