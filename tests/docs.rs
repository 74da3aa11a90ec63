//! The pages beside the code say what is so: flags, metrics, paths, error texts and `make` targets
//! they name exist, and the README lists every flag with its default.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use memorystore_auth_proxy::args::env_name;
use memorystore_auth_proxy::args::flags::{FLAGS, Flag, Kind, find};
use memorystore_auth_proxy::cluster::discovery::SlotMap;
use memorystore_auth_proxy::cluster::topology::NodeAddr;
use memorystore_auth_proxy::cluster::watcher::WatcherStatus;
use memorystore_auth_proxy::credentials::{Credential, CredentialState, Secret};
use memorystore_auth_proxy::telemetry::control::{MapSources, ProcessSources, SourceCounts};
use memorystore_auth_proxy::telemetry::scrape::{InstanceSources, Scrape};
use tokio::sync::watch;

const PAGES: &[&str] = &[
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/clients.md",
    "docs/correctness.md",
    "docs/commands.md",
    "docs/differences.md",
    "docs/walkthrough.md",
];

/// The flags of other programs in the pages' commands.
const STRANGERS: &[&str] = &[
    "--release",
    "--bench",
    "--lib",
    "--test",
    "--json",
    "--csv",
    "--eval",
    "--pipe",
    "--scan",
    "--bigkeys",
    "--memkeys",
    "--latency",
    "--rdb",
    "--replica",
    "--cluster",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// What stands between single backticks outside of code blocks; a span may cross a line's end.
fn code_spans(page: &str) -> Vec<String> {
    let prose: Vec<&str> = page.split("```").step_by(2).collect();
    prose.join("\n").split('`').skip(1).step_by(2).map(|s| s.replace('\n', " ")).collect()
}

/// The part of a page under a heading.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    rest.split_once("\n## ").map_or(rest, |(part, _)| part)
}

/// Words of `text` that begin with `start`, cut where the name ends.
fn names(text: &str, start: &str, part_of_name: fn(char) -> bool) -> BTreeSet<String> {
    text.match_indices(start)
        .map(|(at, _)| {
            let name = &text[at + start.len()..];
            let end = name.find(|c: char| !part_of_name(c)).unwrap_or(name.len());
            format!("{start}{}", &name[..end])
        })
        .collect()
}

fn is_long_flag(flag: &Flag) -> bool {
    !matches!(flag.kind, Kind::Positional(_))
}

#[test]
fn every_flag_and_variable_that_is_named_exists() {
    let known =
        |name: &str| ["help", "version"].contains(&name) || find(name).is_some_and(is_long_flag);
    let mut named = 0;
    for page in PAGES {
        let text = read(page);
        for flag in names(&text, "--", |c| c.is_ascii_lowercase() || c == '-') {
            // The rules of tables consist of dashes.
            let name = flag.trim_matches('-');
            if name.is_empty() || STRANGERS.contains(&flag.as_str()) {
                continue;
            }
            assert!(known(name), "{page} names {flag}, which --help does not know");
            named += 1;
        }
        for name in names(&text, "MEMORYSTORE_PROXY_", |c| c.is_ascii_uppercase() || c == '_') {
            // The bare prefix explains the scheme.
            // Further endpoints have a number behind the name.
            let exists = ["MEMORYSTORE_PROXY_", "MEMORYSTORE_PROXY_ENDPOINT_"].contains(&&*name)
                || FLAGS.iter().any(|f| env_name(f.name) == name);
            assert!(exists, "{page} names {name}, which no flag has");
        }
    }
    assert!(named >= FLAGS.len() - 1, "only {named} flags were found in the pages");
}

/// The README's row of a flag, without its last column.
fn row_start(flag: &Flag) -> String {
    match (flag.kind, flag.default) {
        (Kind::Value(value), Some(default)) => {
            format!("| `--{} {value}` | `{default}` | ", flag.name)
        }
        (Kind::Value(value), None) => format!("| `--{} {value}` |  | ", flag.name),
        (_, Some(_)) => format!("| `--{}` | off | ", flag.name),
        (_, None) => format!("| `--{}` |  | ", flag.name),
    }
}

#[test]
fn the_readme_lists_every_flag_with_its_default_in_the_order_of_help() {
    let readme = read("README.md");
    let rows: Vec<&str> =
        section(&readme, "Settings").lines().filter(|l| l.starts_with("| `--")).collect();
    let want: Vec<String> = FLAGS.iter().filter(|f| is_long_flag(f)).map(row_start).collect();
    for (row, want) in rows.iter().zip(&want) {
        assert!(row.starts_with(want), "expected a row that begins {want:?}, found {row:?}");
    }
    assert_eq!(rows.len(), want.len(), "rows of README.md and of src/args/flags.rs");
}

/// All families `/metrics` can show.
fn families() -> BTreeSet<String> {
    let now = SystemTime::now();
    let credential = Arc::new(Credential {
        username: "default".into(),
        secret: Secret::new("t".into()),
        expires_at: Some(now + Duration::from_secs(60)),
        obtained_at: now,
        generation: 1,
        source: "gcloud",
        principal: None,
    });
    let node = NodeAddr { host: "10.0.0.1".into(), port: 6379 };
    let map = SlotMap::standalone(&node).into_topology(1);
    let map = MapSources {
        resting: Vec::new(),
        topology: watch::channel(Some(Arc::new(map))).1,
        watcher: watch::channel(WatcherStatus::default()).1,
    };
    let process = ProcessSources {
        credentials: watch::channel(CredentialState::Ready { credential, refresh_error: None }).1,
        credential_counts: Arc::new(|| {
            vec![SourceCounts { source: "gcloud", refreshes: 1, failures: 1 }]
        }),
        started_at: now,
    };
    let instance = InstanceSources { name: "h:1".into(), threads: vec![Arc::default()], map };
    let all = Scrape::new(process, vec![instance]).unwrap().gather();
    all.iter().map(|family| family.name().to_owned()).collect()
}

#[test]
fn every_metric_that_is_named_exists() {
    let known = families();
    let mut named = 0;
    for page in PAGES {
        for name in names(&read(page), "memorystore_proxy_", |c| c.is_ascii_lowercase() || c == '_')
        {
            assert!(known.contains(&name), "{page} names {name}, which /metrics does not show");
            named += 1;
        }
    }
    assert!(named >= 10, "only {named} metrics were found in the pages");
}

/// Whether a page has a heading with this anchor.
fn has_anchor(page: &str, anchor: &str) -> bool {
    let headings = page.lines().filter_map(|l| l.strip_prefix("## "));
    headings.into_iter().any(|h| h.trim().to_lowercase().replace(' ', "-") == anchor)
}

#[test]
fn every_path_and_link_leads_somewhere() {
    let folders = ["src/", "tests/", "docs/", "config/", ".ci/"];
    let mut checked = 0;
    for page in PAGES {
        let text = read(page);
        let mut paths: Vec<PathBuf> = code_spans(&text)
            .iter()
            .filter(|span| folders.iter().any(|folder| span.starts_with(folder)))
            .map(|span| root().join(span))
            .collect();
        let beside = root().join(page).parent().map(Path::to_owned).unwrap();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|l| !l.contains("://")) {
            match link.strip_prefix('#') {
                None => paths.push(beside.join(link)),
                Some(anchor) => {
                    assert!(has_anchor(&text, anchor), "{page} has no heading #{anchor}")
                }
            }
        }
        for path in paths {
            assert!(path.exists(), "{page} names {}, which does not exist", path.display());
            checked += 1;
        }
    }
    assert!(checked >= 40, "only {checked} paths were found in the pages");
}

/// All of `src` as one text, string literals that go over several lines joined.
fn sources(folder: &Path, all: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|e| e == "rs") {
            for line in fs::read_to_string(&path).unwrap().lines() {
                match line.trim().strip_suffix('\\') {
                    Some(more) => all.push_str(more),
                    None => all.extend([line.trim(), "\n"]),
                }
            }
        }
    }
}

#[test]
fn the_error_texts_of_the_readme_are_the_proxys() {
    let mut all = String::new();
    sources(&root().join("src"), &mut all);
    let readme = read("README.md");
    let rows = section(&readme, "When things go wrong").lines().filter(|l| l.starts_with("| `"));
    let mut checked = 0;
    for row in rows {
        let quoted = row.split('`').nth(1).unwrap();
        for part in quoted.split('…').map(str::trim) {
            assert!(all.contains(part), "no source says {part:?}, which README.md quotes");
            checked += 1;
        }
    }
    assert!(checked >= 10, "only {checked} error texts were found");
}

#[test]
fn every_make_target_that_is_named_exists() {
    let makefile = read("Makefile");
    let mut checked = 0;
    for page in PAGES {
        let text = read(page);
        let spans = code_spans(&text).join("\n");
        let blocks: Vec<&str> = text.split("```").skip(1).step_by(2).collect();
        for line in spans.lines().chain(blocks.iter().flat_map(|b| b.lines())) {
            if let Some(target) = line.strip_prefix("make ").and_then(|l| l.split(' ').next()) {
                let rule = format!("\n{target}:");
                assert!(makefile.contains(&rule), "{page} says `make {target}`, which has no rule");
                checked += 1;
            }
        }
    }
    assert!(checked >= 4, "only {checked} targets were found in the pages");
}
