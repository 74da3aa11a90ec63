//! What a server says of a command the table does not have: a COMMAND INFO reply, read into the
//! table's own words.
//!
//! Invariant: total. Whatever a server sends becomes a description that [`super::keys`] can follow,
//! or [`Told::Nothing`]; sizes are bounded, so that no server can fill the memory. It asks nobody and
//! keeps nothing (see [`super::learned`]).
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::resp::value::{Decoder, Value};

use super::spec::{Access, Find, RequestPolicy, ResponsePolicy, flag};

/// Longest name of a command, of a subcommand with its container, or of a keyword (bytes).
pub const MAX_NAME: usize = 64;

/// Most key specifications of one command that are read; Redis's own commands have three at most.
const MAX_SPECS: usize = 16;

/// Most subcommands of one container that are read.
const MAX_SUBCOMMANDS: usize = 128;

/// What a COMMAND INFO for one name brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The command.
    Command(Description),
    /// The server does not know the name.
    Unknown,
    /// The server does not tell: it refused, or answered something else.
    Nothing,
}

/// A command as a server describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Its own name, lower-case; `container|subcommand` for a subcommand. Not always the name asked
    /// for: a command may be renamed.
    pub name: String,
    /// See [`super::spec::Row::arity`].
    pub arity: i16,
    /// A union of the constants in [`flag`]; names not known here are left out.
    pub flags: u32,
    /// Where its keys stand.
    pub keys: Vec<KeyDescription>,
    /// Tip `request_policy`.
    pub request: RequestPolicy,
    /// Tip `response_policy`.
    pub response: ResponsePolicy,
    /// Its subcommands, which have none themselves.
    pub subcommands: Vec<Description>,
}

/// A key specification; as [`super::spec::KeySpec`], with a keyword of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDescription {
    /// Where the search begins.
    pub begin: BeginAt,
    /// How keys go on from there.
    pub find: Find,
    /// What is done with them.
    pub access: Access,
}

/// As [`super::spec::Begin`], with a keyword of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BeginAt {
    /// At this argument.
    Index(u16),
    /// At the argument after this keyword.
    Keyword(String, i16),
    /// Cannot be described.
    Unknown,
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

const REQUESTS: &[(&str, RequestPolicy)] = &[
    ("all_nodes", RequestPolicy::AllNodes),
    ("all_shards", RequestPolicy::AllShards),
    ("multi_shard", RequestPolicy::MultiShard),
    ("special", RequestPolicy::Special),
];

const RESPONSES: &[(&str, ResponsePolicy)] = &[
    ("one_succeeded", ResponsePolicy::OneSucceeded),
    ("all_succeeded", ResponsePolicy::AllSucceeded),
    ("agg_logical_and", ResponsePolicy::AggLogicalAnd),
    ("agg_logical_or", ResponsePolicy::AggLogicalOr),
    ("agg_min", ResponsePolicy::AggMin),
    ("agg_max", ResponsePolicy::AggMax),
    ("agg_sum", ResponsePolicy::AggSum),
    ("special", ResponsePolicy::Special),
];

/// Reads the whole reply to a COMMAND INFO with one name, RESP2 or RESP3.
pub fn read(reply: &[u8]) -> Told {
    match Decoder::default().decode(reply) {
        Ok(Some((Value::Array(rows), _))) => match rows.first() {
            None | Some(Value::Null) => Told::Unknown,
            Some(row) => command(row).map_or(Told::Nothing, Told::Command),
        },
        _ => Told::Nothing,
    }
}

/// `name arity flags first last step [categories [tips specifications subcommands]]`: six elements
/// from Redis 2.8.13 on, seven from 6.0 on, ten from 7.0 on.
fn command(row: &Value) -> Option<Description> {
    let (mut description, subcommands) = alone(row)?;
    let subcommands = subcommands.iter().take(MAX_SUBCOMMANDS);
    description.subcommands = subcommands.filter_map(|s| Some(alone(s)?.0)).collect();
    Some(description)
}

fn alone(row: &Value) -> Option<(Description, &[Value])> {
    let row = row.as_array()?;
    let [name, arity, flags, first, last, step, ..] = row else {
        return None;
    };
    let name = name.as_str().filter(|n| !n.is_empty() && n.len() <= MAX_NAME)?;
    let arity = i16::try_from(arity.as_int()?).ok().filter(|&a| a != 0 && a != i16::MIN)?;
    let words = |v: Option<&Value>| -> Vec<String> {
        let all = v.and_then(Value::as_array).unwrap_or_default();
        all.iter().filter_map(|w| w.as_str().map(str::to_ascii_lowercase)).collect()
    };
    let named = words(Some(flags));
    let flags =
        FLAGS.iter().filter(|(name, _)| named.iter().any(|n| n == name)).fold(0, |f, (_, b)| f | b);
    let tips = words(row.get(7));
    let keys = key_specs(row.get(8), first, last, step);
    let description = Description {
        name: name.to_ascii_lowercase(),
        arity,
        flags,
        keys,
        request: tip(&tips, "request_policy:", REQUESTS).unwrap_or(RequestPolicy::Default),
        response: tip(&tips, "response_policy:", RESPONSES).unwrap_or(ResponsePolicy::Default),
        subcommands: Vec::new(),
    };
    Some((description, row.get(9).and_then(Value::as_array).unwrap_or_default()))
}

fn tip<T: Copy>(tips: &[String], prefix: &str, known: &[(&str, T)]) -> Option<T> {
    let said = tips.iter().find_map(|t| t.strip_prefix(prefix))?;
    known.iter().find(|(name, _)| *name == said).map(|(_, policy)| *policy)
}

/// The specifications, or where there are none that can be followed, what first, last and step say.
fn key_specs(
    specs: Option<&Value>,
    first: &Value,
    last: &Value,
    step: &Value,
) -> Vec<KeyDescription> {
    let specs = specs.and_then(Value::as_array).unwrap_or_default();
    let mut keys: Vec<KeyDescription> = specs.iter().take(MAX_SPECS).map(key_spec).collect();
    let told = |k: &KeyDescription| k.begin != BeginAt::Unknown && k.find != Find::Unknown;
    if !keys.iter().any(told) {
        keys.extend(by_positions(first, last, step));
    }
    keys
}

fn by_positions(first: &Value, last: &Value, step: &Value) -> Option<KeyDescription> {
    let first = u16::try_from(first.as_int()?).ok().filter(|&n| n > 0)?;
    let last = i16::try_from(last.as_int()?).ok()?;
    let last = if last < 0 { last } else { last.checked_sub(i16::try_from(first).ok()?)?.max(0) };
    let step = u16::try_from(step.as_int()?).ok()?.max(1);
    Some(KeyDescription {
        begin: BeginAt::Index(first),
        find: Find::Range { last, step, limit: 0 },
        access: Access::Write,
    })
}

fn key_spec(spec: &Value) -> KeyDescription {
    let flags = spec.field("flags").and_then(Value::as_array).unwrap_or_default();
    let has = |name: &str| flags.iter().any(|f| f.as_str() == Some(name));
    let access = if has("not_key") {
        Access::NotKey
    } else if has("RO") {
        Access::Read
    } else {
        Access::Write
    };
    KeyDescription {
        begin: spec.field("begin_search").and_then(begin).unwrap_or(BeginAt::Unknown),
        find: spec.field("find_keys").and_then(find).unwrap_or(Find::Unknown),
        access,
    }
}

fn begin(search: &Value) -> Option<BeginAt> {
    let spec = search.field("spec")?;
    match search.field("type")?.as_str()? {
        "index" => Some(BeginAt::Index(natural(spec, "index").filter(|&at| at > 0)?)),
        "keyword" => {
            let word = spec.field("keyword")?.as_str().filter(|w| w.len() <= MAX_NAME)?;
            Some(BeginAt::Keyword(word.to_owned(), small(spec, "startfrom")?))
        }
        _ => None,
    }
}

fn find(search: &Value) -> Option<Find> {
    let spec = search.field("spec")?;
    match search.field("type")?.as_str()? {
        "range" => Some(Find::Range {
            last: small(spec, "lastkey")?,
            step: natural(spec, "keystep")?,
            limit: natural(spec, "limit")?,
        }),
        "keynum" => Some(Find::KeyNum {
            num: natural(spec, "keynumidx")?,
            first: natural(spec, "firstkey")?,
            step: natural(spec, "keystep")?,
        }),
        _ => None,
    }
}

fn natural(spec: &Value, name: &str) -> Option<u16> {
    u16::try_from(spec.field(name)?.as_int()?).ok()
}

fn small(spec: &Value, name: &str) -> Option<i16> {
    i16::try_from(spec.field(name)?.as_int()?).ok().filter(|&n| n != i16::MIN)
}

#[cfg(test)]
pub(super) mod tests;
