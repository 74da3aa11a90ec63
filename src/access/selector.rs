//! One set of permissions: commands, keys and channels, as ACL rules build it and requests are held
//! against it.
//!
//! Invariant: rules take effect in the order they are written, as on a server, and what a rule means
//! does not depend on who asks. Commands that are not in the table (modules', newer servers') are
//! allowed by `+@all` or by name alone, never by a category; a category does take them away.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::ops::ControlFlow::{Break, Continue};

use crate::command::glob;
use crate::command::keys::{self, Args};
use crate::command::spec::{Access, Begin, Find, Handler, KeyShape, Row, Subscription, flag};
use crate::command::table::COMMANDS;

use super::Denial;
use super::facts::{self, READ, WRITE};

/// See the module header. A new one permits nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    commands: CommandSet,
    all_keys: bool,
    keys: Vec<KeyPattern>,
    all_channels: bool,
    channels: Vec<Box<[u8]>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct KeyPattern {
    pattern: Box<[u8]>,
    /// A union of [`READ`] and [`WRITE`].
    permits: u8,
}

/// Commands by name and category; `-@all` at first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandSet {
    /// Every command, those to come included.
    all: bool,
    /// Rows of the table.
    rows: Box<[u64]>,
    /// What was said since the last `±@all`, for commands that are not in the table.
    others: Vec<Other>,
    /// `+command|argument`: permitted with this first argument only.
    first_args: Vec<(usize, Box<[u8]>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Other {
    All(bool),
    /// No longer this category.
    Without(u32),
    Name(Box<str>, bool),
}

/// Why a rule cannot be taken, in Redis's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// No such command or category.
    #[error("Unknown command or category name in ACL")]
    Unknown,
    /// No such rule.
    #[error("Syntax error")]
    Syntax,
    /// A key pattern behind `~*`.
    #[error(
        "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have \
         any effect. Try 'resetkeys' to start with an empty list of patterns"
    )]
    KeyAfterAll,
    /// A channel pattern behind `&*`.
    #[error(
        "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not \
         have any effect. Try 'resetchannels' to start with an empty list of channels"
    )]
    ChannelAfterAll,
    /// `+container|subcommand|argument`.
    #[error("Allowing first-arg of a subcommand is not supported")]
    FirstArgOfSubcommand,
    /// A password to be removed that is not there.
    #[error("The password you are trying to remove from the user does not exist")]
    NoSuchPassword,
    /// A hash that is none.
    #[error(
        "The password hash must be exactly 64 characters and contain only lowercase hexadecimal \
         characters"
    )]
    BadHash,
}

impl Default for CommandSet {
    fn default() -> Self {
        Self {
            all: false,
            rows: vec![0; COMMANDS.len().div_ceil(64)].into_boxed_slice(),
            others: Vec::new(),
            first_args: Vec::new(),
        }
    }
}

impl CommandSet {
    /// Every command, or none.
    pub fn set_all(&mut self, allow: bool) {
        self.all = allow;
        self.rows.fill(if allow { u64::MAX } else { 0 });
        self.others = vec![Other::All(allow)];
        self.first_args.clear();
    }

    /// Adds or removes what a rule names: `get`, `config|get`, `@read`, `select|0` (to be added only).
    ///
    /// # Errors
    /// When there is no such thing.
    pub fn set(&mut self, what: &str, allow: bool) -> Result<(), RuleError> {
        if let Some(category) = what.strip_prefix('@') {
            if category.eq_ignore_ascii_case("all") {
                self.set_all(allow);
                return Ok(());
            }
            return self.set_category(category, allow);
        }
        if let Some(row) = facts::row_of(what) {
            self.set_command(row, allow);
            if row.container {
                // Subcommands that a newer server tells of.
                self.others.push(Other::Name(row.name.into(), allow));
            }
            return Ok(());
        }
        // A module's, which the nodes may have.
        if what.contains('.') && what.bytes().all(|b| b.is_ascii_graphic()) {
            self.others.push(Other::Name(what.to_ascii_lowercase().into(), allow));
            self.all &= allow;
            return Ok(());
        }
        let (command, arg) = what.rsplit_once('|').ok_or(RuleError::Unknown)?;
        let row = facts::row_of(command).filter(|_| allow).ok_or(RuleError::Unknown)?;
        match facts::number(row) {
            _ if row.name.contains('|') => Err(RuleError::FirstArgOfSubcommand),
            _ if arg.is_empty() => Err(RuleError::Syntax),
            Some(at) if !row.container => {
                self.first_args.push((at, arg.as_bytes().into()));
                Ok(())
            }
            _ => Err(RuleError::Unknown),
        }
    }

    fn set_category(&mut self, name: &str, allow: bool) -> Result<(), RuleError> {
        let category = facts::category(name.as_bytes()).ok_or(RuleError::Unknown)?;
        for row in COMMANDS.iter().filter(|row| facts::categories(row) & category != 0) {
            self.set_command(row, allow);
        }
        if !allow {
            self.all = false;
            self.others.push(Other::Without(category));
        }
        Ok(())
    }

    /// With all its subcommands, if it is a container.
    fn set_command(&mut self, row: &'static Row, allow: bool) {
        self.set_row(row, allow);
        if let Some(at) = facts::number(row) {
            self.first_args.retain(|(n, _)| *n != at);
        }
        if row.container {
            let is_sub =
                |name: &str| name.strip_prefix(row.name).is_some_and(|rest| rest.starts_with('|'));
            COMMANDS.iter().filter(|r| is_sub(r.name)).for_each(|sub| self.set_row(sub, allow));
        }
    }

    fn set_row(&mut self, row: &'static Row, allow: bool) {
        let Some(at) = facts::number(row) else {
            return;
        };
        let bit = 1 << (at % 64);
        if allow {
            self.rows[at / 64] |= bit;
        } else {
            self.rows[at / 64] &= !bit;
            self.all = false;
        }
    }

    /// True when it has every command, those to come included.
    pub fn is_all(&self) -> bool {
        self.all
    }

    /// Whether it has this command, without regard to its arguments.
    #[inline]
    pub fn has(&self, row: &'static Row) -> bool {
        match facts::number(row) {
            Some(at) => self.rows.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 != 0),
            None => self.has_other(row.name.as_bytes(), Some(row)),
        }
    }

    /// The same of a command of which only the name is known.
    pub fn has_untold(&self, name: &[u8]) -> bool {
        self.has_other(name, None)
    }

    fn has_other(&self, name: &[u8], row: Option<&Row>) -> bool {
        let container = name.split(|&b| b == b'|').next().unwrap_or_default();
        let mut has = false;
        for rule in &self.others {
            match rule {
                Other::All(allow) => has = *allow,
                Other::Without(category) => {
                    has &= row.is_some_and(|row| facts::implied(row, 0) & category == 0);
                }
                Other::Name(named, allow) => {
                    let named = named.as_bytes();
                    if named.eq_ignore_ascii_case(name) || named.eq_ignore_ascii_case(container) {
                        has = *allow;
                    }
                }
            }
        }
        has
    }

    fn has_with<A: Args + ?Sized>(&self, row: &'static Row, args: &A) -> bool {
        if self.all || self.has(row) {
            return true;
        }
        let Some(at) = facts::number(row).filter(|_| args.len() > 1) else {
            return false;
        };
        self.first_args.iter().any(|(n, arg)| *n == at && arg.eq_ignore_ascii_case(args.get(1)))
    }
}

impl Selector {
    /// Takes one rule: `~app:*`, `%R~ro:*`, `&chan*`, `+@read`, `-flushall`, `resetkeys` …
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn apply(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        let is = |word: &str| rule.eq_ignore_ascii_case(word.as_bytes());
        match rule {
            _ if is("allkeys") || is("~*") => self.set_keys(true),
            _ if is("resetkeys") => self.set_keys(false),
            _ if is("allchannels") || is("&*") => self.set_channels(true),
            _ if is("resetchannels") => self.set_channels(false),
            _ if is("allcommands") => self.commands.set_all(true),
            _ if is("nocommands") => self.commands.set_all(false),
            [b'~', pattern @ ..] => self.add_keys(pattern, READ | WRITE)?,
            [b'%', rest @ ..] => {
                let (permits, pattern) = permission(rest)?;
                self.add_keys(pattern, permits)?;
            }
            [b'&', pattern @ ..] => self.add_channels(pattern)?,
            [sign @ (b'+' | b'-'), what @ ..] => {
                let what = std::str::from_utf8(what).map_err(|_| RuleError::Unknown)?;
                self.commands.set(what, *sign == b'+')?;
            }
            _ => return Err(RuleError::Syntax),
        }
        Ok(())
    }

    fn set_keys(&mut self, all: bool) {
        self.all_keys = all;
        self.keys.clear();
    }

    fn set_channels(&mut self, all: bool) {
        self.all_channels = all;
        self.channels.clear();
    }

    fn add_keys(&mut self, pattern: &[u8], permits: u8) -> Result<(), RuleError> {
        if self.all_keys {
            return Err(RuleError::KeyAfterAll);
        }
        no_spaces(pattern)?;
        match self.keys.iter_mut().find(|k| *k.pattern == *pattern) {
            Some(known) => known.permits |= permits,
            None => self.keys.push(KeyPattern { pattern: pattern.into(), permits }),
        }
        Ok(())
    }

    fn add_channels(&mut self, pattern: &[u8]) -> Result<(), RuleError> {
        if self.all_channels {
            return Err(RuleError::ChannelAfterAll);
        }
        no_spaces(pattern)?;
        if !self.channels.iter().any(|c| **c == *pattern) {
            self.channels.push(pattern.into());
        }
        Ok(())
    }

    /// True when nothing is refused.
    pub fn is_unrestricted(&self) -> bool {
        self.commands.is_all() && self.all_keys && self.all_channels
    }

    /// True when it is limited to some keys and yet may run scripts, whose commands nobody looks at.
    pub fn scripts_may_escape(&self) -> bool {
        let runs = |name: &str| facts::row_of(name).is_some_and(|row| self.commands.has(row));
        let scripts = ["eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro"];
        !self.is_unrestricted() && scripts.into_iter().any(runs)
    }

    /// Whether this may be run; `row` is `None` for a command of which no server tells anything.
    ///
    /// # Errors
    /// Why not.
    pub fn check<A: Args + ?Sized>(
        &self,
        row: Option<&'static Row>,
        args: &A,
    ) -> Result<(), Denial> {
        let Some(row) = row else {
            let name = if args.is_empty() { b"" } else { args.get(0) };
            return if !self.commands.has_untold(name) {
                Err(Denial::Command)
            } else if self.all_keys && self.all_channels {
                Ok(())
            } else {
                Err(Denial::Key)
            };
        };
        if row.flags & flag::NO_AUTH == 0 && !self.commands.has_with(row, args) {
            return Err(Denial::Command);
        }
        if !self.all_keys {
            self.check_keys(row, args)?;
        }
        if !self.all_channels {
            self.check_channels(row, args)?;
        }
        Ok(())
    }

    fn check_keys<A: Args + ?Sized>(&self, row: &'static Row, args: &A) -> Result<(), Denial> {
        if row.is_learned() && hides_keys(row) && !self.may_touch_all(need_of_hidden(row)) {
            return Err(Denial::Key);
        }
        self.check_keys_of(row, row, args)?;
        if matches!(row.shape, KeyShape::Georadius(_)) {
            // Of two destinations the last is written, and a server wants a permission for both.
            let both = Row { shape: KeyShape::Specs, ..*row };
            self.check_keys_of(row, &both, args)?;
        }
        self.check_sort(row, args)
    }

    /// Looks at the keys that `finder` finds.
    fn check_keys_of<A: Args + ?Sized>(
        &self,
        row: &'static Row,
        finder: &Row,
        args: &A,
    ) -> Result<(), Denial> {
        let mut nth = 0;
        let refused = keys::walk(finder, args, &mut |at, access| {
            let need = facts::need(row, nth, access, args);
            nth += 1;
            if need.is_some_and(|need| !self.may_touch(args.get(at), need)) {
                Break(())
            } else {
                Continue(())
            }
        });
        match refused {
            Ok(Continue(())) => Ok(()),
            // What keys a malformed command names cannot be told.
            Ok(Break(())) | Err(_) => Err(Denial::Key),
        }
    }

    /// SORT looks at keys that its BY and GET make out of what is stored.
    fn check_sort<A: Args + ?Sized>(&self, row: &'static Row, args: &A) -> Result<(), Denial> {
        if !matches!(row.name, "sort" | "sort_ro") || self.may_touch_all(READ) {
            return Ok(());
        }
        let mut at = 2;
        while at < args.len() {
            let (option, left) = (args.get(at), args.len() - at - 1);
            at += if option.eq_ignore_ascii_case(b"LIMIT") && left >= 2 {
                3
            } else if option.eq_ignore_ascii_case(b"STORE") && left >= 1 {
                2
            } else if option.eq_ignore_ascii_case(b"BY") && left >= 1 {
                if args.get(at + 1).contains(&b'*') {
                    return Err(Denial::SortBy);
                }
                2
            } else if option.eq_ignore_ascii_case(b"GET") && left >= 1 {
                return Err(Denial::SortGet);
            } else {
                1
            };
        }
        Ok(())
    }

    fn may_touch(&self, key: &[u8], need: u8) -> bool {
        self.keys.iter().any(|k| k.permits & need == need && glob::matches(&k.pattern, key))
    }

    fn may_touch_all(&self, need: u8) -> bool {
        self.all_keys || self.keys.iter().any(|k| k.permits & need == need && *k.pattern == *b"*")
    }

    fn check_channels<A: Args + ?Sized>(&self, row: &'static Row, args: &A) -> Result<(), Denial> {
        let (names, pattern) = match row.handler {
            Handler::Publish => (1..2, false),
            Handler::Subscribe(Subscription::Subscribe | Subscription::Ssubscribe) => {
                (1..args.len(), false)
            }
            Handler::Subscribe(Subscription::Psubscribe) => (1..args.len(), true),
            _ if row.is_learned() && row.flags & flag::PUBSUB != 0 => {
                return Err(Denial::Channel);
            }
            _ => return Ok(()),
        };
        let end = names.end.min(args.len());
        if (names.start..end).all(|at| self.may_hear(args.get(at), pattern)) {
            Ok(())
        } else {
            Err(Denial::Channel)
        }
    }

    /// Whether it may use this channel, or subscribe to this pattern of channels: that has to be
    /// permitted literally.
    pub fn may_hear(&self, name: &[u8], is_pattern: bool) -> bool {
        let fits = |permitted: &[u8]| match is_pattern {
            true => permitted == name,
            false => glob::matches(permitted, name),
        };
        self.all_channels || self.channels.iter().any(|permitted| fits(permitted))
    }
}

/// A command a server told of whose keys cannot all be seen.
fn hides_keys(row: &Row) -> bool {
    let touches = row.flags & (flag::READONLY | flag::WRITE) != 0;
    row.flags & flag::MOVABLEKEYS != 0
        || row.keys.iter().any(|k| k.begin == Begin::Unknown || k.find == Find::Unknown)
        || touches && row.keys.iter().all(|k| k.access == Access::NotKey)
}

fn need_of_hidden(row: &Row) -> u8 {
    if row.flags & flag::READONLY != 0 { READ } else { READ | WRITE }
}

/// What stands behind a `%`: `R~pattern`, `W~pattern`, `RW~pattern`.
fn permission(rest: &[u8]) -> Result<(u8, &[u8]), RuleError> {
    let mut permits = 0;
    for (i, letter) in rest.iter().enumerate() {
        let bit = match letter.to_ascii_uppercase() {
            b'R' => READ,
            b'W' => WRITE,
            b'~' if permits != 0 => return Ok((permits, &rest[i + 1..])),
            _ => return Err(RuleError::Syntax),
        };
        if permits & bit != 0 {
            return Err(RuleError::Syntax);
        }
        permits |= bit;
    }
    Err(RuleError::Syntax)
}

fn no_spaces(pattern: &[u8]) -> Result<(), RuleError> {
    let bad = |b: &u8| matches!(b, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r' | 0);
    if pattern.iter().any(bad) { Err(RuleError::Syntax) } else { Ok(()) }
}
