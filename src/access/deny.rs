//! Commands that nobody may run, whoever they are.
//!
//! Invariant: what lets a client in or out (AUTH, HELLO, QUIT, RESET) cannot be on it; a command is
//! found under its own name also when a server has another name for it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::command::keys::Args;
use crate::command::spec::{Row, flag};

use super::facts;
use super::selector::CommandSet;

/// See the module header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DenyList {
    commands: CommandSet,
    /// For commands that are not in the table.
    categories: u32,
    is_used: bool,
}

impl DenyList {
    /// Of names and categories, as in an ACL without the sign: `flushall,config|set,@dangerous`.
    ///
    /// # Errors
    /// The rest of a sentence that begins with the setting's name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut commands = CommandSet::default();
        let mut categories = 0;
        for word in text.split(',').map(str::trim) {
            let row = facts::row_of(word);
            if row.is_some_and(|row| row.flags & flag::NO_AUTH != 0) {
                return Err(format!(
                    "cannot have '{word}': clients need it to come in or to leave; take it out"
                ));
            }
            let may_have_arg = row.is_none() && word.contains('|') && !word.contains('.');
            if word.is_empty() || may_have_arg || commands.set(word, true).is_err() {
                return Err(format!(
                    "has '{word}', which is no command or category; give names as ACLs have them, such as \
                     flushall,config|set,@dangerous"
                ));
            }
            let category = word.strip_prefix('@').and_then(|name| facts::category(name.as_bytes()));
            categories |= category.unwrap_or_default();
        }
        Ok(Self { commands, categories, is_used: true })
    }

    /// True when it forbids nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        !self.is_used
    }

    /// True when this may not be run. `row` is `None` for a command of which no server tells anything.
    pub fn has<A: Args + ?Sized>(&self, row: Option<&'static Row>, args: &A) -> bool {
        match row {
            Some(row) if row.flags & flag::NO_AUTH != 0 => false,
            Some(row) if row.is_learned() => {
                self.commands.has(row) || facts::implied(row, 0) & self.categories != 0
            }
            Some(row) => self.commands.has(row),
            None => !args.is_empty() && self.commands.has_untold(args.get(0)),
        }
    }
}
