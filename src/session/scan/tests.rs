use super::world::{Tells, World};
use super::*;
use proptest::prelude::*;

proptest! {
    #[test]
    fn cursors_round_trip(
        id in 0u16..1024, slot in 0u16..16384, turn in 0u8..4, node in 0u64..1 << 36
    ) {
        let c = Cursor { id, slot, turn, node };
        let number = c.encode().expect("fits");
        prop_assert!(number < 1 << 62);
        prop_assert_eq!(Cursor::decode(number), Some(c));
    }

    /// Exact in a double as long as a node's cursor has 27 bits: a hundred million keys a shard.
    #[test]
    fn cursors_fit_a_double(
        id in 0u16..1024, slot in 0u16..16384, turn in 0u8..4, node in 0u64..1 << 27
    ) {
        let number = Cursor { id, slot, turn, node }.encode().expect("fits");
        prop_assert_eq!(number as f64 as u64, number);
    }

    #[test]
    fn any_number_is_harmless(number: u64) {
        let mut scans = Scans::default();
        let _ = scans.resume(number, &[(0, 0), (9000, 1)]);
    }

    #[test]
    fn workers_give_out_ids_of_their_own(workers in 1usize..9) {
        let mut seen = BTreeSet::new();
        for me in 0..workers {
            let mut scans = Scans::<u16>::default();
            scans.set_share(me, workers);
            for _ in 0..100 {
                let number = scans.begin(&[(0, 0)]).expect("a shard");
                prop_assert!(number > 0 && seen.insert((me, number)) || workers == 1);
                let id = Cursor::decode(number).expect("a cursor").id;
                prop_assert_eq!(usize::from(id - 1) % workers, me);
            }
        }
    }
}

/// Keys move one by one and slots at once, imports open, end and are given up, replicas take over, all
/// unnoticed: every key is returned at least once, and a scan ends when the world has come to rest.
fn every_key_is_seen(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        if let Err(wrong) = World::new(seed).check() {
            panic!("seed {seed}: {wrong}");
        }
    }
}

#[test]
fn every_key_is_seen_whatever_moves() {
    let runs = std::env::var("SCAN_RUNS").ok().and_then(|s| s.parse().ok()).unwrap_or(3000);
    let first = std::env::var("SCAN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    every_key_is_seen(first..first + runs);
}

/// An import that stands open for ever does not keep a scan from ending.
#[test]
fn a_paused_migration_does_not_hold_a_scan_up() {
    for tells in [Tells::All, Tells::NoCounts] {
        let mut world = World::new(1);
        world.tells = tells;
        world.node(3).imports.insert(0);
        world.node(0).gives.insert(0, 3);
        let at = (0..world.keys.len()).find(|k| world.keys[*k].0 == 0).expect("a key in slot 0");
        world.move_key(at, 3);
        let number = world.scans.begin(&world.shards()).expect("a shard");
        let mut number = number;
        let mut seen = BTreeSet::new();
        let mut calls = 0;
        while number != 0 {
            calls += 1;
            assert!(calls < 1000, "{tells:?}: the scan does not end");
            let call = world.scans.resume(number, &world.shards()).expect("a call");
            if call.sample_first {
                number = call.cursor.encode().expect("fits");
                let told = world.scans.stops(number, &world.shards());
                let told: Vec<_> = told.into_iter().map(|(_, n)| (n, world.ask(n))).collect();
                world.scans.sampled(number, &told);
                continue;
            }
            let (keys, cursor) = world.call(call.stop.1, call.cursor.node);
            seen.extend(keys);
            number = match world.scans.advance(call.cursor, cursor, &world.shards()) {
                Next::Cursor(number) => number,
                Next::Sample => {
                    let told = world.scans.stops(number, &world.shards());
                    let told: Vec<_> = told.into_iter().map(|(_, n)| (n, world.ask(n))).collect();
                    world.scans.conclude(call.cursor, &told, &world.shards())
                }
                Next::TooLarge => panic!("too large"),
            };
        }
        assert_eq!(seen.len(), world.keys.len(), "{tells:?}");
    }
}
