//! Inline requests: the words are those of Redis's `sdssplitargs`, and what goes upstream holds them.

use memorystore_auth_proxy::resp::scan::{RequestScan, RequestScanner};
use memorystore_auth_proxy::resp::{encode, inline};

use crate::support::within;

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// `sdssplitargs` of Redis, its states and order of tests kept. A C string ends at its first NUL.
fn sdssplitargs(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let at = |p: usize| line.get(p).copied().unwrap_or(0);
    let mut p = 0;
    let mut vector = Vec::new();
    loop {
        while at(p) != 0 && is_space(at(p)) {
            p += 1;
        }
        if at(p) == 0 {
            return Some(vector);
        }
        let (mut inq, mut insq, mut done, mut current) = (false, false, false, Vec::new());
        while !done {
            let c = at(p);
            if inq {
                if c == b'\\'
                    && at(p + 1) == b'x'
                    && at(p + 2).is_ascii_hexdigit()
                    && at(p + 3).is_ascii_hexdigit()
                {
                    let text = [at(p + 2), at(p + 3)];
                    let text = std::str::from_utf8(&text).expect("ASCII");
                    current.push(u8::from_str_radix(text, 16).expect("hex"));
                    p += 3;
                } else if c == b'\\' && at(p + 1) != 0 {
                    p += 1;
                    current.push(match at(p) {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'b' => 8,
                        b'a' => 7,
                        other => other,
                    });
                } else if c == b'"' {
                    if at(p + 1) != 0 && !is_space(at(p + 1)) {
                        return None;
                    }
                    done = true;
                } else if c == 0 {
                    return None;
                } else {
                    current.push(c);
                }
            } else if insq {
                if c == b'\\' && at(p + 1) == b'\'' {
                    p += 1;
                    current.push(b'\'');
                } else if c == b'\'' {
                    if at(p + 1) != 0 && !is_space(at(p + 1)) {
                        return None;
                    }
                    done = true;
                } else if c == 0 {
                    return None;
                } else {
                    current.push(c);
                }
            } else {
                match c {
                    b' ' | b'\n' | b'\r' | b'\t' | 0 => done = true,
                    b'"' => inq = true,
                    b'\'' => insq = true,
                    _ => current.push(c),
                }
            }
            if at(p) != 0 {
                p += 1;
            }
        }
        vector.push(current);
    }
}

pub fn run(line: &[u8]) {
    let words = within(64 * line.len() + 4096, || inline::split(line));
    // Redis never sees a NUL here; these blanks end a word of ours and not of its.
    if !line.iter().any(|b| matches!(b, 0 | 0x0b | 0x0c)) {
        assert_eq!(words, sdssplitargs(line));
    }
    let Some(words) = words else {
        return;
    };
    let mut frame = Vec::new();
    encode::command(&mut frame, &words);
    let mut args = Vec::new();
    let scanned = RequestScanner::default().scan(&frame, &mut args, usize::MAX);
    assert_eq!(scanned, Ok(RequestScan::Multibulk(frame.len())));
    let back: Vec<&[u8]> = args.iter().map(|a| a.of(&frame)).collect();
    assert_eq!(back, words);
}
