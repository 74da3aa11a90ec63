//! Slot maps: bytes of a node become a consistent map or an error; a cluster of choices is read back
//! from CLUSTER SHARDS, CLUSTER SLOTS and CLUSTER NODES alike, in both versions of RESP.

use memorystore_auth_proxy::cluster::discovery::{SlotMap, parse_shards, parse_slots};
use memorystore_auth_proxy::cluster::topology::{NodeAddr, SLOTS, UNASSIGNED};
use memorystore_auth_proxy::resp::value::{Decoder, Value};
use memorystore_auth_proxy::session::sample::{SlotSet, read_nodes, read_restored};

use crate::support::{Input, within};

fn asked() -> NodeAddr {
    NodeAddr { host: "asked.example".into(), port: 6379 }
}

/// What every map keeps.
fn check(map: &SlotMap) {
    let mut owned = vec![0usize; map.shards.len()];
    for &shard in map.slots.iter().filter(|&&s| s != UNASSIGNED) {
        owned[usize::from(shard)] += 1;
    }
    assert!(!owned.is_empty() && owned.iter().all(|&n| n > 0), "a shard without slots");
    assert_eq!(map.slots_covered(), owned.iter().sum::<usize>());
    for shard in &map.shards {
        for node in std::iter::once(&shard.primary).chain(&shard.replicas) {
            assert!(!node.host.is_empty() && node.host.len() <= 253 && node.port != 0);
            assert!(!node.host.contains(|c: char| c.is_whitespace() || c.is_control()));
        }
        assert!(shard.replicas.is_sorted() && !shard.replicas.contains(&shard.primary));
    }
    let topology = map.clone().into_topology(1);
    let ranges = topology.slot_ranges();
    let covered: usize = ranges.iter().flatten().map(|(a, b)| usize::from(b - a) + 1).sum();
    assert_eq!(covered, map.slots_covered());
    let firsts: Vec<u16> = ranges.iter().map(|r| r[0].0).collect();
    assert!(firsts.is_sorted(), "shards are not in slot order");
    assert!(map.same_as(&topology));
}

fn turned_round(reply: &Value) -> Value {
    match reply {
        Value::Array(items) => Value::Array(items.iter().rev().cloned().collect()),
        other => other.clone(),
    }
}

fn bytes_of_a_node(bytes: &[u8]) {
    let Ok(Some((reply, _))) = Decoder::default().decode(bytes) else {
        return;
    };
    for tls in [false, true] {
        let parsed = within(512 * 1024 + 256 * bytes.len(), || parse_shards(&reply, &asked(), tls));
        match &parsed {
            Ok(map) => {
                check(map);
                // Nodes list shards in any order.
                assert_eq!(parse_shards(&turned_round(&reply), &asked(), tls), parsed);
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    let parsed = parse_slots(&reply, &asked());
    if let Ok(map) = &parsed {
        check(map);
        assert_eq!(parse_slots(&turned_round(&reply), &asked()), parsed);
    }
}

fn text_of_a_node(text: &str) {
    let known = |addr: &NodeAddr| addr.port % 2 == 0;
    if let Some(sample) = within(512 * 1024 + 64 * text.len(), || read_nodes(text, known)) {
        assert!(
            sample.named.iter().all(|n| !known(&n.node) && n.node.port != 0 && !n.slots.is_empty())
        );
        assert!(!sample.may_have_gained(&sample) || sample.imports, "gained of itself");
        let mut slots = SlotSet::default();
        slots.add(&sample.slots);
    }
    let _ = read_restored(text);
}

/// A cluster of choices.
struct Cluster {
    /// Owner of each slot that has one.
    ranges: Vec<(u16, u16, usize)>,
    nodes: usize,
    replicas: usize,
}

impl Cluster {
    fn chosen(input: &mut Input<'_>) -> Self {
        let nodes = 1 + input.below(5);
        let mut ranges = Vec::new();
        let mut at = 0;
        while at < SLOTS && !input.is_spent() {
            let end = (at + 1 + input.below(4096)).min(SLOTS);
            if input.below(4) > 0 {
                ranges.push((at as u16, (end - 1) as u16, input.below(nodes)));
            }
            at = end;
        }
        Self { ranges, nodes, replicas: input.below(3) }
    }

    fn of(&self, node: usize) -> impl Iterator<Item = (u16, u16)> {
        self.ranges.iter().filter(move |r| r.2 == node).map(|r| (r.0, r.1))
    }

    fn host(&self, node: usize) -> String {
        format!("10.0.0.{node}")
    }

    fn ports(&self, node: usize) -> impl Iterator<Item = u16> {
        (0..=self.replicas as u16).map(move |r| 7000 + node as u16 * 10 + r)
    }

    fn shards(&self, resp3: bool) -> String {
        let map = |n: usize| if resp3 { format!("%{n}\r\n") } else { format!("*{}\r\n", 2 * n) };
        let mut out = format!("*{}\r\n", self.nodes);
        for node in 0..self.nodes {
            out += &format!("{}$5\r\nslots\r\n*{}\r\n", map(2), 2 * self.of(node).count());
            self.of(node).for_each(|(a, b)| out += &format!(":{a}\r\n:{b}\r\n"));
            out += &format!("$5\r\nnodes\r\n*{}\r\n", 1 + self.replicas);
            for (i, port) in self.ports(node).enumerate() {
                let role = if i == 0 { "master" } else { "replica" };
                let host = self.host(node);
                out += &format!(
                    "{}+id\r\n+x\r\n+port\r\n:{port}\r\n+endpoint\r\n+{host}\r\n+role\r\n+{role}\r\n\
                     +health\r\n+online\r\n",
                    map(5)
                );
            }
        }
        out
    }

    fn slots(&self) -> String {
        let mut out = format!("*{}\r\n", self.ranges.len());
        for &(a, b, node) in &self.ranges {
            out += &format!("*{}\r\n:{a}\r\n:{b}\r\n", 3 + self.replicas);
            for port in self.ports(node) {
                out += &format!("*3\r\n+{}\r\n:{port}\r\n+id\r\n", self.host(node));
            }
        }
        out
    }

    fn nodes(&self, myself: usize) -> String {
        let mut out = String::new();
        for node in 0..self.nodes {
            let port = 7000 + node * 10;
            let flags = if node == myself { "myself,master" } else { "master" };
            let host = self.host(node);
            out += &format!("id{node} {host}:{port}@1{port},name {flags} - 0 0 {node} connected");
            for (a, b) in self.of(node) {
                out += &if a == b { format!(" {a}") } else { format!(" {a}-{b}") };
            }
            out += "\n";
        }
        out
    }

    fn check(&self) {
        let decode = |wire: &str| match Decoder::default().decode(wire.as_bytes()) {
            Ok(Some((value, n))) if n == wire.len() => value,
            other => panic!("{other:?}: {wire}"),
        };
        let by_slots = parse_slots(&decode(&self.slots()), &asked());
        for resp3 in [false, true] {
            let by_shards = parse_shards(&decode(&self.shards(resp3)), &asked(), false);
            assert_eq!(by_shards, by_slots);
        }
        if let Ok(map) = &by_slots {
            check(map);
            for &(a, b, node) in &self.ranges {
                for slot in a..=b {
                    let owner = map.owner(slot).expect("an owner");
                    assert_eq!(&*owner.host, self.host(node));
                }
            }
        } else {
            assert!(self.ranges.is_empty());
        }
        for node in 0..self.nodes {
            let sample = read_nodes(&self.nodes(node), |_| false).expect("a sample");
            assert_eq!(sample.slots, self.of(node).collect::<Vec<_>>());
            assert!(sample.is_primary && sample.epoch == node as u64 && !sample.imports);
            let others = (0..self.nodes).filter(|n| *n != node && self.of(*n).count() > 0);
            assert_eq!(sample.named.len(), others.count());
        }
    }
}

pub fn run(data: &[u8]) {
    let [kind, rest @ ..] = data else {
        return;
    };
    match kind % 4 {
        0 | 1 => bytes_of_a_node(rest),
        2 => text_of_a_node(&String::from_utf8_lossy(rest)),
        _ => Cluster::chosen(&mut Input::new(rest)).check(),
    }
}
