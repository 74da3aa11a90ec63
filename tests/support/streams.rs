//! Random command streams from the table in [`super::templates`]: the same seed makes the same
//! stream.
//!
//! Invariant: a stream is deterministic for a server: two empty servers that get it say the same,
//! apart from what [`super::differences::rules`] names. So no template depends on the clock or on a
//! server's own random choice in a way that changes later replies.

use super::canonical::How;
use super::differences;
use super::templates::{GROUPS, RARE, TRANSACTED, named};

/// One command and how its reply is compared.
#[derive(Debug, Clone)]
pub struct Step {
    /// Name and arguments.
    pub args: Vec<Vec<u8>>,
    /// How to compare the replies.
    pub how: How,
}

impl Step {
    /// For failure messages.
    pub fn text(&self) -> String {
        let words = self.args.iter().map(|a| format!("{:?}", String::from_utf8_lossy(a)));
        words.collect::<Vec<_>>().join(" ")
    }
}

/// A source of commands.
#[derive(Debug)]
pub struct Stream {
    rng: fastrand::Rng,
    ready: std::collections::VecDeque<Step>,
}

/// Distinct keys of a type, and distinct hash tags.
const KEYS: usize = 10;
const TAGS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

impl Stream {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { rng: fastrand::Rng::with_seed(seed), ready: Default::default() }
    }

    /// The next `count` commands; a transaction may be cut by the end.
    pub fn take(&mut self, count: usize) -> Vec<Step> {
        (0..count).map(|_| self.next()).collect()
    }

    /// A number below `limit`, for the caller's own choices.
    pub fn below(&mut self, limit: usize) -> usize {
        self.rng.usize(..limit)
    }

    fn next(&mut self) -> Step {
        if let Some(step) = self.ready.pop_front() {
            return step;
        }
        if self.rng.u8(..) < 12 {
            self.transaction();
            return self
                .ready
                .pop_front()
                .unwrap_or_else(|| unreachable!("a transaction has steps"));
        }
        let group = match self.rng.u16(..) {
            0..40 => RARE,
            _ => GROUPS[self.rng.usize(..GROUPS.len())],
        };
        let template = group[self.rng.usize(..group.len())];
        let tag = self.tag();
        self.fill(template, tag, true)
    }

    /// `[WATCH] MULTI … EXEC|DISCARD` on one slot, sometimes with a command that cannot be queued.
    fn transaction(&mut self) {
        let tag = self.tag();
        if self.rng.bool() {
            let watch = self.fill("WATCH $s@ $l@", tag, false);
            self.ready.push_back(watch);
            if self.rng.u8(..) < 80 {
                // A change by the session itself counts like any other.
                let touch = self.fill("APPEND $s@ x", tag, false);
                self.ready.push_back(touch);
            }
        }
        let plain = |words: &[&str]| Step {
            args: words.iter().map(|w| w.as_bytes().to_vec()).collect(),
            how: How::Exact,
        };
        self.ready.push_back(plain(&["MULTI"]));
        for _ in 0..self.rng.usize(..6) {
            let step = match self.rng.u8(..) {
                0..4 => plain(&["GET"]),
                4..8 => plain(&["NOSUCHCOMMAND", "x"]),
                8..12 => plain(&["MULTI"]),
                12..16 => plain(&["PING"]),
                _ => {
                    let template = TRANSACTED[self.rng.usize(..TRANSACTED.len())];
                    self.fill(template, tag, false)
                }
            };
            self.ready.push_back(step);
        }
        let end = if self.rng.u8(..) < 40 { "DISCARD" } else { "EXEC" };
        self.ready.push_back(plain(&[end]));
    }

    fn tag(&mut self) -> &'static str {
        TAGS[self.rng.usize(..TAGS.len())]
    }

    fn fill(&mut self, template: &str, tag: &str, mutate: bool) -> Step {
        let (template, mutate) = match template.strip_prefix('!') {
            Some(fixed) => (fixed, false),
            // A word less, and a transaction would begin that nothing ends.
            None => (template, mutate && !template.starts_with("MULTI ")),
        };
        let mut args = Vec::new();
        let mut keys = Vec::new();
        for word in template.split(' ') {
            let kind = word.strip_prefix('$').and_then(|k| k.get(..1)).unwrap_or("-");
            keys.push("slhSzxbpg".contains(kind));
            args.push(self.word(word, tag));
        }
        let mut how = rule(&args);
        if mutate {
            match self.rng.u8(..) {
                0..5 if args.len() > 1 => {
                    args.pop();
                }
                5..8 if args.len() > 1 => args.push(args[1].clone()),
                8..13 if args.len() > 2 => {
                    let place = self.rng.usize(1..args.len());
                    if !keys[place] {
                        args[place] = b"notanumber".to_vec();
                    }
                }
                _ => {}
            }
            how = match rule(&args) {
                How::Exact => how,
                other => other,
            };
        }
        if self.rng.u8(..) < 20 {
            args[0].make_ascii_lowercase();
        }
        Step { args, how }
    }

    fn word(&mut self, word: &str, tag: &str) -> Vec<u8> {
        if let Some(name) = word.strip_prefix('%') {
            return named(name).to_vec();
        }
        let Some(kind) = word.strip_prefix('$').filter(|k| !k.is_empty()) else {
            return word.as_bytes().to_vec();
        };
        match kind {
            "v" => self.value(),
            "i" => self.rng.i32(-20..40).to_string().into(),
            "n" => self.rng.u32(..12).to_string().into(),
            "d" => {
                format!("{}.{}", self.rng.i32(-9..9), [0, 5, 25, 125][self.rng.usize(..4)]).into()
            }
            "f" | "m" => format!("{kind}{}", self.rng.u32(..14)).into(),
            "id" => format!("{}-{}", self.rng.u32(1..200), self.rng.u32(..4)).into(),
            _ => self.key(kind, tag),
        }
    }

    /// `TYPE:n`, or `{tag}TYPE:n` for words that end in `@`; now and then a key of another type.
    fn key(&mut self, kind: &str, tag: &str) -> Vec<u8> {
        let (kind, tagged) = match kind.strip_suffix('@') {
            Some(kind) => (kind, true),
            None => (kind, false),
        };
        let mut kind = kind;
        if self.rng.u8(..) < 14 {
            kind = ["s", "l", "h", "S", "z", "x"][self.rng.usize(..6)];
        }
        let n = self.rng.usize(..KEYS);
        // Untagged commands meet the keys of tagged ones as well.
        if tagged || self.rng.u8(..) < 40 {
            format!("{{{tag}}}{kind}:{n}").into()
        } else {
            format!("{kind}:{n}").into()
        }
    }

    fn value(&mut self) -> Vec<u8> {
        match self.rng.u8(..8) {
            0..3 => self.rng.i64(-1000..100_000).to_string().into(),
            3 => format!("{}.5", self.rng.i32(-50..50)).into(),
            4 => Vec::new(),
            5 => (0..self.rng.usize(1..12)).map(|_| self.rng.u8(..)).collect(),
            6 => b"two\r\nlines".to_vec(),
            _ => (0..self.rng.usize(1..24)).map(|_| self.rng.alphanumeric() as u8).collect(),
        }
    }
}

/// The rule for a command; that of a container is for the container alone.
fn rule(args: &[Vec<u8>]) -> How {
    let word =
        |n: usize| args.get(n).map_or(String::new(), |a| String::from_utf8_lossy(a).to_uppercase());
    let (one, two) = (word(0), format!("{} {}", word(0), word(1)));
    let rules = differences::rules();
    let is_container = rules.iter().any(|r| r.name.starts_with(&format!("{one} ")));
    let whole = || rules.iter().find(|r| r.name == one && (args.len() == 1 || !is_container));
    rules.iter().find(|r| r.name == two).or_else(whole).map_or(How::Exact, |r| r.how)
}
