//! `docs/commands.md` is what the table says: written anew from it and compared.
//! `UPDATE_DOCS=1 cargo test --test command_table matrix` rewrites the page.

use std::fmt::Write;
use std::path::Path;

use memorystore_auth_proxy::command::lookup::resolve;
use memorystore_auth_proxy::command::matrix::{keys, may_span_slots, treatment};
use memorystore_auth_proxy::command::spec::{Handler, Row};
use memorystore_auth_proxy::command::table::COMMANDS;

const HEAD: &str = "\
# Commands

Every command and subcommand of Redis 7.0 to 8.6 and Valkey 7.2 to 9.1, written by a test from the table the proxy
runs by, `src/command/table.rs`, which is held against a live server's COMMAND. Names that are not here (modules,
newer servers) are asked of the server once (`COMMAND INFO`) and then routed by what it says.

*Keys*: the arguments that are keys, 1 being the first after the name. *What differs*: see
[differences.md](differences.md), which also says what differs inside MULTI.

| command | since | keys | goes | what differs from one server |
|---|---|---|---|---|
";

const DIFFERENCES: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/differences.md"));

/// Why an answer differs: of lines with one command, the first that is about this row.
fn why(row: &Row) -> Option<&'static str> {
    let (_, table) = DIFFERENCES.split_once("\n## Answers that differ\n")?;
    let table = table.split("\n## ").next()?;
    let lines = table.lines().filter_map(|line| line.strip_prefix("| `"));
    lines.map(|line| line.trim_end_matches(" |")).find_map(|line| {
        let (command, rest) = line.split_once("` | ")?;
        let words: Vec<&str> = command.split(' ').collect();
        let about = resolve(words[0].as_bytes(), words.get(1).map(|w| w.as_bytes()))?;
        let crossed = rest.starts_with("`-CROSSSLOT`");
        (about.name == row.name && !command.contains("; ") && !crossed)
            .then(|| rest.rsplit(" | ").next())?
    })
}

fn differs(row: &Row) -> String {
    let crossed = may_span_slots(row) && row.handler != Handler::Split;
    let refused = matches!(row.handler, Handler::Refused | Handler::OneServer);
    let crossed = (crossed && !refused).then_some("CROSSSLOT for keys in several slots");
    let split = (row.handler == Handler::Split).then_some("not atomic over several slots");
    let all: Vec<&str> = crossed.into_iter().chain(split).chain(why(row)).collect();
    all.join("; ")
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for row in COMMANDS {
        let name = row.name.replace('|', " ").to_ascii_uppercase();
        let (keys, treatment, differs) = (keys(row), treatment(row), differs(row));
        let line =
            writeln!(page, "| `{name}` | {} | {keys} | {treatment} | {differs} |", row.since);
        line.expect("a line");
    }
    page
}

#[test]
fn the_page_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/commands.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("docs/commands.md is written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let same = written.lines().zip(page.lines()).find(|(a, b)| a != b);
    assert!(same.is_none(), "UPDATE_DOCS=1 rewrites docs/commands.md: {same:?}");
    assert_eq!(written.len(), page.len(), "UPDATE_DOCS=1 rewrites docs/commands.md");
}
