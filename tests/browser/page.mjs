// Drives the status page of a running relay in Chromium. Arguments: program of the browser, URL of the admin address,
// admin token. Prints one line for each step and ends with status 0 if all hold.
//
// Asserted on each page: no error on the console, no request to another host, no serious finding of axe-core. Each command
// of the Rollout page goes through its preview. Values change without a reload. A line that ends with "?" asks the test for
// something outside of the browser, which answers with a line when it is done.
import assert from "node:assert/strict";
import { mkdtemp, readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import puppeteer from "puppeteer-core";

const [browserPath, base, token] = process.argv.slice(2);
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const pages = ["/", "/clients", "/content", "/rollout", "/line", "/events"];
const PATIENCE = 60_000;
const input = createInterface({ input: process.stdin });
const answers = input[Symbol.asyncIterator]();

const browser = await puppeteer.launch({
  executablePath: browserPath, headless: true, args: ["--no-sandbox", "--disable-gpu"],
});
const page = await browser.newPage();
page.setDefaultTimeout(PATIENCE);
const faults = [];
page.on("console", (message) => {
  if (["error", "warn"].includes(message.type())) faults.push(`console: ${message.text()}`);
});
page.on("pageerror", (error) => faults.push(`script: ${error}`));
page.on("request", (request) => {
  const url = request.url();
  if (!url.startsWith(base) && !url.startsWith("data:")) faults.push(`request: ${url}`);
});

async function open(path) {
  await page.goto(base + path, { waitUntil: "load" });
}

function step(text) {
  assert.deepEqual(faults, [], text);
  console.log(text);
}

async function ask(text) {
  console.log(`${text}?`);
  await answers.next();
}

const notice = (text) => page.waitForFunction((expected) =>
  document.getElementById("notice").textContent.includes(expected), {}, text);

async function uploadInventory(list, expected) {
  await open("/clients");
  const file = join(await mkdtemp(join(tmpdir(), "gupd-")), "inventory.csv");
  await writeFile(file, list);
  const input = await page.$("#inventory-file");
  await input.uploadFile(file);
  await page.waitForFunction(() => document.getElementById("inventory-list").value !== "");
  const button = "form[action=\"/inventory\"] button:not([name])";
  await Promise.all([page.waitForNavigation(), page.click(button)]);
  assert.match(await main(), expected);
}

// The page's policy allows no injected script element: the driver evaluates axe-core outside of it.
async function checkAccessibility(path, theme) {
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: theme }]);
  await open(path);
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document));
  const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  const text = serious.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join("; ")}`);
  assert.deepEqual(text, [], `${path} ${theme}`);
}

const main = () => page.$eval("#main", (element) => element.innerText);

// A command goes through its preview. `fill` sets the fields of its form.
async function command(order, fields, expected) {
  await open("/rollout");
  const form = `form:has(input[name="order"][value="${order}"])`;
  await page.waitForSelector(form);
  for (const [name, value] of Object.entries({ by: "anna", reason: "test", ...fields })) {
    const field = `${form} [name="${name}"]`;
    const kind = await page.$eval(field, (element) => element.tagName);
    if (kind === "SELECT") await page.select(field, value);
    else await page.type(field, value);
  }
  await Promise.all([page.waitForNavigation(), page.click(`${form} button`)]);
  const preview = await main();
  assert.match(preview, /known clients see another revision/, order);
  const confirm = await page.waitForSelector("form:has(input[name=\"confirmed\"]) button");
  await Promise.all([page.waitForNavigation(), confirm.click()]);
  assert.match(await main(), expected, order);
  step(`${order}: ${(await main()).split("\n").filter(Boolean)[1]}`);
}

try {
  for (const path of pages) {
    for (const theme of ["light", "dark"]) await checkAccessibility(path, theme);
    step(`${path} is accessible`);
  }

  await open("/rollout");
  await page.type("#token", token);
  await Promise.all([page.waitForNavigation(), page.click("form[action=\"/sign-in\"] button")]);
  assert.match(await main(), /Commands/);
  await checkAccessibility("/rollout", "light");
  step("signed in");

  await command("halt", {}, /no view moves until/);
  await open("/events");
  assert.match(await main(), /rollouts are halted/);
  await command("resume", {}, /views move again/);
  await open("/events");
  assert.match(await main(), /Over after .*: rollouts are halted/);
  await command("hold", { group: "default", revision: "2" }, /group default sees revision 2/);
  await command("rollback", { group: "pilot" }, /group pilot sees revision 2/);
  await command("release", { group: "pilot" }, /group pilot is held no more/);
  await command("promote", { ring: "rest" }, /ring rest/);
  await command("release", {}, /every group is held no more/);

  await uploadInventory("name,address\npc-1,127.0.0.2\npc-2,127.0.0.77\n", /2 clients are expected/);
  await open("/clients");
  assert.match(await main(), /Expected, never seen \(1\)/);
  // A refused list is a status of the browser's too.
  await uploadInventory("127.0.0.2\n<script>\n", /line 2[^]*nothing has changed/);
  assert.match(faults.pop(), /400/);
  await open("/clients");
  assert.match(await main(), /2 clients are expected/);
  step("an inventory is uploaded, and a broken one changes nothing");

  // The clock of the overview moves and a halt from elsewhere appears, both without a reload.
  await open("/");
  const before = await main();
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
  const halt = await fetch(`${base}/api/v1/rollout`, {
    method: "POST", headers, body: JSON.stringify({ order: "halt", by: "anna" }),
  });
  assert.equal(halt.status, 200);
  // The page asks for its newest version every few seconds.
  while (!(await main()).includes("rollouts are halted")) {
    await page.waitForResponse(`${base}/`);
  }
  assert.notEqual(await main(), before);
  step("live values move");

  const { painted } = await page.evaluate(() => ({
    painted: performance.getEntriesByName("first-contentful-paint")[0]?.startTime,
  }));
  console.log(`first contentful paint of the overview: ${Math.round(painted)} ms`);

  await open("/rollout");
  await Promise.all([page.waitForNavigation(), page.click("form[action=\"/sign-out\"] button")]);
  assert.match(await main(), /Sign in/);
  step("signed out");

  await open("/");
  await ask("end the relay");
  await notice("The relay has not answered since");
  const stale = await main();
  await ask("start the relay");
  await notice("The relay answers again");
  // The browser reports each connection that was refused.
  assert.ok(faults.every((fault) => fault.includes("ERR_")), faults.join());
  faults.length = 0;
  await page.waitForFunction((text) => document.getElementById("main").innerText !== text, {}, stale);
  await page.waitForFunction(() => document.getElementById("notice").textContent === "");
  step("a restart is noticed, and the page goes on");
} catch (error) {
  console.log(`failed at ${page.url()}: ${error.stack}\n${faults.join("\n")}\n${await main().catch(() => "")}`);
  process.exitCode = 1;
} finally {
  await browser.close();
  input.close();
}
