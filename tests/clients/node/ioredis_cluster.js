// ioredis' cluster client on the proxy's port: it sees one node that owns every slot.
"use strict";

const assert = require("node:assert/strict");
const Redis = require("ioredis");
const { host, port, next, range, run, strict, waitFor } = require("./common.js");

const connect = (options) => strict(new Redis.Cluster([{ host, port }], options));
const cluster = connect();

async function theNodes() {
  await cluster.flushall();
  const nodes = cluster.nodes("all").map((node) => `${node.options.host}:${node.options.port}`);
  console.log("nodes", nodes);
  assert.deepEqual(nodes, [`${host}:${port}`]);
  assert.deepEqual(new Set(cluster.slots.flat()), new Set([`${host}:${port}`]));
  assert.equal(cluster.slots.length, 16384);
  console.log("CLUSTER SLOTS", JSON.stringify(await cluster.cluster("SLOTS")));
}

async function keys() {
  await Promise.all(range(200).map((n) => cluster.set(`k:${n}`, n)));
  assert.deepEqual(await Promise.all(range(200).map((n) => cluster.get(`k:${n}`))), range(200).map(String));
  const pipeline = cluster.pipeline();
  range(100).forEach((n) => pipeline.set(`{t}:${n}`, n).get(`{t}:${n}`));
  assert.equal((await pipeline.exec()).filter(([error]) => error === null).length, 200);
  assert.deepEqual(await cluster.multi().set("{t}a", 1).incr("{t}a").exec(), [[null, "OK"], [null, 2]]);
  const found = new Set();
  for (const node of cluster.nodes("master")) {
    for await (const some of node.scanStream({ match: "k:*" })) some.forEach((key) => found.add(key));
  }
  assert.equal(found.size, 200);
  cluster.defineCommand("addTo", { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" });
  assert.deepEqual(await Promise.all(["{a}s", "{b}s", "{c}s"].map((key) => cluster.addTo(key, 3))), [3, 3, 3]);
}

async function autoPipelining() {
  const auto = connect({ enableAutoPipelining: true });
  assert.deepEqual(await Promise.all(range(200).map((n) => auto.get(`k:${n}`))), range(200).map(String));
  auto.disconnect();
}

async function subscriptions() {
  const subscriber = connect();
  await subscriber.subscribe("news");
  const message = next(subscriber, "message");
  assert.equal(await cluster.publish("news", "hello"), 1);
  assert.deepEqual(await message, ["news", "hello"]);
  subscriber.disconnect();
  const sharded = connect({ shardedSubscribers: true });
  for (const channel of ["{a}shard", "{b}shard", "{c}shard"]) {
    await sharded.ssubscribe(channel);
    const smessage = next(sharded, "smessage");
    assert.equal(await cluster.spublish(channel, "s"), 1);
    assert.deepEqual((await smessage).slice(0, 2), [channel, "s"]);
  }
  sharded.disconnect();
}

async function blocking() {
  const blocked = connect();
  const popped = blocked.blpop("{q}1", 20);
  await waitFor(async () => / flags=b /.test(await cluster.nodes()[0].client("LIST")), "a blocked client");
  await cluster.rpush("{q}1", "job");
  assert.deepEqual(await popped, ["{q}1", "job"]);
  blocked.disconnect();
}

run(theNodes, keys, autoPipelining, subscriptions, blocking);
