//! What the proxy tells the outside about itself.
//!
//! Invariant: no token, password, key name or client payload passes through here.

pub mod logs;
