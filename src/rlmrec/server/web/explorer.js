// The explorer page: its beginning, the search, the choice of runs, and which view is shown.
import { ask, path } from "./api.js";
import { combobox } from "./combobox.js";
import { at, count, failure, made } from "./dom.js";
import { prepareHome, showHome } from "./home.js";
import { showItem } from "./item.js";
import { link, ofRun, read, state } from "./state.js";
import { showUser } from "./user.js";

let showing = new AbortController(); // of the requests for the view
let scrolled = 0; // of the first view, to return to
let first = true;

async function find(query, signal) {
  const wanted = { q: query, limit: 5, ...ofRun() };
  const [users, items] = await Promise.all([
    query ? ask(path("users", wanted), { signal }) : { users: state.overview.users },
    ask(path("items", wanted), { signal }),
  ]);
  const user = (one) => ({ label: one.name, detail: one.note ?? one.about, choose: () => { location.hash = link({ user: one.id }); } });
  const item = (one) => ({ label: one.title, detail: one.about, choose: () => { location.hash = link({ item: one.id }); } });
  return [
    { label: query ? "Items" : "Popular items", options: items.items.map(item) },
    { label: query ? "Users" : "Users worth a look", options: users.users.slice(0, 5).map(user) },
  ];
}

function switcher(id, label, options, value, changed) {
  const select = made("select", { id }, ...options.map(([key, text]) => made("option", { value: key }, text)));
  select.value = value;
  select.addEventListener("change", () => changed(select.value));
  return made("div", { class: "switch" }, made("label", { for: id }, label), select);
}

function showMenu() {
  const { health } = state;
  at("dataset").textContent = health.dataset;
  const beside = state.base === null || state.base === state.run ? "" : ` beside ${state.base}`;
  at("served").replaceChildren(state.run, made("span", { class: "wide" }, beside));
  at("sizes").textContent = `${count(health.users, "user")}, ${count(health.items, "item")}${health.release === null ? "" : `, release ${health.release}`}`;
  const figure = (run) => (run.ndcg === null ? run.name : `${run.name} (NDCG@20 ${run.ndcg.toFixed(3)})`);
  const runs = state.runs.map((run) => [run.name, figure(run)]);
  if (runs.length < 2) return;
  at("switches").replaceChildren(
    switcher("run", "Recommender", runs, state.run, (run) => { state.run = run; choose(); }),
    switcher("base", "Beside it", [["", "nothing"], ...runs], state.base ?? "", (base) => { state.base = base || null; choose(); }),
  );
}

// Another run was chosen in the menu.
function choose() {
  const { user, item } = read();
  const now = link(user !== null ? { user } : item !== null ? { item } : {});
  if (location.hash === now || (now === "#" && !location.hash)) route();
  else location.hash = now;
}

let shownRun = null; // the run that the overview and the first view are of

async function route() {
  showing.abort();
  showing = new AbortController();
  const { signal } = showing;
  const { user, item, run, base } = read();
  state.run = run ?? state.health.run;
  state.base = base === null ? state.health.base : base || null;
  showMenu();
  at("brand").setAttribute("href", link());
  at("problem").replaceChildren();
  if (!at("home").hidden) scrolled = scrollY;
  try {
    const ofThese = `${state.run}\n${state.base}`;
    if (shownRun !== ofThese) {
      state.overview = await ask(path("overview", ofRun()), { signal });
      if (signal.aborted) return;
      shownRun = ofThese;
      showHome();
    }
    const home = user === null && item === null;
    at("home").hidden = !home;
    at("view").hidden = home;
    document.title = `${state.health.dataset} · rlmrec`;
    if (!home) {
      scrollTo(0, 0);
      const shown = user !== null ? showUser(at("view"), user, signal) : showItem(at("view"), item, signal);
      if (!first) at("view").querySelector("h1").focus();
      first = false;
      await shown;
    } else {
      at("view").replaceChildren();
      if (!first) scrollTo(0, scrolled);
      first = false;
    }
  } catch (error) {
    if (error.name !== "AbortError") at("problem").replaceChildren(failure(error, route));
  }
}

async function begin() {
  at("problem").replaceChildren();
  try {
    state.health = await ask("healthz");
    state.runs = state.health.switchable ? (await ask(path("runs"))).runs : [];
  } catch (error) {
    at("problem").replaceChildren(failure(error, begin));
    return;
  }
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the part of the address behind # names the view
    at("main").focus();
  });
  combobox(at("search"), "Users and items", find);
  prepareHome();
  addEventListener("hashchange", route);
  addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      at("search").focus();
    }
    if (event.key === "Escape" && at("menu").open) at("menu").open = false;
  });
  await route();
}

begin();
