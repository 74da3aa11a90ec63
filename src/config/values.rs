//! Readers of single values: text in, typed value out.
//!
//! An error is the rest of a sentence that begins with the setting's name: what is wrong, and the
//! mend. Invariant: a reader of a secret never repeats the text.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::credentials::Secret;
use crate::worker::hub::ReadFrom;

/// Longest path of a Unix socket: `sun_path` less its closing zero, see unix(7).
const UNIX_SOCKET_PATH_BYTES: usize = 107;

/// Longest duration taken; more is a slip of the unit.
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("'{text}' is not a yes or no; give true or false")),
    }
}

pub(super) fn ip(text: &str) -> Result<IpAddr, String> {
    if text.eq_ignore_ascii_case("localhost") {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    bare.unwrap_or(text)
        .parse()
        .map_err(|_| format!("'{text}' is not an IP address; give one such as 127.0.0.1 or ::1"))
}

fn number<T: FromStr>(text: &str, range: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("'{text}' is not a number from {range}; give one"))
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    number(text, "0 to 65535")
}

pub(super) fn threads(text: &str) -> Result<NonZeroUsize, String> {
    const RANGE: &str = "1 to 256";
    let threads: NonZeroUsize = number(text, RANGE)?;
    if threads.get() > 256 {
        return Err(format!("'{text}' is not a number from {RANGE}; give one"));
    }
    Ok(threads)
}

pub(super) fn redirects(text: &str) -> Result<u32, String> {
    const RANGE: &str = "1 to 1000";
    match number(text, RANGE)? {
        n @ 1..=1000 => Ok(n),
        _ => Err(format!("'{text}' is not a number from {RANGE}; give one")),
    }
}

pub(super) fn read_from(text: &str) -> Result<ReadFrom, String> {
    match text {
        "primary" => Ok(ReadFrom::Primary),
        "prefer-replica" => Ok(ReadFrom::PreferReplica),
        "replica" => Ok(ReadFrom::Replica),
        _ => Err(format!(
            "'{text}' is none of primary, prefer-replica and replica; give one of them"
        )),
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if !duration.is_zero() && duration <= DURATION_MAX => Ok(duration),
        Ok(_) => Err(format!("'{text}' is out of range; give more than 0s and at most 24h")),
        Err(_) => Err(format!(
            "'{text}' is not a duration; give a number with a unit, such as 500ms, 5s or 2m"
        )),
    }
}

/// A duration that may be none at all.
pub(super) fn duration_or_zero(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(none) if none.is_zero() => Ok(none),
        _ if text.trim() == "0" => Ok(Duration::ZERO),
        _ => duration(text),
    }
}

/// A number of things; 0: no limit.
pub(super) fn limit(text: &str) -> Result<usize, String> {
    const RANGE: &str = "0 to 1000000";
    match number(text, RANGE)? {
        n @ 0..=1_000_000 => Ok(n),
        _ => Err(format!("'{text}' is not a number from {RANGE}; give one")),
    }
}

/// Bytes, from `least` to `most`.
pub(super) fn bytes(text: &str, least: u64, most: u64) -> Result<usize, String> {
    let size: bytesize::ByteSize = text.parse().map_err(|_| {
        format!("'{text}' is not a size; give bytes, or a number with a unit such as 64KiB, 16MiB or 1GiB")
    })?;
    let bytes = size.as_u64();
    match usize::try_from(bytes) {
        Ok(n) if (least..=most).contains(&bytes) => Ok(n),
        _ => {
            let shown = |n| bytesize::ByteSize::b(n).display().iec();
            Err(format!("'{text}' is out of range; give {} to {}", shown(least), shown(most)))
        }
    }
}

pub(super) fn pipeline(text: &str) -> Result<usize, String> {
    const RANGE: &str = "1 to 1000000";
    match number(text, RANGE)? {
        n @ 1..=1_000_000 => Ok(n),
        _ => Err(format!("'{text}' is not a number from {RANGE}; give one")),
    }
}

/// Events a second; 0: no limit.
pub(super) fn rate(text: &str) -> Result<u32, String> {
    const RANGE: &str = "0 to 100000";
    match number(text, RANGE)? {
        n @ 0..=100_000 => Ok(n),
        _ => Err(format!("'{text}' is not a number from {RANGE}; give one")),
    }
}

pub(super) fn octal(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o777 && !digits.starts_with('+') => Ok(mode),
        _ => Err(format!("'{text}' is not an octal mode; give one such as 0660")),
    }
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("is empty; give a path".to_owned());
    }
    Ok(PathBuf::from(text))
}

pub(super) fn socket_path(text: &str) -> Result<PathBuf, String> {
    if text.len() > UNIX_SOCKET_PATH_BYTES {
        return Err(format!(
            "is longer than the {UNIX_SOCKET_PATH_BYTES} bytes a Unix socket path may have; give a \
             shorter path"
        ));
    }
    path(text)
}

pub(super) fn username(text: &str) -> Result<Arc<str>, String> {
    if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("is empty or has spaces; give a user name such as 'default'".to_owned());
    }
    Ok(text.into())
}

/// Never repeats the text.
pub(super) fn token(text: &str) -> Result<Secret, String> {
    let text = text.trim();
    if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(
            "is empty or has spaces inside; give the output of 'gcloud auth print-access-token'"
                .to_owned(),
        );
    }
    Ok(Secret::new(text.to_owned()))
}
