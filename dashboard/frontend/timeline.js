// The check that all views show: a slider with its moment, and a button that follows the newest check.

import { el, say } from "./dom.js";
import { moment } from "./format.js";

export class Timeline {
  constructor(app) {
    this.app = app;
    this.range = el("input", {
      type: "range",
      min: 0,
      step: 1,
      "aria-label": "Check",
      oninput: () => this.#choose(Number(this.range.value)),
    });
    this.label = el("output", { class: "moment" });
    this.earlier = el("button", { type: "button", "aria-label": "Previous check", onclick: () => this.#move(-1) }, "‹");
    this.later = el("button", { type: "button", "aria-label": "Next check", onclick: () => this.#move(1) }, "›");
    this.newest = el("button", { type: "button", onclick: () => app.place.set({ step: null }) }, "Newest");
    this.node = el(
      "section",
      { class: "timeline", "aria-label": "Time" },
      this.earlier,
      this.range,
      this.later,
      this.label,
      this.newest,
    );
  }

  update() {
    const { meta, check } = this.app;
    const last = meta.steps.length - 1;
    this.range.max = Math.max(last, 0);
    if (Number(this.range.value) !== check) this.range.value = check;
    const step = meta.triggers[check] === "step" ? "" : ` · step ${meta.steps[check]}`;
    const text = `${moment(meta, check)} · check ${check + 1} of ${last + 1}${step}`;
    say(this.label, text);
    this.range.setAttribute("aria-valuetext", text);
    this.earlier.disabled = check <= 0;
    this.later.disabled = check >= last;
    this.newest.setAttribute("aria-pressed", String(this.app.place.now.step === null));
  }

  #move(by) {
    this.#choose(this.app.check + by);
  }

  #choose(check) {
    this.app.chooseCheck(check);
  }
}
