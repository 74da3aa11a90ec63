//! Access control against the server's own: the same rules, the same question (ACL DRYRUN), the same
//! answer, for every command of the server and random rules (`ACL_RUNS=n` for more of them).

use std::collections::BTreeSet;
use std::sync::Arc;

use memorystore_auth_proxy::access::facts::{CATEGORIES, categories, category};
use memorystore_auth_proxy::access::{Denial, User, Users};
use memorystore_auth_proxy::command::lookup::resolve;
use memorystore_auth_proxy::command::table::COMMANDS;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use redis::Value;

use crate::facts::in_redis_7_0;
use crate::server::{Server, items, text};

#[test]
fn categories_are_the_servers() {
    let server = Server::start();
    let all = server.ask(&["ACL", "CAT"]).expect("ACL CAT");
    let theirs: BTreeSet<String> = items(&all).iter().map(text).collect();
    assert_eq!(theirs, CATEGORIES.iter().map(|c| (*c).to_owned()).collect());
    for name in CATEGORIES {
        let bit = category(name.as_bytes()).expect("a category");
        let members = server.ask(&["ACL", "CAT", name]).expect("ACL CAT");
        let theirs: BTreeSet<String> = items(&members).iter().map(text).collect();
        let ours: BTreeSet<String> = COMMANDS
            .iter()
            .filter(|row| in_redis_7_0(row) && categories(row) & bit != 0)
            .map(|row| row.name.to_owned())
            .collect();
        assert_eq!(ours, theirs, "@{name}");
    }
}

/// What a decision came to.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Permitted,
    Command,
    Key,
    Channel,
}

fn ours(user: &User, line: &[String]) -> Verdict {
    let row = resolve(line[0].as_bytes(), line.get(1).map(String::as_bytes));
    match user.check(Some(row.expect("a known command")), line) {
        // What SORT's options need is decided when it runs, which DRYRUN does not try.
        Ok(()) | Err(Denial::SortBy | Denial::SortGet) => Verdict::Permitted,
        Err(Denial::Command) => Verdict::Command,
        Err(Denial::Key) => Verdict::Key,
        Err(Denial::Channel) => Verdict::Channel,
        Err(Denial::DenyList) => panic!("there is no deny list"),
    }
}

/// `None` when the server takes the line for none of its commands.
fn theirs(server: &Server, line: &[String]) -> Option<Verdict> {
    let asked = ["ACL", "DRYRUN", "someone"];
    let asked: Vec<&str> = asked.into_iter().chain(line.iter().map(String::as_str)).collect();
    let said = match server.ask(&asked) {
        Ok(Value::Okay) => return Some(Verdict::Permitted),
        Ok(said) => text(&said),
        Err(_) => return None,
    };
    let ends = |what: &str| said.ends_with(what);
    Some(match () {
        () if ends(" command") => Verdict::Command,
        () if ends(" key") => Verdict::Key,
        () if ends(" channel") => Verdict::Channel,
        () => panic!("{line:?}: {said}"),
    })
}

/// One well-formed line at least of every command.
fn lines() -> Vec<Vec<String>> {
    let words = |line: &str| -> Vec<String> {
        line.split(' ').map(|w| if w == "\"\"" { String::new() } else { w.into() }).collect()
    };
    let corpus = include_str!("lines.txt").lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    let more = [
        "set k v",
        "set k v GET",
        "set k v nx get",
        "set k get",
        "bitfield k get u8 0",
        "bitfield k",
        "bitfield k get u8 0 set u8 0 1",
        "bitfield k overflow sat get u8 0",
        "select 0",
        "select 1",
        "subscribe a b",
        "psubscribe a* b",
        "ssubscribe a",
        "unsubscribe a",
        "punsubscribe a*",
        "sunsubscribe a",
        "publish a x",
        "publish b x",
        "spublish b x",
        "sort a by w* get c store b",
        "georadius a 0 0 1 m store b",
        "georadius a 0 0 1 m storedist b store c",
        "debug object a",
        "eval x 2 a b c",
        "eval x 0",
        "eval_ro x 1 a",
        "fcall f 1 b",
        "mset a 1 b 2",
        "copy a b",
        "rename a b",
        "lmove a b left left",
        "xread streams a b 0 0",
        "zunionstore a 2 b c",
    ];
    let bare = COMMANDS.iter().filter(|row| in_redis_7_0(row) && !row.container).map(|row| {
        let argc = usize::from(row.arity.unsigned_abs());
        let mut line: Vec<String> = row.name.split('|').map(str::to_owned).collect();
        // A number fits where a number of keys or a name stands.
        line.resize(argc.max(line.len()), "1".to_owned());
        line
    });
    corpus.map(words).chain(more.map(words)).chain(bare).collect()
}

fn rule() -> impl Strategy<Value = String> {
    let commands: Vec<&'static str> =
        COMMANDS.iter().filter(|row| in_redis_7_0(row)).map(|row| row.name).collect();
    let cats: Vec<&'static str> = CATEGORIES.iter().copied().chain(["all", "nothing"]).collect();
    let sign = || proptest::sample::select(vec!["+", "-"]);
    let pattern = "(a|b|k|key|[abc]|\\*|\\?|[a-k]\\*|\\[a-c\\])";
    prop_oneof![
        4 => (sign(), proptest::sample::select(commands)).prop_map(|(s, c)| format!("{s}{c}")),
        6 => (sign(), proptest::sample::select(cats)).prop_map(|(s, c)| format!("{s}@{c}")),
        4 => pattern.prop_map(|p| format!("~{p}")),
        4 => ("[rRwW]{1,2}", pattern).prop_map(|(f, p)| format!("%{f}~{p}")),
        3 => pattern.prop_map(|p| format!("&{p}")),
        4 => proptest::sample::select(vec![
            "allkeys", "resetkeys", "allchannels", "ResetChannels", "allcommands", "nocommands",
            "+select|0", "+debug|object", "+get|a", "+config|get|x", "+config|nothing", "+get|",
            "-select|0", "+nothing", "~", "&", "nonsense", "clearselectors", "+SET", "-Config",
        ]).prop_map(str::to_owned),
    ]
}

fn rules() -> impl Strategy<Value = Vec<String>> {
    let inner = proptest::collection::vec(rule(), 0..5);
    prop_oneof![
        5 => rule(),
        1 => inner.prop_map(|rules| format!("({})", rules.join(" "))),
    ]
    .boxed()
    .prop_flat_map(|first| {
        proptest::collection::vec(rule(), 0..8).prop_map(move |mut rules| {
            rules.push(first.clone());
            rules
        })
    })
}

fn parsed(rules: &[String]) -> Result<Arc<User>, String> {
    let file = format!("user someone {}", rules.join(" "));
    let users = Users::parse(file.as_bytes())?;
    Ok(users.get(b"someone").expect("the user").clone())
}

fn give(server: &Server, rules: &[String]) -> Result<(), String> {
    let said = ["ACL", "SETUSER", "someone", "reset"];
    let said: Vec<&str> = said.into_iter().chain(rules.iter().map(String::as_str)).collect();
    server.ask(&said).map(|_| ())
}

/// Compares all decisions; returns how many were of each kind.
fn compare(server: &Server, rules: &[String], lines: &[Vec<String>]) -> [usize; 4] {
    let user = match (parsed(rules), give(server, rules)) {
        (Ok(user), Ok(())) => user,
        (Err(_), Err(_)) => return [0; 4],
        (ours, theirs) => panic!("{rules:?}: {ours:?}, and the server says {theirs:?}"),
    };
    let mut counts = [0; 4];
    for line in lines {
        let Some(theirs) = theirs(server, line) else {
            continue;
        };
        let ours = ours(&user, line);
        if ours == Verdict::Key
            && theirs == Verdict::Permitted
            && server.keys(line).is_none_or(|k| k.is_empty())
        {
            // The server cannot tell its keys (PFMERGE with one of them, a wrong number of keys) and
            // lets it run; we do not.
            continue;
        }
        assert_eq!(ours, theirs, "{line:?} with {rules:?}");
        counts[theirs as usize] += 1;
    }
    counts
}

#[test]
fn decisions_are_the_servers_for_every_command() {
    let server = Server::start();
    let lines = lines();
    let rules = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for written in [
        "+@all ~* &*",
        "-@all",
        "+@all ~a ~k* &a*",
        "+@all %R~* %W~a",
        "+@all %W~* %R~b",
        "+@all ~* resetchannels",
        "+@all -@dangerous ~*",
        "+@read +@connection ~key* -keys +info",
        "-@all +config -config|set +client|list +select|0 +debug|object",
        "+@all -config +config|get",
        "~a* +get (~b* +set) (%R~k +@read)",
    ] {
        // Selectors are one word for SETUSER.
        let words = match written.split_once(" (") {
            None => rules(written),
            Some((head, tail)) => {
                let selectors = tail.split(" (").map(|s| format!("({s}"));
                rules(head).into_iter().chain(selectors).collect()
            }
        };
        compare(&server, &words, &lines);
    }
}

#[test]
fn decisions_are_the_servers_for_random_rules() {
    let server = Server::start();
    let lines = lines();
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let mut sums = [0; 4];
    let mut taken = 0;
    let runs = std::env::var("ACL_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(120);
    for _ in 0..runs {
        let rules = rules().new_tree(&mut runner).expect("rules").current();
        let counts = compare(&server, &rules, &lines);
        taken += usize::from(counts.iter().sum::<usize>() > 0);
        sums.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
    }
    assert!(taken > 30, "the server took only {taken} of the rules");
    assert!(sums.iter().all(|&n| n > 20), "too few of a kind: {sums:?}");
}
