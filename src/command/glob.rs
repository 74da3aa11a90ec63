//! Redis's glob patterns: what PSUBSCRIBE, KEYS and MATCH mean by `*`, `?`, `[…]` and `\`.
//!
//! Invariant: agrees with a Redis server on every pattern and text, malformed ones included, in time
//! linear in the text for each star of the pattern. It allocates nothing.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// True when the whole of `text` fits `pattern`.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Behind the last star: where the pattern goes on, and the text position tried for it.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, t));
            continue;
        }
        let Some(&byte) = text.get(t) else {
            return p >= pattern.len();
        };
        if let Some(taken) = pattern.get(p..).and_then(|rest| one(rest, byte)) {
            p += taken;
            t += 1;
        } else if let Some((behind, from)) = retry {
            // All other words of a pattern take one byte each, so only the last star has a choice.
            (p, t) = (behind, from + 1);
            retry = Some((behind, t));
        } else {
            return false;
        }
    }
}

/// Length of the first word of a pattern if it takes `byte`; a word takes exactly one byte.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', rest @ ..] => class(rest, byte).map(|n| n + 1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [plain, ..] => (*plain == byte).then_some(1),
    }
}

/// Length of what follows a `[`, up to its `]`, if the class takes `byte`. A class that is not closed
/// ends with the pattern.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let inverted = pattern.first() == Some(&b'^');
    let mut at = usize::from(inverted);
    let mut found = false;
    loop {
        match pattern.get(at..).unwrap_or_default() {
            [] => break,
            [b'\\', escaped, ..] => {
                found |= *escaped == byte;
                at += 2;
            }
            [b']', ..] => {
                at += 1;
                break;
            }
            [a, b'-', b, ..] => {
                found |= (*a.min(b)..=*a.max(b)).contains(&byte);
                at += 3;
            }
            [plain, ..] => {
                found |= *plain == byte;
                at += 1;
            }
        }
    }
    (found != inverted).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::matches;
    use proptest::prelude::*;

    #[test]
    fn as_redis_does() {
        for (pattern, text, want) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("**a**", "xxay", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[", "h", false),
            ("h[a", "ha", true),
            ("h[^", "hx", true),
            (r"h\*llo", "h*llo", true),
            (r"h\*llo", "hxllo", false),
            (r"h\", r"h\", true),
            (r"[\]]", "]", true),
            ("news.*", "news.art", true),
            ("*a*b*c", "aXbXcXc", true),
            ("*a*b*c", "aXbXcXd", false),
            ("a*", "b", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), want, "{pattern:?} {text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_text_fits_itself_escaped_and_a_star(text in proptest::collection::vec(any::<u8>(), 0..20)) {
            let escaped: Vec<u8> = text.iter().flat_map(|&b| [b'\\', b]).collect();
            prop_assert!(matches(&escaped, &text));
            prop_assert!(matches(b"*", &text));
            prop_assert!(!matches(&[&escaped[..], b"?"].concat(), &text));
        }

        #[test]
        fn total(pattern in "[a\\[\\]\\^\\\\*?-]{0,12}", text in "[a\\[\\]-]{0,12}") {
            let _ = matches(pattern.as_bytes(), text.as_bytes());
        }
    }
}
