//! The network does what a plan asks of it: before one front, seen from a client of that.

use std::time::Duration;

use crate::plan::SHARDS;
use crate::support::client::Client;
use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::metadata::FakeMetadata;
use crate::support::network::{Close, Share, Way, Weather};
use crate::support::resp::Value;
use crate::support::slots::keys_on_shard;
use crate::support::wait::wait_for;

const ALL: Share = Share { percent: 100, salt: 0 };
const NONE: Share = Share { percent: 0, salt: 0 };
const QUIET: Duration = Duration::from_millis(150);
const SOON: Duration = Duration::from_secs(10);

struct Bench {
    cluster: Cluster,
    metadata: FakeMetadata,
    key: String,
}

impl Bench {
    async fn start() -> Self {
        let metadata = FakeMetadata::start(Duration::from_secs(600)).await;
        let cluster = Cluster::start(ClusterOptions::default(), metadata.tokens()).await;
        cluster.member(0).front().network().arm();
        Self { cluster, metadata, key: keys_on_shard(0, SHARDS, 1).remove(0) }
    }

    async fn client(&self) -> Client {
        let mut client = Client::connect(self.cluster.member(0).addr()).await;
        let token = self.metadata.tokens().mint(Duration::from_secs(600));
        assert_eq!(client.cmd(&["AUTH", &token]).await, Value::ok());
        client
    }

    fn weather(&self, weather: Option<Weather>, share: Share) {
        let network = self.cluster.member(0).front().network();
        network.set_weather(weather.map(|weather| (weather, share)));
    }

    fn close(&self, close: Close) {
        self.cluster.member(0).front().network().close(close, ALL);
    }

    async fn stored(&self) -> i64 {
        let value = self.cluster.member(0).node.run(&["GET", &self.key]).await;
        if value == Value::Null { 0 } else { value.text().parse().unwrap() }
    }

    async fn wait_stored(&self, number: i64) {
        wait_for("the node to have it", SOON, async || self.stored().await == number).await;
    }
}

#[tokio::test]
async fn weather_and_closes_are_what_they_say() {
    let bench = Bench::start().await;
    let incr = ["INCR", &bench.key];
    let mut client = bench.client().await;
    assert_eq!(client.cmd(&incr).await, Value::Int(1));

    // Stalled on the way back: it has run, and is answered later. A share of none is not struck.
    bench.weather(Some(Weather::Stall(None)), NONE);
    assert_eq!(client.cmd(&incr).await, Value::Int(2));
    bench.weather(Some(Weather::Stall(Some(Way::ToProxy))), ALL);
    client.send(&incr).await;
    bench.wait_stored(3).await;
    client.expect_silence(QUIET).await;
    bench.weather(None, ALL);
    assert_eq!(client.read().await, Value::Int(3));

    // Stalled on the way there: it has not.
    bench.weather(Some(Weather::Stall(Some(Way::ToNode))), ALL);
    client.send(&incr).await;
    client.expect_silence(QUIET).await;
    assert_eq!(bench.stored().await, 3);
    bench.weather(Some(Weather::Slow(1)), ALL);
    assert_eq!(client.read().await, Value::Int(4));

    // Lost: never answered, and forgotten when the weather is over. Who said nothing meanwhile lives.
    let mut other = bench.client().await;
    bench.weather(Some(Weather::Lost), ALL);
    client.send(&incr).await;
    client.expect_silence(QUIET).await;
    bench.weather(None, ALL);
    client.expect_close().await;
    assert_eq!(other.cmd(&incr).await, Value::Int(5));

    // Half closed: the client sees the end, what it says still runs.
    bench.close(Close::Half);
    other.expect_close().await;
    other.send(&incr).await;
    bench.wait_stored(6).await;
    drop(other);

    for close in [Close::Reset, Close::Finish, Close::Late(Duration::from_millis(200))] {
        let mut client = bench.client().await;
        bench.close(close);
        client.expect_close().await;
    }
    assert_eq!(bench.client().await.cmd(&incr).await, Value::Int(7));
}
