//! The checker is checked: histories that are right pass, and each way to spoil one is seen.

use crate::check::Fate::{Done, NotRun, Unknown};
use crate::history::{Loss, Losses, Op, Span};
use crate::judge::{Access, Queue, Trouble, counter, healthy, log, messages, register, told};

const NO_LOSS: &[Span] = &[];
const LOSS: &[Span] = &[Span { from: 100, until: 200 }];

fn op(at: u32, fate: crate::check::Fate, value: i64) -> Op {
    Op { sent: at, answered: at + 1, fate, value }
}

fn done(at: u32, value: i64) -> Op {
    op(at, Done, value)
}

#[test]
fn a_counter_counts_each_command_once_and_in_order() {
    let right = [done(1, 1), op(2, NotRun, 0), done(3, 2), op(4, Unknown, 0), done(5, 4)];
    assert!(counter(&right, NO_LOSS, Some(4)).is_empty());
    // An unknown one may run late, once.
    let late = [op(1, Unknown, 0), done(2, 1), done(3, 3), done(4, 4)];
    assert!(counter(&late, NO_LOSS, Some(4)).is_empty());
    let doubled = [done(1, 1), done(2, 3)];
    assert!(!counter(&doubled, NO_LOSS, None).is_empty(), "a write that ran twice");
    let unknown_twice = [op(1, Unknown, 0), done(2, 2), done(3, 4)];
    assert!(!counter(&unknown_twice, NO_LOSS, None).is_empty(), "an unknown one ran twice");
    let swapped = [done(1, 2), done(2, 1)];
    assert!(!counter(&swapped, NO_LOSS, None).is_empty(), "order");
    assert!(!counter(&[done(1, 1), done(2, 2)], NO_LOSS, Some(1)).is_empty(), "lost at the end");
    assert!(!counter(&[done(1, 1), done(2, 1)], NO_LOSS, None).is_empty(), "lost in between");
    assert!(!counter(&[op(1, NotRun, 0)], NO_LOSS, Some(1)).is_empty(), "ran, though it did not");
}

#[test]
fn a_loss_excuses_what_was_acknowledged_meanwhile_and_nothing_else() {
    let lost = [done(50, 1), done(120, 2), done(130, 3), done(300, 2), done(310, 3)];
    assert!(counter(&lost, LOSS, Some(3)).is_empty());
    assert!(!counter(&lost, NO_LOSS, Some(3)).is_empty());
    let too_much = [done(50, 1), done(60, 2), done(120, 3), done(300, 2)];
    assert!(!counter(&too_much, LOSS, None).is_empty(), "what was kept before is gone");
    let doubled = [done(50, 1), done(120, 2), done(300, 4)];
    assert!(!counter(&doubled, LOSS, None).is_empty(), "a loss doubles nothing");
    let after = [done(120, 1), done(300, 2), done(310, 2)];
    assert!(!counter(&after, LOSS, None).is_empty(), "after the loss all is strict again");
    // Of other slots it excuses nothing.
    let losses = Losses(vec![Loss { slots: vec![0..=9], span: LOSS[0] }]);
    assert_eq!(losses.of(9), LOSS);
    assert!(losses.of(10).is_empty());
}

#[test]
fn a_register_holds_what_was_set_last() {
    let set = |at, n| Access::Set(done(at, n));
    let get = |at, n| Access::Get(done(at, n));
    assert!(register(&[get(1, -1), set(2, 1), get(3, 1)], NO_LOSS, false).is_empty());
    let unknown = [set(1, 1), Access::Set(op(2, Unknown, 2)), get(3, 1), get(4, 2)];
    assert!(register(&unknown, NO_LOSS, false).is_empty());
    assert!(!register(&[set(1, 1), set(2, 2), get(3, 1)], NO_LOSS, false).is_empty(), "stale");
    assert!(!register(&[set(1, 1), get(3, -1)], NO_LOSS, false).is_empty(), "gone");
    let not_run = [set(1, 1), Access::Set(op(2, NotRun, 2)), get(3, 2)];
    assert!(!register(&not_run, NO_LOSS, false).is_empty(), "ran, though it did not");
    let lost = [set(50, 1), set(120, 2), get(300, 1)];
    assert!(register(&lost, LOSS, false).is_empty());
    assert!(!register(&lost, NO_LOSS, false).is_empty());
    assert!(!register(&[set(50, 1), set(60, 2), set(120, 3), get(300, 1)], LOSS, false).is_empty());
    assert!(!register(&[set(120, 1), set(300, 2), get(301, 1)], LOSS, false).is_empty());
    let old = [set(1, 1), set(2, 2), get(3, 1), get(4, 2), get(5, 1)];
    assert!(register(&old, NO_LOSS, true).is_empty(), "a replica may be behind");
    assert!(!register(&[set(1, 1), get(2, 2)], NO_LOSS, true).is_empty(), "but never ahead");
}

#[test]
fn a_log_shows_the_order_of_execution() {
    let pushes = [done(1, 1), done(2, 2), op(3, Unknown, 0), op(4, NotRun, 0), done(5, 3)];
    for right in [&[1, 2, 5][..], &[1, 2, 5, 3]] {
        assert!(log(&pushes, NO_LOSS, right).is_empty(), "{right:?}");
    }
    let spoilt: &[(&[i64], &str)] = &[
        (&[2, 1, 5], "order"),
        (&[1, 2, 2, 5], "doubled"),
        (&[1, 2, 3, 3, 5], "an unknown one doubled"),
        (&[1, 5], "lost"),
        (&[1, 2, 4, 5], "ran, though it did not"),
        (&[1, 2, 5, 9], "made up"),
    ];
    for (list, what) in spoilt {
        assert!(!log(&pushes, NO_LOSS, list).is_empty(), "{what}");
    }
    let pushes = [done(50, 1), done(120, 2), done(300, 2)];
    assert!(log(&pushes, LOSS, &[1, 3]).is_empty());
    assert!(!log(&pushes, LOSS, &[3, 1]).is_empty(), "order, also around a loss");
    assert!(!log(&pushes, LOSS, &[3]).is_empty(), "what was kept before is gone");
}

fn queue() -> Queue {
    Queue {
        pushed: (1..=6).map(|n| done(n as u32, n)).collect(),
        taken: vec![done(10, 1), done(11, 2), done(12, 3)],
        moved: vec![done(9, 1)],
        left: vec![4, 5, 6],
    }
}

#[test]
fn a_queue_loses_and_doubles_nothing() {
    let spoilt = |spoil: fn(&mut Queue), losses: &[Span]| {
        let mut queue = queue();
        spoil(&mut queue);
        queue.objections(losses)
    };
    assert!(spoilt(|_| {}, NO_LOSS).is_empty());
    assert!(!spoilt(|q| q.left.truncate(2), NO_LOSS).is_empty(), "lost");
    assert!(!spoilt(|q| q.taken.push(done(13, 3)), NO_LOSS).is_empty(), "taken twice");
    assert!(!spoilt(|q| q.left.push(3), NO_LOSS).is_empty(), "taken and still there");
    assert!(!spoilt(|q| q.left.push(6), NO_LOSS).is_empty(), "there twice");
    assert!(!spoilt(|q| q.pushed[5].fate = NotRun, NO_LOSS).is_empty(), "came, was not pushed");
    assert!(!spoilt(|q| q.moved.push(done(9, 77)), NO_LOSS).is_empty(), "moved from nowhere");
    let unknown = |q: &mut Queue| {
        q.left.truncate(2);
        q.taken.push(op(13, Unknown, 0));
    };
    assert!(spoilt(unknown, NO_LOSS).is_empty());
    let two = |q: &mut Queue| {
        q.left.truncate(1);
        q.taken.push(op(13, Unknown, 0));
    };
    assert!(!spoilt(two, NO_LOSS).is_empty(), "one unknown take explains one element");
    // A take that the cluster lost comes again; an acknowledged push may be gone.
    let again = |q: &mut Queue| q.taken.extend([done(150, 4), done(300, 4)]);
    assert!(!spoilt(again, LOSS).is_empty(), "and still there");
    let again = |q: &mut Queue| {
        q.taken.extend([done(150, 4), done(300, 4)]);
        q.left.retain(|n| *n != 4);
    };
    assert!(spoilt(again, LOSS).is_empty());
    assert!(!spoilt(again, NO_LOSS).is_empty());
    let push_lost = |q: &mut Queue| q.pushed.push(done(150, 7));
    assert!(spoilt(push_lost, LOSS).is_empty());
    assert!(!spoilt(push_lost, NO_LOSS).is_empty());
}

#[test]
fn numbers_are_told_once() {
    assert!(told(&[done(1, 1), done(2, 2), op(3, Unknown, 2)], NO_LOSS).is_empty());
    assert!(!told(&[done(1, 1), done(2, 1)], NO_LOSS).is_empty());
    assert!(told(&[done(150, 1), done(300, 1)], LOSS).is_empty());
}

#[test]
fn messages_come_once_in_order_and_all_of_calm_times() {
    let published =
        [(50, 1, Done), (120, 2, Done), (130, 3, NotRun), (140, 4, Unknown), (250, 5, Done)];
    let timed = |heard: &[u64]| heard.iter().map(|&n| (300, n)).collect::<Vec<_>>();
    for right in [&[2][..], &[1, 2, 5], &[1, 2, 5, 4], &[2, 4, 5]] {
        assert!(messages(&published, &timed(right), LOSS, &[]).is_empty(), "{right:?}");
    }
    let spoilt: &[(&[u64], &str)] = &[
        (&[], "one of calm times is missing"),
        (&[2, 2], "twice"),
        (&[2, 4, 5, 4], "an unknown one twice"),
        (&[2, 1], "order"),
        (&[2, 3], "not published"),
        (&[2, 9], "made up"),
    ];
    for (heard, what) in spoilt {
        assert!(!messages(&published, &timed(heard), LOSS, &[]).is_empty(), "{what}");
    }
    let failover = [Span { from: 290, until: 310 }];
    assert!(messages(&published, &timed(&[2, 2]), LOSS, &failover).is_empty());
    assert!(!messages(&published, &timed(&[2, 2]), LOSS, &[Span { from: 1, until: 2 }]).is_empty());
}

#[test]
fn a_healthy_shard_is_quick_while_another_one_is_ill() {
    let ill = |shard| Trouble { shard, span: Span { from: 1_000, until: 5_000 } };
    let slow = [Op { sent: 2_000, answered: 4_500, fate: Done, value: 0 }];
    let failed = [Op { fate: NotRun, answered: 2_001, ..slow[0] }];
    let judge = |ops, troubles: &[Trouble], excused: &[Span]| {
        healthy(0, ops, troubles, excused, 2_000, 500)
    };
    assert_eq!(judge(&slow, &[ill(Some(1))], &[]).1.len(), 1);
    assert_eq!(judge(&failed, &[ill(Some(1))], &[]).1.len(), 1);
    let quick = [Op { answered: 2_010, ..slow[0] }];
    assert_eq!(judge(&quick, &[ill(Some(1))], &[]), (1, Vec::new()));
    for excuse in [ill(Some(0)), ill(None)] {
        assert_eq!(judge(&slow, &[ill(Some(1)), excuse], &[]).0, 0);
    }
    assert_eq!(judge(&slow, &[ill(Some(1))], &[Span { from: 3_000, until: 3_400 }]).0, 0);
    let before = Trouble { shard: Some(0), span: Span { from: 0, until: 1_600 } };
    assert_eq!(judge(&slow, &[ill(Some(1)), before], &[]).0, 0, "it may need a while");
}
