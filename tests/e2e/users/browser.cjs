// Chromium: gRPC-Web, REST and events from a page of another origin, and the server's own pages.
"use strict";

const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");
const { Chromium, ELSEWHERE } = require("./chromium.cjs");
const { task, listed, checked, expect, fail } = require("./client.cjs");

const KINDS = { ".html": "text/html", ".js": "text/javascript" };

// Serves the page, the modules that it imports, and the contract.
function serve() {
  const file = (name) => {
    if (name === "/") return path.join(task.page, "index.html");
    if (name === "/contract.binpb") return task.contract;
    const modules = "/modules/";
    if (name.startsWith(modules)) return path.join(task.modules, name.slice(modules.length));
    return path.join(task.page, name);
  };
  const server = http.createServer((request, response) => {
    const name = file(request.url);
    const kind = KINDS[path.extname(name)] ?? "application/octet-stream";
    response.setHeader("content-type", kind);
    fs.createReadStream(name)
      .on("error", () => response.writeHead(404).end())
      .pipe(response);
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}

async function calls(browser, port) {
  const grpc = JSON.stringify(`http://${task.grpc}`);
  const rest = JSON.stringify(`http://${task.http}`);
  const page = await browser.open(`http://127.0.0.1:${port}/`);
  await page.until("globalThis.isReady");
  listed("Chromium, gRPC-Web", await page.value(`walk(${grpc}, ${task.count})`));
  expect(page.errors.length === 0, `errors of the page: ${page.errors}`);
  listed("Chromium, fetch", await page.value(`read(${rest}, ${task.count})`));
  listed("Chromium, EventSource", await page.value(`listen(${rest}, ${task.count})`));
  checked("Chromium: unary calls, lists and news from a page of another port");

  const elsewhere = await browser.open(`http://${ELSEWHERE}:${port}/`);
  await elsewhere.until("globalThis.isReady");
  for (const call of [`walk(${grpc}, 1)`, `read(${rest}, 1)`]) {
    const before = elsewhere.refused.length;
    const outcome = await elsewhere.value(`${call}.then(() => "answered", () => "refused")`);
    expect(outcome === "refused", `a page of http://${ELSEWHERE}:${port} was ${outcome}: ${call}`);
    const reasons = elsewhere.refused.slice(before);
    const missing = reasons.some((reason) => reason.includes("MissingAllowOriginHeader"));
    expect(missing, `not for its origin, but: ${reasons} ${elsewhere.errors}`);
  }
  checked("Chromium: a page of an origin that is not admitted gets no answer");
}

// A page of the server itself: all that it needs is there, and from there.
async function own(browser, name, use) {
  const page = await browser.open(`http://${task.http}${name}`);
  await use(page);
  const others = page.requests.filter((address) => {
    const { protocol, host } = new URL(address);
    return !["data:", "blob:"].includes(protocol) && host !== task.http;
  });
  expect(others.length === 0, `${name} asks others: ${others}`);
  expect(page.errors.length === 0, `${name} has errors: ${page.errors.join("; ")}`);
  checked(`Chromium: ${name} works, without errors and without asking any other server`);
}

// Asks for user 1, as a person would.
async function docs(page) {
  await page.until('document.querySelectorAll(".opblock").length > 5');
  const operation = "#operations-users-getUser";
  const click = async (what) => {
    const element = `document.querySelector('${operation} ${what}')`;
    await page.until(element);
    await page.value(`${element}.click()`);
  };
  await click(".opblock-summary-control");
  await click(".try-out__btn");
  // The example of the parameter is filled in.
  await click(".execute");
  await page.until(`document.querySelector('${operation} .live-responses-table')
    ?.textContent.includes("alice@example.com")`);
}

// The first example, which the page runs by itself, and then a subscription.
async function playground(page) {
  const shows = (text) => `document.querySelector("#answer").textContent.includes("${text}")`;
  await page.until('document.querySelector("#types")?.textContent.includes("createUser")');
  await page.until(shows("Alice Johnson"));
  // While a query runs, there is no other.
  await page.until('!document.querySelector("#run").disabled');
  const subscription = "subscription { users(after: 4, limit: 1) { email } }";
  await page.value(`document.querySelector("#query").value = "${subscription}"`);
  await page.value('document.querySelector("#variables").value = ""');
  await page.value('document.querySelector("#run").click()');
  await page.until(shows("eve@example.com"));
}

async function main() {
  const server = await serve();
  const browser = Chromium.start(task.folder);
  await calls(browser, server.address().port);
  await own(browser, "/docs", docs);
  await own(browser, "/graphql", playground);
  await browser.stop();
  server.close();
  server.closeAllConnections();
}

main().catch(fail);
