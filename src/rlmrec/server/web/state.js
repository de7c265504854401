// What all views share: the server's answers about itself, the chosen runs, the filters, and the addresses of views.
import { ask, bodyId, path } from "./api.js";

export const state = { health: null, overview: null, runs: [], run: null, base: null, filters: new Map() };

export function read() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  return { user: parameters.get("user"), item: parameters.get("item"), run: parameters.get("run"), base: parameters.get("base") };
}

// The address of a view, with the chosen runs.
export function link(view = {}) {
  const chosen = { ...view };
  if (state.run !== state.health.run) chosen.run = state.run;
  if (state.base !== state.health.base) chosen.base = state.base ?? "";
  const parts = Object.entries(chosen).map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
  return `#${parts.join("&")}`;
}

// The parameter that names the chosen run, where it is not the one that is served anyway.
export const ofRun = () => ({ run: state.run === state.health.run ? null : state.run });

const quoted = (name) => `"${name.replaceAll('"', '""')}"`;
const literal = (text) => `'${text.replaceAll("'", "''")}'`;
// One of the values between commas, and not a part of a longer one.
const among = (text) => `(^|,)\\s*${text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}\\s*(,|$)`;

function condition(name, { kind, value, low, high }) {
  const column = quoted(name);
  if (kind === "choice") return `${column} = ${literal(value)}`;
  if (kind === "tags") return `${column} ~ ${literal(among(value))}`;
  if (kind === "flag") return `${column} = ${value}`;
  const bounds = [];
  if (low !== null) bounds.push(`${column} >= ${low}`);
  if (high !== null) bounds.push(`${column} <= ${high}`);
  return bounds.join(" AND ");
}

// The chosen filters as the SQL condition of the parameter filter; null without any.
export function where() {
  const conditions = [...state.filters].map(([name, filter]) => condition(name, filter));
  return conditions.length ? conditions.join(" AND ") : null;
}

// The first words, columns and pictures of listed items, by id.
export async function cards(items, signal) {
  if (!items.length) return new Map();
  const answer = await ask(path("items", ofRun()), { body: { items: items.map((item) => bodyId(item.id)) }, signal });
  return new Map(answer.items.map((card) => [card.id, card]));
}
