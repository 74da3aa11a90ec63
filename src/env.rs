//! The process environment as a value.
//!
//! Settings and credential sources read variables only from here, so that a test hands them a map
//! instead of changing the environment all tests share. Invariant: `Debug` shows names, never
//! values, because a value may be a token. It does not know which variables mean something.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;

/// A snapshot of environment variables.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// The variables this process was started with.
    pub fn from_process() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// The value of `name`; an empty value counts as not set, as container manifests have no
    /// other way to leave a variable out.
    pub fn var(&self, name: &str) -> Option<&OsStr> {
        let value = self.0.get(OsStr::new(name))?;
        (!value.is_empty()).then_some(value.as_os_str())
    }

    /// All variables, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0.iter().map(|(k, v)| (k.as_os_str(), v.as_os_str()))
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(vars: I) -> Self {
        Self(
            vars.into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
        )
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_is_unset_and_debug_has_no_values() {
        let env: Environment = [("A", ""), ("B", "hush")].into_iter().collect();
        assert_eq!(env.var("A"), None);
        assert_eq!(env.var("B"), Some(OsStr::new("hush")));
        assert_eq!(env.var("C"), None);
        let debug = format!("{env:?}");
        assert!(debug.contains('B') && !debug.contains("hush"), "{debug}");
    }
}
