#![allow(clippy::disallowed_methods, reason = "a test hands the core its clock")]

use super::*;
use crate::cluster::topology::{Mode, SLOTS, Shard};
use proptest::prelude::*;

const PERIOD: Duration = Duration::from_secs(60);

fn node(port: u16) -> NodeAddr {
    NodeAddr { host: "10.0.0.1".into(), port }
}

fn moved(slot: u16, port: u16) -> Reason {
    Reason::Moved { slot: Some(slot), addr: node(port) }
}

fn started(now: Instant) -> Schedule {
    let mut s = Schedule::new(Policy::new(PERIOD), now);
    assert_eq!(s.next(now), Action::Refresh);
    s.start(now);
    s
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn periodic_refreshes_are_jittered_around_the_period() {
    let t = Instant::now();
    for (random, factor) in [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)] {
        let mut s = started(t);
        s.finish(Outcome::Changed, t, random);
        assert_eq!(s.next(t), Action::WaitUntil(t + PERIOD.mul_f64(factor)));
    }
}

#[test]
fn requests_coalesce_and_keep_the_gap() {
    let t = Instant::now();
    let mut s = started(t);
    s.finish(Outcome::Changed, t + ms(10), 0.0);
    for slot in 0..20 {
        s.request(moved(slot, 7000 + slot % 10));
    }
    assert_eq!(s.next(t + ms(20)), Action::WaitUntil(t + ms(100)));
    assert_eq!(s.next(t + ms(100)), Action::Refresh);
    let hints = s.start(t + ms(100));
    assert_eq!(hints.len(), MAX_HINTS);
    assert_eq!(hints.last(), Some(&Hint { slot: Some(19), addr: node(7009) }));
    s.finish(Outcome::Changed, t + ms(110), 0.5);
    assert!(matches!(s.next(t + ms(300)), Action::WaitUntil(at) if at > t + ms(40_000)));
}

#[test]
fn a_request_during_a_refresh_brings_another() {
    let t = Instant::now();
    let mut s = started(t);
    s.request(Reason::NodeLost);
    assert_eq!(s.next(t), Action::InFlight);
    s.finish(Outcome::Changed, t + ms(300), 0.0);
    assert_eq!(s.next(t + ms(300)), Action::Refresh);
}

#[test]
fn refreshes_that_bring_nothing_new_become_rarer() {
    let t = Instant::now();
    let mut s = started(t);
    let mut starts = vec![t];
    for _ in 0..8 {
        let at = starts[starts.len() - 1];
        s.finish(Outcome::Unchanged, at, 0.0);
        s.request(Reason::ClusterDown);
        let Action::WaitUntil(next) = s.next(at) else { panic!("no gap") };
        s.start(next);
        starts.push(next);
    }
    let gaps: Vec<_> = starts.windows(2).map(|w| (w[1] - w[0]).as_millis()).collect();
    assert_eq!(gaps, [100, 200, 400, 800, 1000, 1000, 1000, 1000]);
    s.finish(Outcome::Changed, starts[8], 0.0);
    s.request(Reason::ClusterDown);
    assert_eq!(s.next(starts[8]), Action::WaitUntil(starts[8] + ms(100)));
}

#[test]
fn a_new_credential_ends_the_wait_after_a_failure_only() {
    let t = Instant::now();
    let mut s = started(t);
    s.finish(Outcome::Failed, t, 0.9);
    assert!(matches!(s.next(t), Action::WaitUntil(_)));
    s.hurry(t);
    assert_eq!(s.next(t), Action::Refresh);
    s.start(t);
    s.finish(Outcome::Changed, t, 0.5);
    s.hurry(t);
    assert_eq!(s.next(t), Action::WaitUntil(t + PERIOD));
}

fn map(owners: &[(u16, u16, u16)]) -> SlotMap {
    let mut slots = Box::new([crate::cluster::topology::UNASSIGNED; SLOTS]);
    for (i, &(start, end, _)) in owners.iter().enumerate() {
        slots[usize::from(start)..=usize::from(end)].fill(i as u16);
    }
    let shard = |port| Shard { primary: node(port), replicas: vec![node(port + 1000)] };
    let shards = owners.iter().map(|&(_, _, port)| shard(port)).collect();
    SlotMap { mode: Mode::Cluster, shards, slots, server: Default::default() }
}

#[test]
fn seeds_then_primaries_then_replicas_and_the_failed_last() {
    let seeds = [node(1), node(2)];
    let known = map(&[(0, 9, 7000), (10, 19, 7001), (20, 29, 2)]).into_topology(1);
    let order = candidates(&seeds, Some(&known), &[], |n| n - 1);
    let ports: Vec<_> = order.iter().map(|n| n.port).collect();
    assert_eq!(ports, [1, 2, 7000, 7001, 8000, 8001, 1002]);
    let reversed = candidates(&seeds, Some(&known), &[node(1)], |_| 0);
    let ports: Vec<_> = reversed.iter().map(|n| n.port).collect();
    assert_eq!(ports[0], 2);
    assert_eq!(ports[ports.len() - 1], 1);
    assert_ne!(&ports[1..3], [7000, 7001]);
    assert_eq!(candidates(&seeds, None, &[], |_| 0), seeds);
}

fn hint_to(port: u16) -> Hint {
    Hint { slot: None, addr: node(port) }
}

#[test]
fn a_moved_target_that_knows_better_is_believed() {
    let stale = map(&[(0, 16383, 7000)]);
    let fresh = map(&[(0, 99, 7009), (100, 16383, 7000)]);
    let hint = |slot, port| Hint { slot, addr: node(port) };
    let hints = [hint(Some(200), 7000), hint(Some(50), 7009)];
    let hint = unconfirmed(&hints, &stale).unwrap();
    assert_eq!(hint, &hints[1]);
    assert_eq!(unconfirmed(&hints, &fresh), None);
    assert_eq!(unconfirmed(&[hint_to(7000)], &stale), None);
    assert_eq!(unconfirmed(&[hint_to(7009)], &stale), Some(&hint_to(7009)));
    assert_eq!(prefer(stale.clone(), fresh.clone(), hint), fresh);
    let lonely = map(&[(0, 99, 7009)]);
    assert_eq!(prefer(stale.clone(), lonely, hint), stale, "it knows less of the cluster");
    assert_eq!(prefer(fresh.clone(), stale, hint), fresh, "it does not confirm");
}

proptest! {
    #[test]
    fn failures_wait_within_bounds(randoms in proptest::collection::vec(0.0f64..1.0, 1..40)) {
        let policy = Policy::new(PERIOD);
        let mut now = Instant::now();
        let mut s = Schedule::new(policy, now);
        for (i, random) in randoms.into_iter().enumerate() {
            s.start(now);
            prop_assert_eq!(s.next(now), Action::InFlight);
            s.finish(Outcome::Failed, now, random);
            // Without a request as well: there is no usable map to wait a minute with.
            let Action::WaitUntil(next) = s.next(now) else { panic!("no wait") };
            let wait = next - now;
            prop_assert!(wait >= policy.min_gap && wait <= policy.max_failure_gap);
            prop_assert!(wait <= policy.min_gap.saturating_mul(2 << i.min(20)));
            now = next;
        }
    }
}
