// The text alternative of a map: its values as a table, built when it is opened.

import { el, replace } from "../dom.js";
import { digits, moment } from "../format.js";
import { spread } from "./history.js";

const MOST = 12; // checks: more columns than this are no help

export class ValuesTable {
  constructor(app) {
    this.app = app;
    this.body = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Values as a table" });
    this.node = el("details", { ontoggle: () => this.#fill() }, el("summary", {}, "Values as a table"), this.body);
  }

  show(table, quantity, check) {
    this.shown = { table, quantity, check };
    this.#fill();
  }

  #fill() {
    if (!this.node.open || !this.shown) return;
    const { table, quantity, check } = this.shown;
    const { meta } = this.app;
    const checks = columnsAt(table.rows, check);
    const head = el(
      "tr",
      {},
      el("th", { scope: "col" }, "layer"),
      checks.map((each) => el("th", { scope: "col" }, moment(meta, each))),
    );
    const lines = meta.layers.map((layer, place) =>
      el(
        "tr",
        {},
        el("th", { scope: "row" }, layer.name),
        checks.map((each) => el("td", {}, digits(table.values[each * table.columns + place], quantity))),
      ),
    );
    const caption = el("caption", {}, `${quantity.title} (${quantity.unit}): ${quantity.meaning}`);
    replace(this.body, el("table", { class: "numbers" }, caption, el("thead", {}, head), el("tbody", {}, lines)));
  }
}

/** Up to twelve checks, evenly spread, with the first, the last and the chosen one. */
function columnsAt(rows, check) {
  return [...new Set([...spread(rows, MOST), Math.min(check, rows - 1)])].sort((a, b) => a - b);
}
