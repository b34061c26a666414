// Layers with what each does at the chosen check; those with a problem first.

import { el, replace, say } from "../dom.js";
import { shortNames } from "../format.js";
import { LEVELS } from "../status.js";

const SIGNS = { problem: "✕", watch: "!", fine: "✓", none: "–" };
const NAMES = { problem: "problem", watch: "watch", fine: "no problem", none: "not judged" };

export class LayerList {
  constructor(app) {
    this.app = app;
    this.lines = new Map();
    this.node = el("ol", { class: "layers" });
  }

  /** Shows the states; lines are kept, since a hundred new ones per move of the slider would be felt. */
  show(states) {
    const names = shortNames(states.map((state) => state.layer));
    states.forEach((state, place) => this.#update(state, names[place]));
    const order = [...states].sort((a, b) => LEVELS.indexOf(b.level) - LEVELS.indexOf(a.level) || a.place - b.place);
    const mark = JSON.stringify(order.map((state) => state.layer));
    if (this.mark === mark) return;
    this.mark = mark;
    replace(
      this.node,
      order.map((state) => this.lines.get(state.layer).node),
    );
  }

  #update({ layer, level, words }, name) {
    if (!this.lines.has(layer)) this.lines.set(layer, this.#line(layer));
    const line = this.lines.get(layer);
    say(line.name, name);
    say(line.words, words || "–");
    if (layer === this.app.place.now.layer) line.node.setAttribute("aria-current", "true");
    else line.node.removeAttribute("aria-current");
    if (line.level === level) return;
    line.level = level;
    line.node.className = level;
    line.sign.setAttribute("aria-label", NAMES[level]);
    say(line.sign, SIGNS[level]);
  }

  #line(layer) {
    const open = () => this.app.place.set({ view: "layer", layer });
    const sign = el("span", { class: "sign", role: "img" });
    const name = el("button", { type: "button", class: "link", "data-key": layer, title: layer, onclick: open });
    const words = el("span", { class: "words" });
    return { node: el("li", {}, sign, name, words), sign, name, words };
  }
}
