// ioredis in its ordinary, non-cluster mode: what programs built on one server use of it.
"use strict";

const assert = require("node:assert/strict");
const Redis = require("ioredis");
const { host, port, behindProxy, next, range, run, strict, waitFor } = require("./common.js");

// Any trouble shall surface instead of being retried away.
const connect = (options) =>
  strict(new Redis({ host, port, maxRetriesPerRequest: 0, retryStrategy: null, ...options }));
const redis = connect();

async function keys() {
  await redis.flushall();
  const names = range(100).map((n) => `k:${n}`);
  assert.equal(await redis.mset(Object.fromEntries(names.map((name, n) => [name, n]))), "OK");
  assert.deepEqual(await redis.mget(names), range(100).map(String));
  assert.equal(await redis.dbsize(), 100);
  const found = new Set();
  for await (const some of redis.scanStream({ match: "k:*", count: 30 })) some.forEach((key) => found.add(key));
  assert.deepEqual(found, new Set(names));
  assert.equal(await redis.del(names), 100);
  assert.equal(await redis.exists(...names), 0);
  const prefixed = connect({ keyPrefix: "app:" });
  await prefixed.set("x", 1);
  assert.equal(await redis.get("app:x"), "1");
  prefixed.disconnect();
}

async function transactions() {
  const replies = await redis.multi().set("{t}n", 1).incr("{t}n").lpush("{t}n", "x").exec();
  assert.deepEqual(replies.slice(0, 2), [[null, "OK"], [null, 2]]);
  assert.match(replies[2][0].message, /WRONGTYPE/);
  // Not as one pipeline: MULTI is sent on its own.
  await redis.multi({ pipeline: false });
  assert.equal(await redis.set("{t}n", 5), "QUEUED");
  assert.deepEqual(await redis.exec(), [[null, "OK"]]);
  const other = connect();
  await redis.watch("{t}n");
  await other.set("{t}n", 6);
  assert.equal(await redis.multi().get("{t}n").exec(), null);
  assert.deepEqual(await redis.multi().get("{t}n").exec(), [[null, "6"]]);
  await assert.rejects(redis.multi().set("a").exec(), /EXECABORT/);
  if (behindProxy) await assert.rejects(redis.multi().set("{t}n", 1).set("{u}n", 1).exec(), /EXECABORT|CROSSSLOT/);
  other.disconnect();
}

async function scripts() {
  await redis.script("FLUSH");
  redis.defineCommand("addTo", { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" });
  for (const key of ["{t}s", "{u}s", "{v}s"]) {
    assert.equal(await redis.addTo(key, 2), 2);
    assert.equal(await redis.addTo(key, 2), 4);
  }
  const pipeline = redis.pipeline();
  for (const key of ["{t}s", "{u}s", "{v}s"]) pipeline.addTo(key, 1);
  assert.deepEqual(await pipeline.exec(), [[null, 5], [null, 5], [null, 5]]);
  assert.deepEqual(await redis.multi().addTo("{t}s", 1).exec(), [[null, 6]]);
}

async function blocking() {
  const blocked = connect();
  const popped = blocked.blpop("{q}1", "{q}2", 20);
  await waitFor(async () => / flags=b /.test(await redis.client("LIST")), "a blocked client");
  await redis.rpush("{q}2", "job");
  assert.deepEqual(await popped, ["{q}2", "job"]);
  assert.equal(await blocked.blpop("{q}1", 0.05), null);
  const moved = blocked.blmove("{q}1", "{q}2", "LEFT", "RIGHT", 20);
  const after = blocked.set("{q}after", 1);
  await redis.rpush("{q}1", "x");
  assert.deepEqual(await Promise.all([moved, after]), ["x", "OK"]);
  blocked.disconnect();
}

async function streams() {
  await redis.xgroup("CREATE", "x", "g", "$", "MKSTREAM");
  const reader = connect();
  const reading = reader.xreadgroup("GROUP", "g", "me", "COUNT", 9, "BLOCK", 20000, "STREAMS", "x", ">");
  const id = await redis.xadd("x", "*", "f", "v");
  assert.deepEqual(await reading, [["x", [[id, ["f", "v"]]]]]);
  assert.equal(await redis.xack("x", "g", id), 1);
  reader.disconnect();
}

async function subscriptions() {
  const subscriber = connect();
  assert.equal(await subscriber.subscribe("news", "other"), 2);
  assert.equal(await subscriber.psubscribe("n*"), 3);
  const message = next(subscriber, "message");
  const pmessage = next(subscriber, "pmessage");
  assert.equal(await redis.publish("news", "hello"), 2);
  assert.deepEqual(await message, ["news", "hello"]);
  assert.deepEqual(await pmessage, ["n*", "news", "hello"]);
  await assert.rejects(subscriber.get("x"), /subscriber mode/);
  assert.deepEqual(await subscriber.ping(), ["pong", ""]);
  const got = [];
  subscriber.on("message", (_, text) => got.push(text));
  await Promise.all(range(500).map((n) => redis.publish("other", n)));
  await waitFor(() => got.length === 500, "five hundred messages");
  assert.deepEqual(got, range(500).map(String));
  assert.equal(await subscriber.unsubscribe("news", "other"), 1);
  assert.equal(await subscriber.punsubscribe("n*"), 0);
  // An ordinary client again.
  assert.equal(await subscriber.set("x", 1), "OK");
  assert.equal(await subscriber.ssubscribe("{t}shard"), 1);
  const smessage = next(subscriber, "smessage");
  assert.equal(await redis.spublish("{t}shard", "s"), 1);
  assert.deepEqual(await smessage, ["{t}shard", "s"]);
  subscriber.disconnect();
}

async function monitor() {
  const watching = await redis.duplicate().monitor();
  const seen = new Promise((resolve) => {
    watching.on("monitor", (_, args) => args[1] === "a-mark" && resolve(args));
  });
  await redis.get("a-mark");
  assert.deepEqual((await seen).map((arg) => arg.toLowerCase()), ["get", "a-mark"]);
  watching.disconnect();
}

async function reconnects() {
  // With its default of retrying, as applications use it.
  const patient = new Redis({ host, port, connectionName: "patient" });
  patient.on("error", () => {});
  await patient.set("r", 1);
  const again = next(patient, "ready");
  const id = await patient.client("ID");
  assert.equal(await redis.client("KILL", "ID", String(id)), 1);
  await again;
  assert.equal(await patient.get("r"), "1");
  patient.disconnect();
  if (behindProxy) {
    const wrong = new Redis({ host, port, db: 1, lazyConnect: true, retryStrategy: null });
    const error = next(wrong, "error");
    wrong.connect().catch(() => {});
    assert.match((await error)[0].message, /DB index is out of range/);
    wrong.disconnect();
  }
}

run(keys, transactions, scripts, blocking, streams, subscriptions, monitor, reconnects);
