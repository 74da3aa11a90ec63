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
    let Some(open) = position(key, b'{') else {
        return key;
    };
    let rest = &key[open + 1..];
    match position(rest, b'}') {
        None | Some(0) => key,
        Some(end) => &rest[..end],
    }
}

/// Where `wanted` first stands, eight bytes at a time: most keys have no tag and are read to their
/// end to know it.
#[inline]
fn position(bytes: &[u8], wanted: u8) -> Option<usize> {
    let (blocks, tail) = bytes.as_chunks::<8>();
    for (n, block) in blocks.iter().enumerate() {
        if let Some(at) = position_in_block(*block, wanted) {
            return Some(8 * n + at);
        }
    }
    match bytes.last_chunk::<8>() {
        _ if tail.is_empty() => None,
        // What this block has before the tail has been looked at in vain.
        Some(last) => position_in_block(*last, wanted).map(|at| bytes.len() - 8 + at),
        None => tail.iter().position(|&byte| byte == wanted),
    }
}

#[inline]
fn position_in_block(block: [u8; 8], wanted: u8) -> Option<usize> {
    const LOW_BITS: u64 = u64::from_le_bytes([0x01; 8]);
    const HIGH_BITS: u64 = u64::from_le_bytes([0x80; 8]);
    // Wanted bytes become zero; the subtraction then borrows into their high bit. A byte above one
    // may be marked in error, never the lowest.
    let zeros = u64::from_le_bytes(block) ^ u64::from_le_bytes([wanted; 8]);
    let marks = zeros.wrapping_sub(LOW_BITS) & !zeros & HIGH_BITS;
    (marks != 0).then_some(marks.trailing_zeros() as usize / 8)
}

/// `TABLES[n][b]`: what byte `b` with `n` bytes after it adds to the CRC. Eight bytes are then
/// eight independent loads instead of a chain of eight.
static TABLES: [[u16; 256]; 8] = tables();

const fn tables() -> [[u16; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
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
    let (head, blocks) = bytes.as_rchunks::<8>();
    // The CRC starts at zero, so zeros in front change nothing: an odd head is a padded block.
    let crc = match (head.len(), bytes.first_chunk::<8>()) {
        (0, _) => 0,
        (len, Some(first)) => step(0, (u64::from_be_bytes(*first) >> (64 - 8 * len)).to_be_bytes()),
        (_, None) => {
            let padded = head.iter().fold(0, |padded, &byte| padded << 8 | u64::from(byte));
            step(0, padded.to_be_bytes())
        }
    };
    blocks.iter().fold(crc, |crc, block| step(crc, *block))
}

#[inline]
fn step(crc: u16, [a, b, c, d, e, f, g, h]: [u8; 8]) -> u16 {
    let t = &TABLES;
    let [high, low] = crc.to_be_bytes();
    t[7][usize::from(a ^ high)]
        ^ t[6][usize::from(b ^ low)]
        ^ t[5][usize::from(c)]
        ^ t[4][usize::from(d)]
        ^ t[3][usize::from(e)]
        ^ t[2][usize::from(f)]
        ^ t[1][usize::from(g)]
        ^ t[0][usize::from(h)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, a bit at a time.
    fn crc16_by_bits(bytes: &[u8]) -> u16 {
        bytes.iter().fold(0, |crc: u16, &byte| {
            (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
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

        #[test]
        fn positions_are_those_of_a_plain_search(
            bytes in proptest::collection::vec(b'x'..=b'~', 0..40),
        ) {
            for wanted in [b'{', b'}'] {
                let plain = bytes.iter().position(|&byte| byte == wanted);
                proptest::prop_assert_eq!(position(&bytes, wanted), plain);
            }
        }
    }
}
