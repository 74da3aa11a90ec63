//! Requests of clients: however they are cut, each ends where it ends, and what is taken is what a
//! server takes, argument for argument: frames go to nodes as they came, on connections that other
//! clients share.

use memorystore_auth_proxy::resp::request::ArgRange;
use memorystore_auth_proxy::resp::scan::{RequestError, RequestScan, RequestScanner};

use crate::support::{Cuts, within};

/// Frames in a stream, each with its arguments (`None`: inline), and how the stream ended.
#[derive(Debug, PartialEq)]
struct Taken {
    frames: Vec<(usize, Option<Vec<Vec<u8>>>)>,
    error: Option<RequestError>,
}

fn owned(args: &[ArgRange], frame: &[u8]) -> Vec<Vec<u8>> {
    args.iter().map(|a| a.of(frame).to_vec()).collect()
}

fn whole(stream: &[u8], most: usize) -> Taken {
    let mut taken = Taken { frames: Vec::new(), error: None };
    let (mut at, mut args) = (0, Vec::new());
    while at < stream.len() {
        let rest = &stream[at..];
        let bound = 64 * rest.len() + 4096;
        match within(bound, || RequestScanner::default().scan(rest, &mut args, most)) {
            Ok(RequestScan::Multibulk(n)) => {
                taken.frames.push((n, Some(owned(&args, &rest[..n]))));
                at += n;
            }
            Ok(RequestScan::Inline(n)) => {
                taken.frames.push((n, None));
                at += n;
            }
            Ok(RequestScan::Partial(need)) => {
                assert!(need > rest.len() || need > most, "asks for what it has");
                break;
            }
            Err(error) => {
                taken.error = Some(error);
                break;
            }
        }
    }
    taken
}

fn cut(stream: &[u8], most: usize, mut cuts: Cuts) -> Taken {
    let mut taken = Taken { frames: Vec::new(), error: None };
    let mut scanner = RequestScanner::default();
    let (mut at, mut have, mut args, mut wants) = (0, 0, Vec::new(), 0);
    while at < have || have < stream.len() {
        match scanner.scan(&stream[at..have], &mut args, most) {
            Ok(RequestScan::Multibulk(n)) => {
                assert!(n >= wants, "asked for {wants} bytes of a frame of {n}");
                taken.frames.push((n, Some(owned(&args, &stream[at..at + n]))));
                at += n;
            }
            Ok(RequestScan::Inline(n)) => {
                assert!(n >= wants);
                taken.frames.push((n, None));
                at += n;
            }
            Ok(RequestScan::Partial(need)) => {
                assert!(need > have - at, "asks for what it has");
                if have == stream.len() {
                    return taken;
                }
                wants = need;
                have = (have + cuts.next()).min(stream.len());
                continue;
            }
            Err(error) => {
                // Whoever asks again hears the same.
                let again = scanner.scan(&stream[at..], &mut args, most);
                assert_eq!(again, Err(error), "the error is forgotten");
                taken.error = Some(error);
                return taken;
            }
        }
        wants = 0;
        assert!(!scanner.in_request());
    }
    taken
}

/// `string2ll` of Redis.
fn string2ll(digits: &[u8]) -> Option<i64> {
    match digits {
        [b'0'] => Some(0),
        [b'1'..=b'9', ..] | [b'-', b'1'..=b'9', ..] => {
            std::str::from_utf8(digits).ok()?.parse().ok()
        }
        _ => None,
    }
}

/// `processMultibulkBuffer` of Redis on a whole frame: the arguments and where it ends.
fn server(buf: &[u8]) -> Result<(usize, Vec<Vec<u8>>), &'static str> {
    let line = |at: usize| -> Result<(i64, usize), &'static str> {
        let rest = buf.get(at..).unwrap_or_default();
        let end = rest.iter().position(|&b| b == b'\r' || b == 0).ok_or("no line end")?;
        if rest[end] == 0 {
            return Err("no line end");
        }
        let number = string2ll(&rest[..end]).ok_or("invalid length")?;
        Ok((number, at + end + 2))
    };
    let (count, mut at) = line(1)?;
    let mut args = Vec::new();
    for _ in 0..count.max(0) {
        if buf.get(at) != Some(&b'$') {
            return Err("expected '$'");
        }
        let (len, start) = line(at + 1)?;
        if !(0..=512 << 20).contains(&len) {
            return Err("invalid bulk length");
        }
        let end = start + len as usize;
        args.push(buf.get(start..end).ok_or("short")?.to_vec());
        at = end + 2;
    }
    Ok((at, args))
}

pub fn run(data: &[u8]) {
    let [seed, most, stream @ ..] = data else {
        return;
    };
    let most = if *most < 128 { 1 << 30 } else { usize::from(*most) - 100 };
    let taken = whole(stream, most);
    assert_eq!(cut(stream, most, Cuts::new(*seed)), taken);
    let mut at = 0;
    for (n, args) in &taken.frames {
        if let Some(args) = args {
            let said = server(&stream[at..]);
            assert_eq!(said.as_ref(), Ok(&(*n, args.clone())), "a server reads it otherwise");
        }
        at += n;
    }
}
