//! The `nodes.conf` a node starts from: the whole cluster, as if it had been formed long ago.

use std::fmt::Write as _;

use super::front::BoundFront;
use super::slots::shard_range;

/// What is decided about a member before it starts.
pub(super) struct Plan {
    /// Cluster node id.
    pub id: String,
    /// Port of the node itself.
    pub port: u16,
    /// Port of the cluster bus.
    pub bus: u16,
    /// The front it announces, if any.
    pub front: Option<BoundFront>,
    /// Index of its shard.
    pub shard: usize,
    /// Index of its primary; `None` for a primary.
    pub primary: Option<usize>,
}

/// The file for member `me`.
pub(super) fn nodes_conf(plans: &[Plan], me: usize, shards: usize) -> String {
    let mut text = String::new();
    for (index, plan) in plans.iter().enumerate() {
        let port = plan.front.as_ref().map_or(plan.port, BoundFront::port);
        let role = if plan.primary.is_some() { "slave" } else { "master" };
        let myself = if index == me { "myself," } else { "" };
        let primary = plan.primary.map_or("-", |p| &plans[p].id);
        let epoch = plan.shard + 1;
        write!(
            text,
            "{} 127.0.0.1:{port}@{} {myself}{role} {primary} 0 0 {epoch} connected",
            plan.id, plan.bus
        )
        .expect("writing to a String");
        if plan.primary.is_none() {
            let range = shard_range(plan.shard, shards);
            write!(text, " {}-{}", range.start(), range.end()).expect("writing to a String");
        }
        text.push('\n');
    }
    text.push_str(&format!("vars currentEpoch {shards} lastVoteEpoch 0\n"));
    text
}
