//! A view of one request: its bytes and where its arguments stand.
//!
//! Invariant: ranges always lie inside the frame they were scanned from; nothing is copied.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use bytes::Bytes;

/// Where one argument stands in its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArgRange {
    start: u32,
    len: u32,
}

impl ArgRange {
    /// `start` is relative to the frame's first byte.
    #[inline]
    pub fn new(start: usize, len: usize) -> Self {
        Self { start: start as u32, len: len as u32 }
    }

    /// The argument's bytes in its frame; empty if the frame is not the one it was scanned from.
    #[inline]
    pub fn of(self, frame: &[u8]) -> &[u8] {
        frame.get(self.start as usize..(self.start + self.len) as usize).unwrap_or_default()
    }
}

/// One whole request, multibulk encoded.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The frame as it goes upstream.
    pub frame: &'a [u8],
    /// The same bytes as a reference-counted slice, when the frame is large.
    pub shared: Option<&'a Bytes>,
    args: &'a [ArgRange],
}

impl<'a> Request<'a> {
    /// A view over `frame`, whose arguments stand at `args`.
    #[inline]
    pub fn new(frame: &'a [u8], shared: Option<&'a Bytes>, args: &'a [ArgRange]) -> Self {
        Self { frame, shared, args }
    }

    /// Number of arguments, the command name included.
    #[inline]
    pub fn len(&self) -> usize {
        self.args.len()
    }

    /// True for `*0`, which Redis ignores.
    pub fn is_empty(&self) -> bool {
        self.args.is_empty()
    }

    /// Argument `i` (0 is the name); empty when there is none.
    #[inline]
    pub fn arg(&self, i: usize) -> &'a [u8] {
        self.args.get(i).map(|a| a.of(self.frame)).unwrap_or_default()
    }

    /// All arguments in order.
    pub fn args(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let frame = self.frame;
        self.args.iter().map(move |a| a.of(frame))
    }

    /// The frame as an owned, reference-counted slice.
    pub fn to_bytes(&self) -> Bytes {
        self.shared.cloned().unwrap_or_else(|| Bytes::copy_from_slice(self.frame))
    }
}

impl crate::command::keys::Args for Request<'_> {
    #[inline]
    fn len(&self) -> usize {
        self.args.len()
    }

    #[inline]
    fn get(&self, i: usize) -> &[u8] {
        self.arg(i)
    }
}

/// Finds the arguments of a frame known to be whole and valid.
pub fn fill_args(frame: &[u8], args: &mut Vec<ArgRange>) {
    args.clear();
    let mut pos = skip_line(frame, 0);
    while pos < frame.len() {
        let start = skip_line(frame, pos);
        let len = frame[pos + 1..start]
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .fold(0usize, |n, b| n * 10 + usize::from(b - b'0'));
        args.push(ArgRange::new(start, len));
        pos = start + len + 2;
    }
}

fn skip_line(frame: &[u8], from: usize) -> usize {
    frame[from..].iter().position(|&b| b == b'\n').map_or(frame.len(), |i| from + i + 1)
}
