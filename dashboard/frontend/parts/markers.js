// Incidents as marks on the time axis of the map below them.

import { el, replace } from "../dom.js";
import { moment } from "../format.js";
import { shape } from "../incidents.js";

export class Markers {
  constructor(app, onpick) {
    this.app = app;
    this.onpick = onpick;
    this.node = el("div", { class: "markers", role: "group", "aria-label": "Incidents on the time axis" });
  }

  /** Shows incidents above the columns of a map; `center(column)` gives a column's place in pixels. */
  show(incidents, center) {
    const mark = JSON.stringify(incidents.map((one) => [one.key, one.sentence, Math.round(center(one.check))]));
    if (this.mark === mark) return;
    this.mark = mark;
    const shown = incidents.map((one) => {
      const text = `${one.severity}, ${moment(this.app.meta, one.check)}: ${one.sentence}`;
      const button = el(
        "button",
        {
          type: "button",
          class: `marker ${one.severity}`,
          title: text,
          "aria-label": text,
          "data-key": `marker ${one.key}`,
          onclick: () => this.onpick(one),
        },
        shape(one.severity),
      );
      button.style.left = `${center(one.check)}px`;
      return button;
    });
    replace(this.node, el("span", { class: "markers-title" }, incidents.length ? "incidents" : "no incidents"), shown);
  }
}
