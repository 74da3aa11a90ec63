//! What sessions saw, and when the cluster may have lost what it had acknowledged.
//!
//! Times are milliseconds of the run's clock, so that an hour's history fits into memory. A
//! [`Loss`] is a failover that was not agreed with the primary: what that acknowledged meanwhile may
//! be gone afterwards, for its slots alone. Invariant: what was acknowledged before `from` was on the
//! replica by then; whoever records a loss has made sure of it.

use std::ops::RangeInclusive;

use crate::check::{Fate, fate};
use crate::support::resp::Value;

/// One command and what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    pub sent: u32,
    pub answered: u32,
    pub fate: Fate,
    /// What the check at hand counts: a reply's number, or an element.
    pub value: i64,
}

impl Op {
    /// A command whose reply is a number.
    pub fn numbered(sent: u32, answered: u32, reply: &Value) -> Self {
        let value = if let Value::Int(n) = reply { *n } else { i64::MIN };
        Self { sent, answered, fate: fate(reply), value }
    }

    /// A command that is about this value.
    pub fn about(sent: u32, answered: u32, reply: &Value, value: i64) -> Self {
        Self { sent, answered, fate: fate(reply), value }
    }

    /// Whether it was under way in any of these spans.
    pub fn meets(&self, spans: &[Span]) -> bool {
        spans.iter().any(|s| self.answered >= s.from && self.sent <= s.until)
    }
}

/// From the first millisecond to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub from: u32,
    pub until: u32,
}

impl Span {
    /// Whether they have a millisecond in common.
    pub fn meets(&self, other: &Self) -> bool {
        self.from <= other.until && other.from <= self.until
    }
}

/// When acknowledged writes to these slots may have been lost by the cluster itself.
#[derive(Debug, Clone)]
pub struct Loss {
    pub slots: Vec<RangeInclusive<u16>>,
    pub span: Span,
}

/// All losses of a run.
#[derive(Debug, Clone, Default)]
pub struct Losses(pub Vec<Loss>);

impl Losses {
    /// The spans that concern a slot.
    pub fn of(&self, slot: u16) -> Vec<Span> {
        let concerns = |loss: &&Loss| loss.slots.iter().any(|range| range.contains(&slot));
        self.0.iter().filter(concerns).map(|loss| loss.span).collect()
    }
}
