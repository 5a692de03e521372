// Headless Chromium, told what to do by the DevTools protocol, over two pipes: when this program
// ends, in whatever way, the pipes do, and then the browser.
"use strict";

const { spawn } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");

// A name that is this machine, and whose pages are of an origin that no server admits by itself.
const ELSEWHERE = "elsewhere.test";

const FLAGS = [
  "--headless=new",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--no-proxy-server",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--disable-dev-shm-usage",
  `--host-resolver-rules=MAP ${ELSEWHERE} 127.0.0.1`,
  "--remote-debugging-pipe",
  "about:blank",
];
const PATIENCE = 30_000;

class Chromium {
  static start(folder) {
    const profile = path.join(folder, "profile");
    fs.rmSync(profile, { recursive: true, force: true });
    const log = fs.openSync(path.join(folder, "chromium.log"), "w");
    const flags = [`--user-data-dir=${profile}`, ...FLAGS];
    const stdio = ["ignore", "ignore", log, "pipe", "pipe"];
    return new Chromium(spawn("chromium", flags, { stdio }));
  }

  constructor(child) {
    this.child = child;
    [, , , this.orders, this.answers] = child.stdio;
    this.number = 0;
    this.waiting = new Map();
    this.pages = new Map();
    child.on("error", (error) => this.end(error));
    child.on("exit", (code) => this.end(new Error(`chromium ended with ${code}`)));
    // Each message ends with a zero byte.
    let rest = Buffer.alloc(0);
    this.answers.on("data", (data) => {
      rest = Buffer.concat([rest, data]);
      for (let end = rest.indexOf(0); end >= 0; end = rest.indexOf(0)) {
        this.hear(JSON.parse(rest.subarray(0, end)));
        rest = rest.subarray(end + 1);
      }
    });
    this.orders.on("error", (error) => this.end(error));
  }

  hear(message) {
    if (!message.id) {
      this.pages.get(message.sessionId)?.hear(message);
      return;
    }
    const { resolve, reject } = this.waiting.get(message.id);
    this.waiting.delete(message.id);
    if (message.error) reject(new Error(JSON.stringify(message.error)));
    else resolve(message.result);
  }

  // Nobody will be answered any more.
  end(error) {
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }

  send(method, params = {}, sessionId = undefined) {
    const id = ++this.number;
    this.orders.write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject }));
  }

  // A new page, loaded, with everything that it asks for and complains of.
  async open(url) {
    const { targetId } = await this.send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    const page = new Page(this, sessionId);
    this.pages.set(sessionId, page);
    for (const domain of ["Network", "Runtime", "Log", "Page"]) await page.send(`${domain}.enable`);
    const loaded = page.next("Page.loadEventFired");
    const { errorText } = await page.send("Page.navigate", { url });
    if (errorText) throw new Error(`${url}: ${errorText}`);
    await loaded;
    return page;
  }

  async stop() {
    const ended = new Promise((resolve) => this.child.on("exit", resolve));
    this.send("Browser.close").catch(() => {});
    await ended;
  }
}

class Page {
  constructor(browser, session) {
    this.browser = browser;
    this.session = session;
    this.listeners = [];
    // Addresses that it asked for.
    this.requests = [];
    // Errors of its scripts and of the browser about it.
    this.errors = [];
    // Why it was not given what it asked for (CORS).
    this.refused = [];
  }

  send(method, params) {
    return this.browser.send(method, params, this.session);
  }

  hear({ method, params }) {
    if (method === "Network.requestWillBeSent") this.requests.push(params.request.url);
    if (method === "Network.webSocketCreated") this.requests.push(params.url);
    if (method === "Network.loadingFailed" && params.corsErrorStatus) {
      this.refused.push(params.corsErrorStatus.corsError);
    }
    if (method === "Runtime.exceptionThrown") {
      const { text, exception } = params.exceptionDetails;
      this.errors.push(exception?.description ?? text);
    }
    if (method === "Runtime.consoleAPICalled" && ["error", "assert"].includes(params.type)) {
      this.errors.push(params.args.map(({ value, description }) => value ?? description).join(" "));
    }
    if (method === "Log.entryAdded" && params.entry.level === "error") {
      this.errors.push(`${params.entry.text} ${params.entry.url ?? ""}`);
    }
    this.listeners = this.listeners.filter((listener) => !listener(method));
  }

  next(wanted) {
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`no ${wanted}`)), PATIENCE);
      this.listeners.push((method) => {
        if (method !== wanted) return false;
        clearTimeout(late);
        resolve();
        return true;
      });
    });
  }

  // The value of an expression, for which the page may take its time.
  async value(expression) {
    const asked = { expression, awaitPromise: true, returnByValue: true };
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", asked);
    if (exceptionDetails) {
      const { text, exception } = exceptionDetails;
      throw new Error(`${expression}: ${exception?.description ?? text}`);
    }
    return result.value;
  }

  // Waits until an expression is true.
  async until(expression) {
    const holds = await this.value(`new Promise((resolve) => {
      const end = performance.now() + ${PATIENCE};
      const look = () => {
        if (${expression}) resolve(true);
        else if (performance.now() > end) resolve(false);
        else setTimeout(look, 20);
      };
      look();
    })`);
    if (!holds) throw new Error(`${expression} did not become true; errors: ${this.errors}`);
  }
}

module.exports = { Chromium, ELSEWHERE };
