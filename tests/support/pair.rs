//! The proxy on three shards beside one plain server of the same version: what differential suites
//! compare.
//!
//! Invariant: both sides get the same bytes; the plain server is the truth.

use super::bed::Bed;
use super::client::{Client, Proto};
use super::resp::{self, Value};
use super::standalone::Standalone;
use super::templates::{self, LIBRARY, LOADED_SHA};

/// Both sides of a comparison, emptied and prepared alike.
#[derive(Debug)]
pub struct Pair {
    /// Cluster and proxy.
    pub bed: Bed,
    /// The plain server.
    pub server: Standalone,
    /// A client of the proxy.
    pub ours: Client,
    /// A client of the plain server.
    pub theirs: Client,
}

impl Pair {
    /// A cluster of three shards with its proxy, and a server that needs no password.
    pub async fn start(proto: Proto) -> Self {
        let bed = Bed::start().await;
        let server = Standalone::start().await;
        server.open_to_all().await;
        let ours = bed.client(proto).await;
        let theirs = Client::connect_proto(server.addr(), proto).await;
        Self { bed, server, ours, theirs }
    }

    /// New clients, and nothing left of a run before.
    pub async fn reset(&mut self, proto: Proto) {
        self.ours = self.bed.client(proto).await;
        self.theirs = Client::connect_proto(self.server.addr(), proto).await;
        for client in [&mut self.ours, &mut self.theirs] {
            for command in [&["FLUSHALL"][..], &["SCRIPT", "FLUSH"], &["FUNCTION", "FLUSH"]] {
                assert_eq!(client.cmd(command).await, Value::ok(), "{command:?}");
            }
            assert_eq!(client.cmd(&["FUNCTION", "LOAD", LIBRARY]).await, Value::bulk("streams"));
            let sha = client.cmd(&["SCRIPT", "LOAD", templates::text("loaded")]).await;
            assert_eq!(sha, Value::bulk(LOADED_SHA));
        }
    }

    /// Sends the same bytes to both and reads so many replies of each.
    pub async fn both(&mut self, bytes: &[u8], replies: usize) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        tokio::join!(
            self.ours.pipeline_frames(bytes, replies),
            self.theirs.pipeline_frames(bytes, replies)
        )
    }

    /// Sends the same commands to both, at once or one by one, and insists on the same replies,
    /// which it returns.
    pub async fn agree(&mut self, commands: &[&[&str]], pipelined: bool) -> Vec<Value> {
        let mut values = Vec::new();
        let step = if pipelined { commands.len() } else { 1 };
        for chunk in commands.chunks(step) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|c| resp::encode(c)).collect();
            let (ours, theirs) = self.both(&bytes, chunk.len()).await;
            for ((command, a), b) in chunk.iter().zip(&ours).zip(&theirs) {
                assert_eq!(
                    String::from_utf8_lossy(a),
                    String::from_utf8_lossy(b),
                    "{command:?} of {commands:?} (pipelined: {pipelined}): proxy left, server right"
                );
            }
            let value = |raw: &Vec<u8>| resp::parse(raw).expect("well-formed").expect("whole").0;
            values.extend(theirs.iter().map(value));
        }
        values
    }
}
