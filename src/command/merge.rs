//! How the replies of several nodes become the one reply a single server would have given.
//!
//! Invariant: the result is one whole RESP reply; if any part is an error, the result is that error
//! (the first in part order), save for policies that ask for one success only. Parts are whole
//! replies, scanned before. It knows neither nodes nor sessions.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::resp::Version;
use crate::resp::encode;
use crate::resp::scan::{ReplyScan, ReplyScanner};

use super::spec::ResponsePolicy;

/// How parts are merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merge {
    /// MGET: element i of the result is the next element of part `order[i]`.
    Interleave {
        /// Part of each key.
        order: Vec<u16>,
    },
    /// One reply stands for all: the first (`+OK` of MSET, FLUSHALL, …).
    AllSucceeded,
    /// The first success; an error only if all failed.
    OneSucceeded,
    /// Sum of integers.
    Sum,
    /// Smallest integer.
    Min,
    /// Largest integer.
    Max,
    /// Integers, or arrays of them, all true.
    And,
    /// Integers, or arrays of them, any true.
    Or,
    /// Arrays (or sets, or maps) one behind the other.
    Concat,
    /// The same without repetitions, in order of first appearance (PUBSUB CHANNELS).
    Union,
    /// Flat lists of name and number, numbers summed by name (PUBSUB NUMSUB).
    SumByName {
        /// What is added to each, in order; nothing where it is shorter.
        plus: Vec<i64>,
    },
    /// One integer, and this added to it (PUBLISH).
    Plus(i64),
    /// The first part that is not null (RANDOMKEY).
    FirstNotNull,
    /// Texts one below the other (MEMORY DOCTOR, LATENCY DOCTOR).
    Texts,
    /// Flat lists of name and value: integers summed by name, the rest as the first node says
    /// (MEMORY STATS).
    Stats,
    /// INFO: see `command::info`.
    Info {
        /// The `# Proxy` section, or nothing.
        section: String,
        /// Clients of the proxy.
        clients: usize,
    },
}

impl Merge {
    /// The merge of a Redis response policy; `None` where the command needs code of its own.
    pub fn of(policy: ResponsePolicy) -> Option<Self> {
        Some(match policy {
            ResponsePolicy::Default => Self::Concat,
            ResponsePolicy::OneSucceeded => Self::OneSucceeded,
            ResponsePolicy::AllSucceeded => Self::AllSucceeded,
            ResponsePolicy::AggLogicalAnd => Self::And,
            ResponsePolicy::AggLogicalOr => Self::Or,
            ResponsePolicy::AggMin => Self::Min,
            ResponsePolicy::AggMax => Self::Max,
            ResponsePolicy::AggSum => Self::Sum,
            ResponsePolicy::Special => return None,
        })
    }

    /// Appends the merged reply of `parts` to `out`.
    pub fn merge<'a>(
        &self,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
        version: Version,
        out: &mut Vec<u8>,
    ) {
        let error = parts.clone().find(|p| p.first() == Some(&b'-'));
        if let Some(error) = error
            && !matches!(self, Self::OneSucceeded)
        {
            out.extend_from_slice(error);
            return;
        }
        let start = out.len();
        if self.merge_good(parts, version, out).is_none() {
            out.truncate(start);
            encode::error(
                out,
                "ERR memorystore-auth-proxy: the nodes' replies to this command do not fit together",
            );
        }
    }

    /// `None` when the parts are not of the shape they should be.
    fn merge_good<'a>(
        &self,
        mut parts: impl Iterator<Item = &'a [u8]> + Clone,
        version: Version,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        match self {
            Self::Interleave { order } => interleave(order, parts, out)?,
            Self::AllSucceeded => out.extend_from_slice(parts.next()?),
            Self::OneSucceeded => {
                let good = parts.clone().find(|p| p.first() != Some(&b'-'));
                out.extend_from_slice(good.or_else(|| parts.next())?);
            }
            Self::Sum => fold(parts, |a, b| a.saturating_add(b), out)?,
            Self::Min => fold(parts, i64::min, out)?,
            Self::Max => fold(parts, i64::max, out)?,
            Self::And => fold(parts, |a, b| i64::from(a != 0 && b != 0), out)?,
            Self::Or => fold(parts, |a, b| i64::from(a != 0 || b != 0), out)?,
            Self::Concat => concat(parts, out)?,
            Self::Union => union(parts, version, out)?,
            Self::SumByName { plus } => sum_by_name(parts, plus, out)?,
            Self::Plus(more) => {
                encode::integer(out, integer(parts.next()?)?.saturating_add(*more).max(0));
            }
            Self::Texts => {
                let first = parts.clone().next()?;
                let mut texts: Vec<&[u8]> = parts.map(text_of).collect::<Option<_>>()?;
                // What all say alike is said once.
                texts.dedup();
                text_reply(&texts.join(&b"\n"[..]), first.first() == Some(&b'='), out);
            }
            Self::Stats => stats(parts, MAX_STATS_DEPTH, out)?,
            Self::Info { section, clients } => {
                let verbatim = parts.clone().next()?.first() == Some(&b'=');
                let texts: Vec<String> = parts
                    .map(|p| text_of(p).map(|t| String::from_utf8_lossy(t).into_owned()))
                    .collect::<Option<_>>()?;
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                let document = super::info::merge(&texts, section, *clients);
                info_reply(&document, verbatim, out);
            }
            Self::FirstNotNull => {
                let found = parts.clone().find(|p| !is_null(p));
                out.extend_from_slice(found.or_else(|| parts.next())?);
            }
        }
        Some(())
    }
}

/// Deepest nesting of MEMORY STATS that is summed: a server nests once.
const MAX_STATS_DEPTH: usize = 8;

/// True for the nulls of both protocol versions.
pub fn is_null(reply: &[u8]) -> bool {
    matches!(reply, b"$-1\r\n" | b"*-1\r\n" | b"_\r\n")
}

/// The header of an aggregate: its type, its length, and the rest.
fn aggregate(reply: &[u8]) -> Option<(u8, i64, &[u8])> {
    let (&kind, rest) = reply.split_first()?;
    if !matches!(kind, b'*' | b'~' | b'%') {
        return None;
    }
    let end = rest.iter().position(|&b| b == b'\r')?;
    let n = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    Some((kind, n, rest.get(end + 2..)?))
}

/// Cuts the first whole reply off.
fn cut<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    match ReplyScanner::default().scan(rest) {
        Ok(ReplyScan::Complete(n)) => {
            let (head, tail) = rest.split_at(n);
            *rest = tail;
            Some(head)
        }
        _ => None,
    }
}

/// The elements of an array or set.
fn elements(reply: &[u8]) -> Option<Vec<&[u8]>> {
    let (_, n, mut rest) = aggregate(reply).filter(|(kind, ..)| *kind != b'%')?;
    (0..n.max(0)).map(|_| cut(&mut rest)).collect()
}

fn integer(reply: &[u8]) -> Option<i64> {
    let text = reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn interleave<'a>(
    order: &[u16],
    parts: impl Iterator<Item = &'a [u8]>,
    out: &mut Vec<u8>,
) -> Option<()> {
    let mut rests: Vec<&[u8]> =
        parts.map(|p| aggregate(p).map(|(_, _, rest)| rest)).collect::<Option<_>>()?;
    encode::header(out, b'*', order.len() as i64);
    for &part in order {
        out.extend_from_slice(cut(rests.get_mut(usize::from(part))?)?);
    }
    Some(())
}

/// Folds integers, or arrays of integers element by element.
fn fold<'a>(
    mut parts: impl Iterator<Item = &'a [u8]>,
    f: impl Fn(i64, i64) -> i64,
    out: &mut Vec<u8>,
) -> Option<()> {
    let first = parts.next()?;
    if let Some(mut total) = integer(first) {
        for p in parts {
            total = f(total, integer(p)?);
        }
        encode::integer(out, total);
        return Some(());
    }
    let numbers = |p| elements(p)?.into_iter().map(integer).collect::<Option<Vec<i64>>>();
    let mut totals = numbers(first)?;
    for p in parts {
        let more = numbers(p)?;
        if more.len() != totals.len() {
            return None;
        }
        totals.iter_mut().zip(more).for_each(|(t, m)| *t = f(*t, m));
    }
    encode::header(out, b'*', totals.len() as i64);
    totals.into_iter().for_each(|t| encode::integer(out, t));
    Some(())
}

fn concat<'a>(parts: impl Iterator<Item = &'a [u8]> + Clone, out: &mut Vec<u8>) -> Option<()> {
    for (part, body) in parts.clone().zip(concat_head(parts, out)?) {
        out.extend_from_slice(part.get(body..)?);
    }
    Some(())
}

/// Of aggregates one behind the other: appends the header of the whole, and tells where the body of
/// each part begins. `None`, and nothing appended, when one is not an aggregate.
pub fn concat_head<'a>(
    parts: impl Iterator<Item = &'a [u8]>,
    out: &mut Vec<u8>,
) -> Option<Vec<usize>> {
    let mut total = 0;
    let mut kind = None;
    let mut bodies = Vec::new();
    for part in parts {
        let (k, n, body) = aggregate(part)?;
        // An array behind a map would be counted as pairs.
        if *kind.get_or_insert(k) != k {
            return None;
        }
        total += n.max(0);
        bodies.push(part.len() - body.len());
    }
    encode::header(out, kind.unwrap_or(b'*'), total);
    Some(bodies)
}

/// The text of a bulk or verbatim string.
pub fn text_of(reply: &[u8]) -> Option<&[u8]> {
    let (&kind, rest) = reply.split_first()?;
    let start = rest.iter().position(|&b| b == b'\n')? + 1;
    let body = rest.get(start..)?.strip_suffix(b"\r\n")?;
    match kind {
        b'$' => Some(body),
        b'=' => body.get(4..),
        _ => None,
    }
}

/// INFO's reply: a bulk string in RESP2, a verbatim string in RESP3.
pub fn info_reply(document: &str, verbatim: bool, out: &mut Vec<u8>) {
    text_reply(document.as_bytes(), verbatim, out);
}

fn text_reply(body: &[u8], verbatim: bool, out: &mut Vec<u8>) {
    if verbatim {
        encode::header(out, b'=', body.len() as i64 + 4);
        out.extend_from_slice(b"txt:");
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\n");
    } else {
        encode::bulk(out, body);
    }
}

/// Adds numbers up by name, also those of inner maps; of other values the first counts. What only
/// some parts have (a database without keys is left out) stands where they have it.
fn stats<'a>(parts: impl Iterator<Item = &'a [u8]>, depth: usize, out: &mut Vec<u8>) -> Option<()> {
    let mut kind = b'*';
    let mut fields: Vec<(&[u8], Vec<&[u8]>)> = Vec::new();
    for p in parts {
        let (k, n, mut rest) = aggregate(p)?;
        kind = k;
        let pairs = if k == b'%' { n } else { n / 2 };
        let mut at = 0;
        for _ in 0..pairs.max(0) {
            let name = cut(&mut rest)?;
            let value = cut(&mut rest)?;
            match fields.iter().position(|(known, _)| *known == name) {
                Some(found) => {
                    fields.get_mut(found)?.1.push(value);
                    at = found + 1;
                }
                None => {
                    fields.insert(at, (name, vec![value]));
                    at += 1;
                }
            }
        }
    }
    let n = fields.len() as i64;
    encode::header(out, kind, if kind == b'%' { n } else { 2 * n });
    for (name, values) in fields {
        out.extend_from_slice(name);
        let first = *values.first()?;
        if integer(first).is_some() {
            let numbers = values.iter().filter_map(|v| integer(v));
            encode::integer(out, numbers.fold(0i64, i64::saturating_add));
        } else if aggregate(first).is_some() {
            stats(values.into_iter(), depth.checked_sub(1)?, out)?;
        } else {
            out.extend_from_slice(first);
        }
    }
    Some(())
}

fn union<'a>(
    parts: impl Iterator<Item = &'a [u8]>,
    _version: Version,
    out: &mut Vec<u8>,
) -> Option<()> {
    let mut seen = std::collections::HashSet::new();
    let mut all = Vec::new();
    let mut kind = b'*';
    for p in parts {
        kind = aggregate(p)?.0;
        for e in elements(p)? {
            if seen.insert(e) {
                all.push(e);
            }
        }
    }
    encode::header(out, kind, all.len() as i64);
    all.into_iter().for_each(|e| out.extend_from_slice(e));
    Some(())
}

fn sum_by_name<'a>(
    parts: impl Iterator<Item = &'a [u8]>,
    plus: &[i64],
    out: &mut Vec<u8>,
) -> Option<()> {
    let mut names: Vec<(&[u8], i64)> = Vec::new();
    for (i, p) in parts.enumerate() {
        let (kind, n, mut rest) = aggregate(p)?;
        let pairs = if kind == b'%' { n } else { n / 2 };
        for pair in 0..pairs.max(0) as usize {
            let name = cut(&mut rest)?;
            let count = integer(cut(&mut rest)?)?;
            match names.get_mut(pair) {
                Some((known, total)) if *known == name => *total = total.saturating_add(count),
                None if i == 0 => names.push((name, count)),
                _ => return None,
            }
        }
    }
    encode::header(out, b'*', 2 * names.len() as i64);
    for (i, (name, total)) in names.into_iter().enumerate() {
        out.extend_from_slice(name);
        let plus = plus.get(i).copied().unwrap_or(0);
        encode::integer(out, total.saturating_add(plus).max(0));
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(merge: Merge, parts: &[&str]) -> String {
        let mut out = Vec::new();
        merge.merge(parts.iter().map(|p| p.as_bytes()), Version::V2, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn mget_interleaves_in_key_order() {
        let merge = Merge::Interleave { order: vec![0, 1, 0] };
        assert_eq!(
            merged(merge, &["*2\r\n$1\r\na\r\n$-1\r\n", "*1\r\n$1\r\nb\r\n"]),
            "*3\r\n$1\r\na\r\n$1\r\nb\r\n$-1\r\n"
        );
    }

    #[test]
    fn policies() {
        assert_eq!(merged(Merge::Sum, &[":1\r\n", ":41\r\n"]), ":42\r\n");
        assert_eq!(merged(Merge::Min, &[":3\r\n", ":1\r\n"]), ":1\r\n");
        assert_eq!(
            merged(Merge::And, &["*2\r\n:1\r\n:1\r\n", "*2\r\n:1\r\n:0\r\n"]),
            "*2\r\n:1\r\n:0\r\n"
        );
        assert_eq!(merged(Merge::AllSucceeded, &["+OK\r\n", "-ERR x\r\n"]), "-ERR x\r\n");
        assert_eq!(merged(Merge::OneSucceeded, &["-NOTBUSY\r\n", "+OK\r\n"]), "+OK\r\n");
        assert_eq!(merged(Merge::OneSucceeded, &["-A\r\n", "-B\r\n"]), "-A\r\n");
        assert_eq!(
            merged(Merge::Concat, &["*1\r\n:1\r\n", "*0\r\n", "*1\r\n:2\r\n"]),
            "*2\r\n:1\r\n:2\r\n"
        );
        assert_eq!(
            merged(Merge::Union, &["*1\r\n+a\r\n", "*2\r\n+a\r\n+b\r\n"]),
            "*2\r\n+a\r\n+b\r\n"
        );
        assert_eq!(
            merged(
                Merge::SumByName { plus: vec![-1] },
                &["*2\r\n+c\r\n:1\r\n", "*2\r\n+c\r\n:2\r\n"]
            ),
            "*2\r\n+c\r\n:2\r\n"
        );
        assert_eq!(merged(Merge::FirstNotNull, &["$-1\r\n", "$1\r\nk\r\n"]), "$1\r\nk\r\n");
        assert_eq!(merged(Merge::FirstNotNull, &["$-1\r\n", "$-1\r\n"]), "$-1\r\n");
    }

    #[test]
    fn parts_that_do_not_fit_are_an_error() {
        assert!(
            merged(Merge::Sum, &[":1\r\n", "+OK\r\n"]).starts_with("-ERR memorystore-auth-proxy")
        );
        assert!(merged(Merge::Interleave { order: vec![5] }, &["*0\r\n"]).starts_with("-ERR"));
        // Found by fuzzing: these once became replies that a client could not read to their end.
        for merge in [Merge::Concat, Merge::Union] {
            let parts = ["*1\r\n:1\r\n", "%1\r\n+a\r\n:1\r\n"];
            assert!(merged(merge.clone(), &parts).starts_with("-ERR"), "{merge:?}");
        }
        assert!(merged(Merge::Union, &["%1\r\n+a\r\n:1\r\n"]).starts_with("-ERR"));
        let deep = format!("{}:1\r\n", "*2\r\n+a\r\n".repeat(100_000));
        assert!(merged(Merge::Stats, &[&deep]).starts_with("-ERR"), "no stack for it");
    }

    /// Found by fuzzing.
    #[test]
    fn numbers_too_large_to_add_up_are_the_largest() {
        let (most, reply) = (i64::MAX, format!(":{}\r\n", i64::MAX));
        assert_eq!(merged(Merge::Plus(1), &[&reply]), reply);
        let by_name = format!("*2\r\n+c\r\n{reply}");
        let summed = merged(Merge::SumByName { plus: vec![most] }, &[&by_name, &by_name]);
        assert_eq!(summed, by_name);
    }
}
