//! What a connection was made ready for: the state its handshake set, which no command of a session
//! may change unseen.
//!
//! Invariant: two connections to a node of the same kind answer a command alike, so either may carry
//! it. It says nothing about whom a connection serves (see `pipe::Duty`).
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::resp::Version;

/// See the module header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// RESP version it speaks.
    pub version: Version,
    /// READONLY was sent: a replica answers reads on it.
    pub readonly: bool,
    /// Its database; other than 0 only on a server without cluster mode.
    pub db: u32,
}

impl Kind {
    /// Database `db`, of a primary.
    #[inline]
    pub const fn of(version: Version, db: u32) -> Self {
        Self { version, readonly: false, db }
    }

    /// The same for reads from replicas.
    #[must_use]
    pub const fn for_reads(self) -> Self {
        Self { readonly: true, ..self }
    }

    /// True for what nearly all traffic needs: database 0 of a primary.
    #[inline]
    pub const fn is_plain(self) -> bool {
        self.db == 0 && !self.readonly
    }
}

impl From<Version> for Kind {
    fn from(version: Version) -> Self {
        Self::of(version, 0)
    }
}

/// One thing for each kind: plain kinds are one array read, others a search among a few.
#[derive(Debug)]
pub struct ByKind<T> {
    plain: [T; 2],
    others: Vec<(Kind, T)>,
}

impl<T: Copy + PartialEq> ByKind<T> {
    /// `none` for every kind.
    pub fn new(none: T) -> Self {
        Self { plain: [none; 2], others: Vec::new() }
    }

    /// The thing of a kind, unless there never was one.
    #[inline]
    pub fn get(&self, kind: Kind) -> Option<T> {
        if kind.is_plain() {
            return Some(self.plain[kind.version.index()]);
        }
        self.others.iter().find(|(k, _)| *k == kind).map(|(_, t)| *t)
    }

    /// Puts the thing of a kind.
    pub fn set(&mut self, kind: Kind, thing: T) {
        if kind.is_plain() {
            self.plain[kind.version.index()] = thing;
        } else if let Some((_, old)) = self.others.iter_mut().find(|(k, _)| *k == kind) {
            *old = thing;
        } else {
            self.others.push((kind, thing));
        }
    }

    /// Forgets a thing; `none` stands for it in plain kinds.
    pub fn forget(&mut self, kind: Kind, thing: T, none: T) {
        if !kind.is_plain() {
            self.others.retain(|(_, t)| *t != thing);
        } else if self.plain[kind.version.index()] == thing {
            self.plain[kind.version.index()] = none;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_kept_apart() {
        let mut by = ByKind::new(0);
        let plain = Kind::from(Version::V2);
        let kinds = [
            plain,
            Version::V3.into(),
            plain.for_reads(),
            Kind::of(Version::V2, 3),
            Kind::of(Version::V3, 3),
        ];
        for (n, kind) in kinds.into_iter().enumerate() {
            by.set(kind, n + 1);
        }
        for (n, kind) in kinds.into_iter().enumerate() {
            assert_eq!(by.get(kind), Some(n + 1));
        }
        // Only the thing that is named goes.
        by.forget(kinds[3], 1, 0);
        assert_eq!(by.get(kinds[3]), Some(4));
        by.forget(kinds[3], 4, 0);
        by.forget(plain, 1, 0);
        assert_eq!((by.get(kinds[3]), by.get(plain)), (None, Some(0)));
        assert_eq!(by.get(kinds[4]), Some(5));
    }
}
