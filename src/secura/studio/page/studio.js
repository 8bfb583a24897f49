"use strict";
/* A page that shows what changes: told that something has, it asks for itself again and puts the new parts in. */

const live = () => [...document.querySelectorAll("[data-live]")];
const connection = document.getElementById("connection");

function tellConnection(text) {
  connection.textContent = text;
  connection.hidden = !text;
}

async function refresh() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of live()) {
    const fresh = page.getElementById(part.id);
    if (!fresh || fresh.outerHTML === part.outerHTML) continue;
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    part.replaceWith(document.importNode(fresh, true));
    if (focused) document.getElementById(focused)?.focus();
  }
  showEnd();
  await drawSteps();
}

/* ---- the end of what a run says ---- */

function showEnd() {
  for (const said of document.querySelectorAll("[data-end]")) said.scrollTop = said.scrollHeight;
}

/* ---- the figures ---- */

const figures = document.getElementById("figures");
let drawnAt = 0;

async function drawSteps() {
  if (!figures) return;
  // A long log is drawn less often.
  if (performance.now() - drawnAt < 2000) { clearTimeout(drawSteps.later); drawSteps.later = setTimeout(drawSteps, 2000); return; }
  drawnAt = performance.now();
  const answer = await fetch(figures.dataset.figures);
  if (!answer.ok) return;
  const drawn = await answer.json();
  if (drawn.length) document.getElementById("steps").hidden = false;
  const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
  // All boxes first, so that each figure is drawn as wide as its box will stay.
  for (const { key, title } of drawn) {
    if (!document.getElementById(`figure-${key}`)) {
      const box = document.createElement("div");
      const said = document.createElement("p");
      said.className = "note";
      said.textContent = title;
      const place = document.createElement("div");
      place.id = `figure-${key}`;
      place.setAttribute("role", "img");
      place.setAttribute("aria-label", `${title}, over the steps`);
      box.append(said, place);
      figures.append(box);
    }
  }
  for (const { key, figure } of drawn) {
    Plotly.react(document.getElementById(`figure-${key}`), figure.data, themed(figure.layout, ink), { displayModeBar: false, responsive: true });
  }
  figures.dataset.drawn = String(drawn.length);
}

/* ---- events: only while the page is looked at, since a browser has but six connections ---- */

let events = null;

function listen() {
  if (document.hidden || events || !live().length) return;
  const name = location.pathname.startsWith("/run/") ? location.pathname.slice(4) : "";
  events = new EventSource(`/events${name}`);
  events.onopen = () => tellConnection("");
  events.onmessage = () => refresh();
  events.onerror = () => {
    const over = events.readyState === EventSource.CLOSED;
    tellConnection(over
      ? "The studio was restarted. Open the address that it printed; runs have continued."
      : "The studio does not answer. Runs continue, and so will this page as soon as it is back.");
    if (over) { events.close(); events = null; }
  };
}

function rest() {
  events?.close();
  events = null;
}

document.addEventListener("visibilitychange", () => (document.hidden ? rest() : listen()));
window.addEventListener("pagehide", rest);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawnAt = 0; drawSteps(); });
showEnd();
drawSteps();
listen();
