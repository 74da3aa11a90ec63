//! The checker is checked: a right history passes, and each way to spoil it is noticed.

use std::time::Duration;

use super::check::{
    Channel, Fate, Hearing, Queue, Sequence, Tally, Wanted, densest, fate, moved, replies, told,
};
use crate::support::resp::Value;

fn unknown() -> Value {
    let text = "ERR connection to 127.0.0.1:1 ended after the command was sent, so it may have been \
                executed";
    Value::Error(text.into())
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn fates_are_told_by_the_words() {
    assert_eq!(fate(&Value::Int(1)), Fate::Done);
    assert_eq!(fate(&unknown()), Fate::Unknown);
    assert_eq!(fate(&Value::Error("ERR the command was not executed".into())), Fate::NotRun);
}

#[test]
fn a_counter_notices_lost_doubled_and_swapped_increments() {
    let run = |replies: &[Value], end: i64| -> Result<(), String> {
        let mut sequence = Sequence::default();
        for reply in replies {
            sequence.reply(reply)?;
        }
        sequence.end(end)
    };
    let int = Value::Int;
    assert!(run(&[int(1), int(2), int(3)], 3).is_ok());
    assert!(run(&[int(1), unknown(), int(3)], 3).is_ok(), "the unknown one ran");
    assert!(run(&[int(1), unknown(), int(2)], 2).is_ok(), "it did not");
    assert!(run(&[int(1), unknown()], 2).is_ok());
    assert!(run(&[int(1), unknown()], 1).is_ok());
    assert!(run(&[int(1), Value::Error("ERR not executed".into()), int(2)], 2).is_ok());
    assert!(run(&[int(1), int(3)], 3).is_err(), "one ran twice");
    assert!(run(&[int(1), int(2)], 1).is_err(), "one was lost");
    assert!(run(&[int(1), int(2)], 3).is_err(), "one ran twice after its reply");
    assert!(run(&[int(2), int(1)], 2).is_err(), "swapped replies");
    assert!(run(&[int(1), unknown(), int(4)], 4).is_err(), "an unknown one ran twice");
    assert!(run(&[int(1), unknown(), int(2)], 3).is_err(), "an unknown one ran after the next");
    assert!(run(&[int(1), Value::Error("ERR not executed".into()), int(3)], 3).is_err());
    assert!(run(&[int(1), Value::bulk("2")], 2).is_err(), "somebody else's reply");
}

#[test]
fn a_total_is_the_acknowledged_plus_the_unknown() {
    let mut tally = Tally::default();
    for reply in [Value::Int(7), unknown(), Value::Int(3), Value::Error("ERR no".into())] {
        tally.reply(&reply);
    }
    assert_eq!(tally, Tally { acked: 2, unknown: 1 });
    tally.add(Tally { acked: 3, unknown: 0 });
    assert!(tally.end(5).is_ok() && tally.end(6).is_ok());
    assert!(tally.end(4).is_err() && tally.end(7).is_err() && tally.end(-1).is_err());
}

#[test]
fn swapped_missing_and_foreign_replies_are_noticed() {
    let echo = |tag: &str| Wanted::Exactly(Value::bulk(tag));
    let wanted = [echo("a"), Wanted::Number, echo("b"), Wanted::Anything];
    let right = [Value::bulk("a"), Value::Int(4), Value::bulk("b"), Value::Null];
    assert_eq!(replies(&wanted, &right), Vec::<String>::new());
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        let mut swapped = right.clone();
        swapped.swap(a, b);
        assert_eq!(replies(&wanted, &swapped).len(), 2, "{a} and {b} swapped");
    }
    assert!(!replies(&wanted, &right[..3]).is_empty(), "a reply is missing");
    let mut foreign = right.clone();
    foreign[2] = Value::bulk("other");
    assert_eq!(replies(&wanted, &foreign).len(), 1);
    let mut error = right;
    error[2] = unknown();
    assert!(replies(&wanted, &error).is_empty(), "errors are counted elsewhere");
}

fn queue() -> Queue {
    Queue {
        pushed: (1..=6).map(|n| (n, Fate::Done)).collect(),
        taken: vec![vec![1, 3, 4], vec![2, 5]],
        unknown_takes: 0,
        left: vec![6],
    }
}

#[test]
fn a_queue_notices_lost_doubled_and_made_up_elements() {
    assert!(queue().objections().is_empty());
    let spoilt = |spoil: fn(&mut Queue)| {
        let mut queue = queue();
        spoil(&mut queue);
        queue.objections()
    };
    let lost = spoilt(|q| q.taken[0].truncate(2));
    assert!(lost.len() == 1 && lost[0].contains("1 elements are lost"), "{lost:?}");
    assert!(!spoilt(|q| q.left.clear()).is_empty(), "lost at the end");
    let doubled = spoilt(|q| q.taken[1].push(6));
    assert!(doubled.len() == 1 && doubled[0].contains("came 2 times"), "{doubled:?}");
    assert!(!spoilt(|q| q.taken[1].push(5)).is_empty(), "doubled for one consumer");
    assert!(!spoilt(|q| q.left.push(7)).is_empty(), "made up");
    assert!(!spoilt(|q| q.taken[0].swap(0, 1)).is_empty(), "out of order");
    // What was reported as not executed must not turn up; what is unknown may, once.
    assert!(!spoilt(|q| q.pushed[0].1 = Fate::NotRun).is_empty());
    assert!(spoilt(|q| q.pushed[0].1 = Fate::Unknown).is_empty());
    let unsure = |q: &mut Queue| {
        q.pushed[5].1 = Fate::Unknown;
        q.left.clear();
    };
    assert!(spoilt(unsure).is_empty(), "an unknown push may not have run");
    let one_unknown = |q: &mut Queue| {
        q.taken[0].pop();
        q.unknown_takes = 1;
    };
    assert!(spoilt(one_unknown).is_empty(), "an unknown take may have taken it");
    let two_lost = |q: &mut Queue| {
        q.taken[0].pop();
        q.taken[0].pop();
        q.unknown_takes = 1;
    };
    assert!(!spoilt(two_lost).is_empty(), "but not two");
}

#[test]
fn moves_and_told_numbers_are_compared() {
    assert!(moved(&[1, 2], &[1, 2], 0).is_empty());
    assert!(moved(&[1], &[1, 2], 1).is_empty(), "an unknown move may have moved it");
    assert!(!moved(&[1], &[1, 2], 0).is_empty(), "moved untold");
    assert!(!moved(&[1, 2], &[1], 0).is_empty(), "told, not moved");
    assert!(!moved(&[1, 1, 2], &[1, 2], 0).is_empty(), "told twice");
    assert!(told(vec![3, 1, 2]).is_empty());
    assert_eq!(told(vec![3, 1, 3]), ["the number 3 was told twice"]);
}

const LIMITS: Hearing = Hearing { longest_silence: ms(300), fresh_within: ms(400), gaps: false };
const GAPS: Hearing = Hearing { gaps: true, ..LIMITS };

/// Numbers 1 to 20, one every 100 ms; the last fault ended at 1 s.
fn channel() -> Channel {
    Channel {
        published: (1..=20).map(|n| (ms(n * 100), n, Fate::Done)).collect(),
        calm_from: ms(1000),
    }
}

fn heard() -> Vec<(Duration, u64)> {
    (1..=20).map(|n| (ms(n * 100 + 5), n)).collect()
}

#[test]
fn a_channel_notices_dead_deaf_doubled_and_reordered_subscriptions() {
    assert_eq!(channel().objections(&heard(), LIMITS), Vec::<String>::new());
    let spoilt = |limits: Hearing, spoil: fn(&mut Vec<(Duration, u64)>)| {
        let mut heard = heard();
        spoil(&mut heard);
        channel().objections(&heard, limits)
    };
    let dead = spoilt(GAPS, |h| h.truncate(5));
    assert!(dead.iter().any(|o| o.contains("dead since")), "{dead:?}");
    assert!(dead.iter().any(|o| o.contains("heard nothing for")), "{dead:?}");
    assert_eq!(spoilt(GAPS, Vec::clear), ["heard nothing at all"]);
    let twice = spoilt(GAPS, |h| h.insert(3, h[3]));
    assert_eq!(twice, ["message 4 came twice"]);
    let again = spoilt(GAPS, |h| h.insert(8, h[3]));
    assert!(again.iter().any(|o| o.contains("came before")), "{again:?}");
    let swapped = spoilt(GAPS, |h| {
        (h[4].1, h[5].1) = (h[5].1, h[4].1);
    });
    assert_eq!(swapped, ["message 6 came before message 5"]);
    let made_up = spoilt(GAPS, |h| h.push((ms(2100), 99)));
    assert_eq!(made_up, ["message 99 came, but was never published"]);
    let gap = |h: &mut Vec<(Duration, u64)>| h.retain(|m| m.1 != 5);
    assert_eq!(spoilt(LIMITS, gap), ["1 messages are missing: [5]"]);
    assert!(spoilt(GAPS, gap).is_empty());
    let deaf = spoilt(GAPS, |h| drop(h.drain(3..8)));
    assert!(deaf.len() == 1 && deaf[0].contains("heard nothing for"), "{deaf:?}");
    let late = spoilt(GAPS, |h| {
        for (at, number) in h {
            if *number > 9 {
                *at += ms(900);
            }
        }
    });
    assert!(late.iter().any(|o| o.contains("no fresh message in time")), "{late:?}");
    // Joined late: what came before is not missing.
    assert!(spoilt(LIMITS, |h| drop(h.drain(..4))).is_empty());
    // What was not published must not come, what may have been need not.
    let mut unsure = channel();
    unsure.published[4].2 = Fate::Unknown;
    let mut without = heard();
    without.remove(4);
    assert!(unsure.objections(&heard(), LIMITS).is_empty());
    assert!(unsure.objections(&without, LIMITS).is_empty());
    unsure.published[4].2 = Fate::NotRun;
    assert!(!unsure.objections(&heard(), LIMITS).is_empty());
    let mut nothing_fresh = channel();
    nothing_fresh.calm_from = ms(5000);
    assert!(!nothing_fresh.objections(&heard(), LIMITS).is_empty());
}

#[test]
fn a_burst_is_counted_wherever_it_lies() {
    assert_eq!(densest(&[], ms(100)), 0);
    let times: Vec<_> = [0, 50, 100, 130, 140, 199, 400].map(ms).to_vec();
    assert_eq!(densest(&times, ms(100)), 4, "100 to 199");
    assert_eq!(densest(&times, ms(1)), 1);
    assert_eq!(densest(&times, ms(1000)), 7);
    assert_eq!(densest(&[ms(5); 3], ms(1)), 3);
}
