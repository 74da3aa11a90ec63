// BullMQ on the proxy. Its scripts take several keys of a queue at once, so a queue needs a hash
// tag, as on any cluster: `prefix: "{bull}"`.
"use strict";

const assert = require("node:assert/strict");
const { FlowProducer, Job, Queue, QueueEvents, UnrecoverableError, Worker } = require("bullmq");
const { behindProxy, host, port, range, run, strict, waitFor } = require("./common.js");

const connection = { host, port, maxRetriesPerRequest: null };
const options = { connection, prefix: "{bull}" };
const queue = strict(new Queue("mail", options));
// Each waiting job listens to it.
queue.setMaxListeners(100);
const events = strict(new QueueEvents("mail", options));
const attempts = new Map();

const worker = strict(
  new Worker(
    "mail",
    async (job) => {
      if (job.name === "fails") throw new UnrecoverableError("as told");
      if (job.name === "third") {
        attempts.set(job.id, (attempts.get(job.id) || 0) + 1);
        if (attempts.get(job.id) < 3) throw new Error("not yet");
      }
      if (job.name === "children") return Object.values(await job.getChildrenValues()).sort();
      await job.updateProgress(50);
      return job.data.n * 2;
    },
    { ...options, concurrency: 5 },
  ),
);
worker.on("failed", () => {});

const result = (job) => job.waitUntilFinished(events, 20000);

async function jobs() {
  await Promise.all([queue.waitUntilReady(), events.waitUntilReady(), worker.waitUntilReady()]);
  const progress = [];
  events.on("progress", ({ data }) => progress.push(data));
  const some = await queue.addBulk(range(50).map((n) => ({ name: "double", data: { n } })));
  assert.deepEqual(await Promise.all(some.map(result)), range(50).map((n) => n * 2));
  await waitFor(() => progress.length === 50, "progress events");
  await waitFor(async () => (await queue.getCompletedCount()) === 50, "the completed jobs");
  assert.equal((await queue.getJob(some[0].id)).returnvalue, 0);
  assert.equal(await result(await queue.add("double", { n: 7 }, { priority: 3 })), 14);
}

async function failures() {
  await assert.rejects(result(await queue.add("fails", {})), /as told/);
  assert.equal(await queue.getFailedCount(), 1);
  const third = await queue.add("third", { n: 4 }, { attempts: 5, backoff: { type: "fixed", delay: 20 } });
  assert.equal(await result(third), 8);
  assert.equal(attempts.get(third.id), 3);
}

async function delayedAndRepeated() {
  const start = Date.now();
  assert.equal(await result(await queue.add("double", { n: 1 }, { delay: 300 })), 2);
  assert.ok(Date.now() - start >= 290);
  const seen = [];
  worker.on("completed", (job) => job.name === "tick" && seen.push(job.id));
  await queue.upsertJobScheduler("every", { every: 200 }, { name: "tick", data: { n: 1 } });
  await waitFor(() => seen.length >= 3, "three runs of a repeated job");
  assert.equal((await queue.getJobSchedulers()).length, 1);
  assert.equal(await queue.removeJobScheduler("every"), true);
}

async function pauseAndClean() {
  await queue.pause();
  const held = await queue.add("double", { n: 5 });
  assert.notEqual(await held.getState(), "completed");
  assert.ok(await queue.isPaused());
  await queue.resume();
  assert.equal(await result(held), 10);
  assert.ok((await queue.clean(0, 1000, "completed")).length > 0);
  assert.equal((await queue.getWorkers()).length, 1);
}

async function flows() {
  const flow = strict(new FlowProducer(options));
  const tree = await flow.add({
    name: "children",
    queueName: "mail",
    children: range(3).map((n) => ({ name: "double", data: { n }, queueName: "mail" })),
  });
  assert.deepEqual(await result(tree.job), [0, 2, 4]);
  await flow.close();
}

// The lock of a job whose worker stalls; and a job that a second process removes.
async function stalledAndRemoved() {
  const other = strict(new Queue("stall", options));
  const manual = strict(new Worker("stall", null, { ...options, lockDuration: 200, stalledInterval: 100 }));
  await other.add("slow", {});
  const job = await manual.getNextJob("token");
  assert.equal(job.name, "slow");
  await manual.startStalledCheckTimer();
  await waitFor(async () => (await other.getWaitingCount()) === 1, "the stalled job back in its queue");
  const again = await Job.fromId(other, job.id);
  await again.remove();
  assert.equal(await other.getWaitingCount(), 0);
  await manual.close();
  await other.obliterate({ force: true });
  await other.close();
}

async function withoutATag() {
  if (!behindProxy) return;
  const untagged = new Queue("untagged", { connection });
  untagged.on("error", () => {});
  await assert.rejects(untagged.add("x", {}), /same slot/);
  await untagged.close();
}

async function close() {
  await worker.close();
  await events.close();
  await queue.obliterate({ force: true });
  await queue.close();
}

run(jobs, failures, delayedAndRepeated, pauseAndClean, flows, stalledAndRemoved, withoutATag, close);
