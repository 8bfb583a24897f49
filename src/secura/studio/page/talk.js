"use strict";
/* The conversation: text reaches the page through textContent alone. */

const byId = (id) => document.getElementById(id);
const [talk, form, words, said] = ["talk", "words-form", "words", "said"].map(byId);
const [send, stop, anew, unload] = ["send", "stop", "anew", "unload"].map(byId);

function turn(by, text = "") {
  const box = document.createElement("div");
  const name = document.createElement("span");
  const spoken = document.createElement("p");
  box.className = `turn ${by}`;
  name.className = "by";
  name.textContent = by;
  spoken.textContent = text;
  box.append(name, spoken);
  talk.append(box);
  return box;
}

function busy(is) {
  for (const button of [send, anew, unload]) button.disabled = is;
  stop.disabled = !is;
  talk.setAttribute("aria-busy", String(is));
}

async function* eventsOf(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
  }
}

function follow(event, boxes) {
  if (event.loading) said.textContent = `Loading the model of ${event.loading}. This is done once, and may take a while.`;
  if (event.notes) said.textContent = event.notes.join(" ");
  if (event.sides) {
    talk.classList.toggle("alone", event.sides.length < 2);
    for (const side of event.sides) { boxes[side] = turn(side); }
    boxes[event.sides[0]].classList.add("writing");
  }
  if (event.side) {
    for (const [side, box] of Object.entries(boxes)) box.classList.toggle("writing", side === event.side);
    const spoken = boxes[event.side].querySelector("p");
    spoken.textContent = (spoken.textContent + event.text).trimStart();
  }
  if (event.error) said.textContent = event.error;
  if (event.ended === "stopped") said.textContent = "Stopped.";
}

async function say(text) {
  const boxes = {};
  busy(true);
  turn("you", text);
  const body = new URLSearchParams(new FormData(form));
  body.set("words", text);
  try {
    const answer = await fetch(form.dataset.say, { method: "POST", body });
    if (answer.ok) {
      for await (const event of eventsOf(answer)) { follow(event, boxes); window.scrollTo(0, document.body.scrollHeight); }
    } else {
      said.textContent = answer.headers.get("content-type").startsWith("application/json")
        ? (await answer.json()).error : await answer.text();
    }
  } catch {
    said.textContent = "The studio does not answer.";
  }
  for (const box of Object.values(boxes)) {
    box.classList.remove("writing");
    if (!box.querySelector("p").textContent) box.querySelector("p").textContent = "(nothing)";
  }
  busy(false);
  words.focus();
}

async function ask(what) {
  const answer = await fetch(`/conversation/${what}`, { method: "POST" });
  if (!answer.ok) { said.textContent = (await answer.json()).error; return false; }
  return true;
}

async function beginAnew(what, then) {
  if (await ask(what)) { talk.replaceChildren(); said.textContent = then; }
  words.focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = words.value.trim();
  if (!text || send.disabled) return;
  words.value = "";
  if (text === "/new") beginAnew("anew", "");
  else say(text);
});
words.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
});
stop.addEventListener("click", () => ask("stop"));
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !stop.disabled) ask("stop"); });
anew.addEventListener("click", () => beginAnew("anew", ""));
unload.addEventListener("click", () => beginAnew("unload", "The memory is free. The model is loaded with the next words."));
