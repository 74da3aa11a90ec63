//! SCAN's cursors: what is given out is understood, what was never given out is harmless, and the state
//! kept for them is bounded.

use memorystore_auth_proxy::resp::scan::{ReplyScan, ReplyScanner};
use memorystore_auth_proxy::session::sample::Sample;
use memorystore_auth_proxy::session::scan::{Cursor, Next, Scans, Stop, Told};
use memorystore_auth_proxy::session::scanning::{split_reply, with_cursor};

use crate::support::{Input, within};

fn codec(input: &mut Input<'_>) {
    let number = input.u64();
    match Cursor::decode(number) {
        Some(cursor) => {
            assert_eq!(cursor.encode(), Some(number));
            assert!(cursor.slot < 16384 && cursor.turn < 4 && cursor.id < 1024);
        }
        None => assert!(number >= 1 << 62),
    }
    let cursor = Cursor {
        id: input.u64() as u16 & 1023,
        slot: input.u64() as u16 & 16383,
        turn: input.byte() & 3,
        node: input.u64() >> (input.byte() % 64),
    };
    match cursor.encode() {
        Some(number) => assert_eq!(Cursor::decode(number), Some(cursor)),
        None => assert!(cursor.node >= 1 << 36),
    }
}

fn reply(bytes: &[u8]) {
    let Ok(ReplyScan::Complete(n)) = ReplyScanner::default().scan(bytes) else {
        return;
    };
    let bytes = &bytes[..n];
    if let Some((cursor, keys)) = split_reply(bytes) {
        let same = with_cursor(bytes, cursor);
        assert_eq!(split_reply(&same), Some((cursor, keys)));
        let scanned = ReplyScanner::default().scan(&same);
        assert_eq!(scanned, Ok(ReplyScan::Complete(same.len())), "no longer one reply");
    }
}

fn shards(input: &mut Input<'_>) -> Vec<Stop<u8>> {
    let n = input.below(4);
    let mut slot = 0;
    (0..n)
        .map(|_| {
            let stop = (slot, input.byte() % 6);
            slot += 1 + input.below(4000) as u16;
            stop
        })
        .collect()
}

fn told(input: &mut Input<'_>, stops: &[Stop<u8>]) -> Vec<(u8, Told<u8>)> {
    let mut all = Vec::new();
    for (_, node) in stops {
        match input.byte() % 4 {
            0 => all.push((*node, Told::Refused)),
            1 => {}
            n => {
                let sample = Sample {
                    id: node.to_string(),
                    is_primary: n == 2,
                    epoch: u64::from(input.byte() % 3),
                    slots: vec![(u16::from(input.byte()), u16::from(input.byte()))],
                    imports: input.bool(),
                    restored: input.bool().then(|| u64::from(input.byte() % 3)),
                    named: Vec::new(),
                };
                all.push((*node, Told::Sample(sample)));
            }
        }
    }
    all
}

/// Clients that say what they like, nodes that do, and a slot map that changes.
fn anything(input: &mut Input<'_>) {
    let mut scans = Scans::default();
    scans.set_share(input.below(4), 1 + input.below(4));
    let mut map = shards(input);
    let mut numbers = vec![0u64];
    while !input.is_spent() {
        match input.byte() % 6 {
            0 => map = shards(input),
            1 => numbers.extend(scans.begin(&map)),
            2 => numbers.push(input.u64() >> input.below(64)),
            3 => scans.slot_moved_to(&(input.byte() % 6)),
            4 => {
                let number = *input.pick(&numbers);
                if let Some(scan) = scans.take(number) {
                    assert!(scans.is_unknown(number));
                    scans.adopt(scan);
                    assert!(!scans.is_unknown(number));
                }
            }
            _ => {
                let number = *input.pick(&numbers);
                let Some(mut call) = scans.resume(number, &map) else {
                    assert!(map.is_empty() || Cursor::decode(number).is_none());
                    continue;
                };
                let asked = call.cursor.encode().expect("a cursor to ask with");
                if call.sample_first {
                    let stops = scans.stops(asked, &map);
                    scans.sampled(asked, &told(input, &stops));
                    match scans.resume(asked, &map) {
                        Some(again) => call = again,
                        None => panic!("a cursor just given out is not taken"),
                    }
                }
                let node_cursor = if input.bool() { 0 } else { input.u64() >> input.below(64) };
                let next = match scans.advance(call.cursor, node_cursor, &map) {
                    Next::Cursor(number) => number,
                    Next::Sample => {
                        let stops = scans.stops(asked, &map);
                        scans.conclude(call.cursor, &told(input, &stops), &map)
                    }
                    Next::TooLarge => {
                        assert!(node_cursor >= 1 << 36);
                        continue;
                    }
                };
                if next != 0 {
                    assert!(Cursor::decode(next).is_some());
                    numbers.push(next);
                }
            }
        }
    }
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 4 {
        0 => codec(&mut input),
        1 => reply(input.rest()),
        _ => within(16 << 20, || anything(&mut input)),
    }
}
