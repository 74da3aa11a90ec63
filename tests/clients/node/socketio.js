// Socket.IO: two servers that know of each other through Redis. ADAPTER says how: by Pub/Sub
// (`redis`), by sharded Pub/Sub (`sharded`), or by a stream (`streams`).
"use strict";

const assert = require("node:assert/strict");
const http = require("node:http");
const { Server } = require("socket.io");
const { io } = require("socket.io-client");
const { createAdapter, createShardedAdapter } = require("@socket.io/redis-adapter");
const streams = require("@socket.io/redis-streams-adapter");
const Redis = require("ioredis");
const { createClient } = require("redis");
const { host, port, range, resp, run, strict, waitFor } = require("./common.js");

const kind = process.env.ADAPTER || "redis";
const servers = [];
const clients = [];

const nodeRedis = async () => {
  const client = strict(createClient({ socket: { host, port, reconnectStrategy: false }, RESP: resp }));
  await client.connect();
  return client;
};
const adapter = async () => {
  if (kind === "sharded") return createShardedAdapter(await nodeRedis(), await nodeRedis());
  if (kind === "streams") return streams.createAdapter(await nodeRedis());
  return createAdapter(strict(new Redis({ host, port })), strict(new Redis({ host, port })));
};

async function start() {
  for (const name of ["one", "two"]) {
    const web = http.createServer().listen(0, "127.0.0.1");
    await new Promise((resolve) => web.once("listening", resolve));
    const server = new Server(web, { adapter: await adapter(), transports: ["websocket"] });
    server.on("connection", (socket) => {
      socket.join(`room-${name}`);
      socket.on("join", (room, done) => Promise.resolve(socket.join(room)).then(() => done()));
    });
    server.on("question", (text, answer) => answer(`${name} heard ${text}`));
    server.url = `http://127.0.0.1:${web.address().port}`;
    servers.push(server);
  }
  for (const n of range(4)) {
    const client = io(servers[n % 2].url, { transports: ["websocket"], reconnection: false });
    client.got = [];
    client.onAny((event, ...args) => {
      if (typeof args.at(-1) === "function") args.pop()(n);
      client.got.push([event, ...args]);
    });
    clients.push(client);
  }
  await waitFor(() => clients.every((client) => client.connected), "four clients");
  const known = async (server) => (await server.of("/").adapter.serverCount()) === 2;
  await waitFor(async () => (await known(servers[0])) && (await known(servers[1])), "two servers that know each other");
}

const everyone = (event, n) => clients.every((client) => client.got.filter(([name]) => name === event).length === n);

async function broadcasts() {
  range(100).forEach((n) => servers[n % 2].emit("all", n));
  await waitFor(() => everyone("all", 100), "a hundred events at each client");
  for (const client of clients) {
    const even = client.got.map(([, n]) => n).filter((n) => n % 2 === 0);
    assert.deepEqual(even, range(50).map((n) => 2 * n), "in the order of the server that sent them");
  }
  servers[0].to("room-two").emit("two", { deep: [1, Buffer.from("x")] });
  await waitFor(() => [1, 3].every((n) => clients[n].got.some(([event]) => event === "two")), "a room");
  assert.ok(!clients[0].got.some(([event]) => event === "two"));
  await new Promise((resolve) => clients[0].emit("join", "mixed", resolve));
  await new Promise((resolve) => clients[1].emit("join", "mixed", resolve));
  servers[1].in("mixed").emit("mixed", 1);
  await waitFor(() => [0, 1].every((n) => clients[n].got.some(([event]) => event === "mixed")), "a room on two servers");
}

async function acrossServers() {
  const answers = await servers[0].timeout(15000).emitWithAck("ask");
  assert.deepEqual(answers.sort(), [0, 1, 2, 3]);
  const sockets = await servers[0].fetchSockets();
  assert.equal(sockets.length, 4);
  assert.deepEqual(await servers[0].serverSideEmitWithAck("question", "hello"), ["two heard hello"]);
  await servers[0].in("room-two").socketsJoin("late");
  await waitFor(async () => (await servers[1].in("late").fetchSockets()).length === 2, "sockets that joined remotely");
  await servers[0].in("room-two").disconnectSockets();
  await waitFor(() => !clients[1].connected && !clients[3].connected, "sockets that were disconnected remotely");
}

run(start, broadcasts, acrossServers);
