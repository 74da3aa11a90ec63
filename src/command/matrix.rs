//! What becomes of a command, in words: the lines of `docs/commands.md`.
//!
//! Invariant: every row of the table has a line, made of its own columns and the short texts here; a
//! test writes the page anew and compares. It decides nothing: the hub does, by the same columns.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::spec::{
    Access, Begin, ClusterFace, Find, Gather, Handler, KeyShape, KeySpec, Local, ResponsePolicy,
    Row, Subscription, Transaction,
};

/// Where its keys stand.
#[must_use]
pub fn keys(row: &Row) -> String {
    match row.shape {
        KeyShape::None => String::new(),
        KeyShape::Sort => "1, STORE".into(),
        KeyShape::Georadius(_) => "1, STORE, STOREDIST".into(),
        KeyShape::Migrate => "3, KEYS".into(),
        KeyShape::Debug => "2 of OBJECT and its like".into(),
        KeyShape::One(_) | KeyShape::Specs => {
            let all: Vec<String> = row.keys.iter().map(spec).collect();
            all.join(", ")
        }
    }
}

fn spec(spec: &KeySpec) -> String {
    let (start, at) = match spec.begin {
        Begin::Index(at) => (at.to_string(), i32::from(at)),
        Begin::Keyword(word, _) => (format!("after {word}"), 0),
        Begin::Unknown => return "options".into(),
    };
    let place = match spec.find {
        Find::Range { last: 0, .. } => start,
        Find::Range { last, step, .. } => {
            let end = match (last, spec.begin) {
                (-1, _) => "to the end".to_owned(),
                (..-1, _) => format!("to the last but {}", -i32::from(last) - 1),
                (_, Begin::Index(_)) => format!("to {}", at + i32::from(last)),
                _ => format!("and {last} more"),
            };
            let step = if step > 1 { format!(", every {step}nd") } else { String::new() };
            format!("{start} {end}{step}")
        }
        Find::KeyNum { .. } => format!("counted by {start}"),
        Find::Unknown => "options".into(),
    };
    if spec.access == Access::NotKey { format!("{place} (channel or slot)") } else { place }
}

/// True when one command may name keys of several slots.
#[must_use]
pub fn may_span_slots(row: &Row) -> bool {
    let several = |s: &KeySpec| !matches!(s.find, Find::Range { last: 0, .. });
    match row.shape {
        KeyShape::None | KeyShape::One(_) | KeyShape::Debug => false,
        KeyShape::Sort | KeyShape::Georadius(_) | KeyShape::Migrate => true,
        KeyShape::Specs => row.keys.len() > 1 || row.keys.iter().any(several),
    }
}

/// What the proxy does with it.
#[must_use]
pub fn treatment(row: &Row) -> String {
    let text: &str = match row.handler {
        Handler::Forward | Handler::Script if row.container => "see its subcommands",
        Handler::Forward if row.shape == KeyShape::None => "to any node",
        Handler::Forward => "to the node of its slot",
        Handler::Script => {
            "to the node of its slot, which is told the script if it may not know it"
        }
        Handler::Split => return format!("split by slot; {}", merged(row)),
        Handler::Blocking => "to the node of its slot, on a connection of its own while it waits",
        Handler::Transaction(what) => transaction(what),
        Handler::Publish => "to a node; receivers are counted at the proxy",
        Handler::Subscribe(what) => subscription(what),
        Handler::Scan => "one shard after another, by cursors of the proxy's own",
        Handler::Local(what) => local(what),
        Handler::Gather(what) => return format!("to all shards; {}", gathered(row, what)),
        Handler::ClusterFace(what) => face(what),
        Handler::OneServer => "to a server without cluster mode; refused before a cluster",
        Handler::Refused if row.container => "see its subcommands",
        Handler::Refused => "refused: it concerns one node, or what the cluster's owner does",
    };
    text.into()
}

fn merged(row: &Row) -> &'static str {
    match row.response {
        ResponsePolicy::AggSum => "numbers are added up",
        ResponsePolicy::AllSucceeded => "OK when all say so",
        ResponsePolicy::AggLogicalAnd => "1 where all say 1",
        ResponsePolicy::AggLogicalOr => "1 where one says 1",
        ResponsePolicy::AggMin => "the smallest number",
        ResponsePolicy::AggMax => "the largest number",
        ResponsePolicy::OneSucceeded => "the first success",
        ResponsePolicy::Default if row.handler == Handler::Split => {
            "values in the order of the keys"
        }
        ResponsePolicy::Default | ResponsePolicy::Special => "lists are joined",
    }
}

fn gathered(row: &Row, what: Gather) -> &'static str {
    match what {
        Gather::Policy | Gather::Keys | Gather::Slowlog => merged(row),
        Gather::Info => "one document: sums, and a section `# Proxy`",
        Gather::Randomkey => "a key of one of them",
        Gather::PubsubChannels => "each name once",
        Gather::PubsubNumsub | Gather::PubsubShardnumsub => "added up by name",
        Gather::ScriptLoad => "the digest; the script is remembered",
        Gather::Memory if row.name == "memory|stats" => "added up by name",
        Gather::Memory => "texts one below the other, each once",
        Gather::Latency => match row.name {
            "latency|doctor" | "latency|graph" => "texts one below the other, each once",
            _ => "lists are joined",
        },
        Gather::Lastsave => "the latest",
    }
}

fn transaction(what: Transaction) -> &'static str {
    match what {
        Transaction::Multi => "begins a transaction, which the proxy gathers",
        Transaction::Exec => "sends the transaction in one piece to the node of its slot",
        Transaction::Discard => "forgets the transaction",
        Transaction::Watch => {
            "on a connection of the session's own, until EXEC, DISCARD or UNWATCH"
        }
        Transaction::Unwatch => "gives that connection up",
    }
}

fn subscription(what: Subscription) -> &'static str {
    match what {
        Subscription::Subscribe | Subscription::Psubscribe => {
            "the proxy subscribes once for all its clients"
        }
        Subscription::Ssubscribe => "the same, at the node of the channel's slot",
        Subscription::Unsubscribe | Subscription::Punsubscribe | Subscription::Sunsubscribe => {
            "ends the session's part in it"
        }
    }
}

fn local(what: Local) -> &'static str {
    match what {
        Local::ConfigGet => {
            "to any node; where it is refused, the proxy says what libraries ask for"
        }
        Local::Auth => "OK: the proxy authenticates, and does not look at the password",
        Local::Hello => "the proxy; RESP2 and RESP3",
        Local::Select => "0 is OK before a cluster; others need a server without cluster mode",
        Local::ClientTracking | Local::ClientCaching => {
            "the proxy, with a connection of the session's own to each node it reads from"
        }
        Local::Monitor => "what all primaries run, in one stream",
        Local::ClientList | Local::ClientKill | Local::ClientPause | Local::ClientUnpause => {
            "the proxy's own clients, on all threads"
        }
        Local::ClientUnblock => "a client of the proxy's, on any thread: its node is told",
        Local::Role => "the face of a primary without replicas",
        Local::Asking | Local::Readonly | Local::Readwrite => {
            "OK; the proxy does it where it is needed"
        }
        Local::ClientSetinfo => "the proxy, whatever the server's version",
        _ if what.is_any_nodes() => "to any node",
        _ => "the proxy",
    }
}

fn face(what: ClusterFace) -> &'static str {
    match what {
        ClusterFace::Countkeysinslot | ClusterFace::Getkeysinslot => "to the node of that slot",
        ClusterFace::Help => "to any node",
        ClusterFace::Keyslot => "the proxy",
        _ => "the proxy, as a cluster of one node, itself",
    }
}
