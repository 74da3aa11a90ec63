//! Where the keys of a frame stand, and which slot they share.
//!
//! Follows the key specifications of the row, or for the few commands that no specification
//! describes, the options themselves. Invariant: for a command that the server would run, the
//! keys are those that a cluster node routes it by, plus what is routed like a key (`not_key`). Of
//! a malformed command it reports what it can; the server's own error decides. Nothing is allocated
//! and the bytes of a key are only looked at to compute its slot.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::ops::ControlFlow::{self, Break, Continue};

use super::slot::slot;
use super::spec::{Access, Begin, Find, KeyShape, KeySpec, Row};

/// The arguments of one frame; argument 0 is the command's name.
pub trait Args {
    /// How many arguments there are, the name included.
    fn len(&self) -> usize;

    /// The bytes of argument `i`; only called with `i < self.len()`.
    fn get(&self, i: usize) -> &[u8];

    /// Whether there is not even a name.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: AsRef<[u8]>> Args for [T] {
    fn len(&self) -> usize {
        <[T]>::len(self)
    }

    fn get(&self, i: usize) -> &[u8] {
        self[i].as_ref()
    }
}

/// Why the keys of a frame cannot be told. Any node answers such a frame with its own error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The number of keys is not a number, or negative.
    #[error("the number of keys is not a non-negative integer")]
    NotACount,
    /// The number of keys is missing, or larger than what follows it.
    #[error("the number of keys is greater than the number of arguments that follow")]
    TooFewArguments,
}

/// The slot of a frame, if it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySlot {
    /// It has no keys, or they cannot be told: any node may answer.
    None,
    /// All its keys are in this slot.
    One(u16),
    /// Its keys are in several slots.
    Cross,
}

/// Calls `f` with the argument index of each key, in the order of the row's specifications.
///
/// # Errors
/// When a number of keys is unusable. Keys of earlier specifications have been reported by then.
pub fn for_each_key<A: Args + ?Sized>(
    row: &Row,
    args: &A,
    mut f: impl FnMut(usize, Access),
) -> Result<(), KeyError> {
    let _: ControlFlow<()> = walk(row, args, &mut |at, access| {
        f(at, access);
        Continue(())
    })?;
    Ok(())
}

/// The argument index of the first key.
///
/// # Errors
/// When a number of keys is unusable and no key stands before it.
#[inline]
pub fn first_key<A: Args + ?Sized>(row: &Row, args: &A) -> Result<Option<usize>, KeyError> {
    match row.shape {
        KeyShape::None => Ok(None),
        KeyShape::One(at) => Ok(Some(usize::from(at)).filter(|&at| at < args.len())),
        _ => Ok(walk(row, args, &mut |at, _| Break(at))?.break_value()),
    }
}

/// The slot that the keys of a frame share.
///
/// A frame whose keys cannot be told ([`KeyError`]) has none: any node answers it with the error.
#[inline]
#[must_use]
pub fn key_slot<A: Args + ?Sized>(row: &Row, args: &A) -> KeySlot {
    match row.shape {
        KeyShape::None => KeySlot::None,
        KeyShape::One(at) => match usize::from(at) {
            at if at < args.len() => KeySlot::One(slot(args.get(at))),
            _ => KeySlot::None,
        },
        _ => shared_slot(row, args),
    }
}

fn shared_slot<A: Args + ?Sized>(row: &Row, args: &A) -> KeySlot {
    let mut shared = KeySlot::None;
    let walked = walk(row, args, &mut |at, _| {
        let own = slot(args.get(at));
        match shared {
            KeySlot::None => shared = KeySlot::One(own),
            KeySlot::One(first) if first == own => {}
            KeySlot::One(_) | KeySlot::Cross => {
                shared = KeySlot::Cross;
                return Break(());
            }
        }
        Continue(())
    });
    match walked {
        Ok(_) => shared,
        Err(_) => KeySlot::None,
    }
}

/// Visits keys until `visit` breaks off.
pub(crate) fn walk<A: Args + ?Sized, B>(
    row: &Row,
    args: &A,
    visit: &mut impl FnMut(usize, Access) -> ControlFlow<B>,
) -> Result<ControlFlow<B>, KeyError> {
    let flow = match row.shape {
        KeyShape::None => Continue(()),
        KeyShape::One(at) => present(usize::from(at), Access::of(row), args, visit),
        KeyShape::Specs => return walk_specs(row.keys, args, visit),
        KeyShape::Sort => sort(args, visit),
        KeyShape::Georadius(from) => georadius(usize::from(from), row, args, visit),
        KeyShape::Migrate => migrate(args, visit),
        KeyShape::Debug => debug(args, visit),
    };
    Ok(flow)
}

impl Access {
    fn of(row: &Row) -> Self {
        row.keys.first().map_or(Self::Write, |spec| spec.access)
    }
}

/// Visits argument `at` if the frame has it.
fn present<A: Args + ?Sized, B>(
    at: usize,
    access: Access,
    args: &A,
    visit: &mut impl FnMut(usize, Access) -> ControlFlow<B>,
) -> ControlFlow<B> {
    if at < args.len() { visit(at, access) } else { Continue(()) }
}

fn walk_specs<A: Args + ?Sized, B>(
    specs: &[KeySpec],
    args: &A,
    visit: &mut impl FnMut(usize, Access) -> ControlFlow<B>,
) -> Result<ControlFlow<B>, KeyError> {
    for spec in specs {
        let Some(begin) = begin(spec.begin, args) else {
            continue;
        };
        let Some(keys) = found(spec.find, begin, args)? else {
            continue;
        };
        for at in keys {
            if let Break(value) = visit(at, spec.access) {
                return Ok(Break(value));
            }
        }
    }
    Ok(Continue(()))
}

/// Where the search of a specification begins; `None` when its keyword is not there.
fn begin<A: Args + ?Sized>(begin: Begin, args: &A) -> Option<usize> {
    let argc = args.len();
    let after = |word: &str, at: usize| {
        let is = args.get(at).eq_ignore_ascii_case(word.as_bytes());
        is.then_some(at + 1)
    };
    match begin {
        Begin::Index(at) => Some(usize::from(at)).filter(|&at| at < argc),
        // The last argument cannot be the keyword: no key would follow it.
        Begin::Keyword(word, from @ 0..) => (usize::from(from.unsigned_abs())
            ..argc.saturating_sub(1))
            .find_map(|at| after(word, at)),
        Begin::Keyword(word, from) => {
            let from = argc.checked_sub(usize::from(from.unsigned_abs()))?;
            (2..=from).rev().find_map(|at| after(word, at))
        }
        Begin::Unknown => None,
    }
}

/// The keys that follow a begin; `None` for what no specification describes.
fn found<A: Args + ?Sized>(
    find: Find,
    begin: usize,
    args: &A,
) -> Result<Option<impl Iterator<Item = usize> + use<A>>, KeyError> {
    let argc = args.len();
    let (first, end, step) = match find {
        Find::Range { last, step, limit } => {
            let from_end = usize::from(last.unsigned_abs());
            let end = match (last, limit) {
                (0.., _) => begin + from_end + 1,
                (_, 0 | 1) => (argc + 1).saturating_sub(from_end),
                (_, limit) => {
                    (begin + (argc - begin) / usize::from(limit) + 1).saturating_sub(from_end)
                }
            };
            (begin, end.min(argc), step)
        }
        Find::KeyNum { num, first, step } => {
            let (num, first) = (begin + usize::from(num), begin + usize::from(first));
            if num >= argc {
                return Err(KeyError::TooFewArguments);
            }
            let count = count(args.get(num)).ok_or(KeyError::NotACount)?;
            let room = argc.saturating_sub(first).div_ceil(usize::from(step).max(1));
            if count > room {
                return Err(KeyError::TooFewArguments);
            }
            (first, (first + count * usize::from(step)).min(argc), step)
        }
        Find::Unknown => return Ok(None),
    };
    Ok(Some((first..end).step_by(usize::from(step).max(1))))
}

/// A number of keys, written as Redis accepts it: no sign, no space, no leading zero.
fn count(digits: &[u8]) -> Option<usize> {
    match digits {
        [b'0'] => Some(0),
        [b'1'..=b'9', ..] => str::from_utf8(digits).ok()?.parse().ok(),
        _ => None,
    }
}

/// SORT key [BY p] [LIMIT o n] [GET p …] [ASC|DESC] [ALPHA] [STORE dst]: the last STORE wins.
fn sort<A: Args + ?Sized, B>(
    args: &A,
    visit: &mut impl FnMut(usize, Access) -> ControlFlow<B>,
) -> ControlFlow<B> {
    present(1, Access::Read, args, visit)?;
    let argc = args.len();
    let mut store = None;
    let mut at = 2;
    while at < argc {
        let option = args.get(at);
        at += if option.eq_ignore_ascii_case(b"LIMIT") {
            3
        } else if option.eq_ignore_ascii_case(b"GET") || option.eq_ignore_ascii_case(b"BY") {
            2
        } else if option.eq_ignore_ascii_case(b"STORE") && at + 1 < argc {
            // A node looks at the destination as an option too, so it may be STORE itself.
            store = Some(at + 1);
            1
        } else {
            1
        };
    }
    match store {
        Some(at) => visit(at, Access::Write),
        None => Continue(()),
    }
}

/// GEORADIUS…: the last STORE or STOREDIST from argument `from` on names the destination.
fn georadius<A: Args + ?Sized, B>(
    from: usize,
    row: &Row,
    args: &A,
    visit: &mut impl FnMut(usize, Access) -> ControlFlow<B>,
) -> ControlFlow<B> {
    present(1, Access::of(row), args, visit)?;
    let argc = args.len();
    let mut store = None;
    let mut at = from;
    while at + 1 < argc {
        let option = args.get(at);
        if option.eq_ignore_ascii_case(b"STORE") || option.eq_ignore_ascii_case(b"STOREDIST") {
            store = Some(at + 1);
            at += 1;
        }
        at += 1;
    }
    match store {
        Some(at) => visit(at, Access::Write),
        None => Continue(()),
    }
}

/// MIGRATE host port key|"" db timeout [COPY] [REPLACE] [AUTH p | AUTH2 u p] [KEYS key …].
fn migrate<A: Args + ?Sized, B>(
    args: &A,
    visit: &mut impl FnMut(usize, Access) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let argc = args.len();
    let mut at = 6;
    while at < argc {
        let option = args.get(at);
        at += if option.eq_ignore_ascii_case(b"KEYS") {
            if args.get(3).is_empty() {
                return (at + 1..argc).try_for_each(|at| visit(at, Access::Write));
            }
            break;
        } else if option.eq_ignore_ascii_case(b"AUTH") {
            2
        } else if option.eq_ignore_ascii_case(b"AUTH2") {
            3
        } else {
            1
        };
    }
    present(3, Access::Write, args, visit)
}

/// DEBUG subcommands that look at one key; `COMMAND GETKEYS` knows of none.
fn debug<A: Args + ?Sized, B>(
    args: &A,
    visit: &mut impl FnMut(usize, Access) -> ControlFlow<B>,
) -> ControlFlow<B> {
    const KEYED: [&[u8]; 6] =
        [b"OBJECT", b"SDSLEN", b"LISTPACK", b"ZIPLIST", b"QUICKLIST", b"HTSTATS-KEY"];
    let is = |sub: &[u8]| args.get(1).eq_ignore_ascii_case(sub);
    if args.len() > 2 && KEYED.iter().any(|sub| is(sub)) {
        return visit(2, Access::NotKey);
    }
    if args.len() > 2 && is(b"DIGEST-VALUE") {
        return (2..args.len()).try_for_each(|at| visit(at, Access::NotKey));
    }
    Continue(())
}

#[cfg(test)]
mod tests;
