//! A password as Redis keeps it: its SHA-256.
//!
//! Invariant: the password itself is never stored; digests are wiped when dropped, compared in
//! constant time, and not shown by `Debug`.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;

use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// The SHA-256 of a password.
#[derive(Clone)]
pub struct Digest(Zeroizing<[u8; SHA256_OUTPUT_LEN]>);

impl Digest {
    /// Of a password.
    pub fn of(password: &[u8]) -> Self {
        let mut bytes = Zeroizing::new([0; SHA256_OUTPUT_LEN]);
        bytes.copy_from_slice(digest(&SHA256, password).as_ref());
        Self(bytes)
    }

    /// As an ACL file writes it: 64 hexadecimal digits in lower case.
    pub fn from_hex(text: &[u8]) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; SHA256_OUTPUT_LEN]);
        if text.len() != 2 * SHA256_OUTPUT_LEN {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.chunks(2)) {
            for &digit in pair {
                let value = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return None,
                };
                *byte = *byte << 4 | value;
            }
        }
        Some(Self(bytes))
    }

    /// Whether it is one of these; how long that takes tells nothing but how many there are.
    pub fn is_among(&self, others: &[Self]) -> bool {
        let found = others.iter().fold(subtle::Choice::from(0), |found, other| {
            found | self.0.as_slice().ct_eq(other.0.as_slice())
        });
        found.into()
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.is_among(std::slice::from_ref(other))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(…)")
    }
}
