// The list of addresses, made of /openapi.json.
"use strict";

function made(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const BOUNDS = {
  minimum: "≥ ", maximum: "≤ ", minLength: "length ≥ ", maxLength: "length ≤ ", minItems: "at least ", maxItems: "at most ",
};

function kind(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return [...new Set(schema.anyOf.map(kind))].join(" or ");
  const name = schema.type === "array" ? `list of ${kind(schema.items)}` : schema.const ?? schema.type;
  const bounds = Object.entries(BOUNDS).filter(([key]) => key in schema).map(([key, text]) => text + schema[key]);
  return bounds.length ? `${name} (${bounds.join(", ")})` : name;
}

function fields(entries) {
  const rows = entries.map(([name, schema, required]) => {
    const whether = required ? "required" : schema.default == null ? "optional" : `default ${JSON.stringify(schema.default)}`;
    const text = [kind(schema), whether, schema.description].filter(Boolean).join("; ");
    return made("tr", {}, made("th", { scope: "row" }, made("code", {}, name)), made("td", {}, text));
  });
  return made("table", {}, made("tbody", {}, ...rows));
}

function properties(schema) {
  return fields(
    Object.entries(schema.properties ?? {}).map(([name, of]) => [name, of, (schema.required ?? []).includes(name)]),
  );
}

function operation(schemas, path, method, described) {
  const locked = described.security ? " · token" : "";
  const name = made("h3", {}, made("span", { class: "method" }, method.toUpperCase()), " ", made("code", {}, path), locked);
  const section = made("section", { class: "card" }, name, made("p", {}, described.description ?? ""));
  const parameters = described.parameters ?? [];
  if (parameters.length)
    section.append(fields(parameters.map((one) => [one.name, { description: one.description, ...one.schema }, one.required])));
  const body = described.requestBody?.content["application/json"].schema;
  if (body) section.append(made("p", { class: "note" }, "Body (JSON):"), properties(schemas[kind(body)]));
  const codes = Object.entries(described.responses).map(([code, of]) => `${code} ${of.description}`);
  section.append(made("p", { class: "note" }, `Answers: ${codes.join(" · ")}`));
  return section;
}

async function show() {
  const status = document.getElementById("status");
  try {
    const response = await fetch("openapi.json");
    if (!response.ok) throw new Error(`openapi.json: status ${response.status}`);
    const described = await response.json();
    const sections = [];
    for (const [path, methods] of Object.entries(described.paths))
      for (const [method, one] of Object.entries(methods))
        sections.push(operation(described.components.schemas, path, method, one));
    status.textContent = `${sections.length} operations, version ${described.info.version}.`;
    document.getElementById("main").append(...sections);
  } catch (error) {
    status.textContent = error.message;
  }
}

show();
