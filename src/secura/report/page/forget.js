// Text from data reaches the page through textContent alone, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const PER_PAGE = 40;
const STRONG = 4; // nats of change at which a token's colour is full

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/* ---- the flips and their search, which lives in the address: #q=word&task=…&direction=lost ---- */

const FIELDS = ["q", "task", "direction", "kind", "tokens"];
let shown = PER_PAGE;

const searched = data.flips.map((flip) =>
  [flip.task, flip.prompt, flip.right, flip.before, flip.after, ...(flip.choices || [])].join("\n").toLowerCase()
);

function wantedFromAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  return Object.fromEntries(FIELDS.map((name) => [name, given.get(name) || ""]));
}

function wantedFromForm() {
  const wanted = Object.fromEntries(FIELDS.map((name) => [name, byId(name).value]));
  wanted.tokens = byId("tokens").checked ? "1" : "";
  return wanted;
}

function fillForm(wanted) {
  for (const name of FIELDS) byId(name).value = wanted[name];
  byId("tokens").checked = wanted.tokens === "1";
}

function addressOf(wanted) {
  const set = Object.entries(wanted).filter(([, value]) => value);
  return "#" + new URLSearchParams(set).toString();
}

function matching(wanted) {
  const words = wanted.q.toLowerCase().split(/\s+/).filter(Boolean);
  return data.flips.filter((flip, index) =>
    (!wanted.task || flip.task === wanted.task) &&
    (!wanted.direction || flip.direction === wanted.direction) &&
    (!wanted.kind || flip.kind === wanted.kind) &&
    (!wanted.tokens || flip.views.length > 0) &&
    words.every((word) => searched[index].includes(word))
  );
}

function marked(text, words) {
  const made = document.createDocumentFragment();
  if (!words.length) { made.append(text); return made; }
  const pattern = new RegExp(words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|"), "gi");
  let from = 0;
  for (const found of text.matchAll(pattern)) {
    made.append(text.slice(from, found.index), element("mark", "mark", found[0]));
    from = found.index + found[0].length;
  }
  made.append(text.slice(from));
  return made;
}

function numbered(value) {
  const text = value === null ? "–" : value.toFixed(2).replace("-", "−");
  return text === "−0.00" ? "0.00" : text;
}

function tokenShown(text) { return text.replace(/ /g, "·").replace(/\n/g, "⏎").replace(/\t/g, "⇥") || "∅"; }

function tokenView(label, view) {
  const sum = (values) => values.reduce((total, value) => total + (value === null ? 0 : value), 0);
  const tokens = element("div", "tokens");
  view.tokens.forEach((text, index) => {
    const base = view.base[index], tuned = view.tuned[index];
    const token = element("span", "token", element("span", "", tokenShown(text)));
    token.append(element("small", "", `${numbered(base)} → ${numbered(tuned)}`));
    if (base !== null && tuned !== null) {
      const change = tuned - base;
      const strength = Math.min(Math.abs(change) / STRONG, 1) * 0.7;
      token.style.background = `rgba(var(--${change < 0 ? "lost" : "gained"}-rgb), ${strength.toFixed(3)})`;
    }
    tokens.append(token);
  });
  const total = `${numbered(sum(view.base))} → ${numbered(sum(view.tuned))} nats`;
  return element("div", "view", element("p", "", `${label}, ${total}`), tokens);
}

function choicesTable(flip) {
  const rows = flip.choices.map((choice, index) => element("tr", "",
    element("th", "", choice),
    element("td", "", numbered(flip.base_likelihoods[index])), element("td", "", numbered(flip.tuned_likelihoods[index]))
  ));
  const head = element("tr", "", element("th", "", "choice"), element("th", "", "base"), element("th", "", "tuned"));
  const table = element("table", "choices", element("thead", "", head), element("tbody", "", ...rows));
  return element("details", "", element("summary", "", "log-likelihood of each choice, in nats"), table);
}

function flipCard(flip, words) {
  const lost = flip.direction === "lost";
  const answers = element("dl", "answers");
  for (const [label, text, right] of [["right", flip.right, true], ["base", flip.before, lost], ["tuned", flip.after, !lost]]) {
    const value = element("dd", right ? "right" : "wrong");
    value.append(text ? marked(text, words) : "(nothing)");
    answers.append(element("dt", "", label), value);
  }
  const prompt = element("p", "prompt");
  prompt.append(marked(flip.prompt, words));
  const head = element("div", "head", element("span", "", flip.task),
    element("b", "", lost ? "lost" : "gained"), element("span", "", flip.kind), element("span", "", `item ${flip.index}`));
  const card = element("li", `flip ${flip.direction}`, head, prompt, answers);
  if (flip.base_likelihoods) card.append(choicesTable(flip));
  flip.views.forEach((view, index) => card.append(tokenView(index ? "the tuned model's answer" : "the base's answer", view)));
  return card;
}

function showFlips(wanted) {
  const found = matching(wanted);
  const words = wanted.q.split(/\s+/).filter(Boolean);
  byId("flips").replaceChildren(...found.slice(0, shown).map((flip) => flipCard(flip, words)));
  byId("count").textContent = `${found.length} of ${data.flips.length} flips`;
  byId("more").hidden = found.length <= shown;
  byId("legend").hidden = !found.slice(0, shown).some((flip) => flip.views.length);
}

function startBrowser() {
  if (!byId("flips")) return;
  for (const task of data.tasks) byId("task").append(new Option(task, task));
  for (const kind of data.kinds) byId("kind").append(new Option(kind, kind));
  const fromForm = () => {
    shown = PER_PAGE;
    const wanted = wantedFromForm();
    history.replaceState(null, "", addressOf(wanted));
    showFlips(wanted);
  };
  const fromAddress = () => {
    shown = PER_PAGE;
    const wanted = wantedFromAddress();
    fillForm(wanted);
    showFlips(wanted);
  };
  byId("filters").addEventListener("input", fromForm);
  byId("more").addEventListener("click", () => { shown += PER_PAGE; showFlips(wantedFromForm()); });
  window.addEventListener("hashchange", () => { fromAddress(); byId("flips-title").scrollIntoView(); });
  fromAddress();
}

startBrowser();
