// The first view: one's own taste, popular items, users worth a look, and who would like something new.
import { ask, bodyId, path } from "./api.js";
import { combobox } from "./combobox.js";
import { at, button, count, fill, made, say } from "./dom.js";
import { filterBar } from "./filters.js";
import { itemList, nothing, userCards, whyForTaste } from "./items.js";
import { link, ofRun, state, where } from "./state.js";

const LENGTH = 10;
const SHOWN_EXAMPLES = 3;
let liked = []; // {id, title}
let asked = null; // {text, items} of the answer that is shown; null shows what is popular
let listing = new AbortController();

function showLiked() {
  at("liked").replaceChildren(...liked.map((item) => {
    const remove = button("✕", () => unlike(item), { class: "remove", "aria-label": `Remove ${item.title}` });
    return made("li", { class: "chip" }, item.title, remove);
  }));
  at("taste-clear").hidden = !liked.length && asked === null && !at("taste").value;
}

function unlike(item) {
  liked = liked.filter((other) => other !== item);
  showLiked();
  at("likes").focus();
}

export function like(item) {
  if (!liked.some((other) => other.id === item.id)) liked.push({ id: item.id, title: item.title });
  showLiked();
}

async function popular(signal) {
  const answer = await ask(path("items", { limit: LENGTH, filter: where(), ...ofRun() }), { signal });
  if (!answer.items.length) return [nothing(clearFilters)];
  const users = (item) => [made("span", { class: "note" }, count(item.interactions, "user"))];
  return [await itemList(answer.items, { signal, ordered: false, extra: users })];
}

async function suited(signal) {
  const body = { k: LENGTH, filter: where(), why: true };
  if (asked.text) body.text = asked.text;
  if (asked.items.length) body.items = asked.items.map((item) => bodyId(item.id));
  const answer = await ask(path("cold/users", ofRun()), { body, signal });
  if (!answer.items.length) return [nothing(clearFilters)];
  say(`${count(answer.items.length, "recommendation")} for you.`);
  return [...noted(answer), await itemList(answer.items, { signal, why: (item) => whyForTaste(item) })];
}

// What the server says of a text, if it knows no word of it.
function noted(answer) {
  return answer.note ? [made("p", { class: "note" }, answer.note)] : [];
}

function clearFilters() {
  state.filters.clear();
  showFilters(false);
  showList();
}

function showFilters(open) {
  const bar = filterBar("home", () => { showFilters(true); showList(); });
  at("home-filters").replaceChildren(...bar);
  if (bar.length) bar[0].open = open;
}

export async function showList() {
  listing.abort();
  listing = new AbortController();
  const { signal } = listing;
  at("list-title").textContent = asked === null ? "Popular" : "You might like";
  await fill(at("home-list"), () => (asked === null ? popular(signal) : suited(signal)), { rows: 5, signal });
}

function examples(box, field, texts, use) {
  at(box).replaceChildren(...texts.slice(0, SHOWN_EXAMPLES).map((text) => button(text, () => {
    at(field).value = text;
    use();
  }, { class: "chip" })));
}

function recommend() {
  const text = state.health.cold_start ? at("taste").value.trim() : "";
  if (!text && !liked.length) {
    say("Describe what you like, or choose something.");
    (state.health.cold_start ? at("taste") : at("likes")).focus();
    return;
  }
  asked = { text, items: [...liked] };
  showLiked();
  showList().then(() => at("list-title").scrollIntoView({ block: "nearest" }));
}

function startOver() {
  asked = null;
  liked = [];
  at("taste").value = "";
  showLiked();
  showList();
  at("taste-title").focus();
}

let textsTimer = 0;

// Whether the first text is answered at once; asked again until it is.
function showTexts() {
  clearTimeout(textsTimer); // of an earlier call: a change of the run shows it again
  const { texts } = state.health;
  const said = { loading: "The text model is being loaded: the first answer takes some seconds.", failed: "Texts cannot be read now; the server's log says why." };
  at("texts-state").textContent = said[texts] ?? "";
  if (texts !== "loading") return;
  textsTimer = setTimeout(async () => {
    try {
      state.health.texts = (await ask("healthz")).texts;
    } catch {
      return; // the next request will say that the server does not answer
    }
    showTexts();
  }, 1500);
}

async function newItem(event) {
  event.preventDefault();
  const text = at("item-text").value.trim();
  if (!text) return;
  await fill(at("item-answer"), async () => {
    const answer = await ask(path("cold/items/preview", ofRun()), { body: { text, k: 8 } });
    const users = answer.users.map((user) => made("li", {}, made("a", { href: link({ user: user.id }) }, user.title)));
    const similar = await itemList(answer.similar.slice(0, 5), { ordered: false });
    return [...noted(answer), made("h3", {}, "Likely users"), made("ol", { class: "plainlist" }, ...users), made("h3", {}, "Items like it"), similar];
  });
}

async function find(query, signal) {
  const answer = await ask(path("items", { q: query, limit: 8, ...ofRun() }), { signal });
  const options = answer.items.map((item) => ({ label: item.title, detail: item.about, choose: () => like(item) }));
  return [{ label: query ? "Items" : "Popular items", options }];
}

export function prepareHome() {
  combobox(at("likes"), "Items", find);
  at("taste-form").addEventListener("submit", (event) => {
    event.preventDefault();
    recommend();
  });
  at("taste").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      recommend();
    }
  });
  at("taste").addEventListener("input", showLiked);
  at("taste-clear").addEventListener("click", startOver);
  at("item-form").addEventListener("submit", newItem);
}

// Everything that depends on the run; called again when another one is chosen.
export function showHome() {
  const reads = state.health.cold_start;
  const { overview } = state;
  at("taste-box").hidden = !reads;
  at("likes-note").hidden = !reads;
  at("new-box").hidden = !reads;
  const [first = "", ...others] = overview.taste_examples;
  at("taste").setAttribute("placeholder", first);
  examples("taste-examples", "taste", [first, ...others].filter(Boolean), recommend);
  at("item-text").setAttribute("placeholder", overview.item_examples[0] ?? "");
  examples("item-examples", "item-text", overview.item_examples, () => at("item-form").requestSubmit());
  at("likes").setAttribute("placeholder", "Search items");
  at("texts-state").textContent = reads ? "" : `${state.run} reads no texts: choose items instead.`;
  if (reads) showTexts();
  at("home-users").replaceChildren(userCards(overview.users));
  showFilters(false);
  showLiked();
  return showList();
}
