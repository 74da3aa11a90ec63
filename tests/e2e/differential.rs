//! The proxy on three shards against one plain server of the same version: random command streams,
//! pipelined in random batches, answered byte for byte the same, in RESP2 and RESP3.
//!
//! What is compared less strictly, and what differs at all, stands in `docs/differences.md`, each with
//! its reason. A failure names its seed; `DIFF_SEED=n` runs it again, `DIFF_COMMANDS=n` runs longer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use memorystore_auth_proxy::command::lookup;
use memorystore_auth_proxy::command::table::COMMANDS;
use memorystore_auth_proxy::session::local;

use crate::both_protocols;
use crate::support::canonical::{How, same};
use crate::support::client::{Client, Proto};
use crate::support::differences;
use crate::support::pair::Pair;
use crate::support::resp::{self, Value};
use crate::support::standalone::Standalone;
use crate::support::streams::{Step, Stream};
use crate::support::templates;

both_protocols!(streams_are_answered_as_by_one_server, client_reply_modes_are_the_servers);
both_protocols!(scans_return_the_same_keys);

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

async fn streams_are_answered_as_by_one_server(proto: Proto) {
    let seeds = match setting("DIFF_SEED") {
        Some(seed) => vec![seed],
        None => vec![1, 2, 3, fastrand::u64(..1 << 32)],
    };
    let length = setting("DIFF_COMMANDS").unwrap_or(6_000) as usize;
    let mut pair = Pair::start(proto).await;
    for seed in seeds {
        println!("DIFF_SEED={seed}");
        pair.reset(proto).await;
        run(&mut pair, seed, length).await;
    }
}

async fn run(pair: &mut Pair, seed: u64, length: usize) {
    let mut stream = Stream::new(seed);
    let mut recent: VecDeque<String> = VecDeque::new();
    // The first difference of each command: one bug shall not hide another.
    let mut differences: BTreeMap<String, String> = BTreeMap::new();
    let mut sent = 0;
    while sent < length {
        let most = if stream.below(4) == 0 { 150 } else { 12 };
        let batch = stream.below(most) + 1;
        let steps = stream.take(batch);
        let bytes: Vec<u8> = steps.iter().flat_map(|s| resp::encode(&s.args)).collect();
        let (ours, theirs) = pair.both(&bytes, steps.len()).await;
        for (n, step) in steps.iter().enumerate() {
            if same(step.how, &ours[n], &theirs[n]) {
                continue;
            }
            let words = step.args.iter().take(2).map(|w| String::from_utf8_lossy(w).to_uppercase());
            differences.entry(words.collect::<Vec<_>>().join(" ")).or_insert_with(|| {
                format!(
                    "command {}: {}\n   proxy:  {:?}\n   server: {:?}\n{}",
                    sent + n,
                    step.text(),
                    shortened(&ours[n]),
                    shortened(&theirs[n]),
                    history(step, &steps[..n], &recent)
                )
            });
        }
        sent += steps.len();
        recent.extend(steps.iter().map(Step::text));
        while recent.len() > 2000 {
            recent.pop_front();
        }
    }
    let report: Vec<_> = differences.into_values().take(40).collect();
    assert!(report.is_empty(), "DIFF_SEED={seed}: replies differ\n{}", report.join(""));
    // Nothing came that was not asked for.
    let sentinel = resp::encode(&["ECHO", "sentinel"]);
    let (ours, theirs) = pair.both(&sentinel, 1).await;
    assert_eq!(ours, theirs, "seed {seed}: a reply too many or too few");
}

/// The last commands that named the first key of `step`.
fn history(step: &Step, before: &[Step], recent: &VecDeque<String>) -> String {
    let is_key = |arg: &&Vec<u8>| arg.contains(&b':') && arg.len() < 9;
    let key = step.args.iter().skip(1).find(is_key).or(step.args.get(1));
    let key = key.map_or(String::new(), |k| format!("{:?}", String::from_utf8_lossy(k)));
    let all: Vec<String> = recent.iter().cloned().chain(before.iter().map(Step::text)).collect();
    let named: Vec<_> = all.iter().filter(|text| text.contains(&key)).collect();
    let last = &all[all.len().saturating_sub(6)..];
    format!("   before: {last:?}\n   on {key}: {:?}\n", &named[named.len().saturating_sub(8)..])
}

fn shortened(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned()
}

async fn scans_return_the_same_keys(proto: Proto) {
    let mut pair = Pair::start(proto).await;
    pair.reset(proto).await;
    let mut stream = Stream::new(7);
    let steps = stream.take(3000);
    let bytes: Vec<u8> = steps.iter().flat_map(|s| resp::encode(&s.args)).collect();
    pair.both(&bytes, steps.len()).await;
    // The stream may have ended in the middle of a transaction.
    pair.ours.cmd(&["DISCARD"]).await;
    pair.theirs.cmd(&["DISCARD"]).await;
    for options in [
        &[][..],
        &["COUNT", "3"],
        &["MATCH", "s:*"],
        &["MATCH", "{a}*", "COUNT", "100"],
        &["TYPE", "list"],
        &["TYPE", "zset", "MATCH", "*:1", "COUNT", "7"],
        &["TYPE", "nosuchtype"],
        &["MATCH", "nothing*"],
    ] {
        let ours = scan_all(&mut pair.ours, options).await;
        let theirs = scan_all(&mut pair.theirs, options).await;
        assert_eq!(ours, theirs, "SCAN with {options:?}");
    }
    let random = pair.ours.cmd(&["RANDOMKEY"]).await;
    assert_eq!(pair.theirs.cmd(&["EXISTS", &random.text()]).await, Value::Int(1));
}

async fn scan_all(client: &mut Client, options: &[&str]) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let mut cursor = "0".to_owned();
    for _ in 0..10_000 {
        let mut command = vec!["SCAN", &cursor];
        command.extend(options);
        let reply = client.cmd(&command).await;
        keys.extend(reply.items()[1].items().iter().map(|key| match key {
            Value::Bulk(key) => key.clone(),
            other => panic!("SCAN returned {other:?} for a key"),
        }));
        cursor = reply.items()[0].text();
        if cursor == "0" {
            keys.sort();
            keys.dedup();
            return keys;
        }
    }
    panic!("SCAN did not end in 10000 steps");
}

/// The exceptions are what the page says, and are still exceptions.
#[tokio::test]
async fn exceptions_differ_as_published() {
    let mut pair = Pair::start(Proto::Resp2).await;
    for exception in differences::exceptions() {
        for client in [&mut pair.ours, &mut pair.theirs] {
            for command in [
                cmd!["RESET"],
                cmd!["FLUSHALL"],
                cmd!["SET", "{a}s", "1"],
                cmd!["RPUSH", "{a}l", "1", "2"],
            ] {
                client.cmd(&command).await;
            }
        }
        let bytes: Vec<u8> = exception.commands.iter().flat_map(|c| resp::encode(c)).collect();
        let (ours, theirs) = pair.both(&bytes, exception.commands.len()).await;
        let (last, before) = ours.split_last().expect("a reply");
        let (their_last, their_before) = theirs.split_last().expect("a reply");
        assert_eq!(before, their_before, "{exception:?}: only the last answer differs");
        let text = shortened(last);
        assert!(text.starts_with(&exception.answer), "{exception:?}: {text:?}");
        assert_ne!(last, their_last, "{exception:?} is no exception any more");
        if exception.answer == "-CROSSSLOT" {
            let exact = "-CROSSSLOT Keys in request don't hash to the same slot\r\n";
            assert_eq!(text, exact, "{exception:?}");
        }
    }
}

/// Every command of the server is in the streams, or in the page.
#[tokio::test]
async fn every_command_is_compared_or_named() {
    let server = Standalone::start().await;
    let reply = server.connect().await.cmd(&["COMMAND", "LIST"]).await;
    let mut theirs: BTreeSet<String> =
        reply.items().iter().map(|name| name.text().to_lowercase()).collect();
    let docs = server.connect().await.cmd(&["COMMAND"]).await;
    for command in docs.items() {
        theirs.extend(command.items()[9].items().iter().map(|s| s.items()[0].text()));
    }
    // What has too few or too many words shows an error only.
    let name = |words: Vec<&str>| {
        let (name, sub) = (words[0].as_bytes(), words.get(1).map(|w| w.as_bytes()));
        let row = lookup::resolve(name, sub).filter(|row| local::arity_fits(row, words.len()));
        row.map(|row| row.name.to_owned())
    };
    let exceptions = differences::exceptions();
    let excepted = exceptions.iter().flat_map(|e| &e.commands);
    let excepted = excepted.map(|c| c.iter().map(String::as_str).collect());
    let streamed = templates::all().chain(["MULTI"]).map(|t| t.split(' ').collect());
    let compared: BTreeSet<String> = streamed.chain(excepted).filter_map(name).collect();
    let named: BTreeSet<String> = differences::not_compared().into_iter().collect();
    let missing: Vec<_> = theirs
        .iter()
        .filter(|name| !compared.contains(*name) && !named.contains(*name))
        .filter(|name| COMMANDS.iter().any(|row| row.name == *name))
        .collect();
    assert!(missing.is_empty(), "neither compared nor named in docs/differences.md: {missing:?}");
    let both: Vec<_> = named.iter().filter(|name| compared.contains(*name)).collect();
    assert!(both.is_empty(), "named as not compared, and compared: {both:?}");
    let strange: Vec<_> = named.iter().filter(|n| !theirs.contains(*n)).collect();
    assert!(strange.is_empty(), "named, and no command: {strange:?}");
}

async fn client_reply_modes_are_the_servers(proto: Proto) {
    let mut pair = Pair::start(proto).await;
    let commands: &[&[&str]] = &[
        &["CLIENT", "REPLY", "SKIP"],
        &["SET", "a", "1"],
        &["GET", "a"],
        &["CLIENT", "REPLY", "OFF"],
        &["SET", "b", "2"],
        &["MGET", "a", "b", "c"],
        &["NOSUCHCOMMAND"],
        &["CLIENT", "REPLY", "SKIP"],
        &["CLIENT", "REPLY", "ON"],
        &["MGET", "a", "b", "c"],
        &["CLIENT", "REPLY", "SKIP"],
        &["DBSIZE"],
        &["DBSIZE"],
        &["ECHO", "end"],
    ];
    let bytes: Vec<u8> = commands.iter().flat_map(|c| resp::encode(c)).collect();
    // GET, ON, MGET, DBSIZE, ECHO
    let (ours, theirs) = pair.both(&bytes, 5).await;
    assert_eq!(resp::parse(&theirs[4]).unwrap().unwrap().0, Value::bulk("end"));
    assert_eq!(ours, theirs);
}

/// RESET takes back everything a session has set, RESP3 included.
#[tokio::test]
async fn reset_and_quit_are_the_servers() {
    let mut pair = Pair::start(Proto::Resp3).await;
    let commands: &[&[&str]] = &[
        &["CLIENT", "SETNAME", "me"],
        &["MULTI"],
        &["SET", "a", "1"],
        &["RESET"],
        &["CLIENT", "GETNAME"],
        &["GET", "a"],
        &["EXEC"],
        &["CLIENT", "TRACKINGINFO"],
        &["QUIT"],
    ];
    let bytes: Vec<u8> = commands.iter().flat_map(|c| resp::encode(c)).collect();
    let (ours, theirs) = pair.both(&bytes, commands.len()).await;
    assert_eq!(ours, theirs);
    pair.ours.expect_close().await;
    pair.theirs.expect_close().await;
}

/// Every word of the tables can be filled in, and rules name commands the streams hold.
#[test]
fn the_tables_are_sound() {
    for seed in 0..20 {
        let steps = Stream::new(seed).take(5000);
        let again = Stream::new(seed).take(5000);
        assert!(steps.iter().zip(&again).all(|(a, b)| a.args == b.args), "seed {seed}");
    }
    for rule in differences::rules() {
        let of = |t: &str| t == rule.name || t.starts_with(&format!("{} ", rule.name));
        assert!(templates::all().any(of), "no template for the rule of {}", rule.name);
        assert_ne!(rule.how, How::Exact, "{}", rule.name);
    }
}
