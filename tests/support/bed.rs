//! Metadata server, cluster and proxy together: what most suites start from.

use std::time::Duration;

use super::client::{Client, Proto};
use super::cluster::{Cluster, ClusterOptions};
use super::metadata::FakeMetadata;
use super::proxy::{Proxy, ProxyOptions};

/// How the bed is made.
#[derive(Debug, Clone, Default)]
pub struct BedOptions {
    /// The cluster.
    pub cluster: ClusterOptions,
    /// Lifetime of the tokens; an hour when `None`.
    pub token_lifetime: Option<Duration>,
    /// `--op-timeout`.
    pub op_timeout: Option<Duration>,
    /// More flags for the proxy.
    pub args: Vec<String>,
}

/// A cluster with a ready proxy in front.
#[derive(Debug)]
pub struct Bed {
    // Fields drop in this order: the proxy first, so that it does not log the loss of all else.
    /// The proxy under test.
    pub proxy: Proxy,
    /// The cluster behind it.
    pub cluster: Cluster,
    /// Where its tokens come from.
    pub metadata: FakeMetadata,
}

impl Bed {
    /// Three shards without replicas, tokens for an hour.
    pub async fn start() -> Self {
        Self::with(BedOptions::default()).await
    }

    /// As told.
    pub async fn with(options: BedOptions) -> Self {
        let lifetime = options.token_lifetime.unwrap_or(Duration::from_secs(3600));
        let metadata = FakeMetadata::start(lifetime).await;
        let cluster = Cluster::start(options.cluster, metadata.tokens()).await;
        let mut proxy =
            ProxyOptions::new(cluster.seed()).metadata(metadata.host()).args(options.args);
        proxy.op_timeout = options.op_timeout;
        let proxy = Proxy::start(proxy).await;
        Self { proxy, cluster, metadata }
    }

    /// A client of the proxy.
    pub async fn client(&self, proto: Proto) -> Client {
        self.proxy.client(proto).await
    }
}

/// Makes two tests, `NAME::resp2` and `NAME::resp3`, of each `async fn NAME(proto: Proto)`.
#[macro_export]
macro_rules! both_protocols {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            #[tokio::test]
            async fn resp2() {
                super::$name($crate::support::client::Proto::Resp2).await;
            }
            #[tokio::test]
            async fn resp3() {
                super::$name($crate::support::client::Proto::Resp3).await;
            }
        }
    )+};
}
