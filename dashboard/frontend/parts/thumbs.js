// Small maps of the leading quantities, as a menu: what is wrong often shows in another quantity than the first.

import { el, replace } from "../dom.js";
import { paint } from "../heatmap.js";
import { chanceOf, leading } from "../quantities.js";
import { scaleOf } from "../scale.js";
import { theme } from "../colors.js";

export class Thumbs {
  constructor(app, onpick) {
    this.app = app;
    this.onpick = onpick;
    this.known = new Map();
    this.node = el("div", { class: "thumbs", role: "group", "aria-label": "Learning maps" });
  }

  async update(current) {
    const { app } = this;
    const found = leading(app.meta);
    const names = `${app.meta.name} ${found.map((one) => `${one.family}/${one.name}`)}`;
    if (this.names !== names) {
      this.names = names;
      this.known = new Map(found.map((one) => [one, this.#make(one)]));
      replace(
        this.node,
        [...this.known.values()].map((each) => each.button),
      );
    }
    for (const [one, each] of this.known) {
      each.button.setAttribute("aria-pressed", String(one.family === current.family && one.name === current.name));
    }
    for (const [one, each] of this.known) await this.#paint(one, each);
  }

  async #paint(one, each) {
    const { app } = this;
    const table = await app.ask("values", { family: one.family, quantity: one.name });
    const mark = `${theme()}`;
    if (!table || (each.table === table && each.mark === mark)) return;
    [each.table, each.mark] = [table, mark];
    const summary = one.kind === "probe" ? await app.ask("summary", { family: one.family }) : null;
    const scale = scaleOf(table.values, one, chanceOf(app.meta, one, summary));
    const value = (row, column) => table.values[column * table.columns + row];
    paint(each.canvas, table.columns, table.rows, value, scale, "viridis");
  }

  #make(one) {
    const canvas = el("canvas", { "aria-hidden": "true" });
    const press = { type: "button", class: "thumb", title: one.meaning, onclick: () => this.onpick(one) };
    return { canvas, button: el("button", press, canvas, el("span", {}, one.title)) };
  }
}
