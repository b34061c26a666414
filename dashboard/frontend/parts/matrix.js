// Correlation of a layer's filters in cluster order, with filter numbers, and the list of the closest pairs.

import { theme } from "../colors.js";
import { el, perFrame, replace, say } from "../dom.js";
import { number } from "../format.js";
import { ink } from "../colors.js";
import { niceStep, paint } from "../heatmap.js";
import { Legend } from "./legend.js";

const SIDE = 340;
const MARGIN = 34;
const RANGE = { low: -1, high: 1, lowName: "ρ", highName: "", log: false };

export class Matrix {
  constructor() {
    this.cells = document.createElement("canvas");
    this.canvas = el("canvas", { class: "matrix", role: "img" });
    this.canvas.addEventListener("pointermove", (event) => this.#hover(event));
    this.readout = el("p", { class: "readout", "aria-live": "polite" });
    this.legend = new Legend();
    this.pairs = el("div", { class: "scroll pairs", tabindex: "0", role: "region", "aria-label": "Pairs of filters" });
    const left = el("div", {}, this.legend.node, this.canvas, this.readout);
    this.node = el("div", { class: "matrix-box" }, left, this.pairs);
    this.redraw = perFrame(() => this.#draw());
  }

  show(found, layer) {
    this.legend.show(RANGE, "diverging");
    if (this.found === found && this.theme === theme()) return;
    [this.found, this.theme] = [found, theme()];
    this.canvas.setAttribute(
      "aria-label",
      `Correlation of the filters of ${layer} in cluster order; pairs are listed beside it`,
    );
    this.redraw();
    this.#list();
  }

  #draw() {
    const { matrix, starts, order } = this.found;
    const side = matrix.length;
    paint(this.cells, side, side, (row, column) => matrix[row][column] ?? NaN, RANGE, "diverging");
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = this.canvas.height = Math.round((SIDE + MARGIN) * ratio);
    this.canvas.style.width = this.canvas.style.height = `${SIDE + MARGIN}px`;
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.cells, 0, 0, side, side, MARGIN, 0, SIDE, SIDE);
    context.font = "10px system-ui, sans-serif";
    context.fillStyle = ink("text");
    const every = niceStep((15 * side) / SIDE);
    const wide = niceStep((26 * side) / SIDE);
    for (let row = 0; row < side; row++) {
      const text = String(order[starts[row]]);
      const middle = ((row + 0.5) * SIDE) / side;
      if (row % every === 0) write(context, text, MARGIN - 5, middle, "right", "middle");
      if (row % wide === 0) write(context, text, MARGIN + middle, SIDE + 6, "center", "top");
    }
  }

  #hover(event) {
    if (!this.found) return;
    const { matrix } = this.found;
    const cell = (at) => Math.floor((at * matrix.length) / SIDE);
    const [row, column] = [cell(event.offsetY), cell(event.offsetX - MARGIN)];
    if (row < 0 || column < 0 || row >= matrix.length || column >= matrix.length) return;
    const text = matrix[row][column] === null ? "constant" : `ρ = ${number(matrix[row][column])}`;
    say(this.readout, `${this.#names(row)} and ${this.#names(column)}: ${text}`);
  }

  #names(cell) {
    const { starts, order } = this.found;
    const members = order.slice(starts[cell], starts[cell + 1] ?? order.length);
    return members.length === 1 ? `filter ${members[0]}` : `filters ${members.join(", ")}`;
  }

  #list() {
    const { pairs } = this.found;
    const lines = pairs
      .slice(0, 100)
      .map(([one, other, rho]) =>
        el("tr", {}, el("th", { scope: "row" }, `${one} and ${other}`), el("td", {}, number(rho))),
      );
    const head = el("tr", {}, el("th", { scope: "col" }, "filters"), el("th", { scope: "col" }, "ρ"));
    const caption = el("caption", {}, "Each filter with its closest, from |ρ| = 0.5 on");
    const table = el("table", { class: "numbers" }, caption, el("thead", {}, head), el("tbody", {}, lines));
    replace(
      this.pairs,
      lines.length ? table : el("p", { class: "note" }, "No two filters correlate with |ρ| of 0.5 or more."),
    );
  }
}

function write(context, text, x, y, align, baseline) {
  context.textAlign = align;
  context.textBaseline = baseline;
  context.fillText(text, x, y);
}
