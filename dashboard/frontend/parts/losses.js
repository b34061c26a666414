// The run's own curves (losses first), on the time axis of the map.

import { theme } from "../colors.js";
import { Curves } from "../curves.js";
import { el, fill, menu } from "../dom.js";

const MOST = 4; // curves at once

export class Losses {
  constructor(app, onhover) {
    this.app = app;
    this.curves = new Curves({ height: 110, onhover, onpick: (x) => app.chooseCheck(Math.round(x)) });
    this.menu = menu("Curve", (curve) => app.place.set({ curve }));
    this.node = el("div", { class: "losses" }, this.curves.node, this.menu.node);
  }

  async update() {
    const { app } = this;
    const { meta } = app;
    const found = await app.ask("curves");
    const tags = found?.tags ?? [];
    this.node.hidden = !tags.length;
    if (!tags.length) return;
    const losses = tags.filter((tag) => /loss/i.test(tag)).slice(0, MOST);
    const names = [
      ...(losses.length > 1 ? [{ value: "", text: "all losses" }] : []),
      ...tags.map((tag) => ({ value: tag, text: tag })),
    ];
    const wanted = tags.includes(app.place.now.curve)
      ? [app.place.now.curve]
      : losses.length
        ? losses
        : tags.slice(0, 1);
    fill(this.menu.select, names, wanted.length > 1 ? "" : wanted[0]);
    const curves = [];
    for (const tag of wanted) curves.push({ tag, ...((await app.ask("curve", { tag })) ?? { steps: [], values: [] }) });
    this.#show(meta, curves);
  }

  #show(meta, curves) {
    this.curves.at(this.app.check);
    const mark = `${meta.name} ${meta.revision} ${curves.map((one) => `${one.tag} ${one.steps.length}`)} ${theme()}`;
    if (this.mark === mark) return;
    this.mark = mark;
    const steps = [...new Set(curves.flatMap((one) => one.steps))].sort((a, b) => a - b);
    const series = curves.map(({ tag, steps: own, values }) => {
      const known = new Map(own.map((step, place) => [step, values[place]]));
      return { label: tag, values: joined(steps, known) };
    });
    this.curves.show({
      x: steps.map((step) => placeOf(step, meta.steps)),
      series,
      span: [-0.5, meta.steps.length - 0.5],
      names: null,
      mark,
      label: "Curves",
    });
    this.curves.at(this.app.check);
  }

  at(check) {
    this.curves.at(check);
  }
}

/** Values at all steps; uPlot joins over `undefined`, which means that a curve has no point there. */
function joined(steps, known) {
  return steps.map((step) => (known.has(step) ? (known.get(step) ?? NaN) : undefined));
}

/** A step's place on the axis of checks: between two checks it is between them. */
export function placeOf(step, steps) {
  if (!steps.length) return 0;
  if (step <= steps[0]) return 0;
  const last = steps.length - 1;
  if (step >= steps[last]) return last + (step - steps[last]) / Math.max(steps[last] - (steps[last - 1] ?? 0), 1);
  let [low, high] = [0, last];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= step) low = middle;
    else high = middle;
  }
  return low + (step - steps[low]) / Math.max(steps[high] - steps[low], 1);
}
