//! End-to-end suites: the proxy as a process between real clients and a real cluster.
//!
//! One binary, one module per topic; run a topic with `cargo test --test e2e auth::`.
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
#[allow(dead_code, reason = "the bed is shared with the demo and serves suites to come")]
mod support;

mod access;
mod admin;
mod auth;
mod basic;
mod bed;
mod blocking;
mod by_name;
mod cli;
mod clients;
mod debug;
mod differential;
mod handshake;
mod hostile;
mod instances;
mod learned;
mod lifecycle;
mod load;
mod loss;
mod merges;
mod monitor;
mod one_server;
mod pause;
mod protocol_errors;
mod pubsub;
mod redirect;
mod refusals;
mod replicas;
mod roster;
mod scan;
mod scripted;
mod standalone;
mod stopping;
mod subcommands;
mod tls;
mod tracking;
mod transactions;
mod unblock;
