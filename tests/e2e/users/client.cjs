// What the clients in Node.js share; see client.py for the task and the form of the output.
"use strict";

const fs = require("node:fs");

const task = JSON.parse(process.env.TASK);

function say(object) {
  fs.writeSync(1, JSON.stringify(object) + "\n");
}

function fail(problem) {
  const words = problem instanceof Error ? problem.stack : JSON.stringify(problem);
  fs.writeSync(2, `expected otherwise: ${words}\n`);
  process.exit(1);
}

// A client that waits for an answer must not wait for ever.
setTimeout(() => fail("no end after two minutes"), 120_000).unref();

module.exports = {
  task,
  listed: (how, users) => say({ users, how }),
  checked: (text) => say({ checked: text }),
  expect: (condition, text) => condition || fail(text),
  fail,
};
