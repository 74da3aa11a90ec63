//! The columns of the table against the `COMMAND` reply.

use std::collections::{BTreeMap, BTreeSet};

use memorystore_auth_proxy::command::lookup::command;
use memorystore_auth_proxy::command::spec::{
    Access, Begin, Find, Gather, Handler, KeyShape, KeySpec, RequestPolicy, ResponsePolicy, Row,
    flag,
};
use memorystore_auth_proxy::command::table::COMMANDS;
use redis::Value;

use crate::server::{Server, int, items, map, text};

/// What a server says of one command.
#[derive(Debug)]
struct Live {
    arity: i64,
    flags: BTreeSet<String>,
    tips: BTreeSet<String>,
    specs: Vec<KeySpec>,
}

fn live_commands(server: &Server) -> BTreeMap<String, Live> {
    let reply = server.ask(&["COMMAND"]).expect("COMMAND");
    let mut commands = BTreeMap::new();
    let mut waiting: Vec<&Value> = items(&reply).iter().collect();
    while let Some(entry) = waiting.pop() {
        let entry = items(entry);
        waiting.extend(items(&entry[9]));
        let live = Live {
            arity: int(&entry[1]),
            flags: items(&entry[2]).iter().map(text).collect(),
            tips: items(&entry[7]).iter().map(text).collect(),
            specs: items(&entry[8]).iter().map(live_spec).collect(),
        };
        commands.insert(text(&entry[0]).to_lowercase(), live);
    }
    commands
}

fn live_spec(value: &Value) -> KeySpec {
    let spec = map(value);
    let number = |map: &BTreeMap<String, &Value>, name: &str| int(map[name]);
    let narrow = |number: i64| i16::try_from(number).expect("a small number");
    let natural = |number: i64| u16::try_from(number).expect("a small natural number");

    let begin = map(spec["begin_search"]);
    let begin = match text(begin["type"]).as_str() {
        "index" => Begin::Index(natural(number(&map(begin["spec"]), "index"))),
        "keyword" => {
            let keyword = map(begin["spec"]);
            let word = text(keyword["keyword"]).leak();
            Begin::Keyword(word, narrow(number(&keyword, "startfrom")))
        }
        _ => Begin::Unknown,
    };
    let find = map(spec["find_keys"]);
    let find = match text(find["type"]).as_str() {
        "range" => {
            let range = map(find["spec"]);
            Find::Range {
                last: narrow(number(&range, "lastkey")),
                step: natural(number(&range, "keystep")),
                limit: natural(number(&range, "limit")),
            }
        }
        "keynum" => {
            let count = map(find["spec"]);
            Find::KeyNum {
                num: natural(number(&count, "keynumidx")),
                first: natural(number(&count, "firstkey")),
                step: natural(number(&count, "keystep")),
            }
        }
        _ => Find::Unknown,
    };
    let flags: BTreeSet<String> = items(spec["flags"]).iter().map(text).collect();
    let access = if flags.contains("not_key") {
        Access::NotKey
    } else if flags.contains("RO") {
        Access::Read
    } else {
        Access::Write
    };
    KeySpec { begin, find, access }
}

const FLAGS: &[(&str, u32)] = &[
    ("write", flag::WRITE),
    ("readonly", flag::READONLY),
    ("denyoom", flag::DENYOOM),
    ("admin", flag::ADMIN),
    ("pubsub", flag::PUBSUB),
    ("noscript", flag::NOSCRIPT),
    ("blocking", flag::BLOCKING),
    ("loading", flag::LOADING),
    ("stale", flag::STALE),
    ("skip_monitor", flag::SKIP_MONITOR),
    ("skip_slowlog", flag::SKIP_SLOWLOG),
    ("asking", flag::ASKING),
    ("fast", flag::FAST),
    ("no_auth", flag::NO_AUTH),
    ("may_replicate", flag::MAY_REPLICATE),
    ("no_mandatory_keys", flag::NO_MANDATORY_KEYS),
    ("no_async_loading", flag::NO_ASYNC_LOADING),
    ("no_multi", flag::NO_MULTI),
    ("allow_busy", flag::ALLOW_BUSY),
    ("movablekeys", flag::MOVABLEKEYS),
];

/// Accepted with fewer or more arguments by a later version than Redis 7.0; the table has the
/// wider arity, here is that of 7.0.
const WIDENED: &[(&str, i64)] = &[
    ("cluster|replicate", 3),
    ("command|getkeys", -4),
    ("command|getkeysandflags", -4),
    ("script|debug", 3),
    ("zrank", 3),
    ("zrevrank", 3),
];

/// Policies that a later version than Redis 7.0 gave or took back.
const LATER_POLICIES: &[&str] = &[
    "acl|deluser",
    "acl|save",
    "acl|setuser",
    "client|setname",
    "config|resetstat",
    "config|rewrite",
    "latency|reset",
    "msetnx",
    "randomkey",
    "scan",
];

/// Policies of our own, where no version has one.
const OUR_POLICIES: &[&str] = &["acl|load", "bgrewriteaof", "bgsave", "pubsub|numpat", "save"];

fn rows() -> BTreeMap<&'static str, &'static Row> {
    COMMANDS.iter().map(|row| (row.name, row)).collect()
}

/// Whether Redis 7.0 has the row's command.
pub(crate) fn in_redis_7_0(row: &Row) -> bool {
    let version = row.since.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>();
    version.is_some_and(|version| version < vec![7, 0, 16])
}

#[test]
fn the_table_is_sorted_and_its_containers_are_complete() {
    assert!(COMMANDS.is_sorted_by(|a, b| a.name < b.name), "unsorted or double");
    let containers: BTreeSet<&str> =
        COMMANDS.iter().filter_map(|row| Some(row.name.split_once('|')?.0)).collect();
    for row in COMMANDS {
        assert_eq!(row.container, containers.contains(row.name), "{}", row.name);
        assert_eq!(row.name, row.name.to_ascii_lowercase());
        assert_ne!(row.arity, 0, "{}", row.name);
        let both = flag::WRITE | flag::READONLY;
        assert_ne!(row.flags & both, both, "{} writes and does not", row.name);
        let keyed = row.keys.iter().any(|spec| spec.access == Access::Write);
        assert!(
            !keyed || row.flags & flag::WRITE != 0 || WRITES_WITHOUT_FLAG.contains(&row.name),
            "{} writes keys without the flag",
            row.name
        );
    }
    for container in containers {
        assert!(command(container.as_bytes()).is_some(), "{container} has no row");
    }
}

#[test]
fn treatments_fit_the_facts() {
    for row in COMMANDS {
        let fits = match row.handler {
            Handler::Split => row.request == RequestPolicy::MultiShard && row.keys.len() == 1,
            Handler::Blocking => {
                row.shape != KeyShape::None
                    && (row.flags & flag::BLOCKING != 0 || row.name == "debug")
            }
            Handler::Script => row.flags & flag::NO_MANDATORY_KEYS != 0,
            Handler::Gather(Gather::Policy) => {
                row.shape == KeyShape::None
                    && matches!(row.request, RequestPolicy::AllNodes | RequestPolicy::AllShards)
                    && row.response != ResponsePolicy::Special
            }
            Handler::Gather(_) | Handler::Scan | Handler::Local(_) => row.shape == KeyShape::None,
            Handler::Transaction(_) => row.flags & flag::NOSCRIPT != 0,
            Handler::Subscribe(_) | Handler::Publish => row.flags & flag::PUBSUB != 0,
            Handler::ClusterFace(_) => row.name.starts_with("cluster|"),
            Handler::Forward => row.flags & flag::BLOCKING == 0,
            Handler::OneServer => row.shape == KeyShape::None,
            Handler::Refused => true,
        };
        assert!(fits, "{}: {:?}", row.name, row.handler);
    }
}

/// Commands that Redis does not flag as writes, though their specification says the keys may
/// change: scripts decide, and PFCOUNT caches.
const WRITES_WITHOUT_FLAG: &[&str] = &["eval", "evalsha", "fcall", "pfcount"];

#[test]
fn the_table_has_the_commands_of_the_server() {
    let server = Server::start();
    let live = live_commands(&server);
    let rows = rows();
    let missing: Vec<_> = live.keys().filter(|name| !rows.contains_key(name.as_str())).collect();
    // A server newer than the table may know more: such names are looked up at run time.
    assert!(
        missing.is_empty() || !server.is_7_0(),
        "the server has, the table has not: {missing:?}"
    );
    let known = || rows.values().filter(|row| in_redis_7_0(row));
    let invented: Vec<_> =
        known().map(|row| row.name).filter(|name| !live.contains_key(*name)).collect();
    assert!(invented.is_empty(), "the table has, the server has not: {invented:?}");
    assert_eq!(known().count(), 366, "commands of Redis 7.0");
}

/// For a server of any version.
#[test]
fn key_specifications_are_the_servers_and_arity_is_not_narrower() {
    let live = live_commands(&Server::start());
    for (row, live) in rows().into_values().filter_map(|row| Some((row, live.get(row.name)?))) {
        let ours = i64::from(row.arity);
        let takes_all = ours == live.arity || (ours < 0 && -ours <= live.arity.abs());
        assert!(takes_all, "arity of {}: {ours}, server: {}", row.name, live.arity);
        // A module declares its keys written, whatever the command does.
        if !live.flags.contains("module") {
            assert_eq!(row.keys, live.specs, "key specifications of {}", row.name);
        }
    }
}

#[test]
fn arity_and_flags_are_those_of_redis_7_0() {
    let server = Server::start();
    if !server.is_7_0() {
        println!("not compared: the server is not Redis 7.0");
        return;
    }
    let live = live_commands(&server);
    for row in rows().into_values().filter(|row| in_redis_7_0(row)) {
        let live = &live[row.name];
        let arity = WIDENED
            .iter()
            .find(|(name, _)| *name == row.name)
            .map_or(i64::from(row.arity), |(_, arity)| *arity);
        assert_eq!(arity, live.arity, "arity of {}", row.name);
        let flags: BTreeSet<String> = FLAGS
            .iter()
            .filter(|(_, bit)| row.flags & bit != 0)
            .map(|(name, _)| (*name).to_owned())
            .collect();
        assert_eq!(flags, live.flags, "flags of {}", row.name);
    }
}

#[test]
fn policies_are_the_servers_or_are_listed_here() {
    let server = Server::start();
    let live = live_commands(&server);
    for row in rows().into_values().filter(|row| in_redis_7_0(row)) {
        let mut policies = BTreeSet::new();
        if row.request != RequestPolicy::Default {
            policies.insert(format!("request_policy:{}", snake_case(row.request)));
        }
        if row.response != ResponsePolicy::Default {
            policies.insert(format!("response_policy:{}", snake_case(row.response)));
        }
        let tips = &live[row.name].tips;
        let live: BTreeSet<String> =
            tips.iter().filter(|tip| tip.contains("_policy:")).cloned().collect();
        let later = LATER_POLICIES.contains(&row.name);
        let differs = OUR_POLICIES.contains(&row.name) || (later && server.is_7_0());
        // Other versions have some of the later policies.
        let free = later && !server.is_7_0();
        assert!(
            free || (policies != live) == differs,
            "{}: {policies:?}, server: {live:?}",
            row.name
        );
    }
}

fn snake_case(policy: impl std::fmt::Debug) -> String {
    let mut snake = String::new();
    for letter in format!("{policy:?}").chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}
