//! A small RESP2/RESP3 codec for tests, written apart from the proxy's own so that one cannot hide
//! the other's mistakes.
//!
//! Invariant: nothing here ever needs more than the bytes it is given; an unfinished frame is
//! `Ok(None)`. It favours plainness over speed: a whole frame is scanned again on every read.

use std::fmt;

/// One decoded reply. Both RESP2 nulls and the RESP3 null are [`Value::Null`]; compare raw bytes
/// where the difference matters.
#[derive(Clone, PartialEq)]
pub enum Value {
    Simple(String),
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    Null,
    Array(Vec<Value>),
    Map(Vec<(Value, Value)>),
    Set(Vec<Value>),
    Push(Vec<Value>),
    Double(String),
    Bool(bool),
    BigNumber(String),
    Verbatim(Vec<u8>),
}

impl Value {
    /// A bulk string, for comparisons.
    pub fn bulk(bytes: impl AsRef<[u8]>) -> Self {
        Self::Bulk(bytes.as_ref().to_vec())
    }

    /// `+OK`.
    pub fn ok() -> Self {
        Self::Simple("OK".to_owned())
    }

    /// The text of any string-like value, errors included.
    pub fn text(&self) -> String {
        match self {
            Self::Simple(s) | Self::Error(s) | Self::Double(s) | Self::BigNumber(s) => s.clone(),
            Self::Bulk(b) => String::from_utf8_lossy(b).into_owned(),
            Self::Verbatim(b) => String::from_utf8_lossy(b.get(4..).unwrap_or(b)).into_owned(),
            Self::Int(n) => n.to_string(),
            other => panic!("{other:?} has no text"),
        }
    }

    /// The integer, or a panic that shows what came instead.
    #[track_caller]
    pub fn int(&self) -> i64 {
        match self {
            Self::Int(n) => *n,
            other => panic!("expected an integer, got {other:?}"),
        }
    }

    /// The elements of an array, set or push.
    #[track_caller]
    pub fn items(&self) -> &[Value] {
        match self {
            Self::Array(v) | Self::Set(v) | Self::Push(v) => v,
            other => panic!("expected an array, got {other:?}"),
        }
    }

    /// Key–value pairs of a map, or of the flat array RESP2 uses for one.
    #[track_caller]
    pub fn pairs(&self) -> Vec<(Value, Value)> {
        match self {
            Self::Map(v) => v.clone(),
            Self::Array(v) => v.chunks(2).map(|c| (c[0].clone(), c[1].clone())).collect(),
            other => panic!("expected a map, got {other:?}"),
        }
    }

    /// The value under `key` of a map (RESP3) or flat array (RESP2).
    pub fn field(&self, key: &str) -> Option<Value> {
        self.pairs().into_iter().find(|(k, _)| k.text() == key).map(|(_, v)| v)
    }

    /// Whether this is an error reply that starts with `prefix`.
    pub fn is_error(&self, prefix: &str) -> bool {
        matches!(self, Self::Error(text) if text.starts_with(prefix))
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simple(s) => write!(f, "+{s}"),
            Self::Error(s) => write!(f, "-{s}"),
            Self::Int(n) => write!(f, ":{n}"),
            Self::Bulk(b) if b.len() > 80 => {
                write!(f, "{:?}… ({} bytes)", String::from_utf8_lossy(&b[..80]), b.len())
            }
            Self::Bulk(b) => write!(f, "{:?}", String::from_utf8_lossy(b)),
            Self::Null => f.write_str("null"),
            Self::Array(v) if v.len() > 24 => {
                write!(f, "array of {}, first {:?}", v.len(), &v[..24])
            }
            Self::Array(v) => f.debug_list().entries(v).finish(),
            Self::Map(v) => f.debug_map().entries(v.iter().map(|(k, v)| (k, v))).finish(),
            Self::Set(v) => write!(f, "set{v:?}"),
            Self::Push(v) => write!(f, "push{v:?}"),
            Self::Double(s) => write!(f, ",{s}"),
            Self::Bool(b) => write!(f, "#{b}"),
            Self::BigNumber(s) => write!(f, "({s}"),
            Self::Verbatim(b) => write!(f, "={:?}", String::from_utf8_lossy(b)),
        }
    }
}

/// A frame that no RESP peer may send.
#[derive(Debug)]
pub struct Malformed(pub String);

/// Length in bytes of the first whole reply frame of `buf`.
pub fn frame_len(buf: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut pos = 0;
    let mut due: u64 = 1;
    while due > 0 {
        let Some((line, next)) = line(buf, pos) else {
            return Ok(None);
        };
        due -= 1;
        let Some((&kind, rest)) = line.split_first() else {
            return Err(Malformed("empty line where a frame should start".into()));
        };
        pos = next;
        match kind {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {}
            b'$' | b'=' | b'!' => {
                let n = number(rest)?;
                if n >= 0 {
                    pos += n as usize + 2;
                    if buf.len() < pos {
                        return Ok(None);
                    }
                }
            }
            b'*' | b'~' | b'>' => due += number(rest)?.max(0) as u64,
            b'%' => due += 2 * number(rest)?.max(0) as u64,
            b'|' => due += 2 * number(rest)?.max(0) as u64 + 1,
            other => {
                return Err(Malformed(format!("unknown frame type {:?}", other as char)));
            }
        }
    }
    Ok(Some(pos))
}

/// The first whole reply of `buf` and its length.
pub fn parse(buf: &[u8]) -> Result<Option<(Value, usize)>, Malformed> {
    let Some(end) = frame_len(buf)? else {
        return Ok(None);
    };
    let mut pos = 0;
    let value = value(&buf[..end], &mut pos)?;
    Ok(Some((value, end)))
}

fn value(buf: &[u8], pos: &mut usize) -> Result<Value, Malformed> {
    let (line, next) = line(buf, *pos).ok_or_else(|| Malformed("frame ends early".into()))?;
    *pos = next;
    let (kind, rest) = (line[0], &line[1..]);
    let text = || String::from_utf8_lossy(rest).into_owned();
    let many = |n: i64, pos: &mut usize| -> Result<Vec<Value>, Malformed> {
        (0..n.max(0)).map(|_| value(buf, pos)).collect()
    };
    Ok(match kind {
        b'+' => Value::Simple(text()),
        b'-' => Value::Error(text()),
        b':' => Value::Int(number(rest)?),
        b'_' => Value::Null,
        b',' => Value::Double(text()),
        b'#' => Value::Bool(rest == b"t"),
        b'(' => Value::BigNumber(text()),
        b'$' | b'=' | b'!' => {
            let n = number(rest)?;
            if n < 0 {
                return Ok(Value::Null);
            }
            let bytes = buf[*pos..*pos + n as usize].to_vec();
            *pos += n as usize + 2;
            match kind {
                b'$' => Value::Bulk(bytes),
                b'=' => Value::Verbatim(bytes),
                _ => Value::Error(String::from_utf8_lossy(&bytes).into_owned()),
            }
        }
        b'*' if rest == b"-1" => Value::Null,
        b'*' => Value::Array(many(number(rest)?, pos)?),
        b'~' => Value::Set(many(number(rest)?, pos)?),
        b'>' => Value::Push(many(number(rest)?, pos)?),
        b'%' => {
            let flat = many(2 * number(rest)?, pos)?;
            Value::Map(flat.chunks(2).map(|c| (c[0].clone(), c[1].clone())).collect())
        }
        b'|' => {
            many(2 * number(rest)?, pos)?;
            value(buf, pos)?
        }
        other => return Err(Malformed(format!("unknown frame type {:?}", other as char))),
    })
}

fn line(buf: &[u8], from: usize) -> Option<(&[u8], usize)> {
    let rest = buf.get(from..)?;
    let end = rest.windows(2).position(|w| w == b"\r\n")?;
    Some((&rest[..end], from + end + 2))
}

fn number(text: &[u8]) -> Result<i64, Malformed> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|t| t.parse().ok())
        .ok_or_else(|| Malformed(format!("not a number: {:?}", String::from_utf8_lossy(text))))
}

/// One request as a server sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Name and arguments.
    pub args: Vec<Vec<u8>>,
}

impl Request {
    /// Upper-case name; empty for an empty inline line.
    pub fn name(&self) -> String {
        self.arg(0).to_ascii_uppercase()
    }

    /// Argument `i` as text; empty when there is none.
    pub fn arg(&self, i: usize) -> String {
        self.args.get(i).map(|a| String::from_utf8_lossy(a).into_owned()).unwrap_or_default()
    }
}

/// The first whole request of `buf` (array of bulk strings, or an inline line) and its length.
pub fn parse_request(buf: &[u8]) -> Result<Option<(Request, usize)>, Malformed> {
    if buf.is_empty() {
        return Ok(None);
    }
    if buf[0] != b'*' {
        let Some(end) = buf.iter().position(|&b| b == b'\n') else {
            return Ok(None);
        };
        let args = buf[..end]
            .split(u8::is_ascii_whitespace)
            .filter(|w| !w.is_empty())
            .map(<[u8]>::to_vec)
            .collect();
        return Ok(Some((Request { args }, end + 1)));
    }
    let Some((head, mut pos)) = line(buf, 0) else {
        return Ok(None);
    };
    let count = number(&head[1..])?;
    let mut args = Vec::new();
    for _ in 0..count {
        let Some((head, next)) = line(buf, pos) else {
            return Ok(None);
        };
        if head.first() != Some(&b'$') {
            return Err(Malformed("expected '$'".into()));
        }
        let len = number(&head[1..])? as usize;
        let Some(bytes) = buf.get(next..next + len) else {
            return Ok(None);
        };
        if buf.len() < next + len + 2 {
            return Ok(None);
        }
        args.push(bytes.to_vec());
        pos = next + len + 2;
    }
    Ok(Some((Request { args }, pos)))
}

/// Encodes a request as an array of bulk strings.
pub fn encode<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut out =
        Vec::with_capacity(16 + args.iter().map(|a| a.as_ref().len() + 16).sum::<usize>());
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        let arg = arg.as_ref();
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// A copy of anything that is bytes.
pub fn bytes(from: impl AsRef<[u8]>) -> Vec<u8> {
    from.as_ref().to_vec()
}

/// Builds the argument list of a command from anything that is bytes: `cmd!["SET", key, value]`.
#[macro_export]
macro_rules! cmd {
    ($($arg:expr),+ $(,)?) => {
        Vec::from([$($crate::support::resp::bytes($arg)),+])
    };
}
