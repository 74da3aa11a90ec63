//! Counters of the workers, and how they become Prometheus families.
//!
//! Invariant: counting is one relaxed load and store on a cell of the counting thread's own
//! [`WorkerMetrics`]; no lock, no label look-up, no shared cache line. Sums, labels and HELP texts come
//! into being only when `/metrics` is read. Every family and label value is in [`FAMILIES`] or
//! `control`; none is made from what a client sends, so neither keys nor secrets can reach a label.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::histogram::{self, Histogram};

/// One number with one writing thread; any thread may read it.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`. Not an atomic addition: with a second writer counts would be lost.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes one off (gauges).
    #[inline]
    pub fn dec(&self) {
        self.0.store(self.get().saturating_sub(1), Ordering::Relaxed);
    }

    /// Puts a value the writer keeps elsewhere.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Everything one thread counts; each worker, and the acceptor, has one of its own. What the fields
/// mean stands in [`FAMILIES`].
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "FAMILIES says what each field counts, in the HELP texts")]
pub struct WorkerMetrics {
    pub client_connections: Cell,
    pub client_connections_total: Cell,
    pub client_connections_rejected: Cell,
    pub commands: Cell,
    pub replies: Cell,
    pub client_bytes_in: Cell,
    pub client_bytes_out: Cell,
    pub client_writes: Cell,
    pub upstream_bytes_in: Cell,
    pub upstream_bytes_out: Cell,
    pub upstream_writes: Cell,
    pub error_replies_deadline: Cell,
    pub error_replies_maybe_executed: Cell,
    pub error_replies_redirects: Cell,
    pub error_replies_protocol: Cell,
    pub closed_output: Cell,
    pub closed_request: Cell,
    pub closed_buffer_total: Cell,
    pub closed_idle: Cell,
    pub buffered_bytes: Cell,
    pub error_replies_other: Cell,
    pub upstream_connecting: Cell,
    pub upstream_ready: Cell,
    pub upstream_draining: Cell,
    pub dials_ok: Cell,
    pub dials_failed: Cell,
    pub auth_ok: Cell,
    pub auth_wrongpass: Cell,
    pub auth_exhausted: Cell,
    pub auth_other: Cell,
    pub auth_noauth: Cell,
    pub redirects_moved: Cell,
    pub redirects_ask: Cell,
    pub retries_tryagain: Cell,
    pub retries_clusterdown: Cell,
    pub retries_loading: Cell,
    pub retries_role: Cell,
    pub retries_noauth: Cell,
    pub retries_lost: Cell,
    pub retries_noroute: Cell,
    pub retries_noscript: Cell,
    pub renewals: Cell,
    pub retirements: Cell,
    pub nodes_in_backoff: Cell,
    pub messages: Cell,
    pub subscriptions: Cell,
    pub latencies: Latencies,
    pub retries_replica: Cell,
    pub replica_reads: Cell,
    pub replica_reads_fallback: Cell,
    pub refused_command: Cell,
    pub refused_key: Cell,
    pub refused_channel: Cell,
    pub refused_deny_list: Cell,
    pub refused_noauth: Cell,
    pub refused_wrongpass: Cell,
    pub refused_unix_uid: Cell,
}

/// The histograms of one thread.
#[derive(Debug, Default)]
pub struct Latencies {
    /// From the first event of a turn to its last write.
    pub turn: Histogram,
    /// From the write of a command to its reply.
    pub upstream: Histogram,
}

const TURN: (&str, &str) = (
    "memorystore_proxy_turn_seconds",
    "How long the proxy works on what is ready at once, from the first read to the last write: what it adds \
     to a command each way. Every 16th turn is measured.",
);

const UPSTREAM: (&str, &str) = (
    "memorystore_proxy_upstream_latency_seconds",
    "Time from a command's write to a node to the arrival of its reply. One command at a time is measured \
     on each connection.",
);

/// Reads one cell.
type Read = fn(&WorkerMetrics) -> &Cell;

/// One metric family and the cells it is made of.
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    /// Label name; empty when there is one cell without a label.
    label: &'static str,
    cells: &'static [(&'static str, Read)],
}

macro_rules! families {
    ($($kind:ident $name:literal, $help:literal, $label:literal { $($value:literal: $field:ident),+ })+) => {
        &[$(Family {
            name: concat!("memorystore_proxy_", $name),
            help: $help,
            kind: MetricType::$kind,
            label: $label,
            cells: &[$(($value, |m| &m.$field)),+],
        }),+]
    };
}

/// What the workers count.
pub const FAMILIES: &[Family] = families! {
    GAUGE "client_connections", "Client connections open now.", "" { "": client_connections }
    COUNTER "client_connections_total", "Client connections accepted.", "" { "": client_connections_total }
    COUNTER "client_connections_rejected_total", "Clients refused because of --max-connections.", "" { "": client_connections_rejected }
    COUNTER "client_disconnects_total",
        "Clients disconnected because of a limit. output: --max-client-output-bytes, or a subscriber that \
         reads too slowly; request: --max-request-bytes; buffer_total: --max-buffer-total; idle: \
         --client-idle-timeout.",
        "limit" {
            "output": closed_output,
            "request": closed_request,
            "buffer_total": closed_buffer_total,
            "idle": closed_idle
        }
    GAUGE "buffered_bytes", "Bytes of requests and replies held for clients now.", "" { "": buffered_bytes }
    COUNTER "commands_total", "Commands received from clients.", "" { "": commands }
    COUNTER "replies_total", "Replies of nodes passed on to clients.", "" { "": replies }
    COUNTER "client_received_bytes_total", "Bytes read from clients.", "" { "": client_bytes_in }
    COUNTER "client_sent_bytes_total", "Bytes written to clients.", "" { "": client_bytes_out }
    COUNTER "client_writes_total", "Write system calls to clients.", "" { "": client_writes }
    COUNTER "upstream_received_bytes_total", "Bytes read from nodes.", "" { "": upstream_bytes_in }
    COUNTER "upstream_sent_bytes_total", "Bytes written to nodes.", "" { "": upstream_bytes_out }
    COUNTER "upstream_writes_total", "Write system calls to nodes.", "" { "": upstream_writes }
    COUNTER "error_replies_total",
        "Error replies made by the proxy itself, by reason. deadline: op-timeout passed; maybe_executed: \
         a node was lost after the command was sent; redirects: more than max-redirects; protocol: the \
         client broke the protocol; other: refused without asking a node.",
        "reason" {
            "deadline": error_replies_deadline,
            "maybe_executed": error_replies_maybe_executed,
            "redirects": error_replies_redirects,
            "protocol": error_replies_protocol,
            "other": error_replies_other
        }
    GAUGE "upstream_connections", "Connections to nodes, by state. draining: replaced, waiting for its last replies.", "state" {
        "connecting": upstream_connecting,
        "ready": upstream_ready,
        "draining": upstream_draining
    }
    COUNTER "upstream_dials_total", "Attempts to connect to nodes, by outcome.", "outcome"
        { "ok": dials_ok, "failed": dials_failed }
    COUNTER "upstream_auths_total",
        "AUTHs answered by nodes, by outcome. wrongpass: WRONGPASS; exhausted: ERR_IAM_EXHAUSTED; other: \
         ERR_IAM_OTHER or another error; noauth: the node demanded AUTH at another moment.",
        "outcome" {
            "ok": auth_ok,
            "wrongpass": auth_wrongpass,
            "exhausted": auth_exhausted,
            "other": auth_other,
            "noauth": auth_noauth
        }
    COUNTER "redirects_total", "Redirects followed, by kind.", "kind"
        { "moved": redirects_moved, "ask": redirects_ask }
    COUNTER "retries_total",
        "Commands sent again, by what the node answered. role: READONLY or MASTERDOWN; lost: the \
         connection ended; noroute: no node owned the slot; noscript: the node was told the script; replica: \
         no replica could answer a read that no primary may.",
        "reason" {
            "tryagain": retries_tryagain,
            "clusterdown": retries_clusterdown,
            "loading": retries_loading,
            "role": retries_role,
            "noauth": retries_noauth,
            "lost": retries_lost,
            "noroute": retries_noroute,
            "noscript": retries_noscript,
            "replica": retries_replica
        }
    COUNTER "upstream_renewals_total", "AUTHs said again on connections in use, with a newer credential.", "" { "": renewals }
    COUNTER "upstream_retirements_total", "Connections replaced because of their age.", "" { "": retirements }
    GAUGE "upstream_nodes_in_backoff", "Nodes that are not dialled for a while because they refused or failed.", "" { "": nodes_in_backoff }
    COUNTER "pubsub_messages_total", "Messages delivered to subscribed clients.", "" { "": messages }
    GAUGE "pubsub_subscriptions", "Channels and patterns the proxy is subscribed to for its clients.", "" { "": subscriptions }
    COUNTER "client_refusals_total",
        "What was refused to clients, by reason. command, key, channel: their user's permissions; deny_list: \
         --deny-commands; noauth: they have not said who they are; wrongpass: a failed AUTH; unix_uid: \
         --unix-socket-allow-uid.",
        "reason" {
            "command": refused_command,
            "key": refused_key,
            "channel": refused_channel,
            "deny_list": refused_deny_list,
            "noauth": refused_noauth,
            "wrongpass": refused_wrongpass,
            "unix_uid": refused_unix_uid
        }
    COUNTER "replica_reads_total",
        "Reads of --read-from other than primary, by the node they were sent to. replica: a replica; \
         primary: the primary, as no replica was ready, it refused, or it did not know the key.",
        "node" { "replica": replica_reads, "primary": replica_reads_fallback }
};

/// Sums the cells of all threads when scraped.
pub struct WorkerCollector {
    workers: Vec<Arc<WorkerMetrics>>,
    descs: Vec<Desc>,
}

impl WorkerCollector {
    /// Collects from these threads.
    ///
    /// # Errors
    /// A name or label that Prometheus forbids; a fault of [`FAMILIES`].
    pub fn new(workers: Vec<Arc<WorkerMetrics>>) -> prometheus::Result<Self> {
        let histograms = [(TURN.0, TURN.1, ""), (UPSTREAM.0, UPSTREAM.1, "")];
        let descs = FAMILIES.iter().map(|f| (f.name, f.help, f.label)).chain(histograms);
        let descs = descs.map(|(n, h, l)| desc(n, h, l)).collect::<Result<_, _>>()?;
        Ok(Self { workers, descs })
    }
}

impl Collector for WorkerCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        FAMILIES
            .iter()
            .map(|f| {
                let mut family = FamilyBuilder::new(f.name, f.help, f.kind);
                for (value, cell) in f.cells {
                    let sum: u64 = self.workers.iter().map(|worker| cell(worker).get()).sum();
                    family.sample(f.label, value, sum as f64);
                }
                family.build()
            })
            .chain([
                histogram::family(TURN.0, TURN.1, self.workers.iter().map(|w| &w.latencies.turn)),
                histogram::family(
                    UPSTREAM.0,
                    UPSTREAM.1,
                    self.workers.iter().map(|w| &w.latencies.upstream),
                ),
            ])
            .collect()
    }
}

/// A descriptor with one label, or none when `label` is empty.
pub(super) fn desc(name: &str, help: &str, label: &str) -> prometheus::Result<Desc> {
    let labels = if label.is_empty() { Vec::new() } else { vec![label.to_owned()] };
    Desc::new(name.to_owned(), help.to_owned(), labels, Default::default())
}

/// Builds a family of counters or gauges.
pub(super) struct FamilyBuilder {
    family: MetricFamily,
    kind: MetricType,
    metrics: Vec<Metric>,
}

impl FamilyBuilder {
    pub(super) fn new(name: &str, help: &str, kind: MetricType) -> Self {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        Self { family, kind, metrics: Vec::new() }
    }

    /// Adds a sample with one label, or without when `label` is empty.
    pub(super) fn sample(&mut self, label: &str, value_of_label: &str, value: f64) {
        let mut labels = Vec::new();
        if !label.is_empty() {
            let mut pair = LabelPair::default();
            pair.set_name(label.to_owned());
            pair.set_value(value_of_label.to_owned());
            labels.push(pair);
        }
        let mut metric = Metric::from_label(labels);
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.metrics.push(metric);
    }

    pub(super) fn build(mut self) -> MetricFamily {
        self.family.set_metric(self.metrics);
        self.family
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{Registry, TextEncoder};
    use std::collections::HashSet;

    fn scrape(workers: Vec<Arc<WorkerMetrics>>) -> String {
        let registry = Registry::new();
        registry.register(Box::new(WorkerCollector::new(workers).unwrap())).unwrap();
        TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
    }

    #[test]
    fn threads_are_summed_at_scrape() {
        let (a, b) = (Arc::new(WorkerMetrics::default()), Arc::new(WorkerMetrics::default()));
        a.commands.add(40);
        b.commands.inc();
        b.commands.inc();
        b.redirects_ask.set(7);
        a.client_connections.inc();
        b.client_connections.inc();
        b.client_connections.dec();
        let text = scrape(vec![a, b]);
        for line in [
            "memorystore_proxy_commands_total 42",
            "memorystore_proxy_redirects_total{kind=\"ask\"} 7",
            "memorystore_proxy_redirects_total{kind=\"moved\"} 0",
            "memorystore_proxy_client_connections 1",
            "# TYPE memorystore_proxy_client_connections gauge",
            "# TYPE memorystore_proxy_retries_total counter",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
        }
    }

    #[test]
    fn families_follow_the_conventions_and_use_every_cell_once() {
        let metrics = WorkerMetrics::default();
        let mut cells = HashSet::new();
        let mut names = HashSet::new();
        for family in FAMILIES {
            assert!(names.insert(family.name), "{} twice", family.name);
            assert_eq!(
                family.name.ends_with("_total"),
                family.kind == MetricType::COUNTER,
                "{}",
                family.name
            );
            assert!(family.help.ends_with('.'), "{}", family.name);
            assert_eq!(family.label.is_empty(), family.cells.len() == 1, "{}", family.name);
            for (_, cell) in family.cells {
                assert!(cells.insert(std::ptr::from_ref(cell(&metrics))), "{}", family.name);
            }
        }
        assert_eq!(
            cells.len(),
            (size_of::<WorkerMetrics>() - size_of::<Latencies>()) / size_of::<Cell>(),
            "a field that no family shows"
        );
    }
}
