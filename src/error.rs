//! Why the process ends, and with which exit code.
//!
//! Invariant: exit codes are decided here and nowhere else. Every text is one sentence or two that
//! name what failed and the mend, and holds no secret. It does not cover errors inside the data
//! path: those become error replies to one client and end nothing.

use std::fmt;
use std::process::ExitCode;

/// A failure that ends the process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the user asked for makes no sense: a flag, a variable, a key of the configuration file.
    #[error("{0}")]
    Config(String),
    /// Something the proxy needs could not be had: a port, a thread, a file.
    #[error("{what}: {cause}")]
    Runtime {
        /// What failed, on which endpoint or path, and the mend.
        what: String,
        /// What the system said.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Stopped by this signal before or after a drain; the code is 128 + number, as shells count.
    #[error("stopped by signal {0}")]
    Signal(u8),
}

impl Error {
    /// A configuration error.
    pub fn config(sentence: impl fmt::Display) -> Self {
        Self::Config(sentence.to_string())
    }

    /// A failure at run time: `what` names the endpoint and the mend, `cause` what the system said.
    pub fn runtime(
        what: impl fmt::Display,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Runtime {
            what: what.to_string(),
            cause: cause.into(),
        }
    }

    /// The code the process ends with: 2 for a configuration error, 128 + n for signal n, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::Runtime { .. } => 1,
            Self::Signal(number) => 128_u8.saturating_add(*number),
        }
    }
}

impl From<&Error> for ExitCode {
    fn from(error: &Error) -> Self {
        Self::from(error.exit_code())
    }
}

/// The whole chain of causes on one line: `outer: inner: innermost`, repetitions left out.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        assert_eq!(Error::config("x").exit_code(), 2);
        assert_eq!(Error::runtime("listen", "in use").exit_code(), 1);
        assert_eq!(Error::Signal(15).exit_code(), 143);
        assert_eq!(Error::Signal(255).exit_code(), 255);
    }

    #[test]
    fn chain_says_each_cause_once() {
        let inner = std::io::Error::other("refused");
        let error = Error::runtime("cannot dial 10.0.0.1:6379", inner);
        assert_eq!(chain(&error), "cannot dial 10.0.0.1:6379: refused");
    }
}
