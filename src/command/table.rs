//! The data: one row per command and subcommand of Redis 7.0 to 8.6 and Valkey 7.2 to 9.1.
//!
//! Taken from the `COMMAND` replies of Redis 7.0, Redis 8.2 and Valkey 9.1 and from the built-in
//! table of Redis 8.6; a test holds it against a live server. Where versions differ: the widest
//! arity (a server refuses what it cannot take, the proxy must not), the newest policies, the
//! oldest flags. Policies and handlers that are our judgement carry a comment. Names that are not
//! here (modules, newer servers) are asked of the server at run time.
//!
//! Invariant: sorted by name, every subcommand's container present. It holds no logic: lookup is
//! in [`super::lookup`], key finding in [`super::keys`].
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::spec::Access::{NotKey, Read, Write};
use super::spec::Begin::{Index, Keyword, Unknown};
use super::spec::Handler::{
    Blocking, ClusterFace, Forward, Gather, Local, OneServer, Publish, Refused, Scan, Script,
    Split, Subscribe, Transaction,
};
use super::spec::flag::{
    ADMIN, ALLOW_BUSY, ASKING, BLOCKING, DENYOOM, FAST, LOADING, MOVABLEKEYS, NO_ASYNC_LOADING,
    NO_AUTH, NO_MANDATORY_KEYS, NO_MULTI, NOSCRIPT, PUBSUB, READONLY, SKIP_MONITOR, SKIP_SLOWLOG,
    STALE, WRITE,
};
use super::spec::{
    Access, ClusterFace as F, Find, Gather as G, Handler, KeyShape, KeySpec, Local as L,
    RequestPolicy as Ask, ResponsePolicy as Reply, Row, Subscription as S, Transaction as T,
};

/// A row with no policies; [`Row::asks`], [`Row::by_hand`] and [`Row::container`] add the rest.
const fn row(
    name: &'static str,
    arity: i16,
    keys: &'static [KeySpec],
    handler: Handler,
    since: &'static str,
    flags: u32,
) -> Row {
    Row {
        name,
        arity,
        flags,
        keys,
        request: Ask::Default,
        response: Reply::Default,
        handler,
        since,
        shape: KeyShape::of(keys),
        container: false,
    }
}

impl Row {
    const fn asks(self, request: Ask, response: Reply) -> Self {
        Self { request, response, ..self }
    }

    const fn by_hand(self, shape: KeyShape) -> Self {
        Self { shape, ..self }
    }

    const fn container(self) -> Self {
        Self { container: true, ..self }
    }
}

/// One key at this argument.
const fn one(at: u16, access: Access) -> KeySpec {
    range(at, 0, 1, access)
}

/// Keys from `at` to `last` (relative; negative: from the end), `step` apart.
const fn range(at: u16, last: i16, step: u16, access: Access) -> KeySpec {
    KeySpec { begin: Index(at), find: Find::Range { last, step, limit: 0 }, access }
}

/// The number of keys at `at`, the keys right after it, `step` apart.
const fn counted(at: u16, step: u16, access: Access) -> KeySpec {
    KeySpec { begin: Index(at), find: Find::KeyNum { num: 0, first: 1, step }, access }
}

/// Keys after `word`, up to `last`; only the first 1/`limit` of what follows.
const fn after(word: &'static str, from: i16, last: i16, limit: u16, access: Access) -> KeySpec {
    KeySpec { begin: Keyword(word, from), find: Find::Range { last, step: 1, limit }, access }
}

/// Keys that no specification describes.
const fn unknown(access: Access) -> KeySpec {
    KeySpec { begin: Unknown, find: Find::Unknown, access }
}

type Keys = &'static [KeySpec];
const NONE: Keys = &[];
const READ_1: Keys = &[one(1, Read)];
const READ_2: Keys = &[one(2, Read)];
const WRITE_1: Keys = &[one(1, Write)];
const WRITE_2: Keys = &[one(2, Write)];
const CHANNEL_1: Keys = &[one(1, NotKey)];
const READ_1_AND_2: Keys = &[range(1, 1, 1, Read)];
const READ_ALL: Keys = &[range(1, -1, 1, Read)];
const WRITE_ALL: Keys = &[range(1, -1, 1, Write)];
const CHANNELS: Keys = &[range(1, -1, 1, NotKey)];
const WRITE_BUT_LAST: Keys = &[range(1, -2, 1, Write)];
const WRITE_PAIRS: Keys = &[range(1, -1, 2, Write)];
const COPY: Keys = &[one(1, Read), one(2, Write)];
const MOVE: Keys = &[one(1, Write), one(2, Write)];
const STORE: Keys = &[one(1, Write), one(2, Read)];
const STORE_ALL: Keys = &[one(1, Write), range(2, -1, 1, Read)];
const STORE_COUNTED: Keys = &[one(1, Write), counted(2, 1, Read)];
const BITOP: Keys = &[one(2, Write), range(3, -1, 1, Read)];
const COUNTED_READ_1: Keys = &[counted(1, 1, Read)];
const COUNTED_READ_2: Keys = &[counted(2, 1, Read)];
const COUNTED_WRITE_1: Keys = &[counted(1, 1, Write)];
const COUNTED_WRITE_2: Keys = &[counted(2, 1, Write)];
const COUNTED_PAIRS: Keys = &[counted(1, 2, Write)];
const XREAD: Keys = &[after("STREAMS", 1, -1, 2, Read)];
const XREADGROUP: Keys = &[after("STREAMS", 4, -1, 2, Read)];
const GEORADIUS: Keys =
    &[one(1, Read), after("STORE", 6, 0, 0, Write), after("STOREDIST", 6, 0, 0, Write)];
const GEORADIUSBYMEMBER: Keys =
    &[one(1, Read), after("STORE", 5, 0, 0, Write), after("STOREDIST", 5, 0, 0, Write)];
const MIGRATE: Keys = &[one(3, Write), after("KEYS", -2, -1, 0, Write)];
const SORT: Keys = &[one(1, Read), unknown(Read), unknown(Write)];
const SORT_RO: Keys = &[one(1, Read), unknown(Read)];

/// Every command and subcommand, sorted by name.
///
/// Columns: name, arity, keys, handler, since, flags; then policies, key shape, container.
#[rustfmt::skip]
pub static COMMANDS: &[Row] = &[
    row("acl",                           -2, NONE,              Forward,                             "6.0.0",        0).container(),
    row("acl|cat",                       -2, NONE,              Forward,                             "6.0.0",        NOSCRIPT | LOADING | STALE),
    row("acl|deluser",                   -3, NONE,              Gather(G::Policy),                   "6.0.0",        ADMIN | NOSCRIPT | LOADING | STALE).asks(Ask::AllNodes, Reply::AllSucceeded),
    row("acl|dryrun",                    -4, NONE,              Forward,                             "7.0.0",        ADMIN | NOSCRIPT | LOADING | STALE),
    row("acl|genpass",                   -2, NONE,              Forward,                             "6.0.0",        NOSCRIPT | LOADING | STALE),
    row("acl|getuser",                    3, NONE,              Forward,                             "6.0.0",        ADMIN | NOSCRIPT | LOADING | STALE),
    row("acl|help",                       2, NONE,              Forward,                             "6.0.0",        LOADING | STALE),
    row("acl|list",                       2, NONE,              Forward,                             "6.0.0",        ADMIN | NOSCRIPT | LOADING | STALE),
    // No policy in Redis; every node has its own ACL file.
    row("acl|load",                       2, NONE,              Gather(G::Policy),                   "6.0.0",        ADMIN | NOSCRIPT | LOADING | STALE).asks(Ask::AllNodes, Reply::AllSucceeded),
    row("acl|log",                       -2, NONE,              Forward,                             "6.0.0",        ADMIN | NOSCRIPT | LOADING | STALE),
    row("acl|save",                       2, NONE,              Gather(G::Policy),                   "6.0.0",        ADMIN | NOSCRIPT | LOADING | STALE).asks(Ask::AllNodes, Reply::AllSucceeded),
    row("acl|setuser",                   -3, NONE,              Gather(G::Policy),                   "6.0.0",        ADMIN | NOSCRIPT | LOADING | STALE).asks(Ask::AllNodes, Reply::AllSucceeded),
    row("acl|users",                      2, NONE,              Forward,                             "6.0.0",        ADMIN | NOSCRIPT | LOADING | STALE),
    row("acl|whoami",                     2, NONE,              Forward,                             "6.0.0",        NOSCRIPT | LOADING | STALE),
    row("append",                         3, WRITE_1,           Forward,                             "2.0.0",        WRITE | DENYOOM | FAST),
    row("asking",                         1, NONE,              Local(L::Asking),                    "3.0.0",        FAST),
    row("auth",                          -2, NONE,              Local(L::Auth),                      "1.0.0",        NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY),
    // No policy in Redis: an operator asks each node.
    row("bgrewriteaof",                   1, NONE,              Gather(G::Policy),                   "1.0.0",        ADMIN | NOSCRIPT | NO_ASYNC_LOADING).asks(Ask::AllShards, Reply::AllSucceeded),
    // No policy in Redis: an operator asks each node.
    row("bgsave",                        -1, NONE,              Gather(G::Policy),                   "1.0.0",        ADMIN | NOSCRIPT | NO_ASYNC_LOADING).asks(Ask::AllShards, Reply::AllSucceeded),
    row("bitcount",                      -2, READ_1,            Forward,                             "2.6.0",        READONLY),
    row("bitfield",                      -2, WRITE_1,           Forward,                             "3.2.0",        WRITE | DENYOOM),
    row("bitfield_ro",                   -2, READ_1,            Forward,                             "6.0.0",        READONLY | FAST),
    row("bitop",                         -4, BITOP,             Forward,                             "2.6.0",        WRITE | DENYOOM),
    row("bitpos",                        -3, READ_1,            Forward,                             "2.8.7",        READONLY),
    row("blmove",                         6, MOVE,              Blocking,                            "6.2.0",        WRITE | DENYOOM | NOSCRIPT | BLOCKING),
    row("blmpop",                        -5, COUNTED_WRITE_2,   Blocking,                            "7.0.0",        WRITE | BLOCKING | MOVABLEKEYS),
    row("blpop",                         -3, WRITE_BUT_LAST,    Blocking,                            "2.0.0",        WRITE | NOSCRIPT | BLOCKING),
    row("brpop",                         -3, WRITE_BUT_LAST,    Blocking,                            "2.0.0",        WRITE | NOSCRIPT | BLOCKING),
    row("brpoplpush",                     4, MOVE,              Blocking,                            "2.2.0",        WRITE | DENYOOM | NOSCRIPT | BLOCKING),
    row("bzmpop",                        -5, COUNTED_WRITE_2,   Blocking,                            "7.0.0",        WRITE | BLOCKING | MOVABLEKEYS),
    row("bzpopmax",                      -3, WRITE_BUT_LAST,    Blocking,                            "5.0.0",        WRITE | NOSCRIPT | BLOCKING | FAST),
    row("bzpopmin",                      -3, WRITE_BUT_LAST,    Blocking,                            "5.0.0",        WRITE | NOSCRIPT | BLOCKING | FAST),
    // An unknown subcommand would change a connection that others share.
    row("client",                        -2, NONE,              Refused,                             "2.4.0",        0).container(),
    row("client|caching",                 3, NONE,              Local(L::ClientCaching),             "6.0.0",        NOSCRIPT | LOADING | STALE),
    row("client|capa",                   -3, NONE,              Local(L::ClientCapa),                "valkey 8.0.0", NOSCRIPT | LOADING | STALE | ALLOW_BUSY),
    row("client|getname",                 2, NONE,              Local(L::ClientGetname),             "2.6.9",        NOSCRIPT | LOADING | STALE),
    row("client|getredir",                2, NONE,              Local(L::ClientGetredir),            "6.0.0",        NOSCRIPT | LOADING | STALE),
    row("client|help",                    2, NONE,              Local(L::Help),                      "5.0.0",        LOADING | STALE),
    row("client|id",                      2, NONE,              Local(L::ClientId),                  "5.0.0",        NOSCRIPT | LOADING | STALE),
    // For tools that fill a server from another.
    row("client|import-source",           3, NONE,              Refused,                             "valkey 8.1.0", NOSCRIPT | LOADING | STALE),
    row("client|info",                    2, NONE,              Local(L::ClientInfo),                "6.2.0",        NOSCRIPT | LOADING | STALE),
    row("client|kill",                   -3, NONE,              Local(L::ClientKill),                "2.4.0",        ADMIN | NOSCRIPT | LOADING | STALE),
    row("client|list",                   -2, NONE,              Local(L::ClientList),                "2.4.0",        ADMIN | NOSCRIPT | LOADING | STALE),
    row("client|no-evict",                3, NONE,              Local(L::ClientNoEvict),             "7.0.0",        ADMIN | NOSCRIPT | LOADING | STALE),
    row("client|no-touch",                3, NONE,              Local(L::ClientNoTouch),             "7.2.0",        NOSCRIPT | LOADING | STALE),
    row("client|pause",                  -3, NONE,              Local(L::ClientPause),               "2.9.50",       ADMIN | NOSCRIPT | LOADING | STALE),
    row("client|reply",                   3, NONE,              Local(L::ClientReply),               "3.2.0",        NOSCRIPT | LOADING | STALE),
    row("client|setinfo",                 4, NONE,              Local(L::ClientSetinfo),             "7.2.0",        NOSCRIPT | LOADING | STALE).asks(Ask::AllNodes, Reply::AllSucceeded),
    row("client|setname",                 3, NONE,              Local(L::ClientSetname),             "2.6.9",        NOSCRIPT | LOADING | STALE).asks(Ask::AllNodes, Reply::AllSucceeded),
    row("client|tracking",               -3, NONE,              Local(L::ClientTracking),            "6.0.0",        NOSCRIPT | LOADING | STALE),
    row("client|trackinginfo",            2, NONE,              Local(L::ClientTrackinginfo),        "6.2.0",        NOSCRIPT | LOADING | STALE),
    row("client|unblock",                -3, NONE,              Local(L::ClientUnblock),             "5.0.0",        ADMIN | NOSCRIPT | LOADING | STALE),
    row("client|unpause",                 2, NONE,              Local(L::ClientUnpause),             "6.2.0",        ADMIN | NOSCRIPT | LOADING | STALE),
    // An unknown subcommand belongs to a node's owner.
    row("cluster",                       -2, NONE,              Refused,                             "3.0.0",        0).container(),
    // The hash tag in its cursor names the slot it goes on in.
    row("clusterscan",                   -2, CHANNEL_1,         Forward,                             "valkey 9.1.0", READONLY).asks(Ask::Special, Reply::Special),
    row("cluster|addslots",              -3, NONE,              Refused,                             "3.0.0",        ADMIN | STALE | NO_ASYNC_LOADING),
    row("cluster|addslotsrange",         -4, NONE,              Refused,                             "7.0.0",        ADMIN | STALE | NO_ASYNC_LOADING),
    row("cluster|bumpepoch",              2, NONE,              Refused,                             "3.0.0",        ADMIN | STALE | NO_ASYNC_LOADING),
    row("cluster|cancelslotmigrations",   2, NONE,              Refused,                             "valkey 9.0.0", ADMIN | STALE | NO_ASYNC_LOADING),
    row("cluster|count-failure-reports",  3, NONE,              ClusterFace(F::CountFailureReports), "3.0.0",        ADMIN | STALE),
    row("cluster|countkeysinslot",        3, NONE,              ClusterFace(F::Countkeysinslot),     "3.0.0",        STALE),
    row("cluster|delslots",              -3, NONE,              Refused,                             "3.0.0",        ADMIN | STALE | NO_ASYNC_LOADING),
    row("cluster|delslotsrange",         -4, NONE,              Refused,                             "7.0.0",        ADMIN | STALE | NO_ASYNC_LOADING),
    row("cluster|failover",              -2, NONE,              Refused,                             "3.0.0",        ADMIN | STALE | NO_ASYNC_LOADING),
    row("cluster|flushslot",             -3, NONE,              Refused,                             "valkey 9.0.0", WRITE | ADMIN | NO_ASYNC_LOADING),
    row("cluster|flushslots",             2, NONE,              Refused,                             "3.0.0",        ADMIN | STALE | NO_ASYNC_LOADING),
    row("cluster|forget",                 3, NONE,              Refused,                             "3.0.0",        ADMIN | STALE | NO_ASYNC_LOADING),
    row("cluster|getkeysinslot",          4, NONE,              ClusterFace(F::Getkeysinslot),       "3.0.0",        STALE),
    row("cluster|getslotmigrations",      2, NONE,              Refused,                             "valkey 9.0.0", ADMIN | STALE | NO_ASYNC_LOADING),
    row("cluster|help",                   2, NONE,              ClusterFace(F::Help),                "5.0.0",        LOADING | STALE),
    row("cluster|info",                   2, NONE,              ClusterFace(F::Info),                "3.0.0",        STALE),
    row("cluster|keyslot",                3, NONE,              ClusterFace(F::Keyslot),             "3.0.0",        STALE),
    row("cluster|links",                  2, NONE,              ClusterFace(F::Links),               "7.0.0",        STALE),
    row("cluster|meet",                  -4, NONE,              Refused,                             "3.0.0",        ADMIN | STALE | NO_ASYNC_LOADING),
    row("cluster|migrateslots",          -4, NONE,              Refused,                             "valkey 9.0.0", ADMIN | STALE | NO_ASYNC_LOADING),
    row("cluster|migration",             -4, NONE,              Refused,                             "8.4.0",        ADMIN | STALE | NO_ASYNC_LOADING),
    row("cluster|myid",                   2, NONE,              ClusterFace(F::Myid),                "3.0.0",        STALE),
    row("cluster|myshardid",              2, NONE,              ClusterFace(F::Myshardid),           "7.2.0",        STALE),
    row("cluster|nodes",                  2, NONE,              ClusterFace(F::Nodes),               "3.0.0",        STALE),
    row("cluster|replicas",               3, NONE,              ClusterFace(F::Replicas),            "5.0.0",        ADMIN | STALE),
    row("cluster|replicate",             -3, NONE,              Refused,                             "3.0.0",        ADMIN | STALE | NO_ASYNC_LOADING),
    row("cluster|reset",                 -2, NONE,              Refused,                             "3.0.0",        ADMIN | NOSCRIPT | STALE),
    row("cluster|saveconfig",             2, NONE,              Refused,                             "3.0.0",        ADMIN | STALE | NO_ASYNC_LOADING),
    row("cluster|set-config-epoch",       3, NONE,              Refused,                             "3.0.0",        ADMIN | STALE | NO_ASYNC_LOADING),
    row("cluster|setslot",               -4, NONE,              Refused,                             "3.0.0",        ADMIN | STALE | NO_ASYNC_LOADING),
    row("cluster|shards",                 2, NONE,              ClusterFace(F::Shards),              "7.0.0",        STALE),
    row("cluster|slaves",                 3, NONE,              ClusterFace(F::Replicas),            "3.0.0",        ADMIN | STALE),
    row("cluster|slot-stats",            -4, NONE,              Gather(G::Policy),                   "8.2.0",        LOADING | STALE).asks(Ask::AllShards, Reply::Default),
    row("cluster|slots",                  2, NONE,              ClusterFace(F::Slots),               "3.0.0",        STALE),
    row("cluster|syncslots",             -3, NONE,              Refused,                             "valkey 9.0.0", ADMIN | STALE | NO_ASYNC_LOADING),
    row("command",                       -1, NONE,              Local(L::Command),                   "2.8.13",       LOADING | STALE).container(),
    row("commandlog",                    -2, NONE,              Forward,                             "valkey 8.1.0", 0).container(),
    row("commandlog|get",                 4, NONE,              Gather(G::Slowlog),                  "valkey 8.1.0", ADMIN | LOADING | STALE).asks(Ask::AllNodes, Reply::Default),
    row("commandlog|help",                2, NONE,              Forward,                             "valkey 8.1.0", LOADING | STALE),
    row("commandlog|len",                 3, NONE,              Gather(G::Policy),                   "valkey 8.1.0", ADMIN | LOADING | STALE).asks(Ask::AllNodes, Reply::AggSum),
    row("commandlog|reset",               3, NONE,              Gather(G::Policy),                   "valkey 8.1.0", ADMIN | LOADING | STALE).asks(Ask::AllNodes, Reply::AllSucceeded),
    row("command|count",                  2, NONE,              Local(L::CommandCount),              "2.8.13",       LOADING | STALE),
    row("command|docs",                  -2, NONE,              Local(L::CommandDocs),               "7.0.0",        LOADING | STALE),
    row("command|getkeys",               -3, NONE,              Local(L::CommandGetkeys),            "2.8.13",       LOADING | STALE),
    row("command|getkeysandflags",       -3, NONE,              Local(L::CommandGetkeysandflags),    "7.0.0",        LOADING | STALE),
    row("command|help",                   2, NONE,              Local(L::Help),                      "5.0.0",        LOADING | STALE),
    row("command|info",                  -2, NONE,              Local(L::CommandInfo),               "2.8.13",       LOADING | STALE),
    row("command|list",                  -2, NONE,              Local(L::CommandList),               "7.0.0",        LOADING | STALE),
    row("config",                        -2, NONE,              Forward,                             "2.0.0",        0).container(),
    row("config|get",                    -3, NONE,              Local(L::ConfigGet),                 "2.0.0",        ADMIN | NOSCRIPT | LOADING | STALE),
    row("config|help",                    2, NONE,              Forward,                             "5.0.0",        LOADING | STALE),
    row("config|resetstat",               2, NONE,              Gather(G::Policy),                   "2.0.0",        ADMIN | NOSCRIPT | LOADING | STALE).asks(Ask::AllNodes, Reply::AllSucceeded),
    row("config|rewrite",                 2, NONE,              Gather(G::Policy),                   "2.8.0",        ADMIN | NOSCRIPT | LOADING | STALE).asks(Ask::AllNodes, Reply::AllSucceeded),
    row("config|set",                    -4, NONE,              Gather(G::Policy),                   "2.0.0",        ADMIN | NOSCRIPT | LOADING | STALE).asks(Ask::AllNodes, Reply::AllSucceeded),
    row("copy",                          -3, COPY,              Forward,                             "6.2.0",        WRITE | DENYOOM),
    row("dbsize",                         1, NONE,              Gather(G::Policy),                   "1.0.0",        READONLY | FAST).asks(Ask::AllShards, Reply::AggSum),
    // Keyed for OBJECT and a few others, otherwise any node.
    // SLEEP keeps its node, and with it its connection, from answering.
    row("debug",                         -2, NONE,              Blocking,                            "1.0.0",        ADMIN | NOSCRIPT | LOADING | STALE).by_hand(KeyShape::Debug),
    row("decr",                           2, WRITE_1,           Forward,                             "1.0.0",        WRITE | DENYOOM | FAST),
    row("decrby",                         3, WRITE_1,           Forward,                             "1.0.0",        WRITE | DENYOOM | FAST),
    row("del",                           -2, WRITE_ALL,         Split,                               "1.0.0",        WRITE).asks(Ask::MultiShard, Reply::AggSum),
    row("delex",                         -2, WRITE_1,           Forward,                             "8.4.0",        WRITE | FAST),
    row("delifeq",                        3, WRITE_1,           Forward,                             "valkey 9.0.0", WRITE | FAST),
    row("digest",                         2, READ_1,            Forward,                             "8.4.0",        READONLY | FAST),
    row("discard",                        1, NONE,              Transaction(T::Discard),             "2.0.0",        NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY),
    row("dump",                           2, READ_1,            Forward,                             "2.6.0",        READONLY),
    row("echo",                           2, NONE,              Local(L::Echo),                      "1.0.0",        LOADING | STALE | FAST),
    row("eval",                          -3, COUNTED_WRITE_2,   Script,                              "2.6.0",        NOSCRIPT | STALE | SKIP_MONITOR | NO_MANDATORY_KEYS | MOVABLEKEYS),
    row("eval_ro",                       -3, COUNTED_READ_2,    Script,                              "7.0.0",        READONLY | NOSCRIPT | STALE | SKIP_MONITOR | NO_MANDATORY_KEYS | MOVABLEKEYS),
    row("evalsha",                       -3, COUNTED_WRITE_2,   Script,                              "2.6.0",        NOSCRIPT | STALE | SKIP_MONITOR | NO_MANDATORY_KEYS | MOVABLEKEYS),
    row("evalsha_ro",                    -3, COUNTED_READ_2,    Script,                              "7.0.0",        READONLY | NOSCRIPT | STALE | SKIP_MONITOR | NO_MANDATORY_KEYS | MOVABLEKEYS),
    row("exec",                           1, NONE,              Transaction(T::Exec),                "1.2.0",        NOSCRIPT | LOADING | STALE | SKIP_SLOWLOG),
    row("exists",                        -2, READ_ALL,          Split,                               "1.0.0",        READONLY | FAST).asks(Ask::MultiShard, Reply::AggSum),
    row("expire",                        -3, WRITE_1,           Forward,                             "1.0.0",        WRITE | FAST),
    row("expireat",                      -3, WRITE_1,           Forward,                             "1.2.0",        WRITE | FAST),
    row("expiretime",                     2, READ_1,            Forward,                             "7.0.0",        READONLY | FAST),
    row("failover",                      -1, NONE,              Refused,                             "6.2.0",        ADMIN | NOSCRIPT | STALE),
    row("fcall",                         -3, COUNTED_WRITE_2,   Forward,                             "7.0.0",        NOSCRIPT | STALE | SKIP_MONITOR | NO_MANDATORY_KEYS | MOVABLEKEYS),
    row("fcall_ro",                      -3, COUNTED_READ_2,    Forward,                             "7.0.0",        READONLY | NOSCRIPT | STALE | SKIP_MONITOR | NO_MANDATORY_KEYS | MOVABLEKEYS),
    row("flushall",                      -1, NONE,              Gather(G::Policy),                   "1.0.0",        WRITE).asks(Ask::AllShards, Reply::AllSucceeded),
    row("flushdb",                       -1, NONE,              Gather(G::Policy),                   "1.0.0",        WRITE).asks(Ask::AllShards, Reply::AllSucceeded),
    row("function",                      -2, NONE,              Forward,                             "7.0.0",        0).container(),
    row("function|delete",                3, NONE,              Gather(G::Policy),                   "7.0.0",        WRITE | NOSCRIPT).asks(Ask::AllShards, Reply::AllSucceeded),
    row("function|dump",                  2, NONE,              Forward,                             "7.0.0",        NOSCRIPT),
    row("function|flush",                -2, NONE,              Gather(G::Policy),                   "7.0.0",        WRITE | NOSCRIPT).asks(Ask::AllShards, Reply::AllSucceeded),
    row("function|help",                  2, NONE,              Forward,                             "7.0.0",        LOADING | STALE),
    row("function|kill",                  2, NONE,              Gather(G::Policy),                   "7.0.0",        NOSCRIPT | ALLOW_BUSY).asks(Ask::AllShards, Reply::OneSucceeded),
    row("function|list",                 -2, NONE,              Forward,                             "7.0.0",        NOSCRIPT),
    row("function|load",                 -3, NONE,              Gather(G::Policy),                   "7.0.0",        WRITE | DENYOOM | NOSCRIPT).asks(Ask::AllShards, Reply::AllSucceeded),
    row("function|restore",              -3, NONE,              Gather(G::Policy),                   "7.0.0",        WRITE | DENYOOM | NOSCRIPT).asks(Ask::AllShards, Reply::AllSucceeded),
    // One node's view: what runs differs from node to node.
    row("function|stats",                 2, NONE,              Forward,                             "7.0.0",        NOSCRIPT | ALLOW_BUSY).asks(Ask::AllShards, Reply::Special),
    row("geoadd",                        -5, WRITE_1,           Forward,                             "3.2.0",        WRITE | DENYOOM),
    row("geodist",                       -4, READ_1,            Forward,                             "3.2.0",        READONLY),
    row("geohash",                       -2, READ_1,            Forward,                             "3.2.0",        READONLY),
    row("geopos",                        -2, READ_1,            Forward,                             "3.2.0",        READONLY),
    row("georadius",                     -6, GEORADIUS,         Forward,                             "3.2.0",        WRITE | DENYOOM | MOVABLEKEYS).by_hand(KeyShape::Georadius(6)),
    row("georadius_ro",                  -6, READ_1,            Forward,                             "3.2.10",       READONLY),
    row("georadiusbymember",             -5, GEORADIUSBYMEMBER, Forward,                             "3.2.0",        WRITE | DENYOOM | MOVABLEKEYS).by_hand(KeyShape::Georadius(5)),
    row("georadiusbymember_ro",          -5, READ_1,            Forward,                             "3.2.10",       READONLY),
    row("geosearch",                     -7, READ_1,            Forward,                             "6.2.0",        READONLY),
    row("geosearchstore",                -8, STORE,             Forward,                             "6.2.0",        WRITE | DENYOOM),
    row("get",                            2, READ_1,            Forward,                             "1.0.0",        READONLY | FAST),
    row("getbit",                         3, READ_1,            Forward,                             "2.2.0",        READONLY | FAST),
    row("getdel",                         2, WRITE_1,           Forward,                             "6.2.0",        WRITE | FAST),
    row("getex",                         -2, WRITE_1,           Forward,                             "6.2.0",        WRITE | FAST),
    row("getrange",                       4, READ_1,            Forward,                             "2.4.0",        READONLY),
    row("getset",                         3, WRITE_1,           Forward,                             "1.0.0",        WRITE | DENYOOM | FAST),
    row("hdel",                          -3, WRITE_1,           Forward,                             "2.0.0",        WRITE | FAST),
    row("hello",                         -1, NONE,              Local(L::Hello),                     "6.0.0",        NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY),
    row("hexists",                        3, READ_1,            Forward,                             "2.0.0",        READONLY | FAST),
    row("hexpire",                       -6, WRITE_1,           Forward,                             "7.4.0",        WRITE | FAST),
    row("hexpireat",                     -6, WRITE_1,           Forward,                             "7.4.0",        WRITE | FAST),
    row("hexpiretime",                   -5, READ_1,            Forward,                             "7.4.0",        READONLY | FAST),
    row("hget",                           3, READ_1,            Forward,                             "2.0.0",        READONLY | FAST),
    row("hgetall",                        2, READ_1,            Forward,                             "2.0.0",        READONLY),
    row("hgetdel",                       -5, WRITE_1,           Forward,                             "8.0.0",        WRITE | FAST),
    row("hgetex",                        -5, WRITE_1,           Forward,                             "8.0.0",        WRITE | FAST),
    row("hincrby",                        4, WRITE_1,           Forward,                             "2.0.0",        WRITE | DENYOOM | FAST),
    row("hincrbyfloat",                   4, WRITE_1,           Forward,                             "2.6.0",        WRITE | DENYOOM | FAST),
    row("hkeys",                          2, READ_1,            Forward,                             "2.0.0",        READONLY),
    row("hlen",                           2, READ_1,            Forward,                             "2.0.0",        READONLY | FAST),
    row("hmget",                         -3, READ_1,            Forward,                             "2.0.0",        READONLY | FAST),
    row("hmset",                         -4, WRITE_1,           Forward,                             "2.0.0",        WRITE | DENYOOM | FAST),
    row("hotkeys",                       -2, NONE,              Forward,                             "8.6.0",        0).container(),
    // Redis says special: a node at a time.
    row("hotkeys|get",                    2, NONE,              Gather(G::Policy),                   "8.6.0",        ADMIN | NOSCRIPT).asks(Ask::AllShards, Reply::Default),
    row("hotkeys|help",                   2, NONE,              Forward,                             "8.6.1",        LOADING | STALE),
    // Redis says special: a node at a time.
    row("hotkeys|reset",                  2, NONE,              Gather(G::Policy),                   "8.6.0",        ADMIN | NOSCRIPT).asks(Ask::AllShards, Reply::AllSucceeded),
    // Redis says special: a node at a time.
    row("hotkeys|start",                 -2, NONE,              Gather(G::Policy),                   "8.6.0",        ADMIN | NOSCRIPT).asks(Ask::AllShards, Reply::AllSucceeded),
    // Redis says special: a node at a time.
    row("hotkeys|stop",                   2, NONE,              Gather(G::Policy),                   "8.6.0",        ADMIN | NOSCRIPT).asks(Ask::AllShards, Reply::AllSucceeded),
    row("hpersist",                      -5, WRITE_1,           Forward,                             "7.4.0",        WRITE | FAST),
    row("hpexpire",                      -6, WRITE_1,           Forward,                             "7.4.0",        WRITE | FAST),
    row("hpexpireat",                    -6, WRITE_1,           Forward,                             "7.4.0",        WRITE | FAST),
    row("hpexpiretime",                  -5, READ_1,            Forward,                             "7.4.0",        READONLY | FAST),
    row("hpttl",                         -5, READ_1,            Forward,                             "7.4.0",        READONLY | FAST),
    row("hrandfield",                    -2, READ_1,            Forward,                             "6.2.0",        READONLY),
    row("hscan",                         -3, READ_1,            Forward,                             "2.8.0",        READONLY),
    row("hset",                          -4, WRITE_1,           Forward,                             "2.0.0",        WRITE | DENYOOM | FAST),
    row("hsetex",                        -6, WRITE_1,           Forward,                             "8.0.0",        WRITE | DENYOOM | FAST),
    row("hsetnx",                         4, WRITE_1,           Forward,                             "2.0.0",        WRITE | DENYOOM | FAST),
    row("hstrlen",                        3, READ_1,            Forward,                             "3.2.0",        READONLY | FAST),
    row("httl",                          -5, READ_1,            Forward,                             "7.4.0",        READONLY | FAST),
    row("hvals",                          2, READ_1,            Forward,                             "2.0.0",        READONLY),
    row("incr",                           2, WRITE_1,           Forward,                             "1.0.0",        WRITE | DENYOOM | FAST),
    row("incrby",                         3, WRITE_1,           Forward,                             "1.0.0",        WRITE | DENYOOM | FAST),
    row("incrbyfloat",                    3, WRITE_1,           Forward,                             "2.6.0",        WRITE | DENYOOM | FAST),
    row("info",                          -1, NONE,              Gather(G::Info),                     "1.0.0",        LOADING | STALE).asks(Ask::AllShards, Reply::Special),
    row("keys",                           2, NONE,              Gather(G::Keys),                     "1.0.0",        READONLY).asks(Ask::AllShards, Reply::Default),
    row("lastsave",                       1, NONE,              Gather(G::Lastsave),                 "1.0.0",        LOADING | STALE | FAST),
    row("latency",                       -2, NONE,              Forward,                             "2.8.13",       0).container(),
    row("latency|doctor",                 2, NONE,              Gather(G::Latency),                  "2.8.13",       ADMIN | NOSCRIPT | LOADING | STALE).asks(Ask::AllNodes, Reply::Special),
    row("latency|graph",                  3, NONE,              Gather(G::Latency),                  "2.8.13",       ADMIN | NOSCRIPT | LOADING | STALE).asks(Ask::AllNodes, Reply::Special),
    row("latency|help",                   2, NONE,              Forward,                             "2.8.13",       LOADING | STALE),
    row("latency|histogram",             -2, NONE,              Gather(G::Latency),                  "7.0.0",        ADMIN | NOSCRIPT | LOADING | STALE).asks(Ask::AllNodes, Reply::Special),
    row("latency|history",                3, NONE,              Gather(G::Latency),                  "2.8.13",       ADMIN | NOSCRIPT | LOADING | STALE).asks(Ask::AllNodes, Reply::Special),
    row("latency|latest",                 2, NONE,              Gather(G::Latency),                  "2.8.13",       ADMIN | NOSCRIPT | LOADING | STALE).asks(Ask::AllNodes, Reply::Special),
    row("latency|reset",                 -2, NONE,              Gather(G::Policy),                   "2.8.13",       ADMIN | NOSCRIPT | LOADING | STALE).asks(Ask::AllNodes, Reply::AggSum),
    row("lcs",                           -3, READ_1_AND_2,      Forward,                             "7.0.0",        READONLY),
    row("lindex",                         3, READ_1,            Forward,                             "1.0.0",        READONLY),
    row("linsert",                        5, WRITE_1,           Forward,                             "2.2.0",        WRITE | DENYOOM),
    row("llen",                           2, READ_1,            Forward,                             "1.0.0",        READONLY | FAST),
    row("lmove",                          5, MOVE,              Forward,                             "6.2.0",        WRITE | DENYOOM),
    row("lmpop",                         -4, COUNTED_WRITE_1,   Forward,                             "7.0.0",        WRITE | MOVABLEKEYS),
    row("lolwut",                        -1, NONE,              Local(L::Lolwut),                    "5.0.0",        READONLY | FAST),
    row("lpop",                          -2, WRITE_1,           Forward,                             "1.0.0",        WRITE | FAST),
    row("lpos",                          -3, READ_1,            Forward,                             "6.0.6",        READONLY),
    row("lpush",                         -3, WRITE_1,           Forward,                             "1.0.0",        WRITE | DENYOOM | FAST),
    row("lpushx",                        -3, WRITE_1,           Forward,                             "2.2.0",        WRITE | DENYOOM | FAST),
    row("lrange",                         4, READ_1,            Forward,                             "1.0.0",        READONLY),
    row("lrem",                           4, WRITE_1,           Forward,                             "1.0.0",        WRITE),
    row("lset",                           4, WRITE_1,           Forward,                             "1.0.0",        WRITE | DENYOOM),
    row("ltrim",                          4, WRITE_1,           Forward,                             "1.0.0",        WRITE),
    row("memory",                        -2, NONE,              Forward,                             "4.0.0",        0).container(),
    row("memory|doctor",                  2, NONE,              Gather(G::Memory),                   "4.0.0",        0).asks(Ask::AllShards, Reply::Special),
    row("memory|help",                    2, NONE,              Forward,                             "4.0.0",        LOADING | STALE),
    row("memory|malloc-stats",            2, NONE,              Gather(G::Memory),                   "4.0.0",        0).asks(Ask::AllShards, Reply::Special),
    row("memory|purge",                   2, NONE,              Gather(G::Policy),                   "4.0.0",        0).asks(Ask::AllShards, Reply::AllSucceeded),
    row("memory|stats",                   2, NONE,              Gather(G::Memory),                   "4.0.0",        0).asks(Ask::AllShards, Reply::Special),
    row("memory|usage",                  -3, READ_2,            Forward,                             "4.0.0",        READONLY),
    row("mget",                          -2, READ_ALL,          Split,                               "1.0.0",        READONLY | FAST).asks(Ask::MultiShard, Reply::Default),
    row("migrate",                       -6, MIGRATE,           Refused,                             "2.6.0",        WRITE | MOVABLEKEYS).by_hand(KeyShape::Migrate),
    row("module",                        -2, NONE,              Forward,                             "4.0.0",        0).container(),
    row("module|help",                    2, NONE,              Forward,                             "5.0.0",        LOADING | STALE),
    // Nodes of one cluster have the same modules.
    row("module|list",                    2, NONE,              Forward,                             "4.0.0",        ADMIN | NOSCRIPT),
    row("module|load",                   -3, NONE,              Refused,                             "4.0.0",        ADMIN | NOSCRIPT | NO_ASYNC_LOADING),
    row("module|loadex",                 -3, NONE,              Refused,                             "7.0.0",        ADMIN | NOSCRIPT | NO_ASYNC_LOADING),
    row("module|unload",                  3, NONE,              Refused,                             "4.0.0",        ADMIN | NOSCRIPT | NO_ASYNC_LOADING),
    row("monitor",                        1, NONE,              Local(L::Monitor),                   "1.0.0",        ADMIN | NOSCRIPT | LOADING | STALE),
    row("move",                           3, WRITE_1,           Forward,                             "1.0.0",        WRITE | FAST),
    row("mset",                          -3, WRITE_PAIRS,       Split,                               "1.0.1",        WRITE | DENYOOM).asks(Ask::MultiShard, Reply::AllSucceeded),
    // Multi_shard by policy, but atomic by contract: never split.
    row("msetex",                        -4, COUNTED_PAIRS,     Forward,                             "8.4.0",        WRITE | DENYOOM | MOVABLEKEYS).asks(Ask::MultiShard, Reply::AllSucceeded),
    row("msetnx",                        -3, WRITE_PAIRS,       Forward,                             "1.0.1",        WRITE | DENYOOM),
    row("multi",                          1, NONE,              Transaction(T::Multi),               "1.2.0",        NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY),
    row("object",                        -2, NONE,              Forward,                             "2.2.3",        0).container(),
    row("object|encoding",                3, READ_2,            Forward,                             "2.2.3",        READONLY),
    row("object|freq",                    3, READ_2,            Forward,                             "4.0.0",        READONLY),
    row("object|help",                    2, NONE,              Forward,                             "6.2.0",        LOADING | STALE),
    row("object|idletime",                3, READ_2,            Forward,                             "2.2.3",        READONLY),
    row("object|refcount",                3, READ_2,            Forward,                             "2.2.3",        READONLY),
    row("persist",                        2, WRITE_1,           Forward,                             "2.2.0",        WRITE | FAST),
    row("pexpire",                       -3, WRITE_1,           Forward,                             "2.6.0",        WRITE | FAST),
    row("pexpireat",                     -3, WRITE_1,           Forward,                             "2.6.0",        WRITE | FAST),
    row("pexpiretime",                    2, READ_1,            Forward,                             "7.0.0",        READONLY | FAST),
    row("pfadd",                         -2, WRITE_1,           Forward,                             "2.8.9",        WRITE | DENYOOM | FAST),
    row("pfcount",                       -2, WRITE_ALL,         Forward,                             "2.8.9",        READONLY),
    row("pfdebug",                        3, WRITE_2,           Forward,                             "2.8.9",        WRITE | DENYOOM | ADMIN),
    row("pfmerge",                       -2, STORE_ALL,         Forward,                             "2.8.9",        WRITE | DENYOOM),
    row("pfselftest",                     1, NONE,              Forward,                             "2.8.9",        ADMIN),
    // Answered here: the policy is for a client that asks every shard.
    row("ping",                          -1, NONE,              Local(L::Ping),                      "1.0.0",        FAST).asks(Ask::AllShards, Reply::AllSucceeded),
    row("psetex",                         4, WRITE_1,           Forward,                             "2.6.0",        WRITE | DENYOOM),
    row("psubscribe",                    -2, NONE,              Subscribe(S::Psubscribe),            "2.0.0",        PUBSUB | NOSCRIPT | LOADING | STALE),
    row("psync",                         -3, NONE,              Refused,                             "2.8.0",        ADMIN | NOSCRIPT | NO_ASYNC_LOADING | NO_MULTI),
    row("pttl",                           2, READ_1,            Forward,                             "2.6.0",        READONLY | FAST),
    row("publish",                        3, NONE,              Publish,                             "2.0.0",        PUBSUB | LOADING | STALE | FAST),
    row("pubsub",                        -2, NONE,              Forward,                             "2.8.0",        0).container(),
    row("pubsub|channels",               -2, NONE,              Gather(G::PubsubChannels),           "2.8.0",        PUBSUB | LOADING | STALE),
    row("pubsub|help",                    2, NONE,              Forward,                             "6.2.0",        LOADING | STALE),
    // No policy in Redis; each node knows its own clients.
    row("pubsub|numpat",                  2, NONE,              Gather(G::Policy),                   "2.8.0",        PUBSUB | LOADING | STALE).asks(Ask::AllShards, Reply::AggSum),
    row("pubsub|numsub",                 -2, NONE,              Gather(G::PubsubNumsub),             "2.8.0",        PUBSUB | LOADING | STALE),
    row("pubsub|shardchannels",          -2, NONE,              Gather(G::PubsubChannels),           "7.0.0",        PUBSUB | LOADING | STALE),
    row("pubsub|shardnumsub",            -2, NONE,              Gather(G::PubsubShardnumsub),        "7.0.0",        PUBSUB | LOADING | STALE),
    row("punsubscribe",                  -1, NONE,              Subscribe(S::Punsubscribe),          "2.0.0",        PUBSUB | NOSCRIPT | LOADING | STALE),
    row("quit",                          -1, NONE,              Local(L::Quit),                      "1.0.0",        NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY),
    row("randomkey",                      1, NONE,              Gather(G::Randomkey),                "1.0.0",        READONLY).asks(Ask::AllShards, Reply::Special),
    row("readonly",                       1, NONE,              Local(L::Readonly),                  "3.0.0",        LOADING | STALE | FAST),
    row("readwrite",                      1, NONE,              Local(L::Readwrite),                 "3.0.0",        LOADING | STALE | FAST),
    row("rename",                         3, MOVE,              Forward,                             "1.0.0",        WRITE),
    row("renamenx",                       3, MOVE,              Forward,                             "1.0.0",        WRITE | FAST),
    row("replconf",                      -1, NONE,              Refused,                             "3.0.0",        ADMIN | NOSCRIPT | LOADING | STALE | ALLOW_BUSY),
    row("replicaof",                      3, NONE,              Refused,                             "5.0.0",        ADMIN | NOSCRIPT | STALE | NO_ASYNC_LOADING),
    row("reset",                          1, NONE,              Local(L::Reset),                     "6.2.0",        NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY),
    row("restore",                       -4, WRITE_1,           Forward,                             "2.6.0",        WRITE | DENYOOM),
    row("restore-asking",                -4, WRITE_1,           Refused,                             "3.0.0",        WRITE | DENYOOM | ASKING),
    row("role",                           1, NONE,              Local(L::Role),                      "2.8.12",       NOSCRIPT | LOADING | STALE | FAST),
    row("rpop",                          -2, WRITE_1,           Forward,                             "1.0.0",        WRITE | FAST),
    row("rpoplpush",                      3, MOVE,              Forward,                             "1.2.0",        WRITE | DENYOOM),
    row("rpush",                         -3, WRITE_1,           Forward,                             "1.0.0",        WRITE | DENYOOM | FAST),
    row("rpushx",                        -3, WRITE_1,           Forward,                             "2.2.0",        WRITE | DENYOOM | FAST),
    row("sadd",                          -3, WRITE_1,           Forward,                             "1.0.0",        WRITE | DENYOOM | FAST),
    // No policy in Redis: an operator asks each node.
    row("save",                           1, NONE,              Gather(G::Policy),                   "1.0.0",        ADMIN | NOSCRIPT | NO_ASYNC_LOADING | NO_MULTI).asks(Ask::AllShards, Reply::AllSucceeded),
    row("scan",                          -2, NONE,              Scan,                                "2.8.0",        READONLY).asks(Ask::Special, Reply::Special),
    row("scard",                          2, READ_1,            Forward,                             "1.0.0",        READONLY | FAST),
    row("script",                        -2, NONE,              Forward,                             "2.6.0",        0).container(),
    // Puts the whole connection into a debugger.
    row("script|debug",                  -3, NONE,              Refused,                             "3.2.0",        NOSCRIPT),
    row("script|exists",                 -3, NONE,              Gather(G::Policy),                   "2.6.0",        NOSCRIPT).asks(Ask::AllShards, Reply::AggLogicalAnd),
    row("script|flush",                  -2, NONE,              Gather(G::Policy),                   "2.6.0",        NOSCRIPT).asks(Ask::AllNodes, Reply::AllSucceeded),
    row("script|help",                    2, NONE,              Forward,                             "5.0.0",        LOADING | STALE),
    row("script|kill",                    2, NONE,              Gather(G::Policy),                   "2.6.0",        NOSCRIPT | ALLOW_BUSY).asks(Ask::AllShards, Reply::OneSucceeded),
    row("script|load",                    3, NONE,              Gather(G::ScriptLoad),               "2.6.0",        NOSCRIPT | STALE).asks(Ask::AllNodes, Reply::AllSucceeded),
    row("script|show",                    3, NONE,              Forward,                             "valkey 8.0.0", NOSCRIPT | STALE),
    row("sdiff",                         -2, READ_ALL,          Forward,                             "1.0.0",        READONLY),
    row("sdiffstore",                    -3, STORE_ALL,         Forward,                             "1.0.0",        WRITE | DENYOOM),
    row("select",                         2, NONE,              Local(L::Select),                    "1.0.0",        LOADING | STALE | FAST),
    row("set",                           -3, WRITE_1,           Forward,                             "1.0.0",        WRITE | DENYOOM),
    row("setbit",                         4, WRITE_1,           Forward,                             "2.2.0",        WRITE | DENYOOM),
    row("setex",                          4, WRITE_1,           Forward,                             "2.0.0",        WRITE | DENYOOM),
    row("setnx",                          3, WRITE_1,           Forward,                             "1.0.0",        WRITE | DENYOOM | FAST),
    row("setrange",                       4, WRITE_1,           Forward,                             "2.2.0",        WRITE | DENYOOM),
    row("shutdown",                      -1, NONE,              Refused,                             "1.0.0",        ADMIN | NOSCRIPT | LOADING | STALE | NO_MULTI | ALLOW_BUSY),
    row("sinter",                        -2, READ_ALL,          Forward,                             "1.0.0",        READONLY),
    row("sintercard",                    -3, COUNTED_READ_1,    Forward,                             "7.0.0",        READONLY | MOVABLEKEYS),
    row("sinterstore",                   -3, STORE_ALL,         Forward,                             "1.0.0",        WRITE | DENYOOM),
    row("sismember",                      3, READ_1,            Forward,                             "1.0.0",        READONLY | FAST),
    row("slaveof",                        3, NONE,              Refused,                             "1.0.0",        ADMIN | NOSCRIPT | STALE | NO_ASYNC_LOADING),
    row("slowlog",                       -2, NONE,              Forward,                             "2.2.12",       0).container(),
    row("slowlog|get",                   -2, NONE,              Gather(G::Slowlog),                  "2.2.12",       ADMIN | LOADING | STALE).asks(Ask::AllNodes, Reply::Default),
    row("slowlog|help",                   2, NONE,              Forward,                             "6.2.0",        LOADING | STALE),
    row("slowlog|len",                    2, NONE,              Gather(G::Policy),                   "2.2.12",       ADMIN | LOADING | STALE).asks(Ask::AllNodes, Reply::AggSum),
    row("slowlog|reset",                  2, NONE,              Gather(G::Policy),                   "2.2.12",       ADMIN | LOADING | STALE).asks(Ask::AllNodes, Reply::AllSucceeded),
    row("smembers",                       2, READ_1,            Forward,                             "1.0.0",        READONLY),
    row("smismember",                    -3, READ_1,            Forward,                             "6.2.0",        READONLY | FAST),
    row("smove",                          4, MOVE,              Forward,                             "1.0.0",        WRITE | FAST),
    row("sort",                          -2, SORT,              Forward,                             "1.0.0",        WRITE | DENYOOM | MOVABLEKEYS).by_hand(KeyShape::Sort),
    row("sort_ro",                       -2, SORT_RO,           Forward,                             "7.0.0",        READONLY | MOVABLEKEYS),
    row("spop",                          -2, WRITE_1,           Forward,                             "1.0.0",        WRITE | FAST),
    row("spublish",                       3, CHANNEL_1,         Publish,                             "7.0.0",        PUBSUB | LOADING | STALE | FAST),
    row("srandmember",                   -2, READ_1,            Forward,                             "1.0.0",        READONLY),
    row("srem",                          -3, WRITE_1,           Forward,                             "1.0.0",        WRITE | FAST),
    row("sscan",                         -3, READ_1,            Forward,                             "2.8.0",        READONLY),
    row("ssubscribe",                    -2, CHANNELS,          Subscribe(S::Ssubscribe),            "7.0.0",        PUBSUB | NOSCRIPT | LOADING | STALE),
    row("strlen",                         2, READ_1,            Forward,                             "2.2.0",        READONLY | FAST),
    row("subscribe",                     -2, NONE,              Subscribe(S::Subscribe),             "2.0.0",        PUBSUB | NOSCRIPT | LOADING | STALE),
    row("substr",                         4, READ_1,            Forward,                             "1.0.0",        READONLY),
    row("sunion",                        -2, READ_ALL,          Forward,                             "1.0.0",        READONLY),
    row("sunionstore",                   -3, STORE_ALL,         Forward,                             "1.0.0",        WRITE | DENYOOM),
    row("sunsubscribe",                  -1, CHANNELS,          Subscribe(S::Sunsubscribe),          "7.0.0",        PUBSUB | NOSCRIPT | LOADING | STALE),
    // A cluster has one database.
    row("swapdb",                         3, NONE,              OneServer,                           "4.0.0",        WRITE | FAST),
    row("sync",                           1, NONE,              Refused,                             "1.0.0",        ADMIN | NOSCRIPT | NO_ASYNC_LOADING | NO_MULTI),
    row("time",                           1, NONE,              Local(L::Time),                      "2.6.0",        LOADING | STALE | FAST),
    row("touch",                         -2, READ_ALL,          Split,                               "3.2.1",        READONLY | FAST).asks(Ask::MultiShard, Reply::AggSum),
    // Sent by a node to itself and its replicas.
    row("trimslots",                     -5, NONE,              Refused,                             "8.4.0",        WRITE),
    row("ttl",                            2, READ_1,            Forward,                             "1.0.0",        READONLY | FAST),
    row("type",                           2, READ_1,            Forward,                             "1.0.0",        READONLY | FAST),
    row("unlink",                        -2, WRITE_ALL,         Split,                               "4.0.0",        WRITE | FAST).asks(Ask::MultiShard, Reply::AggSum),
    row("unsubscribe",                   -1, NONE,              Subscribe(S::Unsubscribe),           "2.0.0",        PUBSUB | NOSCRIPT | LOADING | STALE),
    row("unwatch",                        1, NONE,              Transaction(T::Unwatch),             "2.2.0",        NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY),
    // The vector set commands are a module's: arity -1 means the module checks it.
    row("vadd",                          -1, WRITE_1,           Forward,                             "8.0.0",        WRITE | DENYOOM),
    row("vcard",                         -1, READ_1,            Forward,                             "8.0.0",        READONLY | FAST),
    row("vdim",                          -1, READ_1,            Forward,                             "8.0.0",        READONLY | FAST),
    row("vemb",                          -1, READ_1,            Forward,                             "8.0.0",        READONLY | FAST),
    row("vgetattr",                      -1, READ_1,            Forward,                             "8.0.0",        READONLY | FAST),
    row("vinfo",                         -1, READ_1,            Forward,                             "8.0.0",        READONLY | FAST),
    row("vismember",                     -1, READ_1,            Forward,                             "8.0.0",        READONLY),
    row("vlinks",                        -1, READ_1,            Forward,                             "8.0.0",        READONLY | FAST),
    row("vrandmember",                   -1, READ_1,            Forward,                             "8.0.0",        READONLY),
    row("vrange",                        -1, READ_1,            Forward,                             "8.4.0",        READONLY),
    row("vrem",                          -1, WRITE_1,           Forward,                             "8.0.0",        WRITE),
    row("vsetattr",                      -1, WRITE_1,           Forward,                             "8.0.0",        WRITE | FAST),
    row("vsim",                          -1, READ_1,            Forward,                             "8.0.0",        READONLY),
    row("wait",                           3, NONE,              Gather(G::Policy),                   "3.0.0",        NOSCRIPT).asks(Ask::AllShards, Reply::AggMin),
    row("waitaof",                        4, NONE,              Gather(G::Policy),                   "7.2.0",        BLOCKING).asks(Ask::AllShards, Reply::AggMin),
    row("watch",                         -2, READ_ALL,          Transaction(T::Watch),               "2.2.0",        NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY),
    row("xack",                          -4, WRITE_1,           Forward,                             "5.0.0",        WRITE | FAST),
    row("xackdel",                       -6, WRITE_1,           Forward,                             "8.2.0",        WRITE | FAST),
    row("xadd",                          -5, WRITE_1,           Forward,                             "5.0.0",        WRITE | DENYOOM | FAST),
    row("xautoclaim",                    -6, WRITE_1,           Forward,                             "6.2.0",        WRITE | FAST),
    row("xcfgset",                       -2, WRITE_1,           Forward,                             "8.6.0",        WRITE | FAST),
    row("xclaim",                        -6, WRITE_1,           Forward,                             "5.0.0",        WRITE | FAST),
    row("xdel",                          -3, WRITE_1,           Forward,                             "5.0.0",        WRITE | FAST),
    row("xdelex",                        -5, WRITE_1,           Forward,                             "8.2.0",        WRITE | FAST),
    row("xgroup",                        -2, NONE,              Forward,                             "5.0.0",        0).container(),
    row("xgroup|create",                 -5, WRITE_2,           Forward,                             "5.0.0",        WRITE | DENYOOM),
    row("xgroup|createconsumer",          5, WRITE_2,           Forward,                             "6.2.0",        WRITE | DENYOOM),
    row("xgroup|delconsumer",             5, WRITE_2,           Forward,                             "5.0.0",        WRITE),
    row("xgroup|destroy",                 4, WRITE_2,           Forward,                             "5.0.0",        WRITE),
    row("xgroup|help",                    2, NONE,              Forward,                             "5.0.0",        LOADING | STALE),
    row("xgroup|setid",                  -5, WRITE_2,           Forward,                             "5.0.0",        WRITE),
    // Sent by a node to its replicas.
    row("xidmprecord",                    5, WRITE_1,           Refused,                             "8.6.2",        WRITE | DENYOOM | FAST),
    row("xinfo",                         -2, NONE,              Forward,                             "5.0.0",        0).container(),
    row("xinfo|consumers",                4, READ_2,            Forward,                             "5.0.0",        READONLY),
    row("xinfo|groups",                   3, READ_2,            Forward,                             "5.0.0",        READONLY),
    row("xinfo|help",                     2, NONE,              Forward,                             "5.0.0",        LOADING | STALE),
    row("xinfo|stream",                  -3, READ_2,            Forward,                             "5.0.0",        READONLY),
    row("xlen",                           2, READ_1,            Forward,                             "5.0.0",        READONLY | FAST),
    row("xpending",                      -3, READ_1,            Forward,                             "5.0.0",        READONLY),
    row("xrange",                        -4, READ_1,            Forward,                             "5.0.0",        READONLY),
    row("xread",                         -4, XREAD,             Blocking,                            "5.0.0",        READONLY | BLOCKING | MOVABLEKEYS),
    row("xreadgroup",                    -7, XREADGROUP,        Blocking,                            "5.0.0",        WRITE | BLOCKING | MOVABLEKEYS),
    row("xrevrange",                     -4, READ_1,            Forward,                             "5.0.0",        READONLY),
    row("xsetid",                        -3, WRITE_1,           Forward,                             "5.0.0",        WRITE | DENYOOM | FAST),
    row("xtrim",                         -4, WRITE_1,           Forward,                             "5.0.0",        WRITE),
    row("zadd",                          -4, WRITE_1,           Forward,                             "1.2.0",        WRITE | DENYOOM | FAST),
    row("zcard",                          2, READ_1,            Forward,                             "1.2.0",        READONLY | FAST),
    row("zcount",                         4, READ_1,            Forward,                             "2.0.0",        READONLY | FAST),
    row("zdiff",                         -3, COUNTED_READ_1,    Forward,                             "6.2.0",        READONLY | MOVABLEKEYS),
    row("zdiffstore",                    -4, STORE_COUNTED,     Forward,                             "6.2.0",        WRITE | DENYOOM | MOVABLEKEYS),
    row("zincrby",                        4, WRITE_1,           Forward,                             "1.2.0",        WRITE | DENYOOM | FAST),
    row("zinter",                        -3, COUNTED_READ_1,    Forward,                             "6.2.0",        READONLY | MOVABLEKEYS),
    row("zintercard",                    -3, COUNTED_READ_1,    Forward,                             "7.0.0",        READONLY | MOVABLEKEYS),
    row("zinterstore",                   -4, STORE_COUNTED,     Forward,                             "2.0.0",        WRITE | DENYOOM | MOVABLEKEYS),
    row("zlexcount",                      4, READ_1,            Forward,                             "2.8.9",        READONLY | FAST),
    row("zmpop",                         -4, COUNTED_WRITE_1,   Forward,                             "7.0.0",        WRITE | MOVABLEKEYS),
    row("zmscore",                       -3, READ_1,            Forward,                             "6.2.0",        READONLY | FAST),
    row("zpopmax",                       -2, WRITE_1,           Forward,                             "5.0.0",        WRITE | FAST),
    row("zpopmin",                       -2, WRITE_1,           Forward,                             "5.0.0",        WRITE | FAST),
    row("zrandmember",                   -2, READ_1,            Forward,                             "6.2.0",        READONLY),
    row("zrange",                        -4, READ_1,            Forward,                             "1.2.0",        READONLY),
    row("zrangebylex",                   -4, READ_1,            Forward,                             "2.8.9",        READONLY),
    row("zrangebyscore",                 -4, READ_1,            Forward,                             "1.0.5",        READONLY),
    row("zrangestore",                   -5, STORE,             Forward,                             "6.2.0",        WRITE | DENYOOM),
    row("zrank",                         -3, READ_1,            Forward,                             "2.0.0",        READONLY | FAST),
    row("zrem",                          -3, WRITE_1,           Forward,                             "1.2.0",        WRITE | FAST),
    row("zremrangebylex",                 4, WRITE_1,           Forward,                             "2.8.9",        WRITE),
    row("zremrangebyrank",                4, WRITE_1,           Forward,                             "2.0.0",        WRITE),
    row("zremrangebyscore",               4, WRITE_1,           Forward,                             "1.2.0",        WRITE),
    row("zrevrange",                     -4, READ_1,            Forward,                             "1.2.0",        READONLY),
    row("zrevrangebylex",                -4, READ_1,            Forward,                             "2.8.9",        READONLY),
    row("zrevrangebyscore",              -4, READ_1,            Forward,                             "2.2.0",        READONLY),
    row("zrevrank",                      -3, READ_1,            Forward,                             "2.0.0",        READONLY | FAST),
    row("zscan",                         -3, READ_1,            Forward,                             "2.8.0",        READONLY),
    row("zscore",                         3, READ_1,            Forward,                             "1.2.0",        READONLY | FAST),
    row("zunion",                        -3, COUNTED_READ_1,    Forward,                             "6.2.0",        READONLY | MOVABLEKEYS),
    row("zunionstore",                   -4, STORE_COUNTED,     Forward,                             "2.0.0",        WRITE | DENYOOM | MOVABLEKEYS),
];
