//! What a node tells of itself that lets a scan see whether keys may have come to it unnoticed.
//!
//! Keys come to a node in three ways: one by one while a slot is imported, each by a RESTORE-ASKING,
//! which the node counts (`INFO commandstats`); with a whole slot at once, which leaves its slots
//! grown or its config epoch raised (`CLUSTER NODES`, its own line); or as a replica that takes over,
//! and is another node. Invariant: two samples that are not told apart by [`Sample::may_have_gained`]
//! mean that no key came in between. It asks nobody.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::cluster::topology::{NodeAddr, SLOTS};

/// Slots from the first to the last.
pub type Range = (u16, u16);

/// A node that was not asked, as one that was asked names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named<N> {
    /// Its id.
    pub id: String,
    /// The node.
    pub node: N,
    /// Slots it owns, or is given at the moment.
    pub slots: Vec<Range>,
    /// It is given a slot at the moment; else it owns them.
    pub importing: bool,
}

/// See the module header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sample<N> {
    /// The node's own id.
    pub id: String,
    /// It is a primary.
    pub is_primary: bool,
    /// Its config epoch: raised when it takes a slot over, unless it is the highest already.
    pub epoch: u64,
    /// Its slots.
    pub slots: Vec<Range>,
    /// It imports a slot.
    pub imports: bool,
    /// Keys it got one by one; `None`: it does not tell.
    pub restored: Option<u64>,
    /// Other primaries with slots, or that get some of this one's.
    pub named: Vec<Named<N>>,
}

impl<N> Sample<N> {
    /// True unless it is sure that the node got no key since `self`.
    pub fn may_have_gained(&self, later: &Self) -> bool {
        let counted = match (self.restored, later.restored) {
            (Some(before), Some(after)) => before != after,
            _ => self.imports || later.imports,
        };
        counted || self.may_have_taken_over(later)
    }

    /// True unless it is sure that the node took no slot over since `self`.
    pub fn may_have_taken_over(&self, later: &Self) -> bool {
        let mut before = SlotSet::default();
        before.add(&self.slots);
        let kept = later.slots.iter().flat_map(|r| r.0..=r.1).all(|slot| before.has(slot));
        self.epoch != later.epoch || !kept
    }
}

/// A set of slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotSet(Box<[u64; SLOTS / 64]>);

impl Default for SlotSet {
    fn default() -> Self {
        Self(Box::new([0; SLOTS / 64]))
    }
}

impl SlotSet {
    /// Adds slots.
    pub fn add(&mut self, ranges: &[Range]) {
        for slot in ranges.iter().flat_map(|r| r.0..=r.1) {
            if let Some(word) = self.0.get_mut(usize::from(slot) / 64) {
                *word |= 1 << (slot % 64);
            }
        }
    }

    /// True when the slot is one of them.
    pub fn has(&self, slot: u16) -> bool {
        self.0.get(usize::from(slot) / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }
}

/// Reads the reply to `CLUSTER NODES`; of other nodes, only primaries that are not `known`.
pub fn read_nodes(text: &str, known: impl Fn(&NodeAddr) -> bool) -> Option<Sample<NodeAddr>> {
    let lines = || text.lines().filter_map(Line::read);
    let own = lines().find(|l| l.has("myself"))?;
    let mut sample = Sample {
        id: own.id.to_owned(),
        is_primary: own.has("master"),
        epoch: own.epoch,
        slots: own.ranges(),
        imports: own.marks().any(|m| m.contains("-<-")),
        restored: None,
        named: Vec::new(),
    };
    let given = |line: &Line<'_>| -> Vec<Range> {
        let target = |m: &str| {
            let (slot, id) = m.strip_suffix(']')?.split_once("->-")?;
            let slot = slot.parse().ok().filter(|slot| usize::from(*slot) < SLOTS)?;
            (id == line.id).then_some((slot, slot))
        };
        own.marks().filter_map(target).collect()
    };
    for line in lines().filter(|l| l.has("master") && !l.has("myself")) {
        let Some(node) = line.addr().filter(|addr| !known(addr)) else {
            continue;
        };
        let (owned, given) = (line.ranges(), given(&line));
        for (slots, importing) in [(owned, false), (given, true)] {
            if !slots.is_empty() {
                let id = line.id.to_owned();
                sample.named.push(Named { id, node: node.clone(), slots, importing });
            }
        }
    }
    Some(sample)
}

/// Reads the reply to `INFO commandstats`: keys that were brought one by one; `None`: not told.
pub fn read_restored(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|l| l.starts_with("cmdstat_")).peekable();
    // A server that tells of commands has told of the INFO before this one, or of CLUSTER NODES.
    lines.peek()?;
    let count = |l: &str| {
        let rest = l.strip_prefix("cmdstat_restore-asking:calls=")?;
        rest.split(',').next()?.parse().ok()
    };
    Some(lines.find_map(count).unwrap_or(0))
}

/// A line of CLUSTER NODES.
struct Line<'a> {
    id: &'a str,
    addr: &'a str,
    flags: &'a str,
    epoch: u64,
    slots: Vec<&'a str>,
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Option<Self> {
        // id addr flags primary ping pong epoch link slots…
        let mut words = line.split_ascii_whitespace();
        let (id, addr, flags) = (words.next()?, words.next()?, words.next()?);
        let epoch = words.nth(3)?.parse().ok()?;
        Some(Self { id, addr, flags, epoch, slots: words.skip(1).collect() })
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.split(',').any(|f| f == flag)
    }

    fn ranges(&self) -> Vec<Range> {
        let range = |word: &&str| {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        let ranges = self.slots.iter().filter(|w| !w.starts_with('[')).filter_map(range);
        // A node owns a slot once: a line that says more costs no more than that.
        let mut left = SLOTS;
        ranges
            .filter(|r| r.0 <= r.1 && usize::from(r.1) < SLOTS)
            .take_while(|r| {
                let fits = left.checked_sub(usize::from(r.1 - r.0) + 1);
                left = fits.unwrap_or(0);
                fits.is_some()
            })
            .collect()
    }

    /// Slots on their way, without the opening bracket: `93-<-id]`, `77->-id]`.
    fn marks(&self) -> impl Iterator<Item = &'a str> {
        self.slots.iter().filter_map(|w| w.strip_prefix('['))
    }

    /// `ip:port@bus,hostname`
    fn addr(&self) -> Option<NodeAddr> {
        let (host, port) = self.addr.split(['@', ',']).next()?.rsplit_once(':')?;
        let port = port.parse().ok().filter(|&p| p != 0)?;
        (!host.is_empty()).then(|| NodeAddr { host: host.into(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &str = "\
07c37df 127.0.0.1:30004@31004,host-4 slave e7d1eec 0 1426238317239 4 connected\n\
67ed2db 127.0.0.1:30002@31002 master - 0 1426238316232 2 connected 5461-10922\n\
292f8b3 127.0.0.1:30003@31003,host3 master - 0 1426238318243 3 connected 10923-16382 16383\n\
aaaaaaa ::1:30009@31009 master,fail - 0 1426238318243 9 disconnected\n\
e7d1eec 127.0.0.1:30001@31001 myself,master - 0 0 7 connected 0-5460 6000 [93->-292f8b3] [77-<-67ed2db]\n";

    fn addr(host: &str, port: u16) -> NodeAddr {
        NodeAddr { host: host.into(), port }
    }

    #[test]
    fn reads_the_nodes_own_line_and_strangers() {
        let s = read_nodes(NODES, |a| a.port == 30002).expect("its own line");
        assert_eq!((s.id.as_str(), s.is_primary, s.epoch, s.imports), ("e7d1eec", true, 7, true));
        assert_eq!(s.slots, [(0, 5460), (6000, 6000)]);
        let node = addr("127.0.0.1", 30003);
        let named =
            |slots, importing| Named { id: "292f8b3".into(), node: node.clone(), slots, importing };
        let owns = named(vec![(10923, 16382), (16383, 16383)], false);
        assert_eq!(s.named, [owns, named(vec![(93, 93)], true)]);
        assert_eq!(read_nodes("what is that?", |_| false), None);
    }

    /// Found by fuzzing: slots there are none of, and more of them than there are.
    #[test]
    fn slots_that_cannot_be_are_left_out() {
        let line = "a h:1@2 myself,master - 0 0 1 connected 9-5 16383-16384 65535 0-16382";
        let many = format!(
            "{line}{} [65535->-b] [3->-b]\nb h:2@3 master - 0 0 1 connected",
            " 0-16383".repeat(1000)
        );
        let s = read_nodes(&many, |_| false).expect("its own line");
        assert_eq!(s.slots, [(0, 16382)]);
        assert_eq!(s.named.iter().flat_map(|n| &n.slots).collect::<Vec<_>>(), [&(3, 3)]);
    }

    #[test]
    fn reads_how_many_keys_were_restored() {
        let stats = "# Commandstats\r\ncmdstat_get:calls=3,usec=1\r\n";
        assert_eq!(read_restored(stats), Some(0));
        let more = format!("{stats}cmdstat_restore-asking:calls=41,usec=9,failed_calls=0\r\n");
        assert_eq!(read_restored(&more), Some(41));
        assert_eq!(read_restored("# Commandstats\r\n"), None);
    }

    #[test]
    fn tells_what_may_have_brought_keys() {
        let s = |epoch, slots: &[Range], imports, restored| Sample::<u16> {
            epoch,
            slots: slots.to_vec(),
            imports,
            restored,
            ..Sample::default()
        };
        let before = s(3, &[(0, 9)], false, Some(7));
        for (later, gained) in [
            (s(3, &[(0, 9)], false, Some(7)), false),
            (s(3, &[(0, 4), (6, 9)], false, Some(7)), false),
            (s(3, &[(0, 10)], false, Some(7)), true),
            (s(4, &[(0, 9)], false, Some(7)), true),
            (s(3, &[(0, 9)], false, Some(8)), true),
            // An import that stands still.
            (s(3, &[(0, 9)], true, Some(7)), false),
            (s(3, &[(0, 9)], true, None), true),
            (s(3, &[(0, 9)], false, None), false),
        ] {
            assert_eq!(before.may_have_gained(&later), gained, "{later:?}");
        }
    }
}
