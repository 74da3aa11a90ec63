//! Inline requests: a line of words, with Redis's quoting rules.
//!
//! Invariant: what comes out is what `sdssplitargs` of Redis would give. It writes nothing.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// Splits an inline request into its words; `None` when quotes do not match.
///
/// Double quotes know `\n \r \t \b \a \xHH` and `\` before any other byte; single quotes know `\'`.
/// A closing quote must be followed by a blank or the end.
pub fn split(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        while let [first, tail @ ..] = rest
            && is_blank(*first)
        {
            rest = tail;
        }
        if rest.is_empty() {
            return Some(words);
        }
        let mut word = Vec::new();
        rest = take_word(rest, &mut word)?;
        words.push(word);
    }
}

fn is_blank(b: u8) -> bool {
    // isspace() of C, and NUL, which ends a C string.
    matches!(b, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | 0)
}

fn take_word<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [] => return Some(rest),
            [b'"', tail @ ..] => {
                rest = take_double_quoted(tail, word)?;
                return ends_word(rest).then_some(rest);
            }
            [b'\'', tail @ ..] => {
                rest = take_single_quoted(tail, word)?;
                return ends_word(rest).then_some(rest);
            }
            [b, ..] if is_blank(*b) => return Some(rest),
            [b, tail @ ..] => {
                word.push(*b);
                rest = tail;
            }
        }
    }
}

fn ends_word(rest: &[u8]) -> bool {
    rest.first().is_none_or(|&b| is_blank(b))
}

fn take_double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [b'\\', b'x', a, b, tail @ ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => {
                word.push(hex(*a) << 4 | hex(*b));
                rest = tail;
            }
            [b'\\', c, tail @ ..] => {
                word.push(match c {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                rest = tail;
            }
            [b'"', tail @ ..] => return Some(tail),
            [c, tail @ ..] => {
                word.push(*c);
                rest = tail;
            }
            [] => return None,
        }
    }
}

fn take_single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [b'\\', b'\'', tail @ ..] => {
                word.push(b'\'');
                rest = tail;
            }
            [b'\'', tail @ ..] => return Some(tail),
            [c, tail @ ..] => {
                word.push(*c);
                rest = tail;
            }
            [] => return None,
        }
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A') + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::split;
    use proptest::prelude::*;

    fn words(line: &str) -> Option<Vec<String>> {
        split(line.as_bytes())
            .map(|w| w.into_iter().map(|w| w.iter().map(|&b| b as char).collect()).collect())
    }

    #[test]
    fn splits_as_redis_does() {
        assert_eq!(words("SET a b\r\n"), Some(vec!["SET".into(), "a".into(), "b".into()]));
        assert_eq!(words("  \r\n"), Some(vec![]));
        assert_eq!(
            words(r#"set "a b" 'c\'d'"#),
            Some(vec!["set".into(), "a b".into(), "c'd".into()])
        );
        assert_eq!(words(r#""\x41\n\"""#), Some(vec!["A\n\"".into()]));
        assert_eq!(words(r#"get """#), Some(vec!["get".into(), String::new()]));
        assert_eq!(words(r#"get "a"#), None);
        assert_eq!(words(r#"get "a"b"#), None);
        assert_eq!(words("get 'a"), None);
    }

    proptest! {
        #[test]
        fn never_panics(line in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = split(&line);
        }
    }
}
