//! Key positions and slots of whole lines against the server.

use std::cell::RefCell;
use std::collections::BTreeSet;

use memorystore_auth_proxy::command::keys::{KeySlot, for_each_key, key_slot};
use memorystore_auth_proxy::command::lookup::resolve;
use memorystore_auth_proxy::command::slot::slot;
use memorystore_auth_proxy::command::spec::{Access, KeyShape, Row};
use memorystore_auth_proxy::command::table::COMMANDS;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use crate::facts::in_redis_7_0;
use crate::server::{Server, int};

/// Our keys of a frame, sorted; `None` when they cannot be told.
fn our_keys(line: &[String]) -> Option<Vec<String>> {
    let mut keys = Vec::new();
    for_each_key(row_of(line), line, |at, access| {
        if access != Access::NotKey {
            keys.push(line[at].clone());
        }
    })
    .ok()?;
    keys.sort();
    Some(keys)
}

fn row_of(line: &[String]) -> &'static Row {
    resolve(line[0].as_bytes(), line.get(1).map(String::as_bytes)).expect("a known command")
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(|word| if word == "\"\"" { String::new() } else { word.into() }).collect()
}

#[test]
fn keys_of_example_lines_are_the_servers() {
    let server = Server::start();
    let corpus: Vec<&str> = include_str!("lines.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    assert!(corpus.len() >= 150, "only {} lines", corpus.len());
    let mut covered = BTreeSet::new();
    for line in corpus {
        let line = words(line);
        let theirs = server.keys(&line).unwrap_or_else(|| panic!("the server refuses {line:?}"));
        assert_eq!(our_keys(&line), Some(theirs), "{line:?}");
        covered.insert(row_of(&line).name);
    }
    let uncovered: Vec<&str> = COMMANDS
        .iter()
        .filter(|row| in_redis_7_0(row) && row.shape != KeyShape::None)
        .filter(|row| row.shape != KeyShape::Debug && row.keys[0].access != Access::NotKey)
        .map(|row| row.name)
        .filter(|name| !covered.contains(name))
        .collect();
    assert!(uncovered.is_empty(), "keyed commands without a line: {uncovered:?}");
}

#[test]
fn slots_are_the_servers() {
    let server = Server::start_cluster_node();
    let mut runner = runner(300);
    runner
        .run(&"[a-c{}]{0,12}", |key| {
            let theirs = server.ask(&["CLUSTER", "KEYSLOT", &key]).map(|slot| int(&slot));
            let ours = slot(key.as_bytes());
            prop_assert_eq!(theirs, Ok(i64::from(ours)));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

/// A word that an option parser may trip over, or a plain one.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-d]",
        1 => proptest::sample::select(vec![
            "STORE", "store", "STREAMS", "streams", "BY", "GET", "LIMIT", "KEYS", "AUTH",
            "AUTH2", "COUNT", "BLOCK", "GROUP", "NOACK", "WEIGHTS", "STOREDIST", "ALPHA", "DESC",
            "0", "1", "2", "3", "-1", "01", "x",
        ])
        .prop_map(str::to_owned),
    ]
}

fn line(head: &'static str, tail: std::ops::Range<usize>) -> BoxedStrategy<Vec<String>> {
    proptest::collection::vec(word(), tail)
        .prop_map(move |tail| words(head).into_iter().chain(tail).collect())
        .boxed()
}

/// A head, then a number of keys (mostly right), then words.
fn counted(head: &'static str) -> BoxedStrategy<Vec<String>> {
    (0..6usize, 0..4usize, proptest::collection::vec(word(), 1..8))
        .prop_map(move |(number, lie, tail)| {
            let number = if lie == 0 { number } else { number.min(tail.len()) };
            words(head).into_iter().chain([number.to_string()]).chain(tail).collect()
        })
        .boxed()
}

/// A head, options, STREAMS, then as many keys as identifiers.
fn streams(head: &'static str, options: Vec<&'static str>) -> BoxedStrategy<Vec<String>> {
    (
        proptest::sample::subsequence(options.clone(), 0..=options.len()),
        proptest::collection::vec(word(), 1..5),
    )
        .prop_map(move |(options, keys)| {
            let options = options.iter().flat_map(|option| words(option));
            let head = words(head).into_iter().chain(options).chain(["Streams".to_owned()]);
            head.chain(keys.clone()).chain(keys.iter().map(|_| "0".to_owned())).collect()
        })
        .boxed()
}

#[test]
fn keys_of_random_lines_are_the_servers() {
    let server = Server::start();
    let shapes = [
        counted("EVAL script"),
        counted("EVALSHA_RO sha"),
        counted("FCALL f"),
        counted("ZUNIONSTORE dst"),
        counted("ZDIFFSTORE dst"),
        counted("ZINTER"),
        counted("SINTERCARD"),
        counted("LMPOP"),
        counted("BZMPOP 0"),
        streams("XREAD", vec!["COUNT 2", "BLOCK 0"]),
        streams("XREADGROUP GROUP g c", vec!["COUNT 2", "BLOCK 0", "NOACK"]),
        streams("XREADGROUP GROUP STREAMS STREAMS", vec!["NOACK"]),
        line("SORT k", 0..9),
        line("SORT_RO k", 0..9),
        line("MIGRATE h 1 k 0 9", 0..7),
        line("MIGRATE h 1 \"\" 0 9 COPY KEYS a b", 0..4),
        line("MGET", 1..6),
        line("BLPOP", 2..6),
        line("BITOP AND", 2..6),
    ];
    for shape in shapes {
        let compared = RefCell::new((0, 0));
        let mut runner = runner(200);
        runner
            .run(&shape, |line| {
                let theirs = server.keys(&line);
                compared.borrow_mut().0 += 1;
                // Of a line it calls invalid, the server says no keys and runs nothing.
                let Some(theirs) = theirs else { return Ok(()) };
                compared.borrow_mut().1 += 1;
                // Scripts with an unusable number of keys have none for the server.
                prop_assert_eq!(our_keys(&line).unwrap_or_default(), theirs);
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{error}"));
        let (all, valid) = *compared.borrow();
        assert!(valid * 4 > all, "the server took only {valid} of {all} lines of {shape:?}");
    }
}

/// `COMMAND GETKEYS` is not always what a node routes by: of a doubled STORE it lists both
/// destinations, where routing counts the last. So the verdict itself is compared too.
#[test]
fn a_cluster_node_agrees_on_cross_slot() {
    let server = Server::start_cluster_node();
    let shapes = [
        line("GEORADIUS a 0 0 1 m", 0..7),
        line("GEORADIUSBYMEMBER a m 1 m", 0..7),
        line("SORT a", 0..9),
        line("SORT_RO a", 0..9),
        line("MSET a 0", 0..6),
        line("LCS", 0..4),
        line("OBJECT ENCODING", 0..2),
        streams("XREAD", vec!["COUNT 2"]),
        counted("EVAL return"),
        counted("ZUNIONSTORE a"),
        counted("ZINTER"),
        counted("LMPOP"),
    ];
    for shape in shapes {
        let crossed = RefCell::new(0);
        runner(200)
            .run(&shape, |line| {
                let asked: Vec<&str> = line.iter().map(String::as_str).collect();
                let theirs = server.ask(&asked).is_err_and(|error| error.contains("CrossSlot"));
                let ours = key_slot(row_of(&line), line.as_slice()) == KeySlot::Cross;
                prop_assert_eq!(ours, theirs);
                *crossed.borrow_mut() += u32::from(theirs);
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{error}"));
        let single = matches!(line_name(&shape).as_str(), "SORT_RO" | "OBJECT");
        assert_eq!(*crossed.borrow() == 0, single, "CROSSSLOT is met, except with one key");
    }
}

/// The command that a shape makes lines of.
fn line_name(shape: &BoxedStrategy<Vec<String>>) -> String {
    let tree = shape.new_tree(&mut runner(1)).expect("a line");
    tree.current()[0].clone()
}
