// A sample through training: the probability of its class at each layer and check, beside its strip.

import { ink, theme } from "../colors.js";
import { el, perFrame } from "../dom.js";
import { shortMoment } from "../format.js";
import { niceStep, paint } from "../heatmap.js";
import { RANGE, rowHeight } from "./strip.js";

const WIDTH = 220;

export class History {
  constructor(app) {
    this.app = app;
    this.cells = document.createElement("canvas");
    this.canvas = el("canvas", { class: "history", role: "img" });
    this.canvas.addEventListener("click", (event) => this.#pick(event));
    this.redraw = perFrame(() => this.#draw());
  }

  /** `known` has for some checks, in order, the probability of the true class at each layer. */
  show(known, layers, label) {
    const now = `${theme()} ${this.app.check} ${layers} ${[...known.keys()]}`;
    if (this.mark === now) return;
    this.mark = now;
    this.shown = { checks: [...known.keys()], columns: [...known.values()], layers };
    this.canvas.setAttribute("aria-label", label);
    this.redraw();
  }

  #draw() {
    const { checks, columns, layers } = this.shown;
    const high = layers * rowHeight(layers);
    paint(this.cells, layers, checks.length, (row, column) => columns[column]?.[row] ?? NaN, RANGE, "viridis");
    const ratio = window.devicePixelRatio || 1;
    Object.assign(this.canvas, { width: Math.round(WIDTH * ratio), height: Math.round((high + 18) * ratio) });
    Object.assign(this.canvas.style, { width: `${WIDTH}px`, height: `${high + 18}px` });
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.cells, 0, 0, checks.length, layers, 0, 0, WIDTH, high);
    const wide = WIDTH / checks.length;
    context.font = "10px system-ui, sans-serif";
    context.fillStyle = ink("text");
    context.textAlign = "center";
    const every = niceStep(30 / wide);
    for (let place = 0; place < checks.length; place += every) {
      context.fillText(shortMoment(this.app.meta, checks[place]), (place + 0.5) * wide, high + 13);
    }
    context.strokeStyle = ink("mark");
    context.lineWidth = 2;
    const own = nearest(checks, this.app.check);
    context.strokeRect(own * wide + 1, 1, Math.max(wide - 2, 1), high - 2);
  }

  #pick(event) {
    const { checks } = this.shown;
    const check = checks[Math.floor((event.offsetX * checks.length) / WIDTH)];
    if (check !== undefined) this.app.chooseCheck(check);
  }
}

/** Place of the check that is nearest to one. */
function nearest(checks, check) {
  return checks.reduce(
    (best, each, place) => (Math.abs(each - check) < Math.abs(checks[best] - check) ? place : best),
    0,
  );
}

/** Some checks of a run, evenly spread, with the first and the last. */
export function spread(checks, most) {
  const count = Math.min(checks, most);
  return Array.from({ length: count }, (_, place) => Math.round((place * (checks - 1)) / Math.max(count - 1, 1)));
}
