//! The decoder of the cold paths: pieces give what the whole gives, memory is bounded by the bytes
//! that came, redis-protocol agrees.

use memorystore_auth_proxy::resp::value::{Decoder, MAX_DEPTH, Value};
use redis_protocol::resp2;

use crate::support::{Cuts, within};

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) | Value::Push(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Map(pairs) => {
            1 + pairs.iter().map(|(k, v)| depth(k).max(depth(v))).max().unwrap_or(0)
        }
        _ => 0,
    }
}

/// As text, for NaN is not equal to itself. Of a map only that it is one: of a name that comes twice
/// redis-protocol keeps either value.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<String>()),
        Value::Push(items) => format!(">{}]", items.iter().map(shown).collect::<String>()),
        Value::Map(_) => "{},".to_owned(),
        leaf => format!("{leaf:?},"),
    }
}

pub fn run(data: &[u8]) {
    let [seed, stream @ ..] = data else {
        return;
    };
    let whole = within(1024 * stream.len() + 64 * 1024, || Decoder::default().decode(stream));
    let mut cuts = Cuts::new(*seed);
    let mut decoder = Decoder::default();
    let mut have = 0;
    let cut = loop {
        match decoder.decode(&stream[..have]) {
            Ok(None) if have < stream.len() => have = (have + cuts.next()).min(stream.len()),
            outcome => break outcome,
        }
    };
    let shown = |outcome: &Result<Option<(Value, usize)>, _>| match outcome {
        Ok(Some((value, n))) => Ok(Some((shown(value), *n))),
        Ok(None) => Ok(None),
        Err(error) => Err(*error),
    };
    assert_eq!(shown(&cut), shown(&whole), "pieces give something else");
    if let Ok(Some((value, n))) = &whole {
        assert!(*n <= stream.len());
        assert!(depth(value) <= MAX_DEPTH + 1);
        let _ = (value.as_int(), value.as_str(), value.field("slots"));
        if let Ok(Some((_, end))) = resp2::decode::decode(&stream[..*n]) {
            assert_eq!(end, *n, "redis-protocol ends elsewhere");
        }
    }
}
