//! A queue of bytes to be written, that can keep what was written until it is let go.
//!
//! Both directions use it: towards a client, bytes are let go as soon as they are written; towards
//! a node, they stay until their reply is in, so that a retry needs no other copy. Offsets are
//! absolute (bytes since the queue was made). Invariant: `released <= sent <= end`, and a frame
//! pushed in one call lies in one segment. Small frames are gathered by copy into one segment, so
//! that one system call carries many; frames of [`LARGE`] bytes and more travel as their own
//! reference-counted segment and are never copied. It does no I/O.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

/// From this size (bytes) a frame travels by reference instead of by copy.
pub const LARGE: usize = 16 * 1024;

/// A gathering segment takes no further frame beyond this size (bytes).
const SEGMENT: usize = 64 * 1024;

/// A spare gathering segment larger than this (bytes) is given back to the allocator when idle.
const KEEP: usize = 16 * 1024;

/// Most room made for bytes that a peer promised and has not sent (bytes).
const AHEAD: usize = 1024 * 1024;

/// Room to make for a frame of `need` bytes of which `have` have come: a length is a claim, and whoever
/// claims 512 MB and sends nothing is not given them.
pub fn room(need: usize, have: usize) -> usize {
    need.saturating_sub(have).min(AHEAD)
}

/// Most slices one gathered write carries.
pub const MAX_SLICES: usize = 16;

#[derive(Debug)]
enum Segment {
    Gathered(Vec<u8>),
    Shared(Bytes),
}

impl Segment {
    fn as_slice(&self) -> &[u8] {
        match self {
            Segment::Gathered(v) => v,
            Segment::Shared(b) => b,
        }
    }
}

/// See the module header.
#[derive(Debug, Default)]
pub struct ByteQueue {
    segments: VecDeque<Segment>,
    /// Offset of the first byte of `segments[0]`.
    base: u64,
    released: u64,
    sent: u64,
    end: u64,
    spare: Option<Vec<u8>>,
    /// What the last burst needed of a segment that was given back (bytes): the next one, which is
    /// probably alike, begins with that instead of growing to it (a SET of 16 in 50 pipelines: 1
    /// allocation a node instead of 9).
    burst: u32,
}

impl ByteQueue {
    /// Bytes pushed but not yet sent.
    pub fn unsent(&self) -> usize {
        (self.end - self.sent) as usize
    }

    /// Bytes held in memory for this queue, sent or not.
    pub fn held(&self) -> usize {
        (self.end - self.released) as usize
    }

    /// Offset of the next byte to send.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Offset behind the last byte pushed.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Appends a frame by copy.
    #[inline]
    pub fn push(&mut self, frame: &[u8]) {
        self.end += frame.len() as u64;
        if let Some(Segment::Gathered(last)) = self.segments.back_mut()
            && (last.len() + frame.len() <= SEGMENT || last.is_empty())
        {
            last.extend_from_slice(frame);
            return;
        }
        self.push_segment(frame);
    }

    #[cold]
    fn push_segment(&mut self, frame: &[u8]) {
        let room = (self.burst as usize).max(frame.len());
        let mut segment = self.spare.take().unwrap_or_else(|| Vec::with_capacity(room));
        segment.extend_from_slice(frame);
        self.segments.push_back(Segment::Gathered(segment));
    }

    /// Appends a frame by reference when it is large, else by copy.
    pub fn push_shared(&mut self, frame: Bytes) {
        if frame.len() < LARGE {
            self.push(&frame);
        } else {
            self.end += frame.len() as u64;
            self.segments.push_back(Segment::Shared(frame));
        }
    }

    /// The unsent bytes as slices for one gathered write; returns how many slices were filled.
    pub fn unsent_slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        // Walk back from the end: what is unsent is nearly always the last segment.
        let mut start = self.end;
        let mut first = self.segments.len();
        while first > 0 && start > self.sent {
            first -= 1;
            start -= self.segments[first].as_slice().len() as u64;
        }
        let mut filled = 0;
        for segment in self.segments.range(first..) {
            if filled == slices.len() {
                break;
            }
            let bytes = segment.as_slice();
            let skip = self.sent.saturating_sub(start) as usize;
            start += bytes.len() as u64;
            if skip < bytes.len() {
                slices[filled] = IoSlice::new(&bytes[skip..]);
                filled += 1;
            }
        }
        filled
    }

    /// Notes that `n` more bytes were written.
    pub fn mark_sent(&mut self, n: usize) {
        debug_assert!(self.sent + n as u64 <= self.end);
        self.sent += n as u64;
    }

    /// Lets go of the oldest `n` bytes; they must have been sent, or be given up.
    #[inline]
    pub fn release(&mut self, n: usize) {
        self.released += n as u64;
        debug_assert!(self.released <= self.end);
        self.sent = self.sent.max(self.released);
        if self.released == self.end {
            self.reset();
            return;
        }
        while let Some(first) = self.segments.front() {
            let end = self.base + first.as_slice().len() as u64;
            if end > self.released {
                break;
            }
            self.base = end;
            if let Some(Segment::Gathered(mut v)) = self.segments.pop_front()
                && self.spare.is_none()
            {
                v.clear();
                self.spare = Some(v);
            }
        }
    }

    /// Everything was let go: keep one small buffer for the next burst, give the rest back.
    #[inline]
    fn reset(&mut self) {
        self.base = self.end;
        if let [Segment::Gathered(only)] = self.segments.make_contiguous()
            && only.capacity() <= KEEP
        {
            only.clear();
            return;
        }
        let largest = self.segments.iter().map(|s| match s {
            Segment::Gathered(v) => v.len(),
            Segment::Shared(_) => 0,
        });
        self.burst = largest.max().unwrap_or(0).min(SEGMENT) as u32;
        self.segments.clear();
        self.spare = None;
    }

    /// Notes that `n` bytes were written and need not be kept.
    pub fn consume(&mut self, n: usize) {
        self.mark_sent(n);
        self.release(n);
    }

    /// A copy (or a reference, for large frames) of the frame at `offset`, pushed with `len` bytes.
    ///
    /// `None` if that range is no longer held or not one frame.
    pub fn frame_at(&self, offset: u64, len: usize) -> Option<Bytes> {
        let mut start = self.base;
        for segment in &self.segments {
            let bytes = segment.as_slice();
            let end = start + bytes.len() as u64;
            if offset < end {
                let from = offset.checked_sub(start)? as usize;
                return match segment {
                    Segment::Shared(b) if from == 0 && len == b.len() => Some(b.clone()),
                    _ => bytes.get(from..from + len).map(Bytes::copy_from_slice),
                };
            }
            start = end;
        }
        None
    }

    /// Gives idle memory back: called when a connection has nothing left to say.
    pub fn shrink(&mut self) {
        if self.released == self.end {
            self.segments = VecDeque::new();
            self.spare = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unsent(q: &ByteQueue) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let n = q.unsent_slices(&mut slices);
        slices[..n].iter().flat_map(|s| s.iter().copied()).collect()
    }

    #[test]
    fn keeps_sent_bytes_until_released() {
        let mut q = ByteQueue::default();
        q.push(b"first");
        q.push(b"second");
        q.mark_sent(11);
        assert_eq!(q.unsent(), 0);
        assert_eq!(q.frame_at(5, 6).as_deref(), Some(&b"second"[..]));
        q.release(5);
        assert_eq!(q.held(), 6);
        assert_eq!(q.frame_at(5, 6).as_deref(), Some(&b"second"[..]));
        q.release(6);
        assert_eq!(q.frame_at(5, 6), None);
        q.push(b"third");
        assert_eq!(unsent(&q), b"third");
    }

    #[test]
    fn large_frames_are_shared_not_copied() {
        let mut q = ByteQueue::default();
        let big = Bytes::from(vec![7u8; LARGE]);
        q.push(b"x");
        q.push_shared(big.clone());
        let again = q.frame_at(1, LARGE).expect("held");
        assert_eq!(again.as_ptr(), big.as_ptr());
    }

    proptest! {
        /// Against a plain vector: whatever the mix of pushes, partial sends and releases, the
        /// unsent bytes and every frame still held read back exactly.
        #[test]
        fn equals_a_plain_vector(ops in proptest::collection::vec((0u8..4, 1usize..40_000), 1..60)) {
            let mut q = ByteQueue::default();
            let mut all: Vec<u8> = Vec::new();
            let mut frames: VecDeque<(u64, usize)> = VecDeque::new();
            let mut sent = 0usize;
            for (i, (op, n)) in ops.into_iter().enumerate() {
                match op {
                    0 | 1 => {
                        let frame: Vec<u8> = (0..n).map(|j| (i * 31 + j) as u8).collect();
                        frames.push_back((all.len() as u64, n));
                        all.extend_from_slice(&frame);
                        if op == 0 { q.push(&frame) } else { q.push_shared(frame.into()) }
                    }
                    2 => {
                        let got = unsent(&q);
                        prop_assert_eq!(&got[..], &all[sent..sent + got.len()]);
                        let k = n.min(got.len());
                        q.mark_sent(k);
                        sent += k;
                    }
                    _ => {
                        if let Some(&(off, len)) = frames.front() && off as usize + len <= sent {
                            q.release(len);
                            frames.pop_front();
                        }
                    }
                }
                for &(off, len) in &frames {
                    let held = q.frame_at(off, len).expect("still held");
                    prop_assert_eq!(&held[..], &all[off as usize..off as usize + len]);
                }
                prop_assert_eq!(q.unsent(), all.len() - sent);
            }
        }
    }
}
