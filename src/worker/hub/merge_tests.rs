//! Replies that are larger than what is merged: dropped as they come, on connections that go on.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::cluster::topology::{Mode, Shard};
use crate::resp::encode;

const LIMIT: usize = 1 << 20;

/// A worker before two shards, whose connections are made.
fn two_shards() -> (Hub, Key, Vec<Key>) {
    let settings = Settings {
        op_timeout: Duration::from_secs(5),
        max_client_output: 1 << 30,
        max_merge: LIMIT,
        max_pipeline: 16 * 1024,
        client_idle_timeout: None,
        ..super::wait_tests::settings()
    };
    let mut hub = Hub::new(settings, 7);
    hub.set_credential(CredentialState::NotNeeded);
    let shard = |n: u16| Shard {
        primary: NodeAddr { host: "10.0.0.1".into(), port: 7000 + n },
        replicas: vec![],
    };
    let mut slots = Box::new([0u16; SLOTS]);
    slots[SLOTS / 2..].fill(1);
    hub.set_topology(Arc::new(Topology {
        epoch: 0,
        mode: Mode::Cluster,
        shards: vec![shard(0), shard(1)],
        slots,
        server: Default::default(),
    }));
    let client = hub.client_open(Profile::default());
    hub.client_data(client, b"*2\r\n$4\r\nKEYS\r\n$1\r\n*\r\n");
    let pipes: Vec<Key> = hub.work.dials.drain(..).map(|d| d.pipe).collect();
    assert_eq!(pipes.len(), 2);
    for &pipe in &pipes {
        hub.pipe_connected(pipe);
    }
    send(&mut hub, &pipes);
    (hub, client, pipes)
}

/// Everything queued for the nodes leaves.
fn send(hub: &mut Hub, pipes: &[Key]) {
    for &pipe in pipes {
        let p = hub.pipe_mut(pipe).expect("a pipe");
        let unsent = p.out.unsent();
        p.out.mark_sent(unsent);
    }
}

fn got(hub: &mut Hub, client: Key) -> Vec<u8> {
    let out = &mut hub.session_mut(client).expect("a session").out;
    let mut all = Vec::new();
    while out.unsent() > 0 {
        let mut slices = [IoSlice::new(&[]); 8];
        let n = out.unsent_slices(&mut slices);
        let bytes: Vec<u8> = slices[..n].iter().flat_map(|s| s.to_vec()).collect();
        out.consume(bytes.len());
        all.extend(bytes);
    }
    all
}

fn array(items: usize) -> Vec<u8> {
    let mut out = Vec::new();
    encode::header(&mut out, b'*', items as i64);
    (0..items).for_each(|i| encode::bulk(&mut out, format!("{i:0100}").as_bytes()));
    out
}

/// Hands a reply over in the portions a socket gives.
fn arrive(hub: &mut Hub, pipe: Key, reply: &[u8]) {
    reply.chunks(64 * 1024).for_each(|chunk| hub.pipe_data(pipe, chunk));
}

#[test]
fn what_is_below_the_limit_is_put_together() {
    let (mut hub, client, pipes) = two_shards();
    let (a, b) = (array(3000), array(2000));
    arrive(&mut hub, pipes[1], &b);
    assert_eq!(got(&mut hub, client), b"");
    arrive(&mut hub, pipes[0], &a);
    let want = [&b"*5000\r\n"[..], &a[b"*3000\r\n".len()..], &b[b"*2000\r\n".len()..]].concat();
    assert_eq!(got(&mut hub, client), want);
}

#[test]
fn what_is_beyond_it_is_dropped_as_it_comes_and_the_connections_go_on() {
    let (mut hub, client, pipes) = two_shards();
    hub.client_data(client, b"*1\r\n$6\r\nDBSIZE\r\n");
    send(&mut hub, &pipes);
    let big = array(20_000);
    let halves = big.len() / 2;
    // Both come at once; together they pass the limit before either is whole.
    for at in (0..big.len()).step_by(32 * 1024) {
        for &pipe in &pipes {
            hub.pipe_data(pipe, &big[at..(at + 32 * 1024).min(big.len())]);
        }
        if at > halves {
            assert!(pipes.iter().all(|&p| !hub.pipe_mut(p).expect("a pipe").has_input()));
        }
    }
    let text = String::from_utf8(got(&mut hub, client)).expect("text");
    assert!(
        text.starts_with("-ERR memorystore-auth-proxy") && text.ends_with("use SCAN\r\n"),
        "{text}"
    );
    for &pipe in &pipes {
        hub.pipe_data(pipe, b":21\r\n");
    }
    assert_eq!(got(&mut hub, client), b":42\r\n");
}

#[test]
fn one_huge_string_is_not_waited_for_in_memory() {
    let (mut hub, client, pipes) = two_shards();
    let header = b"*1\r\n$400000000\r\n";
    hub.pipe_data(pipes[0], &[&header[..], &[b'x'; 100]].concat());
    hub.pipe_data(pipes[0], &[b'x'; 1000]);
    assert!(hub.pipe_mut(pipes[0]).expect("a pipe").is_skipping());
    let chunk = vec![b'x'; 1 << 20];
    let mut left = 400_000_000 - 1100;
    while left > 0 {
        let n = left.min(chunk.len());
        hub.pipe_data(pipes[0], &chunk[..n]);
        left -= n;
    }
    hub.pipe_data(pipes[0], b"\r\n");
    hub.pipe_data(pipes[1], b"*0\r\n");
    assert!(got(&mut hub, client).starts_with(b"-ERR memorystore-auth-proxy"));
    assert!(!hub.pipe_mut(pipes[0]).expect("a pipe").is_skipping());
}

#[test]
fn nobody_keeps_what_a_client_that_left_had_asked_for() {
    let (mut hub, client, pipes) = two_shards();
    let big = array(5000);
    hub.client_gone(client);
    hub.pipe_data(pipes[0], &big[..100_000]);
    hub.pipe_data(pipes[0], &big[100_000..200_000]);
    assert!(hub.pipe_mut(pipes[0]).expect("a pipe").is_skipping());
    hub.pipe_data(pipes[0], &big[200_000..]);
    let next = hub.client_open(Profile::default());
    hub.client_data(next, b"*1\r\n$6\r\nDBSIZE\r\n");
    send(&mut hub, &pipes);
    hub.pipe_data(pipes[1], &big);
    for &pipe in &pipes {
        hub.pipe_data(pipe, b":1\r\n");
    }
    assert_eq!(got(&mut hub, next), b":2\r\n");
}

/// Found by fuzzing: a length is a claim, and 512 MB were made room for at the first byte.
#[test]
fn what_is_promised_is_given_room_as_it_comes() {
    const SOME: usize = 2 << 20;
    let (mut hub, client, pipes) = two_shards();
    pipes.iter().for_each(|&pipe| hub.pipe_data(pipe, b"*0\r\n"));
    hub.client_data(client, b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    send(&mut hub, &pipes);
    let asked = pipes.iter().find(|&&p| hub.pipe_mut(p).is_some_and(|p| p.in_flight() == 1));
    let &asked = asked.expect("one is asked");
    hub.pipe_data(asked, b"$2147483648\r\nx");
    let input = hub.pipe_mut(asked).expect("a pipe").take_input();
    assert!(!input.is_empty() && input.capacity() < SOME, "{}", input.capacity());

    hub.settings.max_request = 1 << 30;
    hub.client_data(client, b"*2\r\n$3\r\nGET\r\n$536870912\r\nx");
    let input = &hub.session_mut(client).expect("a session").input;
    assert!(!input.is_empty() && input.capacity() < SOME, "{}", input.capacity());
}
