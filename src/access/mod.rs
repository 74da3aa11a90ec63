//! Who a client is and what it may do: users, passwords, commands, keys and channels, in the words
//! of Redis's ACL.
//!
//! [`acl`] reads a `users.acl` file, [`selector`] holds one set of permissions, [`deny`] the list of
//! commands nobody may run, [`facts`] what the table does not say of commands. Invariant: a decision
//! depends on the request and the rules alone, allocates nothing, and agrees with a Redis server of
//! the same rules for every command that server knows (a test asks one); where a server could tell
//! and the proxy cannot (keys of a command nobody describes), the answer is no. Passwords are kept as
//! SHA-256 alone. It cannot see into scripts: whoever may run EVAL may run what is written in it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod acl;
pub mod deny;
pub mod facts;
pub mod password;
pub mod selector;

use std::sync::Arc;

use crate::command::keys::Args;
use crate::command::spec::Row;

pub use acl::{User, Users};
pub use deny::DenyList;

/// Why a command is refused. The order is that of what a server tells first when several sets of
/// permissions refuse: the later, the closer it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Denial {
    /// The user may not run the command.
    Command,
    /// The user may not touch one of the keys.
    Key,
    /// The user may not touch one of the channels.
    Channel,
    /// SORT with BY needs all keys.
    SortBy,
    /// SORT with GET needs all keys.
    SortGet,
    /// Nobody may run the command.
    DenyList,
}

impl Denial {
    /// The error reply, in the words of Redis 7.0 where it has words for it.
    pub fn text(self, command: &str) -> String {
        match self {
            Self::Command => {
                format!("NOPERM this user has no permissions to run the '{command}' command")
            }
            Self::Key => {
                "NOPERM this user has no permissions to access one of the keys used as arguments".into()
            }
            Self::Channel => {
                "NOPERM this user has no permissions to access one of the channels used as arguments"
                    .into()
            }
            Self::SortBy => {
                "ERR BY option of SORT denied due to insufficient ACL permissions.".into()
            }
            Self::SortGet => {
                "ERR GET option of SORT denied due to insufficient ACL permissions.".into()
            }
            Self::DenyList => format!(
                "NOPERM memorystore-auth-proxy: '{command}' is on the proxy's deny list (--deny-commands)"
            ),
        }
    }

    /// What the audit line and the metric call it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Key | Self::SortBy | Self::SortGet => "key",
            Self::Channel => "channel",
            Self::DenyList => "deny_list",
        }
    }
}

/// The rules in force.
#[derive(Debug, Default)]
pub struct Access {
    /// Who may be who; `None`: clients are not asked.
    pub users: Option<Users>,
    /// What nobody may run.
    pub deny: DenyList,
}

impl Access {
    /// Whether `user` may run this. `row` is `None` for a command of which no server tells anything.
    ///
    /// # Errors
    /// Why not.
    pub fn check<A: Args + ?Sized>(
        &self,
        user: Option<&Arc<User>>,
        row: Option<&'static Row>,
        args: &A,
    ) -> Result<(), Denial> {
        if !self.deny.is_empty() && self.deny.has(row, args) {
            return Err(Denial::DenyList);
        }
        match user {
            Some(user) if !user.is_unrestricted() => user.check(row, args),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
