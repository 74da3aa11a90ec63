//! Moving one slot from a primary to another with the real steps, so that a test can stop between
//! any two of them.
//!
//! Between [`Cluster::begin_migration`] and [`Migration::finish`] the source answers ASK for keys
//! that are gone and TRYAGAIN for commands whose keys are partly gone.

use super::client::Client;
use super::cluster::Cluster;
use super::resp::Value;

/// A migration under way.
#[derive(Debug)]
pub struct Migration<'a> {
    cluster: &'a Cluster,
    slot: u16,
    from: usize,
    to: usize,
    source: Client,
}

impl Cluster {
    /// `SETSLOT IMPORTING` on the target, `SETSLOT MIGRATING` on the source.
    pub async fn begin_migration(&self, slot: u16, to: usize) -> Migration<'_> {
        let from = self.owner_of(slot).await;
        assert_ne!(from, to, "slot {slot} is on member {to} already");
        let number = slot.to_string();
        let (source_id, target_id) = (&self.member(from).id, &self.member(to).id);
        let mut target = self.admin(to).await;
        let mut source = self.admin(from).await;
        ok(target.cmd(&["CLUSTER", "SETSLOT", &number, "IMPORTING", source_id]).await);
        ok(source.cmd(&["CLUSTER", "SETSLOT", &number, "MIGRATING", target_id]).await);
        Migration { cluster: self, slot, from, to, source }
    }

    /// Moves `slot` with all its keys to member `to`.
    pub async fn migrate_slot(&self, slot: u16, to: usize) {
        let mut migration = self.begin_migration(slot, to).await;
        while migration.move_keys(10).await > 0 {}
        migration.finish().await;
    }
}

impl Migration<'_> {
    /// Member that gives the slot away.
    pub fn from(&self) -> usize {
        self.from
    }

    /// Moves at most `limit` keys and says how many it moved.
    pub async fn move_keys(&mut self, limit: usize) -> usize {
        let listed = self
            .source
            .cmd(&["CLUSTER", "GETKEYSINSLOT", &self.slot.to_string(), &limit.to_string()])
            .await;
        let keys: Vec<_> = listed.items().iter().map(key_bytes).collect();
        self.move_named(&keys).await;
        keys.len()
    }

    /// Moves exactly these keys.
    pub async fn move_named<K: AsRef<[u8]>>(&mut self, keys: &[K]) {
        if keys.is_empty() {
            return;
        }
        let target = &self.cluster.member(self.to).node;
        let port = target.addr().port().to_string();
        let mut command =
            cmd!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "AUTH", target.password(), "KEYS"];
        command.extend(keys.iter().map(|k| k.as_ref().to_vec()));
        let reply = self.source.cmd(&command).await;
        // NOKEY: a client deleted them, or they expired, since they were listed.
        assert!(
            reply == Value::ok() || reply == Value::Simple("NOKEY".into()),
            "MIGRATE answered {reply:?}"
        );
    }

    /// `SETSLOT NODE` on the target, on the source, then on the other primaries.
    pub async fn finish(self) {
        let number = self.slot.to_string();
        let target_id = self.cluster.member(self.to).id.clone();
        let order = [self.to, self.from]
            .into_iter()
            .chain((0..self.cluster.members().len()).filter(|&i| i != self.to && i != self.from));
        for index in order {
            let reply = self
                .cluster
                .member(index)
                .node
                .run(&["CLUSTER", "SETSLOT", &number, "NODE", &target_id])
                .await;
            // Redis says "Please use", newer servers "You can use".
            let replica =
                matches!(&reply, Value::Error(e) if e.contains("use SETSLOT only with masters"));
            assert!(
                reply == Value::ok() || replica,
                "SETSLOT NODE on member {index} answered {reply:?}"
            );
        }
        self.cluster.wait_owner(self.slot, self.to).await;
    }

    /// Gives up: the slot stays where it is. Keys moved already are moved back.
    pub async fn abandon(mut self) {
        let number = self.slot.to_string();
        let mut target = self.cluster.admin(self.to).await;
        let source = &self.cluster.member(self.from).node;
        let port = source.addr().port().to_string();
        ok(self.source.cmd(&["CLUSTER", "SETSLOT", &number, "STABLE"]).await);
        let listed = target.cmd(&["CLUSTER", "GETKEYSINSLOT", &number, "1000000"]).await;
        if !listed.items().is_empty() {
            let mut command = cmd![
                "MIGRATE",
                "127.0.0.1",
                &port,
                "",
                "0",
                "5000",
                "AUTH",
                source.password(),
                "KEYS"
            ];
            command.extend(listed.items().iter().map(key_bytes));
            ok(target.cmd(&command).await);
        }
        ok(target.cmd(&["CLUSTER", "SETSLOT", &number, "STABLE"]).await);
    }
}

impl Cluster {
    /// Waits until all members that answer name the same owner, and know each other's epochs: a node
    /// that gives itself a new epoch without knowing that of its source is outvoted by the source's
    /// next heartbeat, and then nobody owns the slot.
    async fn wait_owner(&self, slot: u16, owner: usize) {
        super::wait::wait_for(
            "the slot's new owner to be known",
            std::time::Duration::from_secs(15),
            async || self.owner_of(slot).await == owner && self.agrees_on_epochs().await,
        )
        .await;
    }
}

fn key_bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::Bulk(bytes) => bytes.clone(),
        other => panic!("expected a key, got {other:?}"),
    }
}

#[track_caller]
fn ok(reply: Value) {
    assert_eq!(reply, Value::ok());
}
