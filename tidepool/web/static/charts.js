// Charts over time, drawn by uPlot: lines that differ by dash as well as by colour, and a key that is text.

import { byId, clock, el, figure, redraw, say, svg } from "./dom.js";

/* global uPlot */

const MINUTE = 60;
const STEPS_S = [10, 20, 30, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 20 * MINUTE, 30 * MINUTE, 60 * MINUTE, 120 * MINUTE, 240 * MINUTE, 480 * MINUTE];
const DASHES = [[], [6, 3], [2, 3], [10, 3, 2, 3], [1, 4], [12, 4], [4, 2, 1, 2], [8, 2]];
const charts = new Set();
const dark = matchMedia("(prefers-color-scheme: dark)");
const sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => target.chart.fit()));

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

dark.addEventListener("change", () => charts.forEach((chart) => chart.rebuild()));

/** One chart in the element of that id. `filled`: the first line has an area below it; `least`: what its axis reaches. */
export class Chart {
  constructor(id, { format = figure, filled = false, least = 1 } = {}) {
    this.host = byId(id);
    this.host.chart = this;
    this.title = this.host.previousElementSibling.textContent;
    this.format = format;
    this.filled = filled;
    this.least = least;
    this.none = el("p", { class: "none" }, "No data for this time");
    this.key = el("ul", { class: "keys" });
    this.host.after(this.key);
    this.lines = [];
    charts.add(this);
    sizes.observe(this.host);
  }

  /** Show *lines*, `{name, color, values}` each, at *times* (Unix seconds), on an axis from *from* to *until*. */
  show(times, lines, from, until) {
    const same = lines.length === this.lines.length && lines.every((line, n) => line.name === this.lines[n].name && line.color === this.lines[n].color);
    this.lines = lines;
    this.data = [times, ...lines.map((line) => line.values)];
    this.range = [from, until];
    const empty = !lines.some((line) => line.values.some((value) => value !== null));
    if (same && this.plot) this.plot.setData(this.data);
    else this.rebuild();
    if (empty && !this.none.isConnected) this.host.append(this.none);
    if (!empty) this.none.remove();
    this.tell();
  }

  rebuild() {
    this.plot?.destroy();
    this.plot = null;
    if (!this.data || !this.host.clientWidth) return;
    const grid = { stroke: ink("--line"), width: 1 };
    const axis = { stroke: ink("--soft"), grid, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    this.plot = new uPlot(
      {
        width: this.host.clientWidth,
        height: this.host.clientHeight,
        legend: { show: false },
        padding: [8, 18, 0, 0],
        cursor: { drag: { x: false, y: false }, points: { size: 6 } },
        scales: { x: { time: true, range: () => this.range }, y: { range: (_, __, most) => [0, Math.max(most * 1.1, this.least)] } },
        axes: [
          { ...axis, grid: { show: false }, size: 26, incrs: STEPS_S, space: 72, values: (_, at, __, ___, step) => at.map((s) => clock(s * 1000).slice(0, step < MINUTE ? 8 : 5)) },
          { ...axis, size: 54, space: 32, values: (_, values) => values.map(this.format) },
        ],
        series: [{}, ...this.lines.map((line, n) => this.drawn(line, n))],
        hooks: { setCursor: [() => this.tell()] },
      },
      this.data,
      this.host,
    );
  }

  drawn({ color }, n) {
    const stroke = ink(color);
    const few = () => this.lines[n].values.filter((value) => value !== null).length < 3; // of one alone there is no line
    return { stroke, width: 1.75, dash: DASHES[n % DASHES.length], fill: this.filled && n === 0 ? `${stroke}22` : undefined, points: { show: few, size: 5, fill: stroke }, spanGaps: false };
  }

  fit() {
    if (!this.plot) this.rebuild();
    else if (this.plot.width !== this.host.clientWidth) this.plot.setSize({ width: this.host.clientWidth, height: this.host.clientHeight });
  }

  /** Write the key, with the values at the pointer or else the newest, and the chart's name for screen readers. */
  tell() {
    const at = this.plot?.cursor.idx;
    const entries = this.lines.map((line) => [line.name, line.color, this.format(at === null || at === undefined ? newest(line.values) : line.values[at])]);
    redraw(this.key, entries, () => entries.map(([name, color, value], n) => el("li", {}, sample(color, n), el("span", { class: "name" }, name), el("b", {}, value))));
    this.host.setAttribute("role", "img");
    this.host.setAttribute("aria-label", `${this.title}: ${entries.map(([name, , value]) => `${name} ${value}`).join(", ") || "no data"}`);
  }
}

function newest(values) {
  for (let n = values.length - 1; n >= 0; n -= 1) if (values[n] !== null) return values[n];
  return null;
}

function sample(color, n) {
  return svg("svg", { width: 22, height: 8, "aria-hidden": "true" }, svg("line", { x1: 0, x2: 22, y1: 4, y2: 4, stroke: `var(${color})`, "stroke-width": 2, "stroke-dasharray": DASHES[n % DASHES.length].join(" ") || null }));
}

/** A line without axes, for a table's cell. */
export function sparkline(values, width = 76, height = 20) {
  const most = Math.max(...values, 1e-9);
  const step = width / Math.max(values.length - 1, 1);
  const points = values.map((value, n) => `${(n * step).toFixed(1)},${(height - 1.5 - (value / most) * (height - 3)).toFixed(1)}`);
  return svg("svg", { width, height, "aria-hidden": "true" }, svg("polyline", { points: points.join(" "), fill: "none", stroke: "var(--s1)", "stroke-width": 1.5, "stroke-linejoin": "round" }));
}

/** A bar in parts, `{name, value, fill, words}` each, with its key. */
export function bar(host, key, parts) {
  redraw(host, parts, () => parts.filter((part) => part.value > 0).map((part) => {
    const piece = el("span", { class: part.fill, title: `${part.name}: ${part.words}` });
    piece.style.flexGrow = part.value;
    return piece;
  }));
  redraw(key, parts, () => parts.map((part) => el("li", {}, el("span", { class: `swatch ${part.fill}`, "aria-hidden": "true" }), el("span", {}, part.name), el("b", {}, part.words))));
  host.setAttribute("aria-label", parts.map((part) => `${part.name} ${part.words}`).join(", "));
}
