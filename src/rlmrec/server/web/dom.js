// Elements. All data is inserted as text nodes and attributes, and never parsed as HTML.

export const at = (id) => document.getElementById(id);

export function made(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

// Text for screen readers, for what others see by place or shape.
export const heard = (text) => made("span", { class: "heard" }, `${text} `);
export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

export function say(message) {
  at("status").textContent = message;
}

export function button(text, onClick, attributes = {}) {
  const element = made("button", { type: "button", class: "plain", ...attributes }, text);
  element.addEventListener("click", onClick);
  return element;
}

// What is shown while a list is on its way.
export function skeleton(rows = 4) {
  const line = () => made("div", { class: "bone" });
  const bones = Array.from({ length: rows }, () => made("div", { class: "bones" }, line(), line()));
  return made("div", { "aria-hidden": "true", class: "skeleton" }, ...bones);
}

export const empty = (text, ...more) => made("div", { class: "empty" }, made("p", {}, text), ...more);

export function failure(error, retry) {
  const again = retry ? button("Try again", retry) : null;
  return made("div", { class: "failure", role: "alert" }, made("p", {}, error.message), again);
}

// Fill a box: a skeleton first, then what `work` returns, or the reason why not.
export async function fill(box, work, { rows = 4, signal = null } = {}) {
  box.setAttribute("aria-busy", "true");
  box.replaceChildren(skeleton(rows));
  try {
    const children = await work();
    if (signal?.aborted) return;
    box.replaceChildren(...children);
  } catch (error) {
    if (error.name === "AbortError" || signal?.aborted) return;
    box.replaceChildren(failure(error, () => fill(box, work, { rows, signal })));
  } finally {
    if (!signal?.aborted) box.removeAttribute("aria-busy");
  }
}

// A button that opens a panel below its entry, filled when it is first opened.
export function folding(entry, text, label, work) {
  const panel = made("div", { class: "panel", role: "region", "aria-label": label, "aria-live": "polite" });
  panel.hidden = true;
  const toggle = button(text, async () => {
    panel.hidden = !panel.hidden;
    toggle.setAttribute("aria-expanded", String(!panel.hidden));
    if (!panel.isConnected) entry.append(panel);
    if (!panel.hidden && !panel.childElementCount) await fill(panel, work, { rows: 1 });
  }, { "aria-expanded": "false", "aria-label": label });
  return toggle;
}
