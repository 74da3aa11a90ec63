//! `cores WORKLOAD TURNS`: runs a workload of `rig` so many turns and says what came back.
//!
//! `bench/instructions.py` runs it under callgrind, twice with different numbers of turns: the
//! difference is what the turns cost. It measures nothing itself.
#![allow(clippy::print_stdout, clippy::expect_used, reason = "a program for a script")]

#[path = "rig.rs"]
mod rig;

fn main() {
    let mut args = std::env::args().skip(1);
    let name = args.next().expect("a workload");
    let turns: usize = args.next().and_then(|n| n.parse().ok()).expect("a number of turns");
    let workloads = rig::workloads();
    let (clients, request, commands, answer) =
        workloads.get(name.as_str()).expect("a known workload");
    let mut rig = rig::Rig::new(*clients);
    for _ in 0..turns {
        rig.turn(request, *answer);
    }
    println!("{} {}", commands * turns, rig.received);
}
