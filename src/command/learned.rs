//! Commands that servers told about: modules' and newer servers', beside the table.
//!
//! Rows are `&'static`, as the table's are, so that whoever waits for a reply can name its row for the
//! price of a pointer. A learned row is therefore never freed: equal descriptions share one, and there
//! are at most [`MAX_ROWS`] in the life of a worker; a name that comes later is treated as one of which
//! the server tells nothing. Invariant: bounded memory, whatever clients ask and servers tell; what is
//! not a row is forgotten after a while, as a module may be loaded later. It asks nobody: the hub does.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{HashMap, VecDeque};

use super::introspect::{BeginAt, Description, MAX_NAME, Told};
use super::lookup;
use super::spec::{Begin, Gather, Handler, KeyShape, KeySpec, RequestPolicy, Row, flag};

/// Most rows made from descriptions, subcommands included.
pub const MAX_ROWS: usize = 1024;

/// Most names remembered that have no row.
const MAX_OTHERS: usize = 256;

/// How long a row is believed before the server is asked again (ms).
const ROW_MS: u64 = 600_000;

/// How long a server's "no such command" is believed (ms).
const ABSENT_MS: u64 = 5_000;

/// How long a server that does not tell is left alone about a name (ms).
const UNTOLD_MS: u64 = 60_000;

/// What is known of a name.
#[derive(Debug, Clone, Copy)]
pub enum Fact {
    /// Its row.
    Row(&'static Row),
    /// The server does not know it.
    Absent,
    /// The server does not tell.
    Untold,
}

/// A name in lower case, `container|subcommand` for a subcommand, without allocation.
#[derive(Debug, Clone, Copy)]
pub struct Name {
    bytes: [u8; MAX_NAME],
    len: u8,
}

impl Name {
    /// The name as servers would be asked for it; `None` when it cannot be that of a command.
    pub fn new(command: &[u8], sub: Option<&[u8]>) -> Option<Self> {
        let mut name = Self { bytes: [0; MAX_NAME], len: 0 };
        if command.is_empty() || command.contains(&b'|') {
            return None;
        }
        name.append(command)?;
        if let Some(sub) = sub.filter(|s| !s.is_empty() && !s.contains(&b'|')) {
            name.append(b"|")?;
            name.append(sub)?;
        }
        Some(name)
    }

    fn append(&mut self, part: &[u8]) -> Option<()> {
        let from = usize::from(self.len);
        let to = self.bytes.get_mut(from..from + part.len())?;
        to.copy_from_slice(part);
        to.make_ascii_lowercase();
        self.len += part.len() as u8;
        Some(())
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// See the module header.
#[derive(Debug, Default)]
pub struct Learned {
    /// What is known, and until when.
    facts: HashMap<Box<[u8]>, (Fact, u64)>,
    /// Names that have no row, oldest first.
    others: VecDeque<Box<[u8]>>,
    rows: Vec<&'static Row>,
}

impl Learned {
    /// What is known of a name at `now`.
    pub fn get(&self, name: &Name, now: u64) -> Option<Fact> {
        self.facts.get(name.as_bytes()).filter(|(_, until)| now <= *until).map(|(fact, _)| *fact)
    }

    /// Takes in what a server told of a name.
    pub fn tell(&mut self, name: &Name, told: Told, now: u64) {
        match told {
            Told::Command(d) => match self.row_of(name, &d) {
                Some(row) if self.has_room(name.as_bytes()) => {
                    self.set_row(name.as_bytes(), row, now + ROW_MS);
                    if row.container && row.is_learned() {
                        self.tell_subcommands(name, d.subcommands);
                    }
                }
                _ => self.set_other(name, Fact::Untold, now + UNTOLD_MS),
            },
            Told::Unknown => self.set_other(name, Fact::Absent, now + ABSENT_MS),
            Told::Nothing => self.keep_or(name, Fact::Untold, now + UNTOLD_MS),
        }
    }

    /// Nobody could be asked. True: what was known of the name before serves on.
    pub fn fail(&mut self, name: &Name, now: u64) -> bool {
        let known = self.row(name.as_bytes()).is_some();
        if known {
            self.keep_or(name, Fact::Untold, now + UNTOLD_MS);
        }
        known
    }

    /// The row of a container's subcommand.
    pub fn subcommand(&self, container: &Name, sub: &[u8]) -> Option<&'static Row> {
        self.row(Name::new(container.as_bytes(), Some(sub))?.as_bytes())
    }

    fn row(&self, name: &[u8]) -> Option<&'static Row> {
        match self.facts.get(name) {
            Some((Fact::Row(row), _)) => Some(row),
            _ => None,
        }
    }

    /// True when the name has a row, or may have one.
    fn has_room(&self, name: &[u8]) -> bool {
        self.row(name).is_some() || self.facts.len() - self.others.len() < MAX_ROWS
    }

    /// A row that is known stays in force when nobody tells any more.
    fn keep_or(&mut self, name: &Name, fact: Fact, until: u64) {
        match self.row(name.as_bytes()) {
            Some(row) => self.set_row(name.as_bytes(), row, until),
            None => self.set_other(name, fact, until),
        }
    }

    fn tell_subcommands(&mut self, container: &Name, subcommands: Vec<Description>) {
        for d in subcommands {
            let sub = d.name.rsplit('|').next().unwrap_or_default().as_bytes();
            // Without a name of its own it would take the place of its container.
            let Some(name) = Name::new(container.as_bytes(), Some(sub)).filter(|_| !sub.is_empty())
            else {
                continue;
            };
            if self.has_room(name.as_bytes())
                && let Some(row) = self.intern(&d, handler(&d))
            {
                // They live and die with their container.
                self.set_row(name.as_bytes(), row, u64::MAX);
            }
        }
    }

    fn set_row(&mut self, name: &[u8], row: &'static Row, until: u64) {
        let before = self.facts.insert(name.into(), (Fact::Row(row), until));
        if before.is_some_and(|(fact, _)| !matches!(fact, Fact::Row(_))) {
            self.others.retain(|other| **other != *name);
        }
    }

    fn set_other(&mut self, name: &Name, fact: Fact, until: u64) {
        let name: Box<[u8]> = name.as_bytes().into();
        let before = self.facts.insert(name.clone(), (fact, until));
        if before.is_none_or(|(fact, _)| matches!(fact, Fact::Row(_))) {
            self.others.push_back(name);
        }
        while self.others.len() > MAX_OTHERS {
            if let Some(oldest) = self.others.pop_front() {
                self.facts.remove(&oldest);
            }
        }
    }

    /// The row a description becomes; `None` when there are too many.
    fn row_of(&mut self, asked: &Name, d: &Description) -> Option<&'static Row> {
        if d.name.as_bytes() != asked.as_bytes()
            && let Some(ours) = lookup::command(d.name.as_bytes())
        {
            // One of the table's under another name (rename-command). What is written with its name,
            // or changes its connection, cannot be carried.
            return match ours.handler {
                Handler::Forward
                | Handler::Split
                | Handler::Blocking
                | Handler::Script
                | Handler::Scan
                | Handler::Gather(Gather::Policy | Gather::Keys | Gather::Randomkey) => Some(ours),
                _ => self.intern(d, Handler::Refused),
            };
        }
        self.intern(d, handler(d))
    }

    fn intern(&mut self, d: &Description, handler: Handler) -> Option<&'static Row> {
        if let Some(known) = self.rows.iter().find(|row| is_row_of(row, d, handler)) {
            return Some(known);
        }
        if self.rows.len() >= MAX_ROWS {
            return None;
        }
        let keys: &'static [KeySpec] = d.keys.iter().map(key_spec).collect::<Vec<_>>().leak();
        let row: &'static Row = Box::leak(Box::new(Row {
            name: d.name.clone().leak(),
            arity: d.arity,
            flags: d.flags,
            keys,
            request: d.request,
            response: d.response,
            handler,
            since: LEARNED,
            shape: KeyShape::of(keys),
            container: !d.subcommands.is_empty(),
        }));
        self.rows.push(row);
        Some(row)
    }
}

/// What stands in [`Row::since`] of a learned row.
const LEARNED: &str = "";

impl Row {
    /// True when a server told it; false for the table's.
    pub fn is_learned(&self) -> bool {
        self.since == LEARNED
    }
}

fn handler(d: &Description) -> Handler {
    let everywhere = matches!(d.request, RequestPolicy::AllNodes | RequestPolicy::AllShards);
    if d.flags & flag::BLOCKING != 0 {
        Handler::Blocking
    } else if d.keys.is_empty() && everywhere {
        Handler::Gather(Gather::Policy)
    } else {
        Handler::Forward
    }
}

fn key_spec(d: &super::introspect::KeyDescription) -> KeySpec {
    let begin = match &d.begin {
        BeginAt::Index(at) => Begin::Index(*at),
        BeginAt::Keyword(word, from) => Begin::Keyword(word.clone().leak(), *from),
        BeginAt::Unknown => Begin::Unknown,
    };
    KeySpec { begin, find: d.find, access: d.access }
}

fn is_row_of(row: &Row, d: &Description, handler: Handler) -> bool {
    let same_key = |(k, d): (&KeySpec, &super::introspect::KeyDescription)| {
        let begin = match (k.begin, &d.begin) {
            (Begin::Index(a), BeginAt::Index(b)) => a == *b,
            (Begin::Keyword(a, i), BeginAt::Keyword(b, j)) => a == b && i == *j,
            (Begin::Unknown, BeginAt::Unknown) => true,
            _ => false,
        };
        begin && k.find == d.find && k.access == d.access
    };
    row.name == d.name
        && row.arity == d.arity
        && row.flags == d.flags
        && row.request == d.request
        && row.response == d.response
        && row.handler == handler
        && row.container != d.subcommands.is_empty()
        && row.keys.len() == d.keys.len()
        && row.keys.iter().zip(&d.keys).all(same_key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::introspect::tests::{described, reply};
    use super::super::introspect::{KeyDescription, read};
    use super::super::keys::for_each_key;
    use super::super::spec::{Access, Find, ResponsePolicy};
    use super::*;
    use crate::resp::Version;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes(), None).expect("a name")
    }

    fn describe(name: &str, flags: u32) -> Description {
        let find = Find::Range { last: 0, step: 1, limit: 0 };
        let key = KeyDescription { begin: BeginAt::Index(1), find, access: Access::Write };
        Description {
            name: name.into(),
            arity: -2,
            flags,
            keys: vec![key],
            request: RequestPolicy::Default,
            response: ResponsePolicy::Default,
            subcommands: Vec::new(),
        }
    }

    fn row(fact: Option<Fact>) -> &'static Row {
        match fact {
            Some(Fact::Row(row)) => row,
            other => panic!("no row: {other:?}"),
        }
    }

    #[test]
    fn names_are_of_one_case_and_bounded() {
        let n = Name::new(b"JSON.Get", None).expect("short");
        assert_eq!(n.as_bytes(), b"json.get");
        assert_eq!(Name::new(b"XInfo", Some(b"Foo")).expect("short").as_bytes(), b"xinfo|foo");
        assert!(Name::new(&[b'x'; MAX_NAME + 1], None).is_none());
        assert!(Name::new(&[b'x'; MAX_NAME], Some(b"y")).is_none());
        assert!(Name::new(b"config|get", None).is_none());
        assert!(Name::new(b"", None).is_none());
    }

    #[test]
    fn rows_last_absence_does_not() {
        let mut l = Learned::default();
        let get = name("json.get");
        assert!(l.get(&get, 0).is_none());
        l.tell(&get, Told::Unknown, 10);
        assert!(matches!(l.get(&get, 10 + ABSENT_MS), Some(Fact::Absent)));
        assert!(l.get(&get, 11 + ABSENT_MS).is_none());
        l.tell(&get, Told::Command(describe("json.get", flag::READONLY)), 20);
        let first = row(l.get(&get, 20 + ROW_MS));
        assert!(l.get(&get, 21 + ROW_MS).is_none(), "a row is asked for again some time");
        // Nobody to ask: what is known goes on.
        l.fail(&get, 1_000_000);
        assert!(std::ptr::eq(row(l.get(&get, 1_000_000)), first));
        l.tell(&get, Told::Nothing, 2_000_000);
        assert!(std::ptr::eq(row(l.get(&get, 2_000_000)), first));
        // The same description again is the same row, for free.
        l.tell(&get, Told::Command(describe("json.get", flag::READONLY)), 3_000_000);
        assert!(std::ptr::eq(row(l.get(&get, 3_000_000)), first));
        assert_eq!(l.rows.len(), 1);
        l.tell(&get, Told::Unknown, 4_000_000);
        assert!(matches!(l.get(&get, 4_000_000), Some(Fact::Absent)));
        let lost = name("lost");
        assert!(!l.fail(&lost, 7));
        assert!(l.get(&lost, 7).is_none(), "a failure is for those who waited");
    }

    #[test]
    fn memory_is_bounded_whatever_clients_ask_and_servers_tell() {
        let mut l = Learned::default();
        for i in 0..3000u32 {
            l.tell(&name(&format!("absent{i}")), Told::Unknown, 0);
            l.tell(&name(&format!("real{i}")), Told::Command(describe(&format!("real{i}"), 0)), 0);
        }
        for i in 0..3000 {
            // A server that says the same of every name.
            l.tell(&name(&format!("same{i}")), Told::Command(describe("same", 0)), 0);
            l.tell(&name(&format!("get{i}")), Told::Command(describe("get", 0)), 0);
        }
        assert_eq!((l.rows.len(), l.others.len()), (MAX_ROWS, MAX_OTHERS));
        assert_eq!(l.facts.len(), MAX_ROWS + MAX_OTHERS);
        assert!(l.get(&name("absent0"), 0).is_none(), "the oldest are forgotten");
        assert!(matches!(l.get(&name("real0"), 0), Some(Fact::Row(_))), "rows stay");
        assert!(matches!(l.get(&name("get2999"), 0), Some(Fact::Untold)));
    }

    /// Found by fuzzing: it once took the place of its container.
    #[test]
    fn a_subcommand_without_a_name_is_none() {
        let mut l = Learned::default();
        let mut container = describe("mod", 0);
        container.subcommands = vec![describe("other|", flag::READONLY)];
        l.tell(&name("mod"), Told::Command(container), 0);
        assert_eq!(row(l.get(&name("mod"), 0)).name, "mod");
    }

    #[test]
    fn containers_bring_their_subcommands() {
        let mut l = Learned::default();
        let sub = |n: &str| Description {
            keys: vec![KeyDescription {
                begin: BeginAt::Index(2),
                ..describe("", 0).keys[0].clone()
            }],
            ..describe(n, 0)
        };
        let container = Description {
            keys: Vec::new(),
            subcommands: vec![sub("mod.box|open"), sub("mod.box|close")],
            ..describe("mod.box", 0)
        };
        let n = name("mod.box");
        l.tell(&n, Told::Command(container), 0);
        assert!(row(l.get(&n, 0)).container);
        let open = l.subcommand(&n, b"OPEN").expect("a subcommand");
        assert_eq!((open.name, open.shape), ("mod.box|open", KeyShape::One(2)));
        assert!(l.subcommand(&n, b"burn").is_none());
    }

    #[test]
    fn renamed_commands_are_the_tables_unless_their_name_matters() {
        let mut l = Learned::default();
        l.tell(&name("myget"), Told::Command(describe("get", flag::READONLY)), 0);
        assert!(std::ptr::eq(row(l.get(&name("myget"), 0)), lookup::command(b"get").expect("GET")));
        l.tell(&name("mymulti"), Told::Command(describe("multi", 0)), 0);
        assert_eq!(row(l.get(&name("mymulti"), 0)).handler, Handler::Refused);
    }

    #[test]
    fn treatment_follows_flags_and_policies() {
        assert_eq!(handler(&describe("x", flag::BLOCKING)), Handler::Blocking);
        assert_eq!(handler(&describe("x", flag::WRITE)), Handler::Forward);
        let request = RequestPolicy::AllShards;
        let all = Description { keys: Vec::new(), request, ..describe("x", 0) };
        assert_eq!(handler(&all), Handler::Gather(Gather::Policy));
    }

    proptest! {
        /// Whatever a server told, finding keys by it stays inside the frame.
        #[test]
        fn told_keys_are_arguments(
            d in described(),
            args in proptest::collection::vec("[0-9A-Za-z]{0,3}", 1..12),
        ) {
            let mut l = Learned::default();
            let wire = reply(&[Some(&d)], Version::V3);
            l.tell(&name("asked"), read(&wire), 0);
            let row = row(l.get(&name("asked"), 0));
            let mut seen = Vec::new();
            let _ = for_each_key(row, args.as_slice(), |at, _| seen.push(at));
            prop_assert!(seen.iter().all(|&at| at < args.len()));
        }
    }
}
