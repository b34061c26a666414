// Distribution of a layer's filters: their values in falling order, as bars.

import { ink, seriesColor, theme } from "../colors.js";
import { el, perFrame, say } from "../dom.js";
import { number } from "../format.js";

const HEIGHT = 130;
const LEFT = 54;

export class Bars {
  constructor() {
    this.canvas = el("canvas", { role: "img" });
    this.readout = el("p", { class: "readout" });
    this.node = el("div", { class: "bars" }, this.canvas, this.readout);
    this.redraw = perFrame(() => this.#draw());
    new ResizeObserver(this.redraw).observe(this.node);
    this.canvas.addEventListener("pointermove", (event) => this.#hover(event.offsetX));
    this.canvas.addEventListener("pointerleave", () => this.#tell());
  }

  /** Shows one value for each filter; NaN values are left out. */
  show(values, label) {
    const found = values.map((value, filter) => ({ value, filter })).filter((one) => Number.isFinite(one.value));
    found.sort((a, b) => b.value - a.value);
    const mark = `${theme()} ${label} ${JSON.stringify(found)}`;
    if (this.mark === mark) return;
    this.mark = mark;
    this.found = found;
    const ends = found.length ? `, from ${number(found[0].value)} to ${number(found[found.length - 1].value)}` : "";
    this.canvas.setAttribute("aria-label", `${label} of ${found.length} filters in falling order${ends}`);
    this.redraw();
    this.#tell();
  }

  #draw() {
    const width = this.node.clientWidth;
    if (!this.found?.length || width < LEFT + 40) return;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(HEIGHT * ratio);
    this.canvas.style.height = `${HEIGHT}px`;
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    const [high, low] = [Math.max(0, this.found[0].value), Math.min(0, this.found[this.found.length - 1].value)];
    const y = (value) => 8 + ((high - value) / (high - low || 1)) * (HEIGHT - 16);
    this.wide = (width - LEFT) / this.found.length;
    context.fillStyle = seriesColor(0);
    const gap = this.wide > 4 ? 1 : 0;
    this.found.forEach(({ value }, place) => {
      const top = y(Math.max(value, 0));
      context.fillRect(
        LEFT + place * this.wide,
        top,
        Math.max(this.wide - gap, 0.5),
        Math.max(y(Math.min(value, 0)) - top, 0.5),
      );
    });
    context.fillStyle = ink("muted");
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const value of new Set([high, 0, low])) context.fillText(number(value), LEFT - 6, y(value));
  }

  #hover(x) {
    const one = this.found?.[Math.floor((x - LEFT) / this.wide)];
    if (one) say(this.readout, `filter ${one.filter}: ${number(one.value)}`);
  }

  #tell() {
    const most = this.found?.slice(0, 5).map((one) => one.filter) ?? [];
    say(
      this.readout,
      most.length ? `greatest: ${most.length > 1 ? "filters" : "filter"} ${most.join(", ")}` : "no filter was measured",
    );
  }
}
