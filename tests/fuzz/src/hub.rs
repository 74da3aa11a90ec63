//! A worker between clients that say anything and nodes that say anything: nothing panics, each client
//! reads whole replies and not one more than it asked for, and memory stays within its limits.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use memorystore_auth_proxy::cluster::topology::{Mode, NodeAddr, SLOTS, Shard, Topology};
use memorystore_auth_proxy::command::table::COMMANDS;
use memorystore_auth_proxy::credentials::{Credential, CredentialState, Secret};
use memorystore_auth_proxy::key::Key;
use memorystore_auth_proxy::resp::encode;
use memorystore_auth_proxy::resp::scan::{ReplyScan, ReplyScanner, RequestScan, RequestScanner};
use memorystore_auth_proxy::session::core::Profile;
use memorystore_auth_proxy::worker::hub::{Dial, Hub, ReadFrom, Settings};

use crate::support::{Input, reply, within};

const HUSH: &[u8] = b"hush-5f1d";

/// What nodes say, besides anything.
const REPLIES: [&[u8]; 30] = [
    b"+OK\r\n",
    b"$-1\r\n",
    b"_\r\n",
    b":1\r\n",
    b"*0\r\n",
    b"*2\r\n$1\r\n0\r\n*0\r\n",
    b"-MOVED 1 10.0.0.1:7000\r\n",
    b"-MOVED 16000 :7000\r\n",
    b"-ASK 3 10.0.0.2:7000\r\n",
    b"-TRYAGAIN x\r\n",
    b"-CLUSTERDOWN x\r\n",
    b"-LOADING x\r\n",
    b"-READONLY x\r\n",
    b"-MASTERDOWN x\r\n",
    b"-NOAUTH x\r\n",
    b"-WRONGPASS x\r\n",
    b"-ERR (ERR_IAM_EXHAUSTED) x\r\n",
    b"-ERR x\r\n",
    b"-NOSCRIPT x\r\n",
    b"-UNBLOCKED force unblock x\r\n",
    b"+QUEUED\r\n",
    b"-EXECABORT x\r\n",
    b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n",
    b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",
    b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n",
    b">3\r\n$10\r\nssubscribe\r\n$1\r\na\r\n:1\r\n",
    b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n",
    b"$55\r\nid 10.0.0.1:7000@1 myself,master - 0 0 3 connected 0-99\r\n",
    b"*1\r\n*6\r\n$1\r\nx\r\n:-2\r\n*1\r\n+write\r\n:1\r\n:1\r\n:1\r\n",
    b"|1\r\n+a\r\n:1\r\n+OK\r\n",
];

const WORDS: [&[u8]; 40] = [
    b"a",
    b"b",
    b"{a}1",
    b"{a}2",
    b"key",
    b"0",
    b"1",
    b"2",
    b"3",
    b"",
    b"STORE",
    b"KEYS",
    b"STREAMS",
    b"BLOCK",
    b"COUNT",
    b"MATCH",
    b"*",
    b"SETNAME",
    b"ID",
    b"LIST",
    b"KILL",
    b"REPLY",
    b"ON",
    b"OFF",
    b"SKIP",
    b"TRACKING",
    b"BCAST",
    b"PREFIX",
    b"OPTIN",
    b"CACHING",
    b"YES",
    b"LOAD",
    b"GET",
    b"AUTH",
    b"default",
    b"PAUSE",
    b"UNBLOCK",
    b"$",
    b"return 1",
    b"9223372036854775807",
];

/// Commands that change what a session is.
const STATEFUL: [&str; 26] = [
    "MULTI",
    "EXEC",
    "DISCARD",
    "WATCH a",
    "UNWATCH",
    "HELLO 3",
    "HELLO 2",
    "CLIENT REPLY OFF",
    "CLIENT REPLY ON",
    "CLIENT REPLY SKIP",
    "CLIENT TRACKING ON",
    "CLIENT TRACKING OFF",
    "MONITOR",
    "RESET",
    "SUBSCRIBE a",
    "PSUBSCRIBE a*",
    "SSUBSCRIBE a",
    "UNSUBSCRIBE",
    "BLPOP a 0",
    "BLPOP a 1",
    "XREAD BLOCK 0 STREAMS a $",
    "SCAN 0",
    "EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 1 a",
    "SELECT 1",
    "CLIENT PAUSE 100",
    "QUIT",
];

struct Wire {
    bytes: Vec<u8>,
}

struct Client {
    heard: Vec<u8>,
    scanner: ReplyScanner,
    /// It gets what it did not ask for: pushes, messages.
    listens: bool,
    asked: usize,
    answered: usize,
}

struct Bed {
    hub: Hub,
    now: u64,
    dials: Vec<Dial>,
    wires: BTreeMap<Key, Wire>,
    clients: BTreeMap<Key, Client>,
    generation: u64,
}

fn addr(node: usize) -> NodeAddr {
    NodeAddr { host: format!("10.0.0.{node}").into(), port: 7000 }
}

impl Bed {
    fn new(input: &mut Input<'_>) -> Self {
        let kind = input.byte();
        let settings = Settings {
            op_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(2),
            max_redirects: 4,
            read_from: [ReadFrom::Primary, ReadFrom::PreferReplica, ReadFrom::Replica]
                [usize::from(kind) % 3],
            auth_backoff_min: Duration::from_millis(10),
            auth_backoff_max: Duration::from_millis(100),
            max_connection_age: Duration::from_millis([0, 300][usize::from(kind >> 2) % 2]),
            dial_rate_limit: [0.0, 50.0][usize::from(kind >> 3) % 2],
            max_request: 64 * 1024,
            max_client_output: 256 * 1024,
            max_merge: 64 * 1024,
            max_pipeline: [16 * 1024, 3][usize::from(kind >> 5) % 2],
            client_idle_timeout: None,
        };
        let mut bed = Self {
            hub: Hub::new(settings, 7),
            now: 0,
            dials: Vec::new(),
            wires: BTreeMap::new(),
            clients: BTreeMap::new(),
            generation: 0,
        };
        bed.topology(kind >> 4);
        bed.credential(kind & 0x80 != 0);
        (0..2).for_each(|_| bed.open());
        bed
    }

    fn open(&mut self) {
        let key = self.hub.client_open(Profile::default());
        let scanner = ReplyScanner::default();
        let client = Client { heard: Vec::new(), scanner, listens: false, asked: 0, answered: 0 };
        self.clients.insert(key, client);
    }

    fn credential(&mut self, wanted: bool) {
        self.generation += 1;
        let state = match wanted {
            false => CredentialState::NotNeeded,
            true => CredentialState::Ready {
                credential: Arc::new(Credential {
                    username: "default".into(),
                    secret: Secret::new(String::from_utf8_lossy(HUSH).into_owned()),
                    expires_at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1)),
                    obtained_at: SystemTime::UNIX_EPOCH,
                    generation: self.generation,
                    source: "fuzz",
                    principal: None,
                }),
                refresh_error: None,
            },
        };
        self.hub.set_credential(state);
    }

    fn topology(&mut self, kind: u8) {
        let nodes = 1 + usize::from(kind) % 3;
        let shards =
            (0..nodes).map(|n| Shard { primary: addr(n), replicas: vec![addr(10 + n)] }).collect();
        let mut slots = Box::new([0u16; SLOTS]);
        slots.iter_mut().enumerate().for_each(|(slot, owner)| *owner = (slot % nodes) as u16);
        let mode = if kind % 8 == 7 { Mode::Standalone } else { Mode::Cluster };
        let topology = Topology { epoch: 0, mode, shards, slots, server: Default::default() };
        self.hub.set_topology(Arc::new(topology));
    }

    fn client(&mut self, input: &mut Input<'_>) -> Option<Key> {
        let at = input.below(self.clients.len().max(1));
        self.clients.keys().nth(at).copied()
    }

    fn wire(&mut self, input: &mut Input<'_>) -> Option<Key> {
        let at = input.below(self.wires.len().max(1));
        self.wires.keys().nth(at).copied()
    }

    /// A client says so much; from then on what it gets is not counted, if that cannot be told.
    fn say(&mut self, key: Key, bytes: &[u8], commands: Option<usize>) {
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        match commands {
            Some(n) => client.asked += n,
            None => client.listens = true,
        }
        self.hub.client_data(key, bytes);
    }

    /// Lets a node answer what stands on its wire.
    fn answer(&mut self, key: Key, input: &mut Input<'_>) {
        let Some(wire) = self.wires.get_mut(&key) else {
            return;
        };
        let mut out = Vec::new();
        for _ in 0..1 + input.below(8) {
            let mut args = Vec::new();
            let scanned = RequestScanner::default().scan(&wire.bytes, &mut args, usize::MAX);
            // What the proxy writes is always RESP.
            let n = match scanned {
                Ok(RequestScan::Multibulk(n)) => n,
                Ok(RequestScan::Partial(_)) => break,
                other => panic!("{other:?}: {}", String::from_utf8_lossy(&wire.bytes)),
            };
            let name =
                args.first().map(|a| a.of(&wire.bytes).to_ascii_uppercase()).unwrap_or_default();
            match input.byte() % 8 {
                0 => reply(input, 3, &mut out),
                1 | 2 => out.extend_from_slice(input.pick::<&[u8]>(&REPLIES)),
                _ => match &name[..] {
                    b"HELLO" => out.extend_from_slice(REPLIES[26]),
                    b"GET" => out.extend_from_slice(b"$1\r\nv\r\n"),
                    b"CLUSTER" => out.extend_from_slice(REPLIES[27]),
                    b"COMMAND" => out.extend_from_slice(REPLIES[28]),
                    b"SCAN" => out.extend_from_slice(REPLIES[5]),
                    b"SUBSCRIBE" | b"PSUBSCRIBE" => out.extend_from_slice(REPLIES[23]),
                    b"SSUBSCRIBE" => out.extend_from_slice(REPLIES[25]),
                    b"DEL" | b"EXISTS" | b"DBSIZE" => out.extend_from_slice(b":1\r\n"),
                    b"MGET" | b"KEYS" => out.extend_from_slice(b"*1\r\n$1\r\nv\r\n"),
                    _ => out.extend_from_slice(b"+OK\r\n"),
                },
            }
            wire.bytes.drain(..n);
        }
        let cut = input.below(out.len() + 1);
        self.hub.pipe_data(key, &out[..cut]);
        self.do_work();
        self.hub.pipe_data(key, &out[cut..]);
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 24 {
            0..=2 => {
                let row = &COMMANDS
                    [(usize::from(input.byte()) << 8 | usize::from(input.byte())) % COMMANDS.len()];
                let mut argv: Vec<&[u8]> = row.name.split('|').map(str::as_bytes).collect();
                (0..input.below(6)).for_each(|_| argv.push(input.pick::<&[u8]>(&WORDS)));
                let mut frame = Vec::new();
                encode::command(&mut frame, &argv);
                let listens = ["subscribe", "monitor", "client", "hello", "reset"];
                let odd = listens.iter().any(|l| row.name.contains(l));
                if let Some(key) = self.client(input) {
                    self.say(key, &frame, (!odd).then_some(1));
                }
            }
            3..=5 => {
                let argv: Vec<&str> = input.pick(&STATEFUL).split(' ').collect();
                let mut frame = Vec::new();
                encode::command(&mut frame, &argv);
                if let Some(key) = self.client(input) {
                    self.say(key, &frame, None);
                }
            }
            6 => {
                let bytes = input.word();
                if let Some(key) = self.client(input) {
                    self.say(key, bytes, None);
                }
            }
            7 => {
                // A length, and not what it promises.
                let sizes = [0, 1, 100, 60_000, 70_000, 536_870_912, 536_870_913];
                let n = *input.pick(&sizes);
                if let Some(key) = self.client(input) {
                    self.say(key, format!("*2\r\n$3\r\nGET\r\n${n}\r\nx").as_bytes(), None);
                }
            }
            8..=10 => {
                if !self.dials.is_empty() {
                    let dial = self.dials.swap_remove(input.below(self.dials.len()));
                    if input.byte() % 8 == 0 {
                        self.hub.pipe_lost(dial.pipe, "refused");
                    } else if self.hub.pipe_mut(dial.pipe).is_some() {
                        self.wires.insert(dial.pipe, Wire { bytes: Vec::new() });
                        self.hub.pipe_connected(dial.pipe);
                    }
                }
            }
            11..=16 => {
                if let Some(key) = self.wire(input) {
                    self.answer(key, input);
                }
            }
            17 => {
                let bytes = match input.byte() % 4 {
                    0 => input.word().to_vec(),
                    1 => format!("${}\r\nx", input.pick(&[70_000u32, 2_147_483_648, 300_000]))
                        .into_bytes(),
                    2 => format!("*{}\r\n+x\r\n", input.pick(&[70_000u32, 4_294_967_295]))
                        .into_bytes(),
                    _ => input.pick::<&[u8]>(&REPLIES).to_vec(),
                };
                if let Some(key) = self.wire(input) {
                    self.hub.pipe_data(key, &bytes);
                }
            }
            18 => {
                if let Some(key) = self.wire(input) {
                    self.wires.remove(&key);
                    self.hub.pipe_lost(key, "reset by peer");
                }
            }
            19 => {
                self.now += [1, 20, 150, 1100][input.below(4)];
                self.hub.set_now(self.now);
                self.hub.on_time();
            }
            20 => {
                if let Some(key) = self.client(input) {
                    if input.bool() {
                        self.hub.client_eof(key);
                    } else {
                        self.clients.remove(&key);
                        self.hub.client_gone(key);
                    }
                }
            }
            21 => self.topology(input.byte()),
            22 => self.credential(input.byte() % 4 > 0),
            _ if self.clients.len() < 4 => self.open(),
            _ if input.byte() == 255 => self.hub.drain(),
            _ => {}
        }
        self.do_work();
    }

    /// Does what the sockets' side would do.
    fn do_work(&mut self) {
        let mut turns = 0;
        while !self.hub.work.is_empty() {
            turns += 1;
            assert!(turns < 10_000, "there is no end of work");
            let work = std::mem::take(&mut self.hub.work);
            for key in work.hangups {
                self.wires.remove(&key);
                self.dials.retain(|dial| dial.pipe != key);
            }
            self.dials.extend(work.dials);
            for key in work.pipes {
                self.write_pipe(key);
            }
            for key in work.sessions {
                self.write_session(key);
            }
            for note in work.notes {
                assert!(
                    !note.failing.is_some_and(|said| said.contains("hush")),
                    "a note tells the token"
                );
            }
        }
    }

    fn write_pipe(&mut self, key: Key) {
        let Some(pipe) = self.hub.pipe_mut(key) else {
            return;
        };
        pipe.dirty = false;
        let Some(wire) = self.wires.get_mut(&key) else {
            return;
        };
        wire.bytes.extend_from_slice(&pipe.control);
        pipe.control.clear();
        while pipe.may_send() && pipe.out.unsent() > 0 {
            let mut slices = [IoSlice::new(&[]); 16];
            let n = pipe.out.unsent_slices(&mut slices);
            let before = wire.bytes.len();
            slices[..n].iter().for_each(|s| wire.bytes.extend_from_slice(s));
            let sent = wire.bytes.len() - before;
            pipe.out.mark_sent(sent);
        }
    }

    fn write_session(&mut self, key: Key) {
        use memorystore_auth_proxy::session::core::Closing;
        let Some(session) = self.hub.session_mut(key) else {
            return;
        };
        session.dirty = false;
        let mut all = Vec::new();
        while session.out.unsent() > 0 {
            let mut slices = [IoSlice::new(&[]); 16];
            let n = session.out.unsent_slices(&mut slices);
            let before = all.len();
            slices[..n].iter().for_each(|s| all.extend_from_slice(s));
            let sent = all.len() - before;
            session.out.consume(sent);
        }
        let ended = session.closing == Closing::Now
            || session.closing == Closing::AfterReplies && session.window.is_empty();
        if let Some(client) = self.clients.get_mut(&key) {
            client.hear(&all);
        }
        if ended {
            self.clients.remove(&key);
            self.hub.client_gone(key);
        }
    }
}

impl Client {
    fn hear(&mut self, bytes: &[u8]) {
        self.heard.extend_from_slice(bytes);
        let mut at = 0;
        while at < self.heard.len() {
            match self.scanner.scan(&self.heard[at..]) {
                Ok(ReplyScan::Complete(n)) => {
                    let reply = &self.heard[at..at + n];
                    assert!(
                        !reply.windows(HUSH.len()).any(|w| w == HUSH),
                        "a client reads the token"
                    );
                    self.answered += 1;
                    at += n;
                }
                // A part of a message that is handed on as it comes.
                Ok(ReplyScan::Partial(_)) => break,
                Err(_) => panic!("no RESP: {}", String::from_utf8_lossy(&self.heard[at..])),
            }
        }
        self.heard.drain(..at);
        assert!(
            self.listens || self.answered <= self.asked,
            "{} replies to {} commands",
            self.answered,
            self.asked
        );
    }
}

pub fn run(data: &[u8]) {
    // Of a frame that was promised, a megabyte is made room for; there are a few sessions and pipes.
    within((64 << 20) + 256 * data.len(), || {
        let mut input = Input::new(data);
        let mut bed = Bed::new(&mut input);
        bed.do_work();
        while !input.is_spent() {
            bed.step(&mut input);
        }
        // All clients leave; nothing is kept for them.
        let clients: Vec<Key> = bed.clients.keys().copied().collect();
        for key in clients {
            bed.hub.client_gone(key);
        }
        assert_eq!(bed.hub.session_count(), 0);
        bed.now += 10_000;
        bed.hub.set_now(bed.now);
        bed.hub.on_time();
    });
}
