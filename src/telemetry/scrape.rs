//! Everything `/metrics` shows: the process once, each instance with its name as a label.
//!
//! Invariant: every metric of an instance has the label `instance_name`, whether there are several or
//! not, so that a query written for one proxy fits all; its values are what the user named on the
//! command line. (Plain `instance` is Prometheus's own word for the process it scrapes.)

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use prometheus::Registry;
use prometheus::proto::MetricFamily;

use super::control::{MapCollector, MapSources, ProcessCollector, ProcessSources};
use super::metrics::{WorkerCollector, WorkerMetrics};

/// The label that tells instances apart.
pub const LABEL: &str = "instance_name";

/// What the metrics of one instance are read from.
pub struct InstanceSources {
    /// What it is called.
    pub name: Arc<str>,
    /// What its threads count.
    pub threads: Vec<Arc<WorkerMetrics>>,
    /// Its slot map.
    pub map: MapSources,
}

/// See the module header.
#[derive(Debug, Clone)]
pub struct Scrape(Vec<Registry>);

impl Scrape {
    /// Reads from these.
    ///
    /// # Errors
    /// A name Prometheus forbids, or one used twice; a fault of the tables, which the tests exclude.
    pub fn new(
        process: ProcessSources,
        instances: Vec<InstanceSources>,
    ) -> prometheus::Result<Self> {
        let own = Registry::new();
        own.register(Box::new(ProcessCollector::new(process)?))?;
        let mut registries = vec![own];
        for instance in instances {
            let label = HashMap::from([(LABEL.to_owned(), instance.name.to_string())]);
            let registry = Registry::new_custom(None, Some(label))?;
            registry.register(Box::new(WorkerCollector::new(instance.threads)?))?;
            registry.register(Box::new(MapCollector::new(instance.map)?))?;
            registries.push(registry);
        }
        Ok(Self(registries))
    }

    /// All families by name, each once.
    pub fn gather(&self) -> Vec<MetricFamily> {
        let mut all: BTreeMap<String, MetricFamily> = BTreeMap::new();
        for family in self.0.iter().flat_map(Registry::gather) {
            let name = family.name().to_owned();
            match all.get_mut(&name) {
                Some(known) => known.mut_metric().extend(family.get_metric().iter().cloned()),
                None => drop(all.insert(name, family)),
            }
        }
        all.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::watcher::WatcherStatus;
    use crate::credentials::CredentialState;
    use prometheus::TextEncoder;
    use std::time::SystemTime;
    use tokio::sync::watch;

    #[test]
    fn a_family_of_several_instances_is_one_and_tells_them_apart() {
        let instance = |name: &str, commands: u64| {
            let threads = vec![Arc::new(WorkerMetrics::default())];
            threads[0].commands.add(commands);
            let map = MapSources {
                resting: Vec::new(),
                topology: watch::channel(None).1,
                watcher: watch::channel(WatcherStatus::default()).1,
            };
            InstanceSources { name: name.into(), threads, map }
        };
        let process = ProcessSources {
            credentials: watch::channel(CredentialState::NotNeeded).1,
            credential_counts: Arc::new(Vec::new),
            started_at: SystemTime::UNIX_EPOCH,
        };
        let scrape =
            Scrape::new(process, vec![instance("a:1", 7), instance("projects/p", 8)]).unwrap();
        let text = TextEncoder::new().encode_to_string(&scrape.gather()).unwrap();
        let lines = |start: &str| text.lines().filter(|l| l.starts_with(start)).count();
        assert_eq!(lines("# TYPE memorystore_proxy_commands_total "), 1);
        for line in [
            "memorystore_proxy_commands_total{instance_name=\"a:1\"} 7",
            "memorystore_proxy_commands_total{instance_name=\"projects/p\"} 8",
            "memorystore_proxy_topology_epoch{instance_name=\"a:1\"} 0",
            "memorystore_proxy_token_usable 1",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
        }
    }
}
