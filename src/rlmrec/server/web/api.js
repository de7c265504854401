// Requests to the server, and the addresses of its answers.

// Ids are integers of up to 64 bits, but numbers in JavaScript are exact only up to 53 bits: a long id becomes a string.
// Strings are matched first, so that digits within them do not change.
export function parsed(json) {
  const whole = (part) => (/^-?\d{16,}$/.test(part) ? `"${part}"` : part);
  return JSON.parse(json.replace(/"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g, whole));
}

// In a body a long integer is a number again; {whole: "…"} marks it.
export const bodyId = (id) => (typeof id === "string" && /^-?\d{16,}$/.test(id) ? { whole: id } : id);

function serialised(body) {
  const text = JSON.stringify(body);
  return text.replace(/\{"whole":"(-?\d+)"\}/g, "$1");
}

export async function ask(path, { body, signal } = {}) {
  const options = { signal, headers: { accept: "application/json" } };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["content-type"] = "application/json";
    options.body = serialised(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer.");
  }
  let answer;
  try {
    answer = parsed(await response.text());
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(`The server's answer cannot be read (status ${response.status}).`);
  }
  if (response.ok) return answer;
  const fields = (answer.fields || []).map((problem) => `${problem.field}: ${problem.message}`);
  throw new Error([answer.error, ...fields].join(" – "));
}

// The parts "." and ".." of an address are resolved, however they are encoded, unless twice.
const part = (id) => (/^\.{1,2}$/.test(id) ? id.replaceAll(".", "%252e") : encodeURIComponent(id));

// An address with the parameters that are neither null nor empty.
function withParameters(path, parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = given.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&");
  return query ? `${path}?${query}` : path;
}

export const userPath = (id, what, parameters = {}) => withParameters(`v1/users/${part(id)}/${what}`, parameters);
export const itemPath = (id, what = "", parameters = {}) => withParameters(`v1/items/${part(id)}${what}`, parameters);
export const path = (what, parameters = {}) => withParameters(`v1/${what}`, parameters);
