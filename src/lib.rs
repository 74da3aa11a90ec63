//! memorystore-auth-proxy: a RESP-aware sidecar that authenticates to Memorystore for its clients.
//!
//! # The walk of one command
//! 1. `worker::io` reads a client's socket into the worker's read buffer and hands the bytes to the
//!    hub (`worker::hub`), the single owner of a worker's sessions and pipes.
//! 2. `worker::hub::request` finds the frame's end ([`resp::scan`]), its table row
//!    ([`command::lookup`]) and its slot ([`command::keys`]), gives it a ticket in the session's
//!    [`session::window`], and appends its bytes to the pipe of the slot's node
//!    ([`upstream::pipe`]).
//! 3. When every ready client was read, `worker::io` writes each pipe once.
//! 4. The node's replies come back through `worker::hub::reply`: the oldest entry of the pipe says
//!    whose each reply is, and the window puts it in request order.
//! 5. MOVED, ASK, TRYAGAIN, NOAUTH and lost connections take the side road `worker::hub::trouble`:
//!    [`session::redirect`] decides, [`session::fence`] keeps the order.
//! 6. Each client with something to say is written once.
//!
//! # Layers, imports pointing downwards only
//! `main` → args → config → app wire and stop ([`subcommand`] does what is asked instead of serving);
//! listener, [`worker`], cluster::watcher, credentials::task, [`google`], admin hold the sockets, clocks
//! and tasks;
//! `worker::hub`, [`session`], [`upstream`], [`cluster`] decide without any of them; [`access`], [`command`] and
//! [`resp`] are stateless. Pure modules deny `clippy::disallowed_methods`, which bans clocks, tasks
//! and sockets.

pub mod access;
pub mod activity;
pub mod admin;
pub mod app;
pub mod args;
pub mod buffer;
pub mod cluster;
pub mod command;
pub mod config;
pub mod credentials;
#[cfg(any(test, fuzzing))]
mod dice;
pub mod env;
pub mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod google;
pub mod key;
pub mod listener;
pub mod net;
pub mod resp;
pub mod sabotage;
pub mod session;
pub mod stamp;
pub mod subcommand;
pub mod telemetry;
pub mod upstream;
pub mod worker;
