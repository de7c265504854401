// Lists of items and users.
import { ask, path } from "./api.js";
import { button, count, empty, folding, made } from "./dom.js";
import { cards, link, ofRun, state } from "./state.js";

// Columns of an item as short labels: words as they are, numbers under their name.
export function chips(columns) {
  const kinds = new Map(state.overview.columns.map((column) => [column.name, column.kind]));
  const label = (name) => name.replaceAll("_", " ");
  return Object.entries(columns).flatMap(([name, value]) => {
    const kind = kinds.get(name);
    if (kind === "flag") return [`${label(name)}: ${value ? "yes" : "no"}`];
    if (kind === "number") return [`${label(name)} ${value}`];
    if (kind === "tags") return value.split(",").map((part) => part.trim()).filter(Boolean);
    return String(value).length <= 40 ? [String(value)] : [];
  }).map((text) => made("span", { class: "chip" }, text));
}

export function picture(card) {
  if (!card?.picture) return null;
  const image = made("img", { src: card.picture, alt: "", loading: "lazy", referrerpolicy: "no-referrer", class: "picture" });
  image.addEventListener("error", () => image.remove());
  return image;
}

// One row: title, first words, labels; `extra` follows the title, `why(item)` returns what the panel shows.
function row(item, card, { extra, why }) {
  const title = made("a", { href: link({ item: item.id }), class: "name" }, item.title);
  const head = made("div", { class: "head" }, title, ...(extra ? extra(item) : []));
  const about = card?.about ? made("p", { class: "about" }, card.about) : null;
  const labels = card ? chips(card.columns).slice(0, 6) : [];
  const body = made("div", { class: "body" }, head, about, labels.length ? made("div", { class: "labels" }, ...labels) : null);
  const entry = made("li", {}, made("div", { class: "row" }, picture(card), body));
  if (why) entry.firstChild.append(folding(entry, "Why?", `Why ${item.title}?`, () => why(item)));
  return entry;
}

export async function itemList(items, { signal, extra, why, ordered = true } = {}) {
  const found = await cards(items, signal);
  const rows = items.map((item) => row(item, found.get(item.id), { extra, why }));
  return made(ordered ? "ol" : "ul", { class: ordered ? "list places" : "list" }, ...rows);
}

// What is shown where a list has no items.
export function nothing(clear) {
  if (!state.filters.size) return empty("Nothing is left to recommend.");
  return empty("Nothing matches these filters.", button("Clear the filters", clear));
}

export function userCards(users) {
  const card = (user) => {
    const note = user.note ? made("span", { class: "badge" }, user.note) : null;
    const name = made("a", { href: link({ user: user.id }), class: "name" }, user.name);
    const has = made("p", { class: "note" }, count(user.interactions, "item"));
    return made("li", { class: "card" }, made("div", { class: "head" }, name, note),
      user.about ? made("p", { class: "about" }, user.about) : null, has);
  };
  return users.length ? made("ul", { class: "cards" }, ...users.map(card)) : empty("No users.");
}

// Numbers, for those who want them.
export function numbers(rows) {
  const body = rows.map(([name, value]) => made("tr", {}, made("th", { scope: "row" }, name), made("td", {}, value)));
  return made("details", { class: "numbers" }, made("summary", {}, "Numbers"), made("table", {}, made("tbody", {}, ...body)));
}

export async function whyForUser(user, item) {
  const asked = path("explanations", { user, item: item.id, k: 5, ...ofRun() });
  const answer = await ask(asked);
  const value = (reason) => `${answer.exact ? (reason.contribution < 0 ? "" : "+") : "cosine "}${reason.contribution.toFixed(3)}`;
  const rows = answer.because.map((reason) => [reason.title, value(reason)]);
  if (answer.exact) {
    const others = answer.history - answer.because.length;
    const rest = [...(others ? [`the other ${count(others, "item")}`] : []), ...answer.own_parts].join(", ");
    if (rest) rows.push([rest,
      (answer.score - answer.because.reduce((sum, reason) => sum + reason.contribution, 0)).toFixed(3)]);
  }
  rows.push(["score", answer.score.toFixed(3)]);
  return [...answer.sentences.map((sentence) => made("p", {}, sentence)), numbers(rows)];
}

export function whyForTaste(item) {
  const { sentences, similar_users: similar } = item.why;
  const rows = [["score", item.score.toFixed(3)]];
  if (similar) rows.push([`of the ${similar.of} most similar users`, String(similar.have)]);
  return [...sentences.map((sentence) => made("p", {}, sentence)), numbers(rows)];
}

