//! What a new upstream connection says before user traffic may flow.
//!
//! Invariant: all commands of the handshake go out in one write, their replies are consumed here
//! and never reach a client, and user traffic waits until `Ready`. A refusal is typed, so that the
//! caller can choose between backing off, asking for a new token and giving up.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::VecDeque;

use zeroize::Zeroizing;

use crate::cluster::discovery::says_no_cluster;
use crate::credentials::Credential;
use crate::resp::Version;
use crate::resp::encode;
use crate::resp::reply::{Class, classify};

use super::kind::Kind;

/// Room for everything in a handshake but user name and secret, whose buffer must never grow: a
/// half-grown copy would leave them in the heap.
const AROUND_SECRET: usize = 160;

/// A step whose reply is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Hello,
    Auth,
    Readonly,
    Select,
    Preamble,
    Identity,
}

/// Where a handshake stands.
#[derive(Debug)]
pub struct Handshake {
    due: VecDeque<Step>,
    identity: Option<u64>,
}

/// What a reply did to the handshake.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// More replies are due.
    Pending,
    /// User traffic may flow.
    Ready,
    /// The node refused.
    Refused(Refusal),
}

/// Why a node refused a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of trouble it is.
    pub kind: RefusalKind,
    /// The node's own words, without prefix and line end; no secret is ever part of them.
    pub text: String,
}

/// Kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// WRONGPASS: expired or bad token, wrong user, or the role is missing or not yet in force.
    WrongPass,
    /// NOAUTH: the node wants AUTH and there is no credential.
    NoAuth,
    /// IAM backend out of quota.
    IamExhausted,
    /// IAM backend failed.
    IamOther,
    /// The node does not speak RESP3.
    NoResp3,
    /// The node loads its dataset.
    Loading,
    /// The server has no such database.
    NoDatabase,
    /// The command the connection was made for is refused.
    Preamble,
    /// Anything else.
    Other,
}

impl Handshake {
    /// The handshake and the bytes to send; no bytes means it is ready at once.
    pub fn begin(kind: Kind, credential: Option<&Credential>) -> (Self, Zeroizing<Vec<u8>>) {
        let mut due = VecDeque::with_capacity(2);
        let mut out = Zeroizing::new(Vec::new());
        match (kind.version, credential) {
            (Version::V3, None) => {
                due.push_back(Step::Hello);
                encode::command(&mut out, &["HELLO", "3"]);
            }
            (Version::V3, Some(c)) => {
                due.push_back(Step::Hello);
                out.reserve_exact(AROUND_SECRET + c.username.len() + c.secret.expose().len());
                encode::command(&mut out, &["HELLO", "3", "AUTH", &c.username, c.secret.expose()]);
            }
            (Version::V2, Some(c)) => {
                due.push_back(Step::Auth);
                out.reserve_exact(AROUND_SECRET + c.username.len() + c.secret.expose().len());
                encode::command(&mut out, &["AUTH", &c.username, c.secret.expose()]);
            }
            (Version::V2, None) => {}
        }
        if kind.readonly {
            due.push_back(Step::Readonly);
            encode::command(&mut out, &["READONLY"]);
        }
        if kind.db != 0 {
            due.push_back(Step::Select);
            encode::command(&mut out, &["SELECT", &kind.db.to_string()]);
        }
        (Self { due, identity: None }, out)
    }

    /// Asks for the node's id of the connection as well; a node need not tell it.
    pub fn identify(&mut self, out: &mut Vec<u8>) {
        self.due.push_back(Step::Identity);
        encode::command(out, &["CLIENT", "ID"]);
    }

    /// The node's id of the connection, if it was asked and told.
    pub fn identity(&self) -> Option<u64> {
        self.identity
    }

    /// Adds a command to be said last; the connection is ready when the node has accepted it.
    pub fn then(&mut self, command: &[u8], out: &mut Vec<u8>) {
        self.due.push_back(Step::Preamble);
        out.extend_from_slice(command);
    }

    /// True when no reply is due any more.
    pub fn is_ready(&self) -> bool {
        self.due.is_empty()
    }

    /// Takes the next whole reply.
    pub fn on_reply(&mut self, reply: &[u8]) -> Progress {
        let Some(step) = self.due.pop_front() else {
            return Progress::Ready;
        };
        if step == Step::Identity {
            let digits = reply.strip_prefix(b":").and_then(|n| n.strip_suffix(b"\r\n"));
            self.identity =
                digits.and_then(|n| std::str::from_utf8(n).ok()).and_then(|n| n.parse().ok());
        } else if reply.first() == Some(&b'-') && !is_needless(step, reply) {
            return Progress::Refused(refusal(step, reply));
        }
        if self.due.is_empty() { Progress::Ready } else { Progress::Pending }
    }
}

/// A replica without cluster mode answers reads unasked, and does not know READONLY.
fn is_needless(step: Step, reply: &[u8]) -> bool {
    step == Step::Readonly && says_no_cluster(&String::from_utf8_lossy(reply))
}

/// Types an error reply to AUTH or HELLO.
fn refusal(step: Step, reply: &[u8]) -> Refusal {
    let text = String::from_utf8_lossy(reply.get(1..).unwrap_or_default()).trim_end().to_owned();
    // Redis repeats the arguments of a command it does not know, and those hold the token.
    let text = match text.find(", with args") {
        Some(end) => text[..end].to_owned(),
        None => text,
    };
    let kind = match classify(reply) {
        Class::WrongPass => RefusalKind::WrongPass,
        Class::NoAuth => RefusalKind::NoAuth,
        Class::IamExhausted => RefusalKind::IamExhausted,
        Class::IamOther => RefusalKind::IamOther,
        Class::Loading => RefusalKind::Loading,
        _ if step == Step::Preamble => RefusalKind::Preamble,
        _ if step == Step::Hello => RefusalKind::NoResp3,
        _ if step == Step::Select => RefusalKind::NoDatabase,
        _ => RefusalKind::Other,
    };
    Refusal { kind, text }
}

/// The in-band AUTH of a connection that is in use.
pub fn auth_frame(credential: &Credential) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(
        64 + credential.username.len() + credential.secret.expose().len(),
    ));
    encode::command(&mut out, &["AUTH", &credential.username, credential.secret.expose()]);
    out
}

/// Types the reply to an in-band AUTH; `None` when it succeeded.
pub fn auth_refusal(reply: &[u8]) -> Option<Refusal> {
    (reply.first() == Some(&b'-')).then(|| refusal(Step::Auth, reply))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::credentials::Secret;

    fn credential() -> Credential {
        Credential {
            username: "default".into(),
            secret: Secret::new("ya29.x".into()),
            expires_at: None,
            obtained_at: SystemTime::UNIX_EPOCH,
            generation: 1,
            source: "test",
            principal: None,
        }
    }

    #[test]
    fn resp2_without_credential_needs_no_word() {
        let (h, out) = Handshake::begin(Version::V2.into(), None);
        assert!(h.is_ready() && out.is_empty());
    }

    #[test]
    fn replica_handshake_is_one_write() {
        let (mut h, out) =
            Handshake::begin(Kind::from(Version::V2).for_reads(), Some(&credential()));
        assert_eq!(
            &out[..],
            b"*3\r\n$4\r\nAUTH\r\n$7\r\ndefault\r\n$6\r\nya29.x\r\n*1\r\n$8\r\nREADONLY\r\n"
        );
        assert_eq!(h.on_reply(b"+OK\r\n"), Progress::Pending);
        assert_eq!(h.on_reply(b"+OK\r\n"), Progress::Ready);
    }

    #[test]
    fn a_database_is_selected_in_the_same_write() {
        let (mut h, out) = Handshake::begin(Kind::of(Version::V2, 12), Some(&credential()));
        assert!(out.ends_with(b"ya29.x\r\n*2\r\n$6\r\nSELECT\r\n$2\r\n12\r\n"));
        assert_eq!(h.on_reply(b"+OK\r\n"), Progress::Pending);
        match h.on_reply(b"-ERR DB index is out of range\r\n") {
            Progress::Refused(r) => assert_eq!(r.kind, RefusalKind::NoDatabase),
            other => panic!("{other:?}"),
        }
    }

    /// A buffer that grew would have left a copy of the token behind.
    #[test]
    fn the_buffer_with_the_secret_never_grows() {
        for version in [Version::V2, Version::V3] {
            let c = credential();
            let kind = Kind::of(version, u32::MAX).for_reads();
            let (_, out) = Handshake::begin(kind, Some(&c));
            let room = AROUND_SECRET + c.username.len() + c.secret.expose().len();
            assert!(out.len() <= room && out.capacity() == room, "{}", out.len());
        }
    }

    #[test]
    fn an_id_is_taken_when_it_is_told() {
        for (reply, id) in [("-NOPERM no", None), ("+OK", None), (":42", Some(42))] {
            let (mut h, mut out) = Handshake::begin(Kind::from(Version::V2), None);
            h.identify(&mut out);
            assert_eq!(&out[..], b"*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n");
            assert_eq!(h.on_reply(format!("{reply}\r\n").as_bytes()), Progress::Ready);
            assert_eq!(h.identity(), id);
        }
    }

    #[test]
    fn refusals_are_typed() {
        for (reply, kind) in [
            (
                "-WRONGPASS invalid username-password pair or user is disabled.",
                RefusalKind::WrongPass,
            ),
            ("-ERR (ERR_IAM_EXHAUSTED) quota exceeded.", RefusalKind::IamExhausted),
            ("-ERR (ERR_IAM_OTHER) backend error.", RefusalKind::IamOther),
            ("-ERR unknown command 'HELLO'", RefusalKind::NoResp3),
            ("-NOAUTH HELLO must be called …", RefusalKind::NoAuth),
        ] {
            let (mut h, _) = Handshake::begin(Version::V3.into(), Some(&credential()));
            match h.on_reply(format!("{reply}\r\n").as_bytes()) {
                Progress::Refused(r) => assert_eq!(r.kind, kind, "{reply}"),
                other => panic!("{reply}: {other:?}"),
            }
        }
    }
}
