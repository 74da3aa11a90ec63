//! What a reply means to the proxy, told from its first bytes.
//!
//! Invariant: total; whatever is not known to need the proxy's attention is data and goes to the
//! client untouched. It does not decide what to do about it: see `session::redirect`.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::Arc;

use crate::cluster::topology::NodeAddr;

/// Class of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    /// Anything the client should see as it is, errors included.
    Data,
    /// The slot lives elsewhere for good.
    Moved(Redirect),
    /// The slot is migrating and this key is already at the target.
    Ask(Redirect),
    /// Keys of a multi-key command are split between two nodes at the moment.
    TryAgain,
    /// The cluster, or this slot, is not served at the moment.
    ClusterDown,
    /// The node loads its dataset.
    Loading,
    /// A replica was asked to write: the roles changed.
    ReadonlyReplica,
    /// A replica lost its primary and refuses stale reads.
    MasterDown,
    /// The connection is not authenticated (any more).
    NoAuth,
    /// The user or token was refused.
    WrongPass,
    /// Memorystore's IAM backend is out of quota.
    IamExhausted,
    /// Memorystore's IAM backend failed.
    IamOther,
}

/// Target of MOVED and ASK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The slot the server named.
    pub slot: u16,
    /// Host as the server named it; `None` means "the host you asked".
    pub host: Option<Arc<str>>,
    /// Port.
    pub port: u16,
}

impl Redirect {
    /// The address to dial, `asked` being the node that answered.
    pub fn addr(&self, asked: &NodeAddr) -> NodeAddr {
        NodeAddr { host: self.host.clone().unwrap_or_else(|| asked.host.clone()), port: self.port }
    }
}

/// Classifies a whole reply. Costs one comparison for everything that is not an error.
#[inline]
pub fn classify(reply: &[u8]) -> Class {
    if reply.first() != Some(&b'-') {
        return Class::Data;
    }
    classify_error(&reply[1..])
}

fn classify_error(line: &[u8]) -> Class {
    let word = line.split(|&b| b == b' ' || b == b'\r').next().unwrap_or_default();
    match word {
        b"MOVED" => redirect(line).map_or(Class::Data, Class::Moved),
        b"ASK" => redirect(line).map_or(Class::Data, Class::Ask),
        b"TRYAGAIN" => Class::TryAgain,
        b"CLUSTERDOWN" => Class::ClusterDown,
        b"LOADING" => Class::Loading,
        b"READONLY" => Class::ReadonlyReplica,
        b"MASTERDOWN" => Class::MasterDown,
        // A blocked command whose node became a replica; CLIENT UNBLOCK has another text.
        b"UNBLOCKED" if contains(line, b"force unblock") => Class::ReadonlyReplica,
        b"NOAUTH" => Class::NoAuth,
        b"WRONGPASS" => Class::WrongPass,
        // Google's texts differ between products; the code in parentheses does not.
        b"ERR" if contains(line, b"(ERR_IAM_EXHAUSTED)") => Class::IamExhausted,
        b"ERR" if contains(line, b"(ERR_IAM_OTHER)") => Class::IamOther,
        _ => Class::Data,
    }
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    hay.windows(needle.len()).any(|w| w == needle)
}

/// Parses `MOVED 3999 host:port`; host may be empty, `?`, a name, IPv4 or IPv6.
fn redirect(line: &[u8]) -> Option<Redirect> {
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split_ascii_whitespace().skip(1);
    let slot: u16 = words.next()?.parse().ok()?;
    if usize::from(slot) >= crate::cluster::topology::SLOTS {
        return None;
    }
    let (host, port) = words.next()?.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    if port == 0 {
        return None;
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = (!host.is_empty() && host != "?").then(|| Arc::from(host));
    Some(Redirect { slot, host, port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn moved(text: &str) -> Class {
        classify(format!("-{text}\r\n").as_bytes())
    }

    #[test]
    fn redirects_in_every_spelling() {
        let asked = NodeAddr { host: "seed".into(), port: 6379 };
        for (text, want) in [
            ("MOVED 3999 127.0.0.1:6381", "127.0.0.1:6381"),
            ("MOVED 3999 :6381", "seed:6381"),
            ("MOVED 3999 ?:6381", "seed:6381"),
            ("MOVED 3999 node-1.example:6381", "node-1.example:6381"),
            ("MOVED 3999 2001:db8::1:6381", "[2001:db8::1]:6381"),
            ("MOVED 3999 [2001:db8::1]:6381", "[2001:db8::1]:6381"),
        ] {
            match moved(text) {
                Class::Moved(r) => {
                    assert_eq!(r.slot, 3999);
                    assert_eq!(r.addr(&asked).to_string(), want);
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn broken_redirects_are_data() {
        for text in [
            "MOVED",
            "MOVED x h:1",
            "MOVED 16384 h:1",
            "MOVED 1 h",
            "MOVED 1 h:0",
            "MOVED 1 h:70000",
        ] {
            assert_eq!(moved(text), Class::Data, "{text}");
        }
    }

    #[test]
    fn iam_errors_by_code_in_parentheses() {
        assert_eq!(
            moved("ERR (ERR_IAM_EXHAUSTED) Memorystore IAM authentication backend quota exceeded."),
            Class::IamExhausted
        );
        assert_eq!(moved("ERR (ERR_IAM_OTHER) whatever"), Class::IamOther);
        assert_eq!(moved("ERR unknown command"), Class::Data);
        assert_eq!(moved("NOAUTH Authentication required."), Class::NoAuth);
        assert_eq!(moved("WRONGTYPE Operation"), Class::Data);
    }

    proptest! {
        #[test]
        fn total(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = classify(&[b"-MOVED ", &bytes[..]].concat());
            let _ = classify(&bytes);
        }
    }
}
