//! What ACLs need to know of commands beyond the table: their categories, and whether they read or
//! write each of their keys.
//!
//! Taken from the `COMMAND` reply of Redis 7.0 (a test holds it against a live server) and, for later
//! commands, from their descriptions. Most of it follows from the table's flags and key
//! specifications; here stands the rest. Invariant: a command without an entry needs more, never
//! less: a key it writes counts as read too.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::LazyLock;

use crate::command::keys::Args;
use crate::command::lookup;
use crate::command::spec::{Access, Row, flag};
use crate::command::table::COMMANDS;

/// Redis's categories, `@all` aside. A category is the bit of its place.
pub const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// The bit of a category.
pub fn category(name: &[u8]) -> Option<u32> {
    let at = CATEGORIES.iter().position(|c| c.as_bytes().eq_ignore_ascii_case(name))?;
    Some(1 << at)
}

/// Members that do not follow from a command's flags. After those of Redis 7.0, a line break, and
/// those of later versions.
const MEMBERS: &[(&str, &str)] = &[
    ("admin", "lastsave role"),
    ("bitmap", "bitcount bitfield bitfield_ro bitop bitpos getbit setbit"),
    (
        "connection",
        "asking auth client|caching client|getname client|getredir client|help client|id client|info \
         client|kill client|list client|no-evict client|pause client|reply client|setname \
         client|tracking client|trackinginfo client|unblock client|unpause command command|count \
         command|docs command|getkeys command|getkeysandflags command|help command|info command|list \
         echo hello ping quit readonly readwrite reset select wait \
         client|capa client|import-source client|no-touch client|setinfo waitaof",
    ),
    (
        "dangerous",
        "flushall flushdb info keys lastsave migrate restore restore-asking role sort sort_ro swapdb",
    ),
    (
        "geo",
        "geoadd geodist geohash geopos georadius georadius_ro georadiusbymember georadiusbymember_ro \
         geosearch geosearchstore",
    ),
    (
        "hash",
        "hdel hexists hget hgetall hincrby hincrbyfloat hkeys hlen hmget hmset hrandfield hscan hset \
         hsetnx hstrlen hvals \
         hexpire hexpireat hexpiretime hgetdel hgetex hpersist hpexpire hpexpireat hpexpiretime hpttl \
         hsetex httl",
    ),
    ("hyperloglog", "pfadd pfcount pfdebug pfmerge pfselftest"),
    (
        "keyspace",
        "copy dbsize del dump exists expire expireat expiretime flushall flushdb keys migrate move \
         object|encoding object|freq object|help object|idletime object|refcount persist pexpire \
         pexpireat pexpiretime pttl randomkey rename renamenx restore restore-asking scan swapdb touch \
         ttl type unlink \
         clusterscan",
    ),
    (
        "list",
        "blmove blmpop blpop brpop brpoplpush lindex linsert llen lmove lmpop lpop lpos lpush lpushx \
         lrange lrem lset ltrim rpop rpoplpush rpush rpushx sort sort_ro",
    ),
    (
        "scripting",
        "eval eval_ro evalsha evalsha_ro fcall fcall_ro function|delete function|dump function|flush \
         function|help function|kill function|list function|load function|restore function|stats \
         script|debug script|exists script|flush script|help script|kill script|load \
         script|show",
    ),
    (
        "set",
        "sadd scard sdiff sdiffstore sinter sintercard sinterstore sismember smembers smismember smove \
         sort sort_ro spop srandmember srem sscan sunion sunionstore",
    ),
    (
        "sortedset",
        "bzmpop bzpopmax bzpopmin sort sort_ro zadd zcard zcount zdiff zdiffstore zincrby zinter \
         zintercard zinterstore zlexcount zmpop zmscore zpopmax zpopmin zrandmember zrange zrangebylex \
         zrangebyscore zrangestore zrank zrem zremrangebylex zremrangebyrank zremrangebyscore zrevrange \
         zrevrangebylex zrevrangebyscore zrevrank zscan zscore zunion zunionstore",
    ),
    (
        "stream",
        "xack xadd xautoclaim xclaim xdel xgroup|create xgroup|createconsumer xgroup|delconsumer \
         xgroup|destroy xgroup|help xgroup|setid xinfo|consumers xinfo|groups xinfo|help xinfo|stream \
         xlen xpending xrange xread xreadgroup xrevrange xsetid xtrim \
         xackdel xcfgset xdelex xidmprecord",
    ),
    (
        "string",
        "append decr decrby get getdel getex getrange getset incr incrby incrbyfloat lcs mget mset \
         msetnx psetex set setex setnx setrange strlen substr \
         delex delifeq digest msetex",
    ),
    ("transaction", "discard exec multi unwatch watch"),
];

/// Reading a key.
pub const READ: u8 = 1;
/// Writing a key.
pub const WRITE: u8 = 2;

/// What a command needs of its keys: of the first, of the second, and so on; the last counts for all
/// that follow. What is not here needs reading for keys that are read, both for those that are
/// written.
const NEEDS: &[(&[u8], &str)] = &[
    (
        &[WRITE],
        "append del expire expireat geoadd hdel hmset hset hsetnx linsert lpush lpushx lrem lset ltrim \
         mset msetnx persist pexpire pexpireat pfadd psetex restore restore-asking rpush rpushx sadd \
         setex setnx setrange srem unlink xack xadd xautoclaim xclaim xdel xgroup|create \
         xgroup|createconsumer xgroup|delconsumer xgroup|destroy xgroup|setid xsetid xtrim zadd zrem \
         zremrangebylex zremrangebyrank zremrangebyscore \
         hexpire hexpireat hpersist hpexpire hpexpireat hsetex",
    ),
    (
        &[WRITE, READ],
        "bitop geosearchstore sdiffstore sinterstore sunionstore zdiffstore zinterstore zrangestore \
         zunionstore",
    ),
    (&[READ | WRITE, WRITE], "blmove brpoplpush lmove rename renamenx rpoplpush smove"),
    // What is learned of the key is not what stands in it.
    (
        &[0],
        "exists hexists hlen hstrlen llen memory|usage object|encoding object|freq object|idletime \
         object|refcount scard sismember strlen touch type watch xlen zcard",
    ),
    (&[READ, WRITE], "copy georadius georadiusbymember sort"),
    (&[READ], "pfcount pfdebug"),
    (&[READ | WRITE, READ], "pfmerge"),
];

/// What is known of one row.
#[derive(Debug, Clone, Copy)]
struct Fact {
    categories: u32,
    needs: Needs,
}

#[derive(Debug, Clone, Copy)]
enum Needs {
    /// By what the key specification says.
    ByAccess,
    /// One after another.
    InTurn(&'static [u8]),
    /// SET reads only with GET.
    Set,
    /// BITFIELD writes unless all it does is GET.
    Bitfield,
}

static FACTS: LazyLock<Vec<Fact>> = LazyLock::new(|| {
    let mut facts: Vec<Fact> =
        COMMANDS.iter().map(|_| Fact { categories: 0, needs: Needs::ByAccess }).collect();
    let rows = |names: &'static str| names.split_ascii_whitespace().filter_map(number_of);
    for (name, members) in MEMBERS {
        for at in rows(members) {
            facts[at].categories |= category(name.as_bytes()).unwrap_or_default();
        }
    }
    for (needs, names) in NEEDS {
        for at in rows(names) {
            facts[at].needs = Needs::InTurn(needs);
        }
    }
    for (row, fact) in COMMANDS.iter().zip(&mut facts) {
        fact.categories |= implied(row, fact.categories);
        fact.needs = match row.name {
            "set" => Needs::Set,
            "bitfield" => Needs::Bitfield,
            _ => fact.needs,
        };
    }
    facts
});

/// The categories that follow from a command's flags and its other categories.
pub fn implied(row: &Row, others: u32) -> u32 {
    let bit = |name: &str| category(name.as_bytes()).unwrap_or_default();
    let is = |flag: u32| row.flags & flag != 0;
    let mut all = 0;
    for (flag, name) in [
        (flag::WRITE, "write"),
        (flag::ADMIN, "admin"),
        (flag::ADMIN, "dangerous"),
        (flag::PUBSUB, "pubsub"),
        (flag::FAST, "fast"),
        (flag::BLOCKING, "blocking"),
    ] {
        all |= if is(flag) { bit(name) } else { 0 };
    }
    if is(flag::READONLY) && others & bit("scripting") == 0 {
        all |= bit("read");
    }
    if !is(flag::FAST) {
        all |= bit("slow");
    }
    all
}

/// The number of a row of the table; `None` for one that a server told.
#[inline]
pub fn number(row: &'static Row) -> Option<usize> {
    let offset = std::ptr::from_ref(row).addr().checked_sub(COMMANDS.as_ptr().addr())?;
    let at = offset / size_of::<Row>();
    COMMANDS.get(at).filter(|found| std::ptr::eq(*found, row)).map(|_| at)
}

/// The number of a command, or of a `container|subcommand`, in any case.
pub fn number_of(name: &str) -> Option<usize> {
    number(row_of(name)?)
}

/// The row of the same.
pub fn row_of(name: &str) -> Option<&'static Row> {
    match name.split_once('|') {
        None => lookup::command(name.as_bytes()),
        Some((container, sub)) => {
            lookup::subcommand(lookup::command(container.as_bytes())?, sub.as_bytes())
        }
    }
}

/// The categories of a row.
pub fn categories(row: &'static Row) -> u32 {
    match number(row) {
        Some(at) => FACTS[at].categories,
        None => implied(row, 0),
    }
}

/// What the command needs of its `nth` key, of which its specification says `access`: a union of
/// [`READ`] and [`WRITE`]; `None`: it is no key.
pub fn need<A: Args + ?Sized>(
    row: &'static Row,
    nth: usize,
    access: Access,
    args: &A,
) -> Option<u8> {
    if access == Access::NotKey {
        return None;
    }
    Some(match number(row).map_or(Needs::ByAccess, |at| FACTS[at].needs) {
        Needs::ByAccess if access == Access::Read => READ,
        Needs::ByAccess => READ | WRITE,
        Needs::InTurn(needs) => needs.get(nth).or(needs.last()).copied().unwrap_or(READ | WRITE),
        Needs::Set => need_of_set(args),
        Needs::Bitfield => need_of_bitfield(args),
    })
}

fn need_of_set<A: Args + ?Sized>(args: &A) -> u8 {
    // Servers take what follows a zero byte for the end of the word.
    let is_get = |at: usize| match args.get(at) {
        [g, e, t, rest @ ..] => {
            [*g, *e, *t].eq_ignore_ascii_case(b"GET") && rest.first().is_none_or(|&b| b == 0)
        }
        _ => false,
    };
    if (3..args.len()).any(is_get) { READ | WRITE } else { WRITE }
}

fn need_of_bitfield<A: Args + ?Sized>(args: &A) -> u8 {
    let mut at = 2;
    while at < args.len() {
        let (word, left) = (args.get(at), args.len() - at - 1);
        at += if word.eq_ignore_ascii_case(b"GET") && left >= 2 {
            3
        } else if word.eq_ignore_ascii_case(b"OVERFLOW") && left >= 1 {
            2
        } else {
            return READ | WRITE;
        };
    }
    READ
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_in_the_table_and_every_category_is_one() {
        for (name, members) in MEMBERS {
            assert!(category(name.as_bytes()).is_some(), "{name}");
            for member in members.split_ascii_whitespace() {
                assert!(number_of(member).is_some(), "{name}: {member}");
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        for (needs, names) in NEEDS {
            for name in names.split_ascii_whitespace() {
                let row = row_of(name).expect(name);
                assert!(seen.insert(name), "{name} twice");
                assert!(!row.keys.is_empty(), "{name}");
                assert!(needs.iter().all(|&n| n <= (READ | WRITE)));
            }
        }
    }

    #[test]
    fn rows_know_their_number() {
        for (at, row) in COMMANDS.iter().enumerate() {
            assert_eq!(number(row), Some(at), "{}", row.name);
            assert_eq!(number_of(row.name), Some(at), "{}", row.name);
        }
        let learned: &'static Row = Box::leak(Box::new(COMMANDS[0]));
        assert_eq!(number(learned), None);
        assert_eq!(number_of("no-such-command"), None);
        assert_eq!(number_of("get|x"), None);
    }

    #[test]
    fn set_and_bitfield_read_only_what_they_say() {
        let of = |line: &str| {
            let args: Vec<&str> = line.split(' ').collect();
            need(row_of(args[0]).expect("a row"), 0, Access::Write, &args[..])
        };
        assert_eq!(of("set k v"), Some(WRITE));
        assert_eq!(of("set k get"), Some(WRITE));
        assert_eq!(of("set k v nx Get"), Some(READ | WRITE));
        assert_eq!(of("set k v get\0x"), Some(READ | WRITE));
        assert_eq!(of("bitfield k get u8 0"), Some(READ));
        assert_eq!(of("bitfield k get u8 0 overflow fail"), Some(READ));
        assert_eq!(of("bitfield k get u8 0 set u8 0 1"), Some(READ | WRITE));
        assert_eq!(of("bitfield k get u8"), Some(READ | WRITE));
    }
}
