// The view of an item: its text, profile and columns, what is like it, and who would like it.
import { ask, itemPath } from "./api.js";
import { button, count, empty, fill, made } from "./dom.js";
import { like } from "./home.js";
import { chips, itemList, picture, userCards } from "./items.js";
import { link, ofRun, state } from "./state.js";

const NEAREST = 6;

async function nearest(id, by, signal) {
  const answer = await ask(itemPath(id, "/similar", { k: NEAREST, by: by === "text" ? by : null, ...ofRun() }), { signal });
  return [answer.similar.length ? await itemList(answer.similar, { signal, ordered: false }) : empty("Nothing is like it.")];
}

export async function showItem(view, id, signal) {
  const title = made("h1", { tabindex: "-1" }, String(id));
  const intro = made("div", {});
  const box = (heading, note) => {
    const inside = made("div", {});
    const section = made("section", { class: "block" }, made("h2", {}, heading), made("p", { class: "note" }, note), inside);
    return [section, inside];
  };
  const [users, ofUsers] = box("Who would like it", "Users who do not have it yet, the likeliest first.");
  const [behaviour, ofBehaviour] = box("Liked together", "What the same users like.");
  const [text, ofText] = box("Alike by description", "What is described in a similar way.");
  view.replaceChildren(made("p", {}, made("a", { href: link() }, "← Start")), title, intro, users, made("div", { class: "columns even" }, behaviour, text));

  const about = async () => {
    const item = await ask(itemPath(id, "", ofRun()), { signal });
    title.textContent = item.title;
    document.title = `${item.title} · ${state.health.dataset}`;
    const labels = chips(item.columns);
    const add = button("I like this", () => {
      like(item);
      location.hash = link();
    }, { class: "" });
    const reasoning = item.reasoning ? made("details", {}, made("summary", {}, "How the profile was made"), made("p", {}, item.reasoning)) : null;
    const facts = made("div", {}, labels.length ? made("div", { class: "labels" }, ...labels) : null,
      made("p", { class: "note" }, item.cold ? "New: added by its text." : `${count(item.interactions, "user")} in training`),
      item.profile ? made("p", { class: "lead" }, item.profile) : null,
      item.description ? made("p", {}, item.description) : null, reasoning, made("div", { class: "actions" }, add));
    return [made("div", { class: "intro" }, picture(item), facts)];
  };
  const likely = async () => {
    const answer = await ask(itemPath(id, "/users", { k: NEAREST, ...ofRun() }), { signal });
    return [answer.users.length ? userCards(answer.users) : empty("Everybody has it.")];
  };
  // Without text vectors there is nothing to compare: the section is left out, which is no error.
  const byText = async () => {
    try {
      return await nearest(id, "text", signal);
    } catch (error) {
      if (error.name !== "AbortError") text.hidden = true;
      throw error;
    }
  };
  const all = [fill(intro, about, { rows: 1, signal }), fill(ofUsers, likely, { signal }), fill(ofBehaviour, () => nearest(id, "embedding", signal), { signal })];
  if (state.overview.texts) all.push(fill(ofText, byText, { signal }));
  else text.hidden = true;
  await Promise.all(all);
}
