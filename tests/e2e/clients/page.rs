//! `docs/clients.md` names every scenario that runs, none that does not, and the pinned versions.

use std::collections::BTreeSet;

use super::{SCENARIOS, moving, rust};

/// A row of the page's tables.
struct Row {
    version: String,
    outcome: String,
    scenarios: Vec<String>,
}

fn read(path: &str) -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    std::fs::read_to_string(format!("{root}/{path}")).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn spans(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The rows of all tables with the columns client, version, what ran, outcome, scenarios.
fn rows() -> Vec<Row> {
    let page = read("docs/clients.md");
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let tables = page.lines().filter(|l| l.starts_with('|')).map(cells);
    let rows: Vec<Row> = tables
        .filter(|cells| cells.len() == 5 && cells[0] != "client" && !cells[0].starts_with("--"))
        .map(|cells| Row {
            version: cells[1].clone(),
            outcome: cells[3].clone(),
            scenarios: spans(&cells[4]),
        })
        .collect();
    assert!(rows.len() >= 15, "only {} rows were found in docs/clients.md", rows.len());
    rows
}

#[test]
fn the_page_names_every_scenario_and_no_other() {
    let with = |module: &str, name: &str| format!("{module}::{name}");
    let mut run: BTreeSet<String> = SCENARIOS.iter().map(|s| s.name.to_owned()).collect();
    run.extend(rust::SCENARIOS.iter().map(|name| with("rust", name)));
    run.extend(moving::SCENARIOS.iter().map(|name| with("moving", name)));
    let mut named = BTreeSet::new();
    for row in rows() {
        for scenario in &row.scenarios {
            assert!(run.contains(scenario), "docs/clients.md names {scenario}, which no test runs");
            assert!(named.insert(scenario.clone()), "docs/clients.md names {scenario} twice");
        }
        let works = row.outcome.starts_with("works");
        let reason = row.outcome.starts_with("not run: ") || row.outcome.starts_with("does not: ");
        assert!(works || reason, "an outcome is {:?}", row.outcome);
        assert_eq!(works, !row.scenarios.is_empty(), "what works ran: {:?}", row.outcome);
    }
    let missing: Vec<_> = run.difference(&named).collect();
    assert!(missing.is_empty(), "docs/clients.md does not name {missing:?}");
}

/// `name==1.2` is a pin of pip, `name@1.2` one of npm, `name = "1.2"` one of cargo.
#[test]
fn the_pages_versions_are_the_pinned_ones() {
    let python = read("tests/clients/python/requirements.txt");
    let wanted = python.split("\n\n").next().expect("a first part");
    let node = read("tests/clients/node/package.json");
    let cargo = read("Cargo.toml");
    let mut named = BTreeSet::new();
    for span in rows().iter().flat_map(|row| spans(&row.version)) {
        let pinned = if span.contains("==") {
            wanted.lines().any(|line| line == span)
        } else if let Some((name, version)) = span.rsplit_once('@') {
            node.contains(&format!("\"{name}\": \"{version}\""))
                || node.contains(&format!("npm:{span}"))
        } else {
            let (name, version) = span.split_once(" = ").expect("a version");
            cargo.contains(&format!("{name} = {{ version = {version}"))
        };
        assert!(pinned, "docs/clients.md names {span}, which is not what is installed");
        named.insert(span);
    }
    for pin in wanted.lines().filter(|line| !line.starts_with('#')) {
        assert!(named.contains(pin), "docs/clients.md does not name {pin}");
    }
    let dependencies = node.split_once("\"dependencies\": {").expect("dependencies").1;
    for line in dependencies.lines().filter(|line| line.contains("\": \"")) {
        let mut words = line.split('"');
        let (name, version) = (words.nth(1).expect("a name"), words.nth(1).expect("a version"));
        let pin = version.strip_prefix("npm:").map_or(format!("{name}@{version}"), str::to_owned);
        assert!(named.contains(&pin), "docs/clients.md does not name {pin}");
    }
}
