// The overview: one picture of the service, drawn into the page.

import { Chart, bar, sparkline } from "./charts.js";
import { byId, el, figure, redraw, say, share, span, time } from "./dom.js";

const PROCESS_COLORS = ["--s1", "--s2", "--s4", "--s5", "--s6", "--s8", "--s7", "--s3"];
const OUTCOMES = [["applied", "--s1"], ["rejected", "--s2"], ["failed", "--s3"]];
const WINDOW_WORDS = { "5m": "in 5 minutes", "1h": "in an hour", "1d": "in a day" };
const RECENT = 2; // stretches of five seconds
const STALE_S = 60;
const GAP_S = 4;

const VERDICTS = {
  ok: ["good", "✓", "The pool does not limit the jobs"],
  pool_too_small: ["warn", "▲", "The pool is too small"],
  pool_too_large: ["calm", "▽", "The pool is larger than it needs to be"],
  budget_bound: ["warn", "▲", "The server has too few connections"],
  hold_too_long: ["warn", "▲", "Connections are held too long"],
  database_bound: ["warn", "▲", "The database is the bottleneck"],
  loop_bound: ["warn", "▲", "The worker's event loop is the bottleneck"],
  churn: ["warn", "▲", "Connections are opened again and again"],
  leak: ["bad", "■", "A connection leaks"],
  incident: ["bad", "■", "The database was unavailable"],
  insufficient_data: ["calm", "…", "Not enough data yet"],
};

const charts = {
  outcomes: new Chart("chart-outcomes", { filled: true }),
  depth: new Chart("chart-depth", { filled: true }),
  oldest: new Chart("chart-oldest", { filled: true, format: (s) => (s === null ? "–" : span(s * 1000)) }),
  in_use: new Chart("chart-in-use"),
  waiting: new Chart("chart-waiting"),
  wait_p95_ms: new Chart("chart-wait", { format: span }),
};

/** Draw a picture, as `GET /picture` answers it. */
export function show(picture) {
  const until = Date.parse(picture.at) / 1000;
  const shown = [until - picture.window_s, until];
  tiles(picture);
  throughput(picture, shown);
  queue(picture, until);
  pools(picture, shown);
  budget(picture.server, until);
  events(picture.events);
  nextSteps(picture);
}

function summed(functions, status) {
  return functions.reduce((sum, one) => one.rates[status].map((rate, n) => rate + (sum[n] ?? 0)), []);
}

function tiles({ tallies, queue: found, history, window: name }) {
  const rates = OUTCOMES.map(([status]) => summed(tallies.functions, status).slice(-RECENT));
  const rate = rates.reduce((sum, of) => sum + of.reduce((a, b) => a + b, 0) / Math.max(of.length, 1), 0);
  say("tile-rate", tallies.times.length ? `${figure(rate)}/s` : "unknown");
  say("tile-rate-aside", "jobs, last 10 seconds");
  say("tile-waiting", found ? figure(found.waiting) : "unknown");
  say("tile-waiting-aside", found ? `${figure(found.running)} running` : "Redis does not answer");
  say("tile-oldest", found ? (found.oldest_s === null ? "none" : span(found.oldest_s * 1000)) : "unknown");
  say("tile-oldest-aside", found ? "waiting for a worker" : "Redis does not answer");
  say("tile-workers", figure(history.live));
  say("tile-workers-aside", history.ended ? `${figure(history.ended)} ended ${WINDOW_WORDS[name]}` : "processes");
  const total = (status) => tallies.functions.reduce((sum, one) => sum + one.jobs[status], 0);
  say("tile-bad", tallies.times.length ? figure(total("failed") + total("rejected")) : "unknown");
  say("tile-bad-aside", `${figure(total("failed"))} failed, ${figure(total("rejected"))} rejected, ${figure(total("retried"))} retries`);
}

function throughput({ tallies, history, window: name }, shown) {
  const live = name === "5m";
  const lines = OUTCOMES.map(([status, color]) => ({ name: status, color, values: live ? summed(tallies.functions, status) : history.outcomes[status] }));
  charts.outcomes.show(live ? tallies.times : history.times, lines, ...shown);
  redraw(byId("functions").tBodies[0], tallies.functions, () => tallies.functions.length ? tallies.functions.map(functionRow) : emptyRow(6, tallies.times.length ? "No job has finished in the last five minutes." : "Not known: no worker process has written figures in this time."));
}

function functionRow({ function: name, jobs, rates }) {
  const all = rates.applied.map((rate, n) => rate + rates.rejected[n] + rates.failed[n]);
  const recent = all.slice(-RECENT);
  const rate = recent.reduce((a, b) => a + b, 0) / Math.max(recent.length, 1);
  const count = (value, flag) => el("td", { class: value ? (flag ? "flag" : "") : "zero" }, figure(value));
  return el("tr", {}, el("th", { scope: "row", title: name }, name), el("td", {}, sparkline(thinned(all)), el("span", { class: "rate" }, figure(rate))), count(jobs.applied), count(jobs.rejected), count(jobs.failed, true), count(jobs.retried, true));
}

function thinned(values, most = 38) {
  const step = Math.ceil(values.length / most) || 1;
  const parts = [];
  for (let n = values.length % step; n < values.length; n += step) parts.push(values.slice(n, n + step).reduce((a, b) => a + b, 0) / step);
  return parts;
}

function queue({ queue: found }, until) {
  say("queue-hint", found ? "The last five minutes in which a page was open. Redis keeps no history." : "Redis does not answer: the queue is unknown.");
  const { times, waiting, running, oldest_s } = parted(found ? found.series : { times: [], waiting: [], running: [], oldest_s: [] });
  charts.depth.show(times, [{ name: "waiting", color: "--s1", values: waiting }, { name: "running", color: "--s2", values: running }], until - 300, until);
  charts.oldest.show(times, [{ name: "oldest", color: "--s1", values: oldest_s }], until - 300, until);
}

/** Series with a gap wherever nobody looked. */
function parted(series) {
  const gaps = series.times.flatMap((at, n) => (n && at - series.times[n - 1] > GAP_S ? [n] : []));
  const broken = (values, gap) => values.flatMap((value, n) => (gaps.includes(n) ? [gap(n), value] : [value]));
  const between = (n) => (series.times[n] + series.times[n - 1]) / 2;
  return Object.fromEntries(Object.entries(series).map(([name, values]) => [name, broken(values, name === "times" ? between : () => null)]));
}

function pools({ history, groups }, shown) {
  verdicts(groups);
  const drawn = [...history.pools].sort((a, b) => (a.process < b.process ? -1 : 1)).slice(0, PROCESS_COLORS.length);
  for (const name of ["in_use", "waiting", "wait_p95_ms"]) {
    charts[name].show(history.times, drawn.map((pool, n) => ({ name: pool.process, color: PROCESS_COLORS[n], values: pool.series[name] })), ...shown);
  }
  redraw(byId("processes").tBodies[0], history.pools.map(({ series, ...rest }) => rest), () => history.pools.length ? history.pools.map(processRow) : emptyRow(8, "No worker process has written figures in this time."));
  const more = history.live - history.pools.length;
  say("processes-more", more > 0 ? `and ${figure(more)} more; the busiest are shown` : "");
}

function processRow(pool) {
  const cell = (label, words, name = null) => el("td", { "data-label": label, class: name }, words);
  return el("tr", {},
    el("th", { scope: "row", class: "id" }, pool.process),
    cell("In use / limit", pool.limit || pool.in_use ? `${pool.in_use} / ${pool.limit}${pool.waiting ? `, ${pool.waiting} waiting` : ""}` : "–"),
    cell("Used", pool.limit ? share(pool.use) : "–"),
    cell("With a queue", pool.limit ? share(pool.queued) : "–", pool.queued >= 0.01 ? "flag" : null),
    cell("Batch wait", span(pool.batch_wait_ms)),
    cell("Wait p95", span(pool.wait_p95_ms)),
    cell("Jobs/s", figure(pool.jobs_per_second)),
    cell("Memory", `${figure(Math.round(pool.memory_mb))} MB`));
}

/** Draw the verdicts; figures that a person has opened stay open, and in focus. */
function verdicts(groups) {
  const host = byId("verdicts");
  const opened = [...host.querySelectorAll("details")].map((details) => details.open);
  const focused = [...host.querySelectorAll("summary")].indexOf(document.activeElement);
  redraw(host, groups, () => (groups?.length ? groups.map((group, n) => verdict(group, opened[n])) : el("p", { class: "hint" }, groups ? "Nothing to judge: no live worker has reported a pool for long enough." : "Judging the last 15 minutes …")));
  if (focused >= 0) host.querySelectorAll("summary")[focused]?.focus();
}

function verdict(group, opened) {
  const [tone, sign, title] = VERDICTS[group.verdict] ?? ["calm", "•", group.verdict];
  const count = group.processes.length;
  return el("article", { class: `verdict tone-${tone}` },
    el("h3", {}, el("span", { class: "sign", "aria-hidden": "true" }, sign), title, el("code", {}, group.verdict)),
    el("p", {}, `${sentence(group.words)} ${group.advice}`),
    el("details", { open: opened ? "" : null }, el("summary", {}, `${count} process${count === 1 ? "" : "es"} with a pool of ${group.pool_limit}, the last 15 minutes: the figures`),
      el("ul", {}, group.evidence.map((one) => el("li", {}, evidence(one))))));
}

const sentence = (words) => `${words[0].toUpperCase()}${words.slice(1)}.`;

function evidence({ name, value, unit, limit, exceeds }) {
  const number = (of) => (of === null ? "unknown" : unit === "share" ? share(of) : `${figure(of)} ${unit}`.trim());
  return `${name}: ${number(value)}${limit === null ? "" : ` (limit: ${exceeds === "below" ? "below" : "from"} ${number(limit)})`}`;
}

function budget(server, now) {
  const known = server !== null;
  byId("budget-bar").hidden = byId("budget-keys").hidden = !known;
  if (!known) return say("budget-words", "Unknown: no worker has reported the state of the server.");
  const age = now - Date.parse(server.tick) / 1000;
  const old = age > STALE_S ? ` As of ${span(age * 1000)} ago: no worker has reported since.` : "";
  say("budget-words", `${figure(server.granted)} of ${figure(server.usable)} connections that workers may have are granted to ${figure(server.workers)} of them.${old}`);
  const others = server.backends - server.backends_of_workers - server.backends_orphaned;
  const free = Math.max(0, server.max_connections - server.reserved_connections - server.backends);
  const part = (name, value, fill) => ({ name, value, fill, words: figure(value) });
  bar(byId("budget-bar"), byId("budget-keys"), [
    part("workers", server.backends_of_workers, "fill-1"),
    part("others", others, "fill-2"),
    part("of lost workers", server.backends_orphaned, "fill-3"),
    part("free", free, "fill-4"),
    part("reserved", server.reserved_connections, "fill-5"),
  ]);
}

function events(found) {
  redraw(byId("events"), found, () => found.length
    ? found.map((one) => el("li", {}, time(one.at), el("span", { class: "what" }, one.kind.replaceAll("_", " ")), one.detail, el("span", { class: "who id" }, one.process)))
    : el("li", { class: "hint" }, "Nothing in the last day: no leak, no restart, no saturation."));
}

const STEPS = {
  worker: ["Start a worker, or several:", `${document.body.dataset.program} work --workers 2`],
  jobs: ["Enqueue some jobs, as your application does."],
};

function nextSteps({ history, has_results: hasResults, queue: found }) {
  const steps = [];
  if (!history.live) steps.push("worker");
  if (!hasResults && !found?.waiting && !found?.running) steps.push("jobs");
  byId("next").hidden = !steps.length;
  say("next-title", steps.length > 1 ? "Nothing is running yet" : steps[0] === "worker" ? "No worker is running" : "No job has run yet");
  redraw(byId("next-steps"), steps, () => steps.map((name) => el("li", {}, STEPS[name][0], STEPS[name][1] ? el("pre", {}, STEPS[name][1]) : null)));
}

export function emptyRow(columns, words) {
  return [el("tr", {}, el("td", { class: "none", colspan: columns }, words))];
}
