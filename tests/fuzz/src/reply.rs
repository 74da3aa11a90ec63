//! Replies of nodes: however they are cut, each ends where it ends; the skipper ends there too; what
//! redis-protocol understands ends where it says; classes are told from errors alone.

use memorystore_auth_proxy::cluster::topology::{NodeAddr, SLOTS};
use memorystore_auth_proxy::resp::reply::{Class, Redirect, classify};
use memorystore_auth_proxy::resp::scan::{ReplyScan, ReplyScanner};
use memorystore_auth_proxy::resp::skip::ReplySkipper;
use memorystore_auth_proxy::resp::value::Decoder;

use crate::support::{Cuts, within};

/// Where the replies of a stream end, and whether the stream then went wrong.
type Ends = (Vec<usize>, bool);

fn whole(stream: &[u8]) -> Ends {
    let (mut at, mut ends) = (0, Vec::new());
    while at < stream.len() {
        match within(0, || ReplyScanner::default().scan(&stream[at..])) {
            Ok(ReplyScan::Complete(n)) => {
                assert!(n > 0 && n <= stream.len() - at);
                at += n;
                ends.push(at);
            }
            Ok(ReplyScan::Partial(need)) => {
                assert!(need > stream.len() - at, "asks for what it has");
                return (ends, false);
            }
            Err(_) => return (ends, true),
        }
    }
    (ends, false)
}

fn cut(stream: &[u8], mut cuts: Cuts) -> Ends {
    let mut scanner = ReplyScanner::default();
    let (mut at, mut have, mut ends, mut wants) = (0, 0, Vec::new(), 0);
    while at < have || have < stream.len() {
        match scanner.scan(&stream[at..have]) {
            Ok(ReplyScan::Complete(n)) => {
                assert!(n >= wants, "asked for {wants} bytes of a reply of {n}");
                at += n;
                ends.push(at);
                wants = 0;
            }
            Ok(ReplyScan::Partial(need)) => {
                assert!(need > have - at, "asks for what it has");
                if have == stream.len() {
                    return (ends, false);
                }
                wants = need;
                have = (have + cuts.next()).min(stream.len());
            }
            Err(_) => {
                assert!(scanner.scan(&stream[at..]).is_err(), "the error is forgotten");
                return (ends, true);
            }
        }
    }
    (ends, false)
}

/// Skips one reply; `None` when it does not end here.
fn skip(stream: &[u8], mut cuts: Cuts) -> Result<Option<usize>, ()> {
    let mut skipper = ReplySkipper::default();
    let mut at = 0;
    while at < stream.len() {
        let end = (at + cuts.next()).min(stream.len());
        match skipper.skip(&stream[at..end]) {
            Ok(Some(n)) => return Ok(Some(at + n)),
            Ok(None) => at = end,
            Err(_) => return Err(()),
        }
    }
    Ok(None)
}

fn check_redirect(redirect: &Redirect) {
    assert!(usize::from(redirect.slot) < SLOTS && redirect.port != 0);
    let asked = NodeAddr { host: "asked".into(), port: 1 };
    assert!(!redirect.addr(&asked).host.is_empty());
}

pub fn run(data: &[u8]) {
    let [seed, stream @ ..] = data else {
        return;
    };
    let ends = whole(stream);
    assert_eq!(cut(stream, Cuts::new(*seed)), ends);
    let mut at = 0;
    for &end in &ends.0 {
        let skipped = within(4 * (end - at) + 256, || skip(&stream[at..], Cuts::new(*seed)));
        assert_eq!(skipped, Ok(Some(end - at)), "the skipper ends elsewhere");
        let frame = &stream[at..end];
        match classify(frame) {
            Class::Data => {}
            Class::Moved(r) | Class::Ask(r) => check_redirect(&r),
            _ => assert_eq!(frame[0], b'-'),
        }
        at = end;
    }
    if ends.1 {
        assert!(
            !matches!(skip(&stream[at..], Cuts::new(*seed)), Ok(Some(_))),
            "skipped what is no reply"
        );
    }
    // The crate's grammar is narrower; where both agree that it is a reply, they agree on its end.
    let mut at = 0;
    while let Ok(Some((_, n))) = Decoder::default().decode(&stream[at..]) {
        let scanned = ReplyScanner::default().scan(&stream[at..]);
        assert_eq!(scanned, Ok(ReplyScan::Complete(n)), "redis-protocol ends elsewhere");
        at += n;
    }
}
