//! What a command is: its row in the table, its keys, its slot.
//!
//! Pure and stateless: bytes in, facts out. Nothing here knows of sockets, sessions or nodes.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod glob;
pub mod info;
pub mod introspect;
pub mod keys;
pub mod learned;
pub mod lookup;
pub mod matrix;
pub mod merge;
pub mod slot;
pub mod spec;
pub mod split;
pub mod table;
