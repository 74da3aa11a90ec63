//! What ends the process: a signal, somebody at `/quitquitquit`, or a worker that broke.
//!
//! Invariant: the first cause decides the exit code; a second signal ends the waiting, never the
//! replies that are being written at that moment.

use std::fmt;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use crate::error::Error;

/// Why the process stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
    /// `/quitquitquit`.
    Quit,
    /// A worker thread ended by a panic: its clients are lost, and whoever supervises the process can
    /// start it anew.
    Broken,
}

impl Cause {
    /// How the process ends, when nothing else went wrong.
    pub(super) fn outcome(self, exit_zero: bool) -> Result<(), Error> {
        match self {
            Self::Terminate if !exit_zero => Err(Error::Signal(15)),
            Self::Interrupt if !exit_zero => Err(Error::Signal(2)),
            Self::Broken => Err(Error::runtime(
                "a worker thread ended by a panic",
                "this is a bug, please report it with the log",
            )),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::Quit => "/quitquitquit",
            Self::Broken => "the end of a worker thread",
        })
    }
}

/// Hears of what ends the process.
pub(super) struct Stop {
    term: Signal,
    int: Signal,
    /// Rung by `/quitquitquit`.
    pub quit: Arc<Notify>,
}

impl Stop {
    /// Begins to listen; from now on signals do not kill the process.
    pub(super) fn listen() -> Result<Self, Error> {
        let hook = |kind| signal(kind).map_err(|e| Error::runtime("cannot wait for signals", e));
        Ok(Self {
            term: hook(SignalKind::terminate())?,
            int: hook(SignalKind::interrupt())?,
            quit: Arc::default(),
        })
    }

    /// The next cause to stop, or to stop waiting.
    pub(super) async fn next(&mut self) -> Cause {
        tokio::select! {
            _ = self.term.recv() => Cause::Terminate,
            _ = self.int.recv() => Cause::Interrupt,
            () = self.quit.notified() => Cause::Quit,
        }
    }
}
