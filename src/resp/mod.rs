//! The RESP wire format: where frames end, what a reply is, the few frames we write.
//!
//! Pure: bytes in, facts out. User traffic is never decoded into a tree and never re-encoded.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod encode;
pub mod inline;
pub mod preauth;
pub mod reply;
pub mod request;
pub mod scan;
pub mod skip;
pub mod value;

/// The protocol version a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// RESP2, what every connection starts with.
    V2,
    /// RESP3, after `HELLO 3`.
    V3,
}

impl Version {
    /// 0 for RESP2, 1 for RESP3: an index into per-version arrays.
    pub fn index(self) -> usize {
        match self {
            Version::V2 => 0,
            Version::V3 => 1,
        }
    }
}
