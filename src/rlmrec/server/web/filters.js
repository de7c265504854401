// Filters over the items' columns; all lists of the page obey them.
import { button, made } from "./dom.js";
import { state } from "./state.js";

const MOST = 8; // columns that are offered
const label = (name) => name.replaceAll("_", " ");

function menu(column, id, values, changed) {
  const options = [["", "any"], ...values].map(([value, text]) => made("option", { value }, text));
  const select = made("select", { id }, ...options);
  select.value = String(state.filters.get(column.name)?.value ?? "");
  select.addEventListener("change", () => {
    if (select.value === "") state.filters.delete(column.name);
    else state.filters.set(column.name, { kind: column.kind, value: select.value });
    changed();
  });
  return made("div", {}, made("label", { for: id }, label(column.name)), select);
}

function range(column, id, changed) {
  const now = state.filters.get(column.name) ?? { low: null, high: null };
  const field = (which, text, bound) => {
    const input = made("input", { id: `${id}-${which}`, type: "number", step: "any", placeholder: String(bound) });
    input.value = now[which] ?? "";
    input.addEventListener("change", () => {
      const filter = { kind: "number", low: null, high: null, ...state.filters.get(column.name) };
      filter[which] = input.value === "" ? null : Number(input.value);
      if (filter.low === null && filter.high === null) state.filters.delete(column.name);
      else state.filters.set(column.name, filter);
      changed();
    });
    return [made("label", { for: input.id, class: "heard" }, `${label(column.name)} ${text}`), input];
  };
  const legend = made("span", { class: "label" }, label(column.name));
  const fields = made("div", { class: "range" }, ...field("low", "from", column.low), "–", ...field("high", "to", column.high));
  return made("div", {}, legend, fields);
}

// The filters of a list; `changed` makes the list again. Empty if no column can filter.
export function filterBar(prefix, changed) {
  const columns = state.overview.columns.filter((column) => !["text", "picture"].includes(column.kind)).slice(0, MOST);
  if (!columns.length) return [];
  const controls = columns.map((column, index) => {
    const id = `${prefix}-filter-${index}`;
    if (column.kind === "number") return range(column, id, changed);
    if (column.kind === "flag") return menu(column, id, [["true", "yes"], ["false", "no"]], changed);
    return menu(column, id, column.values.map((value) => [value, value]), changed);
  });
  const active = state.filters.size;
  const clear = button("Clear", () => { state.filters.clear(); changed(); });
  clear.hidden = !active;
  const summary = made("summary", {}, active ? `Filters (${active})` : "Filters");
  const box = made("details", { class: "filter" }, summary, made("div", { class: "controls" }, ...controls, clear));
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && box.open) { box.open = false; summary.focus(); }
  });
  return [box];
}
