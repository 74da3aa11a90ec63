//! The clients as CLIENT LIST shows them and CLIENT KILL chooses them, in the server's words.
//!
//! Invariant: what is said of a client is said of its own connection, never of one to a node; fields
//! without a meaning here say what an idle server's would. It knows single sessions: the hub walks
//! over all of them, on all workers.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt::Write;

use crate::access::User;
use crate::access::acl::DEFAULT;
use crate::resp::Version;
use crate::resp::request::Request;

use super::core::{Closing, Session, hold};
use super::local::{self, Facts};
use super::subscriptions::Kind;

/// A type of client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// All that are nothing else.
    Normal,
    /// Subscribed to something.
    Pubsub,
    /// Primaries and replicas, of which there are none here.
    Replication,
}

impl Type {
    fn parse(name: &[u8]) -> Result<Self, String> {
        match name.to_ascii_lowercase().as_slice() {
            b"normal" => Ok(Self::Normal),
            b"pubsub" => Ok(Self::Pubsub),
            b"master" | b"replica" | b"slave" => Ok(Self::Replication),
            _ => Err(format!("ERR Unknown client type '{}'", String::from_utf8_lossy(name))),
        }
    }

    fn of(s: &Session) -> Self {
        let subscribed = s.streams.as_deref().is_some_and(|x| x.subscriptions.total() > 0);
        if subscribed { Self::Pubsub } else { Self::Normal }
    }
}

/// Which clients a command is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this type.
    pub kind: Option<Type>,
    /// With one of these ids.
    pub ids: Option<Vec<i64>>,
    /// Connected from here.
    pub addr: Option<Vec<u8>>,
    /// Connected to here.
    pub laddr: Option<Vec<u8>>,
    /// Connected for so many seconds at least.
    pub max_age_s: Option<u64>,
    /// Of this user.
    pub user: Option<Vec<u8>>,
    /// Not this one.
    pub skip: Option<u64>,
    /// Who asks: it still reads the reply when it kills itself.
    pub asker: u64,
}

impl Filter {
    /// What CLIENT LIST asks for.
    ///
    /// # Errors
    /// The server's error text.
    pub fn of_list(request: &Request<'_>) -> Result<Self, String> {
        let option = request.arg(2);
        match request.len() {
            2 => Ok(Self::default()),
            4 if option.eq_ignore_ascii_case(b"TYPE") => {
                Ok(Self { kind: Some(Type::parse(request.arg(3))?), ..Self::default() })
            }
            4.. if option.eq_ignore_ascii_case(b"ID") => {
                let ids =
                    request.args().skip(3).map(local::parse_int).collect::<Option<Vec<i64>>>();
                let ids = ids.ok_or("ERR Invalid client ID")?;
                Ok(Self { ids: Some(ids), ..Self::default() })
            }
            _ => Err("ERR syntax error".to_owned()),
        }
    }

    /// What CLIENT KILL asks for, by the client `asker`. The form with an address alone skips nobody.
    ///
    /// # Errors
    /// The server's error text.
    pub fn of_kill(
        request: &Request<'_>,
        asker: u64,
        facts: &Facts<'_>,
        is_user: impl Fn(&[u8]) -> bool,
    ) -> Result<Self, String> {
        let mut filter = Self { asker, ..Self::default() };
        if is_old_kill(request) {
            filter.addr = Some(request.arg(2).to_vec());
            return Ok(filter);
        }
        filter.skip = Some(asker);
        let mut i = 2;
        while i < request.len() {
            let (name, value) = (request.arg(i).to_ascii_lowercase(), request.arg(i + 1));
            let has_value = i + 1 < request.len();
            match name.as_slice() {
                b"id" if has_value => match local::parse_int(value).filter(|&n| n > 0) {
                    Some(id) => filter.ids = Some(vec![id]),
                    None => return Err("ERR client-id should be greater than 0".to_owned()),
                },
                b"type" if has_value => filter.kind = Some(Type::parse(value)?),
                b"addr" if has_value => filter.addr = Some(value.to_vec()),
                b"laddr" if has_value => filter.laddr = Some(value.to_vec()),
                b"user" if has_value => {
                    if !is_user(value) {
                        let shown = String::from_utf8_lossy(value);
                        return Err(format!("ERR No such user '{shown}'"));
                    }
                    filter.user = Some(value.to_vec());
                }
                b"maxage" if has_value && facts.is_at_least(7, 4) => {
                    let age = local::parse_int(value)
                        .ok_or("ERR maxage is not an integer or out of range")?;
                    let age = u64::try_from(age).ok().filter(|&age| age > 0);
                    filter.max_age_s = Some(age.ok_or("ERR maxage should be greater than 0")?);
                }
                b"skipme" if value.eq_ignore_ascii_case(b"yes") => filter.skip = Some(asker),
                b"skipme" if value.eq_ignore_ascii_case(b"no") => filter.skip = None,
                _ => return Err("ERR syntax error".to_owned()),
            }
            i += 2;
        }
        Ok(filter)
    }

    /// True when the command is about this client.
    pub fn matches(&self, s: &Session, now: u64) -> bool {
        let p = &s.profile;
        self.skip != Some(p.id)
            && self.kind.is_none_or(|k| k == Type::of(s))
            && self
                .ids
                .as_ref()
                .is_none_or(|ids| i64::try_from(p.id).is_ok_and(|id| ids.contains(&id)))
            && self.user.as_ref().is_none_or(|name| name == user(s).as_bytes())
            && self.addr.as_ref().is_none_or(|a| a == p.peer.as_bytes())
            && self.laddr.as_ref().is_none_or(|a| a == laddr(s).as_bytes())
            && self.max_age_s.is_none_or(|age| now.saturating_sub(p.since) / 1000 >= age)
    }
}

/// CLIENT KILL with an address alone.
pub fn is_old_kill(request: &Request<'_>) -> bool {
    request.len() == 3
}

fn laddr(s: &Session) -> String {
    if s.profile.local_host.is_empty() {
        // A Unix socket has one name for both ends.
        return s.profile.peer.clone();
    }
    format!("{}:{}", s.profile.local_host, s.profile.local_port)
}

fn user(s: &Session) -> &str {
    s.profile.user.as_deref().map_or(DEFAULT, User::name)
}

/// The letters of `flags=`, in the server's order.
fn flags(s: &Session) -> String {
    let mut out = String::new();
    let streams = s.streams.as_deref();
    let tracking = s.tracking();
    let all = [
        ('O', streams.is_some_and(|x| x.monitor.is_some())),
        ('P', Type::of(s) == Type::Pubsub),
        ('x', s.transaction.is_some()),
        ('b', s.blocked || s.holds & hold::PAUSED != 0),
        ('t', tracking.is_some()),
        ('B', tracking.is_some_and(|t| t.options.bcast)),
        ('c', s.closing == Closing::AfterReplies),
        ('A', s.closing == Closing::Now),
        ('U', s.profile.local_host.is_empty()),
        ('e', s.profile.no_evict),
        ('T', s.profile.no_touch),
    ];
    out.extend(all.into_iter().filter(|(_, is)| *is).map(|(letter, _)| letter));
    if out.is_empty() { "N".to_owned() } else { out }
}

/// A client's line of CLIENT LIST and CLIENT INFO.
pub fn line(s: &Session, now: u64, facts: &Facts<'_>) -> String {
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    let subscribed =
        |kind| s.streams.as_deref().map_or(0, |streams| streams.subscriptions.len(kind));
    let mut out = format!(
        "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={} db={} sub={} psub={} ssub={} multi={} \
         qbuf={} qbuf-free={} argv-mem=0 multi-mem={} rbs=0 rbp=0 obl=0 oll=0 omem={} tot-mem={} events=r \
         cmd={} user={} redir={} resp={}",
        s.profile.id,
        s.profile.peer,
        laddr(s),
        s.profile.fd,
        text(&s.profile.name),
        now.saturating_sub(s.profile.since) / 1000,
        now.saturating_sub(s.active_at.max(s.profile.since)) / 1000,
        flags(s),
        s.db,
        subscribed(Kind::Channel),
        subscribed(Kind::Pattern),
        subscribed(Kind::Shard),
        s.transaction.as_ref().map_or(-1, |t| i64::from(t.commands())),
        s.input.len(),
        s.input.capacity() - s.input.len(),
        s.transaction.as_ref().map_or(0, |t| t.len()),
        s.out.held(),
        s.input.capacity() + s.out.held(),
        s.last.map_or("NULL", |row| row.name),
        user(s),
        if s.tracking().is_some() { 0 } else { -1 },
        if s.version == Version::V3 { 3 } else { 2 },
    );
    if facts.is_at_least(7, 2) {
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            " lib-name={} lib-ver={}",
            text(&s.profile.lib_name),
            text(&s.profile.lib_version)
        );
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::resp::encode;
    use crate::resp::request::fill_args;
    use crate::session::core::Profile;

    const OLD: Facts<'static> = Facts { server: "redis", version: "7.0.15" };
    const NEW: Facts<'static> = Facts { server: "valkey", version: "8.0.1" };

    fn with<T>(command: &str, f: impl FnOnce(&Request<'_>) -> T) -> T {
        let mut frame = Vec::new();
        encode::command(&mut frame, &command.split(' ').collect::<Vec<_>>());
        let mut args = Vec::new();
        fill_args(&frame, &mut args);
        f(&Request::new(&frame, None, &args))
    }

    fn session(id: u64) -> Session {
        let profile = Profile {
            id,
            peer: format!("127.0.0.1:{id}"),
            local_host: "127.0.0.1".into(),
            local_port: 6379,
            fd: 9,
            ..Profile::default()
        };
        Session::new(Key::NONE, profile, 0)
    }

    /// Which of the clients 1 to 3 a CLIENT KILL by client 1 chooses, or the error.
    fn killed(command: &str, facts: &Facts<'_>) -> Result<Vec<u64>, String> {
        let filter = with(command, |r| Filter::of_kill(r, 1, facts, |name| name == b"default"))?;
        Ok((1..4).filter(|&id| filter.matches(&session(id), 10_000)).collect())
    }

    /// Words and choices of redis-server 7.0.15.
    #[test]
    fn kill_chooses_as_the_server_does() {
        for (command, want) in [
            ("client kill 127.0.0.1:2", Ok(vec![2])),
            ("client kill 127.0.0.1:1", Ok(vec![1])),
            ("client kill ID", Ok(vec![])),
            ("client kill id 2", Ok(vec![2])),
            ("client kill id 1", Ok(vec![])),
            ("client kill id 1 skipme no", Ok(vec![1])),
            ("client kill skipme no laddr 127.0.0.1:6379", Ok(vec![1, 2, 3])),
            ("client kill type normal", Ok(vec![2, 3])),
            ("client kill type slave addr 127.0.0.1:2", Ok(vec![])),
            ("client kill user default id 3", Ok(vec![3])),
            ("client kill user nobody", Err("ERR No such user 'nobody'")),
            ("client kill type foo", Err("ERR Unknown client type 'foo'")),
            ("client kill id 0", Err("ERR client-id should be greater than 0")),
            ("client kill id x", Err("ERR client-id should be greater than 0")),
            ("client kill id 5 foo", Err("ERR syntax error")),
            ("client kill foo bar", Err("ERR syntax error")),
            ("client kill id 5 skipme maybe", Err("ERR syntax error")),
            ("client kill maxage 10", Err("ERR syntax error")),
        ] {
            assert_eq!(killed(command, &OLD), want.map_err(str::to_owned), "{command}");
        }
        assert_eq!(killed("client kill maxage 10", &NEW), Ok(vec![2, 3]));
        assert_eq!(killed("client kill maxage 11", &NEW), Ok(vec![]));
    }

    #[test]
    fn list_asks_as_the_server_does() {
        let of = |command: &str| with(command, Filter::of_list);
        assert_eq!(of("client list"), Ok(Filter::default()));
        assert_eq!(of("client list id 3 9 -1").map(|f| f.ids), Ok(Some(vec![3, 9, -1])));
        for (command, want) in [
            ("client list type", "ERR syntax error"),
            ("client list type normal id 3", "ERR syntax error"),
            ("client list id", "ERR syntax error"),
            ("client list id x", "ERR Invalid client ID"),
            ("client list type foo", "ERR Unknown client type 'foo'"),
            ("client list user default", "ERR syntax error"),
        ] {
            assert_eq!(of(command), Err(want.to_owned()), "{command}");
        }
    }

    #[test]
    fn a_line_has_the_fields_of_its_servers_version() {
        let mut s = session(7);
        s.active_at = 4_000;
        let old = line(&s, 9_500, &OLD);
        let names: Vec<&str> =
            old.trim_end().split(' ').filter_map(|f| Some(f.split_once('=')?.0)).collect();
        assert_eq!(
            names,
            [
                "id",
                "addr",
                "laddr",
                "fd",
                "name",
                "age",
                "idle",
                "flags",
                "db",
                "sub",
                "psub",
                "ssub",
                "multi",
                "qbuf",
                "qbuf-free",
                "argv-mem",
                "multi-mem",
                "rbs",
                "rbp",
                "obl",
                "oll",
                "omem",
                "tot-mem",
                "events",
                "cmd",
                "user",
                "redir",
                "resp"
            ]
        );
        for part in ["id=7 ", " age=9 idle=5 flags=N ", " cmd=NULL ", " redir=-1 resp=2\n"] {
            assert!(old.contains(part), "{part} is not in {old}");
        }
        assert!(line(&s, 0, &NEW).ends_with(" resp=2 lib-name= lib-ver=\n"));
        s.transaction = Some(Box::default());
        s.profile.no_evict = true;
        s.blocked = true;
        assert!(line(&s, 0, &OLD).contains(" flags=xbe "));
    }
}
