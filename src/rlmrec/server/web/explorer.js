// The explorer page. All data is inserted as text nodes and never parsed as HTML.
"use strict";

const LENGTH = 20;
const TYPING_MS = 120; // between the last key and the request
const at = (id) => document.getElementById(id);
let base = null; // name of the run to compare with
let chosen = null; // id of the user shown
let asking = new AbortController(); // of the requests for the user shown

function made(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Ids are integers of up to 64 bits, but numbers in JavaScript are exact only up to 53 bits: a long id becomes a string.
// Strings are matched first, so that digits within them do not change.
function parsed(json) {
  const whole = (part) => (/^-?\d{16,}$/.test(part) ? `"${part}"` : part);
  return JSON.parse(json.replace(/"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g, whole));
}

async function ask(path, { body, signal } = {}) {
  const options = { signal, headers: { accept: "application/json" } };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const response = await fetch(path, options);
  const answer = parsed(await response.text());
  if (response.ok) return answer;
  const fields = (answer.fields || []).map((problem) => `${problem.field}: ${problem.message}`);
  throw new Error([answer.error, ...fields].join(" – "));
}

function say(message, isError = false) {
  at("status").textContent = message;
  at("status").classList.toggle("error", isError);
}

// The parts "." and ".." of an address are resolved, however they are encoded, unless twice.
const part = (id) => (/^\.{1,2}$/.test(id) ? id.replaceAll(".", "%252e") : encodeURIComponent(id));
const userPath = (id, what) => `v1/users/${part(id)}/${what}`;
const itemPath = (id, what = "") => `v1/items/${part(id)}${what}`;

// -- type-ahead ------------------------------------------------------------------------------------------

const search = at("user-search");
const options = at("user-options");
let searching = new AbortController();
let waiting = 0;
let active = -1;

function close() {
  options.hidden = true;
  active = -1;
  search.setAttribute("aria-expanded", "false");
  search.removeAttribute("aria-activedescendant");
}

function activate(place) {
  const all = [...options.children];
  if (!all.length) return;
  active = (place + all.length) % all.length;
  all.forEach((option, index) => option.setAttribute("aria-selected", String(index === active)));
  search.setAttribute("aria-activedescendant", all[active].id);
  all[active].scrollIntoView({ block: "nearest" });
}

async function suggest() {
  searching.abort();
  searching = new AbortController();
  try {
    const found = await ask(`v1/users?q=${encodeURIComponent(search.value)}`, { signal: searching.signal });
    options.replaceChildren(
      ...found.users.map((user, index) => {
        const option = made("li", { role: "option", id: `option-${index}`, "aria-selected": "false" }, user.title);
        option.addEventListener("mousedown", (event) => event.preventDefault()); // the field keeps the focus
        option.addEventListener("click", () => choose(user.id));
        option.dataset.id = JSON.stringify(user.id);
        return option;
      }),
    );
    active = -1;
    search.removeAttribute("aria-activedescendant");
    options.hidden = !found.users.length;
    search.setAttribute("aria-expanded", String(found.users.length > 0));
    const many = found.users.length === 1 ? "1 user" : `${found.users.length} users`;
    say(found.users.length ? `${many}: select with the arrow keys` : "No user found.");
  } catch (error) {
    if (error.name !== "AbortError") say(error.message, true);
  }
}

search.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(suggest, TYPING_MS);
});
search.addEventListener("blur", close);
search.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    if (options.hidden) suggest();
    else activate(event.key === "ArrowDown" ? active + 1 : active < 0 ? -1 : active - 1);
  } else if (event.key === "Enter" && !options.hidden) {
    event.preventDefault();
    const option = options.children[Math.max(active, 0)];
    choose(JSON.parse(option.dataset.id));
  } else if (event.key === "Escape") close();
});

// -- a user ----------------------------------------------------------------------------------------------

async function choose(id) {
  clearTimeout(waiting);
  searching.abort();
  close();
  search.value = String(id);
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  chosen = id;
  say("Loading …");
  try {
    const list = base === null ? `recommendations?k=${LENGTH}` : `comparison?k=${LENGTH}`;
    const [profile, answer] = await Promise.all([
      ask(userPath(id, "profile"), { signal }),
      ask(userPath(id, list), { signal }),
    ]);
    history.replaceState(null, "", `#user=${encodeURIComponent(id)}`);
    showProfile(profile);
    if (base === null) showAligned(answer.items);
    else showComparison(answer);
    at("user").hidden = false;
    say(`${profile.interactions} items in the history; the recommendations are below.`);
    at("user-title").focus();
  } catch (error) {
    if (error.name !== "AbortError") say(error.message, true);
  }
}

function showProfile(profile) {
  at("user-title").textContent = `User ${profile.title}`;
  at("profile").textContent = profile.profile ?? "This user has no profile.";
  at("reasoning-box").hidden = !profile.reasoning;
  at("reasoning-box").open = false;
  at("reasoning").textContent = profile.reasoning ?? "";
  const more = profile.interactions > profile.history.length ? `, ${profile.history.length} shown` : "";
  at("history-title").textContent = `History (${profile.interactions} items${more})`;
  at("history").replaceChildren(...profile.history.map((item) => made("li", {}, item.title)));
}

function showComparison(answer) {
  showAligned(answer.aligned);
  const kept = new Set(answer.aligned.map((item) => item.id));
  at("base").replaceChildren(
    ...answer.base.map((item) => {
      const row = listRow(item);
      if (!kept.has(item.id)) row.append(made("span", { class: "move down" }, "not in the new list"));
      return made("li", {}, row);
    }),
  );
  const entered = answer.aligned.filter((item) => item.base_rank === null || item.base_rank > LENGTH).length;
  const moved = answer.aligned.filter((item) => item.base_rank !== item.rank).length;
  at("moved").textContent = `${moved} of ${answer.aligned.length} moved, ${entered} are new to the list.`;
}

function listRow(item) {
  const value = item.score ?? item.cosine;
  const what = item.score === undefined ? "cosine" : "score";
  const score = made("span", { class: "score", title: what }, heard(what), value.toFixed(3));
  return made("div", { class: "row" }, made("span", { class: "name" }, item.title), score);
}

// Text for screen readers, for what others see by place or shape.
const heard = (text) => made("span", { class: "heard" }, `${text} `);

function movement(item) {
  if (item.base_rank === undefined) return [];
  if (item.base_rank === null) return [made("span", { class: "move up" }, "new item")];
  const difference = item.base_rank - item.rank;
  if (!difference) return [made("span", { class: "move" }, "same place")];
  const [kind, arrow] = difference > 0 ? ["up", "▲"] : ["down", "▼"];
  const sign = made("span", { "aria-hidden": "true" }, `${arrow} `);
  return [made("span", { class: `move ${kind}` }, heard(kind), sign, `${Math.abs(difference)}, was ${item.base_rank}`)];
}

function showAligned(items) {
  at("aligned").replaceChildren(
    ...items.map((item) => {
      const row = listRow(item);
      const entry = made("li", {}, row);
      row.append(
        ...movement(item),
        folding(entry, "Why?", `Why ${item.title}?`, (signal) => explanation(item, signal)),
        folding(entry, "Similar", `Items similar to ${item.title}`, (signal) => similar(item, signal)),
      );
      return entry;
    }),
  );
}

// A button that opens a panel below its entry, filled when it is first opened.
function folding(entry, text, label, fill) {
  const button = made("button", { type: "button", class: "plain", "aria-expanded": "false", "aria-label": label }, text);
  const panel = made("div", { class: "panel", role: "region", "aria-label": label, "aria-live": "polite" });
  panel.hidden = true;
  let filled = false;
  button.addEventListener("click", async () => {
    panel.hidden = !panel.hidden;
    button.setAttribute("aria-expanded", String(!panel.hidden));
    if (!panel.isConnected) entry.append(panel);
    if (panel.hidden || filled) return;
    filled = true;
    panel.replaceChildren(made("p", {}, "Loading …"));
    try {
      panel.replaceChildren(...(await fill(asking.signal)));
    } catch (error) {
      filled = false; // requested again when the panel is opened again
      panel.replaceChildren(made("p", { class: "error" }, error.message));
    }
  });
  return button;
}

async function explanation(item, signal) {
  const asked = `v1/explanations?user=${encodeURIComponent(chosen)}&item=${encodeURIComponent(item.id)}&k=5`;
  const answer = await ask(asked, { signal });
  const reasons = answer.because.map((reason) => {
    const part = reason.contribution.toFixed(3);
    return made("li", {}, reason.title, " ", made("span", { class: "score" }, answer.exact ? `+${part}` : `cosine ${part}`));
  });
  const shown = [made("p", {}, answer.text)];
  if (reasons.length) {
    const rest = answer.exact
      ? `Contributions to the score ${answer.score.toFixed(3)}; the user's own embedding adds ${answer.own.toFixed(3)}, ` +
        `the other ${answer.history - reasons.length} items of the history add the rest:`
      : "The most similar items of the history:";
    shown.push(made("p", { class: "note" }, rest), made("ul", {}, ...reasons));
  }
  if (answer.item_profile) shown.push(made("p", {}, made("strong", {}, "The item: "), answer.item_profile));
  if (answer.terms.length) shown.push(made("p", {}, made("strong", {}, "In common: "), answer.terms.join(", ")));
  return shown;
}

async function similar(item, signal) {
  const answer = await ask(itemPath(item.id, "/similar?k=8"), { signal });
  return [made("p", { class: "note" }, "The most similar items, with their cosine:"), plainList(answer.similar)];
}

function plainList(entries) {
  const rows = entries.map((entry) => {
    const value = (entry.score ?? entry.cosine).toFixed(3);
    return made("li", {}, entry.title, " ", made("span", { class: "score" }, value));
  });
  return made("ul", {}, ...rows);
}

// -- cold start ------------------------------------------------------------------------------------------

function onSubmit(form, answer, question) {
  at(form).addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = at(form).querySelector("button");
    button.disabled = true;
    at(answer).replaceChildren(made("p", { class: "note" }, "Encoding … the first text takes some seconds."));
    try {
      at(answer).replaceChildren(...(await question()));
    } catch (error) {
      at(answer).replaceChildren(made("p", { class: "error" }, error.message));
    } finally {
      button.disabled = false;
    }
  });
}

onSubmit("taste-form", "taste-answer", async () => {
  const answer = await ask("v1/cold/users", { body: { text: at("taste").value, k: 10 } });
  const entries = answer.items.map((item) => made("li", {}, listRow(item)));
  return [made("h3", {}, "You might like"), made("ol", { class: "list" }, ...entries)];
});

onSubmit("item-form", "item-answer", async () => {
  const answer = await ask("v1/cold/items/preview", { body: { text: at("item-text").value, k: 8 } });
  return [
    made("h3", {}, "Likely users (cosine)"), plainList(answer.users),
    made("h3", {}, "Similar items (cosine)"), plainList(answer.similar),
  ];
});

// -- beginning -------------------------------------------------------------------------------------------

async function begin() {
  try {
    const health = await ask("healthz");
    base = health.base;
    const counts = `${health.users.toLocaleString("en")} users, ${health.items.toLocaleString("en")} items`;
    at("served").textContent = `${health.dataset} · run ${health.run}${base === null ? "" : ` beside ${base}`} · ${counts}`;
    at("base-box").hidden = base === null;
    at("base-box").parentElement.classList.toggle("one", base === null);
    at("base-title").textContent = `Base run: ${base}`;
    at("aligned-title").textContent = `Recommended by ${health.run}`;
    for (const form of ["taste-form", "item-form"]) {
      if (health.cold_start) continue;
      at(form).querySelector("button").disabled = true;
      at(form).append(made("p", { class: "note" }, `This run has no cold-start model; create it with: rlmrec cold fit --run ${health.run}`));
    }
    const asked = new URLSearchParams(location.hash.slice(1)).get("user");
    if (asked !== null) await choose(asked);
  } catch (error) {
    say(error.message, true);
  }
}

// Pasting a link to another user into the same tab does not reload the page.
addEventListener("hashchange", () => {
  const asked = new URLSearchParams(location.hash.slice(1)).get("user");
  if (asked !== null) choose(asked);
});

begin();
