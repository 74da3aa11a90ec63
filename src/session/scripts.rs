//! Scripts the proxy has seen, so that a node that does not know one can be told.
//!
//! A script lives on the node it was loaded on: on another one EVALSHA finds NOSCRIPT. So a node is told
//! a script before it is first asked for it; a NOSCRIPT that comes nevertheless (the node was
//! restarted) is healed. Invariant: bounded memory; what is remembered under a digest has that
//! digest. It sends nothing.
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
    /// Nodes (indices) that were told.
    nodes: Vec<u16>,
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
        let script = Script { body: Bytes::copy_from_slice(body), teller, nodes: Vec::new() };
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
        self.bodies.get(&lower(digest)?).map(|s| (&s.body, s.teller))
    }

    /// The script of a digest if it is known here and `node` has not been told: it will be now.
    pub fn to_tell(&mut self, digest: &[u8], node: u16) -> Option<Bytes> {
        let script = self.bodies.get_mut(&lower(digest)?)?;
        if script.nodes.contains(&node) {
            return None;
        }
        script.nodes.push(node);
        Some(script.body.clone())
    }

    /// The node does not know the script after all.
    pub fn forget_on(&mut self, digest: &[u8], node: u16) {
        if let Some(script) = lower(digest).and_then(|digest| self.bodies.get_mut(&digest)) {
            script.nodes.retain(|n| *n != node);
        }
    }

    /// The node may have been restarted: it is told again.
    pub fn forget_node(&mut self, node: u16) {
        for script in self.bodies.values_mut() {
            script.nodes.retain(|n| *n != node);
        }
    }
}

/// A digest as it is remembered.
fn lower(digest: &[u8]) -> Option<Digest> {
    let mut digest = Digest::try_from(digest).ok()?;
    digest.make_ascii_lowercase();
    Some(digest)
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
    fn a_node_is_told_once_and_again_when_it_was_lost() {
        let sha = b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
        let mut s = Scripts::default();
        assert_eq!(s.to_tell(sha, 1), None);
        s.remember(b"return 1", (Key::NONE, 1));
        assert!(s.to_tell(sha, 1).is_some() && s.to_tell(sha, 2).is_some());
        assert!(s.to_tell(sha, 1).is_none() && s.to_tell(sha, 2).is_none());
        s.forget_node(1);
        assert!(s.to_tell(sha, 1).is_some() && s.to_tell(sha, 2).is_none());
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
