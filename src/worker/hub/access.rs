//! Who the sessions' clients are, and what is refused to them.
//!
//! A session that has to say who it is first stands under [`hold::UNAUTHENTICATED`]: nothing of it
//! goes the usual way, and [`Hub::admit`] takes in the few commands it may say. Of every other
//! session each request is held against the rules before anything else is done with it. Invariant:
//! without users and deny list none of this costs a command more than one branch; no argument, key or
//! password reaches an audit line.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::Arc;

use bytes::BytesMut;
use zeroize::{Zeroize as _, Zeroizing};

use crate::access::acl::DEFAULT;
use crate::access::{Access, Denial, User, Users};
use crate::command::lookup;
use crate::command::spec::{Handler, Local, Row, Transaction as Tx};
use crate::key::Key;
use crate::resp::request::{ArgRange, Request, fill_args};
use crate::resp::scan::{RequestError, RequestScan, RequestScanner};
use crate::resp::{encode, inline, preauth};
use crate::session::core::{Closing, Session, hold};
use crate::session::local::{self, Hello};
use crate::session::subscriptions::Kind;

use super::{Hub, MAX_READ_AHEAD};

/// Most unread bytes that a client may leave that has not said who it is.
const MAX_UNREAD: usize = 16 * 1024;

/// Audit lines a second.
const MAX_LINES: u32 = 10;

const NOAUTH: &str = "NOAUTH Authentication required.";
const NOAUTH_HELLO: &str = "NOAUTH HELLO must be called with the client already authenticated, \
     otherwise the HELLO AUTH <user> <pass> option can be used to authenticate the client and select \
     the RESP protocol version at the same time";
const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the \
     default user. Are you sure your configuration is correct?";

/// Something that was refused, as the audit log says it.
#[derive(Debug)]
pub struct Refusal {
    /// CLIENT ID.
    pub client: u64,
    /// Its address.
    pub peer: String,
    /// Its user; of a failed AUTH the one it wanted to be, if there is such a user.
    pub user: String,
    /// The command's name, if it is known to be one.
    pub command: &'static str,
    /// Why; one of the metric's labels.
    pub reason: &'static str,
    /// Others of the second before of which there is no line.
    pub unlogged: u64,
}

/// How many audit lines there may be.
#[derive(Debug, Default)]
pub(super) struct Audit {
    /// The second that is counted (of the worker's clock).
    second: u64,
    lines: u32,
    unlogged: u64,
}

impl Audit {
    /// Whether there may be another line now, and how many there were none for before.
    fn may_log(&mut self, now: u64) -> Option<u64> {
        if self.second != now / 1000 {
            self.second = now / 1000;
            self.lines = 0;
        }
        if self.lines >= MAX_LINES {
            self.unlogged += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.unlogged))
    }
}

impl Hub {
    /// From now on these rules are in force, for the clients that are there as well: whose user is
    /// gone is disconnected, and so is who is subscribed to what its user may not hear any more. A
    /// transaction that was begun under other permissions will not run.
    pub fn set_access(&mut self, access: Option<Arc<Access>>) {
        self.access = access;
        if self.users().is_some() {
            let all: Vec<Key> = self.sessions.iter().map(|(key, _)| key).collect();
            all.into_iter().for_each(|key| self.follow_rules(key));
        }
        self.settle();
    }

    fn users(&self) -> Option<&Users> {
        self.access.as_deref()?.users.as_ref()
    }

    fn follow_rules(&mut self, key: Key) {
        let access = self.access.clone();
        let users = access.as_deref().and_then(|a| a.users.as_ref());
        let (Some(users), Some(s)) = (users, self.sessions.get_mut(key)) else {
            return;
        };
        let before = s.profile.user.take();
        let name = before.as_deref().map_or(DEFAULT, User::name);
        let Some(user) = users.get(name.as_bytes()) else {
            s.profile.user = before;
            s.closing = Closing::Now;
            return self.mark_session(key);
        };
        s.profile.user = Some(user.clone());
        if let Some(t) = &mut s.transaction
            && !before.as_deref().is_some_and(|before| before.may_the_same(user))
        {
            t.fail();
        }
        if hears_forbidden(s, user) {
            s.closing = Closing::Now;
            return self.mark_session(key);
        }
        if s.holds & hold::UNAUTHENTICATED != 0 && users.default_user().is_open() {
            self.let_go(vec![key], hold::UNAUTHENTICATED);
        }
    }

    /// A client connected: it is the default user, and perhaps has to say first that it is.
    pub(super) fn greet(&mut self, key: Key) {
        let access = self.access.clone();
        let users = access.as_deref().and_then(|a| a.users.as_ref());
        let (Some(users), Some(s)) = (users, self.sessions.get_mut(key)) else {
            return;
        };
        s.profile.user = Some(users.default_user().clone());
        if !users.default_user().is_open() {
            s.holds |= hold::UNAUTHENTICATED;
        }
    }

    /// RESET: it is as if the client had just connected.
    pub(super) fn forget_user(&mut self, key: Key) {
        self.greet(key);
        if let Some(s) = self.sessions.get_mut(key)
            && s.holds & hold::UNAUTHENTICATED != 0
            && !s.resuming
        {
            // What stands behind it is taken in by `admit`.
            s.resuming = true;
            self.resuming.push(key);
        }
    }

    /// True when there is such a user.
    pub(super) fn is_user(&self, name: &[u8]) -> bool {
        match self.users() {
            Some(users) => users.get(name).is_some(),
            None => name == DEFAULT.as_bytes(),
        }
    }

    /// True when there is something that the session's user may not do.
    pub(super) fn is_restricted(&self, key: Key) -> bool {
        let user = self.sessions.get(key).and_then(|s| s.profile.user.as_deref());
        self.access.is_some() && user.is_some_and(|user| !user.is_unrestricted())
    }

    /// Takes requests in of a client that has not said who it is, until it has.
    #[cold]
    pub(super) fn admit(&mut self, key: Key) {
        let mut args = std::mem::take(&mut self.args);
        while let Some(s) = self.sessions.get_mut(key) {
            if s.closing != Closing::No {
                s.input = BytesMut::new();
            }
            if s.input.is_empty() || s.holds & hold::UNAUTHENTICATED == 0 {
                break;
            }
            let scan = preauth::check(&s.input).and_then(|()| {
                RequestScanner::default().scan(&s.input, &mut args, self.settings.max_request)
            });
            match scan {
                Ok(RequestScan::Partial(_)) if s.input.len() < MAX_READ_AHEAD => break,
                Ok(RequestScan::Partial(_)) => {
                    self.protocol_error(key, RequestError::UnauthenticatedBulk);
                }
                Ok(RequestScan::Multibulk(n)) => {
                    let mut frame = s.input.split_to(n);
                    self.admit_one(key, &Request::new(&frame, None, &args));
                    // It may hold a password.
                    frame.zeroize();
                }
                Ok(RequestScan::Inline(n)) => {
                    let mut line = s.input.split_to(n);
                    self.admit_inline(key, &line);
                    line.zeroize();
                }
                Err(error) => self.protocol_error(key, error),
            }
        }
        self.args = args;
        if let Some(s) = self.sessions.get_mut(key)
            && s.input.is_empty()
        {
            s.input = BytesMut::new();
        }
    }

    fn admit_inline(&mut self, key: Key, line: &[u8]) {
        let Some(words) = inline::split(line).map(Zeroizing::new) else {
            return self.protocol_error(key, RequestError::UnbalancedQuotes);
        };
        let mut frame = Zeroizing::new(Vec::with_capacity(line.len() + 16 * words.len()));
        encode::command(&mut frame, &words);
        let mut args: Vec<ArgRange> = Vec::with_capacity(words.len());
        fill_args(&frame, &mut args);
        self.admit_one(key, &Request::new(&frame, None, &args));
    }

    fn admit_one(&mut self, key: Key, request: &Request<'_>) {
        if request.is_empty() {
            return;
        }
        let sub = (request.len() > 1).then(|| request.arg(1));
        let row = lookup::resolve(request.arg(0), sub);
        let text = match row {
            Some(row) if !local::arity_fits(row, request.len()) => local::wrong_arity(row.name),
            Some(row) if row.container && sub.is_some() => local::bare_container(row, request),
            Some(row) => match row.handler {
                Handler::Local(
                    what @ (Local::Auth | Local::Hello | Local::Quit | Local::Reset),
                ) => {
                    self.local(key, row, what, request);
                    return self.cut_off_unread(key);
                }
                _ => NOAUTH.to_owned(),
            },
            // A module's, perhaps; nobody is asked for a stranger.
            None => NOAUTH.to_owned(),
        };
        self.counters.commands += 1;
        if text == NOAUTH {
            self.counters.refused_noauth += 1;
            self.audit(key, None, row.map_or("(unknown)", |row| row.name), "noauth");
        }
        self.refuse(key, &text);
        self.cut_off_unread(key);
    }

    /// A stranger that does not read is disconnected.
    fn cut_off_unread(&mut self, key: Key) {
        if let Some(s) = self.sessions.get_mut(key)
            && s.holds & hold::UNAUTHENTICATED != 0
            && s.out.unsent() > MAX_UNREAD
        {
            s.closing = Closing::Now;
            self.counters.closed_output += 1;
            self.mark_session(key);
        }
    }

    /// Whether the session may run this. False: it is answered.
    #[inline(never)]
    pub(super) fn permits(
        &mut self,
        key: Key,
        row: Option<&'static Row>,
        request: &Request<'_>,
    ) -> bool {
        let (Some(access), Some(s)) = (self.access.as_deref(), self.sessions.get(key)) else {
            return true;
        };
        match access.check(s.profile.user.as_ref(), row, request) {
            Ok(()) => match row {
                Some(row) if access.users.is_some() => self.permits_of_users(key, row, request),
                _ => true,
            },
            Err(denial) => {
                self.deny(key, row, request, denial);
                false
            }
        }
    }

    fn deny(&mut self, key: Key, row: Option<&'static Row>, request: &Request<'_>, denial: Denial) {
        self.counters.commands += 1;
        if let Some(s) = self.sessions.get_mut(key) {
            s.last = row;
        }
        let text = match row {
            // A server looks at these first.
            Some(row) if !local::arity_fits(row, request.len()) => local::wrong_arity(row.name),
            Some(row) if row.container && request.len() > 1 => local::bare_container(row, request),
            _ => {
                let name = request.arg(0);
                let shown = String::from_utf8_lossy(&name[..name.len().min(128)]);
                self.count(denial);
                self.audit(key, None, row.map_or("(unknown)", |row| row.name), denial.reason());
                denial.text(row.map_or(&shown, |row| row.name))
            }
        };
        match row.map(|row| row.handler) {
            Some(Handler::Transaction(Tx::Exec)) => self.abort_exec(key, &text),
            _ => self.refuse_queued(key, &text),
        }
    }

    fn count(&mut self, denial: Denial) {
        let counters = &mut self.counters;
        let counter = match denial {
            Denial::Command => &mut counters.refused_command,
            Denial::Key | Denial::SortBy | Denial::SortGet => &mut counters.refused_key,
            Denial::Channel => &mut counters.refused_channel,
            Denial::DenyList => &mut counters.refused_deny_list,
        };
        *counter += 1;
    }

    /// Has a refusal logged. `user`: whom it is about, if not the session's own.
    fn audit(&mut self, key: Key, user: Option<&str>, command: &'static str, reason: &'static str) {
        let Some(unlogged) = self.audit.may_log(self.now) else {
            return;
        };
        let Some(s) = self.sessions.get(key) else {
            return;
        };
        let own = s.profile.user.as_deref().map_or(DEFAULT, User::name);
        self.work.refusals.push(Refusal {
            client: s.profile.id,
            peer: s.profile.peer.clone(),
            user: user.unwrap_or(own).to_owned(),
            command,
            reason,
            unlogged,
        });
    }

    /// What the proxy answers itself because it has users. False: it is answered.
    fn permits_of_users(&mut self, key: Key, row: &'static Row, request: &Request<'_>) -> bool {
        let in_multi = self.sessions.get(key).is_some_and(|s| s.transaction.is_some());
        let is_own = match row.handler {
            Handler::Local(Local::Auth) => in_multi,
            _ => row.name.starts_with("acl|"),
        };
        if !is_own
            || matches!(row.name, "acl|cat" | "acl|genpass" | "acl|help")
            || !local::arity_fits(row, request.len())
        {
            return true;
        }
        self.counters.commands += 1;
        if let Some(s) = self.sessions.get_mut(key) {
            s.last = Some(row);
        }
        if in_multi {
            let text = format!(
                "ERR memorystore-auth-proxy: '{}' is about the proxy's own users and cannot be part of a \
                 transaction, which runs on a node",
                row.name.replace('|', " ")
            );
            self.refuse_queued(key, &text);
            return false;
        }
        let mut out = Vec::new();
        match self.acl(key, row, request, &mut out) {
            Ok(()) => {
                if let Some(s) = self.sessions.get_mut(key) {
                    s.answer(&out);
                }
                self.mark_session(key);
            }
            Err(text) => self.refuse(key, &text),
        }
        false
    }

    /// ACL subcommands about users.
    fn acl(
        &self,
        key: Key,
        row: &'static Row,
        request: &Request<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let users = self.users().ok_or("ERR there are no users")?;
        match row.name {
            "acl|whoami" => {
                let user = self.sessions.get(key).and_then(|s| s.profile.user.as_deref());
                encode::bulk(out, user.map_or(DEFAULT, User::name).as_bytes());
                Ok(())
            }
            "acl|users" => {
                encode::header(out, b'*', users.iter().count() as i64);
                users.iter().for_each(|user| encode::bulk(out, user.name().as_bytes()));
                Ok(())
            }
            "acl|dryrun" => dry_run(users, request, out),
            _ => Err(format!(
                "ERR memorystore-auth-proxy: '{}' is not possible: users are those of the proxy's \
                 --client-acl-file or --client-password-file, which are read again when they change",
                row.name.replace('|', " ")
            )),
        }
    }

    /// AUTH and HELLO, where there are users. True: it is answered.
    #[cold]
    pub(super) fn says_who(
        &mut self,
        key: Key,
        row: &Row,
        what: Local,
        request: &Request<'_>,
    ) -> bool {
        let (Some(users), Some(s)) = (self.users(), self.sessions.get(key)) else {
            return false;
        };
        if !local::arity_fits(row, request.len()) {
            return false;
        }
        match (what, request.len()) {
            (Local::Auth, 2) if users.default_user().needs_no_password() => {
                self.counters.commands += 1;
                self.refuse(key, NO_PASSWORD);
                true
            }
            (Local::Auth, 2) => {
                if self.authenticate(key, row, DEFAULT.as_bytes(), request.arg(1)) {
                    self.counters.commands += 1;
                    self.ok(key);
                }
                true
            }
            (Local::Auth, 3) => {
                if self.authenticate(key, row, request.arg(1), request.arg(2)) {
                    self.counters.commands += 1;
                    self.ok(key);
                }
                true
            }
            (Local::Hello, _) => {
                let is_stranger = s.holds & hold::UNAUTHENTICATED != 0;
                match Hello::of(request, s.version).map(|hello| hello.credentials) {
                    Ok(Some((name, password))) => !self.authenticate(key, row, name, password),
                    Ok(None) if is_stranger => {
                        self.counters.commands += 1;
                        self.counters.refused_noauth += 1;
                        self.audit(key, None, "hello", "noauth");
                        self.refuse(key, NOAUTH_HELLO);
                        true
                    }
                    _ => false,
                }
            }
            _ => false,
        }
    }

    /// The session is this user from now on, if that is its password; else it is told so.
    fn authenticate(&mut self, key: Key, row: &Row, name: &[u8], password: &[u8]) -> bool {
        let Some(users) = self.users() else {
            return false;
        };
        if let Some(user) = users.authenticate(name, password).cloned() {
            if let Some(s) = self.sessions.get_mut(key) {
                s.profile.user = Some(user);
                s.holds &= !hold::UNAUTHENTICATED;
            }
            return true;
        }
        // A name that is no user's may be a password in the wrong place.
        let wanted = users.get(name).map_or("(unknown)", |user| user.name()).to_owned();
        self.counters.commands += 1;
        self.counters.refused_wrongpass += 1;
        let command = if row.name == "auth" { "auth" } else { "hello" };
        self.audit(key, Some(&wanted), command, "wrongpass");
        self.refuse(key, WRONGPASS);
        false
    }
}

/// ACL DRYRUN.
fn dry_run(users: &Users, request: &Request<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    let shown = |at: usize| String::from_utf8_lossy(request.arg(at)).into_owned();
    let user = users.get(request.arg(2)).ok_or(format!("ERR User '{}' not found", shown(2)))?;
    let args: Vec<&[u8]> = request.args().skip(3).collect();
    let row = lookup::resolve(request.arg(3), args.get(1).copied())
        .filter(|row| !row.container || args.len() == 1)
        .ok_or(format!("ERR Command '{}' not found", shown(3)))?;
    if !local::arity_fits(row, args.len()) {
        return Err(local::wrong_arity(row.name));
    }
    let what = match user.check(Some(row), &args[..]) {
        Ok(()) => {
            encode::simple(out, "OK");
            return Ok(());
        }
        Err(Denial::Command | Denial::DenyList) => format!("run the '{}' command", row.name),
        Err(Denial::Key | Denial::SortBy | Denial::SortGet) => "access one of the keys".to_owned(),
        Err(Denial::Channel) => "access one of the channels".to_owned(),
    };
    encode::bulk(out, format!("This user has no permissions to {what}").as_bytes());
    Ok(())
}

/// True when the session is subscribed to what the user may not hear.
fn hears_forbidden(s: &Session, user: &User) -> bool {
    let Some(subscriptions) = s.streams.as_deref().map(|streams| &streams.subscriptions) else {
        return false;
    };
    let forbidden = |kind: Kind, name: &[u8]| !user.may_hear(name, kind == Kind::Pattern);
    let waiting = subscriptions.waiting.iter().flat_map(|w| w.names.iter().map(|n| (w.kind, n)));
    let all =
        Kind::ALL.into_iter().flat_map(|kind| subscriptions.names(kind).map(move |n| (kind, n)));
    all.chain(waiting).any(|(kind, name)| forbidden(kind, name))
}
