//! What a session hears without asking: messages it subscribed to, invalidations, MONITOR.
//!
//! Few sessions have any of it, so it stands behind one pointer; whatever reads commands asks first
//! whether that is there. Invariant: present only while something of it is in force.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::command::spec::{Handler, Local, Row, Subscription, Transaction, flag};
use crate::key::Key;
use crate::resp::Version;

use super::subscriptions::Subscriptions;
use super::tracking::Tracking;

/// A session that listens to MONITOR.
#[derive(Debug, Default)]
pub struct Monitor {
    /// Its connections: node and pipe.
    pub pipes: Vec<(u16, Key)>,
    /// MONITOR is not answered yet.
    pub starting: bool,
    /// When it was taken in (ms of the worker's clock).
    pub since: u64,
}

/// See the module header.
#[derive(Debug, Default)]
pub struct Streams {
    /// Pub/Sub.
    pub subscriptions: Subscriptions,
    /// CLIENT TRACKING.
    pub tracking: Option<Tracking>,
    /// MONITOR.
    pub monitor: Option<Monitor>,
}

impl Streams {
    /// True when nothing is in force any more.
    pub fn is_empty(&self) -> bool {
        self.subscriptions.is_empty() && self.tracking.is_none() && self.monitor.is_none()
    }

    /// Why a server would refuse this (well-formed) command to such a session.
    pub fn refuses(&self, row: &Row, version: Version) -> Option<String> {
        if self.subscriptions.total() > 0 && version == Version::V2 && !in_subscription(row.handler)
        {
            let why = format!(
                "Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed \
                 in this context",
                row.name
            );
            return Some(match row.handler {
                Handler::Transaction(Transaction::Exec) => {
                    format!("EXECABORT Transaction discarded because of: {why}")
                }
                _ => format!("ERR {why}"),
            });
        }
        let keyspace = flag::READONLY | flag::WRITE | flag::MAY_REPLICATE;
        let publishes = matches!(row.handler, Handler::Publish | Handler::Script);
        if self.monitor.is_some() && (row.flags & keyspace != 0 || publishes) {
            // A server treats those who MONITOR as a kind of replica.
            return Some("ERR Replica can't interact with the keyspace".to_owned());
        }
        None
    }
}

/// What a RESP2 session may say while it is subscribed.
fn in_subscription(handler: Handler) -> bool {
    match handler {
        Handler::Subscribe(
            Subscription::Subscribe
            | Subscription::Unsubscribe
            | Subscription::Psubscribe
            | Subscription::Punsubscribe
            | Subscription::Ssubscribe
            | Subscription::Sunsubscribe,
        ) => true,
        Handler::Local(what) => matches!(what, Local::Ping | Local::Quit | Local::Reset),
        _ => false,
    }
}
