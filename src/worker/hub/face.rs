//! The cluster as cluster-aware clients see it: one node that owns every slot, at the address the
//! client connected to.
//!
//! Invariant: no address, name or id of a node behind the proxy is ever part of a reply. Questions
//! about the keys of a slot are asked of the slot's owner.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::cluster::topology::SLOTS;
use crate::command::slot::slot;
use crate::command::spec::{ClusterFace, Row};
use crate::key::Key;
use crate::resp::Version;
use crate::resp::encode;
use crate::resp::request::Request;
use crate::session::local;

use super::Hub;

/// The face's node id: any 40 hexadecimal digits; the same in every proxy, so that a client that
/// reconnects to another one finds what it knew.
const NODE_ID: &str = "6d656d6f727973746f7265617574687072787931";

/// Its shard id.
const SHARD_ID: &str = "6d656d6f727973746f7265617574687368617264";

impl Hub {
    /// A CLUSTER subcommand.
    pub(super) fn cluster_face(
        &mut self,
        key: Key,
        row: &'static Row,
        what: ClusterFace,
        request: &Request<'_>,
    ) {
        if !local::arity_fits(row, request.len()) {
            return self.refuse(key, &local::wrong_arity(row.name));
        }
        let asked_slot = || {
            local::parse_int(request.arg(2))
                .and_then(|n| u16::try_from(n).ok())
                .filter(|&n| usize::from(n) < SLOTS)
        };
        match what {
            ClusterFace::Help => {
                return self.dispatch(key, Some(row), crate::session::window::NO_SLOT, request, 1);
            }
            ClusterFace::Countkeysinslot | ClusterFace::Getkeysinslot => {
                return match asked_slot() {
                    Some(slot) => self.dispatch(key, Some(row), slot, request, 1),
                    None => self.refuse(key, "ERR Invalid slot"),
                };
            }
            _ => {}
        }
        let Some(s) = self.sessions.get_mut(key) else {
            return;
        };
        let (host, port) = (s.profile.local_host.clone(), s.profile.local_port);
        let version = s.version;
        let mut out = Vec::new();
        match what {
            ClusterFace::Info => {
                let text = info();
                bulk_text(&mut out, version, &text);
            }
            ClusterFace::Nodes => {
                let text = format!(
                    "{NODE_ID} {host}:{port}@{} myself,master - 0 0 1 connected 0-16383\n",
                    bus_port(port)
                );
                bulk_text(&mut out, version, &text);
            }
            ClusterFace::Slots => {
                encode::header(&mut out, b'*', 1);
                encode::header(&mut out, b'*', 3);
                encode::integer(&mut out, 0);
                encode::integer(&mut out, SLOTS as i64 - 1);
                encode::header(&mut out, b'*', 4);
                encode::bulk(&mut out, host.as_bytes());
                encode::integer(&mut out, i64::from(port));
                encode::bulk(&mut out, NODE_ID.as_bytes());
                encode::header(&mut out, b'*', 0);
            }
            ClusterFace::Shards => shards(&mut out, version, &host, port),
            ClusterFace::Myid => encode::bulk(&mut out, NODE_ID.as_bytes()),
            ClusterFace::Myshardid => encode::bulk(&mut out, SHARD_ID.as_bytes()),
            ClusterFace::Keyslot => encode::integer(&mut out, i64::from(slot(request.arg(2)))),
            ClusterFace::Links => encode::header(&mut out, b'*', 0),
            ClusterFace::Replicas | ClusterFace::CountFailureReports
                if request.arg(2) != NODE_ID.as_bytes() =>
            {
                let shown = String::from_utf8_lossy(request.arg(2)).into_owned();
                encode::error(&mut out, &format!("ERR Unknown node {shown}"));
            }
            ClusterFace::Replicas => encode::header(&mut out, b'*', 0),
            ClusterFace::CountFailureReports => encode::integer(&mut out, 0),
            ClusterFace::Help | ClusterFace::Countkeysinslot | ClusterFace::Getkeysinslot => {}
        }
        s.answer(&out);
        self.mark_session(key);
    }
}

/// The bus port Redis would use; clients read past it.
fn bus_port(port: u16) -> u32 {
    u32::from(port) + 10000
}

fn bulk_text(out: &mut Vec<u8>, version: Version, text: &str) {
    crate::command::merge::info_reply(text, version == Version::V3, out);
}

fn info() -> String {
    "cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_slots_ok:16384\r\n\
     cluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:1\r\ncluster_size:1\r\n\
     cluster_current_epoch:1\r\ncluster_my_epoch:1\r\ncluster_stats_messages_sent:0\r\n\
     cluster_stats_messages_received:0\r\ntotal_cluster_links_buffer_limit_exceeded:0\r\n"
        .to_owned()
}

fn shards(out: &mut Vec<u8>, version: Version, host: &str, port: u16) {
    encode::header(out, b'*', 1);
    encode::map_header(out, version, 2);
    encode::bulk(out, b"slots");
    encode::header(out, b'*', 2);
    encode::integer(out, 0);
    encode::integer(out, SLOTS as i64 - 1);
    encode::bulk(out, b"nodes");
    encode::header(out, b'*', 1);
    encode::map_header(out, version, 7);
    // In the server's order.
    encode::bulk(out, b"id");
    encode::bulk(out, NODE_ID.as_bytes());
    encode::bulk(out, b"port");
    encode::integer(out, i64::from(port));
    for (name, value) in [("ip", host), ("endpoint", host), ("role", "master")] {
        encode::bulk(out, name.as_bytes());
        encode::bulk(out, value.as_bytes());
    }
    encode::bulk(out, b"replication-offset");
    encode::integer(out, 0);
    encode::bulk(out, b"health");
    encode::bulk(out, b"online");
}
