//! A decoded reply, for the cold paths: cluster discovery, tests, the admin side.
//!
//! Decoding is the `redis-protocol` crate's; in front of it stands a resumable walk that finds the
//! end of the frame and holds the limits the crate lacks (its recursion follows the nesting of the
//! input, so a hostile node could overflow the stack). Invariant: the crate only ever sees one whole
//! frame inside the limits. User traffic never comes through here.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use redis_protocol::{resp2, resp3};

/// Largest reply a cold path takes (bytes). CLUSTER SHARDS of a 250-node cluster is below 1 MiB.
pub const MAX_FRAME: usize = 64 * 1024 * 1024;

/// Deepest nesting a cold path takes. CLUSTER SLOTS nests five deep.
pub const MAX_DEPTH: usize = 32;

/// Longest simple string, error or number (bytes).
const MAX_LINE: usize = 64 * 1024;

/// A decoded reply, RESP2 or RESP3.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Null, null bulk or null array.
    Null,
    /// Simple string.
    Simple(Vec<u8>),
    /// Bulk or verbatim string.
    Bulk(Vec<u8>),
    /// Simple or bulk error, without `-`.
    Error(String),
    /// Integer.
    Int(i64),
    /// Double.
    Double(f64),
    /// Boolean.
    Bool(bool),
    /// Big number, as its digits.
    BigNumber(Vec<u8>),
    /// Array or set.
    Array(Vec<Value>),
    /// Map; the order of the pairs is not the wire's.
    Map(Vec<(Value, Value)>),
    /// Push.
    Push(Vec<Value>),
}

impl Value {
    /// The text of a simple or bulk string, when it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Simple(b) | Self::Bulk(b) => std::str::from_utf8(b).ok(),
            _ => None,
        }
    }

    /// The elements of an array or set.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// An integer, also one written as a decimal string.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(n) => Some(*n),
            other => other.as_str()?.parse().ok(),
        }
    }

    /// Looks a name up in a map, or in the flat name-value array RESP2 has instead.
    pub fn field(&self, name: &str) -> Option<&Value> {
        match self {
            Self::Map(pairs) => {
                pairs.iter().find(|(k, _)| k.as_str() == Some(name)).map(|(_, v)| v)
            }
            Self::Array(flat) => flat
                .chunks_exact(2)
                .find(|pair| pair[0].as_str() == Some(name))
                .map(|pair| &pair[1]),
            _ => None,
        }
    }
}

/// Why bytes are not a reply that a cold path takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not RESP.
    #[error("the bytes are not RESP")]
    NotResp,
    /// More than [`MAX_FRAME`] bytes.
    #[error("the reply is larger than {MAX_FRAME} bytes")]
    TooLarge,
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("the reply is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

/// Decodes replies that arrive in pieces; remembers how far it has walked.
#[derive(Debug, Default)]
pub struct Decoder {
    pos: usize,
    /// Elements still due on each open level.
    open: Vec<usize>,
    resp3: bool,
    /// Where sets begin. The crate refuses sets of aggregates, which COMMAND INFO has, and loses their
    /// order: it is shown arrays instead.
    sets: Vec<usize>,
}

impl Decoder {
    /// Decodes the reply that starts at `buf[0]`: the value and its length, or `None` when bytes are
    /// missing. The caller passes the same start until the reply is whole.
    ///
    /// # Errors
    /// [`DecodeError`]; the connection cannot be trusted any further.
    pub fn decode(&mut self, buf: &[u8]) -> Result<Option<(Value, usize)>, DecodeError> {
        while self.pos == 0 || !self.open.is_empty() {
            if !self.element(buf)? {
                return if buf.len() > MAX_FRAME { Err(DecodeError::TooLarge) } else { Ok(None) };
            }
        }
        let Self { pos: len, resp3, sets, .. } = std::mem::take(self);
        let value = match (resp3, sets.is_empty()) {
            (false, _) => decode_resp2(&buf[..len]),
            (true, true) => decode_resp3(&buf[..len]),
            (true, false) => {
                let mut frame = buf[..len].to_vec();
                sets.into_iter().for_each(|at| frame[at] = b'*');
                decode_resp3(&frame)
            }
        };
        value.map(|value| Some((value, len)))
    }

    /// Walks over one element's header (and body, when it has no elements of its own); false when
    /// bytes are missing.
    fn element(&mut self, buf: &[u8]) -> Result<bool, DecodeError> {
        let Some(&kind) = buf.get(self.pos) else {
            return Ok(false);
        };
        let Some(line) = line(&buf[self.pos + 1..])? else {
            return Ok(false);
        };
        let mut next = self.pos + 1 + line.len() + 2;
        let mut elements = 0;
        match kind {
            b'+' | b'-' | b':' => {}
            b',' | b'_' | b'#' | b'(' => self.resp3 = true,
            b'$' | b'=' | b'!' => {
                self.resp3 |= kind != b'$';
                if let Some(len) = length(line)? {
                    next += len + 2;
                    if next > MAX_FRAME {
                        return Err(DecodeError::TooLarge);
                    }
                    if buf.len() < next {
                        return Ok(false);
                    }
                    if &buf[next - 2..next] != b"\r\n" {
                        return Err(DecodeError::NotResp);
                    }
                }
            }
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                self.resp3 |= kind != b'*';
                if kind == b'~' {
                    self.sets.push(self.pos);
                }
                let count = length(line)?.unwrap_or(0);
                elements = match kind {
                    b'%' => 2 * count,
                    // An attribute is followed by the value it belongs to.
                    b'|' => 2 * count + 1,
                    _ => count,
                };
            }
            _ => return Err(DecodeError::NotResp),
        }
        self.pos = next;
        if let Some(due) = self.open.last_mut() {
            *due -= 1;
        }
        if elements > 0 {
            if self.open.len() == MAX_DEPTH {
                return Err(DecodeError::TooDeep);
            }
            self.open.push(elements);
        }
        while self.open.last() == Some(&0) {
            self.open.pop();
        }
        Ok(true)
    }
}

/// The bytes before the first CRLF, when it is there.
fn line(buf: &[u8]) -> Result<Option<&[u8]>, DecodeError> {
    match buf.iter().take(MAX_LINE).position(|&b| b == b'\n') {
        Some(end) => buf[..end].strip_suffix(b"\r").map(Some).ok_or(DecodeError::NotResp),
        None if buf.len() >= MAX_LINE => Err(DecodeError::TooLarge),
        None => Ok(None),
    }
}

/// A length line; `None` for -1. Every element takes three bytes or more, so a count above
/// [`MAX_FRAME`] cannot be honest.
fn length(line: &[u8]) -> Result<Option<usize>, DecodeError> {
    if line == b"-1" {
        return Ok(None);
    }
    let canonical = line == b"0" || !line.starts_with(b"0");
    if line.is_empty() || !canonical || !line.iter().all(u8::is_ascii_digit) {
        return Err(DecodeError::NotResp);
    }
    std::str::from_utf8(line)
        .ok()
        .and_then(|text| text.parse::<usize>().ok())
        .filter(|&n| n <= MAX_FRAME)
        .map(Some)
        .ok_or(DecodeError::TooLarge)
}

fn decode_resp2(frame: &[u8]) -> Result<Value, DecodeError> {
    match resp2::decode::decode(frame) {
        Ok(Some((decoded, _))) => Ok(from_resp2(decoded)),
        _ => Err(DecodeError::NotResp),
    }
}

fn decode_resp3(frame: &[u8]) -> Result<Value, DecodeError> {
    match resp3::decode::complete::decode(frame) {
        Ok(Some((decoded, _))) => from_resp3(decoded),
        _ => Err(DecodeError::NotResp),
    }
}

fn from_resp2(frame: resp2::types::OwnedFrame) -> Value {
    use resp2::types::OwnedFrame as F;
    match frame {
        F::SimpleString(b) => Value::Simple(b),
        F::Error(text) => Value::Error(text),
        F::Integer(n) => Value::Int(n),
        F::BulkString(b) => Value::Bulk(b),
        F::Array(items) => Value::Array(items.into_iter().map(from_resp2).collect()),
        F::Null => Value::Null,
    }
}

fn from_resp3(frame: resp3::types::OwnedFrame) -> Result<Value, DecodeError> {
    use resp3::types::OwnedFrame as F;
    let all = |items: Vec<F>| items.into_iter().map(from_resp3).collect::<Result<Vec<_>, _>>();
    Ok(match frame {
        F::BlobString { data, .. } | F::VerbatimString { data, .. } => Value::Bulk(data),
        F::SimpleString { data, .. } => Value::Simple(data),
        F::SimpleError { data, .. } => Value::Error(data),
        F::BlobError { data, .. } => Value::Error(String::from_utf8_lossy(&data).into_owned()),
        F::Boolean { data, .. } => Value::Bool(data),
        F::Null => Value::Null,
        F::Number { data, .. } => Value::Int(data),
        F::Double { data, .. } => Value::Double(data),
        F::BigNumber { data, .. } => Value::BigNumber(data),
        F::Array { data, .. } => Value::Array(all(data)?),
        F::Push { data, .. } => Value::Push(all(data)?),
        F::Set { data, .. } => Value::Array(all(data.into_iter().collect())?),
        F::Map { data, .. } => Value::Map(
            data.into_iter()
                .map(|(k, v)| Ok((from_resp3(k)?, from_resp3(v)?)))
                .collect::<Result<_, DecodeError>>()?,
        ),
        // Streamed parts and HELLO are nothing a server replies with.
        F::Hello { .. } | F::ChunkedString(_) => return Err(DecodeError::NotResp),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(wire: &[u8]) -> Result<Option<(Value, usize)>, DecodeError> {
        Decoder::default().decode(wire)
    }

    fn bulk(text: &str) -> Value {
        Value::Bulk(text.into())
    }

    #[test]
    fn both_versions_decode_to_one_tree() {
        let resp2 = b"*3\r\n$5\r\nslots\r\n*2\r\n:0\r\n:16383\r\n$-1\r\n";
        let expected = Value::Array(vec![
            bulk("slots"),
            Value::Array(vec![Value::Int(0), Value::Int(16383)]),
            Value::Null,
        ]);
        assert_eq!(decode(resp2), Ok(Some((expected, resp2.len()))));

        let resp3 = b"%1\r\n+slots\r\n*2\r\n#t\r\n_\r\n:next";
        let (value, len) = decode(resp3).unwrap().unwrap();
        assert_eq!(len, resp3.len() - 5);
        let slots = value.field("slots").unwrap();
        assert_eq!(slots.as_array().unwrap(), [Value::Bool(true), Value::Null]);
        // As COMMAND INFO has them.
        let set_of_maps = b"~2\r\n%1\r\n+a\r\n~1\r\n:1\r\n%0\r\n";
        let inner =
            Value::Map(vec![(Value::Simple(b"a".to_vec()), Value::Array(vec![Value::Int(1)]))]);
        let sets = Value::Array(vec![inner, Value::Map(vec![])]);
        assert_eq!(decode(set_of_maps), Ok(Some((sets, set_of_maps.len()))));
        assert_eq!(decode(b"*-1\r\n").unwrap().unwrap().0, Value::Null);
        assert_eq!(decode(b"*0\r\n").unwrap().unwrap().0, Value::Array(vec![]));
    }

    #[test]
    fn fields_are_found_in_maps_and_in_flat_arrays() {
        let flat = Value::Array(vec![bulk("port"), Value::Int(6379), bulk("odd")]);
        assert_eq!(flat.field("port").and_then(Value::as_int), Some(6379));
        assert_eq!(flat.field("odd"), None);
        assert_eq!(bulk("12").as_int(), Some(12));
    }

    #[test]
    fn limits_end_the_reply_before_it_is_decoded() {
        let deep = [b"*1\r\n".repeat(MAX_DEPTH + 1), b":1\r\n".to_vec()].concat();
        assert_eq!(decode(&deep), Err(DecodeError::TooDeep));
        let allowed = [b"*1\r\n".repeat(MAX_DEPTH), b":1\r\n".to_vec()].concat();
        assert!(decode(&allowed).unwrap().is_some());
        assert_eq!(decode(b"$99999999999\r\n"), Err(DecodeError::TooLarge));
        assert_eq!(decode(b"*99999999999999999999999\r\n"), Err(DecodeError::TooLarge));
        for garbage in [
            &b"HTTP/1.1 400\r\n"[..],
            b"\x15\x03\x03\r\n",
            b"$x\r\n",
            b"$1\r\nabc\r\n",
            b"$00\r\n\r\n",
        ] {
            assert_eq!(decode(garbage), Err(DecodeError::NotResp), "{garbage:?}");
        }
    }

    proptest! {
        #[test]
        fn pieces_give_what_the_whole_gives(cut in 0usize..60) {
            let wire = b"*3\r\n$4\r\na\r\nb\r\n%1\r\n+k\r\n*2\r\n:1\r\n_\r\n!5\r\nERR x\r\n";
            let cut = cut.min(wire.len() - 1);
            let mut d = Decoder::default();
            prop_assert_eq!(d.decode(&wire[..cut]).unwrap(), None);
            prop_assert_eq!(d.decode(wire).unwrap(), decode(wire).unwrap());
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(
            proptest::sample::select(&b"*$%~>|+-:_#,(=!019\r\nab"[..]), 0..80)) {
            let mut d = Decoder::default();
            if let Ok(Some((_, len))) = d.decode(&bytes) {
                prop_assert!(len <= bytes.len());
            }
        }
    }
}
