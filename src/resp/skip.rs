//! Walks to the end of a reply nobody wants, keeping none of it.
//!
//! Invariant: it ends where [`super::scan::ReplyScanner`] would, however the reply is cut; it holds no
//! more than one line of it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::scan::{Line, ReplyError, number_line};

/// Longest line (bytes): a simple string, an error, a number or a length.
const MAX_LINE: usize = 1024 * 1024;

/// Longest string (bytes); a server sends none longer than 512 MB.
const MAX_STRING: i64 = 4 * super::scan::MAX_BULK as i64;

/// Position inside a reply that is being skipped.
#[derive(Debug)]
pub struct ReplySkipper {
    /// Elements that are still to come.
    due: u64,
    /// Bytes of a string that are still to come, its line end included.
    owed: usize,
    /// A line that has not come whole.
    line: Vec<u8>,
}

impl Default for ReplySkipper {
    fn default() -> Self {
        Self { due: 1, owed: 0, line: Vec::new() }
    }
}

impl ReplySkipper {
    /// Skips over the next bytes of the reply. `Some(n)`: it ended with the first `n` of them; `None`:
    /// all of them belong to it, and more are to come.
    ///
    /// # Errors
    /// [`ReplyError`] when the bytes are not RESP.
    pub fn skip(&mut self, mut data: &[u8]) -> Result<Option<usize>, ReplyError> {
        let all = data.len();
        while self.due > 0 || self.owed > 0 {
            if data.is_empty() {
                return Ok(None);
            }
            if self.owed > 0 {
                let n = self.owed.min(data.len());
                self.owed -= n;
                data = &data[n..];
                continue;
            }
            let end = data.iter().position(|&b| b == b'\n').map_or(data.len(), |at| at + 1);
            let (head, rest) = data.split_at(end);
            self.line.extend_from_slice(head);
            data = rest;
            if self.line.len() > MAX_LINE {
                return Err(ReplyError);
            }
            if self.line.ends_with(b"\r\n") {
                self.element()?;
                self.line.clear();
            }
        }
        Ok(Some(all - data.len()))
    }

    /// Takes note of a whole line.
    fn element(&mut self) -> Result<(), ReplyError> {
        let (&kind, rest) = self.line.split_first().ok_or(ReplyError)?;
        let number = || match number_line(rest, 0) {
            Line::Number(n, end) if end == rest.len() => Ok(n),
            _ => Err(ReplyError),
        };
        self.due -= 1;
        match kind {
            b'+' | b'-' | b':' | b',' | b'_' | b'#' | b'(' => {}
            b'$' | b'=' | b'!' => match number()? {
                n if n > MAX_STRING => return Err(ReplyError),
                n if n >= 0 => self.owed = n as usize + 2,
                _ => {}
            },
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let n = number()?.max(0) as u64;
                if n > u64::from(u32::MAX) {
                    return Err(ReplyError);
                }
                self.due += match kind {
                    b'%' => 2 * n,
                    // An attribute is followed by the reply it belongs to.
                    b'|' => 2 * n + 1,
                    _ => n,
                };
            }
            _ => return Err(ReplyError),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::scan::{ReplyScan, ReplyScanner};
    use super::*;

    /// Replies of all kinds, nested.
    fn reply() -> impl Strategy<Value = Vec<u8>> {
        let leaf = prop_oneof![
            "[a-z \n]{0,20}".prop_map(|s| format!("+{s}\r\n").into_bytes()),
            any::<i64>().prop_map(|n| format!(":{n}\r\n").into_bytes()),
            Just(b"$-1\r\n".to_vec()),
            Just(b"*-1\r\n".to_vec()),
            Just(b"_\r\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..300).prop_map(|b| {
                [format!("${}\r\n", b.len()).as_bytes(), &b[..], b"\r\n"].concat()
            }),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            (
                prop::sample::select(&b"*~%|>"[..]),
                proptest::collection::vec(inner.clone(), 0..6),
                inner,
            )
                .prop_map(|(kind, mut items, behind)| {
                    if matches!(kind, b'%' | b'|') && items.len() % 2 == 1 {
                        items.pop();
                    }
                    let n = if matches!(kind, b'%' | b'|') { items.len() / 2 } else { items.len() };
                    let mut out = format!("{}{n}\r\n", kind as char).into_bytes();
                    items.iter().for_each(|i| out.extend_from_slice(i));
                    if kind == b'|' {
                        out.extend_from_slice(&behind);
                    }
                    out
                })
        })
    }

    proptest! {
        #[test]
        fn it_ends_where_the_scanner_does(
            wire in reply(),
            behind in proptest::collection::vec(any::<u8>(), 0..20),
            cuts in proptest::collection::vec(1usize..40, 1..40),
        ) {
            let scan = ReplyScanner::default().scan(&wire);
            prop_assert_eq!(scan, Ok(ReplyScan::Complete(wire.len())));
            let all = [&wire[..], &behind].concat();
            let mut skipper = ReplySkipper::default();
            let (mut at, mut cut) = (0, 0);
            let ended = loop {
                let end = (at + cuts[cut % cuts.len()]).min(all.len());
                match skipper.skip(&all[at..end]).expect("RESP") {
                    Some(n) => break at + n,
                    None => at = end,
                }
                cut += 1;
            };
            prop_assert_eq!(ended, wire.len());
        }

        /// Found by fuzzing: lengths that the two once read differently.
        #[test]
        fn what_the_scanner_refuses_is_not_skipped(
            length in "[-+0-9]{1,24}",
            kind in prop::sample::select(&b"$*"[..]),
        ) {
            let wire = [&[kind], length.as_bytes(), b"\r\n"].concat();
            if ReplyScanner::default().scan(&wire).is_err() {
                prop_assert!(ReplySkipper::default().skip(&wire).is_err(), "{}", length);
            }
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(
            proptest::sample::select(&b"*$%~>|+-:_#,(=!019\r\nab"[..]), 0..80)) {
            let _ = ReplySkipper::default().skip(&bytes);
        }
    }
}
