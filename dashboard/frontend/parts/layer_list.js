// Layers with what each does at the chosen check; those with a problem first.

import { el, replace } from "../dom.js";
import { shortNames } from "../format.js";
import { LEVELS } from "../status.js";

const WORDS = { problem: "✕", watch: "!", fine: "✓" };
const NAMES = { problem: "problem", watch: "watch", fine: "no problem" };

export class LayerList {
  constructor(app) {
    this.app = app;
    this.node = el("ol", { class: "layers" });
  }

  show(states) {
    const order = [...states].sort((a, b) => LEVELS.indexOf(b.level) - LEVELS.indexOf(a.level) || a.place - b.place);
    const mark = JSON.stringify([order, this.app.place.now.layer]);
    if (this.mark === mark) return;
    this.mark = mark;
    const names = shortNames(states.map((state) => state.layer));
    const short = new Map(states.map((state, place) => [state.layer, names[place]]));
    replace(
      this.node,
      order.map((state) => this.#line(state, short.get(state.layer))),
    );
  }

  #line({ layer, level, words }, name) {
    const open = () => this.app.place.set({ view: "layer", layer });
    return el(
      "li",
      { class: level, "aria-current": layer === this.app.place.now.layer },
      el("span", { class: "sign", role: "img", "aria-label": NAMES[level] }, WORDS[level]),
      el("button", { type: "button", class: "link", "data-key": `layer ${layer}`, title: layer, onclick: open }, name),
      el("span", { class: "words" }, words || "–"),
    );
  }
}
