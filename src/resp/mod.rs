//! The RESP wire format.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod value;
