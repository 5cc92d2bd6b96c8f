// Replaces the content of the page by its newest version while it is visible, and says when the relay does not answer.
"use strict";
const INTERVAL = 5000;
const main = document.getElementById("main");
const offline = document.getElementById("offline");

// A reader who types, or has opened a table, must not lose either.
function isInUse() {
  const active = document.activeElement;
  return document.hidden || (active && main.contains(active) && active.matches("input, select, button, textarea"))
    || [...main.querySelectorAll("textarea")].some((one) => one.value);
}

async function refresh() {
  if (!isInUse()) {
    try {
      const response = await fetch(location.href, { cache: "no-store", redirect: "error" });
      if (!response.ok) throw new Error(response.statusText);
      const next = new DOMParser().parseFromString(await response.text(), "text/html").getElementById("main");
      const open = [...main.querySelectorAll("details")].map((one) => one.open);
      next.querySelectorAll("details").forEach((one, at) => { one.open = open[at] === true; });
      main.replaceChildren(...next.childNodes);
      offline.hidden = true;
    } catch {
      offline.hidden = false;
    }
  }
  setTimeout(refresh, INTERVAL);
}
setTimeout(refresh, INTERVAL);

// A chosen file fills the text field that its input names: forms send text.
document.addEventListener("change", async ({ target }) => {
  if (target.matches("input[type=file]") && target.files.length > 0) {
    document.getElementById(target.dataset.into).value = await target.files[0].text();
  }
});
