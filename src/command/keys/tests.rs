//! Key positions of single command lines; `tests/command_table.rs` asks a real server.

use super::super::lookup::resolve;
use super::super::table::COMMANDS;
use super::*;

fn args(line: &str) -> Vec<&str> {
    line.split(' ').map(|word| if word == "\"\"" { "" } else { word }).collect()
}

fn row(args: &[&str]) -> &'static Row {
    resolve(args[0].as_bytes(), args.get(1).map(|sub| sub.as_bytes())).expect("a known command")
}

fn keys(line: &str) -> Result<Vec<usize>, KeyError> {
    let args = args(line);
    let mut keys = Vec::new();
    for_each_key(row(&args), args.as_slice(), |at, _| keys.push(at))?;
    Ok(keys)
}

#[test]
fn keys_stand_where_the_specifications_say() {
    for (line, expected) in [
        ("GET k", &[1][..]),
        ("GET", &[]),
        ("PING", &[]),
        ("MSET a 1 b 2 c 3", &[1, 3, 5]),
        ("LCS a b LEN", &[1, 2]),
        ("BLPOP a b 0", &[1, 2]),
        ("BLPOP a", &[]),
        ("BITOP AND dst a b", &[2, 3, 4]),
        ("PFMERGE dst", &[1]),
        ("OBJECT ENCODING k", &[2]),
        ("OBJECT HELP", &[]),
        ("XGROUP CREATE s g $", &[2]),
        ("EVAL script 2 a b c", &[3, 4]),
        ("EVAL script 0 a", &[]),
        ("ZUNIONSTORE dst 2 a b WEIGHTS 1 2", &[1, 3, 4]),
        ("MSETEX 2 a 1 b 2 EX 5", &[2, 4]),
        ("LMPOP 2 a b LEFT", &[2, 3]),
        ("BLMPOP 0 2 a b LEFT", &[3, 4]),
        ("HEXPIRE k 10 FIELDS 1 f", &[1]),
        ("SPUBLISH c m", &[1]),
        ("SSUBSCRIBE a b", &[1, 2]),
    ] {
        assert_eq!(keys(line).as_deref(), Ok(expected), "{line}");
    }
}

#[test]
fn streams_share_what_follows_the_keyword() {
    for (line, expected) in [
        ("XREAD COUNT 2 streams a b 0 0", &[4, 5][..]),
        ("XREAD STREAMS STREAMS 0", &[2]),
        ("XREAD STREAMS a", &[]),
        ("XREAD STREAMS", &[]),
        ("XREADGROUP GROUP STREAMS STREAMS STREAMS k >", &[5]),
    ] {
        assert_eq!(keys(line).as_deref(), Ok(expected), "{line}");
    }
}

#[test]
fn commands_without_a_full_specification() {
    for (line, expected) in [
        ("SORT k", &[1][..]),
        ("SORT k BY STORE GET STORE LIMIT 0 STORE", &[1]),
        ("SORT k STORE a ALPHA STORE b", &[1, 6]),
        ("SORT k STORE", &[1]),
        ("SORT k STORE STORE dst", &[1, 4]),
        ("SORT_RO k BY w_*", &[1]),
        ("GEORADIUS k 0 0 1 m STORE a STOREDIST b", &[1, 9]),
        ("GEORADIUS k 0 0 1 m", &[1]),
        ("GEORADIUSBYMEMBER k m 1 m STOREDIST d", &[1, 6]),
        ("GEORADIUS_RO k 0 0 1 m STORE a", &[1]),
        ("MIGRATE h 1 k 0 10", &[3]),
        ("MIGRATE h 1 \"\" 0 10 COPY AUTH KEYS KEYS a b", &[10, 11]),
        ("DEBUG OBJECT k", &[2]),
        ("DEBUG SLEEP 0", &[]),
    ] {
        assert_eq!(keys(line).as_deref(), Ok(expected), "{line}");
    }
}

#[test]
fn unusable_numbers_of_keys_are_errors() {
    for (line, expected) in [
        ("EVAL s x k", KeyError::NotACount),
        ("EVAL s -1 k", KeyError::NotACount),
        ("EVAL s +1 k", KeyError::NotACount),
        ("EVAL s 01 k", KeyError::NotACount),
        ("EVAL s 99999999999999999999 k", KeyError::NotACount),
        ("EVAL s 18446744073709551615 k", KeyError::TooFewArguments),
        ("EVAL s 2 k", KeyError::TooFewArguments),
        ("ZDIFF 3 a b", KeyError::TooFewArguments),
        ("MSETEX 3 a 1 b 2", KeyError::TooFewArguments),
    ] {
        assert_eq!(keys(line), Err(expected), "{line}");
        let args = args(line);
        assert_eq!(key_slot(row(&args), args.as_slice()), KeySlot::None, "{line}");
    }
}

#[test]
fn slots_are_shared_or_crossed() {
    for (line, expected) in [
        ("GET foo", KeySlot::One(12182)),
        ("GET", KeySlot::None),
        ("PING", KeySlot::None),
        ("MGET {t}a {t}b {t}c", KeySlot::One(slot(b"t"))),
        ("MGET foo bar foo", KeySlot::Cross),
        ("SORT foo STORE bar", KeySlot::Cross),
        ("SORT foo STORE {foo}1", KeySlot::One(12182)),
        ("EVAL s 0", KeySlot::None),
        ("EVAL s 1 foo bar", KeySlot::One(12182)),
        ("SPUBLISH foo m", KeySlot::One(12182)),
    ] {
        let args = args(line);
        assert_eq!(key_slot(row(&args), args.as_slice()), expected, "{line}");
    }
}

#[test]
fn the_first_key_is_the_first_that_is_walked() {
    for line in ["GET k", "GET", "PING", "BITOP AND d a", "EVAL s 0", "XREAD STREAMS a 0"] {
        let args = args(line);
        let all = keys(line).expect("a well-formed line");
        assert_eq!(first_key(row(&args), args.as_slice()), Ok(all.first().copied()), "{line}");
    }
}

proptest::proptest! {
    /// Whatever a client sends, no index is out of the frame, and nothing panics.
    #[test]
    fn no_key_stands_outside_the_frame(
        row in proptest::sample::select(COMMANDS),
        tail in proptest::collection::vec(
            "STORE|STREAMS|KEYS|LIMIT|GET|AUTH|OBJECT||-1|0|1|2|9223372036854775807|k", 0..9),
    ) {
        let (name, sub) = row.name.split_once('|').unwrap_or((row.name, ""));
        let head = [name, sub].into_iter().filter(|word| !word.is_empty()).map(str::to_owned);
        let args: Vec<String> = head.chain(tail).collect();
        let _ = for_each_key(&row, args.as_slice(), |at, _| assert!(at > 0 && at < args.len()));
        let _ = key_slot(&row, args.as_slice());
    }
}
