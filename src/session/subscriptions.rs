//! What one session is subscribed to, and how a server confirms it.
//!
//! Invariant: a name is in a session's set from the moment its confirmation is written until the
//! moment its end is confirmed; counts are those a Redis server would say. Which node carries a name
//! is not known here (see `worker::hub::topics`).
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::command::spec::Subscription;
use crate::resp::{Version, encode};

/// The three kinds of names one can subscribe to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A channel of the whole cluster.
    Channel,
    /// A pattern of channels.
    Pattern,
    /// A channel of the shard that owns its slot.
    Shard,
}

impl Kind {
    /// All kinds, in the order of [`Kind::index`].
    pub const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::Shard];

    /// 0, 1 or 2: an index into arrays by kind.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The command that subscribes, or the one that ends it, as confirmations name it.
    pub fn verb(self, subscribe: bool) -> &'static str {
        match (self, subscribe) {
            (Self::Channel, true) => "subscribe",
            (Self::Channel, false) => "unsubscribe",
            (Self::Pattern, true) => "psubscribe",
            (Self::Pattern, false) => "punsubscribe",
            (Self::Shard, true) => "ssubscribe",
            (Self::Shard, false) => "sunsubscribe",
        }
    }

    /// The kind a command is about, and whether it subscribes.
    pub fn of(what: Subscription) -> (Self, bool) {
        match what {
            Subscription::Subscribe => (Self::Channel, true),
            Subscription::Unsubscribe => (Self::Channel, false),
            Subscription::Psubscribe => (Self::Pattern, true),
            Subscription::Punsubscribe => (Self::Pattern, false),
            Subscription::Ssubscribe => (Self::Shard, true),
            Subscription::Sunsubscribe => (Self::Shard, false),
        }
    }
}

/// A SUBSCRIBE whose names the nodes have not all confirmed.
#[derive(Debug)]
pub struct Waiting {
    /// What it subscribes to.
    pub kind: Kind,
    /// The names as the client gave them.
    pub names: Vec<Bytes>,
    /// Names no node has confirmed yet.
    pub missing: usize,
    /// When it was taken in (ms of the worker's clock).
    pub since: u64,
}

/// See the module header.
#[derive(Debug, Default)]
pub struct Subscriptions {
    names: [BTreeSet<Bytes>; 3],
    /// The SUBSCRIBE under way.
    pub waiting: Option<Waiting>,
    /// Since when more is unread than a subscriber may leave for long (ms of the worker's clock).
    pub slow_since: Option<u64>,
}

impl Subscriptions {
    /// True when the session is subscribed to nothing.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_none() && self.total() == 0
    }

    /// Number of names of all kinds.
    pub fn total(&self) -> usize {
        self.names.iter().map(BTreeSet::len).sum()
    }

    /// Number of names of one kind.
    pub fn len(&self, kind: Kind) -> usize {
        self.names[kind.index()].len()
    }

    /// True when the session is subscribed to this name.
    pub fn has(&self, kind: Kind, name: &[u8]) -> bool {
        self.names[kind.index()].contains(name)
    }

    /// All names of one kind.
    pub fn names(&self, kind: Kind) -> impl Iterator<Item = &Bytes> {
        self.names[kind.index()].iter()
    }

    /// Adds a name; false when it was there.
    pub fn add(&mut self, kind: Kind, name: Bytes) -> bool {
        self.names[kind.index()].insert(name)
    }

    /// Removes a name; false when it was not there.
    pub fn remove(&mut self, kind: Kind, name: &[u8]) -> bool {
        self.names[kind.index()].remove(name)
    }

    /// The number a confirmation tells: channels and patterns together, shard channels apart.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Channel | Kind::Pattern => self.len(Kind::Channel) + self.len(Kind::Pattern),
            Kind::Shard => self.len(Kind::Shard),
        }
    }

    /// Appends the confirmation of one name, or of an end without any name.
    pub fn confirm(
        &self,
        kind: Kind,
        subscribe: bool,
        name: Option<&[u8]>,
        version: Version,
        out: &mut Vec<u8>,
    ) {
        encode::header(out, push_type(version), 3);
        encode::bulk(out, kind.verb(subscribe).as_bytes());
        match name {
            Some(name) => encode::bulk(out, name),
            None => encode::null(out, version),
        }
        encode::integer(out, self.count(kind) as i64);
    }
}

/// First byte of an unasked-for message: RESP2 has no type of its own for them.
pub fn push_type(version: Version) -> u8 {
    match version {
        Version::V2 => b'*',
        Version::V3 => b'>',
    }
}

/// What a node says on a connection that subscribes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push<'a> {
    /// A message for the subscribers of a name.
    Message(Kind, &'a [u8]),
    /// A name is subscribed to (true), or no longer.
    Confirmed(Kind, bool, &'a [u8]),
    /// Keys a tracking session read have changed.
    Invalidate,
    /// Something else.
    Other,
}

/// Reads the kind and the name of a whole push.
pub fn read_push(push: &[u8]) -> Push<'_> {
    let fields = || -> Option<(&[u8], &[u8])> {
        let rest = push.strip_prefix(b">")?;
        let line = rest.iter().position(|&b| b == b'\n')?;
        let (verb, rest) = bulk(rest.get(line + 1..)?)?;
        // `invalidate` has an array behind it, or null.
        Some((verb, bulk(rest).map_or(&b""[..], |(name, _)| name)))
    };
    let Some((verb, name)) = fields() else {
        return Push::Other;
    };
    match verb {
        b"message" => Push::Message(Kind::Channel, name),
        b"pmessage" => Push::Message(Kind::Pattern, name),
        b"smessage" => Push::Message(Kind::Shard, name),
        b"invalidate" => Push::Invalidate,
        _ => Kind::ALL
            .into_iter()
            .flat_map(|kind| [(kind, true), (kind, false)])
            .find(|(kind, subscribe)| kind.verb(*subscribe).as_bytes() == verb)
            .map_or(Push::Other, |(kind, subscribe)| Push::Confirmed(kind, subscribe, name)),
    }
}

/// The bulk string at the start, and what follows it.
fn bulk(at: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = at.strip_prefix(b"$")?;
    let line = rest.iter().position(|&b| b == b'\r')?;
    let len: usize = std::str::from_utf8(&rest[..line]).ok()?.parse().ok()?;
    let body = rest.get(line + 2..)?;
    Some((body.get(..len)?, body.get(len + 2..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirmations_are_the_servers() {
        let mut s = Subscriptions::default();
        let mut out = Vec::new();
        s.add(Kind::Channel, Bytes::from_static(b"a"));
        s.confirm(Kind::Channel, true, Some(b"a"), Version::V2, &mut out);
        s.add(Kind::Pattern, Bytes::from_static(b"p*"));
        s.confirm(Kind::Pattern, true, Some(b"p*"), Version::V3, &mut out);
        s.confirm(Kind::Shard, false, None, Version::V3, &mut out);
        s.confirm(Kind::Shard, false, None, Version::V2, &mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n>3\r\n$10\r\npsubscribe\r\n$2\r\np*\r\n:2\r\n\
             >3\r\n$12\r\nsunsubscribe\r\n_\r\n:0\r\n*3\r\n$12\r\nsunsubscribe\r\n$-1\r\n:0\r\n"
        );
    }

    #[test]
    fn pushes_are_read() {
        for (push, want) in [
            (">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n", Push::Message(Kind::Channel, b"c")),
            (
                ">4\r\n$8\r\npmessage\r\n$2\r\nc*\r\n$1\r\nc\r\n$1\r\nx\r\n",
                Push::Message(Kind::Pattern, b"c*"),
            ),
            (
                ">3\r\n$12\r\nsunsubscribe\r\n$0\r\n\r\n:0\r\n",
                Push::Confirmed(Kind::Shard, false, b""),
            ),
            (">2\r\n$10\r\ninvalidate\r\n_\r\n", Push::Invalidate),
            (">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n", Push::Invalidate),
            (">1\r\n$5\r\nother\r\n", Push::Other),
            (">0\r\n", Push::Other),
        ] {
            assert_eq!(read_push(push.as_bytes()), want, "{push}");
        }
    }

    proptest::proptest! {
        #[test]
        fn reading_is_total(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
            let _ = read_push(&[b">3\r\n$7\r\nmessage\r\n", &bytes[..]].concat());
            let _ = read_push(&bytes);
        }
    }
}
