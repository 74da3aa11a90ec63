//! The few frames the proxy writes itself.
//!
//! Invariant: every function appends exactly one whole frame (or, where named a header, exactly
//! the header). User data is never re-encoded with these, save for inline requests and splits.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::Version;

/// Appends `prefix n CRLF`, e.g. an array header (`*`), a map header (`%`), an integer (`:`).
pub fn header(out: &mut Vec<u8>, prefix: u8, n: i64) {
    out.push(prefix);
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = n.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if n < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// Appends a bulk string.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    header(out, b'$', bytes.len() as i64);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends a simple string; line breaks in `text` become blanks.
pub fn simple(out: &mut Vec<u8>, text: &str) {
    out.push(b'+');
    line(out, text.as_bytes());
}

/// Appends an error reply; `text` starts with its code, e.g. `ERR …`. Line breaks become blanks.
pub fn error(out: &mut Vec<u8>, text: &str) {
    out.push(b'-');
    line(out, text.as_bytes());
}

fn line(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(text.iter().map(|&b| if b == b'\r' || b == b'\n' { b' ' } else { b }));
    out.extend_from_slice(b"\r\n");
}

/// Appends an integer.
pub fn integer(out: &mut Vec<u8>, n: i64) {
    header(out, b':', n);
}

/// Appends the null of the protocol version.
pub fn null(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(match version {
        Version::V2 => b"$-1\r\n",
        Version::V3 => b"_\r\n",
    });
}

/// Appends the header of a map of `pairs` pairs: a flat array in RESP2.
pub fn map_header(out: &mut Vec<u8>, version: Version, pairs: usize) {
    match version {
        Version::V2 => header(out, b'*', 2 * pairs as i64),
        Version::V3 => header(out, b'%', pairs as i64),
    }
}

/// Appends a command as a multibulk request.
pub fn command<A: AsRef<[u8]>>(out: &mut Vec<u8>, args: &[A]) {
    header(out, b'*', args.len() as i64);
    for arg in args {
        bulk(out, arg.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_size() {
        for n in [0, 7, -1, 10, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            integer(&mut out, n);
            assert_eq!(out, format!(":{n}\r\n").into_bytes());
        }
    }

    #[test]
    fn an_error_stays_one_line() {
        let mut out = Vec::new();
        error(&mut out, "ERR a\r\nb");
        assert_eq!(out, b"-ERR a  b\r\n");
    }
}
