//! Where a request or a reply ends: resumable scanners over raw bytes.
//!
//! The hottest code we own. Each scanner keeps only a position and how many elements are still
//! due, so a frame that arrives in many reads is walked once, not once a read. Invariant: `scan`
//! returns a length only when the whole frame is in the buffer, and never looks behind it; the
//! caller passes the same frame start on every call until it completes. Nesting needs no stack
//! (elements due are one sum), so depth costs nothing. It does not interpret what it walks, save
//! for the argument ranges of requests.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::request::ArgRange;

/// `proto-max-bulk-len` of Redis: the longest bulk string (bytes).
pub const MAX_BULK: usize = 512 * 1024 * 1024;

/// The most arguments one request may have (Redis allows 2^31-1; this bounds memory instead).
pub const MAX_ARGS: usize = 1024 * 1024;

/// The longest inline request and the longest length line of a request (bytes), as in Redis.
pub const MAX_INLINE: usize = 64 * 1024;

/// The longest simple string, error, number or length line of a reply (bytes).
const MAX_REPLY_LINE: usize = 1024 * 1024;

/// What a client did wrong, in Redis's own words; the connection ends after the error reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestError {
    /// `*` was not followed by a number in range.
    MultibulkLength,
    /// An argument did not start with `$` but with this byte.
    ExpectedDollar(u8),
    /// `$` was not followed by a number in range.
    BulkLength,
    /// The `*` line does not end.
    BigMultibulkCount,
    /// A `$` line does not end.
    BigBulkCount,
    /// An inline request does not end.
    BigInline,
    /// Quotes of an inline request do not match.
    UnbalancedQuotes,
    /// The request is larger than the proxy's own limit.
    TooLarge,
    /// More arguments than a client may send that has not said who it is.
    UnauthenticatedMultibulk,
    /// A longer argument than such a client may send.
    UnauthenticatedBulk,
}

impl RequestError {
    /// The error reply, as Redis words it, with CRLF.
    pub fn reply(self) -> Vec<u8> {
        let text: &[u8] = match self {
            Self::MultibulkLength => b"invalid multibulk length",
            Self::BulkLength => b"invalid bulk length",
            Self::BigMultibulkCount => b"too big mbulk count string",
            Self::BigBulkCount => b"too big bulk count string",
            Self::BigInline => b"too big inline request",
            Self::UnbalancedQuotes => b"unbalanced quotes in request",
            Self::TooLarge => b"the request is larger than --max-request-bytes",
            Self::UnauthenticatedMultibulk => b"unauthenticated multibulk length",
            Self::UnauthenticatedBulk => b"unauthenticated bulk length",
            Self::ExpectedDollar(got) => {
                let mut out = b"-ERR Protocol error: expected '$', got '".to_vec();
                // Redis prints the byte as it is; line breaks would break the frame.
                out.push(if got == b'\r' || got == b'\n' { b' ' } else { got });
                out.extend_from_slice(b"'\r\n");
                return out;
            }
        };
        [b"-ERR Protocol error: ", text, b"\r\n"].concat()
    }
}

/// Outcome of scanning a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestScan {
    /// A whole multibulk request of this many bytes; its argument ranges were filled in.
    Multibulk(usize),
    /// An inline request: a line of this many bytes, line end included.
    Inline(usize),
    /// More bytes are needed; at least this many in all, counted from the frame's start.
    Partial(usize),
}

/// Position inside a request that has not arrived whole.
#[derive(Debug, Default, Clone, Copy)]
pub struct RequestScanner {
    pos: usize,
    due: usize,
}

/// A decimal of a length line: value and position behind its CRLF.
#[derive(Clone, Copy)]
pub(super) enum Line {
    Number(i64, usize),
    NotANumber,
    Partial,
}

/// Reads `digits CRLF` at `pos`. Optimised for one- and two-digit lengths.
///
/// As strict as servers are (no leading zero, no `-0`): a request goes upstream as it came, and a node
/// that refuses it closes a connection which others share.
#[inline(always)]
pub(super) fn number_line(buf: &[u8], pos: usize) -> Line {
    let mut i = pos;
    let mut value: i64 = 0;
    let negative = buf.get(i) == Some(&b'-');
    if negative {
        i += 1;
    }
    let digits = i;
    while let Some(&b) = buf.get(i) {
        let d = b.wrapping_sub(b'0');
        if d > 9 {
            break;
        }
        if i - digits > 17 {
            return not_a_number(buf, pos);
        }
        value = value * 10 + i64::from(d);
        i += 1;
    }
    match buf.get(i) {
        Some(b'\r') if i > digits => match buf.get(i + 1) {
            // Redis skips the byte behind CR unseen; only a true CRLF is accepted here.
            Some(b'\n') if i - pos > 1 && buf.get(digits) == Some(&b'0') => Line::NotANumber,
            Some(b'\n') => Line::Number(if negative { -value } else { value }, i + 2),
            Some(_) => Line::NotANumber,
            None => Line::Partial,
        },
        Some(_) => not_a_number(buf, pos),
        None => Line::Partial,
    }
}

/// As Redis does: a line is judged when its end is there, not before.
#[cold]
fn not_a_number(buf: &[u8], pos: usize) -> Line {
    if buf[pos..].contains(&b'\r') { Line::NotANumber } else { Line::Partial }
}

impl RequestScanner {
    /// Scans the request that starts at `buf[0]`; `args` is cleared and filled when it is whole.
    ///
    /// # Errors
    /// The protocol error a Redis server would report; the connection cannot go on after it.
    #[inline]
    pub fn scan(
        &mut self,
        buf: &[u8],
        args: &mut Vec<ArgRange>,
        max_request: usize,
    ) -> Result<RequestScan, RequestError> {
        args.clear();
        let resumed = self.pos > 0;
        if !resumed {
            match buf.first() {
                None => return Ok(RequestScan::Partial(1)),
                Some(b'*') => {}
                Some(_) => return scan_inline(buf),
            }
            match number_line(buf, 1) {
                Line::Number(n, next) => {
                    if n > MAX_ARGS as i64 {
                        return Err(RequestError::MultibulkLength);
                    }
                    self.due = n.max(0) as usize;
                    self.pos = next;
                }
                Line::NotANumber => return Err(RequestError::MultibulkLength),
                Line::Partial if buf.len() > MAX_INLINE => {
                    return Err(RequestError::BigMultibulkCount);
                }
                Line::Partial => return Ok(RequestScan::Partial(buf.len() + 1)),
            }
        }
        while self.due > 0 {
            let Some(&kind) = buf.get(self.pos) else {
                return Ok(RequestScan::Partial(buf.len() + 1));
            };
            if kind != b'$' {
                return Err(RequestError::ExpectedDollar(kind));
            }
            let (len, start) = match number_line(buf, self.pos + 1) {
                Line::Number(n, next) if (0..=MAX_BULK as i64).contains(&n) => (n as usize, next),
                Line::Partial if buf.len() - self.pos > MAX_INLINE => {
                    return Err(RequestError::BigBulkCount);
                }
                Line::Partial => return Ok(RequestScan::Partial(buf.len() + 1)),
                _ => return Err(RequestError::BulkLength),
            };
            let end = start + len + 2;
            if end > max_request {
                return Err(RequestError::TooLarge);
            }
            if buf.len() < end {
                return Ok(RequestScan::Partial(end));
            }
            args.push(ArgRange::new(start, len));
            self.pos = end;
            self.due -= 1;
        }
        let total = self.pos;
        *self = Self::default();
        if resumed {
            super::request::fill_args(&buf[..total], args);
        }
        Ok(RequestScan::Multibulk(total))
    }

    /// True while a request has been begun and not finished.
    pub fn in_request(&self) -> bool {
        self.pos > 0
    }
}

fn scan_inline(buf: &[u8]) -> Result<RequestScan, RequestError> {
    match buf.iter().take(MAX_INLINE + 1).position(|&b| b == b'\n') {
        Some(i) => Ok(RequestScan::Inline(i + 1)),
        None if buf.len() > MAX_INLINE => Err(RequestError::BigInline),
        None => Ok(RequestScan::Partial(buf.len() + 1)),
    }
}

/// A reply that is not RESP; the upstream connection cannot be trusted any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node sent bytes that are not RESP")]
pub struct ReplyError;

/// Outcome of scanning a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyScan {
    /// A whole reply of this many bytes.
    Complete(usize),
    /// More bytes are needed; at least this many in all, counted from the reply's start.
    Partial(usize),
}

/// Position inside a reply that has not arrived whole.
#[derive(Debug, Clone, Copy)]
pub struct ReplyScanner {
    pos: usize,
    due: u64,
}

impl Default for ReplyScanner {
    fn default() -> Self {
        Self { pos: 0, due: 1 }
    }
}

impl ReplyScanner {
    /// Scans the reply (RESP2 or RESP3, any nesting) that starts at `buf[0]`.
    ///
    /// # Errors
    /// [`ReplyError`] when the bytes are not RESP.
    #[inline]
    pub fn scan(&mut self, buf: &[u8]) -> Result<ReplyScan, ReplyError> {
        while self.due > 0 {
            let Some(&kind) = buf.get(self.pos) else {
                return Ok(ReplyScan::Partial(self.pos + 1));
            };
            let body = self.pos + 1;
            match kind {
                b'$' | b'=' | b'!' => match number_line(buf, body) {
                    Line::Number(n, next) => {
                        if n > MAX_BULK as i64 * 4 {
                            return Err(ReplyError);
                        }
                        let end = if n < 0 { next } else { next + n as usize + 2 };
                        if buf.len() < end {
                            return Ok(ReplyScan::Partial(end));
                        }
                        self.pos = end;
                        self.due -= 1;
                    }
                    Line::Partial => return self.partial_line(buf),
                    Line::NotANumber => return Err(ReplyError),
                },
                b'+' | b'-' | b':' | b',' | b'_' | b'#' | b'(' => {
                    match find_line_end(&buf[body..]) {
                        Some(n) => {
                            self.pos = body + n;
                            self.due -= 1;
                        }
                        None => return self.partial_line(buf),
                    }
                }
                b'*' | b'~' | b'>' | b'%' | b'|' => match number_line(buf, body) {
                    Line::Number(n, next) => {
                        let n = n.max(0) as u64;
                        if n > u64::from(u32::MAX) {
                            return Err(ReplyError);
                        }
                        self.due += match kind {
                            b'%' => 2 * n,
                            // An attribute is followed by the reply it belongs to.
                            b'|' => 2 * n + 1,
                            _ => n,
                        };
                        self.due -= 1;
                        self.pos = next;
                    }
                    Line::Partial => return self.partial_line(buf),
                    Line::NotANumber => return Err(ReplyError),
                },
                _ => return Err(ReplyError),
            }
        }
        let total = self.pos;
        *self = Self::default();
        Ok(ReplyScan::Complete(total))
    }

    fn partial_line(&self, buf: &[u8]) -> Result<ReplyScan, ReplyError> {
        if buf.len() - self.pos > MAX_REPLY_LINE {
            return Err(ReplyError);
        }
        Ok(ReplyScan::Partial(buf.len() + 1))
    }
}

/// Bytes up to and including the next CRLF. Reply lines are short: a plain loop wins.
#[inline]
fn find_line_end(buf: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let i = from + buf[from..].iter().position(|&b| b == b'\r')?;
        match buf.get(i + 1) {
            Some(b'\n') => return Some(i + 2),
            Some(_) => from = i + 1,
            None => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(buf: &[u8]) -> Result<(RequestScan, Vec<ArgRange>), RequestError> {
        let mut args = Vec::new();
        let scan = RequestScanner::default().scan(buf, &mut args, usize::MAX)?;
        Ok((scan, args))
    }

    #[test]
    fn request_ends_where_its_last_argument_ends() {
        let buf = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n$4\r\nPING\r\n";
        let (scan, args) = whole(buf).expect("valid");
        assert_eq!(scan, RequestScan::Multibulk(20));
        assert_eq!(args.iter().map(|a| a.of(buf)).collect::<Vec<_>>(), [&b"GET"[..], b"k"]);
    }

    #[test]
    fn protocol_errors_are_redis_words() {
        let cases: [(&[u8], &str); 9] = [
            (b"*x\r\n", "invalid multibulk length"),
            (b"*1048577\r\n", "invalid multibulk length"),
            (b"*1\r\n:1\r\n", "expected '$', got ':'"),
            (b"*1\r\n$-1\r\n", "invalid bulk length"),
            (b"*1\r\n$536870913\r\n", "invalid bulk length"),
            (b"*1\r\n$a\r\n", "invalid bulk length"),
            (b"*1\r\n$01\r\na\r\n", "invalid bulk length"),
            (b"*1\r\n$-0\r\n\r\n", "invalid bulk length"),
            (b"*01\r\n$1\r\na\r\n", "invalid multibulk length"),
        ];
        for (bytes, want) in cases {
            let reply =
                String::from_utf8(whole(bytes).expect_err("invalid").reply()).expect("text");
            assert_eq!(reply, format!("-ERR Protocol error: {want}\r\n"));
        }
    }

    #[test]
    fn inline_is_a_line() {
        assert_eq!(whole(b"PING\r\nx").expect("valid").0, RequestScan::Inline(6));
        assert_eq!(whole(&vec![b'a'; MAX_INLINE + 1]), Err(RequestError::BigInline));
    }

    #[test]
    fn empty_and_negative_multibulk_are_empty_requests() {
        assert_eq!(whole(b"*0\r\n").expect("valid").0, RequestScan::Multibulk(4));
        assert_eq!(whole(b"*-1\r\n").expect("valid").0, RequestScan::Multibulk(5));
    }

    #[test]
    fn deep_nesting_needs_no_stack() {
        let mut buf = b"*1\r\n".repeat(200_000);
        buf.extend_from_slice(b":1\r\n");
        assert_eq!(ReplyScanner::default().scan(&buf), Ok(ReplyScan::Complete(buf.len())));
    }

    #[test]
    fn replies_that_are_not_resp_are_refused() {
        for bad in [&b"hello\r\n"[..], b"$x\r\n", b"*\r\n", b"$?\r\n", b"$00\r\n\r\n"] {
            assert_eq!(ReplyScanner::default().scan(bad), Err(ReplyError), "{bad:?}");
        }
    }

    /// An arbitrary RESP2/RESP3 reply as bytes.
    fn reply() -> impl Strategy<Value = Vec<u8>> {
        let line = "[ -~]{0,12}";
        let leaf = prop_oneof![
            line.prop_map(|s| format!("+{s}\r\n").into_bytes()),
            line.prop_map(|s| format!("-{s}\r\n").into_bytes()),
            any::<i64>().prop_map(|n| format!(":{n}\r\n").into_bytes()),
            Just(b"$-1\r\n".to_vec()),
            Just(b"*-1\r\n".to_vec()),
            Just(b"_\r\n".to_vec()),
            Just(b"#t\r\n".to_vec()),
            any::<f64>().prop_map(|f| format!(",{f}\r\n").into_bytes()),
            proptest::collection::vec(any::<u8>(), 0..40)
                .prop_map(|b| { [format!("${}\r\n", b.len()).as_bytes(), &b, b"\r\n"].concat() }),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            (proptest::sample::select(b"*~>%|".to_vec()), proptest::collection::vec(inner, 0..6))
                .prop_map(|(kind, mut items)| {
                    let n = match kind {
                        b'%' => items.len() / 2,
                        b'|' => items.len().saturating_sub(1) / 2,
                        _ => items.len(),
                    };
                    match kind {
                        b'%' => items.truncate(2 * n),
                        b'|' => {
                            items.truncate(2 * n);
                            items.push(b"+attributed\r\n".to_vec());
                        }
                        _ => {}
                    }
                    let mut out = format!("{}{n}\r\n", kind as char).into_bytes();
                    items.iter().for_each(|i| out.extend_from_slice(i));
                    out
                })
        })
    }

    proptest! {
        /// However a stream of replies is cut into reads, each reply ends where it was made to end.
        #[test]
        fn replies_end_where_they_were_made_to(replies in proptest::collection::vec(reply(), 1..6), cut in 1usize..30) {
            let stream = replies.concat();
            let mut scanner = ReplyScanner::default();
            let (mut start, mut have, mut ends) = (0, 0, Vec::new());
            while start < stream.len() {
                match scanner.scan(&stream[start..have]).expect("valid RESP") {
                    ReplyScan::Complete(n) => { start += n; ends.push(start); }
                    ReplyScan::Partial(need) => {
                        prop_assert!(need > have - start);
                        prop_assert!(start + need <= stream.len());
                        have = (have + cut).min(stream.len());
                    }
                }
            }
            let want: Vec<usize> = replies.iter().scan(0, |at, r| { *at += r.len(); Some(*at) }).collect();
            prop_assert_eq!(ends, want);
        }

        /// The same for requests, and the arguments read back whole.
        #[test]
        fn requests_resume_anywhere(argv in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 1..8), cut in 1usize..20) {
            let mut frame = Vec::new();
            crate::resp::encode::command(&mut frame, &argv);
            let mut scanner = RequestScanner::default();
            let mut args = Vec::new();
            let mut have = 0;
            loop {
                match scanner.scan(&frame[..have], &mut args, usize::MAX).expect("valid") {
                    RequestScan::Multibulk(n) => { prop_assert_eq!(n, frame.len()); break; }
                    RequestScan::Partial(need) => {
                        prop_assert!(need > have && need <= frame.len());
                        have = (have + cut).min(frame.len());
                    }
                    RequestScan::Inline(_) => prop_assert!(false, "not inline"),
                }
            }
            let got: Vec<&[u8]> = args.iter().map(|a| a.of(&frame)).collect();
            prop_assert_eq!(got, argv.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }

        /// No input makes a scanner panic, loop, or claim more bytes than there are.
        #[test]
        fn garbage_is_harmless(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(ReplyScan::Complete(n)) = ReplyScanner::default().scan(&bytes) {
                prop_assert!(n <= bytes.len());
            }
            match whole(&bytes) {
                Ok((RequestScan::Multibulk(n) | RequestScan::Inline(n), _)) => prop_assert!(n <= bytes.len()),
                Ok((RequestScan::Partial(_), _)) | Err(_) => {}
            }
        }
    }
}
