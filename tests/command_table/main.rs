//! The command table against a real redis-server: names, arity, flags, key specifications and
//! policies against its `COMMAND` reply; key positions against its `COMMAND GETKEYS`; slots against
//! what a cluster node calls CROSSSLOT.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on stops")]

mod access;
mod facts;
mod keys;
mod matrix;
mod server;
