// A field with suggestions, from the moment it has the focus (the combobox pattern of the ARIA practices).
import { made, say } from "./dom.js";

const TYPING_MS = 120; // between the last key and the request

// load(query, signal) returns groups {label, options: [{label, detail, choose}]}; the first is taken by Enter.
export function combobox(input, name, load) {
  const list = made("div", { id: `${input.id}-options`, role: "listbox", "aria-label": name });
  list.hidden = true;
  input.after(list);
  const fixed = { role: "combobox", "aria-expanded": "false", "aria-controls": list.id, "aria-autocomplete": "list",
    autocomplete: "off", autocapitalize: "off", spellcheck: "false" };
  for (const [key, value] of Object.entries(fixed)) input.setAttribute(key, value);
  let searching = new AbortController();
  let waiting = 0;
  let active = -1;
  let choices = [];

  const options = () => [...list.querySelectorAll("[role=option]")];

  function close() {
    clearTimeout(waiting);
    searching.abort();
    list.hidden = true;
    active = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }

  function activate(place) {
    const all = options();
    if (!all.length) return;
    active = (place + all.length) % all.length;
    all.forEach((option, index) => option.setAttribute("aria-selected", String(index === active)));
    input.setAttribute("aria-activedescendant", all[active].id);
    all[active].scrollIntoView({ block: "nearest" });
  }

  function choose(place) {
    const choice = choices[place];
    close();
    input.value = "";
    choice.choose();
  }

  function option(choice) {
    const place = choices.push(choice) - 1;
    const detail = choice.detail ? made("span", { class: "note" }, choice.detail) : null;
    const element = made("div", { role: "option", id: `${input.id}-option-${place}`, "aria-selected": "false" },
      made("span", {}, choice.label), detail);
    element.addEventListener("mousedown", (event) => event.preventDefault()); // the field keeps the focus
    element.addEventListener("click", () => choose(place));
    return element;
  }

  async function suggest() {
    searching.abort();
    searching = new AbortController();
    const { signal } = searching;
    try {
      const groups = (await load(input.value.trim(), signal)).filter((group) => group.options.length);
      if (signal.aborted) return;
      choices = [];
      active = -1;
      input.removeAttribute("aria-activedescendant");
      const shown = groups.map((group, index) => {
        const id = `${input.id}-group-${index}`;
        const label = made("div", { class: "group", id, role: "presentation" }, group.label);
        return made("div", { role: "group", "aria-labelledby": id }, label, ...group.options.map(option));
      });
      if (!shown.length) {
        // An option that cannot be chosen, since a listbox holds options alone.
        shown.push(made("div", { role: "option", "aria-disabled": "true", class: "none" }, `Nothing found for “${input.value.trim()}”.`));
      }
      list.replaceChildren(...shown);
      list.hidden = false;
      input.setAttribute("aria-expanded", "true");
      say(choices.length ? `${choices.length} suggestions: select with the arrow keys` : "Nothing found.");
    } catch (error) {
      if (error.name === "AbortError") return;
      list.replaceChildren(made("div", { role: "option", "aria-disabled": "true", class: "none" }, error.message));
      list.hidden = false;
    }
  }

  input.addEventListener("focus", suggest);
  input.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(suggest, TYPING_MS);
  });
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) suggest();
      else activate(event.key === "ArrowDown" ? active + 1 : active < 0 ? -1 : active - 1);
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (!list.hidden && choices.length) choose(Math.max(active, 0));
    } else if (event.key === "Escape" && !list.hidden) {
      event.stopPropagation();
      close();
    }
  });
}
