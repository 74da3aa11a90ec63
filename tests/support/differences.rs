//! `docs/differences.md` as the tests read it: what differs from one server, what is compared less
//! strictly, and what is not compared.
//!
//! Invariant: the page is the only list; a row that cannot be read fails the tests that use it.

use std::sync::LazyLock;

use super::canonical::How;

const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/differences.md"));

/// Commands whose answer differs, and why.
#[derive(Debug)]
pub struct Exception {
    /// The commands; the answer to the last is meant.
    pub commands: Vec<Vec<String>>,
    /// How the proxy's answer begins; empty: any.
    pub answer: String,
    /// Why.
    pub why: String,
}

/// A command whose replies are compared less strictly.
#[derive(Debug)]
pub struct Rule {
    /// The command, in capitals.
    pub name: String,
    /// How they are compared.
    pub how: How,
}

/// The rows of the table under a heading: its cells.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let (_, section) = PAGE.split_once(&format!("\n## {heading}\n")).expect(heading);
    let section = section.split("\n## ").next().unwrap_or_default();
    let lines = section.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| command"));
    let rows: Vec<Vec<String>> = lines
        .map(|line| line.trim_matches('|').split(" | ").map(|c| c.trim().to_owned()).collect())
        .collect();
    assert!(!rows.is_empty(), "no rows under {heading:?}");
    assert!(
        rows.iter().all(|r| r.iter().all(|c| !c.is_empty())),
        "an empty cell under {heading:?}"
    );
    rows
}

fn code(cell: &str) -> String {
    let inner = cell.strip_prefix('`').and_then(|c| c.strip_suffix('`'));
    inner.unwrap_or_else(|| panic!("{cell:?} is not in backticks")).to_owned()
}

/// The words of a command line; quotes hold blanks together.
fn words(line: &str) -> Vec<String> {
    let quoted = line.split('"').enumerate();
    let parts =
        quoted.flat_map(
            |(i, part)| {
                if i % 2 == 1 { vec![part] } else { part.split_whitespace().collect() }
            },
        );
    parts.map(str::to_owned).collect()
}

/// What differs.
pub fn exceptions() -> Vec<Exception> {
    let row = |r: Vec<String>| {
        let [commands, answer, why] = &r[..] else { panic!("{r:?} has not three cells") };
        Exception {
            commands: code(commands).split("; ").map(words).collect(),
            answer: if answer == "any" { String::new() } else { code(answer) },
            why: why.clone(),
        }
    };
    rows("Answers that differ").into_iter().map(row).collect()
}

/// What is compared less strictly.
pub fn rules() -> &'static [Rule] {
    static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
        let row = |r: Vec<String>| {
            let [name, how, _why] = &r[..] else { panic!("{r:?} has not three cells") };
            let how = match how.as_str() {
                "in any order" => How::Unordered,
                "in any order, at every level" => How::UnorderedDeep,
                "type and size" => How::Shape,
                "type" => How::Type,
                "all but numbers" => How::Near(i64::MAX),
                other => {
                    let number = other.strip_prefix("numbers may be ");
                    let number = number.and_then(|n| n.strip_suffix(" apart"));
                    How::Near(
                        number.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{other:?}")),
                    )
                }
            };
            Rule { name: code(name), how }
        };
        rows("Answers compared less strictly").into_iter().map(row).collect()
    });
    &RULES
}

/// What is not in the random streams: names of the command table.
pub fn not_compared() -> Vec<String> {
    let cells = rows("Not in the comparison").into_iter();
    // The table of commands writes `client|pause`, which a table of Markdown cannot.
    let name = |text: &str| code(text).replace(' ', "|");
    cells.flat_map(|r| r[0].split(", ").map(name).collect::<Vec<_>>()).collect()
}
