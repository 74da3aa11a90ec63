//! CLIENT subcommands about the proxy's own clients: what a server says of its connections, said of
//! ours. LIST and KILL see the sessions of this worker.
//!
//! Invariant: nothing here reaches a node; a client is named by its own id and address, never by an
//! upstream connection's.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::command::spec::Local;
use crate::key::Key;
use crate::resp::request::Request;
use crate::resp::{Version, encode};
use crate::session::core::{Closing, Session};
use crate::session::local;

use super::Hub;

impl Hub {
    /// CLIENT INFO, LIST, KILL and UNBLOCK.
    pub(super) fn client_command(&mut self, key: Key, what: Local, request: &Request<'_>) {
        let now = self.now;
        let mut out = Vec::new();
        let version = self.sessions.get(key).map_or(Version::V2, |s| s.version);
        match what {
            Local::ClientInfo => {
                let line = self.sessions.get(key).map(|s| line(s, now, "info")).unwrap_or_default();
                crate::command::merge::info_reply(&line, version == Version::V3, &mut out);
            }
            Local::ClientList => match self.list(request) {
                Ok(text) => {
                    crate::command::merge::info_reply(&text, version == Version::V3, &mut out);
                }
                Err(text) => encode::error(&mut out, text),
            },
            Local::ClientKill => self.kill(key, request, &mut out),
            Local::ClientUnblock => self.unblock(request, &mut out),
            _ => {}
        }
        if let Some(s) = self.sessions.get_mut(key) {
            s.answer(&out);
        }
        self.mark_session(key);
    }

    /// CLIENT UNBLOCK of a client that is not blocked, or not there; a blocked one stays so.
    fn unblock(&self, request: &Request<'_>, out: &mut Vec<u8>) {
        let reason = request.arg(3);
        let known = [&b"TIMEOUT"[..], b"ERROR"].iter().any(|r| reason.eq_ignore_ascii_case(r));
        if request.len() > 4 || request.len() == 4 && !known {
            return encode::error(out, "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
        }
        let Some(id) = local::parse_int(request.arg(2)) else {
            return encode::error(out, "ERR value is not an integer or out of range");
        };
        let blocked = |s: &Session| s.blocked && i64::try_from(s.profile.id) == Ok(id);
        if self.sessions.iter().any(|(_, s)| blocked(s)) {
            encode::error(
                out,
                "ERR memorystore-auth-proxy does not support CLIENT UNBLOCK of a blocked client yet; nothing was \
                 done",
            );
        } else {
            encode::integer(out, 0);
        }
    }

    fn list(&self, request: &Request<'_>) -> Result<String, &'static str> {
        let mut ids: Option<Vec<u64>> = None;
        match request.len() {
            2 => {}
            4 if request.arg(2).eq_ignore_ascii_case(b"TYPE") => {
                let kind = request.arg(3).to_ascii_lowercase();
                match kind.as_slice() {
                    b"normal" => {}
                    b"master" | b"replica" | b"slave" | b"pubsub" => ids = Some(Vec::new()),
                    _ => return Err("ERR Unknown client type"),
                }
            }
            _ if request.arg(2).eq_ignore_ascii_case(b"ID") && request.len() > 3 => {
                let wanted = request.args().skip(3).map(|a| {
                    local::parse_int(a).and_then(|n| u64::try_from(n).ok()).filter(|&n| n > 0)
                });
                let wanted: Option<Vec<u64>> = wanted.collect();
                ids = Some(wanted.ok_or("ERR Invalid client ID")?);
            }
            _ => return Err("ERR syntax error"),
        }
        let shown = |s: &&Session| ids.as_ref().is_none_or(|ids| ids.contains(&s.profile.id));
        let mut all: Vec<&Session> = self.sessions.iter().map(|(_, s)| s).filter(shown).collect();
        all.sort_by_key(|s| s.profile.id);
        Ok(all.into_iter().map(|s| line(s, self.now, "list")).collect())
    }

    fn kill(&mut self, key: Key, request: &Request<'_>, out: &mut Vec<u8>) {
        let old_form = request.len() == 3;
        let mut skip_me = true;
        let mut filters: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        if old_form {
            filters.push((b"addr".to_vec(), request.arg(2).to_vec()));
            skip_me = false;
        } else {
            let mut i = 2;
            while i + 1 < request.len() {
                let (name, value) = (request.arg(i).to_ascii_lowercase(), request.arg(i + 1));
                match name.as_slice() {
                    b"skipme" if value.eq_ignore_ascii_case(b"yes") => skip_me = true,
                    b"skipme" if value.eq_ignore_ascii_case(b"no") => skip_me = false,
                    b"id" if local::parse_int(value).is_none_or(|n| n <= 0) => {
                        return encode::error(out, "ERR client-id should be greater than 0");
                    }
                    b"id" | b"addr" | b"laddr" | b"user" | b"type" | b"maxage" => {
                        filters.push((name, value.to_vec()));
                    }
                    _ => return encode::error(out, "ERR syntax error"),
                }
                i += 2;
            }
            if i < request.len() {
                return encode::error(out, "ERR syntax error");
            }
        }
        let matches = |k: Key, s: &Session| {
            (!skip_me || k != key)
                && filters.iter().all(|(name, value)| match name.as_slice() {
                    b"id" => s.profile.id.to_string().as_bytes() == value.as_slice(),
                    b"addr" => s.profile.peer.as_bytes() == value.as_slice(),
                    b"laddr" => laddr(s).as_bytes() == value.as_slice(),
                    b"user" => value.as_slice() == b"default",
                    b"type" => value.eq_ignore_ascii_case(b"normal"),
                    _ => false,
                })
        };
        let victims: Vec<Key> =
            self.sessions.iter().filter(|(k, s)| matches(*k, s)).map(|(k, _)| k).collect();
        for &victim in &victims {
            if let Some(s) = self.sessions.get_mut(victim) {
                // Who kills itself still reads the reply.
                s.closing = if victim == key { Closing::AfterReplies } else { Closing::Now };
            }
            self.mark_session(victim);
        }
        match (old_form, victims.is_empty()) {
            (true, true) => encode::error(out, "ERR No such client"),
            (true, false) => encode::simple(out, "OK"),
            (false, _) => encode::integer(out, victims.len() as i64),
        }
    }
}

fn laddr(s: &Session) -> String {
    format!("{}:{}", s.profile.local_host, s.profile.local_port)
}

/// A line of CLIENT LIST; fields that have no meaning here say what an idle server would.
fn line(s: &Session, now: u64, command: &str) -> String {
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    let flags = match (s.blocked, s.transaction.is_some()) {
        (true, _) => "b",
        (false, true) => "x",
        (false, false) => "N",
    };
    format!(
        "id={} addr={} laddr={} fd=0 name={} age={} idle=0 flags={flags} db=0 sub=0 psub=0 ssub=0 multi={} \
         qbuf={} qbuf-free=0 argv-mem=0 multi-mem={} rbs=0 rbp=0 obl=0 oll=0 omem={} tot-mem={} events=r \
         cmd=client|{} user=default redir=-1 resp={} lib-name={} lib-ver={}\n",
        s.profile.id,
        s.profile.peer,
        laddr(s),
        text(&s.profile.name),
        now.saturating_sub(s.profile.since) / 1000,
        s.transaction.as_ref().map_or(-1, |t| i64::from(t.commands())),
        s.input.len(),
        s.transaction.as_ref().map_or(0, |t| t.len()),
        s.out.held(),
        s.input.capacity() + s.out.held(),
        command,
        if s.version == Version::V3 { 3 } else { 2 },
        text(&s.profile.lib_name),
        text(&s.profile.lib_version),
    )
}
