//! Replies of several nodes as one: what comes out is one whole reply whatever went in, it is what a
//! plain merge of the decoded parts gives, and it is the same however the parts arrived.

use bytes::Bytes;
use memorystore_auth_proxy::command::glob;
use memorystore_auth_proxy::command::merge::Merge;
use memorystore_auth_proxy::resp::Version;
use memorystore_auth_proxy::resp::encode;
use memorystore_auth_proxy::resp::scan::{ReplyScan, ReplyScanner};
use memorystore_auth_proxy::session::composite::Composite;
use memorystore_auth_proxy::session::window::Reply;

use crate::support::{Input, reply, within};

/// Replies as the nodes of a cluster give them to this kind of command, mostly.
fn part(input: &mut Input<'_>, numbers: bool, out: &mut Vec<u8>) {
    match input.byte() % 16 {
        0 => reply(input, 3, out),
        1 => encode::error(out, "ERR no"),
        2 if numbers => encode::integer(out, input.u64() as i64),
        3..8 if numbers => encode::integer(out, i64::from(input.byte()) - 2),
        8 => encode::bulk(out, input.word()),
        9 => info(input, out),
        kind => {
            let n = input.below(5);
            encode::header(out, if kind == 15 { b'~' } else { b'*' }, n as i64);
            for _ in 0..n {
                if numbers {
                    encode::integer(out, i64::from(input.byte()));
                } else {
                    encode::bulk(out, &[b'a' + input.byte() % 4]);
                }
            }
        }
    }
}

fn info(input: &mut Input<'_>, out: &mut Vec<u8>) {
    const LINES: [&str; 10] = [
        "# Keyspace",
        "# Cluster",
        "cluster_enabled:1",
        "used_memory:",
        "used_memory_human:1K",
        "role:slave",
        "slave0:ip=1",
        "maxclients:",
        "db0:keys=1,expires=2,avg_ttl=",
        "connected_clients:1",
    ];
    let mut text = String::new();
    for _ in 0..input.below(8) {
        let line = *input.pick(&LINES);
        text.push_str(line);
        if line.ends_with([':', '=']) {
            let shift = input.below(64);
            text.push_str(&(input.u64() >> shift).to_string());
        }
        text.push_str("\r\n");
    }
    encode::bulk(out, text.as_bytes());
}

fn chosen(input: &mut Input<'_>, parts: usize) -> (Merge, bool) {
    let merge = match input.byte() % 16 {
        0 | 1 => Merge::Interleave {
            order: (0..input.below(12)).map(|_| input.below(parts.max(1)) as u16).collect(),
        },
        2 => Merge::AllSucceeded,
        3 => Merge::OneSucceeded,
        4 => return (Merge::Sum, true),
        5 => return (Merge::Min, true),
        6 => return (Merge::Max, true),
        7 => return (Merge::And, true),
        8 => return (Merge::Or, true),
        9 => Merge::Concat,
        10 => Merge::Union,
        11 => Merge::SumByName { plus: (0..input.below(3)).map(|_| input.u64() as i64).collect() },
        12 => return (Merge::Plus(input.u64() as i64), true),
        13 => Merge::FirstNotNull,
        14 if input.bool() => Merge::Texts,
        14 => Merge::Stats,
        _ => Merge::Info { section: "# Proxy\r\n".to_owned(), clients: input.below(9) },
    };
    (merge, false)
}

/// The elements of a flat array, set or the parts of one.
fn flat(part: &[u8]) -> Option<Vec<&[u8]>> {
    if !matches!(part.first(), Some(b'*' | b'~')) {
        return None;
    }
    let mut rest = &part[part.iter().position(|&b| b == b'\n')? + 1..];
    let mut all = Vec::new();
    while !rest.is_empty() {
        match ReplyScanner::default().scan(rest) {
            Ok(ReplyScan::Complete(n)) => {
                all.push(&rest[..n]);
                rest = &rest[n..];
            }
            _ => return None,
        }
    }
    Some(all)
}

fn number(part: &[u8]) -> Option<i64> {
    std::str::from_utf8(part.strip_prefix(b":")?.strip_suffix(b"\r\n")?).ok()?.parse().ok()
}

/// What the merge should be, where that is plain.
fn plain(merge: &Merge, parts: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    if !matches!(merge, Merge::OneSucceeded)
        && let Some(error) = parts.iter().find(|p| p[0] == b'-')
    {
        return Some(error.clone());
    }
    let fold = |f: &dyn Fn(i64, i64) -> i64| {
        let numbers: Option<Vec<i64>> = parts.iter().map(|p| number(p)).collect();
        let total = numbers?.into_iter().reduce(f)?;
        let mut out = Vec::new();
        encode::integer(&mut out, total);
        Some(out)
    };
    match merge {
        Merge::Sum => fold(&i64::saturating_add),
        Merge::Min => fold(&i64::min),
        Merge::Max => fold(&i64::max),
        Merge::Concat | Merge::Union => {
            // Nulls are arrays of nothing here.
            if parts.is_empty() || parts.iter().any(|p| p[0] != parts[0][0]) {
                return None;
            }
            let all: Option<Vec<Vec<&[u8]>>> = parts.iter().map(|p| flat(p)).collect();
            let mut all: Vec<&[u8]> = all?.concat();
            if *merge == Merge::Union {
                let mut seen = std::collections::BTreeSet::new();
                all.retain(|e| seen.insert(e.to_vec()));
            }
            encode::header(&mut out, parts[0][0], all.len() as i64);
            all.iter().for_each(|e| out.extend_from_slice(e));
            Some(out)
        }
        Merge::Interleave { order } => {
            let all: Option<Vec<Vec<&[u8]>>> = parts.iter().map(|p| flat(p)).collect();
            let mut all: Vec<_> = all?.into_iter().map(Vec::into_iter).collect();
            encode::header(&mut out, b'*', order.len() as i64);
            for &part in order {
                out.extend_from_slice(all.get_mut(usize::from(part))?.next()?);
            }
            Some(out)
        }
        _ => None,
    }
}

fn merges(input: &mut Input<'_>) {
    let version = if input.bool() { Version::V3 } else { Version::V2 };
    let n = 1 + input.below(4);
    let (merge, numbers) = chosen(input, n);
    let parts: Vec<Vec<u8>> = (0..n)
        .map(|_| {
            let mut out = Vec::new();
            part(input, numbers, &mut out);
            out
        })
        .collect();
    let size: usize = parts.iter().map(Vec::len).sum();
    let mut out = Vec::new();
    within(64 * size + 64 * 1024, || {
        merge.merge(parts.iter().map(Vec::as_slice), version, &mut out);
    });
    let scanned = ReplyScanner::default().scan(&out);
    let shown = String::from_utf8_lossy(&out);
    assert_eq!(
        scanned,
        Ok(ReplyScan::Complete(out.len())),
        "{merge:?} gives no whole reply: {shown}"
    );
    if let Some(expected) = plain(&merge, &parts) {
        assert_eq!(shown, String::from_utf8_lossy(&expected), "{merge:?}");
    }
    // However they come.
    let limit = if input.bool() { 1 << 20 } else { input.below(200) };
    let mut composite = Composite::new(&vec![0; n], merge, version, limit);
    let first = input.below(n);
    for i in (first..n).chain(0..first) {
        if input.bool() {
            composite.arriving(i as u16, input.below(parts[i].len() + 1));
        }
        let given = match input.bool() {
            true => Reply::Shared(Bytes::copy_from_slice(&parts[i])),
            false => Reply::Borrowed(&parts[i]),
        };
        assert!(composite.fill(i as u16, given));
    }
    assert!(composite.is_whole());
    let pieces = composite.into_reply(None).concat();
    if limit == 1 << 20 {
        assert_eq!(pieces, out);
    } else {
        assert!(
            pieces == out
                || pieces.starts_with(b"-ERR memorystore-auth-proxy") && pieces.ends_with(b"\r\n")
        );
    }
}

/// Globbing by the book: one byte or star after the other, all ways tried.
fn plain_glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', rest @ ..] => (0..=text.len()).any(|n| plain_glob(rest, &text[n..])),
        [b'?', rest @ ..] => !text.is_empty() && plain_glob(rest, &text[1..]),
        [b'\\', c, rest @ ..] => text.first() == Some(c) && plain_glob(rest, &text[1..]),
        [c, rest @ ..] => text.first() == Some(c) && plain_glob(rest, &text[1..]),
    }
}

fn globs(input: &mut Input<'_>) {
    let pattern: Vec<u8> = (0..input.below(10)).map(|_| *input.pick(b"ab*?\\[]^-")).collect();
    let text: Vec<u8> = (0..input.below(10)).map(|_| *input.pick(b"ab\\[]-*")).collect();
    let got = glob::matches(&pattern, &text);
    if !pattern.contains(&b'[') {
        assert_eq!(got, plain_glob(&pattern, &text), "{pattern:?} {text:?}");
    }
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    if input.byte() % 8 == 0 { globs(&mut input) } else { merges(&mut input) }
}
