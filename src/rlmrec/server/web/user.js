// The view of a user: what they are like, what they have, what is recommended and why, and what the base run changes.
import { ask, userPath } from "./api.js";
import { button, count, empty, fill, made, say } from "./dom.js";
import { filterBar } from "./filters.js";
import { itemList, nothing, whyForUser } from "./items.js";
import { link, ofRun, state, where } from "./state.js";

const LENGTH = 20;
const FAR = 5; // places from which a move matters
const FIRST = 10; // items of the history that are shown at once

function history(profile) {
  const chip = (item) => made("li", {}, made("a", { href: link({ item: item.id }), class: "chip" }, item.title));
  if (!profile.history.length) return empty("This user has nothing yet.");
  const list = made("ul", { class: "chips" }, ...profile.history.slice(0, FIRST).map(chip));
  const rest = profile.history.slice(FIRST);
  if (rest.length) {
    const more = button(`Show ${rest.length.toLocaleString("en")} more`, () => {
      more.remove();
      list.append(...rest.map(chip));
    });
    return made("div", {}, list, more);
  }
  return list;
}

const isNew = (item) => item.base_rank === null || item.base_rank > LENGTH;
const news = (items) => items.filter(isNew).length;

// The moves that matter: new in the list, or by many places.
function move(item) {
  if (isNew(item)) return [made("span", { class: "badge up" }, "new")];
  const places = item.base_rank - item.rank;
  if (Math.abs(places) < FAR) return [];
  return [made("span", { class: `badge ${places > 0 ? "up" : "down"}` }, `${places > 0 ? "up" : "down"} ${Math.abs(places)}`)];
}

function changes(answer) {
  const kept = new Set(answer.aligned.map((item) => item.id));
  const gone = answer.base.filter((item) => !kept.has(item.id));
  const fresh = news(answer.aligned);
  const named = (item) => made("li", {}, made("a", { href: link({ item: item.id }) }, item.title));
  const whole = made("details", {}, made("summary", {}, `The whole list of ${answer.base_run}`), made("ol", { class: "plainlist" }, ...answer.base.map(named)));
  if (!fresh && !gone.length) return [made("p", {}, `The list holds the same items as that of ${answer.base_run}.`), whole];
  return [
    made("p", {}, `${fresh} of the ${count(answer.aligned.length, "item")} ${fresh === 1 ? "is" : "are"} not in the list of ${answer.base_run}.`),
    gone.length ? made("p", { class: "label" }, `${answer.base_run} has these instead:`) : null,
    made("ul", { class: "plainlist" }, ...gone.map(named)),
    whole,
  ].filter((child) => child !== null);
}

export async function showUser(view, id, signal) {
  const title = made("h1", { tabindex: "-1" }, String(id));
  const intro = made("div", {});
  const filters = made("div", { class: "filters" });
  const list = made("div", { id: "recommended" });
  const beside = made("aside", { class: "card", "aria-labelledby": "changes-title" });
  beside.hidden = true;
  const heading = made("div", { class: "heading" }, made("h2", {}, "Recommended"), filters);
  const columns = made("div", { class: "columns" }, made("section", { class: "block", "aria-label": "Recommended" }, heading, list), beside);
  view.replaceChildren(made("p", {}, made("a", { href: link() }, "← Start")), title, intro, columns);

  const load = async () => {
    const compared = state.base !== null && state.base !== state.run;
    const asked = { k: LENGTH, filter: where(), ...ofRun() };
    const answer = await ask(userPath(id, compared ? "comparison" : "recommendations", compared ? { ...asked, base: state.base } : { ...asked, fallback: false }), { signal });
    const items = compared ? answer.aligned : answer.items;
    beside.hidden = !compared;
    if (compared) beside.replaceChildren(made("h2", { id: "changes-title" }, `Beside ${answer.base_run}`), ...changes(answer));
    say(`${count(items.length, "recommendation")}.`);
    if (!items.length) return [nothing(() => { state.filters.clear(); bar(false); again(); })];
    // Where most of a list is new, marks on most of its items would say nothing.
    const extra = compared && news(items) * 3 <= items.length * 2 ? move : null;
    return [await itemList(items, { signal, extra, why: (item) => whyForUser(id, item) })];
  };
  const again = () => fill(list, load, { rows: 8, signal });
  const bar = (open) => {
    const found = filterBar("user", () => { bar(true); again(); });
    filters.replaceChildren(...found);
    if (found.length) found[0].open = open;
  };
  bar(false);

  const about = async () => {
    const profile = await ask(userPath(id, "profile", ofRun()), { signal });
    title.textContent = profile.name;
    document.title = `${profile.name} · ${state.health.dataset}`;
    const reasoning = profile.reasoning ? made("details", {}, made("summary", {}, "How the profile was made"), made("p", {}, profile.reasoning)) : null;
    return [
      profile.description ? made("p", { class: "lead" }, profile.description) : null,
      profile.profile ? made("p", { id: "profile" }, profile.profile) : null,
      reasoning,
      made("h2", {}, `Has ${count(profile.interactions, "item")}`),
      history(profile),
    ].filter((child) => child !== null);
  };
  await Promise.all([fill(intro, about, { rows: 1, signal }), again()]);
}
