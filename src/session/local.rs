//! Commands the proxy answers itself: the connection's own business.
//!
//! Invariant: replies, errors included, are byte for byte what a Redis server would say, except
//! where a cluster behind IAM makes that impossible; then the text says why. Nothing here reaches a
//! node. A client's AUTH password is neither checked, kept nor forwarded here: with users the hub has
//! looked at it before (`worker::hub::access`).
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::command::spec::{Handler, Local, Row};
use crate::resp::Version;
use crate::resp::encode;
use crate::resp::request::Request;

use super::core::{Closing, Session};
use super::tracking;

/// What the answers depend on besides the session.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// `redis` or `valkey`, as the upstream calls itself.
    pub server: &'a str,
    /// Version of the upstream.
    pub version: &'a str,
}

impl Facts<'_> {
    /// True when the upstream's version is this one or a later one.
    pub fn is_at_least(&self, major: u32, minor: u32) -> bool {
        let mut numbers = self.version.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
    }
}

/// What became of a local command.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The reply stands in `out`.
    Answered,
    /// A node has to answer it after all.
    Forward,
    /// The proxy cannot do that yet.
    NotSupported,
}

/// True for commands that change how later replies are written: they wait for those before them.
pub fn needs_empty_window(what: Local) -> bool {
    matches!(what, Local::Hello | Local::Reset)
}

/// What CONFIG GET says where the server refuses it, as Memorystore does: the few settings client
/// libraries ask for when they connect, with the values a Memorystore cluster has.
const CONFIG: &[(&str, &str)] = &[
    ("appendonly", "no"),
    ("databases", "1"),
    ("notify-keyspace-events", ""),
    ("proto-max-bulk-len", "536870912"),
    ("save", ""),
    ("slave-read-only", "yes"),
    ("replica-read-only", "yes"),
    ("timeout", "0"),
];

/// Answers CONFIG GET in the server's place.
pub fn config_get(request: &Request<'_>, version: Version, out: &mut Vec<u8>) {
    let wanted = |name: &&(&str, &str)| {
        request.args().skip(2).any(|pattern| {
            let pattern = pattern.to_ascii_lowercase();
            match pattern.strip_suffix(b"*") {
                Some(prefix) => name.0.as_bytes().starts_with(prefix),
                None => name.0.as_bytes() == pattern,
            }
        })
    };
    let found: Vec<&(&str, &str)> = CONFIG.iter().filter(wanted).collect();
    encode::map_header(out, version, found.len());
    for (name, value) in found {
        encode::bulk(out, name.as_bytes());
        encode::bulk(out, value.as_bytes());
    }
}

/// True if a command of the table's blocking kind would really block as it is written.
///
/// XREAD and XREADGROUP block only with BLOCK, which stands before STREAMS; of DEBUG only SLEEP does.
pub fn blocks(row: &Row, request: &Request<'_>) -> bool {
    match row.name {
        "xread" | "xreadgroup" => request
            .args()
            .skip(1)
            .take_while(|a| !a.eq_ignore_ascii_case(b"STREAMS"))
            .any(|a| a.eq_ignore_ascii_case(b"BLOCK")),
        "debug" => request.len() == 3 && request.arg(1).eq_ignore_ascii_case(b"SLEEP"),
        _ => true,
    }
}

/// The error reply to a DEBUG subcommand that would take a node away from everybody; `None` for all
/// other commands.
pub fn kills_node(row: &Row, request: &Request<'_>) -> Option<String> {
    const KILLERS: [&str; 6] =
        ["SEGFAULT", "PANIC", "ASSERT", "OOM", "RESTART", "CRASH-AND-RECOVER"];
    if row.name != "debug" {
        return None;
    }
    let killer = KILLERS.iter().find(|k| request.arg(1).eq_ignore_ascii_case(k.as_bytes()))?;
    Some(format!(
        "ERR memorystore-auth-proxy: 'debug {}' would end a node of the cluster behind the proxy, for all its \
         clients; the command was not executed",
        killer.to_ascii_lowercase()
    ))
}

/// How long a blocking command may block, in ms; 0: for ever; `None`: it is not well formed.
pub fn block_timeout_ms(row: &Row, request: &Request<'_>) -> Option<u64> {
    let seconds = |text: &[u8]| -> Option<u64> {
        let s: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
        (0.0..1e15).contains(&s).then(|| (s * 1000.0).ceil() as u64)
    };
    if row.is_learned() {
        // Where its timeout stands is not told.
        return Some(0);
    }
    match timeout_place(row, request)? {
        (at, 1000) => seconds(request.arg(at)),
        (at, _) => u64::try_from(parse_int(request.arg(at))?).ok(),
    }
}

/// Where a blocking command's timeout stands, and how many ms its unit has.
fn timeout_place(row: &Row, request: &Request<'_>) -> Option<(usize, u64)> {
    Some(match row.name {
        "blmpop" | "bzmpop" => (1, 1000),
        "wait" => (2, 1),
        "waitaof" => (3, 1),
        "xread" | "xreadgroup" => {
            let at = (1..request.len()).find(|&i| request.arg(i).eq_ignore_ascii_case(b"BLOCK"))?;
            (at + 1, 1)
        }
        _ => (request.len().checked_sub(1)?, 1000),
    })
}

/// Writes a blocking command again with so many ms as its timeout; 0: for ever.
pub fn with_timeout(row: &Row, request: &Request<'_>, ms: u64, out: &mut Vec<u8>) {
    let place = timeout_place(row, request);
    let text = match place {
        Some((_, 1000)) if ms > 0 => format!("{}.{:03}", ms / 1000, ms % 1000),
        _ => ms.to_string(),
    };
    let args: Vec<&[u8]> = (0..request.len())
        .map(
            |i| if place.is_some_and(|(at, _)| at == i) { text.as_bytes() } else { request.arg(i) },
        )
        .collect();
    encode::command(out, &args);
}

/// True when a blocking command can be sent anew after it waited in vain, and nothing is missed in
/// between: not XREAD from `$`, which means "from now on" and would mean another now; nor DEBUG SLEEP,
/// which waits for nothing.
pub fn may_wait_in_turns(row: &Row, request: &Request<'_>) -> bool {
    let from_now_on = || row.name == "xread" && request.args().any(|a| a == b"$");
    let knows_timeout = !row.is_learned() && row.name != "debug";
    row.handler == Handler::Blocking && knows_timeout && !from_now_on()
}

/// What a server says when a blocking command has waited in vain; `None`: it has to be asked, as WAIT
/// answers with a number.
pub fn waited_in_vain(row: &Row, version: Version) -> Option<&'static [u8]> {
    match (row.handler, version) {
        (Handler::Blocking, Version::V2) => Some(b"*-1\r\n"),
        (Handler::Blocking, Version::V3) => Some(b"_\r\n"),
        _ => None,
    }
}

/// The error reply for a command the proxy cannot carry.
pub fn not_supported(row: &Row) -> String {
    let name = row.name.replace('|', " ");
    if row.handler == Handler::OneServer {
        return format!(
            "ERR memorystore-auth-proxy: '{name}' needs a server with several databases, and behind the proxy is a \
             cluster, which has one; the command was not executed"
        );
    }
    if row.handler == Handler::Refused {
        return format!(
            "ERR memorystore-auth-proxy: '{name}' concerns one node of the cluster behind the proxy, which has no \
             meaning here; the command was not executed"
        );
    }
    format!(
        "ERR memorystore-auth-proxy does not support '{name}' yet; the command was not executed"
    )
}

/// The error Redis gives for a container command without a subcommand, or with an unknown one.
pub fn bare_container(row: &Row, request: &Request<'_>) -> String {
    if request.len() == 1 {
        return wrong_arity(row.name);
    }
    // Redis shows at most 128 bytes of it.
    let shown = &request.arg(1)[..request.arg(1).len().min(128)];
    format!(
        "ERR unknown subcommand '{}'. Try {} HELP.",
        String::from_utf8_lossy(shown),
        row.name.to_ascii_uppercase()
    )
}

/// The error Redis gives for too many arguments of a subcommand that takes some.
pub fn wrong_container_arity(row: &Row, request: &Request<'_>) -> String {
    let shown = &request.arg(1)[..request.arg(1).len().min(128)];
    format!(
        "ERR unknown subcommand or wrong number of arguments for '{}'. Try {} HELP.",
        String::from_utf8_lossy(shown),
        row.name.split('|').next().unwrap_or_default().to_ascii_uppercase()
    )
}

/// True when EVAL's number of keys is one a server accepts: only then is the script looked at.
pub fn has_its_keys(request: &Request<'_>) -> bool {
    let keys = parse_int(request.arg(2)).and_then(|n| usize::try_from(n).ok());
    keys.is_some_and(|n| n + 3 <= request.len())
}

/// The error Redis gives for a name it does not know: the name and the arguments, 128 bytes of each.
pub fn unknown_command(request: &Request<'_>) -> String {
    let cut = |a: &[u8], n: usize| String::from_utf8_lossy(&a[..a.len().min(n)]).into_owned();
    let mut args = String::new();
    for arg in request.args().skip(1) {
        if args.len() >= 128 {
            break;
        }
        args.push_str(&format!("'{}' ", cut(arg, 128 - args.len())));
    }
    format!("ERR unknown command '{}', with args beginning with: {args}", cut(request.arg(0), 128))
}

/// The error Redis gives for a wrong number of arguments.
pub fn wrong_arity(name: &str) -> String {
    format!("ERR wrong number of arguments for '{name}' command")
}

/// True when `argc` arguments, name included, fit the row.
pub fn arity_fits(row: &Row, argc: usize) -> bool {
    let arity = row.arity.unsigned_abs() as usize;
    if row.arity < 0 { argc >= arity } else { argc == arity }
}

/// Answers a local command into `out`.
pub fn answer(
    s: &mut Session,
    row: &Row,
    what: Local,
    request: &Request<'_>,
    facts: &Facts<'_>,
    out: &mut Vec<u8>,
) -> Outcome {
    if !arity_fits(row, request.len()) {
        encode::error(out, &wrong_arity(row.name));
        return Outcome::Answered;
    }
    match what {
        Local::Ping => ping(s, request, out),
        Local::Echo => encode::bulk(out, request.arg(1)),
        Local::Quit => {
            s.closing = Closing::AfterReplies;
            encode::simple(out, "OK");
        }
        Local::Hello => hello(s, request, facts, out),
        Local::Auth => {
            if request.len() > 3 {
                encode::error(out, "ERR syntax error");
            } else {
                encode::simple(out, "OK");
            }
        }
        Local::Reset => {
            s.version = Version::V2;
            s.db = 0;
            s.profile.name.clear();
            s.window.silent = false;
            encode::simple(out, "RESET");
        }
        Local::Asking => encode::simple(out, "OK"),
        Local::Role => {
            // The face of a single primary; the nodes behind it are nobody's business.
            encode::header(out, b'*', 3);
            encode::bulk(out, b"master");
            encode::integer(out, 0);
            encode::header(out, b'*', 0);
        }
        Local::ClientTrackinginfo => tracking::info(s.tracking(), s.version, out),
        Local::ClientGetredir => encode::integer(out, if s.tracking().is_some() { 0 } else { -1 }),
        Local::ClientCapa => encode::simple(out, "OK"),
        Local::ClientReply => client_reply(s, request.arg(2), out),
        Local::Select => select(request, out),
        Local::Readonly | Local::Readwrite => encode::simple(out, "OK"),
        Local::ClientId => encode::integer(out, s.profile.id as i64),
        Local::ClientGetname => {
            if s.profile.name.is_empty() {
                encode::null(out, s.version);
            } else {
                encode::bulk(out, &s.profile.name);
            }
        }
        Local::ClientSetname => set_name(s, request.arg(2), out),
        Local::ClientSetinfo => set_info(s, request, out),
        Local::ClientNoEvict | Local::ClientNoTouch => {
            let mode = request.arg(2);
            let on = mode.eq_ignore_ascii_case(b"ON");
            if on || mode.eq_ignore_ascii_case(b"OFF") {
                match what {
                    Local::ClientNoEvict => s.profile.no_evict = on,
                    _ => s.profile.no_touch = on,
                }
                encode::simple(out, "OK");
            } else {
                encode::error(out, "ERR syntax error");
            }
        }
        _ if what.is_any_nodes() => return Outcome::Forward,
        _ => return Outcome::NotSupported,
    }
    Outcome::Answered
}

fn ping(s: &Session, request: &Request<'_>, out: &mut Vec<u8>) {
    let is_subscribed = s.streams.as_deref().is_some_and(|x| x.subscriptions.total() > 0);
    if is_subscribed && s.version == Version::V2 && request.len() <= 2 {
        // Looks like a message, as everything a subscribed RESP2 client hears.
        encode::header(out, b'*', 2);
        encode::bulk(out, b"pong");
        let said = if request.len() == 2 { request.arg(1) } else { b"" };
        return encode::bulk(out, said);
    }
    match request.len() {
        1 => encode::simple(out, "PONG"),
        2 => encode::bulk(out, request.arg(1)),
        _ => encode::error(out, &wrong_arity("ping")),
    }
}

fn client_reply(s: &mut Session, mode: &[u8], out: &mut Vec<u8>) {
    if mode.eq_ignore_ascii_case(b"ON") {
        s.window.silent = false;
        encode::simple(out, "OK");
    } else if mode.eq_ignore_ascii_case(b"OFF") {
        s.window.silent = true;
    } else if mode.eq_ignore_ascii_case(b"SKIP") {
        s.window.skip_next = !s.window.silent;
    } else {
        encode::error(out, "ERR syntax error");
    }
}

/// Why a cluster has no other database than 0.
pub const ONE_DATABASE: &str = "ERR DB index is out of range: behind memorystore-auth-proxy is a cluster, \
     which has database 0 only; use a URL that ends in /0 or in no number";

fn select(request: &Request<'_>, out: &mut Vec<u8>) {
    match parse_int(request.arg(1)) {
        None => encode::error(out, "ERR value is not an integer or out of range"),
        Some(0) => encode::simple(out, "OK"),
        Some(_) => encode::error(out, ONE_DATABASE),
    }
}

/// A decimal integer as Redis reads it: no blanks, no plus sign, no leading zeros.
pub fn parse_int(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = digits == b"0" && text.len() == 1
        || digits.first().is_some_and(|d| (b'1'..=b'9').contains(d));
    if !canonical {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Redis allows printable ASCII without blanks in client names and library names.
fn is_valid_name(name: &[u8]) -> bool {
    name.iter().all(|b| (b'!'..=b'~').contains(b))
}

const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

fn set_name(s: &mut Session, name: &[u8], out: &mut Vec<u8>) {
    if is_valid_name(name) {
        s.profile.name = name.to_vec();
        encode::simple(out, "OK");
    } else {
        encode::error(out, BAD_NAME);
    }
}

fn set_info(s: &mut Session, request: &Request<'_>, out: &mut Vec<u8>) {
    let (attribute, value) = (request.arg(2), request.arg(3));
    let library = attribute.eq_ignore_ascii_case(b"LIB-NAME");
    if !library && !attribute.eq_ignore_ascii_case(b"LIB-VER") {
        let shown = String::from_utf8_lossy(attribute).into_owned();
        encode::error(out, &format!("ERR Unrecognized option '{shown}'"));
    } else if !is_valid_name(value) {
        let shown = if library { "lib-name" } else { "lib-ver" };
        encode::error(
            out,
            &format!("ERR {shown} cannot contain spaces, newlines or special characters."),
        );
    } else {
        if library {
            s.profile.lib_name = value.to_vec();
        } else {
            s.profile.lib_version = value.to_vec();
        }
        encode::simple(out, "OK");
    }
}

/// What HELLO asks for.
#[derive(Debug)]
pub struct Hello<'a> {
    version: Version,
    name: Option<&'a [u8]>,
    /// User and password of its AUTH option.
    pub credentials: Option<(&'a [u8], &'a [u8])>,
}

impl<'a> Hello<'a> {
    /// Reads its arguments; `version` is the one in use.
    ///
    /// # Errors
    /// The server's error text.
    pub fn of(request: &Request<'a>, mut version: Version) -> Result<Self, String> {
        if request.len() > 1 {
            version = match parse_int(request.arg(1)) {
                None => {
                    return Err("ERR Protocol version is not an integer or out of range".into());
                }
                Some(2) => Version::V2,
                Some(3) => Version::V3,
                Some(_) => return Err("NOPROTO unsupported protocol version".into()),
            };
        }
        let mut hello = Self { version, name: None, credentials: None };
        let mut i = 2;
        while i < request.len() {
            let option = request.arg(i);
            let left = request.len() - 1 - i;
            if option.eq_ignore_ascii_case(b"AUTH") && left >= 2 {
                hello.credentials = Some((request.arg(i + 1), request.arg(i + 2)));
                i += 3;
            } else if option.eq_ignore_ascii_case(b"SETNAME") && left >= 1 {
                if !is_valid_name(request.arg(i + 1)) {
                    return Err(BAD_NAME.into());
                }
                hello.name = Some(request.arg(i + 1));
                i += 2;
            } else {
                let shown = String::from_utf8_lossy(option);
                return Err(format!("ERR Syntax error in HELLO option '{shown}'"));
            }
        }
        Ok(hello)
    }
}

fn hello(s: &mut Session, request: &Request<'_>, facts: &Facts<'_>, out: &mut Vec<u8>) {
    let Hello { version, name, .. } = match Hello::of(request, s.version) {
        Ok(hello) => hello,
        Err(text) => return encode::error(out, &text),
    };
    s.version = version;
    if let Some(name) = name {
        s.profile.name = name.to_vec();
    }
    encode::map_header(out, version, 7);
    encode::bulk(out, b"server");
    encode::bulk(out, facts.server.as_bytes());
    encode::bulk(out, b"version");
    encode::bulk(out, facts.version.as_bytes());
    encode::bulk(out, b"proto");
    encode::integer(out, if version == Version::V3 { 3 } else { 2 });
    encode::bulk(out, b"id");
    encode::integer(out, s.profile.id as i64);
    encode::bulk(out, b"mode");
    encode::bulk(out, b"standalone");
    encode::bulk(out, b"role");
    encode::bulk(out, b"master");
    encode::bulk(out, b"modules");
    encode::header(out, b'*', 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_as_redis_reads_them() {
        for (text, want) in [
            ("0", Some(0)),
            ("12", Some(12)),
            ("-3", Some(-3)),
            ("", None),
            ("-", None),
            ("-0", None),
            ("+1", None),
            ("01", None),
            (" 1", None),
            ("9223372036854775808", None),
        ] {
            assert_eq!(parse_int(text.as_bytes()), want, "{text:?}");
        }
    }
}
