// ioredis in its ordinary, non-cluster mode, through the proxy.
//
// Takes REDIS_HOST, REDIS_PORT and LOOP_SECONDS from the environment; exits non-zero on the first
// wrong answer or error.
"use strict";

const assert = require("node:assert/strict");
const Redis = require("ioredis");

const host = process.env.REDIS_HOST || "127.0.0.1";
const port = Number(process.env.REDIS_PORT);
const loopSeconds = Number(process.env.LOOP_SECONDS || "2");
const loopKeys = 60;

function connect(options) {
  const redis = new Redis({
    host,
    port,
    // Any trouble shall surface instead of being retried away.
    maxRetriesPerRequest: 0,
    retryStrategy: null,
    ...options,
  });
  redis.on("error", (error) => {
    console.error("connection error:", error);
    process.exit(1);
  });
  return redis;
}

async function dataTypes(redis) {
  assert.equal(await redis.set("js:s", "v", "EX", 100), "OK");
  assert.equal(await redis.get("js:s"), "v");
  assert.equal(await redis.get("js:absent"), null);
  assert.ok((await redis.ttl("js:s")) > 0);
  assert.equal(await redis.expire("js:s", 200), 1);
  const blob = Buffer.from(Array.from({ length: 1024 }, (_, i) => i % 256));
  await redis.set(Buffer.from([106, 115, 0, 255, 13, 10]), blob);
  assert.deepEqual(await redis.getBuffer(Buffer.from([106, 115, 0, 255, 13, 10])), blob);
  await redis.del("js:h");
  assert.equal(await redis.hset("js:h", { a: 1, b: 2 }), 2);
  assert.deepEqual(await redis.hgetall("js:h"), { a: "1", b: "2" });
  await redis.del("js:l");
  assert.equal(await redis.rpush("js:l", 1, 2, 3), 3);
  assert.deepEqual(await redis.lrange("js:l", 0, -1), ["1", "2", "3"]);
  await redis.del("js:z");
  await redis.zadd("js:z", 1.5, "m");
  assert.deepEqual(await redis.zrange("js:z", 0, -1, "WITHSCORES"), ["m", "1.5"]);
  await redis.del("js:counter");
}

async function scripts(redis) {
  assert.equal(await redis.eval("return redis.call('INCRBY', KEYS[1], ARGV[1])", 1, "js:counter", 5), 5);
  // EVALSHA first, EVAL when the node does not know the script.
  redis.defineCommand("addTo", {
    numberOfKeys: 1,
    lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])",
  });
  assert.equal(await redis.addTo("js:counter", 2), 7);
  assert.equal(await redis.addTo("js:counter", 2), 9);
}

async function pipelines(redis) {
  const pipeline = redis.pipeline();
  for (let n = 0; n < 1000; n++) {
    pipeline.set(`js:p:${n}`, n).get(`js:p:${n}`);
  }
  const replies = await pipeline.exec();
  replies.forEach(([error, reply], i) => {
    assert.equal(error, null);
    assert.equal(reply, i % 2 === 0 ? "OK" : String((i - 1) / 2));
  });
  // Not awaited one by one: ioredis writes them back to back.
  const many = await Promise.all(Array.from({ length: 1000 }, (_, n) => redis.get(`js:p:${n}`)));
  many.forEach((reply, n) => assert.equal(reply, String(n)));
}

async function loop(redis) {
  for (let n = 0; n < loopKeys; n++) {
    await redis.set(`js:loop:${n}`, n);
  }
  console.log("looping");
  const end = Date.now() + loopSeconds * 1000;
  let reads = 0;
  while (Date.now() < end) {
    for (let n = 0; n < loopKeys; n++) {
      assert.equal(await redis.get(`js:loop:${n}`), String(n));
      reads += 1;
    }
  }
  console.log(`${reads} reads without an error`);
}

async function main() {
  const redis = connect();
  assert.equal(await redis.ping(), "PONG");
  await dataTypes(redis);
  await scripts(redis);
  await pipelines(redis);
  const named = connect({ username: "default", password: "ignored", connectionName: "js", db: 0 });
  assert.equal(await named.client("GETNAME"), "js");
  assert.equal(await named.quit(), "OK");
  const auto = connect({ enableAutoPipelining: true });
  const replies = await Promise.all([auto.set("js:auto", "1"), auto.get("js:auto"), auto.get("js:absent")]);
  assert.deepEqual(replies, ["OK", "1", null]);
  auto.disconnect();
  await loop(redis);
  await redis.quit();
  console.log("ok");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
