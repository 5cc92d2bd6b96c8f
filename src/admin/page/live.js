// Replaces the content of the page by its newest version when the relay says so, and says when the relay does not answer.
// Browsers open few connections to one host: a hidden page has none.
"use strict";
const RETRY = 5000;
const FOCUSABLE = "a, button, input, select, textarea, summary, [tabindex]";
const main = document.getElementById("main");
const notice = document.getElementById("notice");
let source = null;
let lostAt = null;
let isJustLoaded = true;
let messages = 0;

function say(text) {
  notice.textContent = text;
  notice.hidden = text === "";
}

function isFilledIn(field) {
  if (field.matches("select")) return field.selectedIndex !== Math.max(0, [...field.options].findIndex((one) => one.defaultSelected));
  return field.type === "checkbox" ? field.checked !== field.defaultChecked : field.value !== field.defaultValue;
}

// A reader who types, clicks, or has marked text, must lose none of it.
function isInUse() {
  return main.querySelector("input:focus, select:focus, textarea:focus, :active") !== null
    || [...main.querySelectorAll("input, select, textarea")].some(isFilledIn)
    || !document.getSelection().isCollapsed;
}

async function refresh() {
  if (isInUse()) return;
  const response = await fetch(location.href, { cache: "no-store", redirect: "error" });
  if (!response.ok) throw new Error(`the relay answered ${response.status}: load the page again`);
  const text = await response.text();
  if (isInUse()) return;
  const next = new DOMParser().parseFromString(text, "text/html").getElementById("main");
  const kept = (selector, property) => [...main.querySelectorAll(selector)].map((one) => one[property]);
  const [open, scrolled] = [kept("details", "open"), kept(".scroll", "scrollLeft")];
  const focused = [...main.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement);
  next.querySelectorAll("details").forEach((one, at) => { one.open = open[at] === true; });
  main.replaceChildren(...next.childNodes);
  main.querySelectorAll(".scroll").forEach((one, at) => { one.scrollLeft = scrolled[at] ?? 0; });
  if (focused >= 0) main.querySelectorAll(FOCUSABLE)[focused]?.focus({ preventScroll: true });
}

function connect() {
  source?.close();
  source = new EventSource("/live");
  source.addEventListener("open", () => {
    // Browsers reconnect with the same object: each connection counts its own messages.
    messages = 0;
    if (lostAt !== null) say(`The relay answers again; it did not since ${lostAt}.`);
    lostAt = null;
  });
  source.addEventListener("message", () => {
    messages += 1;
    const isNewest = isJustLoaded;
    isJustLoaded = false;
    // The first one comes at once: a page that has just been loaded is new.
    if (isNewest) return;
    // What the first one says stays readable until the second.
    const isOver = messages > 1;
    refresh().then(
      () => { if (isOver) say(""); },
      (error) => say(`This page is not up to date: ${error.message}.`),
    );
  });
  source.addEventListener("error", () => {
    lostAt ??= new Date().toLocaleTimeString();
    say(`The relay has not answered since ${lostAt}; this page tries again.`);
    // Browsers reconnect by themselves unless the response was no stream.
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, RETRY);
  });
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) source.close();
  else connect();
});
connect();

// A chosen file fills the text field that its input names: forms send text.
document.addEventListener("change", async ({ target }) => {
  if (target.matches("input[type=file]") && target.files.length > 0) {
    document.getElementById(target.dataset.into).value = await target.files[0].text();
  }
});
