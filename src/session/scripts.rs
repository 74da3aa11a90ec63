//! Scripts the proxy has seen, so that a node that does not know one can be told.
//!
//! A script lives on the node it was loaded on; after a failover, or on a new shard, EVALSHA finds
//! NOSCRIPT. Invariant: bounded memory; what is remembered under a digest has that digest. It sends
//! nothing.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::key::Key;

/// Most bytes of script bodies remembered.
const MAX_BYTES: usize = 8 << 20;

/// Hex digest of a script, as EVALSHA names it.
type Digest = [u8; 40];

/// A command of a session: its place in that session's window.
pub type Teller = (Key, u32);

#[derive(Debug)]
struct Script {
    body: Bytes,
    /// Which command brought it first.
    teller: Teller,
}

/// See the module header.
#[derive(Debug, Default)]
pub struct Scripts {
    bodies: HashMap<Digest, Script>,
    /// Digests, oldest first.
    order: VecDeque<Digest>,
    bytes: usize,
    /// Cheap hashes of bodies known already: the digest is not computed twice.
    known: HashMap<u64, Digest>,
}

impl Scripts {
    /// Remembers a script from SCRIPT LOAD or EVAL.
    pub fn remember(&mut self, body: &[u8], teller: Teller) {
        let cheap = cheap_hash(body);
        if let Some(digest) = self.known.get(&cheap)
            && self.bodies.get(digest).is_some_and(|known| known.body == body)
        {
            return;
        }
        if body.len() > MAX_BYTES / 4 {
            return;
        }
        let text = sha1_smol::Sha1::from(body).digest().to_string();
        let Ok(digest) = Digest::try_from(text.as_bytes()) else {
            return;
        };
        self.known.insert(cheap, digest);
        let script = Script { body: Bytes::copy_from_slice(body), teller };
        if self.bodies.insert(digest, script).is_none() {
            self.order.push_back(digest);
            self.bytes += body.len();
        }
        while self.bytes > MAX_BYTES {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            if let Some(Script { body, .. }) = self.bodies.remove(&oldest) {
                self.bytes -= body.len();
                self.known.remove(&cheap_hash(&body));
            }
        }
    }

    /// The script of a digest, in any case, and who told it first.
    pub fn body(&self, digest: &[u8]) -> Option<(&Bytes, Teller)> {
        let digest = Digest::try_from(digest.to_ascii_lowercase().as_slice()).ok()?;
        self.bodies.get(&digest).map(|s| (&s.body, s.teller))
    }
}

/// FNV-1a over length, head and tail: told apart in full by comparison.
fn cheap_hash(body: &[u8]) -> u64 {
    let head = &body[..body.len().min(64)];
    let tail = &body[body.len() - body.len().min(64)..];
    let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
    let h = (body.len() as u64).to_le_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step);
    tail.iter().fold(head.iter().fold(h, step), step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_it_saw_by_redis_digest() {
        let mut s = Scripts::default();
        s.remember(b"return 1", (Key::NONE, 1));
        s.remember(b"return 1", (Key::NONE, 2));
        let sha = b"E0E1F9FABFC9D4800C877A703B823AC0578FF8DB";
        let told = s.body(sha).map(|(b, teller)| (&b[..], teller));
        assert_eq!(told, Some((&b"return 1"[..], (Key::NONE, 1))));
        assert_eq!(s.body(b"nonsense"), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut s = Scripts::default();
        for i in 0..2000 {
            let body = format!("return {i} -- {}", "x".repeat(100_000));
            s.remember(body.as_bytes(), (Key::NONE, 0));
        }
        assert!(s.bytes <= MAX_BYTES);
        assert_eq!(s.order.len(), s.bodies.len());
        assert!(s.known.len() <= s.bodies.len() + 1);
    }
}
