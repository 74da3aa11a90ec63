//! Users, and how an ACL file in Redis's own syntax describes them.
//!
//! Invariant: a file is taken as a whole or not at all, with the meaning a Redis server gives it: a
//! user begins with nothing, rules take effect in their order, a file that does not name `default`
//! leaves that user with every permission and without a password. Lines that begin with `#` are
//! comments, which a server does not take. No error repeats a rule: it may be a password.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::command::keys::Args;
use crate::command::spec::Row;

use super::Denial;
use super::password::Digest;
use super::selector::{RuleError, Selector};

/// Who a client is that says nothing.
pub const DEFAULT: &str = "default";

/// Most users of a file.
const MAX_USERS: usize = 10_000;

/// A user: passwords and permissions.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    name: Box<str>,
    on: bool,
    nopass: bool,
    passwords: Vec<Digest>,
    /// The root permissions, and those in parentheses: one of them has to suffice.
    selectors: Vec<Selector>,
    unrestricted: bool,
}

impl User {
    /// A user who may do nothing.
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            on: false,
            nopass: false,
            passwords: Vec::new(),
            selectors: vec![Selector::default()],
            unrestricted: false,
        }
    }

    /// The user of those who have not said who they are, unless a file says otherwise.
    fn anybody() -> Self {
        let mut user = Self::new(DEFAULT);
        for rule in [&b"on"[..], b"nopass", b"~*", b"&*", b"+@all"] {
            // These rules are right.
            let _ = user.apply(rule);
        }
        user.settle();
        user
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True when a client is this user without saying so.
    pub fn is_open(&self) -> bool {
        self.on && self.nopass
    }

    /// True when it needs no password.
    pub fn needs_no_password(&self) -> bool {
        self.nopass
    }

    /// True when nothing is refused.
    #[inline]
    pub fn is_unrestricted(&self) -> bool {
        self.unrestricted
    }

    /// Whether the two may do the same.
    pub fn may_the_same(&self, other: &Self) -> bool {
        self.selectors == other.selectors
    }

    /// True when it is limited, and yet may run scripts, whose commands nobody looks at.
    pub fn scripts_may_escape(&self) -> bool {
        self.on && !self.unrestricted && self.selectors.iter().any(Selector::scripts_may_escape)
    }

    /// Whether it may run this.
    ///
    /// # Errors
    /// Why not: of several sets of permissions, what the one says that came closest.
    pub fn check<A: Args + ?Sized>(
        &self,
        row: Option<&'static Row>,
        args: &A,
    ) -> Result<(), Denial> {
        let mut closest = Denial::Command;
        for selector in &self.selectors {
            match selector.check(row, args) {
                Ok(()) => return Ok(()),
                Err(denial) => closest = closest.max(denial),
            }
        }
        Err(closest)
    }

    /// Whether it may use this channel, or subscribe to this pattern.
    pub fn may_hear(&self, name: &[u8], is_pattern: bool) -> bool {
        self.selectors.iter().any(|s| s.may_hear(name, is_pattern))
    }

    fn settle(&mut self) {
        self.unrestricted = self.selectors.iter().any(Selector::is_unrestricted);
    }

    fn root(&mut self) -> &mut Selector {
        if self.selectors.is_empty() {
            self.selectors.push(Selector::default());
        }
        &mut self.selectors[0]
    }

    fn apply(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        let is = |word: &str| rule.eq_ignore_ascii_case(word.as_bytes());
        match rule {
            [] => {}
            _ if is("on") => self.on = true,
            _ if is("off") => self.on = false,
            // RESTORE is the nodes' business.
            _ if is("sanitize-payload") || is("skip-sanitize-payload") => {}
            _ if is("nopass") || is("resetpass") => {
                self.nopass = is("nopass");
                self.passwords.clear();
            }
            [b'>', password @ ..] => self.add_password(Digest::of(password)),
            [b'#', hash @ ..] => {
                self.add_password(Digest::from_hex(hash).ok_or(RuleError::BadHash)?);
            }
            [b'<', password @ ..] => self.remove_password(&Digest::of(password))?,
            [b'!', hash @ ..] => {
                self.remove_password(&Digest::from_hex(hash).ok_or(RuleError::BadHash)?)?;
            }
            [b'(', rules @ .., b')'] => {
                let mut selector = Selector::default();
                for rule in rules.split(|&b| b == b' ').filter(|rule| !rule.is_empty()) {
                    selector.apply(rule)?;
                }
                self.selectors.push(selector);
            }
            _ if is("clearselectors") => self.selectors.truncate(1),
            _ if is("reset") => *self = Self::new(&self.name),
            _ => self.root().apply(rule)?,
        }
        Ok(())
    }

    fn add_password(&mut self, password: Digest) {
        self.nopass = false;
        if !self.passwords.contains(&password) {
            self.passwords.push(password);
        }
    }

    fn remove_password(&mut self, password: &Digest) -> Result<(), RuleError> {
        let before = self.passwords.len();
        self.passwords.retain(|known| known != password);
        if self.passwords.len() == before { Err(RuleError::NoSuchPassword) } else { Ok(()) }
    }
}

/// All users.
#[derive(Debug, Clone)]
pub struct Users {
    by_name: BTreeMap<Box<str>, Arc<User>>,
    default: Arc<User>,
}

impl Users {
    /// One user, `default`, with this password and every permission.
    pub fn with_password(password: &[u8]) -> Self {
        let mut user = User::anybody();
        user.add_password(Digest::of(password));
        Self::of([user])
    }

    fn of(users: impl IntoIterator<Item = User>) -> Self {
        let mut by_name: BTreeMap<Box<str>, Arc<User>> =
            users.into_iter().map(|user| (user.name.clone(), Arc::new(user))).collect();
        let default =
            by_name.entry(DEFAULT.into()).or_insert_with(|| Arc::new(User::anybody())).clone();
        Self { by_name, default }
    }

    /// Reads an ACL file.
    ///
    /// # Errors
    /// Where it is wrong, and how.
    pub fn parse(content: &[u8]) -> Result<Self, String> {
        let mut users: Vec<User> = Vec::new();
        for (at, line) in content.split(|&b| b == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let user = user_of(line).map_err(|says| format!("line {}: {says}", at + 1))?;
            if users.iter().any(|known| known.name == user.name) {
                return Err(format!("line {}: the user '{}' was there before", at + 1, user.name));
            }
            if users.len() >= MAX_USERS {
                return Err(format!("it has more than {MAX_USERS} users"));
            }
            users.push(user);
        }
        Ok(Self::of(users))
    }

    /// Who a client is that has said nothing.
    pub fn default_user(&self) -> &Arc<User> {
        &self.default
    }

    /// The user of this name.
    pub fn get(&self, name: &[u8]) -> Option<&Arc<User>> {
        self.by_name.get(std::str::from_utf8(name).ok()?)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<User>> {
        self.by_name.values()
    }

    /// The user, if that is its password. That takes as long for a user that does not exist as for one
    /// with a single password.
    pub fn authenticate(&self, name: &[u8], password: &[u8]) -> Option<&Arc<User>> {
        let digest = Digest::of(password);
        let Some(user) = self.get(name) else {
            let _ = digest.is_among(std::slice::from_ref(&digest));
            return None;
        };
        let fits = digest.is_among(&user.passwords);
        (user.on && (user.nopass || fits)).then_some(user)
    }
}

/// `user NAME RULE…`, words apart by blanks.
fn user_of(line: &[u8]) -> Result<User, String> {
    let mut words = line.split(|&b| b == b' ').map(|word| word.trim_ascii());
    let name = match (words.next(), words.next()) {
        (Some(b"user"), Some(name)) if !name.is_empty() => name,
        _ => return Err("it does not begin with 'user' and a name".to_owned()),
    };
    let name = std::str::from_utf8(name)
        .ok()
        .filter(|name| !name.chars().any(|c| c.is_whitespace() || c.is_control()))
        .ok_or("the user's name has characters other than letters, digits and signs")?;
    let mut user = User::new(name);
    // Rules in parentheses are one rule.
    let mut open: Option<Zeroizing<Vec<u8>>> = None;
    for (at, word) in words.enumerate() {
        let wrong = |e: RuleError| format!("rule {} of the user '{name}': {e}", at + 1);
        match &mut open {
            Some(rules) => {
                rules.push(b' ');
                rules.extend_from_slice(word);
            }
            None if word.starts_with(b"(") => open = Some(Zeroizing::new(word.to_vec())),
            None => user.apply(word).map_err(wrong)?,
        }
        if word.ends_with(b")")
            && let Some(rules) = open.take()
        {
            user.apply(&rules).map_err(wrong)?;
        }
    }
    if open.is_some() {
        return Err(format!("a parenthesis of the user '{name}' is not closed"));
    }
    user.settle();
    Ok(user)
}
