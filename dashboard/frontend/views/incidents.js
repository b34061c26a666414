// Incidents, newest first, each with its way to layer and check.

import { el, fill, menu, replace } from "../dom.js";
import { count } from "../format.js";
import { incidentsOf } from "../incidents.js";
import { card } from "../parts/cards.js";

const SHOWN = [
  { value: "all", text: "all" },
  { value: "open", text: "open ones" },
  { value: "critical", text: "critical ones" },
];

export class Incidents {
  constructor(app) {
    this.app = app;
    this.title = el("h2", {});
    this.menu = menu("Show", (value) => {
      this.which = value;
      this.update();
    });
    this.which = "all";
    this.list = el("div", { class: "cards wide" });
    this.node = el(
      "section",
      { "aria-label": "Incidents" },
      el("div", { class: "toolbar" }, this.title, this.menu.node),
      this.list,
    );
  }

  update() {
    const found = incidentsOf(this.app.meta).reverse();
    const shown = found.filter(
      (one) => ({ open: one.ended === null, critical: one.severity === "critical" })[this.which] ?? true,
    );
    fill(this.menu.select, SHOWN, this.which);
    const mark = JSON.stringify([shown, this.app.meta.steps]);
    if (this.mark === mark) return;
    this.mark = mark;
    this.title.textContent = `${count(found.length, "incident")}${found.length ? ", newest first" : ""}`;
    const none = found.length
      ? "None of this kind."
      : "No incident so far. DriftAlert, which convscope.suite() includes, finds them.";
    replace(this.list, shown.length ? shown.map((one) => card(this.app, one)) : el("p", { class: "note" }, none));
  }
}
