// connect-redis with express-session: sessions of a web application, over node-redis.
"use strict";

const assert = require("node:assert/strict");
const http = require("node:http");
const express = require("express");
const session = require("express-session");
const { RedisStore } = require("connect-redis");
const { createClient } = require("redis");
const { host, port, range, resp, run, strict } = require("./common.js");

const client = strict(createClient({ socket: { host, port, reconnectStrategy: false }, RESP: resp }));
const store = new RedisStore({ client, prefix: "shop:", ttl: 100 });
const app = express();
app.use(session({ store, secret: "of no value", resave: false, saveUninitialized: false }));
app.get("/visit", (request, response) => {
  request.session.visits = (request.session.visits || 0) + 1;
  response.json({ visits: request.session.visits });
});
app.get("/leave", (request, response) => request.session.destroy(() => response.json({})));
let server;

const visit = async (path, cookie) => {
  const url = `http://127.0.0.1:${server.address().port}${path}`;
  const response = await fetch(url, { headers: cookie ? { cookie } : {} });
  return { body: await response.json(), cookie: response.headers.get("set-cookie")?.split(";")[0] ?? cookie };
};
const call = (method, ...args) =>
  new Promise((resolve, reject) => store[method](...args, (error, got) => (error ? reject(error) : resolve(got))));

async function visits() {
  await client.connect();
  await client.flushAll();
  server = http.createServer(app).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const first = await Promise.all(range(20).map(() => visit("/visit")));
  assert.equal(new Set(first.map((one) => one.cookie)).size, 20);
  const second = await Promise.all(first.map((one) => visit("/visit", one.cookie)));
  second.forEach((one) => assert.deepEqual(one.body, { visits: 2 }));
  assert.ok((await client.ttl(`shop:${(await call("ids"))[0]}`)) > 0);
  await visit("/leave", first[0].cookie);
  assert.deepEqual((await visit("/visit", first[0].cookie)).body, { visits: 1 });
}

async function theStore() {
  assert.equal(await call("length"), 20);
  assert.equal((await call("ids")).length, 20);
  assert.equal((await call("all")).length, 20);
  await call("set", "by-hand", { cookie: {}, a: 1 });
  assert.equal((await call("get", "by-hand")).a, 1);
  await call("touch", "by-hand", { cookie: {} });
  await call("destroy", "by-hand");
  assert.ok(!(await call("get", "by-hand")));
  await call("clear");
  assert.equal(await call("length"), 0);
}

run(visits, theStore);
