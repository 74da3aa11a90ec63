//! Micro benchmarks of the pure cores: `cargo bench --bench micro`.
//!
//! Times are of this machine and this moment; what CI holds is the number of instructions
//! (`bench/instructions.py`). These tell which core to look at.
#![allow(missing_docs, reason = "criterion's macros")]
#![allow(clippy::expect_used, clippy::panic, reason = "a program for people")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use memorystore_auth_proxy::buffer::ByteQueue;
use memorystore_auth_proxy::command::{keys, lookup, slot};
use memorystore_auth_proxy::key::Key;
use memorystore_auth_proxy::resp::request::Request;
use memorystore_auth_proxy::resp::scan::{ReplyScan, ReplyScanner, RequestScan, RequestScanner};
use memorystore_auth_proxy::session::window::{Reply, Window};

#[path = "rig.rs"]
#[allow(dead_code, reason = "shared with bench/cores.rs")]
mod rig;

const MAX_REQUEST: usize = 1 << 30;

/// Requests and replies by frame.
fn scanners(c: &mut Criterion) {
    let mut group = c.benchmark_group("scan");
    for (name, pipeline) in [("GET", rig::gets(16)), ("SET of 64 bytes", rig::sets(16))] {
        group.throughput(Throughput::Elements(16));
        let mut args = Vec::new();
        group.bench_function(format!("16 requests, {name}"), |b| {
            b.iter(|| {
                let mut at = 0;
                while at < pipeline.len() {
                    let mut scanner = RequestScanner::default();
                    match scanner.scan(black_box(&pipeline[at..]), &mut args, MAX_REQUEST) {
                        Ok(RequestScan::Multibulk(n)) => at += n,
                        other => panic!("{other:?}"),
                    }
                }
            });
        });
    }
    let reply = [&b"$64\r\n"[..], &[b'v'; 64], b"\r\n"].concat();
    group.throughput(Throughput::Elements(1));
    group.bench_function("a reply of 64 bytes", |b| {
        b.iter(|| match ReplyScanner::default().scan(black_box(&reply)) {
            Ok(ReplyScan::Complete(n)) => n,
            other => panic!("{other:?}"),
        });
    });
    group.finish();
}

/// What a command is, where its keys are, and whose slot that is.
fn commands(c: &mut Criterion) {
    let mut group = c.benchmark_group("command");
    for name in ["GET", "zrangebyscore", "XREADGROUP", "nosuchcommand"] {
        group.bench_function(format!("look up {name}"), |b| {
            b.iter(|| lookup::command(black_box(name.as_bytes())));
        });
    }
    for (name, pipeline) in [("GET", rig::gets(1)), ("MGET of 10", rig::mget(10))] {
        let mut args = Vec::new();
        RequestScanner::default().scan(&pipeline, &mut args, MAX_REQUEST).expect("a request");
        let request = Request::new(&pipeline, None, &args);
        let row = lookup::command(request.arg(0)).expect("a row");
        group.bench_function(format!("slot of the keys of {name}"), |b| {
            b.iter(|| keys::key_slot(row, black_box(&request)));
        });
    }
    group.bench_function("slot of a key of 10 bytes", |b| {
        b.iter(|| slot::slot(black_box(b"key:000042")));
    });
    group.finish();
}

/// Tickets given out and filled, in order and in the worst order.
fn windows(c: &mut Criterion) {
    let mut group = c.benchmark_group("window");
    group.throughput(Throughput::Elements(16));
    for (name, backwards) in [("in order", false), ("backwards", true)] {
        group.bench_function(format!("16 replies {name}"), |b| {
            b.iter_batched_ref(
                || (Window::default(), ByteQueue::default()),
                |(window, out)| {
                    let mut tickets: Vec<u32> =
                        (0..16).map(|n| window.open(None, n, Key::NONE, 32, 1)).collect();
                    if backwards {
                        tickets.reverse();
                    }
                    for ticket in tickets {
                        window.fill(ticket, 0, Reply::Borrowed(black_box(b"+OK\r\n")), out);
                    }
                    out.unsent()
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// A whole turn of 50 clients through hub and pipes: what the proxy itself does for a command.
fn turns(c: &mut Criterion) {
    let mut group = c.benchmark_group("turn of 50 clients");
    for (name, (clients, request, commands, answer)) in rig::workloads() {
        let mut rig = rig::Rig::new(clients);
        (0..100).for_each(|_| rig.turn(&request, answer));
        group.throughput(Throughput::Elements(commands as u64));
        group.bench_function(name, |b| b.iter(|| rig.turn(black_box(&request), answer)));
    }
    group.finish();
}

criterion_group!(benches, scanners, commands, windows, turns);
criterion_main!(benches);
