// What the peers in Node.js share; see peer.py for the task and the form of the output.
"use strict";

const fs = require("node:fs");
const crypto = require("node:crypto");

const task = JSON.parse(process.env.PEER);
const image = fs.readFileSync(task.image);

function say(object) {
  fs.writeSync(1, JSON.stringify(object) + "\n");
}

function fail(problem) {
  fs.writeSync(2, `expected otherwise: ${problem instanceof Error ? problem.stack : problem}\n`);
  process.exit(1);
}

// Nothing here takes that long; a peer that waits for an answer must not wait for ever.
setTimeout(() => fail("no end after a minute"), 60_000).unref();

module.exports = {
  task,
  image,
  newId: () => crypto.randomUUID(),
  // Without its times, which have more digits than numbers of JavaScript hold.
  told: (how, { timeline, ...receipt }) => say({ told: receipt, how }),
  checked: (text) => say({ checked: text }),
  expect: (condition, text) => condition || fail(text),
  fail,
};
