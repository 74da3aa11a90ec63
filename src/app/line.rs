//! A worker's line to the control thread.
//!
//! Invariant: no call waits. It decides nothing: who is called decides what comes of it.

use std::sync::Arc;

use crate::activity::Activity;
use crate::cluster::refresh::Reason;
use crate::cluster::topology::NodeAddr;
use crate::cluster::watcher::WatcherHandle;
use crate::credentials::task::CredentialHandle;
use crate::telemetry::control::Resting;
use crate::telemetry::metrics::WorkerMetrics;
use crate::worker::hub::Counters;
use crate::worker::io::Control;

/// A worker's line to the control thread.
#[derive(Debug)]
pub(super) struct Line {
    /// Whom to tell of refused credentials.
    pub credentials: CredentialHandle,
    /// Whom to ask for a slot map.
    pub watcher: WatcherHandle,
    /// The worker's counters.
    pub metrics: Arc<WorkerMetrics>,
    /// Where to note the nodes that are left alone.
    pub resting: Arc<Resting>,
    /// Whom to tell that clients want something (`--lazy-refresh`).
    pub activities: Vec<Arc<Activity>>,
}

impl Control for Line {
    fn refresh(&self, reason: Reason) {
        self.watcher.request_refresh(reason);
    }

    fn credential_rejected(&self, generation: u64) {
        self.credentials.force_refresh(generation);
    }

    fn credential_wanted(&self) {
        self.credentials.wanted();
    }

    fn resting(&self, nodes: Vec<NodeAddr>) {
        self.resting.set(nodes);
    }

    fn observe(&self, turn_us: Option<u64>, upstream_us: &[u64]) {
        let latencies = &self.metrics.latencies;
        if let Some(us) = turn_us {
            latencies.turn.observe(us);
        }
        upstream_us.iter().for_each(|&us| latencies.upstream.observe(us));
    }

    fn publish(&self, c: &Counters, sessions: usize, buffered: usize) {
        let m = &*self.metrics;
        if !self.activities.is_empty() && m.commands.get() != c.commands {
            self.activities.iter().for_each(|activity| activity.note());
        }
        m.client_connections.set(sessions as u64);
        m.buffered_bytes.set(buffered as u64);
        m.client_connections_total.set(c.clients);
        m.commands.set(c.commands);
        m.replies.set(c.replies);
        m.client_bytes_in.set(c.client_bytes_in);
        m.client_bytes_out.set(c.client_bytes_out);
        m.client_writes.set(c.client_writes);
        m.upstream_bytes_in.set(c.upstream_bytes_in);
        m.upstream_bytes_out.set(c.upstream_bytes_out);
        m.upstream_writes.set(c.upstream_writes);
        m.error_replies_deadline.set(c.fail_deadline);
        m.error_replies_maybe_executed.set(c.fail_maybe_executed);
        m.error_replies_redirects.set(c.fail_redirects);
        m.error_replies_protocol.set(c.protocol_errors);
        m.closed_output.set(c.closed_output);
        m.closed_request.set(c.closed_request);
        m.closed_buffer_total.set(c.closed_buffer_total);
        m.closed_idle.set(c.closed_idle);
        m.error_replies_other.set(
            c.error_replies
                .saturating_sub(c.fail_deadline + c.fail_maybe_executed + c.fail_redirects),
        );
        m.dials_ok.set(c.dials_ok);
        m.dials_failed.set(c.dials_failed);
        m.auth_ok.set(c.auth_ok);
        m.auth_wrongpass.set(c.auth_wrongpass);
        m.auth_exhausted.set(c.auth_exhausted);
        m.auth_other.set(c.auth_other);
        m.auth_noauth.set(c.noauth);
        m.redirects_moved.set(c.moved);
        m.redirects_ask.set(c.ask);
        m.retries_tryagain.set(c.retries_tryagain);
        m.retries_clusterdown.set(c.retries_clusterdown);
        m.retries_loading.set(c.retries_loading);
        m.retries_role.set(c.retries_role);
        m.retries_noauth.set(c.retries_noauth);
        m.retries_lost.set(c.retries_lost);
        m.retries_noroute.set(c.retries_noroute);
        m.retries_noscript.set(c.retries_noscript);
        m.renewals.set(c.reauths);
        m.retirements.set(c.retirements);
        m.nodes_in_backoff.set(c.nodes_in_backoff);
        m.messages.set(c.messages);
        m.subscriptions.set(c.subscriptions);
        m.refused_command.set(c.refused_command);
        m.refused_key.set(c.refused_key);
        m.refused_channel.set(c.refused_channel);
        m.refused_deny_list.set(c.refused_deny_list);
        m.refused_noauth.set(c.refused_noauth);
        m.refused_wrongpass.set(c.refused_wrongpass);
        m.retries_replica.set(c.retries_replica);
        m.replica_reads.set(c.reads_replica);
        m.replica_reads_fallback.set(c.reads_fallback);
        m.upstream_connecting.set(c.pipes_connecting);
        m.upstream_ready.set(c.pipes_ready.saturating_sub(c.pipes_retiring));
        m.upstream_draining.set(c.pipes_retiring);
    }
}
