//! How much a client may send that has not said who it is: Redis's limits, so that a stranger cannot
//! have the proxy hold memory.
//!
//! Nothing is remembered from call to call, as there is so little to look at. It does not limit the
//! request as a whole: how much of it is read does.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::scan::{Line, RequestError, number_line};

/// Most arguments of a request.
const MAX_ARGS: i64 = 10;

/// Longest argument (bytes).
const MAX_BULK: i64 = 16 * 1024;

/// Looks at the request that begins at `buf[0]`, as far as it is there.
///
/// # Errors
/// What is too large, in Redis's words. Requests that are wrong otherwise are left to the scanner.
pub fn check(buf: &[u8]) -> Result<(), RequestError> {
    if buf.first() != Some(&b'*') {
        return Ok(());
    }
    let Line::Number(args, mut at) = number_line(buf, 1) else {
        return Ok(());
    };
    if args > MAX_ARGS {
        return Err(RequestError::UnauthenticatedMultibulk);
    }
    for _ in 0..args {
        if buf.get(at) != Some(&b'$') {
            return Ok(());
        }
        let Line::Number(len, start) = number_line(buf, at + 1) else {
            return Ok(());
        };
        if len > MAX_BULK {
            return Err(RequestError::UnauthenticatedBulk);
        }
        at = start + len.max(0).unsigned_abs() as usize + 2;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_redis() {
        for (text, want) in [
            ("", Ok(())),
            ("PING\r\n", Ok(())),
            ("*10\r\n", Ok(())),
            ("*11\r\n", Err(RequestError::UnauthenticatedMultibulk)),
            ("*11", Ok(())),
            ("*x\r\n", Ok(())),
            ("*-1\r\n", Ok(())),
            ("*2\r\n$4\r\nAUTH\r\n$16384\r\n", Ok(())),
            ("*2\r\n$4\r\nAUTH\r\n$16385\r\n", Err(RequestError::UnauthenticatedBulk)),
            ("*2\r\n$16385\r\n", Err(RequestError::UnauthenticatedBulk)),
            ("*2\r\n$4\r\nAUTH\r\n$1", Ok(())),
            ("*2\r\n:4\r\n", Ok(())),
        ] {
            assert_eq!(check(text.as_bytes()), want, "{text:?}");
        }
    }
}
