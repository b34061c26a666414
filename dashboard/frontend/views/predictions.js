// Predictions: what each layer would say about a few fixed samples, through training, and which changed most.

import { el, fill, menu, note, replace, say } from "../dom.js";
import { atMoment, number } from "../format.js";
import { History, spread } from "../parts/history.js";
import { Strip } from "../parts/strip.js";

const ORDERS = [
  { value: "recorded", text: "as recorded" },
  { value: "changed", text: "changed most" },
  { value: "wrong", text: "least sure of the true class" },
];
const THROUGH = 32; // checks in a history
const NEEDED = ["layers", "samples", "truth", "classes", "probability"];

export class Predictions {
  constructor(app) {
    this.app = app;
    this.order = "recorded";
    this.menu = menu("Order", (order) => {
      this.order = order;
      this.update();
    });
    this.title = el("h2", {});
    this.cards = new Map();
    this.list = el("div", { class: "samples" });
    this.help = note(
      "Rows are layers in depth order, brightness is probability. Left: columns are classes, the frame is the true one. " +
        "Right: the probability of the true class through training, the frame is the chosen check.",
    );
    this.none = note('This run has no predictions: add LayerPrediction() to the callbacks, or use suite("full").');
    this.head = el("div", { class: "toolbar" }, this.title, this.menu.node);
    this.node = el("section", { "aria-label": "Predictions" }, this.head, this.help, this.list, this.none);
  }

  async update() {
    const { app } = this;
    if (!(await app.rests())) return;
    const { check, meta } = app;
    const family = meta.families.find((one) => NEEDED.every((name) => one.arrays.includes(name)));
    const now = family ? await this.#at(family, check) : null;
    const before = now && check > 0 ? await this.#at(family, check - 1) : null;
    const pictures = family?.arrays.includes("thumbnails")
      ? await app.ask("array", { family: family.name, name: "thumbnails", check })
      : null;
    if (app.check !== check || app.meta !== meta) return;
    this.none.hidden = Boolean(now);
    this.head.hidden = this.help.hidden = this.list.hidden = !now;
    if (!now) return;
    fill(this.menu.select, ORDERS, this.order);
    say(this.title, `Samples ${atMoment(meta, check)}`);
    const samples = now.samples.map((sample, row) => this.#sample(now, before, row, pictures?.value?.[row]));
    this.#sort(samples);
    replace(
      this.list,
      samples.map((sample) => this.#card(sample)),
    );
    await this.#readHistory(family);
  }

  /** Reads checks spread over training, one after another, and shows each sample's history as far as it is known. */
  async #readHistory(family) {
    const { app } = this;
    const { meta } = app;
    const checks = spread(meta.steps.length, THROUGH);
    const read = new Map();
    for (const check of checks) {
      const found = await this.#at(family, check);
      if (app.view !== this || app.meta !== meta) return;
      if (found) read.set(check, found);
      if (read.size % 8 === 0 || check === checks[checks.length - 1]) this.#showHistory(read);
    }
  }

  #showHistory(read) {
    for (const [sample, { history, layers }] of this.cards) {
      const known = new Map();
      for (const [check, found] of read) {
        const row = found.samples.indexOf(sample);
        if (row >= 0) known.set(check, ofTruth(found, row));
      }
      history.show(known, layers, `Probability of the class of sample ${sample} at each layer through training`);
    }
  }

  async #at(family, check) {
    const answers = await Promise.all(
      NEEDED.map((name) => this.app.ask("array", { family: family.name, name, check })),
    );
    if (answers.some((answer) => !answer || answer.value === null)) return null;
    return Object.fromEntries(NEEDED.map((name, place) => [name, answers[place].value]));
  }

  /** One sample as it is now: the output's class, the probability of the true one, and the change since before. */
  #sample(now, before, row, picture) {
    const names = this.app.meta.class_names;
    const label = (number) => String(names?.[number] ?? number);
    const [probability, classes] = [now.probability[row], now.classes[row]];
    const truth = classes.indexOf(now.truth[row]);
    const last = probability[probability.length - 1];
    const said = last.indexOf(Math.max(...last));
    const sample = now.samples[row];
    const old = before ? before.samples.indexOf(sample) : -1;
    const moved = old < 0 ? NaN : shift(ofTruth(now, row), ofTruth(before, old));
    return {
      sample,
      row,
      picture,
      probability,
      truth,
      moved,
      layers: now.layers,
      classes: classes.map(label),
      sure: last[truth],
      right: said === truth,
      truthName: label(now.truth[row]),
      saidName: label(classes[said]),
      saidSure: last[said],
    };
  }

  #sort(samples) {
    const orders = { changed: (a, b) => (b.moved || 0) - (a.moved || 0), wrong: (a, b) => a.sure - b.sure };
    if (orders[this.order]) samples.sort(orders[this.order]);
  }

  #card(one) {
    if (!this.cards.has(one.sample)) {
      const parts = { image: el("img", { class: "thumbnail" }), title: el("h3"), said: el("p") };
      Object.assign(parts, { strip: new Strip(), history: new History(this.app) });
      const words = el("div", {}, parts.title, parts.said);
      parts.node = el(
        "article",
        { class: "sample" },
        el("div", { class: "sample-head" }, parts.image, words),
        el("div", { class: "sample-maps" }, parts.strip.node, parts.history.canvas),
      );
      this.cards.set(one.sample, parts);
    }
    const parts = this.cards.get(one.sample);
    const { node, image, title, said, strip } = parts;
    parts.layers = one.layers.length;
    image.hidden = !one.picture;
    image.alt = `sample ${one.sample}`;
    const source = `data:image/png;base64,${one.picture}`;
    if (one.picture && image.src !== source) image.src = source;
    say(title, `Sample ${one.sample}: class ${one.truthName}`);
    const moved = Number.isNaN(one.moved) ? "" : `; changed by ${number(one.moved)} since the last check`;
    say(said, `${one.right ? "✓" : "✕"} the output says ${one.saidName} (${number(one.saidSure)})${moved}`);
    said.className = one.right ? "right" : "wrong";
    const label =
      `Sample ${one.sample}, class ${one.truthName}; probability of its class by layer: ` +
      one.layers.map((layer, row) => `${layer} ${number(one.probability[row][one.truth])}`).join(", ");
    strip.show({ ...one, label });
    return node;
  }
}

function ofTruth(found, row) {
  const column = found.classes[row].indexOf(found.truth[row]);
  return found.probability[row].map((layer) => layer[column]);
}

/** Mean change of the true class's probability over layers. */
function shift(now, before) {
  if (now.length !== before.length) return NaN;
  return now.reduce((sum, value, place) => sum + Math.abs(value - before[place]), 0) / now.length;
}
