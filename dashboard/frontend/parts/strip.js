// Prediction strip of a sample: probability of each class at each layer, as a small map.

import { ink, theme } from "../colors.js";
import { el, perFrame, say } from "../dom.js";
import { cut, number, shortNames } from "../format.js";
import { paint } from "../heatmap.js";

const LEFT = 104;
const WIDTH = 300;
const ROW = { least: 5, most: 18 };
const TALLEST = 190;
export const RANGE = { low: 0, high: 1, log: false };

/** Pixels of a layer's row, the same in the strip and in the history beside it. */
export function rowHeight(rows) {
  return Math.min(Math.max(TALLEST / rows, ROW.least), ROW.most);
}

export class Strip {
  constructor() {
    this.cells = document.createElement("canvas");
    this.canvas = el("canvas", { class: "strip", role: "img" });
    this.readout = el("p", { class: "readout small" });
    this.node = el("div", {}, this.canvas, this.readout);
    this.redraw = perFrame(() => this.#draw());
    this.canvas.addEventListener("pointermove", (event) => this.#hover(event));
    this.canvas.addEventListener("pointerleave", () => say(this.readout, ""));
  }

  /** `probability[layer][class]`, names of layers and classes, and the column of the true class. */
  show({ probability, layers, classes, truth, label }) {
    const mark = `${theme()} ${JSON.stringify([probability, classes, truth])}`;
    if (this.mark === mark) return;
    this.mark = mark;
    this.shown = { probability, layers, classes, truth };
    this.canvas.setAttribute("aria-label", label);
    this.redraw();
  }

  #draw() {
    const { probability, layers, classes, truth } = this.shown;
    const [rows, columns] = [layers.length, classes.length];
    this.row = rowHeight(rows);
    this.wide = (WIDTH - LEFT) / columns;
    const slanted = classes.some((name) => name.length * 7 > this.wide);
    const below = slanted ? 52 : 18;
    const high = rows * this.row;
    paint(this.cells, rows, columns, (row, column) => probability[row][column] ?? NaN, RANGE, "viridis");
    const ratio = window.devicePixelRatio || 1;
    Object.assign(this.canvas, { width: Math.round(WIDTH * ratio), height: Math.round((high + below) * ratio) });
    Object.assign(this.canvas.style, { width: `${WIDTH}px`, height: `${high + below}px` });
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.cells, 0, 0, columns, rows, LEFT, 0, WIDTH - LEFT, high);
    context.font = "10px system-ui, sans-serif";
    context.fillStyle = ink("text");
    const every = Math.ceil(11 / this.row);
    context.textBaseline = "middle";
    context.textAlign = "right";
    const names = shortNames(layers);
    for (let row = 0; row < rows; row += every) {
      context.fillText(cut(names[row], 17), LEFT - 6, (row + 0.5) * this.row, LEFT - 8);
    }
    classes.forEach((name, place) => this.#writeClass(context, name, place, high, slanted, place === truth));
    context.strokeStyle = ink("mark");
    context.lineWidth = 2;
    if (truth >= 0) context.strokeRect(LEFT + truth * this.wide + 1, 1, this.wide - 2, high - 2);
  }

  #writeClass(context, name, place, high, slanted, own) {
    context.save();
    context.translate(LEFT + (place + 0.5) * this.wide, high + 9);
    if (own) context.font = "bold 10px system-ui, sans-serif";
    if (slanted) context.rotate(-Math.PI / 4);
    context.textAlign = slanted ? "right" : "center";
    context.fillText(cut(name, 9), 0, 0);
    context.restore();
  }

  #hover(event) {
    const { probability, layers, classes } = this.shown;
    const [row, column] = [Math.floor(event.offsetY / this.row), Math.floor((event.offsetX - LEFT) / this.wide)];
    const known = row < layers.length && column >= 0 && column < classes.length;
    say(this.readout, known ? `${layers[row]}, ${classes[column]}: ${number(probability[row][column])}` : "");
  }
}
