// What the Node scenarios share.
//
// A scenario takes REDIS_HOST, REDIS_PORT and RESP from the environment and is a list of parts; it
// prints "ok" at the end and exits non-zero on the first wrong answer. BEHIND_PROXY is set when a
// cluster is behind the port: the few lines that differ from one server stand under it. Parts can
// be named on the command line to run only these.
"use strict";

exports.host = process.env.REDIS_HOST || "127.0.0.1";
exports.port = Number(process.env.REDIS_PORT);
exports.resp = Number(process.env.RESP || "2");
exports.behindProxy = "BEHIND_PROXY" in process.env;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Waits until `condition()` is truthy and returns what it returned.
exports.waitFor = async (condition, what, limit = 20000) => {
  const end = Date.now() + limit;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`not within ${limit} ms: ${what}`);
    await sleep(10);
  }
};

// The next event of that name, as an array of its arguments.
exports.next = (emitter, name, limit = 20000) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no ${name} within ${limit} ms`)), limit);
    emitter.once(name, (...args) => {
      clearTimeout(timer);
      resolve(args);
    });
  });

// Errors that the library reports as events end the scenario.
exports.strict = (emitter) => {
  emitter.on("error", (error) => {
    console.error("error event:", error);
    process.exit(1);
  });
  return emitter;
};

exports.range = (n) => Array.from({ length: n }, (_, i) => i);

exports.run = (...parts) => {
  const wanted = process.argv.slice(2);
  let current = "start";
  // A hanging part shows where before the test's own deadline ends it.
  const watchdog = setTimeout(() => {
    console.error(`part ${current} hangs`);
    process.exit(1);
  }, 90000);
  const all = async () => {
    for (const part of parts) {
      if (wanted.length > 0 && !wanted.includes(part.name)) continue;
      current = part.name;
      console.log(`part ${part.name}`);
      await part();
    }
    console.log("ok");
    clearTimeout(watchdog);
    process.exit(0);
  };
  all().catch((error) => {
    console.error(error);
    process.exit(1);
  });
};
