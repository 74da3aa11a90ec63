//! From a command name as the client wrote it to its row.
//!
//! Two hash tables, built at compile time, hold row numbers: commands, and subcommands salted with
//! their container's name. A lookup is two overlapping loads, two multiplications and one
//! comparison; it allocates nothing. Invariant: exactly the names of [`COMMANDS`], in any case.
//! It does not ask servers for names it does not know.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::spec::Row;
use super::table::COMMANDS;

/// The row of a command, or of a container, by the first argument of a frame.
#[inline]
#[must_use]
pub fn command(name: &[u8]) -> Option<&'static Row> {
    find(&COMMAND_SLOTS, hash(0, name), |row| row.name.as_bytes().eq_ignore_ascii_case(name))
}

/// The row of a container's subcommand, by the second argument of a frame.
#[must_use]
pub fn subcommand(container: &Row, sub: &[u8]) -> Option<&'static Row> {
    if !container.container {
        return None;
    }
    find(&SUBCOMMAND_SLOTS, hash(salt(container.name), sub), |row| {
        row.name
            .strip_prefix(container.name)
            .and_then(|rest| rest.strip_prefix('|'))
            .is_some_and(|rest| rest.as_bytes().eq_ignore_ascii_case(sub))
    })
}

/// The row that governs a frame: the subcommand's where there is one, else the command's.
///
/// `sub` is the frame's second argument, if any. A container whose subcommand is missing or
/// unknown gives the container's own row, which has no keys.
#[inline]
#[must_use]
pub fn resolve(name: &[u8], sub: Option<&[u8]>) -> Option<&'static Row> {
    let row = command(name)?;
    match sub {
        Some(sub) if row.container => Some(subcommand(row, sub).unwrap_or(row)),
        _ => Some(row),
    }
}

/// A table of row numbers by hash: linear probing, less than a third full.
type Slots = [u16; 1024];
const FREE: u16 = u16::MAX;

static COMMAND_SLOTS: Slots = build(false);
static SUBCOMMAND_SLOTS: Slots = build(true);

#[inline]
fn find(slots: &Slots, hash: usize, is: impl Fn(&'static Row) -> bool) -> Option<&'static Row> {
    let mut at = hash;
    loop {
        // A free slot is past the end of COMMANDS: the name is unknown.
        let row = COMMANDS.get(usize::from(slots[at % slots.len()]))?;
        if is(row) {
            return Some(row);
        }
        at += 1;
    }
}

const fn build(subcommands: bool) -> Slots {
    let mut slots = [FREE; 1024];
    let mut row = 0;
    while row < COMMANDS.len() {
        let name = COMMANDS[row].name;
        let hash = match split_at_bar(name) {
            None if !subcommands => Some(hash(0, name.as_bytes())),
            Some((container, sub)) if subcommands => Some(hash(salt(container), sub)),
            _ => None,
        };
        if let Some(hash) = hash {
            let mut at = hash;
            while slots[at % slots.len()] != FREE {
                at += 1;
            }
            slots[at % slots.len()] = row as u16;
        }
        row += 1;
    }
    slots
}

const fn split_at_bar(name: &str) -> Option<(&str, &[u8])> {
    let mut at = 0;
    while at < name.len() {
        if name.as_bytes()[at] == b'|' {
            let (container, rest) = name.split_at(at);
            return Some((container, rest.as_bytes().split_at(1).1));
        }
        at += 1;
    }
    None
}

/// Sets the bit that ASCII capitals lack. Other bytes are changed as well, which only makes some
/// unequal names hash alike.
const LOWER: u64 = 0x2020_2020_2020_2020;

const fn salt(container: &str) -> u64 {
    let (a, b) = ends(container.as_bytes());
    a ^ b.rotate_left(32)
}

#[inline]
const fn hash(salt: u64, name: &[u8]) -> usize {
    let (a, b) = ends(name);
    let mixed = (a ^ salt)
        .wrapping_add(name.len() as u64)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .rotate_left(32);
    ((mixed ^ b).wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 48) as usize
}

/// The first and the last eight bytes (of a short name: four, or all), without case.
#[inline]
const fn ends(name: &[u8]) -> (u64, u64) {
    let (a, b) = if let (Some(a), Some(b)) = (name.first_chunk(), name.last_chunk()) {
        (u64::from_le_bytes(*a), u64::from_le_bytes(*b))
    } else if let (Some(a), Some(b)) = (name.first_chunk(), name.last_chunk()) {
        (u32::from_le_bytes(*a) as u64, u32::from_le_bytes(*b) as u64)
    } else {
        match *name {
            [] => (0, 0),
            [a] => (a as u64, 0),
            [a, b] => (a as u64 | (b as u64) << 8, 0),
            [a, b, c, ..] => (a as u64 | (b as u64) << 8 | (c as u64) << 16, 0),
        }
    };
    (a | LOWER, b | LOWER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_under_its_name_in_any_case() {
        for row in COMMANDS {
            let upper = row.name.to_ascii_uppercase();
            for name in [row.name, upper.as_str()] {
                let (name, sub) = match name.split_once('|') {
                    Some((name, sub)) => (name, Some(sub.as_bytes())),
                    None => (name, None),
                };
                let found = resolve(name.as_bytes(), sub).expect(row.name);
                assert_eq!(found.name, row.name);
            }
        }
    }

    #[test]
    fn names_that_are_not_commands_are_not_found() {
        for name in [
            &b""[..],
            b"g",
            b"ge",
            b"gett",
            b"ge\x14",
            b"GEORADIUS\x7fRO",
            b"config|get",
            b"georadiusbymember_ro_and_much_longer_than_any_name",
            b"\xff\xff\xff",
        ] {
            assert!(command(name).is_none(), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn subcommands_belong_to_their_container() {
        let config = command(b"Config").expect("CONFIG");
        assert_eq!(subcommand(config, b"gEt").expect("CONFIG GET").name, "config|get");
        assert!(subcommand(config, b"setname").is_none());
        assert!(subcommand(config, b"").is_none());
        let get = command(b"get").expect("GET");
        assert!(subcommand(get, b"get").is_none());
    }

    #[test]
    fn an_unknown_or_missing_subcommand_gives_the_container() {
        for sub in [None, Some(&b"nonsense"[..])] {
            assert_eq!(resolve(b"CLIENT", sub).expect("CLIENT").name, "client");
        }
        assert_eq!(resolve(b"GET", Some(b"help")).expect("GET").name, "get");
    }

    proptest::proptest! {
        /// Names near a known one: another case, a letter changed or too many.
        #[test]
        fn finds_what_a_linear_search_finds(
            row in proptest::sample::select(COMMANDS),
            at in 0usize..24,
            byte in proptest::option::of(proptest::num::u8::ANY),
            flip in proptest::num::u8::ANY,
        ) {
            let mut name = row.name.as_bytes().to_vec();
            let at = at % (name.len() + 1);
            match (byte, name.get_mut(at)) {
                (Some(byte), _) => name.insert(at, byte),
                (None, Some(letter)) => *letter ^= flip & 0xA1,
                (None, None) => {}
            }
            let expected = COMMANDS
                .iter()
                .filter(|row| !row.name.contains('|'))
                .find(|row| row.name.as_bytes().eq_ignore_ascii_case(&name));
            let found = command(&name);
            proptest::prop_assert_eq!(found.map(|r| r.name), expected.map(|r| r.name));
        }
    }
}
