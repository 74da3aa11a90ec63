//! What becomes of a command whose reply is not for the client: one total function.
//!
//! Invariant: a command that may have been executed is sent again only if it is read-only; one that
//! was surely not executed is sent again until its deadline or its redirect limit. It sends nothing.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::resp::reply::Class;
use crate::sabotage::{Promise, breaks};

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// MOVED.
    Moved,
    /// ASK.
    Ask,
    /// TRYAGAIN.
    TryAgain,
    /// CLUSTERDOWN.
    ClusterDown,
    /// LOADING.
    Loading,
    /// READONLY or MASTERDOWN: the roles of the nodes changed.
    RoleChanged,
    /// NOAUTH.
    NoAuth,
    /// The connection ended; `sent` tells whether the whole request had left.
    Lost {
        /// False: surely not executed.
        sent: bool,
    },
    /// No node is known for its slot.
    NoRoute,
    /// NOSCRIPT, and the proxy knows the script.
    NoScript,
    /// A replica cannot answer a read that no primary may answer, or there is no replica.
    Replica,
}

impl Trouble {
    /// True when another node of the shard may well answer: it is about the node, not the command.
    pub fn concerns_node(self) -> bool {
        matches!(self, Self::Moved | Self::ClusterDown | Self::Loading | Self::RoleChanged)
    }

    /// The trouble a reply class means; `None`: the reply is for the client.
    pub fn of(class: &Class) -> Option<Self> {
        Some(match class {
            Class::Moved(_) => Self::Moved,
            Class::Ask(_) => Self::Ask,
            Class::TryAgain => Self::TryAgain,
            Class::ClusterDown => Self::ClusterDown,
            Class::Loading => Self::Loading,
            Class::ReadonlyReplica | Class::MasterDown => Self::RoleChanged,
            Class::NoAuth => Self::NoAuth,
            // Answers to AUTH; as answers to anything else they are the client's.
            Class::WrongPass | Class::IamExhausted | Class::IamOther | Class::Data => return None,
        })
    }
}

/// What is known of the command.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// The table says it never changes data.
    pub readonly: bool,
    /// Redirects followed so far.
    pub redirects: u8,
    /// Redirects allowed.
    pub max_redirects: u8,
    /// Its deadline is over.
    pub expired: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send it again.
    Retry {
        /// When.
        wait: Wait,
        /// Ask for a fresh slot map.
        refresh: bool,
    },
    /// Tell the client.
    Fail(Failure),
}

/// When to send again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// As soon as its turn comes.
    No,
    /// After a growing, jittered delay.
    Backoff,
}

/// Why the client gets an error instead of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Its connection ended after it was sent, and it is not read-only.
    MaybeExecuted,
    /// The deadline passed; it was surely not executed.
    Deadline(Trouble),
    /// More redirects than allowed.
    TooManyRedirects,
}

/// Decides.
pub fn decide(trouble: Trouble, facts: Facts) -> Action {
    let may_repeat = facts.readonly || breaks(Promise::Retry);
    if matches!(trouble, Trouble::Lost { sent: true }) && !may_repeat {
        return Action::Fail(Failure::MaybeExecuted);
    }
    if facts.expired {
        return Action::Fail(Failure::Deadline(trouble));
    }
    if matches!(trouble, Trouble::Moved | Trouble::Ask) && facts.redirects >= facts.max_redirects {
        return Action::Fail(Failure::TooManyRedirects);
    }
    // The first redirects are followed at once; a node pair that keeps pointing at each other is
    // given time to agree.
    let bouncing = facts.redirects >= 3;
    let (wait, refresh) = match trouble {
        Trouble::Moved => (if bouncing { Wait::Backoff } else { Wait::No }, true),
        Trouble::Ask => (if bouncing { Wait::Backoff } else { Wait::No }, false),
        Trouble::TryAgain | Trouble::Loading => (Wait::Backoff, false),
        Trouble::ClusterDown | Trouble::RoleChanged | Trouble::NoRoute | Trouble::Replica => {
            (Wait::Backoff, true)
        }
        // The pipe's own AUTH goes first; its queue is the wait.
        Trouble::NoAuth | Trouble::NoScript => (Wait::No, false),
        // The next dial is paced by the node's own backoff.
        Trouble::Lost { .. } => (Wait::No, true),
    };
    Action::Retry { wait, refresh }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Trouble; 12] = [
        Trouble::Moved,
        Trouble::Ask,
        Trouble::TryAgain,
        Trouble::ClusterDown,
        Trouble::Loading,
        Trouble::RoleChanged,
        Trouble::NoAuth,
        Trouble::Lost { sent: true },
        Trouble::Lost { sent: false },
        Trouble::NoRoute,
        Trouble::NoScript,
        Trouble::Replica,
    ];

    fn facts(readonly: bool, redirects: u8, expired: bool) -> Facts {
        Facts { readonly, redirects, max_redirects: 5, expired }
    }

    #[test]
    fn a_write_that_may_have_run_is_never_sent_twice() {
        for expired in [false, true] {
            let lost = Trouble::Lost { sent: true };
            assert_eq!(
                decide(lost, facts(false, 0, expired)),
                Action::Fail(Failure::MaybeExecuted)
            );
            assert!(matches!(decide(lost, facts(true, 0, false)), Action::Retry { .. }));
        }
    }

    #[test]
    fn all_else_is_retried_until_its_deadline() {
        for t in ALL.into_iter().filter(|t| *t != Trouble::Lost { sent: true }) {
            assert!(matches!(decide(t, facts(false, 0, false)), Action::Retry { .. }), "{t:?}");
            assert_eq!(decide(t, facts(false, 0, true)), Action::Fail(Failure::Deadline(t)));
        }
    }

    #[test]
    fn redirects_have_a_limit() {
        assert_eq!(
            decide(Trouble::Moved, facts(true, 5, false)),
            Action::Fail(Failure::TooManyRedirects)
        );
        assert!(matches!(decide(Trouble::TryAgain, facts(true, 5, false)), Action::Retry { .. }));
    }

    proptest! {
        #[test]
        fn total(i in 0usize..12, readonly: bool, redirects: u8, expired: bool) {
            let _ = decide(ALL[i], facts(readonly, redirects, expired));
        }
    }
}
