//! A real Redis Cluster on loopback, each node behind an IAM front.
//!
//! The nodes find each other through `nodes.conf` files written before they start: a cluster with
//! its slots, replicas and epochs is whole after the two seconds a restarted Redis primary always
//! waits, without the races of CLUSTER MEET. They announce the ports of their fronts, so MOVED, ASK,
//! CLUSTER SLOTS and CLUSTER SHARDS lead through the fronts; the cluster bus goes directly.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::client::Client;
use super::front::{BoundFront, FrontOptions, IamFront};
use super::metadata::Tokens;
use super::node::Node;
use super::nodes_conf::{Plan, nodes_conf};
use super::ports::free_port;
use super::process::require;
use super::resp::Value;
use super::slots::SLOTS;
use super::tls::Identity;
use super::wait::{holds, wait_for};

/// How the cluster looks at the start.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Primaries; the slots are spread evenly, in order.
    pub shards: usize,
    /// Replicas of each primary.
    pub replicas: usize,
    /// Password of the nodes themselves; a random one when `None`.
    pub password: Option<String>,
    /// Whether fronts demand tokens; without them nodes announce their own ports and their password
    /// is the static password of the cluster.
    pub fronts: bool,
    /// User name the fronts accept.
    pub username: String,
    /// What the fronts show, if they are to speak TLS.
    pub tls: Option<Identity>,
    /// `cluster-node-timeout`.
    pub node_timeout: Duration,
    /// More arguments for every redis-server, e.g. `--maxmemory 10mb`.
    pub server_args: Vec<String>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            shards: 3,
            replicas: 0,
            password: None,
            fronts: true,
            username: "default".to_owned(),
            tls: None,
            node_timeout: Duration::from_millis(1500),
            server_args: Vec::new(),
        }
    }
}

/// How a replica takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failover {
    /// With the primary's consent, without losing a write.
    Coordinated,
    /// Without asking the primary, by vote of the others.
    Force,
    /// Without asking anybody.
    Takeover,
}

/// One member.
#[derive(Debug)]
pub struct Member {
    /// Cluster node id.
    pub id: String,
    /// The server.
    pub node: Node,
    /// The front before it, if there is one.
    pub front: Option<IamFront>,
}

impl Member {
    /// Where clients are sent for this member.
    pub fn addr(&self) -> SocketAddr {
        self.front.as_ref().map_or(self.node.addr(), IamFront::addr)
    }

    /// Its front; panics when the cluster was started without fronts.
    pub fn front(&self) -> &IamFront {
        self.front.as_ref().expect("the cluster was started with fronts")
    }
}

/// A running cluster. Members `0..shards` start as primaries; replica `r` of shard `s` is member
/// `shards + s * replicas + r`.
#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    password: String,
    members: Vec<Member>,
    // Last: the servers die before their directories go.
    _dir: TempDir,
}

impl Cluster {
    /// Starts it and waits until every node says it is whole.
    pub async fn start(options: ClusterOptions, tokens: Arc<Tokens>) -> Self {
        require("redis-server", "redis-server");
        require("setpriv", "util-linux");
        for _ in 0..5 {
            let cluster = Self::spawn(options.clone(), tokens.clone()).await;
            if cluster.formed().await {
                return cluster;
            }
            // A port was taken between asking and binding: once more with others.
        }
        panic!("redis-server did not stay up in five attempts; is something taking all ports?");
    }

    async fn spawn(options: ClusterOptions, tokens: Arc<Tokens>) -> Self {
        let dir = TempDir::with_prefix("bed-").expect("a temporary directory");
        let password = options
            .password
            .clone()
            .unwrap_or_else(|| format!("node-password-{:016x}", fastrand::u64(..)));
        let mut plans = Vec::new();
        for index in 0..options.shards * (1 + options.replicas) {
            let primary =
                (index >= options.shards).then(|| (index - options.shards) / options.replicas);
            plans.push(Plan {
                id: (0..40).map(|_| fastrand::digit(16)).collect(),
                port: free_port(),
                bus: free_port(),
                front: if options.fronts { Some(BoundFront::bind().await) } else { None },
                shard: primary.unwrap_or(index),
                primary,
            });
        }
        let mut members = Vec::new();
        let confs: Vec<_> =
            (0..plans.len()).map(|i| nodes_conf(&plans, i, options.shards)).collect();
        for (index, (plan, conf)) in plans.into_iter().zip(confs).enumerate() {
            let home = dir.path().join(index.to_string());
            std::fs::create_dir(&home).expect("a directory for the node");
            std::fs::write(home.join("nodes.conf"), conf).expect("nodes.conf written");
            let announced = plan.front.as_ref().map_or(plan.port, BoundFront::port);
            let args: Vec<String> = [
                "--cluster-enabled",
                "yes",
                "--cluster-config-file",
                "nodes.conf",
                "--cluster-node-timeout",
                &options.node_timeout.as_millis().to_string(),
                "--cluster-port",
                &plan.bus.to_string(),
                "--cluster-announce-ip",
                "127.0.0.1",
                "--cluster-announce-port",
                &announced.to_string(),
                "--cluster-announce-bus-port",
                &plan.bus.to_string(),
                "--cluster-replica-validity-factor",
                "0",
                "--cluster-allow-replica-migration",
                "no",
            ]
            .iter()
            .map(|&a| a.to_owned())
            .chain(options.server_args.iter().cloned())
            .collect();
            let node = Node::start(&home, plan.port, &password, &args);
            let front = plan.front.map(|front| {
                front.start(FrontOptions {
                    node: node.addr(),
                    node_password: password.clone(),
                    username: options.username.clone(),
                    tokens: tokens.clone(),
                    tls: options.tls.clone(),
                })
            });
            members.push(Member { id: plan.id, node, front });
        }
        Self { options, password, members, _dir: dir }
    }

    /// Waits for a whole cluster; false when a server has ended by itself.
    async fn formed(&self) -> bool {
        let mut ended = false;
        let whole = holds(Duration::from_secs(30), async || {
            ended = self.members.iter().any(|m| m.node.has_exited());
            ended || self.is_whole().await
        })
        .await;
        assert!(whole, "the cluster did not form in 30 s: {}", self.members[0].node.log_tail());
        !ended
    }

    /// Whether every node sees all others, all slots served and all replicas in sync.
    pub async fn is_whole(&self) -> bool {
        for member in &self.members {
            let Ok(info) = member.node.try_run(&["CLUSTER", "INFO"]).await else {
                return false;
            };
            let info = info.text();
            if !info.contains("cluster_state:ok")
                || !info.contains(&format!("cluster_known_nodes:{}\r", self.members.len()))
                || !info.contains("cluster_slots_ok:16384")
            {
                return false;
            }
            let Ok(replication) = member.node.try_run(&["INFO", "replication"]).await else {
                return false;
            };
            let replication = replication.text();
            if replication.contains("master_link_status:down")
                || (self.options.replicas > 0
                    && replication.contains("role:master")
                    && !replication.contains("state=online"))
            {
                return false;
            }
        }
        true
    }

    /// Waits until [`Self::is_whole`] and all members agree on who owns what.
    pub async fn wait_whole(&self) {
        wait_for("a whole cluster", Duration::from_secs(30), async || {
            self.is_whole().await && self.agrees().await
        })
        .await;
    }

    async fn agrees(&self) -> bool {
        let first = self.slot_owners_by(0).await;
        for index in 1..self.members.len() {
            if self.slot_owners_by(index).await != first {
                return false;
            }
        }
        first.is_some()
    }

    /// Whether all members that answer see the same configuration epochs, no two primaries with the
    /// same one.
    pub async fn agrees_on_epochs(&self) -> bool {
        let mut seen: Option<Vec<(String, String)>> = None;
        for member in &self.members {
            let Ok(nodes) = member.node.try_run(&["CLUSTER", "NODES"]).await else {
                continue;
            };
            let mut epochs: Vec<_> = nodes.text().lines().filter_map(primary_epoch).collect();
            epochs.sort();
            if seen.get_or_insert_with(|| epochs.clone()) != &epochs {
                return false;
            }
        }
        let mut epochs: Vec<_> = seen.unwrap_or_default().into_iter().map(|(_, e)| e).collect();
        let primaries = epochs.len();
        epochs.sort();
        epochs.dedup();
        epochs.len() == primaries
    }

    /// All members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Member `index`.
    pub fn member(&self, index: usize) -> &Member {
        &self.members[index]
    }

    /// Member indices of the replicas shard `shard` started with.
    pub fn replicas_of(&self, shard: usize) -> std::ops::Range<usize> {
        let first = self.options.shards + shard * self.options.replicas;
        first..first + self.options.replicas
    }

    /// The fronts of all members.
    pub fn fronts(&self) -> impl Iterator<Item = &IamFront> {
        self.members.iter().filter_map(|m| m.front.as_ref())
    }

    /// Password of the nodes.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Number of shards at the start.
    pub fn shards(&self) -> usize {
        self.options.shards
    }

    /// Discovery endpoint: the first member's.
    pub fn seed(&self) -> String {
        self.members[0].addr().to_string()
    }

    /// Endpoints of all members, separated by commas.
    pub fn seeds(&self) -> String {
        let all: Vec<_> = self.members.iter().map(|m| m.addr().to_string()).collect();
        all.join(",")
    }

    /// A new connection straight to member `index`, past its front.
    pub async fn admin(&self, index: usize) -> Client {
        self.members[index].node.admin().await
    }

    /// Member that owns `slot`, as the first member that answers sees it.
    pub async fn owner_of(&self, slot: u16) -> usize {
        for index in 0..self.members.len() {
            if let Some(owners) = self.slot_owners_by(index).await {
                return owners[usize::from(slot)].expect("the slot has an owner");
            }
        }
        panic!("no node of the cluster answers");
    }

    async fn slot_owners_by(&self, index: usize) -> Option<Vec<Option<usize>>> {
        let slots = self.members[index].node.try_run(&["CLUSTER", "SLOTS"]).await.ok()?;
        let mut owners = vec![None; usize::from(SLOTS)];
        for range in slots.items() {
            let range = range.items();
            let id = range[2].items()[2].text();
            let owner = self.members.iter().position(|m| m.id == id)?;
            for slot in range[0].int()..=range[1].int() {
                owners[slot as usize] = Some(owner);
            }
        }
        Some(owners)
    }

    /// The sum of what `INFO` gives for `field` on all members that are up.
    pub async fn stat(&self, field: &str) -> i64 {
        let mut sum = 0;
        for member in &self.members {
            if !member.node.has_exited() {
                sum += member.node.stat(field).await;
            }
        }
        sum
    }

    /// Makes member `replica` the primary of its shard and waits until all nodes that are up agree.
    pub async fn failover(&self, replica: usize, how: Failover) {
        let mut command = vec!["CLUSTER", "FAILOVER"];
        match how {
            Failover::Coordinated => {}
            Failover::Force => command.push("FORCE"),
            Failover::Takeover => command.push("TAKEOVER"),
        }
        let node = &self.members[replica].node;
        let reply = node.run(&command).await;
        assert_eq!(reply, Value::ok(), "CLUSTER FAILOVER");
        self.wait_primary(replica).await;
    }

    /// Waits until every node that answers sees member `index` as an owner of slots.
    pub async fn wait_primary(&self, index: usize) {
        wait_for("the new primary to be known everywhere", Duration::from_secs(30), async || {
            for (by, member) in self.members.iter().enumerate() {
                if member.node.has_exited() {
                    continue;
                }
                match self.slot_owners_by(by).await {
                    Some(owners) if owners.contains(&Some(index)) => {}
                    _ => return false,
                }
            }
            true
        })
        .await;
    }

    /// Kills member `index`: its process is gone, its front refuses dials, its connections close.
    pub fn kill(&self, index: usize) {
        let member = &self.members[index];
        if let Some(front) = &member.front {
            front.faults().set_refused(true);
        }
        member.node.kill();
        if let Some(front) = &member.front {
            front.faults().close_all();
        }
    }

    /// Starts a killed member again, empty, on the same address.
    pub async fn restart(&self, index: usize) {
        let member = &self.members[index];
        member.node.restart();
        if let Some(front) = &member.front {
            front.faults().set_refused(false);
        }
        wait_for("the restarted node", Duration::from_secs(15), async || {
            // Somebody else may have had its port for a moment.
            if member.node.has_exited() {
                member.node.restart();
            }
            member.node.try_run(&["PING"]).await.is_ok()
        })
        .await;
    }

    /// Removes all keys of all primaries.
    pub async fn flush(&self) {
        for member in &self.members {
            // Replicas refuse; they follow their primaries.
            let _ = member.node.run(&["FLUSHALL"]).await;
        }
    }
}

/// Id and configuration epoch of a primary, from its line of CLUSTER NODES.
fn primary_epoch(line: &str) -> Option<(String, String)> {
    let fields: Vec<&str> = line.split(' ').collect();
    let flags = fields.get(2)?;
    let up = flags.contains("master") && !flags.contains("fail") && !flags.contains("noaddr");
    up.then(|| Some((fields[0].to_owned(), (*fields.get(6)?).to_owned())))?
}
