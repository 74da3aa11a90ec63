//! Hash slots for tests: the CRC16 of the Redis Cluster specification, bit by bit, and keys that
//! fall where a test wants them.

/// Number of hash slots.
pub const SLOTS: u16 = 16384;

/// Slot of `key`, honouring a `{hash tag}`.
pub fn slot_of(key: &[u8]) -> u16 {
    let tagged = key.iter().position(|&b| b == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        rest.iter().position(|&b| b == b'}').filter(|&len| len > 0).map(|len| &rest[..len])
    });
    crc16(tagged.unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0u16, |crc, &byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 }
        })
    })
}

/// `count` different keys in `slot`, all with the same hash tag.
pub fn keys_in_slot(slot: u16, count: usize) -> Vec<String> {
    let tag = (0u32..)
        .map(|n| format!("t{n}"))
        .find(|tag| slot_of(tag.as_bytes()) == slot)
        .expect("some tag hashes to every slot");
    (0..count).map(|n| format!("{{{tag}}}:{n}")).collect()
}

/// One key in `slot`.
pub fn key_in_slot(slot: u16) -> String {
    keys_in_slot(slot, 1).remove(0)
}

/// The contiguous slot range the bed gives shard `shard` of `shards`.
pub fn shard_range(shard: usize, shards: usize) -> std::ops::RangeInclusive<u16> {
    let edge = |n: usize| (n * usize::from(SLOTS) / shards) as u16;
    edge(shard)..=edge(shard + 1) - 1
}

/// `count` keys with different hash tags, all in the initial range of shard `shard` of `shards`.
pub fn keys_on_shard(shard: usize, shards: usize, count: usize) -> Vec<String> {
    let range = shard_range(shard, shards);
    (0u32..)
        .map(|n| format!("s{n}"))
        .filter(|key| range.contains(&slot_of(key.as_bytes())))
        .take(count)
        .collect()
}
