//! INFO of a cluster as one sensible document: that of a single, standalone server.
//!
//! Invariant: the lines and their order are the first part's; numbers that add up are summed over
//! the parts, numbers of which the worst counts are the largest, and everything that would show a
//! node's address, role or cluster state is the standalone face. Nothing else is changed, so that
//! fields of newer servers pass through.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// Fields that add up over the nodes.
const SUMMED: &[&str] = &[
    "aof_base_size",
    "aof_current_size",
    "active_defrag_hits",
    "active_defrag_misses",
    "allocator_active",
    "allocator_allocated",
    "allocator_resident",
    "blocked_clients",
    "tracking_clients",
    "clients_in_timeout_table",
    "dump_payload_sanitizations",
    "evicted_clients",
    "evicted_keys",
    "expired_fields",
    "expired_keys",
    "expired_subkeys",
    "instantaneous_ops_per_sec",
    "keyspace_hits",
    "keyspace_misses",
    "maxmemory",
    "mem_clients_normal",
    "mem_clients_slaves",
    "pubsub_clients",
    "rdb_changes_since_last_save",
    "rejected_connections",
    "sync_full",
    "sync_partial_err",
    "sync_partial_ok",
    "total_active_defrag_time",
    "total_commands_processed",
    "total_connections_received",
    "total_error_replies",
    "total_eviction_exceeded_time",
    "total_forks",
    "total_net_input_bytes",
    "total_net_output_bytes",
    "total_reads_processed",
    "total_writes_processed",
    "unexpected_error_replies",
    "used_memory",
    "used_memory_dataset",
    "used_memory_functions",
    "used_memory_lua",
    "used_memory_overhead",
    "used_memory_peak",
    "used_memory_rss",
    "used_memory_scripts",
    "used_memory_startup",
    "used_memory_vm_total",
    "number_of_cached_scripts",
    "number_of_functions",
    "number_of_libraries",
];

/// Fields of which the largest counts.
const LARGEST: &[&str] = &[
    "async_loading",
    "loading",
    "maxclients",
    "pubsub_channels",
    "pubsub_patterns",
    "pubsubshard_channels",
    "rdb_bgsave_in_progress",
    "rdb_last_save_time",
    "aof_rewrite_in_progress",
    "slowlog_len",
];

/// Byte counts that have a second line for people.
const HUMAN: &[&str] = &[
    "maxmemory",
    "used_memory",
    "used_memory_lua",
    "used_memory_peak",
    "used_memory_rss",
    "used_memory_scripts",
    "used_memory_vm_total",
];

/// What the proxy says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Version of the proxy.
    pub version: &'static str,
    /// Shards behind it.
    pub shards: usize,
    /// Clients of the proxy.
    pub clients: usize,
    /// Seconds since the worker started.
    pub uptime_s: u64,
    /// Commands taken in by this worker.
    pub commands: u64,
}

impl About {
    /// The `# Proxy` section.
    pub fn section(&self) -> String {
        format!(
            "# Proxy\r\nproxy_name:memorystore-auth-proxy\r\nproxy_version:{}\r\nproxy_shards:{}\r\n\
             proxy_clients:{}\r\nproxy_worker_uptime_in_seconds:{}\r\nproxy_worker_commands:{}\r\n",
            self.version, self.shards, self.clients, self.uptime_s, self.commands
        )
    }
}

/// Merges the INFO texts of the shards; `proxy` is the section to append, empty for none, `clients` the
/// number of the proxy's own, which are the clients of the one server that is shown.
pub fn merge(parts: &[&str], proxy: &str, clients: usize) -> String {
    let mut out = String::with_capacity(parts.first().map_or(0, |p| p.len()) + proxy.len());
    let mut in_cluster_section = false;
    let mut keyspace_done = false;
    for line in parts.first().copied().unwrap_or_default().split("\r\n") {
        if let Some(title) = line.strip_prefix("# ") {
            in_cluster_section = title == "Cluster";
            out.push_str(line);
            out.push_str("\r\n");
            if title == "Keyspace" {
                keyspace(parts, &mut out);
                keyspace_done = true;
            }
            continue;
        }
        let Some((name, value)) = line.split_once(':') else {
            out.push_str(line);
            out.push_str("\r\n");
            continue;
        };
        if keyspace_done && is_database(name) || shows_a_node(name) {
            continue;
        }
        let merged = if in_cluster_section && name == "cluster_enabled" {
            "0".to_owned()
        } else if name == "connected_clients" {
            clients.to_string()
        } else {
            field(parts, name, value)
        };
        out.push_str(name);
        out.push(':');
        out.push_str(&merged);
        out.push_str("\r\n");
    }
    while out.ends_with("\r\n\r\n") {
        out.truncate(out.len() - 2);
    }
    if !proxy.is_empty() {
        if !out.is_empty() {
            out.push_str("\r\n");
        }
        out.push_str(proxy);
    }
    out
}

/// Lines that name a node: replicas, primaries, links.
fn shows_a_node(name: &str) -> bool {
    name.strip_prefix("slave")
        .is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()) && !n.is_empty())
        || matches!(name, "master_host" | "master_port" | "executable" | "config_file")
}

fn is_database(name: &str) -> bool {
    name.strip_prefix("db").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Values of a field in all parts that have it.
fn values<'a>(parts: &'a [&str], name: &'a str) -> impl Iterator<Item = &'a str> {
    parts.iter().filter_map(move |p| {
        p.split("\r\n").find_map(|l| l.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')))
    })
}

fn sum(parts: &[&str], name: &str) -> Option<u64> {
    let mut numbers = values(parts, name).map(|v| v.parse::<u64>().ok());
    numbers.try_fold(0, |total: u64, n| Some(total.saturating_add(n?)))
}

fn field(parts: &[&str], name: &str, value: &str) -> String {
    match name {
        "redis_mode" | "server_mode" => return "standalone".to_owned(),
        "role" => return "master".to_owned(),
        "connected_slaves" => return "0".to_owned(),
        _ => {}
    }
    if SUMMED.contains(&name)
        && let Some(total) = sum(parts, name)
    {
        return total.to_string();
    }
    if LARGEST.contains(&name)
        && let Some(most) = values(parts, name).filter_map(|v| v.parse::<u64>().ok()).max()
    {
        return most.to_string();
    }
    if let Some(base) = name.strip_suffix("_human")
        && HUMAN.contains(&base)
        && let Some(total) = sum(parts, base)
    {
        return human(total);
    }
    value.to_owned()
}

/// Bytes as Redis writes them for people.
fn human(bytes: u64) -> String {
    let n = bytes as f64;
    let k = 1024.0;
    if n < k {
        format!("{bytes}B")
    } else if n < k * k {
        format!("{:.2}K", n / k)
    } else if n < k * k * k {
        format!("{:.2}M", n / (k * k))
    } else if n < k * k * k * k {
        format!("{:.2}G", n / (k * k * k))
    } else {
        format!("{:.2}T", n / (k * k * k * k))
    }
}

/// `db0:keys=…,expires=…,avg_ttl=…` summed over the parts, whichever of them have it.
fn keyspace(parts: &[&str], out: &mut String) {
    let mut databases: Vec<&str> = parts
        .iter()
        .flat_map(|p| p.split("\r\n"))
        .filter_map(|l| l.split_once(':').map(|(name, _)| name))
        .filter(|name| is_database(name))
        .collect();
    databases.sort_unstable();
    databases.dedup();
    for db in databases {
        let mut fields: Vec<(&str, u64, u64)> = Vec::new();
        for value in values(parts, db) {
            let pairs: Vec<(&str, u64)> = value
                .split(',')
                .filter_map(|f| f.split_once('='))
                .filter_map(|(k, v)| Some((k, v.parse().ok()?)))
                .collect();
            let expires = pairs.iter().find(|(k, _)| *k == "expires").map_or(0, |(_, v)| *v);
            for (k, v) in pairs {
                // An average is weighted with the keys it is an average of.
                let weighted = if k == "avg_ttl" { v.saturating_mul(expires) } else { v };
                match fields.iter_mut().find(|(name, ..)| *name == k) {
                    Some((_, total, weight)) => {
                        *total = total.saturating_add(weighted);
                        *weight = weight.saturating_add(expires);
                    }
                    None => fields.push((k, weighted, expires)),
                }
            }
        }
        let shown: Vec<String> = fields
            .into_iter()
            .map(|(k, total, weight)| {
                let v = if k == "avg_ttl" { total.checked_div(weight).unwrap_or(0) } else { total };
                format!("{k}={v}")
            })
            .collect();
        out.push_str(db);
        out.push(':');
        out.push_str(&shown.join(","));
        out.push_str("\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "# Server\r\nredis_version:7.0.15\r\nredis_mode:cluster\r\n\r\n# Clients\r\n\
        connected_clients:2\r\n\r\n# Memory\r\nused_memory:1024\r\nused_memory_human:1.00K\r\n\r\n\
        # Replication\r\nrole:master\r\nslave0:ip=10.0.0.9,port=1\r\n\r\n# Cluster\r\ncluster_enabled:1\r\n\r\n\
        # Keyspace\r\ndb0:keys=3,expires=1,avg_ttl=100\r\n";
    const B: &str = "# Server\r\nredis_version:7.0.15\r\n\r\n# Clients\r\nconnected_clients:5\r\n\r\n\
        # Memory\r\nused_memory:2048\r\nused_memory_human:2.00K\r\n\r\n# Keyspace\r\n\
        db0:keys=4,expires=3,avg_ttl=200\r\n";

    #[test]
    fn one_standalone_document() {
        let about = About { version: "1", shards: 2, clients: 1, uptime_s: 0, commands: 0 };
        let text = merge(&[A, B], &about.section(), 3);
        for line in [
            "redis_mode:standalone",
            "connected_clients:3",
            "used_memory:3072",
            "used_memory_human:3.00K",
            "cluster_enabled:0",
            "db0:keys=7,expires=4,avg_ttl=175",
            "proxy_shards:2",
        ] {
            assert!(text.contains(&format!("{line}\r\n")), "{line} missing in\n{text}");
        }
        assert!(!text.contains("10.0.0.9"));
        assert_eq!(text.matches("# Keyspace").count(), 1);
    }

    /// Found by fuzzing.
    #[test]
    fn numbers_too_large_to_add_up_are_the_largest() {
        let most = u64::MAX;
        let part = format!(
            "used_memory:{most}\r\n# Keyspace\r\ndb0:keys={most},expires={most},avg_ttl=2\r\n"
        );
        let text = merge(&[&part, &part], "", 1);
        assert!(text.contains(&format!("used_memory:{most}\r\n")), "{text}");
        assert!(text.contains(&format!("keys={most},expires={most},")), "{text}");
    }

    #[test]
    fn a_shard_without_keys_hides_no_keyspace() {
        let empty = "# Keyspace\r\n";
        assert_eq!(
            merge(&[empty, "# Keyspace\r\ndb0:keys=4,expires=0,avg_ttl=0\r\n"], "", 1),
            "# Keyspace\r\ndb0:keys=4,expires=0,avg_ttl=0\r\n"
        );
    }
}
