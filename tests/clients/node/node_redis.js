// node-redis in its ordinary, non-cluster mode. NODE_REDIS names the package: version 5 or 4.
"use strict";

const assert = require("node:assert/strict");
const module_ = process.env.NODE_REDIS || "redis";
const { createClient, WatchError, commandOptions } = require(module_);
const { behindProxy, host, port, range, resp, run, strict, waitFor } = require("./common.js");

const old = module_ === "redis4";
const options = { socket: { host, port, reconnectStrategy: false }, ...(old ? {} : { RESP: resp }) };
const connect = async (more) => {
  const client = strict(createClient({ ...options, ...more }));
  await client.connect();
  return client;
};
let redis;

async function keys() {
  redis = await connect({ name: "node" });
  assert.equal(await redis.clientGetName(), "node");
  await redis.flushAll();
  await redis.mSet(range(100).map((n) => [`k:${n}`, String(n)]));
  assert.deepEqual(await redis.mGet(range(100).map((n) => `k:${n}`)), range(100).map(String));
  const found = new Set();
  for await (const some of redis.scanIterator({ MATCH: "k:*", COUNT: 30 })) {
    [some].flat().forEach((key) => found.add(key));
  }
  assert.equal(found.size, 100);
  assert.equal(await redis.del(range(100).map((n) => `k:${n}`)), 100);
  await redis.hSet("h", { a: "1", b: "2" });
  assert.deepEqual({ ...(await redis.hGetAll("h")) }, { a: "1", b: "2" });
  await redis.zAdd("z", [{ score: 1.5, value: "m" }]);
  assert.deepEqual(await redis.zRangeWithScores("z", 0, -1), [{ value: "m", score: 1.5 }]);
  // Not awaited one by one: written back to back.
  await Promise.all(range(1000).map((n) => redis.incr(`n:${n % 7}`)));
  assert.equal(await redis.get("n:0"), "143");
  assert.match(await redis.info("server"), /redis_mode:standalone/);
  await assert.rejects(redis.lPush("h", "x"), /WRONGTYPE/);
}

async function transactions() {
  assert.deepEqual(await redis.multi().set("{t}n", "1").incr("{t}n").exec(), ["OK", 2]);
  const other = await connect();
  const watched = async (client) => {
    await client.watch("{t}n");
    const value = Number(await client.get("{t}n"));
    await other.set("{t}n", "7");
    return client.multi().set("{t}n", String(value)).exec();
  };
  await assert.rejects(watched(redis), WatchError);
  assert.equal(await redis.get("{t}n"), "7");
  if (behindProxy) await assert.rejects(redis.multi().set("{t}n", "1").set("{u}n", "1").exec());
  await other.quit();
}

async function scripts() {
  assert.equal(await redis.eval("return redis.call('INCRBY', KEYS[1], ARGV[1])", { keys: ["{t}s"], arguments: ["5"] }), 5);
  const sha = await redis.scriptLoad("return {KEYS[1], ARGV[1]}");
  for (const key of ["{a}", "{b}", "{c}"]) {
    assert.deepEqual(await redis.evalSha(sha, { keys: [key], arguments: ["x"] }), [key, "x"]);
  }
}

async function blocking() {
  const blocked = await connect();
  const popped = blocked.blPop(["{q}1", "{q}2"], 20);
  await waitFor(async () => / flags=b /.test(await redis.sendCommand(["CLIENT", "LIST"])), "a blocked client");
  await redis.rPush("{q}2", "job");
  assert.deepEqual({ ...(await popped) }, { key: "{q}2", element: "job" });
  const isolated = old ? redis.blPop(commandOptions({ isolated: true }), "{q}1", 20) : blocked.blPop("{q}1", 20);
  await redis.rPush("{q}1", "x");
  assert.equal((await isolated).element, "x");
  await redis.xGroupCreate("x", "g", "$", { MKSTREAM: true });
  const reading = blocked.xReadGroup("g", "me", { key: "x", id: ">" }, { BLOCK: 20000 });
  const id = await redis.xAdd("x", "*", { f: "v" });
  // Its shape depends on the version of the library and of the protocol.
  assert.ok(JSON.stringify(await reading).includes(id));
  assert.equal(await redis.xAck("x", "g", id), 1);
  await blocked.disconnect();
}

async function subscriptions() {
  const subscriber = await connect();
  const got = [];
  await subscriber.subscribe("news", (text) => got.push(text));
  await subscriber.pSubscribe("n*", (text, channel) => got.push(`${channel} ${text}`));
  assert.equal(await redis.publish("news", "hello"), 2);
  await waitFor(() => got.length === 2, "both messages");
  assert.deepEqual(new Set(got), new Set(["hello", "news hello"]));
  await subscriber.pUnsubscribe("n*");
  got.length = 0;
  await Promise.all(range(500).map((n) => redis.publish("news", String(n))));
  await waitFor(() => got.length === 500, "five hundred messages");
  assert.deepEqual(got, range(500).map(String));
  const sharded = [];
  for (const channel of ["{a}shard", "{b}shard"]) {
    await subscriber.sSubscribe(channel, (text) => sharded.push(text));
    assert.equal(await redis.sPublish(channel, channel), 1);
  }
  await waitFor(() => sharded.length === 2, "sharded messages");
  await subscriber.unsubscribe();
  await subscriber.sUnsubscribe();
  assert.equal(await redis.publish("news", "nobody"), 0);
  await subscriber.disconnect();
}

// Only with RESP3; the library tracks keys with CLIENT TRACKING.
async function clientSideCaching() {
  if (resp !== 3) return;
  const { BasicClientSideCache } = require("redis");
  const cache = new BasicClientSideCache({ ttl: 0, maxEntries: 0 });
  const cached = await connect({ clientSideCache: cache });
  for (const n of range(12)) {
    await redis.set(`cached:${n}`, "old");
    assert.equal(await cached.get(`cached:${n}`), "old");
    assert.equal(await cached.get(`cached:${n}`), "old");
  }
  assert.equal(cache.stats().hitCount, 12);
  for (const n of range(12)) await redis.set(`cached:${n}`, "new");
  for (const n of range(12)) {
    await waitFor(async () => (await cached.get(`cached:${n}`)) === "new", `the invalidation of cached:${n}`);
  }
  await cached.disconnect();
}

run(keys, transactions, scripts, blocking, subscriptions, clientSideCaching);
