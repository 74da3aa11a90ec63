use proptest::prelude::*;

use super::*;
use crate::resp::Version;
use crate::resp::encode;

/// A reply as a server of version 7 writes it.
pub(in crate::command) fn reply(all: &[Option<&Description>], version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    encode::header(&mut out, b'*', all.len() as i64);
    for described in all {
        match described {
            None if version == Version::V3 => out.extend_from_slice(b"_\r\n"),
            None => out.extend_from_slice(b"*-1\r\n"),
            Some(d) => write(&mut out, d, version),
        }
    }
    out
}

fn names(out: &mut Vec<u8>, version: Version, words: &[String]) {
    encode::header(out, if version == Version::V3 { b'~' } else { b'*' }, words.len() as i64);
    words.iter().for_each(|w| encode::simple(out, w));
}

fn write(out: &mut Vec<u8>, d: &Description, version: Version) {
    encode::header(out, b'*', 10);
    encode::bulk(out, d.name.as_bytes());
    encode::integer(out, i64::from(d.arity));
    let mut flags: Vec<String> = FLAGS
        .iter()
        .filter(|(_, bit)| d.flags & bit != 0)
        .map(|(name, _)| (*name).to_owned())
        .collect();
    flags.push("of_a_later_version".into());
    names(out, version, &flags);
    (0..3).for_each(|_| encode::integer(out, 0));
    names(out, version, &["@slow".into()]);
    let mut tips = vec!["nondeterministic_output".to_owned()];
    let request = REQUESTS.iter().find(|(_, p)| *p == d.request);
    tips.extend(request.map(|(name, _)| format!("request_policy:{name}")));
    let response = RESPONSES.iter().find(|(_, p)| *p == d.response);
    tips.extend(response.map(|(name, _)| format!("response_policy:{name}")));
    let set = if version == Version::V3 { b'~' } else { b'*' };
    encode::header(out, set, tips.len() as i64);
    tips.iter().for_each(|t| encode::bulk(out, t.as_bytes()));
    encode::header(out, set, d.keys.len() as i64);
    d.keys.iter().for_each(|k| write_spec(out, k, version));
    encode::header(out, set, d.subcommands.len() as i64);
    d.subcommands.iter().for_each(|s| write(out, s, version));
}

fn write_spec(out: &mut Vec<u8>, k: &KeyDescription, version: Version) {
    let part = |out: &mut Vec<u8>, kind: &str, fields: &[(&str, i64)], word: Option<&str>| {
        encode::map_header(out, version, 2);
        encode::bulk(out, b"type");
        encode::bulk(out, kind.as_bytes());
        encode::bulk(out, b"spec");
        encode::map_header(out, version, fields.len() + usize::from(word.is_some()));
        if let Some(word) = word {
            encode::bulk(out, b"keyword");
            encode::bulk(out, word.as_bytes());
        }
        for (name, n) in fields {
            encode::bulk(out, name.as_bytes());
            encode::integer(out, *n);
        }
    };
    encode::map_header(out, version, 4);
    encode::bulk(out, b"notes");
    encode::bulk(out, b"whatever");
    encode::bulk(out, b"flags");
    let flags: &[String] = &match k.access {
        Access::Read => ["RO".to_owned(), "access".to_owned()],
        Access::Write => ["RW".to_owned(), "update".to_owned()],
        Access::NotKey => ["not_key".to_owned(), "RO".to_owned()],
    };
    names(out, version, flags);
    encode::bulk(out, b"begin_search");
    match &k.begin {
        BeginAt::Index(at) => part(out, "index", &[("index", i64::from(*at))], None),
        BeginAt::Keyword(word, from) => {
            part(out, "keyword", &[("startfrom", i64::from(*from))], Some(word));
        }
        BeginAt::Unknown => part(out, "unknown", &[], None),
    }
    encode::bulk(out, b"find_keys");
    match k.find {
        Find::Range { last, step, limit } => {
            let fields =
                [("lastkey", last.into()), ("keystep", step.into()), ("limit", limit.into())];
            part(out, "range", &fields, None);
        }
        Find::KeyNum { num, first, step } => {
            let fields =
                [("keynumidx", num.into()), ("firstkey", first.into()), ("keystep", step.into())];
            part(out, "keynum", &fields, None);
        }
        Find::Unknown => part(out, "unknown", &[], None),
    }
}

fn a_key() -> impl Strategy<Value = KeyDescription> {
    let begin = prop_oneof![
        (1u16..).prop_map(BeginAt::Index),
        ("[A-Z]{1,12}", -9i16..9).prop_map(|(word, from)| BeginAt::Keyword(word, from)),
    ];
    let find = prop_oneof![
        (-9i16..9, any::<u16>(), 0u16..4).prop_map(|(last, step, limit)| Find::Range {
            last,
            step,
            limit
        }),
        (0u16..9, 0u16..9, any::<u16>()).prop_map(|(num, first, step)| Find::KeyNum {
            num,
            first,
            step
        }),
        Just(Find::Unknown),
    ];
    let access = prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::NotKey)];
    (begin, find, access).prop_map(|(begin, find, access)| KeyDescription { begin, find, access })
}

fn alone_strategy() -> impl Strategy<Value = Description> {
    (
        "[a-z.]{1,12}",
        prop_oneof![-9i16..-1, 1i16..9],
        0u32..(1 << 20),
        proptest::collection::vec(a_key(), 0..4),
        prop_oneof![Just(RequestPolicy::Default), Just(RequestPolicy::AllShards)],
        prop_oneof![Just(ResponsePolicy::Default), Just(ResponsePolicy::AggSum)],
    )
        .prop_map(|(name, arity, flags, keys, request, response)| Description {
            name,
            arity,
            flags,
            keys,
            request,
            response,
            subcommands: Vec::new(),
        })
}

/// Any command a server could describe.
pub(in crate::command) fn described() -> impl Strategy<Value = Description> {
    (alone_strategy(), proptest::collection::vec(alone_strategy(), 0..3))
        .prop_map(|(d, subcommands)| Description { subcommands, ..d })
}

proptest! {
    #[test]
    fn what_a_server_writes_is_read(d in described(), v3: bool) {
        let version = if v3 { Version::V3 } else { Version::V2 };
        let wire = reply(&[Some(&d)], version);
        prop_assert_eq!(read(&wire), Told::Command(d));
        prop_assert_eq!(read(&reply(&[None], version)), Told::Unknown);
    }

    /// A reply cut or with a byte changed is a description all the same, or none.
    #[test]
    fn broken_replies_are_survived(d in described(), at: prop::sample::Index, byte: u8, cut: bool) {
        let mut wire = reply(&[Some(&d)], Version::V2);
        let at = at.index(wire.len());
        if cut { wire.truncate(at) } else { wire[at] = byte }
        if let Told::Command(d) = read(&wire) {
            prop_assert!(d.name.len() <= MAX_NAME && d.keys.len() <= MAX_SPECS + 1);
        }
    }
}

#[test]
fn older_servers_tell_positions_only() {
    let wire = b"*1\r\n*6\r\n$6\r\nMOD.DO\r\n:-3\r\n*2\r\n+write\r\n+fast\r\n:1\r\n:3\r\n:2\r\n";
    let Told::Command(d) = read(wire) else { panic!("not understood") };
    assert_eq!((d.name.as_str(), d.arity, d.flags), ("mod.do", -3, flag::WRITE | flag::FAST));
    let find = Find::Range { last: 2, step: 2, limit: 0 };
    assert_eq!(d.keys.len(), 1);
    assert_eq!((&d.keys[0].begin, d.keys[0].find), (&BeginAt::Index(1), find));
}

#[test]
fn refusals_and_nonsense_tell_nothing() {
    for wire in [
        &b"-NOPERM this user has no permissions to run the 'command|info' command\r\n"[..],
        b"+OK\r\n",
        b"*1\r\n+what\r\n",
        b"*1\r\n*6\r\n$0\r\n\r\n:1\r\n*0\r\n:0\r\n:0\r\n:0\r\n",
        b"*1\r\n*6\r\n$1\r\na\r\n:99999\r\n*0\r\n:0\r\n:0\r\n:0\r\n",
    ] {
        assert_eq!(read(wire), Told::Nothing, "{}", String::from_utf8_lossy(wire));
    }
    assert_eq!(read(b"*0\r\n"), Told::Unknown);
}
