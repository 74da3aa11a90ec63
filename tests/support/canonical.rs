//! When two replies say the same: byte for byte, or, where a server itself does not promise the
//! bytes (order of sets, random members, ages), by what it does promise.
//!
//! Invariant: a rule never hides a difference in kind; an error equals only the same error.

use super::resp::{self, Value};

/// How the replies of a command are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Byte for byte.
    Exact,
    /// The elements of the reply in any order.
    Unordered,
    /// The elements of all its levels in any order.
    UnorderedDeep,
    /// The same structure, integers at most so far apart, everything else equal.
    Near(i64),
    /// The same type, and the same number of elements.
    Shape,
    /// The same type.
    Type,
}

/// Whether `ours` is what `theirs` says.
pub fn same(how: How, ours: &[u8], theirs: &[u8]) -> bool {
    if ours == theirs {
        return true;
    }
    if how == How::Exact || ours.first() != theirs.first() {
        return false;
    }
    let (Ok(Some((a, _))), Ok(Some((b, _)))) = (resp::parse(ours), resp::parse(theirs)) else {
        return false;
    };
    if matches!(a, Value::Error(_)) || (a == Value::Null) != (b == Value::Null) {
        return false;
    }
    match how {
        How::Exact => false,
        How::Unordered => canonical(&a, 1) == canonical(&b, 1),
        How::UnorderedDeep => canonical(&a, usize::MAX) == canonical(&b, usize::MAX),
        How::Near(distance) => near(&a, &b, distance),
        How::Shape => size(&a) == size(&b),
        How::Type => true,
    }
}

/// A text that is the same for all orders of the elements of the first `levels` levels.
fn canonical(value: &Value, levels: usize) -> String {
    if levels == 0 {
        return whole(value);
    }
    let mut parts: Vec<String> = match value {
        Value::Array(v) | Value::Set(v) | Value::Push(v) => {
            v.iter().map(|v| canonical(v, levels - 1)).collect()
        }
        Value::Map(v) => {
            v.iter().map(|(k, v)| format!("{}=>{}", whole(k), canonical(v, levels - 1))).collect()
        }
        other => return whole(other),
    };
    parts.sort();
    format!("[{}]", parts.join(","))
}

/// Like `Debug`, but never shortened.
fn whole(value: &Value) -> String {
    match value {
        Value::Bulk(b) => format!("{:?}", String::from_utf8_lossy(b)),
        Value::Array(v) | Value::Set(v) | Value::Push(v) => {
            format!("({})", v.iter().map(whole).collect::<Vec<_>>().join(" "))
        }
        other => format!("{other:?}"),
    }
}

fn near(a: &Value, b: &Value, distance: i64) -> bool {
    let all = |a: &[Value], b: &[Value]| {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| near(a, b, distance))
    };
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => (*a < 0) == (*b < 0) && a.abs_diff(*b) <= distance as u64,
        (Value::Array(a), Value::Array(b)) | (Value::Set(a), Value::Set(b)) => all(a, b),
        (Value::Map(a), Value::Map(b)) => {
            a.len() == b.len()
                && a.iter().zip(b).all(|((ka, va), (kb, vb))| ka == kb && near(va, vb, distance))
        }
        (a, b) => a == b,
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::Array(v) | Value::Set(v) | Value::Push(v) => v.len(),
        Value::Map(v) => v.len(),
        _ => 0,
    }
}
