// node-redis' cluster client on the proxy's port: it sees one node that owns every slot.
"use strict";

const assert = require("node:assert/strict");
const { createCluster } = require("redis");
const { host, port, range, resp, run, strict, waitFor } = require("./common.js");

let cluster;

async function theNodes() {
  cluster = strict(createCluster({ rootNodes: [{ socket: { host, port } }], RESP: resp }));
  await cluster.connect();
  const nodes = cluster.masters.map((node) => node.address);
  console.log("nodes", nodes, cluster.replicas.length);
  assert.deepEqual(nodes, [`${host}:${port}`]);
  assert.equal(cluster.replicas.length, 0);
  assert.equal(cluster.slots.length, 16384);
  for (const master of cluster.masters) await (await cluster.nodeClient(master)).flushAll();
}

async function keys() {
  await Promise.all(range(200).map((n) => cluster.set(`k:${n}`, String(n))));
  assert.deepEqual(await Promise.all(range(200).map((n) => cluster.get(`k:${n}`))), range(200).map(String));
  assert.deepEqual(await cluster.multi().set("{t}a", "1").incr("{t}a").exec(), ["OK", 2]);
  assert.deepEqual(await cluster.mGet(["{t}a", "{t}b"]), ["2", null]);
  assert.equal(await cluster.eval("return redis.call('INCR', KEYS[1])", { keys: ["{t}a"] }), 3);
}

async function subscriptions() {
  const got = [];
  await cluster.subscribe("news", (text) => got.push(text));
  await cluster.publish("news", "hello");
  await waitFor(() => got.length === 1, "a message");
  for (const channel of ["{a}shard", "{b}shard", "{c}shard"]) {
    await cluster.sSubscribe(channel, (text) => got.push(text));
    await cluster.sPublish(channel, channel);
  }
  await waitFor(() => got.length === 4, "messages of sharded channels");
  await cluster.unsubscribe("news");
  await cluster.sUnsubscribe("{a}shard");
}

run(theNodes, keys, subscriptions);
