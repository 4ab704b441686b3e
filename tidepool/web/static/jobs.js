// Jobs that were not applied: the list, its filter, and running them again.

import { api, byId, confirmed, el, figure, redraw, say, time, toast } from "./dom.js";
import { emptyRow } from "./overview.js";

const REFRESH_MS = 10_000;
const PAGE = 10;
const SINCE_WORDS = { "10m": "of the last 10 minutes", "1h": "of the last hour", "1d": "of the last day", "": "" };

const form = byId("filter");
const body = byId("jobs").tBodies[0];
let rows = [];
let next = null;
let asked = 0;

/** Start: load the list, and again whenever the filter changes. */
export function begin() {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    load();
  });
  form.addEventListener("change", load);
  byId("jobs-more").addEventListener("click", more);
  byId("requeue-all").addEventListener("click", requeueAll);
  setInterval(refresh, REFRESH_MS);
  load();
}

/** Offer the names of functions that are known. */
export function knowFunctions(names) {
  redraw(byId("known-functions"), names, () => names.map((name) => el("option", { value: name })));
}

function filter() {
  const chosen = new URLSearchParams();
  for (const [name, value] of new FormData(form)) if (value.trim()) chosen.set(name, value.trim());
  return chosen;
}

async function load() {
  const ticket = (asked += 1);
  try {
    const found = await api(`/jobs?${filter()}&limit=${PAGE}`);
    if (ticket !== asked) return; // the filter has changed meanwhile
    rows = found.jobs;
    next = found.next;
    draw();
  } catch (error) {
    if (ticket === asked) say("jobs-words", error.message);
  }
}

/** Load anew, unless the person is at work in the list or has paged on. */
function refresh() {
  const busy = body.contains(document.activeElement) || body.matches(":hover") || rows.length > PAGE || byId("confirm").open;
  if (!busy && !document.hidden && !byId("overview").hidden) load();
}

async function more() {
  const ticket = asked;
  const from = next;
  const isStale = () => ticket !== asked || from !== next; // the list is another, or has this page
  try {
    const found = await api(`/jobs?${filter()}&limit=${PAGE}&cursor=${encodeURIComponent(from)}`);
    if (isStale()) return;
    rows = [...rows, ...found.jobs];
    next = found.next;
    draw();
  } catch (error) {
    if (!isStale()) say("jobs-words", error.message);
  }
}

function draw() {
  const status = new FormData(form).get("status");
  redraw(body, [rows, status], () => (rows.length ? rows.map(row) : emptyRow(6, `No ${status} job matches.`)));
  say("jobs-words", rows.length ? `${figure(rows.length)}${next ? " newest" : ""} ${status} job${rows.length === 1 ? "" : "s"}` : "");
  byId("jobs-more").hidden = !next;
  byId("requeue-all").disabled = rows.every((job) => !job.atomic); // plain jobs cannot run again
}

function row(job) {
  const cell = (label, ...words) => el("td", { "data-label": label }, words);
  const why = [job.reason ? el("span", { class: "why" }, job.reason.replaceAll("_", " ")) : null, el("span", { class: "error" }, job.error ?? "")];
  return el("tr", {},
    cell("Finished", time(job.finished_at)),
    cell("Job", el("a", { class: "id", href: `#job=${encodeURIComponent(job.job_id)}` }, job.job_id)),
    cell("Function", job.function),
    cell("Reason", el("span", {}, why)),
    cell("Attempts", figure(job.attempts)),
    el("td", {}, requeueButton(job, load)));
}

/** A button that runs a job again, and then calls *done*; none where the job cannot. */
export function requeueButton(job, done) {
  if (!(job.requeueable ?? (job.status !== "applied" && job.args !== null))) return null;
  if (job.requeued_at) return el("span", { class: "hint" }, "requeued");
  const press = async ({ currentTarget: button }) => {
    if (!(await confirmed(`Run ${job.job_id} again?`, "Requeue"))) return;
    button.disabled = true;
    try {
      await api(`/jobs/${encodeURIComponent(job.job_id)}/requeue`, "POST");
      toast(`${job.job_id} is in the queue again.`);
      button.blur();
    } catch (error) {
      toast(error.message);
      button.disabled = false;
    }
    done();
  };
  return el("button", { type: "button", class: "quiet", onclick: press, "aria-label": `Requeue ${job.job_id}` }, "Requeue");
}

async function requeueAll() {
  const chosen = filter();
  const words = [`Run all ${chosen.get("status")} jobs again`];
  if (chosen.get("function")) words.push(`of ${chosen.get("function")}`);
  words.push(SINCE_WORDS[chosen.get("since") ?? ""]);
  if (chosen.get("search")) words.push(`that match “${chosen.get("search")}”`);
  if (!(await confirmed(`${words.filter(Boolean).join(" ")}? This includes jobs that are not listed here.`, "Requeue all"))) return;
  try {
    const { requeued, left_out: leftOut } = await api(`/jobs/requeue?${chosen}`, "POST");
    const rest = leftOut ? ` ${figure(leftOut)} of plain functions cannot run again: their arguments are not kept.` : "";
    toast(`${figure(requeued)} job${requeued === 1 ? " is" : "s are"} in the queue again.${rest}`);
  } catch (error) {
    toast(error.message);
  }
  load();
}
