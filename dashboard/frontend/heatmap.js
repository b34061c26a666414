// Heat-map of layers by checks on a canvas: one pixel for each value, enlarged by the browser.

import { ink, missing, palette, theme } from "./colors.js";
import { el, perFrame } from "./dom.js";
import { cut } from "./format.js";
import { position } from "./scale.js";

export const GUTTER = 150; // pixels left of maps and curves, the same so that their time axes are in line
export const RIGHT = 14;
const AXIS = 22;
const FONT = "11px system-ui, sans-serif";

/** Paints rows of values into a canvas of one pixel each; `value(row, column)` gives them. */
export function paint(canvas, rows, columns, value, scale, name) {
  canvas.width = Math.max(columns, 1);
  canvas.height = Math.max(rows, 1);
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  const colors = palette(name);
  const none = missing();
  for (let row = 0, place = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++, place++) {
      const found = value(row, column);
      pixels[place] = Number.isNaN(found) ? none : colors[Math.round(255 * position(found, scale))];
    }
  }
  context.putImageData(image, 0, 0);
}

/**
 * A map with names of rows at its left and moments below. `onhover(row, column)` and `onpick(row, column)` are told
 * the cell, `onhover(null)` that the pointer has left; the label column gives `onpick(row, null)`.
 */
export class HeatMap {
  constructor({ onhover, onpick, onopen, share = 0.45 }) {
    this.given = { onhover, onpick, onopen, share };
    this.cells = document.createElement("canvas");
    this.canvas = el("canvas", { "aria-hidden": "true" });
    this.cross = el("div", { class: "map-check", hidden: true });
    this.row = el("div", { class: "map-row", hidden: true });
    this.node = el(
      "div",
      { class: "map", tabindex: "0", role: "application", "aria-roledescription": "heat map" },
      this.canvas,
      this.row,
      this.cross,
    );
    this.marked = { row: null, column: null };
    this.redraw = perFrame(() => this.#draw());
    new ResizeObserver(this.redraw).observe(this.node);
    this.node.addEventListener("pointermove", (event) => this.#hover(event));
    this.node.addEventListener("pointerleave", () => onhover?.(null, null));
    this.node.addEventListener("click", (event) => this.#pick(event));
    this.node.addEventListener("dblclick", () => this.marked.row !== null && onopen?.(this.marked.row));
    this.node.addEventListener("keydown", (event) => this.#press(event));
  }

  /** Shows values `value(row, column)`; nothing is painted again if `mark` and theme are those of the last call. */
  show({ rows, columns, value, names, moments, scale, name = "viridis", mark, label }) {
    this.node.setAttribute("aria-label", label);
    const now = `${theme()} ${rows} ${columns}`;
    if (this.mark !== undefined && this.mark === mark && this.painted === now) return;
    this.mark = mark;
    this.painted = now;
    this.shown = { rows, columns, names, moments };
    paint(this.cells, rows, columns, value, scale, name);
    this.#draw();
  }

  /** Marks a row and a column, without painting. */
  at(row, column) {
    this.marked = { row, column };
    this.#place();
  }

  /** Centre of a column in pixels from the left of the map. */
  center(column) {
    const { columns } = this.shown;
    return GUTTER + ((column + 0.5) * (this.width - GUTTER - RIGHT)) / columns;
  }

  #draw() {
    const width = this.node.clientWidth;
    if (!this.shown || width < GUTTER + 40) return; // hidden: the observer calls again once it is shown
    const { rows, columns } = this.shown;
    this.width = width;
    this.high = this.#height(rows);
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round((this.high + AXIS) * ratio);
    this.canvas.style.height = `${this.high + AXIS}px`;
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.cells, 0, 0, columns, rows, GUTTER, 0, width - GUTTER - RIGHT, this.high);
    context.font = FONT;
    context.fillStyle = ink("text");
    this.#writeNames(context);
    this.#writeMoments(context);
    this.#place();
  }

  /** Few layers get high rows, many share what the window has. */
  #height(rows) {
    const most = Math.min(Math.max(innerHeight * this.given.share, 200), 560);
    return Math.min(rows * Math.min(Math.max(200 / rows, 18), 40), most);
  }

  #writeNames(context) {
    const { rows, names } = this.shown;
    const every = Math.ceil((13 * rows) / this.high);
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (let row = 0; row < rows; row += every) {
      context.fillText(cut(names[row], 23), GUTTER - 8, ((row + 0.5) * this.high) / rows, GUTTER - 12);
    }
  }

  #writeMoments(context) {
    const { columns, moments } = this.shown;
    const widest = Math.max(...moments.map((text) => text.length)) * 7 + 12;
    const every = niceStep((widest * columns) / (this.width - GUTTER - RIGHT));
    context.textAlign = "center";
    context.textBaseline = "top";
    // The check before training shifts epochs by one column: round numbers stand at round epochs.
    const first = moments.findIndex((text) => Number(text) === 0);
    for (let column = Math.max(first, 0); column < columns; column += every) {
      context.fillText(moments[column], this.center(column), this.high + 7);
    }
  }

  #place() {
    if (!this.width || !this.shown) return;
    const { rows, columns } = this.shown;
    const { row, column } = this.marked;
    const wide = (this.width - GUTTER - RIGHT) / columns;
    this.cross.hidden = column === null || column >= columns;
    this.row.hidden = row === null || row >= rows;
    if (!this.cross.hidden) {
      const shown = Math.max(wide, 3);
      this.cross.style.transform = `translateX(${this.center(column) - shown / 2}px)`;
      this.cross.style.width = `${shown}px`;
      this.cross.style.height = `${this.high}px`;
    }
    if (!this.row.hidden) {
      const shown = Math.max(this.high / rows, 3);
      this.row.style.transform = `translate(${GUTTER}px, ${((row + 0.5) * this.high) / rows - shown / 2}px)`;
      this.row.style.width = `${this.width - GUTTER - RIGHT}px`;
      this.row.style.height = `${shown}px`;
    }
  }

  /** Row and column under the pointer; the column is null over the names, the row null outside. */
  #under(event) {
    const box = this.node.getBoundingClientRect();
    const { rows, columns } = this.shown ?? {};
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    if (!this.width || y < 0 || y >= this.high) return { row: null, column: null };
    const column = Math.floor(((x - GUTTER) * columns) / (this.width - GUTTER - RIGHT));
    return { row: Math.floor((y * rows) / this.high), column: column >= 0 && column < columns ? column : null };
  }

  #hover(event) {
    const { row, column } = this.#under(event);
    this.given.onhover?.(row, column);
  }

  #pick(event) {
    const { row, column } = this.#under(event);
    if (row !== null) this.given.onpick?.(row, column);
  }

  #press(event) {
    const { rows, columns } = this.shown ?? {};
    if (!rows || event.altKey || event.ctrlKey || event.metaKey) return;
    const { row, column } = { row: this.marked.row ?? 0, column: this.marked.column ?? columns - 1 };
    const moves = {
      ArrowLeft: [row, Math.max(column - 1, 0)],
      ArrowRight: [row, Math.min(column + 1, columns - 1)],
      ArrowUp: [Math.max(row - 1, 0), column],
      ArrowDown: [Math.min(row + 1, rows - 1), column],
      Home: [row, 0],
      End: [row, columns - 1],
    };
    if (event.key === "Enter") this.given.onopen?.(row);
    else if (moves[event.key]) {
      this.at(...moves[event.key]); // at once: the next key may come before the place is drawn
      this.given.onpick?.(...moves[event.key]);
    } else return;
    event.preventDefault();
  }
}

/** The least of 1, 2, 5, 10, 20, … that is at least this large. */
export function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(Math.max(least, 1)));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least) ?? 10 * power;
}
