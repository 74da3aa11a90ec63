//! The commands of the random streams, as data.
//!
//! A word is itself, or: `$s $l $h $S $z $x $b $p $g` a key of strings, lists, hashes, sets, sorted
//! sets, streams, bitmaps, HyperLogLogs, geo sets (with `@`: on the slot of the command's tag);
//! `$v` a value, `$i` an integer, `$n` a small count, `$d` a decimal, `$f` a field, `$m` a member,
//! `$id` a stream id; `%name` an entry of [`named`]. A leading `!` keeps a template from being
//! mutilated: without its last word it would be random, or go to another slot.
//!
//! Invariant: every command of the server is here, or in the lists of `docs/differences.md`; a test
//! compares them with the server's own list.

mod data;
mod server;

/// SHA-1 of [`named`]`("loaded")`; a test checks it.
pub const LOADED_SHA: &str = "098e0f0d1448c0a81dafe820f66d460eb09263da";

/// The library the streams call.
pub const LIBRARY: &str = "#!lua name=streams\n\
    redis.register_function('put', function(keys, args) return redis.call('SET', keys[1], args[1]) end)\n\
    redis.register_function{function_name='look', callback=function(keys) return redis.call('TYPE', keys[1]) end, flags={'no-writes'}}";

const PAYLOAD: &[u8] = b"\x00\x01v\n\x00\x91\x08\xce\xb2\x198\x8a\xce";
const FUNCTIONS: &[u8] = b"\xf5\xc3@E@J\x1f#!lua name=other\nredis.register_\x09function('`\x1e\x02', \xe0\x00\x11\x0e) return 1 end)\n\x00\xae\xa0\xa6\x98\xd3*2\xc6";

/// Words that hold spaces, or no text.
pub fn named(name: &str) -> &'static [u8] {
    match name {
        // What DUMP says of the string "v", and FUNCTION DUMP of a library "other", on Redis 7.0.
        "payload" => PAYLOAD,
        "functions" => FUNCTIONS,
        _ => text(name).as_bytes(),
    }
}

/// Scripts, digests, and other texts.
pub fn text(name: &str) -> &'static str {
    match name {
        "get" => "return redis.call('GET', KEYS[1])",
        "incr" => "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('INCRBY', KEYS[1], 2)",
        "move" => {
            "local v = redis.call('LPOP', KEYS[1]) if v then redis.call('RPUSH', KEYS[2], v) end return v"
        }
        "types" => "return {1, 'two', {3, 'four'}, false, {ok='fine'}, 3.7, KEYS[1] or 'none'}",
        "error" => "return redis.error_reply('MINE went wrong')",
        "pcall" => "return redis.pcall('LPUSH', KEYS[1], 'x')",
        "loaded" => "return ARGV[1]",
        "broken" => "this is no lua",
        "resp3" => "redis.setresp(3) return redis.call('HGETALL', KEYS[1])",
        "getsha" => "d3c21d0c2b9ca22f82737626a27bcaf5d288f99f",
        "loadedsha" => LOADED_SHA,
        "nosha" => "0123456789012345678901234567890123456789",
        "space" => "two words",
        "library" => LIBRARY,
        "json" => {
            "return cjson.encode({a = KEYS[1], b = {1, 2}, c = cjson.decode('[1,{\"x\":null}]')[1]})"
        }
        "pack" => "return cmsgpack.unpack(cmsgpack.pack({1, 'two', ARGV[1]}))",
        "bits" => "return {bit.band(12, 10), bit.tohex(255), redis.sha1hex('x')}",
        "struct" => "return {struct.unpack('>I2s', struct.pack('>I2s', 7, 'seven'))}",
        "flags" => "#!lua flags=no-writes\nreturn redis.call('TYPE', KEYS[1])",
        "noflags" => "#!lua flags=no-writes\nreturn redis.call('SET', KEYS[1], 'x')",
        "status" => {
            "return {redis.status_reply('FINE'), redis.error_reply('ERR no'), redis.REDIS_VERSION_NUM > 0}"
        }
        "sandbox" => "return os.getenv('HOME')",
        "unpack" => {
            "redis.call('SET', KEYS[1], ARGV[1]) redis.call('DEL', KEYS[2]) redis.call('HSET', KEYS[2], 'f', ARGV[1]) return redis.call('HGETALL', KEYS[2])"
        }
        "log" => "redis.log(redis.LOG_DEBUG, 'x') redis.setresp(4)",
        "noname" => "#!lua\nredis.register_function('x', function() return 1 end)",
        other => unreachable!("no word named {other}"),
    }
}

/// All groups; a stream draws from them evenly.
pub const GROUPS: &[&[&str]] = &[
    data::STRINGS,
    data::LISTS,
    data::HASHES,
    data::SETS,
    data::ZSETS,
    data::STREAMS,
    data::BITS,
    data::GEO,
    data::KEYSPACE,
    data::SPLIT,
    server::SCRIPTS,
    server::SESSION,
    server::SERVER,
    server::ERRORS,
];

/// What is queued in transactions: one slot, replies compared byte for byte.
pub const TRANSACTED: &[&str] = server::TRANSACTED;

/// What empties the servers: now and then.
pub const RARE: &[&str] = &[
    "FLUSHALL",
    "FLUSHALL ASYNC",
    "FLUSHDB",
    "FLUSHDB SYNC",
    "SCRIPT FLUSH",
    "SCRIPT FLUSH ASYNC",
    "FUNCTION FLUSH",
    "FUNCTION DELETE streams",
    "FUNCTION RESTORE %functions FLUSH",
];

/// Every template.
pub fn all() -> impl Iterator<Item = &'static str> {
    let groups = GROUPS.iter().copied().chain([TRANSACTED, RARE]);
    groups.flatten().map(|t| t.trim_start_matches('!'))
}
