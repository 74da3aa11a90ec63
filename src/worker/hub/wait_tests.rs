//! Blocking commands through losses and failovers, in virtual time: each keeps its own total time.

use std::io::IoSlice;
use std::sync::Arc;

use super::sim_settings::OP_TIMEOUT;
pub(super) use super::sim_settings::settings;
use super::*;
use crate::cluster::topology::{Mode, Shard};
use crate::resp::encode;

const UNBLOCKED: &[u8] =
    b"-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)\r\n";

/// A hub with one client before a shard whose primary can change.
pub(super) struct Bench {
    pub(super) hub: Hub,
    pub(super) client: Key,
}

impl Bench {
    pub(super) fn new() -> Self {
        let mut hub = Hub::new(settings(), 7);
        hub.set_credential(CredentialState::NotNeeded);
        let client = hub.client_open(Profile::default());
        let mut bench = Self { hub, client };
        bench.primary(0);
        bench
    }

    /// The slot map now names this node.
    pub(super) fn primary(&mut self, node: u16) {
        let primary = NodeAddr { host: "10.0.0.1".into(), port: 7000 + node };
        self.hub.set_topology(Arc::new(Topology {
            epoch: 0,
            mode: Mode::Cluster,
            shards: vec![Shard { primary, replicas: vec![] }],
            slots: Box::new([0; SLOTS]),
            server: Default::default(),
        }));
    }

    pub(super) fn send(&mut self, words: &str) {
        let mut frame = Vec::new();
        encode::command(&mut frame, &words.split(' ').collect::<Vec<_>>());
        self.hub.client_data(self.client, &frame);
    }

    /// Time passes, and alarms ring when they are due.
    pub(super) fn pass(&mut self, ms: u64) {
        let end = self.hub.now() + ms;
        while let Some(at) = self.hub.next_deadline().filter(|&at| at <= end) {
            self.hub.set_now(at);
            self.hub.on_time();
        }
        self.hub.set_now(end);
    }

    /// Lets the dials that are due succeed.
    pub(super) fn connect(&mut self) {
        for dial in std::mem::take(&mut self.hub.work.dials) {
            self.hub.pipe_connected(dial.pipe);
            // HELLO, perhaps, and CLIENT ID.
            for reply in [&b"%1\r\n$5\r\nproto\r\n:3\r\n"[..], b":42\r\n"] {
                if self.hub.pipe_mut(dial.pipe).is_some_and(|p| !p.may_send()) {
                    self.hub.pipe_data(dial.pipe, reply);
                }
            }
        }
    }

    /// The request that was sent since this was asked last, and where it went.
    pub(super) fn sent(&mut self) -> (Key, String) {
        self.connect();
        let all: Vec<Key> = self.hub.pipes.iter().map(|(k, _)| k).collect();
        let of = |p: &mut Pipe| {
            let mut slices = [IoSlice::new(&[]); 8];
            let n = p.out.unsent_slices(&mut slices);
            let bytes: Vec<u8> = slices[..n].iter().flat_map(|s| s.to_vec()).collect();
            p.out.mark_sent(bytes.len());
            String::from_utf8(bytes).expect("text")
        };
        for key in all {
            let p = self.hub.pipe_mut(key).expect("a pipe");
            if p.may_send() && p.out.unsent() > 0 {
                let text = of(p);
                let words =
                    text.split("\r\n").filter(|w| !w.is_empty() && !w.starts_with(['*', '$']));
                return (key, words.collect::<Vec<_>>().join(" "));
            }
        }
        panic!("nothing was sent; the client got {:?}", self.got());
    }

    /// What the client got since it was asked last.
    pub(super) fn got(&mut self) -> String {
        let out = &mut self.hub.session_mut(self.client).expect("a session").out;
        let mut slices = [IoSlice::new(&[]); 8];
        let n = out.unsent_slices(&mut slices);
        let bytes: Vec<u8> = slices[..n].iter().flat_map(|s| s.to_vec()).collect();
        out.consume(bytes.len());
        String::from_utf8(bytes).expect("text")
    }
}

#[test]
fn a_node_may_be_late_with_the_nil_of_a_timeout() {
    let mut b = Bench::new();
    b.send("BLPOP q 6");
    let (pipe, sent) = b.sent();
    assert_eq!(sent, "BLPOP q 6");
    b.pass(6000 + OP_TIMEOUT - 200);
    assert_eq!(b.got(), "");
    b.hub.pipe_data(pipe, b"*-1\r\n");
    assert_eq!(b.got(), "*-1\r\n");
}

#[test]
fn a_node_that_never_answers_is_given_up_after_both_times() {
    let mut b = Bench::new();
    b.send("BLPOP q 6");
    b.sent();
    b.pass(6000 + OP_TIMEOUT + 200);
    let got = b.got();
    assert!(got.contains("may have been executed"), "{got}");
}

#[test]
fn time_waited_is_not_waited_again() {
    for (command, again) in [
        ("BLPOP q 6", "BLPOP q 3.900"),
        ("BLMPOP 6 1 q LEFT", "BLMPOP 3.900 1 q LEFT"),
        ("BZMPOP 6 1 q MIN", "BZMPOP 3.900 1 q MIN"),
        ("BLMOVE q p{q} LEFT LEFT 6", "BLMOVE q p{q} LEFT LEFT 3.900"),
        ("XREAD COUNT 1 BLOCK 6000 STREAMS q $", "XREAD COUNT 1 BLOCK 3900 STREAMS q $"),
        ("BLPOP q 0", "BLPOP q 0"),
    ] {
        let mut b = Bench::new();
        b.send(command);
        let (pipe, _) = b.sent();
        b.pass(2000);
        b.hub.pipe_data(pipe, UNBLOCKED);
        b.primary(1);
        b.pass(100);
        let (_, sent) = b.sent();
        // The retry had a short delay of its own.
        let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
        let near = |a: &str, b: &str| {
            let (a, b) = (digits(a).parse::<u64>(), digits(b).parse::<u64>());
            a.is_ok_and(|a| b.is_ok_and(|b| a.abs_diff(b) <= 200_000))
        };
        let same = sent.split(' ').zip(again.split(' ')).all(|(a, b)| a == b || near(a, b));
        assert!(same, "{command}: {sent}, not {again}");
        assert_eq!(b.got(), "");
    }
}

#[test]
fn a_wait_without_end_outlasts_any_op_timeout_and_failover() {
    let mut b = Bench::new();
    b.send("BLPOP q 0");
    let (mut pipe, _) = b.sent();
    for round in 1..20 {
        b.pass(10 * OP_TIMEOUT);
        b.hub.pipe_data(pipe, UNBLOCKED);
        b.pass(400);
        // Not yet known who is the next primary; the replica that is asked says so.
        let (replica, _) = b.sent();
        b.pass(100);
        let line = format!("-MOVED 1 10.0.0.1:{}\r\n", 7000 + round % 2);
        b.hub.pipe_data(replica, line.as_bytes());
        let sent;
        (pipe, sent) = b.sent();
        assert_eq!(sent, "BLPOP q 0", "round {round}");
        assert_eq!(b.got(), "");
    }
    b.hub.pipe_data(pipe, b"*2\r\n$1\r\nq\r\n$1\r\nv\r\n");
    assert_eq!(b.got(), "*2\r\n$1\r\nq\r\n$1\r\nv\r\n");
    b.send("PING");
    assert_eq!(b.got(), "+PONG\r\n");
}

#[test]
fn a_timeout_that_ends_during_a_failover_is_nil() {
    for (version, nil) in [("HELLO 2", "*-1\r\n"), ("HELLO 3", "_\r\n")] {
        let mut b = Bench::new();
        b.send(version);
        b.got();
        b.send("BRPOP q 3");
        let (pipe, _) = b.sent();
        b.pass(2700);
        b.hub.pipe_data(pipe, UNBLOCKED);
        // The dial to the new primary takes its time.
        b.primary(1);
        b.pass(200);
        assert_eq!(b.got(), "");
        b.pass(300);
        assert_eq!(b.got(), nil);
        assert!(b.hub.session_mut(b.client).is_some_and(|s| s.wait.is_none() && !s.alone));
    }
}

/// The old primary refuses at once, time and again: that is not waiting, and ends with the cause.
#[test]
fn a_wait_that_no_node_takes_ends_with_the_cause() {
    let mut b = Bench::new();
    b.send("BLPOP q 0");
    let (pipe, _) = b.sent();
    for _ in 0..100 {
        b.hub.pipe_data(pipe, b"-CLUSTERDOWN The cluster is down\r\n");
        b.pass(350);
        let p = b.hub.pipe_mut(pipe).expect("a pipe");
        let all = p.out.unsent();
        p.out.mark_sent(all);
        let got = b.got();
        if !got.is_empty() {
            assert!(got.contains("not executed"), "{got}");
            assert!(b.hub.now() < 3 * OP_TIMEOUT);
            return;
        }
    }
    panic!("it is tried for ever");
}

#[test]
fn a_pop_that_may_have_happened_is_told_and_a_read_repeated() {
    let mut b = Bench::new();
    b.send("BLPOP q 6");
    let (pipe, _) = b.sent();
    b.pass(3000);
    b.hub.pipe_lost(pipe, "reset by peer");
    assert!(b.got().contains("may have been executed"));
    b.send("XREAD BLOCK 6000 STREAMS q $");
    b.pass(200);
    let (pipe, _) = b.sent();
    b.pass(3000);
    b.hub.pipe_lost(pipe, "reset by peer");
    b.pass(200);
    let (_, sent) = b.sent();
    assert!(sent.starts_with("XREAD BLOCK 2") || sent.starts_with("XREAD BLOCK 3000"), "{sent}");
}

/// Sends `WATCH a` and has it accepted.
fn watching() -> (Bench, Key) {
    let mut b = Bench::new();
    b.send("WATCH {t}a");
    let (pipe, sent) = b.sent();
    assert_eq!(sent, "WATCH {t}a");
    b.hub.pipe_data(pipe, b"+OK\r\n");
    assert_eq!(b.got(), "+OK\r\n");
    (b, pipe)
}

fn executes(b: &mut Bench) {
    for words in ["MULTI", "SET {t}a 1", "EXEC"] {
        b.send(words);
    }
}

#[test]
fn what_was_watched_on_a_lost_connection_is_not_forgotten_by_a_later_watch() {
    let (mut b, pipe) = watching();
    b.hub.pipe_lost(pipe, "reset by peer");
    b.send("WATCH {t}b");
    let (again, _) = b.sent();
    b.hub.pipe_data(again, b"+OK\r\n");
    executes(&mut b);
    assert_eq!(b.got(), "+OK\r\n+OK\r\n+QUEUED\r\n*-1\r\n");
    // The next one begins anew.
    b.send("WATCH {t}a");
    let (pipe, _) = b.sent();
    b.hub.pipe_data(pipe, b"+OK\r\n");
    executes(&mut b);
    b.sent();
    b.hub.pipe_data(pipe, b"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");
    assert_eq!(b.got(), "+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");
}

#[test]
fn exec_after_hello_answers_in_the_protocol_of_now() {
    let (mut b, _) = watching();
    b.send("HELLO 3");
    b.got();
    executes(&mut b);
    assert_eq!(b.got(), "+OK\r\n+QUEUED\r\n_\r\n");
}
