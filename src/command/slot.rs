//! The hash slot of a key, as Redis Cluster computes it.
//!
//! CRC16/XMODEM of the key, or of its hash tag, modulo 16384. Invariant: the same number as
//! `CLUSTER KEYSLOT` for every byte string. It does not know which node owns a slot.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// How many hash slots a cluster has.
pub const SLOTS: u16 = 16384;

/// The hash slot of `key`, 0..16384.
///
/// When the key has a `{`, a `}` after it and something between, only what stands between the
/// first `{` and the next `}` counts.
#[inline]
#[must_use]
pub fn slot(key: &[u8]) -> u16 {
    crc16(hashed_part(key)) % SLOTS
}

#[inline]
fn hashed_part(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&b| b == b'{') else {
        return key;
    };
    let rest = &key[open + 1..];
    match rest.iter().position(|&b| b == b'}') {
        None | Some(0) => key,
        Some(end) => &rest[..end],
    }
}

/// `TABLES[n][b]`: what byte `b` with `n` bytes after it adds to the CRC. Eight bytes are then
/// eight independent loads instead of a chain of eight; twice as fast at 16-byte keys.
static TABLES: [[u16; 256]; 8] = tables();

const fn tables() -> [[u16; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut n = 1;
    while n < 8 {
        let mut byte = 0;
        while byte < 256 {
            let crc = tables[n - 1][byte];
            tables[n][byte] = (crc << 8) ^ tables[0][(crc >> 8) as usize];
            byte += 1;
        }
        n += 1;
    }
    tables
}

#[inline]
fn crc16(bytes: &[u8]) -> u16 {
    let t = &TABLES;
    let (blocks, tail) = bytes.as_chunks::<8>();
    let mut crc = 0u16;
    for &[a, b, c, d, e, f, g, h] in blocks {
        let [high, low] = crc.to_be_bytes();
        crc = t[7][usize::from(a ^ high)]
            ^ t[6][usize::from(b ^ low)]
            ^ t[5][usize::from(c)]
            ^ t[4][usize::from(d)]
            ^ t[3][usize::from(e)]
            ^ t[2][usize::from(f)]
            ^ t[1][usize::from(g)]
            ^ t[0][usize::from(h)];
    }
    for &byte in tail {
        let [high, _] = crc.to_be_bytes();
        crc = (crc << 8) ^ t[0][usize::from(high ^ byte)];
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, a bit at a time.
    fn crc16_by_bits(bytes: &[u8]) -> u16 {
        bytes.iter().fold(0, |crc: u16, &byte| {
            (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
                if crc & 0x8000 == 0 {
                    crc << 1
                } else {
                    (crc << 1) ^ 0x1021
                }
            })
        })
    }

    #[test]
    fn check_value_of_the_xmodem_crc() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
    }

    #[test]
    fn slots_that_cluster_keyslot_gives() {
        for (key, expected) in [
            (&b""[..], 0),
            (b"foo", 12182),
            (b"bar", 5061),
            (b"hello", 866),
            (b"somekey", 11058),
            (b"foo{hash_tag}", 2515),
            (b"bar{hash_tag}", 2515),
        ] {
            assert_eq!(slot(key), expected, "{}", key.escape_ascii());
        }
    }

    #[test]
    fn only_a_closed_and_filled_first_tag_counts() {
        for (key, part) in [
            (&b"{user1000}.following"[..], &b"user1000"[..]),
            (b"foo{}{bar}", b"foo{}{bar}"),
            (b"foo{{bar}}zap", b"{bar"),
            (b"foo{bar}{zap}", b"bar"),
            (b"foo}bar{", b"foo}bar{"),
            (b"foo{bar", b"foo{bar"),
            (b"}{x}", b"x"),
            (b"{}", b"{}"),
        ] {
            assert_eq!(hashed_part(key), part);
        }
    }

    proptest::proptest! {
        #[test]
        fn blocks_and_bits_agree(key in proptest::collection::vec(proptest::num::u8::ANY, 0..70)) {
            proptest::prop_assert_eq!(crc16(&key), crc16_by_bits(&key));
        }
    }
}
