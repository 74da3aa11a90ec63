//! Choices for models and simulations: from a seed, or from a fuzzer's bytes.
//!
//! Invariant: the same seed, or the same bytes, give the same choices. Bytes that are used up go on as
//! a fixed seed, so that a model can still come to rest. It is in no build that users get.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::ops::{Bound, RangeBounds};

/// See the module header.
pub(crate) enum Dice {
    /// A pseudo-random generator.
    Seeded(fastrand::Rng),
    /// A byte or more for each choice.
    #[cfg_attr(not(fuzzing), expect(dead_code, reason = "only a fuzzer has bytes"))]
    Bytes { bytes: Vec<u8>, at: usize, then: fastrand::Rng },
}

impl Dice {
    pub(crate) fn with_seed(seed: u64) -> Self {
        Self::Seeded(fastrand::Rng::with_seed(seed))
    }

    #[cfg(fuzzing)]
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        Self::Bytes { bytes: bytes.to_vec(), at: 0, then: fastrand::Rng::with_seed(1) }
    }

    /// True when all bytes are used up.
    #[cfg(fuzzing)]
    pub(crate) fn is_spent(&self) -> bool {
        matches!(self, Self::Bytes { bytes, at, .. } if *at >= bytes.len())
    }

    /// The next bytes as a number up to `most`.
    fn from_bytes(bytes: &[u8], at: &mut usize, most: u64) -> Option<u64> {
        let width = match most {
            0 => return Some(0),
            1..=0xff => 1,
            0x100..=0xffff => 2,
            _ => 8,
        };
        let taken = bytes.get(*at..*at + width)?;
        *at += width;
        let number = taken.iter().fold(0u64, |n, &b| n << 8 | u64::from(b));
        Some(most.checked_add(1).map_or(number, |n| number % n))
    }

    pub(crate) fn u64(&mut self, range: impl RangeBounds<u64>) -> u64 {
        match self {
            Self::Seeded(rng) => rng.u64(range),
            Self::Bytes { bytes, at, then } => {
                let low = match range.start_bound() {
                    Bound::Included(&low) => low,
                    Bound::Excluded(&low) => low + 1,
                    Bound::Unbounded => 0,
                };
                let high = match range.end_bound() {
                    Bound::Included(&high) => high,
                    Bound::Excluded(&high) => high - 1,
                    Bound::Unbounded => u64::MAX,
                };
                match Self::from_bytes(bytes, at, high - low) {
                    Some(n) => low + n,
                    None => {
                        *at = bytes.len();
                        then.u64(low..=high)
                    }
                }
            }
        }
    }

    pub(crate) fn bool(&mut self) -> bool {
        match self {
            Self::Seeded(rng) => rng.bool(),
            Self::Bytes { .. } => self.u64(0..2) == 1,
        }
    }
}

/// Narrower numbers. A seed gives what the generator gives for that width: seeds that once found
/// something stay what they were.
macro_rules! narrow {
    ($($name:ident)*) => {
        impl Dice {
            $(
                pub(crate) fn $name(&mut self, range: impl RangeBounds<$name>) -> $name {
                    if let Self::Seeded(rng) = self {
                        return rng.$name(range);
                    }
                    let wide = |bound: Bound<&$name>| bound.map(|n| *n as u64);
                    self.u64((wide(range.start_bound()), wide(range.end_bound()))) as $name
                }
            )*
        }
    };
}

narrow!(usize u32 u16 u8);
