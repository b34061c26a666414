// Curves over the checks, drawn by uPlot, with the same time axis as the maps.

import uPlot from "uplot";
import { ink, seriesColor, theme } from "./colors.js";
import { el, perFrame, say } from "./dom.js";
import { number } from "./format.js";
import { GUTTER, niceStep, RIGHT } from "./heatmap.js";

const FONT = "11px system-ui, sans-serif";

/**
 * A chart of some curves. `gutter` is the space at its left: as wide as that of a map under which it stands.
 * `onhover(x)` is told where the pointer is, null if it has left.
 */
export class Curves {
  constructor({ height = 130, gutter = GUTTER, right = RIGHT, onhover, onpick } = {}) {
    this.given = { height, gutter, right, onhover, onpick };
    this.plot = null;
    this.canvas = el("div", { class: "curves-canvas", "aria-hidden": "true" });
    this.line = el("div", { class: "curves-check", hidden: true });
    this.legend = el("div", { class: "curves-legend" });
    this.node = el(
      "div",
      { class: "curves", role: "img", "aria-label": "Curves" },
      this.canvas,
      this.line,
      this.legend,
    );
    this.node.style.setProperty("--gutter", `${gutter}px`);
    this.resize = perFrame(() => this.#fit());
    new ResizeObserver(this.resize).observe(this.node);
  }

  /**
   * Shows series `{label, values, dash, color}` over `x`; `bounds` are the quantity's, `log` asks for a logarithmic
   * axis, `names(x)` writes a place of the axis, null for no axis, `mark` says whether anything has changed.
   */
  show({ x, series, span, low = null, high = null, log = false, names, mark, label }) {
    const now = `${theme()} ${mark}`;
    if (this.mark === now) return;
    this.mark = now;
    this.shown = { x, series, span, low, high, log, names, label };
    this.node.setAttribute("aria-label", `${label}: ${series.map(told).join("; ")}`);
    this.legend.replaceChildren(...series.map((one, place) => entry(one, place)));
    this.#make();
  }

  /** Moves the line to a check. */
  at(x) {
    this.x = x;
    this.#place();
  }

  /** Writes each curve's value at a place into the legend. */
  read(index) {
    [...this.legend.children].forEach((line, place) => {
      const value = this.shown?.series[place]?.values[index];
      say(line.lastChild, value === undefined || value === null || Number.isNaN(value) ? "" : number(value));
    });
  }

  #make() {
    this.plot?.destroy();
    this.plot = null;
    const width = this.node.clientWidth;
    if (!this.shown || width < this.given.gutter + 40) return; // hidden: the observer calls again
    const { x, series } = this.shown;
    const data = [x, ...series.map((one) => one.values.map((value) => point(value, this.shown.log)))];
    this.plot = new uPlot(this.#options(width), data, this.canvas);
    this.plot.over.addEventListener("pointermove", (event) => this.given.onhover?.(this.#under(event)));
    this.plot.over.addEventListener("pointerleave", () => this.given.onhover?.(null));
    this.plot.over.addEventListener("click", (event) => this.given.onpick?.(this.#under(event)));
    this.#place();
  }

  #options(width) {
    const { series, span, log, names } = this.shown;
    const { height, gutter, right } = this.given;
    const axis = { stroke: ink("muted"), font: FONT, grid: { stroke: ink("grid"), width: 1 }, ticks: { show: false } };
    const below = { ...axis, size: 20, gap: 4, grid: { show: false } };
    const left = { ...axis, size: gutter, gap: 4, space: 28, values: labels, ...(log ? { splits: powers } : {}) };
    if (names) Object.assign(below, { splits: (plot) => wholes(span, plot), values: (_, found) => found.map(names) });
    return {
      width,
      height,
      padding: [8, right, names === null ? 6 : 0, 0],
      legend: { show: false },
      cursor: { show: false },
      scales: {
        x: { time: false, range: () => span },
        y: { distr: log ? 3 : 1, range: log ? undefined : (_, low, high) => this.#range(low, high) },
      },
      axes: [names === null ? { show: false } : below, left],
      series: [{}, ...series.map((one, place) => line(one, place))],
    };
  }

  /** The curves' own range with some room, never beyond what the quantity can be. */
  #range(low, high) {
    if (low === null || high === null) return [0, 1];
    const { low: least, high: most } = this.shown;
    const room = (high - low) * 0.08 || Math.abs(high) * 0.05 || 0.05;
    const from = least !== null && low - room < least ? Math.min(least, low) - room * 0.3 : low - room;
    const to = most !== null && high + room > most ? Math.max(most, high) + room * 0.3 : high + room;
    return [from, to];
  }

  #fit() {
    const width = this.node.clientWidth;
    if (!this.plot) this.#make();
    else if (width > this.given.gutter + 40 && width !== this.plot.width) {
      this.plot.setSize({ width, height: this.given.height });
      this.#place();
    }
  }

  #place() {
    const known = this.plot && this.x !== undefined && this.x !== null;
    this.line.hidden = !known;
    if (!known) return;
    const { gutter, right } = this.given;
    const [from, to] = this.shown.span;
    const place = gutter + ((this.x - from) / (to - from)) * (this.plot.width - gutter - right);
    this.line.style.transform = `translateX(${place - 1}px)`;
  }

  #under(event) {
    return this.plot.posToVal(event.clientX - this.plot.over.getBoundingClientRect().left, "x");
  }
}

/** A value as uPlot takes it: null is a gap, undefined a place at which this curve has no point. */
function point(value, log) {
  if (value === undefined) return undefined;
  return Number.isFinite(value) && (!log || value > 0) ? value : null;
}

function line(one, place) {
  const few = one.values.filter((value) => Number.isFinite(value)).length <= 40;
  return {
    stroke: one.color ?? seriesColor(place),
    width: one.dash ? 1.25 : 1.75,
    dash: one.dash,
    points: { show: few && !one.dash, size: 4, fill: one.color ?? seriesColor(place) },
    spanGaps: false,
  };
}

function entry(one, place) {
  const mark = el("span", { class: one.dash ? "swatch dashed" : "swatch" });
  mark.style.borderColor = one.color ?? seriesColor(place);
  return el(
    "div",
    { title: one.label },
    mark,
    el("span", { class: "name" }, one.label),
    el("span", { class: "value" }),
  );
}

function labels(_, found) {
  return found.map((value) => (value === null ? "" : number(value)));
}

/** Powers of ten, thinned where there are many: a logarithmic axis with a line at each digit is a wall. */
function powers(plot) {
  const [from, to] = [Math.floor(Math.log10(plot.scales.y.min)), Math.ceil(Math.log10(plot.scales.y.max))];
  const step = Math.max(1, Math.ceil((to - from) / 5));
  return Array.from({ length: Math.floor((to - from) / step) + 1 }, (_, place) => 10 ** (from + place * step));
}

function wholes([from, to], plot) {
  const wide = plot.bbox.width / (window.devicePixelRatio || 1);
  const step = niceStep(((to - from) * 34) / Math.max(wide, 1));
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) found.push(at);
  return found;
}

/** A curve in words, for those who cannot see it. */
function told({ label, values }) {
  const found = values.filter((value) => Number.isFinite(value));
  if (!found.length) return `${label} was not measured`;
  const low = found.reduce((least, value) => Math.min(least, value));
  const high = found.reduce((most, value) => Math.max(most, value));
  const [first, last] = [found[0], found[found.length - 1]];
  return `${label} from ${number(first)} to ${number(last)}, least ${number(low)}, greatest ${number(high)}`;
}
