//! The settings of access control: who a client has to be, and what clients may do.
//!
//! Invariant: at most one place says who the users are, and a list of user ids has a Unix socket that
//! it is about.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::path::PathBuf;

use super::values::path;
use super::{Instance, Reader};
use crate::access::DenyList;
use crate::args::Origin;
use crate::error::Error;

/// See the module header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Where the users are written; `None`: clients are not asked who they are.
    pub users: Option<UsersFile>,
    /// What nobody may run.
    pub deny: DenyList,
    /// The users of the machine that may connect to the Unix socket; `None`: all whom its permissions
    /// let in.
    pub unix_uids: Option<Vec<u32>>,
}

/// A file that says who the users are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UsersFile {
    /// The password of the user `default`.
    Password(PathBuf),
    /// Users in Redis's ACL syntax.
    Acl(PathBuf),
}

fn uids(text: &str) -> Result<Vec<u32>, String> {
    let parse = |word: &str| word.trim().parse::<u32>();
    text.split(',').map(parse).collect::<Result<_, _>>().map_err(|_| {
        format!("'{text}' is not a list of user ids; give numbers with commas between, such as 1000,1001")
    })
}

impl Reader<'_> {
    pub(super) fn access(&self, instances: &[Instance]) -> Result<Access, Error> {
        let users = match self.exclusive(&["client-password-file", "client-acl-file"])? {
            Some("client-password-file") => {
                self.given("client-password-file", path)?.map(UsersFile::Password)
            }
            Some(_) => self.given("client-acl-file", path)?.map(UsersFile::Acl),
            None => None,
        };
        let unix_uids = self.given("unix-socket-allow-uid", uids)?;
        if unix_uids.is_some() && instances.iter().all(|i| i.listen.unix_socket.is_none()) {
            let name = "unix-socket-allow-uid";
            let origin = self.0.get(name).map_or(Origin::Flag, |v| v.origin);
            return self.fail(name, origin, "is about a Unix socket; give --unix-socket as well");
        }
        let deny = self.given("deny-commands", DenyList::parse)?.unwrap_or_default();
        Ok(Access { users, deny, unix_uids })
    }
}
