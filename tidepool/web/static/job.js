// One job's own view, at #job=ID: its outcome, and where its time went.

import { bar } from "./charts.js";
import { api, byId, confirmed, el, figure, say, span, time, toast } from "./dom.js";
import { requeueButton } from "./jobs.js";

const AGAIN_MS = 1000;
const TONES = { applied: "good", rejected: "warn", failed: "bad" };
const STATES = { applied: "✓ applied", rejected: "△ rejected", failed: "■ failed", queued: "… queued", deferred: "… deferred", in_progress: "▸ in progress" };

let shown = null;
let asked = 0;
let again;

/** Show the job that the address names, or nothing where it names none; returns whether it does. */
export function route() {
  const named = location.hash.match(/^#job=(.+)$/);
  shown = named ? decoded(named[1]) : null;
  byId("job").hidden = shown === null;
  byId("overview").hidden = shown !== null;
  document.title = shown === null ? "Tidepool" : `${shown} – Tidepool`;
  if (shown !== null) {
    say("job-title", shown);
    byId("job-body").replaceChildren(el("p", { class: "hint" }, "Loading …"));
    byId("job-title").focus();
  }
  load();
  return shown !== null;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Draw the job that is shown, and again each second until it has its outcome. Whatever asked before this does no more. */
async function load() {
  clearTimeout(again);
  const ticket = (asked += 1);
  const id = shown;
  if (id === null) return;
  let drawn;
  try {
    const job = await api(`/jobs/${encodeURIComponent(id)}`);
    drawn = view(job, id);
    if (!(job.status in TONES) && ticket === asked) again = setTimeout(load, AGAIN_MS);
  } catch (error) {
    drawn = [el("p", {}, error.status === 404 ? "There is no job with this id: it was never enqueued, or its outcome is older than the retention time." : error.message)];
  }
  if (ticket === asked) byId("job-body").replaceChildren(...drawn);
}

function view(job, id) {
  const settled = job.status in TONES;
  const parts = [el("p", {}, el("span", { class: `state tone-${TONES[job.status] ?? "calm"}` }, retrying(job) ? "↻ will be retried" : (STATES[job.status] ?? job.status)))];
  if (settled && job.db_us !== undefined) parts.push(latency(job));
  parts.push(el("dl", { class: "facts" }, facts(job).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])));
  if (settled) parts.push(requeueButton({ ...job, job_id: id }, load));
  else parts.push(el("button", { type: "button", class: "quiet", onclick: () => abort(id) }, "Abort"));
  return parts.filter(Boolean);
}

const retrying = (job) => !(job.status in TONES) && job.attempts > 0 && job.status !== "in_progress";

const BATCH_WORDS = "waiting for a worker, for its batch to leave, for a connection, and in the database (time of its whole batch, with the COMMIT of the previous batch)";

function latency(job) {
  const part = (name, us, fill) => ({ name, value: us, fill, words: span(us / 1000) });
  const parts = job.atomic
    ? [part("queue", job.queue_us, "fill-1"), part("batch", job.batch_us, "fill-4"), part("pool", job.pool_wait_us, "fill-2"), part("database", job.db_us, "fill-3")]
    : [part("queue", job.queue_us, "fill-1"), part("run", (Date.parse(job.finished_at) - Date.parse(job.started_at)) * 1000, "fill-3")];
  const strip = el("div", { class: "bar", role: "img" });
  const key = el("ul", { class: "keys" });
  bar(strip, key, parts);
  const total = span(parts.reduce((sum, { value }) => sum + value, 0) / 1000);
  return el("figure", { class: "split" }, el("figcaption", {}, `Where its ${total} went: ${job.atomic ? BATCH_WORDS : "waiting for a worker, and in the function"}`), strip, key);
}

function facts(job) {
  const at = (value) => (value ? time(value) : null);
  const json = (value) => (value === null || value === undefined ? null : el("pre", {}, JSON.stringify(value, null, 2)));
  return [
    ["Function", job.function], ["Last error", job.last_error], ["Next attempt", at(job.due_at)], ["Reason", job.reason], ["Error", job.error], ["Result", job.atomic === false ? null : json(job.result)],
    ["Attempts", job.attempts === undefined || job.attempts === null ? null : figure(job.attempts)], ["Worker", job.worker_id],
    ["Enqueued", at(job.enqueued_at)], ["Started", at(job.started_at)], ["Finished", at(job.finished_at)], ["Requeued", at(job.requeued_at)],
    ["Arguments", json(job.args)],
    ["Record", job.atomic === false ? "written after the job had ended; arguments and result are not kept" : null],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
}

async function abort(id) {
  if (!(await confirmed(`Abort ${id}?`, "Abort"))) return;
  try {
    await api(`/jobs/${encodeURIComponent(id)}/abort`, "POST");
    toast(`${id} is marked as aborted.`);
  } catch (error) {
    toast(error.message);
  }
  load();
}
