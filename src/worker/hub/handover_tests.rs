//! Subscriptions that follow from one connection to the next, in virtual time.

use std::time::Duration;

use super::wait_tests::Bench;
use super::*;
use crate::resp::{Version, encode};

const AGE: u64 = 1000;

/// The nodes' side of a connection.
struct Far {
    pipe: Key,
    /// Words that were said on it and not yet answered.
    asked: Vec<Vec<String>>,
}

/// A client subscribed to `news`, `n*` and the shard channel `s`, before connections that age.
fn subscribed() -> (Bench, Far) {
    let mut b = Bench::new();
    b.hub.settings.max_connection_age = Duration::from_millis(AGE);
    b.send("HELLO 3");
    b.got();
    for command in ["SUBSCRIBE news", "PSUBSCRIBE n*", "SSUBSCRIBE s"] {
        b.send(command);
        let pipe = listening(&mut b);
        let mut far = Far { pipe, asked: Vec::new() };
        far.answer_all(&mut b);
    }
    b.got();
    let pipe = listening(&mut b);
    (b, Far { pipe, asked: Vec::new() })
}

/// Connects what is dialled, and says which pipe the topics have now.
fn listening(b: &mut Bench) -> Key {
    connect(b);
    b.hub.topics.pipes[0].1
}

fn connect(b: &mut Bench) -> Option<Key> {
    let dials = std::mem::take(&mut b.hub.work.dials);
    for dial in &dials {
        b.hub.pipe_connected(dial.pipe);
        b.hub.pipe_data(dial.pipe, b"%1\r\n$5\r\nproto\r\n:3\r\n");
    }
    dials.last().map(|d| d.pipe)
}

impl Far {
    /// Takes in what was said on the connection.
    fn listen(&mut self, b: &mut Bench) {
        let Some(p) = b.hub.pipe_mut(self.pipe) else {
            return;
        };
        let mut slices = [std::io::IoSlice::new(&[]); 8];
        let n = p.out.unsent_slices(&mut slices);
        let bytes: Vec<u8> = slices[..n].iter().flat_map(|s| s.to_vec()).collect();
        p.out.mark_sent(bytes.len());
        let text = String::from_utf8(bytes).expect("text");
        for line in text.split("\r\n") {
            if line.starts_with('*') {
                self.asked.push(Vec::new());
            } else if !line.starts_with('$')
                && let Some(words) = self.asked.last_mut()
                && (!line.is_empty() || words[0] == "SPUBLISH" && words.len() == 2)
            {
                words.push(line.into());
            }
        }
    }

    /// Confirms everything that was asked; a published marker is returned instead.
    fn answer_all(&mut self, b: &mut Bench) -> Option<String> {
        self.listen(b);
        let mut published = None;
        for words in std::mem::take(&mut self.asked) {
            if words[0] == "SPUBLISH" {
                published = Some(words[1].clone());
                continue;
            }
            for name in &words[1..] {
                let push = push(&[&words[0].to_ascii_lowercase(), name], Some(1));
                b.hub.pipe_data(self.pipe, &push);
            }
        }
        published
    }

    fn says(&self, b: &mut Bench, words: &[&str]) {
        b.hub.pipe_data(self.pipe, &push(words, None));
    }
}

fn push(words: &[&str], number: Option<i64>) -> Vec<u8> {
    let mut out = Vec::new();
    encode::header(&mut out, b'>', words.len() as i64 + i64::from(number.is_some()));
    words.iter().for_each(|w| encode::bulk(&mut out, w.as_bytes()));
    if let Some(n) = number {
        out.extend_from_slice(format!(":{n}\r\n").as_bytes());
    }
    out
}

/// Ages the connection; the next one is subscribed to all the old one carries. The marker.
fn gathered(b: &mut Bench, old: &mut Far) -> (Far, String) {
    b.pass(AGE);
    let pipe = connect(b).expect("the next connection is dialled");
    let mut new = Far { pipe, asked: Vec::new() };
    assert_eq!(new.answer_all(b), None, "the old one has not confirmed the marker yet");
    assert_eq!(old.answer_all(b), None);
    let marker = new.answer_all(b).expect("the marker is published");
    (new, marker)
}

fn payloads(text: &str) -> String {
    text.split("\r\n").filter(|w| w.len() == 2 && w.starts_with('m')).collect::<Vec<_>>().join(" ")
}

#[test]
fn each_message_comes_once_whichever_connection_is_ahead() {
    for new_is_ahead in [false, true] {
        let (mut b, mut old) = subscribed();
        let (mut new, marker) = gathered(&mut b, &mut old);
        let both = |b: &mut Bench, far: &Far| {
            far.says(b, &["message", "news", "m1"]);
            far.says(b, &["pmessage", "n*", "nx", "m2"]);
            far.says(b, &["smessage", &marker, ""]);
            far.says(b, &["smessage", "s", "m3"]);
            far.says(b, &["message", "news", "m4"]);
        };
        let (first, second) = if new_is_ahead { (&new, &old) } else { (&old, &new) };
        both(&mut b, first);
        both(&mut b, second);
        assert_eq!(payloads(&b.got()), "m1 m2 m3 m4", "the new one ahead: {new_is_ahead}");
        assert!(b.hub.pipe_mut(old.pipe).is_none(), "the old one is closed");
        b.hub.pipe_data(new.pipe, b":2\r\n");
        new.says(&mut b, &["message", "news", "m5"]);
        assert_eq!(payloads(&b.got()), "m5");
        new.listen(&mut b);
        assert_eq!(new.asked, [vec!["SUNSUBSCRIBE".to_owned(), marker]]);
        assert!(b.hub.handovers.is_empty());
    }
}

#[test]
fn what_is_left_and_joined_meanwhile_is_right_afterwards() {
    let (mut b, mut old) = subscribed();
    b.pass(AGE);
    let pipe = connect(&mut b).expect("the next connection is dialled");
    let mut new = Far { pipe, asked: Vec::new() };
    b.send("SUBSCRIBE late");
    old.answer_all(&mut b);
    new.answer_all(&mut b);
    b.send("UNSUBSCRIBE news");
    b.send("SUBSCRIBE later");
    // Asked for `late` on the new one, and for nothing more on the old one.
    old.answer_all(&mut b);
    new.answer_all(&mut b);
    old.answer_all(&mut b);
    let marker = new.answer_all(&mut b).expect("the marker is published");
    for far in [&old, &new] {
        far.says(&mut b, &["smessage", &marker, ""]);
    }
    b.hub.pipe_data(new.pipe, b":2\r\n");
    new.listen(&mut b);
    let asked: Vec<String> = new.asked.iter().map(|w| w.join(" ")).collect();
    assert!(asked.contains(&"UNSUBSCRIBE news".to_owned()), "{asked:?}");
    assert!(asked.contains(&"SUBSCRIBE later".to_owned()), "{asked:?}");
    assert_eq!(asked.len(), 3, "{asked:?}");
    new.answer_all(&mut b);
    b.got();
    for name in ["late", "later"] {
        new.says(&mut b, &["message", name, "m1"]);
        assert_eq!(payloads(&b.got()), "m1", "{name}");
    }
}

#[test]
fn a_handover_that_fails_costs_no_message() {
    // The marker comes on the old one, and never on the new one.
    let (mut b, mut old) = subscribed();
    let (new, marker) = gathered(&mut b, &mut old);
    old.says(&mut b, &["message", "news", "m1"]);
    old.says(&mut b, &["smessage", &marker, ""]);
    old.says(&mut b, &["message", "news", "m2"]);
    assert_eq!(payloads(&b.got()), "m1");
    b.hub.pipe_lost(new.pipe, "reset");
    assert_eq!(payloads(&b.got()), "m2");
    old.says(&mut b, &["message", "news", "m3"]);
    assert_eq!(payloads(&b.got()), "m3");
    // It is tried again.
    old.answer_all(&mut b);
    let (new, marker) = gathered(&mut b, &mut old);
    for far in [&old, &new] {
        far.says(&mut b, &["smessage", &marker, ""]);
    }
    new.says(&mut b, &["message", "news", "m4"]);
    assert_eq!(payloads(&b.got()), "m4");
}

#[test]
fn a_refused_subscription_ends_the_attempt_only() {
    let (mut b, old) = subscribed();
    b.pass(AGE);
    let pipe = connect(&mut b).expect("the next connection is dialled");
    b.hub.pipe_data(pipe, b"-ERR unknown command 'SSUBSCRIBE'\r\n");
    assert!(b.hub.pipe_mut(pipe).is_none());
    old.says(&mut b, &["message", "news", "m1"]);
    assert_eq!(payloads(&b.got()), "m1");
    assert_eq!(b.hub.session_mut(b.client).map(|s| s.version), Some(Version::V3));
}

#[test]
fn a_lost_old_connection_is_followed_by_a_fresh_one() {
    let (mut b, mut old) = subscribed();
    let (new, _) = gathered(&mut b, &mut old);
    b.hub.pipe_lost(old.pipe, "reset");
    assert!(b.hub.pipe_mut(new.pipe).is_none());
    b.pass(200);
    let pipe = listening(&mut b);
    let mut fresh = Far { pipe, asked: Vec::new() };
    fresh.answer_all(&mut b);
    fresh.says(&mut b, &["message", "news", "m1"]);
    assert_eq!(payloads(&b.got()), "m1");
}

/// A slot goes to another node and comes back while the first one's connection stalls: what that
/// brings from before is older than what the other one has brought since.
#[test]
fn what_an_earlier_subscription_brings_late_is_not_heard() {
    let mut b = Bench::new();
    b.send("HELLO 3");
    b.send("SSUBSCRIBE s");
    let mut first = Far { pipe: listening(&mut b), asked: Vec::new() };
    first.answer_all(&mut b);
    b.got();
    first.says(&mut b, &["smessage", "s", "m1"]);
    b.primary(1);
    let pipe = connect(&mut b).expect("the other node is dialled");
    let mut other = Far { pipe, asked: Vec::new() };
    other.answer_all(&mut b);
    other.says(&mut b, &["smessage", "s", "m3"]);
    b.primary(0);
    first.says(&mut b, &["smessage", "s", "m2"]);
    first.answer_all(&mut b);
    first.says(&mut b, &["smessage", "s", "m4"]);
    assert_eq!(payloads(&b.got()), "m1 m3 m4");
}
