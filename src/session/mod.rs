//! One client connection: its order of replies, its place in the protocol, what it waits for.
//!
//! Everything here is pure. The hub (`worker::hub`) feeds it and carries out what it decides.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod composite;
pub mod core;
pub mod fence;
pub mod local;
pub mod redirect;
pub mod roster;
pub mod sample;
pub mod scan;
pub mod scanning;
pub mod scripts;
pub mod streams;
pub mod subscriptions;
pub mod tracking;
pub mod transaction;
pub mod window;
