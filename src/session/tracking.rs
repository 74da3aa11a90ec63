//! CLIENT TRACKING: what a session asked to be told about, in the server's words.
//!
//! A session that tracks has connections of its own to the nodes, on which the servers themselves
//! track what it reads; so OPTIN, OPTOUT, BCAST, PREFIX and NOLOOP are the servers' own. Invariant:
//! what stands here is what every such connection was told. REDIRECT is refused: it names a
//! connection of another client, and only RESP3 clients can be told here. It sends nothing.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::key::Key;
use crate::resp::request::Request;
use crate::resp::{Version, encode};

use super::local;

/// Options of CLIENT TRACKING ON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// All keys with the prefixes, whether read or not.
    pub bcast: bool,
    /// Only what is read after CLIENT CACHING YES.
    pub optin: bool,
    /// All that is read save after CLIENT CACHING NO.
    pub optout: bool,
    /// Not what the session changes itself.
    pub noloop: bool,
    /// Prefixes of BCAST; none: all keys.
    pub prefixes: Vec<Vec<u8>>,
}

/// A session that tracks.
#[derive(Debug, Default)]
pub struct Tracking {
    /// What it asked for.
    pub options: Options,
    /// CLIENT CACHING, for the next command.
    pub caching: Option<bool>,
    /// Its own connections: node and pipe.
    pub pipes: Vec<(u16, Key)>,
    /// CLIENT TRACKING ON waits for connections until they are made.
    pub starting: bool,
    /// When CLIENT TRACKING ON was taken in (ms of the worker's clock).
    pub since: u64,
}

/// What CLIENT TRACKING asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// To track.
    On(Options),
    /// To end it.
    Off,
}

/// Reads CLIENT TRACKING; `now` is what the session tracks already, `client_exists` whether a client
/// id is in use.
///
/// # Errors
/// The server's error text.
pub fn parse(
    request: &Request<'_>,
    now: Option<&Options>,
    client_exists: impl Fn(i64) -> bool,
) -> Result<Asked, String> {
    let syntax = || "ERR syntax error".to_owned();
    let mut o = Options::default();
    let mut redirect = false;
    let mut i = 3;
    while i < request.len() {
        let option = request.arg(i).to_ascii_lowercase();
        let more = i + 1 < request.len();
        match option.as_slice() {
            b"redirect" if more => {
                i += 1;
                if redirect {
                    return Err(
                        "ERR A client can only redirect to a single other client".to_owned()
                    );
                }
                let id = local::parse_int(request.arg(i))
                    .ok_or("ERR value is not an integer or out of range")?;
                if id != 0 && !client_exists(id) {
                    return Err("ERR The client ID you want redirect to does not exist".to_owned());
                }
                redirect = id != 0;
            }
            b"bcast" => o.bcast = true,
            b"optin" => o.optin = true,
            b"optout" => o.optout = true,
            b"noloop" => o.noloop = true,
            b"prefix" if more => {
                i += 1;
                o.prefixes.push(request.arg(i).to_vec());
            }
            _ => return Err(syntax()),
        }
        i += 1;
    }
    let mode = request.arg(2);
    if mode.eq_ignore_ascii_case(b"OFF") {
        return Ok(Asked::Off);
    }
    if !mode.eq_ignore_ascii_case(b"ON") {
        return Err(syntax());
    }
    if !o.bcast && !o.prefixes.is_empty() {
        return Err("ERR PREFIX option requires BCAST mode to be enabled".to_owned());
    }
    if let Some(now) = now
        && now.bcast != o.bcast
    {
        return Err("ERR You can't switch BCAST mode on/off before disabling tracking for this \
                    client, and then re-enabling it with a different mode."
            .to_owned());
    }
    if o.bcast && (o.optin || o.optout) {
        return Err("ERR OPTIN and OPTOUT are not compatible with BCAST".to_owned());
    }
    if o.optin && o.optout {
        return Err("ERR You can't specify both OPTIN mode and OPTOUT mode".to_owned());
    }
    if let Some(now) = now
        && (o.optin && now.optout || o.optout && now.optin)
    {
        return Err("ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this \
                    client, and then re-enabling it with a different mode."
            .to_owned());
    }
    let known = now.map(|n| n.prefixes.as_slice()).unwrap_or_default();
    if o.bcast {
        overlap(known, &o.prefixes)?;
    }
    if redirect {
        return Err("ERR memorystore-auth-proxy: CLIENT TRACKING with REDIRECT is not possible, \
                    as the other client's connection is not known to the servers; let this client \
                    use RESP3 (HELLO 3), which needs no redirection"
            .to_owned());
    }
    // Prefixes add up over several calls.
    let mut prefixes = known.to_vec();
    prefixes.extend(o.prefixes.iter().filter(|p| !known.contains(p)).cloned());
    o.prefixes = prefixes;
    Ok(Asked::On(o))
}

/// Prefixes may not overlap: a key would be told twice.
fn overlap(known: &[Vec<u8>], new: &[Vec<u8>]) -> Result<(), String> {
    let clash = |a: &[u8], b: &[u8], kind: &str| {
        let text = |p: &[u8]| String::from_utf8_lossy(p).into_owned();
        (a.starts_with(b) || b.starts_with(a)).then(|| {
            format!(
                "ERR Prefix '{}' overlaps with {kind} '{}'. Prefixes for a single client must not overlap.",
                text(a),
                text(b)
            )
        })
    };
    for (i, prefix) in new.iter().enumerate() {
        let existing = known.iter().filter(|k| *k != prefix);
        if let Some(text) =
            existing.into_iter().find_map(|k| clash(prefix, k, "an existing prefix"))
        {
            return Err(text);
        }
        if let Some(text) =
            new[i + 1..].iter().find_map(|p| clash(prefix, p, "another provided prefix"))
        {
            return Err(text);
        }
    }
    Ok(())
}

impl Options {
    /// The command that makes a connection track so.
    pub fn command(&self) -> Vec<u8> {
        let mut args: Vec<&[u8]> = vec![b"CLIENT", b"TRACKING", b"ON"];
        let flags: [(bool, &[u8]); 4] = [
            (self.bcast, b"BCAST"),
            (self.optin, b"OPTIN"),
            (self.optout, b"OPTOUT"),
            (self.noloop, b"NOLOOP"),
        ];
        args.extend(flags.iter().filter(|(on, _)| *on).map(|(_, word)| *word));
        for prefix in &self.prefixes {
            args.push(b"PREFIX");
            args.push(prefix);
        }
        let mut out = Vec::new();
        encode::command(&mut out, &args);
        out
    }
}

impl Tracking {
    /// Takes CLIENT CACHING in.
    ///
    /// # Errors
    /// The server's error text.
    pub fn cache_next(&mut self, answer: &[u8]) -> Result<(), &'static str> {
        let yes = answer.eq_ignore_ascii_case(b"YES");
        if !yes && !answer.eq_ignore_ascii_case(b"NO") {
            return Err("ERR syntax error");
        }
        if yes && !self.options.optin {
            return Err(
                "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.",
            );
        }
        if !yes && !self.options.optout {
            return Err(
                "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.",
            );
        }
        self.caching = Some(yes);
        Ok(())
    }

    /// What goes before the next command: the CLIENT CACHING it was said after.
    pub fn preamble(&self) -> Option<&'static [u8]> {
        self.caching.map(|yes| {
            if yes {
                &b"*3\r\n$6\r\nCLIENT\r\n$7\r\nCACHING\r\n$3\r\nYES\r\n"[..]
            } else {
                &b"*3\r\n$6\r\nCLIENT\r\n$7\r\nCACHING\r\n$2\r\nNO\r\n"[..]
            }
        })
    }
}

/// CLIENT TRACKINGINFO.
pub fn info(tracking: Option<&Tracking>, version: Version, out: &mut Vec<u8>) {
    let mut flags: Vec<&str> = Vec::new();
    let prefixes = tracking.map(|t| t.options.prefixes.as_slice()).unwrap_or_default();
    match tracking {
        None => flags.push("off"),
        Some(t) => {
            let o = &t.options;
            flags.push("on");
            let named = [
                (o.bcast, "bcast"),
                (o.optin, "optin"),
                (o.optin && t.caching == Some(true), "caching-yes"),
                (o.optout, "optout"),
                (o.optout && t.caching == Some(false), "caching-no"),
                (o.noloop, "noloop"),
            ];
            flags.extend(named.iter().filter(|(on, _)| *on).map(|(_, name)| *name));
        }
    }
    encode::map_header(out, version, 3);
    encode::bulk(out, b"flags");
    encode::header(out, if version == Version::V3 { b'~' } else { b'*' }, flags.len() as i64);
    flags.iter().for_each(|f| encode::bulk(out, f.as_bytes()));
    encode::bulk(out, b"redirect");
    encode::integer(out, if tracking.is_some() { 0 } else { -1 });
    encode::bulk(out, b"prefixes");
    encode::header(out, b'*', prefixes.len() as i64);
    prefixes.iter().for_each(|p| encode::bulk(out, p));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::request::fill_args;

    fn asked(words: &str, now: Option<&Options>) -> Result<Asked, String> {
        let argv: Vec<&str> = ["CLIENT", "TRACKING"].into_iter().chain(words.split(' ')).collect();
        let mut frame = Vec::new();
        encode::command(&mut frame, &argv);
        let mut args = Vec::new();
        fill_args(&frame, &mut args);
        parse(&Request::new(&frame, None, &args), now, |id| id == 7)
    }

    fn on(words: &str) -> Options {
        match asked(words, None) {
            Ok(Asked::On(o)) => o,
            other => panic!("{words}: {other:?}"),
        }
    }

    #[test]
    fn refusals_are_the_servers() {
        let plain = on("ON");
        let bcast = on("ON BCAST PREFIX a");
        for (words, now, want) in [
            ("MAYBE", None, "ERR syntax error"),
            ("ON FOO", None, "ERR syntax error"),
            ("ON PREFIX", None, "ERR syntax error"),
            ("ON PREFIX x", None, "ERR PREFIX option requires"),
            ("ON OPTIN OPTOUT", None, "ERR You can't specify both"),
            ("ON OPTIN BCAST", None, "ERR OPTIN and OPTOUT are not compatible"),
            ("ON BCAST", Some(&plain), "ERR You can't switch BCAST"),
            ("ON", Some(&bcast), "ERR You can't switch BCAST"),
            ("ON REDIRECT abc", None, "ERR value is not an integer"),
            ("ON REDIRECT 99", None, "ERR The client ID you want redirect to"),
            ("ON REDIRECT 7", None, "ERR memorystore-auth-proxy"),
            ("ON BCAST PREFIX a PREFIX ab", None, "ERR Prefix 'a' overlaps with another"),
            ("ON BCAST PREFIX ab", Some(&bcast), "ERR Prefix 'ab' overlaps with an existing"),
        ] {
            let text = asked(words, now).expect_err(words);
            assert!(text.starts_with(want), "{words}: {text}");
        }
        assert_eq!(asked("OFF BCAST", Some(&plain)), Ok(Asked::Off));
    }

    #[test]
    fn prefixes_add_up() {
        let first = on("ON BCAST PREFIX a PREFIX b NOLOOP");
        let Ok(Asked::On(both)) = asked("ON BCAST PREFIX c", Some(&first)) else { panic!() };
        assert_eq!(both.prefixes, [b"a", b"b", b"c"]);
        assert!(!both.noloop && both.bcast);
        let text = String::from_utf8(first.command()).expect("text");
        assert!(text.contains("BCAST") && text.contains("NOLOOP") && text.contains("PREFIX"));
    }

    #[test]
    fn caching_needs_its_mode() {
        let mut t = Tracking { options: on("ON OPTIN"), ..Tracking::default() };
        assert!(t.cache_next(b"NO").is_err());
        assert!(t.cache_next(b"maybe").is_err());
        assert_eq!(t.preamble(), None);
        assert!(t.cache_next(b"yes").is_ok());
        assert!(t.preamble().is_some_and(|p| p.ends_with(b"YES\r\n")));
    }
}
