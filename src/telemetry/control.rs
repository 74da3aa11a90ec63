//! Metrics of the control thread: build and credential of the process, slot map of each instance.
//!
//! Invariant: read from the `watch` channels when scraped, so that `/metrics` and `/status` never
//! disagree; no token or user name becomes a label.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};
use tokio::sync::watch;

use super::metrics::{FamilyBuilder, desc};
use crate::cluster::topology::{NodeAddr, Topology};
use crate::cluster::watcher::WatcherStatus;
use crate::credentials::CredentialState;

/// How often one credential source gave a credential, and how often it failed.
#[derive(Debug, Clone, Copy)]
pub struct SourceCounts {
    /// The source's name, as in [`crate::credentials::Credential::source`].
    pub source: &'static str,
    /// Credentials it gave.
    pub refreshes: u64,
    /// Times it gave none.
    pub failures: u64,
}

/// Reads the counts of all sources.
pub type ReadSourceCounts = Arc<dyn Fn() -> Vec<SourceCounts> + Send + Sync>;

/// What the metrics of the process are read from.
pub struct ProcessSources {
    /// The current credential.
    pub credentials: watch::Receiver<CredentialState>,
    /// Credential refreshes by source.
    pub credential_counts: ReadSourceCounts,
    /// When the process started.
    pub started_at: SystemTime,
}

/// The nodes one worker leaves alone for a while, because they refused or failed.
#[derive(Debug, Default)]
pub struct Resting(Mutex<Vec<NodeAddr>>);

impl Resting {
    /// These, and no others.
    pub fn set(&self, nodes: Vec<NodeAddr>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
    }

    fn has(&self, node: &NodeAddr) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(node)
    }
}

/// What the slot-map metrics of an instance are read from.
pub struct MapSources {
    /// What each worker leaves alone.
    pub resting: Vec<Arc<Resting>>,
    /// The current slot map.
    pub topology: watch::Receiver<Option<Arc<Topology>>>,
    /// What the watcher last did.
    pub watcher: watch::Receiver<WatcherStatus>,
}

/// Name, HELP, kind, label (empty: none).
type Row = (&'static str, &'static str, MetricType, &'static str);

const BUILD_INFO: Row = (
    "memorystore_proxy_build_info",
    "1; the label tells the version.",
    MetricType::GAUGE,
    "version",
);
const START_TIME: Row = (
    "memorystore_proxy_start_time_seconds",
    "When the process started, in seconds since the Unix epoch.",
    MetricType::GAUGE,
    "",
);
const TOKEN_USABLE: Row = (
    "memorystore_proxy_token_usable",
    "1 when there is a credential to authenticate with, or none is needed; else 0.",
    MetricType::GAUGE,
    "",
);
const TOKEN_AGE: Row = (
    "memorystore_proxy_token_age_seconds",
    "Seconds since the current credential was obtained; absent without one.",
    MetricType::GAUGE,
    "",
);
const TOKEN_EXPIRY: Row = (
    "memorystore_proxy_token_expires_in_seconds",
    "Seconds until the current token expires, negative after; absent for static secrets.",
    MetricType::GAUGE,
    "",
);
const TOKEN_REFRESHES: Row = (
    "memorystore_proxy_token_refreshes_total",
    "Credentials obtained, by source.",
    MetricType::COUNTER,
    "source",
);
const TOKEN_FAILURES: Row = (
    "memorystore_proxy_token_refresh_failures_total",
    "Failed attempts to obtain a credential, by source.",
    MetricType::COUNTER,
    "source",
);
const EPOCH: Row = (
    "memorystore_proxy_topology_epoch",
    "Number of the current slot map; grows by one with every change, 0 until the first.",
    MetricType::GAUGE,
    "",
);
const SHARDS: Row =
    ("memorystore_proxy_topology_shards", "Shards in the current slot map.", MetricType::GAUGE, "");
const COVERED: Row = (
    "memorystore_proxy_topology_slots_covered",
    "Slots of 16384 that have an owner in the current slot map.",
    MetricType::GAUGE,
    "",
);
const REFRESHES: Row = (
    "memorystore_proxy_topology_refreshes_total",
    "Slot map refreshes that succeeded.",
    MetricType::COUNTER,
    "",
);
const FAILURES: Row = (
    "memorystore_proxy_topology_refresh_failures_total",
    "Slot map refreshes in which no node gave a map.",
    MetricType::COUNTER,
    "",
);

const BACKOFF: Row = (
    "memorystore_proxy_upstream_node_in_backoff",
    "Workers that leave this node alone for a while because it refused or failed; 0: all is well.",
    MetricType::GAUGE,
    "node",
);

const PROCESS_ROWS: &[&Row] = &[
    &BUILD_INFO,
    &START_TIME,
    &TOKEN_USABLE,
    &TOKEN_AGE,
    &TOKEN_EXPIRY,
    &TOKEN_REFRESHES,
    &TOKEN_FAILURES,
];

const MAP_ROWS: &[&Row] = &[&EPOCH, &SHARDS, &COVERED, &REFRESHES, &FAILURES, &BACKOFF];

fn descs(rows: &[&Row]) -> prometheus::Result<Vec<Desc>> {
    rows.iter().map(|(name, help, _, label)| desc(name, help, label)).collect()
}

/// A family with these samples by the value of its label; without any it is left out of the scrape.
fn family(row: &Row, samples: &[(&str, f64)]) -> MetricFamily {
    let (name, help, kind, label) = *row;
    let mut family = FamilyBuilder::new(name, help, kind);
    for &(value_of_label, value) in samples {
        family.sample(label, value_of_label, value);
    }
    family.build()
}

/// Build and credential.
pub(super) struct ProcessCollector {
    sources: ProcessSources,
    descs: Vec<Desc>,
}

impl ProcessCollector {
    pub(super) fn new(sources: ProcessSources) -> prometheus::Result<Self> {
        Ok(Self { sources, descs: descs(PROCESS_ROWS)? })
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let now = SystemTime::now();
        let started = seconds_between(SystemTime::UNIX_EPOCH, self.sources.started_at);
        let state = self.sources.credentials.borrow().clone();
        let usable = matches!(state, CredentialState::Ready { .. } | CredentialState::NotNeeded);
        let mut families = vec![
            family(&BUILD_INFO, &[(env!("CARGO_PKG_VERSION"), 1.0)]),
            family(&START_TIME, &[("", started)]),
            family(&TOKEN_USABLE, &[("", f64::from(u8::from(usable)))]),
        ];
        if let CredentialState::Ready { credential, .. } = state {
            families
                .push(family(&TOKEN_AGE, &[("", seconds_between(credential.obtained_at, now))]));
            if let Some(expires_at) = credential.expires_at {
                families.push(family(&TOKEN_EXPIRY, &[("", seconds_between(now, expires_at))]));
            }
        }
        let counts = (self.sources.credential_counts)();
        let by_source = |count: fn(&SourceCounts) -> u64| -> Vec<(&str, f64)> {
            counts.iter().map(|source| (source.source, count(source) as f64)).collect()
        };
        families.push(family(&TOKEN_REFRESHES, &by_source(|c| c.refreshes)));
        families.push(family(&TOKEN_FAILURES, &by_source(|c| c.failures)));
        families
    }
}

/// The slot map of one instance.
pub(super) struct MapCollector {
    sources: MapSources,
    descs: Vec<Desc>,
}

impl MapCollector {
    pub(super) fn new(sources: MapSources) -> prometheus::Result<Self> {
        Ok(Self { sources, descs: descs(MAP_ROWS)? })
    }
}

impl Collector for MapCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let topology = self.sources.topology.borrow().clone();
        let topology = topology.as_deref();
        let watcher = self.sources.watcher.borrow();
        let one = |row: &Row, value: f64| family(row, &[("", value)]);
        let nodes: Vec<&NodeAddr> = topology.map_or_else(Vec::new, |t| {
            t.shards.iter().flat_map(|s| std::iter::once(&s.primary).chain(&s.replicas)).collect()
        });
        let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        let resting = |node: &NodeAddr| {
            self.sources.resting.iter().filter(|resting| resting.has(node)).count() as f64
        };
        let backoff: Vec<(&str, f64)> =
            names.iter().map(String::as_str).zip(nodes.iter().map(|node| resting(node))).collect();
        vec![
            family(&BACKOFF, &backoff),
            one(&EPOCH, topology.map_or(0, |t| t.epoch) as f64),
            one(&SHARDS, topology.map_or(0, |t| t.shards.len()) as f64),
            one(&COVERED, topology.map_or(0, Topology::slots_covered) as f64),
            one(&REFRESHES, watcher.refreshes as f64),
            one(&FAILURES, watcher.failures as f64),
        ]
    }
}

/// From `start` to `end`, negative when the clock says it is the other way round.
pub fn seconds_between(start: SystemTime, end: SystemTime) -> f64 {
    match end.duration_since(start) {
        Ok(passed) => passed.as_secs_f64(),
        Err(e) => -e.duration().as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::discovery::SlotMap;
    use crate::credentials::{Credential, Secret};
    use prometheus::TextEncoder;
    use std::time::Duration;

    fn scrape(state: CredentialState, topology: Option<Arc<Topology>>) -> String {
        let status = WatcherStatus { refreshes: 5, failures: 2, ..WatcherStatus::default() };
        let process = ProcessSources {
            credentials: watch::channel(state).1,
            credential_counts: Arc::new(|| {
                vec![SourceCounts { source: "gcloud", refreshes: 3, failures: 1 }]
            }),
            started_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1000),
        };
        let resting = Arc::new(Resting::default());
        let known = topology.iter().map(|t: &Arc<Topology>| t.shards[0].primary.clone());
        resting.set(known.collect());
        let map = MapSources {
            resting: vec![resting],
            topology: watch::channel(topology).1,
            watcher: watch::channel(status).1,
        };
        let mut families = ProcessCollector::new(process).unwrap().collect();
        families.extend(MapCollector::new(map).unwrap().collect());
        families.retain(|family| !family.get_metric().is_empty());
        TextEncoder::new().encode_to_string(&families).unwrap()
    }

    fn value(text: &str, name: &str) -> Option<f64> {
        let line = text.lines().find_map(|l| l.strip_prefix(&format!("memorystore_proxy_{name} ")));
        line.map(|v| v.parse().unwrap())
    }

    #[test]
    fn credential_and_map_are_read_at_scrape() {
        let now = SystemTime::now();
        let credential = Arc::new(Credential {
            username: "default".into(),
            secret: Secret::new("ya29.hidden".to_owned()),
            expires_at: Some(now + Duration::from_secs(600)),
            obtained_at: now - Duration::from_secs(60),
            generation: 2,
            source: "gcloud",
            principal: None,
        });
        let addr = NodeAddr { host: "10.9.8.7".into(), port: 6379 };
        let topology = SlotMap::standalone(&addr).into_topology(4);
        let ready = CredentialState::Ready { credential, refresh_error: None };
        let text = scrape(ready, Some(Arc::new(topology)));
        let close = |name, expected: f64| {
            let got = value(&text, name).unwrap();
            assert!((got - expected).abs() < 30.0, "{name} {got}");
        };
        close("token_age_seconds", 60.0);
        close("token_expires_in_seconds", 600.0);
        assert_eq!(value(&text, "token_usable"), Some(1.0));
        assert_eq!(value(&text, "token_refreshes_total{source=\"gcloud\"}"), Some(3.0));
        assert_eq!(value(&text, "token_refresh_failures_total{source=\"gcloud\"}"), Some(1.0));
        assert_eq!(value(&text, "topology_epoch"), Some(4.0));
        assert_eq!(value(&text, "topology_slots_covered"), Some(16384.0));
        assert_eq!(value(&text, "topology_refreshes_total"), Some(5.0));
        assert_eq!(value(&text, "topology_refresh_failures_total"), Some(2.0));
        assert_eq!(value(&text, "start_time_seconds"), Some(1000.0));
        assert!(text.contains(concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"")));
        let node = "upstream_node_in_backoff{node=\"10.9.8.7:6379\"}";
        assert_eq!(value(&text, node), Some(1.0));
        assert!(!text.contains("ya29"), "{text}");
    }

    #[test]
    fn what_is_not_there_is_absent_or_zero() {
        let text = scrape(CredentialState::Failed { error: "no".into() }, None);
        assert_eq!(value(&text, "token_usable"), Some(0.0));
        assert_eq!(value(&text, "token_age_seconds"), None);
        assert_eq!(value(&text, "topology_epoch"), Some(0.0));
        assert_eq!(value(&scrape(CredentialState::NotNeeded, None), "token_usable"), Some(1.0));
    }
}
