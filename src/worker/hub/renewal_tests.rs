//! Connections that come of age, in virtual time.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::wait_tests::Bench;
use super::*;
use crate::credentials::Secret;

const AGE: u64 = 1000;

fn token(generation: u64) -> CredentialState {
    CredentialState::Ready {
        credential: Arc::new(Credential {
            username: "default".into(),
            secret: Secret::new(format!("token-{generation}")),
            expires_at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(2)),
            obtained_at: SystemTime::UNIX_EPOCH,
            generation,
            source: "test",
            principal: None,
        }),
        refresh_error: None,
    }
}

fn aging() -> Bench {
    let mut b = Bench::new();
    b.hub.settings.max_connection_age = Duration::from_millis(AGE);
    b
}

fn authenticating() -> Bench {
    let mut b = Bench::new();
    b.hub.set_credential(token(1));
    b
}

/// The timeout of `BLPOP q T`, in ms.
fn timeout_of(sent: &str) -> u64 {
    let seconds = sent.strip_prefix("BLPOP q ").expect("BLPOP");
    (seconds.parse::<f64>().expect("a number") * 1000.0) as u64
}

#[test]
fn a_blocking_command_waits_in_turns_for_all_of_its_time() {
    let mut b = aging();
    b.send("BLPOP q 7");
    let mut waited = 0;
    loop {
        let (pipe, sent) = b.sent();
        let turn = timeout_of(&sent);
        assert!(turn <= AGE, "{sent} outlasts its connection");
        b.pass(turn);
        waited += turn;
        b.hub.pipe_data(pipe, b"*-1\r\n");
        if waited >= 7000 {
            break;
        }
        assert_eq!(b.got(), "", "after {waited} ms");
    }
    assert_eq!(waited, 7000);
    assert_eq!(b.got(), "*-1\r\n");
}

#[test]
fn a_wait_without_end_gets_its_element_in_a_later_turn() {
    let mut b = aging();
    b.send("BLPOP q 0");
    for _ in 0..50 {
        let (pipe, sent) = b.sent();
        b.pass(timeout_of(&sent));
        b.hub.pipe_data(pipe, b"*-1\r\n");
        assert_eq!(b.got(), "");
    }
    let (pipe, _) = b.sent();
    b.hub.pipe_data(pipe, b"*2\r\n$1\r\nq\r\n$1\r\ne\r\n");
    assert_eq!(b.got(), "*2\r\n$1\r\nq\r\n$1\r\ne\r\n");
    // Connections that came of age were closed, not hoarded.
    assert!(b.hub.pipes.len() <= 2, "{} connections", b.hub.pipes.len());
}

#[test]
fn xread_from_now_on_is_not_taken_apart() {
    let mut b = aging();
    b.send("XREAD BLOCK 5000 STREAMS s $");
    assert!(b.sent().1.starts_with("XREAD BLOCK 5000 "));
    let mut b = aging();
    b.send("XREAD BLOCK 5000 STREAMS s 0-1");
    assert!(!b.sent().1.starts_with("XREAD BLOCK 5000 "));
}

#[test]
fn a_connection_is_replaced_before_it_is_given_up() {
    let mut b = aging();
    b.send("GET a");
    let (old, _) = b.sent();
    b.hub.pipe_data(old, b"$-1\r\n");
    b.pass(AGE);
    assert_eq!(b.hub.work.dials.len(), 1, "the next connection is on its way");
    // The old one serves until the next is ready.
    let next = b.hub.work.dials.remove(0).pipe;
    b.send("GET b");
    assert_eq!(b.sent().0, old);
    b.hub.pipe_connected(next);
    b.send("GET c");
    let (pipe, sent) = b.sent();
    assert_eq!((pipe, sent.as_str()), (next, "GET c"));
    b.hub.pipe_data(next, b"$1\r\nc\r\n");
    assert!(b.hub.pipe_mut(old).is_some(), "its reply is still due");
    b.hub.pipe_data(old, b"$1\r\nb\r\n");
    assert!(b.hub.pipe_mut(old).is_none());
    assert_eq!(b.got(), "$-1\r\n$1\r\nb\r\n$1\r\nc\r\n");
}

#[test]
fn a_replacement_that_fails_leaves_the_old_connection_in_place() {
    let mut b = aging();
    b.send("GET a");
    let (old, _) = b.sent();
    b.hub.pipe_data(old, b"$-1\r\n");
    for _ in 0..5 {
        b.pass(AGE);
        let dials = std::mem::take(&mut b.hub.work.dials);
        assert_eq!(dials.len(), 1);
        b.hub.pipe_lost(dials[0].pipe, "refused");
    }
    b.send("GET b");
    assert_eq!(b.sent().0, old);
}

/// AUTHs on a pipe since this was asked last.
fn auths(b: &mut Bench, pipe: Key) -> usize {
    let Some(p) = b.hub.pipe_mut(pipe) else {
        return 0;
    };
    let mut slices = [std::io::IoSlice::new(&[]); 8];
    let n = p.out.unsent_slices(&mut slices);
    let bytes: Vec<u8> = slices[..n].iter().flat_map(|s| s.to_vec()).collect();
    p.out.mark_sent(bytes.len());
    String::from_utf8_lossy(&bytes).matches("AUTH").count()
}

fn ready(b: &mut Bench) -> Key {
    b.send("GET a");
    let dial = b.hub.work.dials.remove(0).pipe;
    b.hub.pipe_connected(dial);
    b.hub.pipe_data(dial, b"+OK\r\n");
    let (pipe, _) = b.sent();
    b.hub.pipe_data(pipe, b"$-1\r\n");
    b.got();
    pipe
}

#[test]
fn a_new_token_renews_in_band_within_a_part_of_its_life() {
    let mut b = authenticating();
    let pipe = ready(&mut b);
    b.hub.set_credential(token(2));
    b.pass(500);
    assert_eq!(auths(&mut b, pipe), 1);
    b.hub.pipe_data(pipe, b"+OK\r\n");
    b.pass(5000);
    assert_eq!(auths(&mut b, pipe), 0, "once is enough");
    assert_eq!(b.got(), "", "nobody sees the reply");
}

#[test]
fn a_refused_renewal_keeps_the_connection_and_is_tried_again_ever_more_slowly() {
    let mut b = authenticating();
    b.hub.settings.auth_backoff_max = Duration::from_millis(100);
    let pipe = ready(&mut b);
    b.hub.set_credential(token(2));
    let mut tried = 0;
    for _ in 0..3000 {
        b.pass(1);
        if auths(&mut b, pipe) > 0 {
            tried += 1;
            b.hub.pipe_data(pipe, b"-ERR (ERR_IAM_EXHAUSTED) quota\r\n");
        }
    }
    assert!((5..300).contains(&tried), "{tried} AUTHs in three seconds");
    b.send("GET b");
    assert_eq!(b.sent().0, pipe, "the old authentication holds");
}

#[test]
fn dials_are_paced_and_none_is_forgotten() {
    let mut b = Bench::new();
    b.hub.pace = crate::upstream::pace::Pace::per_second(10.0);
    let clients: Vec<Key> = (0..50).map(|_| b.hub.client_open(Profile::default())).collect();
    for &client in &clients {
        b.hub.client_data(client, b"*3\r\n$5\r\nBLPOP\r\n$1\r\nq\r\n$1\r\n0\r\n");
    }
    assert_eq!(std::mem::take(&mut b.hub.work.dials).len(), 10);
    b.pass(1000);
    assert_eq!(std::mem::take(&mut b.hub.work.dials).len(), 10);
    b.pass(3000);
    assert_eq!(std::mem::take(&mut b.hub.work.dials).len(), 30);
}
