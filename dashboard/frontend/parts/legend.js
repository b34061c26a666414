// Colour bar of a map: its ends with their names, and the colour of what was not measured.

import { gradient } from "../colors.js";
import { el, say } from "../dom.js";
import { number } from "../format.js";

export class Legend {
  constructor() {
    this.low = el("span");
    this.bar = el("span", { class: "colorbar" });
    this.high = el("span");
    this.node = el(
      "div",
      { class: "legend" },
      this.low,
      this.bar,
      this.high,
      el("span", { class: "missing" }),
      el("span", {}, "not measured"),
    );
  }

  show(scale, name = "viridis") {
    this.bar.style.background = gradient(name);
    say(this.low, end(scale.lowName, scale.low));
    say(this.high, end(scale.highName, scale.high) + (scale.log ? " (logarithmic)" : ""));
  }
}

function end(name, value) {
  return name ? `${name} ${number(value)}` : number(value);
}
