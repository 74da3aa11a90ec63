//! Chaos: a real cluster with replicas behind IAM fronts, a network that fails in every way, nodes
//! that stop, die and fail over, slots that never rest; and a checker that knows what must hold all
//! the same.
//!
//! [`plan`] makes the faults from a seed, [`inject`] carries them out, [`sessions`] do all that
//! clients do, [`judge`] judges what they saw. `make chaos MINUTES=60` is its long run;
//! `make chaos-mutants` breaks the proxy on purpose and wants the checker to see it.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "test code; a panic is how a test fails"
)]

#[path = "../support/mod.rs"]
#[macro_use]
#[allow(dead_code, reason = "the bed serves other suites as well")]
mod support;

// The sessions' side of `tests/e2e/lifecycle`.
#[path = "../e2e/lifecycle/check.rs"]
#[allow(dead_code, reason = "shared with the life cycle's load")]
mod check;
#[path = "../e2e/lifecycle/commands.rs"]
#[allow(dead_code, reason = "shared with the life cycle's load")]
mod commands;
#[path = "../e2e/lifecycle/hearing.rs"]
mod hearing;
#[path = "../e2e/lifecycle/plan.rs"]
#[allow(dead_code, reason = "shared with the life cycle's load")]
mod iam;
#[path = "../e2e/lifecycle/talk.rs"]
#[allow(dead_code, reason = "shared with the life cycle's load")]
mod talk;

mod history;
mod inject;
mod judge;
mod judge_tests;
mod leaks;
mod load;
#[cfg(feature = "sabotage")]
mod mutants;
mod network_tests;
mod plan;
mod roster;
mod sessions;
