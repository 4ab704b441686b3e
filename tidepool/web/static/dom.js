// Elements, words and requests. Text becomes text nodes only: nothing that came from a job is ever read as HTML.

export const byId = (id) => document.getElementById(id);

/** Make an element: `attributes` by name (`class`, `data-…`, `on…` listeners), then its children; null ones are left out. */
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same of SVG. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set an element's text, touching the page only where it changes. */
export function say(target, words) {
  const element = typeof target === "string" ? byId(target) : target;
  const text = String(words);
  if (element.textContent !== text) element.textContent = text;
}

/** Replace what an element has by what *make* returns, where *facts* differ from the last time. */
export function redraw(element, facts, make) {
  const key = JSON.stringify(facts);
  if (element.drawnFrom === key) return;
  element.drawnFrom = key;
  element.replaceChildren(...[make()].flat());
}

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A figure with as many digits as one can use. */
export function figure(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0 || Math.abs(value) >= 100 || Number.isInteger(value)) return WHOLE.format(value);
  return value >= 10 ? value.toFixed(1) : value < 0.01 ? "< 0.01" : String(Number(value.toFixed(2)));
}

export const share = (value) => (value > 0 && value < 0.01 ? "< 1 %" : `${Math.round(value * 100)} %`);

/** A duration in milliseconds, in words. */
export function span(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${figure(ms)} ms`;
  const s = ms / 1000;
  if (s < 120) return `${figure(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} days`;
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DATE = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

export const clock = (at) => CLOCK.format(new Date(at));

/** The time of day, with the date where it is not today's. */
export function moment(at) {
  const date = new Date(at);
  return date.toDateString() === new Date().toDateString() ? CLOCK.format(date) : `${DATE.format(date)}, ${CLOCK.format(date)}`;
}

export function time(at) {
  return el("time", { datetime: at, title: new Date(at).toLocaleString() }, moment(at));
}

/** Ask the service; returns the JSON document. Throws an `Error` with the words of the problem. */
export async function api(path, method = "GET") {
  const body = method === "GET" ? {} : { headers: { "Content-Type": "application/json" }, body: "{}" };
  let answer;
  try {
    answer = await fetch(path, { method, ...body });
  } catch {
    throw new Error("The service does not answer.");
  }
  if (answer.status === 401) location.assign("/sign-in");
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(found.detail || `The service answered ${answer.status}.`), { status: answer.status });
  return found;
}

/** Ask the person; returns whether the answer was yes. */
export function confirmed(words, yes) {
  const dialog = byId("confirm");
  say("confirm-words", words);
  say("confirm-yes", yes);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

let fading;

/** Show a message for five seconds. */
export function toast(words) {
  const element = byId("toast");
  say(element, words);
  element.classList.add("shown");
  clearTimeout(fading);
  fading = setTimeout(() => element.classList.remove("shown"), 5000);
}
