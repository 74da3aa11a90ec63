//! Which reply of a node answers which request: what the front needs to put its own replies at
//! their place in the order.
//!
//! Pure. It knows the commands that are not answered by exactly one reply: the subscribe family
//! (one confirmation each, as pushes in RESP3) and CLIENT REPLY. It does not know MONITOR.

use std::collections::VecDeque;

use super::resp::Request;

/// What will answer one request.
#[derive(Debug, PartialEq, Eq)]
pub enum Expected {
    /// So many replies of the node.
    Replies(usize),
    /// So many (un)subscribe confirmations.
    Confirmations(usize),
    /// Bytes the front made, when all before it are answered.
    Inject(Vec<u8>),
    /// The same, and then the connection ends.
    InjectAndClose(Vec<u8>),
}

impl Expected {
    /// Whether the node owes an answer.
    pub fn is_due(&self) -> bool {
        matches!(self, Self::Replies(1..) | Self::Confirmations(_))
    }
}

/// What the node will answer to `request`.
pub fn reply_of(request: &Request, name: &str) -> Expected {
    match name {
        "SUBSCRIBE" | "PSUBSCRIBE" | "SSUBSCRIBE" => {
            Expected::Confirmations(request.args.len() - 1)
        }
        "UNSUBSCRIBE" | "PUNSUBSCRIBE" | "SUNSUBSCRIBE" => {
            // Without arguments the number depends on the node's state; at least one comes.
            Expected::Confirmations((request.args.len() - 1).max(1))
        }
        "CLIENT" if request.arg(1).eq_ignore_ascii_case("REPLY") => {
            let on = request.arg(2).eq_ignore_ascii_case("ON");
            Expected::Replies(usize::from(on))
        }
        _ => Expected::Replies(1),
    }
}

/// The requests that wait for an answer, in order.
#[derive(Debug, Default)]
pub struct ReplyOrder {
    waiting: VecDeque<Expected>,
    subscribed: bool,
}

impl ReplyOrder {
    /// Adds a request.
    pub fn push(&mut self, expected: Expected) {
        if expected != Expected::Replies(0) {
            self.waiting.push_back(expected);
        }
    }

    /// Moves the front's own replies that are due now to `out`; true when the connection ends then.
    #[must_use]
    pub fn injected(&mut self, out: &mut Vec<u8>) -> bool {
        loop {
            match self.waiting.front() {
                Some(Expected::Inject(bytes)) => out.extend_from_slice(bytes),
                Some(Expected::InjectAndClose(bytes)) => {
                    out.extend_from_slice(bytes);
                    return true;
                }
                _ => return false,
            }
            self.waiting.pop_front();
        }
    }

    /// Takes note of one reply frame of the node; true when a request has all its replies with it.
    pub fn reply(&mut self, frame: &[u8]) -> bool {
        let waiting = self.waiting.len();
        let confirmation =
            ["subscribe\r\n", "unsubscribe\r\n"].iter().any(|word| second_line_ends(frame, word));
        match self.waiting.front_mut() {
            Some(Expected::Confirmations(left)) if confirmation || frame.starts_with(b"-") => {
                self.subscribed = true;
                *left -= 1;
                if *left == 0 || frame.starts_with(b"-") {
                    self.waiting.pop_front();
                }
            }
            Some(Expected::Replies(left))
                if frame[0] != b'>' && !(self.subscribed && is_message(frame)) =>
            {
                *left -= 1;
                if *left == 0 {
                    self.waiting.pop_front();
                }
            }
            // Out of band, or more confirmations than arguments: belongs to no request.
            _ => {}
        }
        self.waiting.len() < waiting
    }
}

/// A published message in RESP2.
fn is_message(frame: &[u8]) -> bool {
    frame[0] == b'*' && second_line_ends(frame, "message\r\n")
}

/// Whether the first element of an array or push is a bulk string ending in `word`.
fn second_line_ends(frame: &[u8], word: &str) -> bool {
    let mut lines = frame.split_inclusive(|&b| b == b'\n');
    matches!(lines.next(), Some([b'*' | b'>', ..]))
        && matches!(lines.next(), Some([b'$', ..]))
        && lines.next().is_some_and(|line| line.ends_with(word.as_bytes()) && line.len() <= 15)
}
