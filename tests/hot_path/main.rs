//! The steady state allocates nothing a command: what a batch does is not paid for by each of it.
#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../../bench/rig.rs"]
mod rig;

use memorystore_auth_proxy::access::{Access, DenyList, Users};
use rig::{Answer, Rig, workloads};

/// Allocations of a hundred turns, after buffers have found their size.
fn allocations(clients: usize, request: &[u8], answer: Answer) -> u64 {
    allocations_of(Rig::new(clients), request, answer)
}

fn allocations_of(mut rig: Rig, request: &[u8], answer: Answer) -> u64 {
    (0..50).for_each(|_| rig.turn(request, answer));
    let before = rig.received;
    let counted = allocation_counter::measure(|| {
        (0..100).for_each(|_| rig.turn(request, answer));
    });
    let all = rig.received - before;
    assert!(all > 0 && all.is_multiple_of(100), "every turn is answered alike");
    counted.count_total
}

/// Most allocations a turn may make: a large buffer for each node, which is given back when all of
/// it is answered.
const BY_BATCH: u64 = 3;

#[test]
fn commands_allocate_nothing() {
    for (name, by_batch) in [("get", 0), ("get_pipelined", 0), ("set_pipelined", BY_BATCH)] {
        let (clients, request, commands, answer) = workloads().remove(name).expect("a workload");
        let count = allocations(clients, &request, answer);
        assert!(
            count <= by_batch * 100,
            "{name}: {count} allocations in a hundred turns of {commands} commands"
        );
    }
}

/// Neither does looking at what a user may do.
#[test]
fn permissions_allocate_nothing() {
    let acl = "user default on nopass ~nothing %R~[a-j]* %W~x ~*k* ~*[0-9]* ~?* &y +@read +set -keys (+get)";
    for (name, by_batch) in [("get", 0), ("get_pipelined", 0), ("set_pipelined", BY_BATCH)] {
        let (clients, request, commands, answer) = workloads().remove(name).expect("a workload");
        let users = Users::parse(acl.as_bytes()).expect("an ACL");
        let deny = DenyList::parse("flushall,@dangerous").expect("a deny list");
        let mut rig = Rig::new(clients);
        rig.restrict(Access { users: Some(users), deny });
        let count = allocations_of(rig, &request, answer);
        assert!(
            count <= by_batch * 100,
            "{name}: {count} allocations in a hundred turns of {commands} commands"
        );
    }
}

/// A command that is split takes a few, however many keys it has: the parts, their replies, and the
/// one reply of them.
#[test]
fn a_split_command_allocates_a_dozen_times() {
    let (clients, request, commands, answer) =
        workloads().remove("mget_of_10").expect("a workload");
    let count = allocations(clients, &request, answer);
    let per_command = count as f64 / (100 * commands) as f64;
    assert!(per_command <= 12.5, "{per_command} allocations a command");
}
