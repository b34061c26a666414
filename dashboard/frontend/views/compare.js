// Compare: two runs on one scale, and their difference.

import { checkPairs, layerPairs } from "../align.js";
import { theme } from "../colors.js";
import { el, fill, menu, note, replace, say } from "../dom.js";
import { atMoment, axisName, change, count, digits, moment, number, shortMoment, shortNames } from "../format.js";
import { HeatMap } from "../heatmap.js";
import { Legend } from "../parts/legend.js";
import { chanceOf, chosen, options, quantities, title } from "../quantities.js";
import { balanced, scaleOf } from "../scale.js";
import { at } from "../store.js";

export class Compare {
  constructor(app) {
    this.app = app;
    this.other = menu("Compare with", (other) => app.place.set({ other }));
    this.quantity = menu("Quantity", (value) => {
      const slash = value.indexOf("/");
      app.place.set({ family: value.slice(0, slash), quantity: value.slice(slash + 1) });
    });
    this.legend = new Legend();
    this.balance = new Legend();
    this.panels = ["a", "b", "difference"].map((name) => this.#panel(name));
    this.how = el("p", { class: "note" });
    this.readout = el("p", { class: "readout", "aria-live": "polite" });
    this.table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Values of both runs" });
    this.none = note("");
    const head = el("div", { class: "toolbar" }, this.other.node, this.quantity.node, this.legend.node);
    this.body = el(
      "div",
      {},
      this.readout,
      el(
        "div",
        { class: "three" },
        this.panels.map((one) => one.node),
      ),
      this.how,
      this.table,
    );
    this.node = el("section", { "aria-label": "Compare" }, head, this.none, this.body);
  }

  #panel(name) {
    const heading = el("h2");
    const onhover = (row, column) => this.#tell(name, row, column);
    const map = new HeatMap({ onhover, onpick: (row, column) => this.#pick(name, row, column), share: 0.5 });
    const legend = name === "difference" ? this.balance.node : null;
    return {
      heading,
      map,
      node: el("div", { class: "panel" }, el("div", { class: "toolbar" }, heading, legend), map.node),
    };
  }

  async update() {
    const { app } = this;
    const { meta, store, place } = app;
    const others = store.runs.filter((run) => run.name !== meta.name && !run.problem && run.checks);
    const name = others.find((run) => run.name === place.now.other)?.name ?? others[0]?.name;
    if (!name) return this.#nothing("There is only one run here: start TensorBoard with a folder that holds both.");
    const other = await store.ask("run", { run: name });
    fill(
      this.other.select,
      others.map((run) => ({ value: run.name, text: run.name })),
      name,
    );
    const known = new Set(quantities(other).map((one) => `${one.family}/${one.name}`));
    const shared = options(meta).filter((one) => known.has(one.value));
    if (!shared.length) return this.#nothing(`${meta.name} and ${name} have no quantity in common.`);
    const wanted = chosen(meta, place.now.family, place.now.quantity);
    const value = shared.find((one) => one.value === `${wanted.family}/${wanted.name}`)?.value ?? shared[0].value;
    fill(this.quantity.select, shared, value);
    const quantity = quantities(meta).find((one) => `${one.family}/${one.name}` === value);
    const asked = { family: quantity.family, quantity: quantity.name };
    const [a, b] = await Promise.all([app.ask("values", asked), store.ask("values", { run: name, ...asked })]);
    if (!a || app.meta !== meta) return;
    this.none.hidden = true;
    this.body.hidden = this.legend.node.hidden = this.quantity.node.hidden = false;
    this.#show({ quantity, a, b, metas: { a: meta, b: other } });
  }

  #nothing(sentence) {
    say(this.none, sentence);
    this.none.hidden = false;
    this.body.hidden = this.legend.node.hidden = this.quantity.node.hidden = true;
    this.other.node.hidden = sentence.startsWith("There is only one");
  }

  #show(found) {
    const { metas, quantity, a, b } = found;
    this.other.node.hidden = false;
    if (this.found?.a !== a || this.found?.b !== b || this.theme !== theme()) {
      this.theme = theme();
      this.painted = (this.painted ?? 0) + 1;
      this.found = { ...found, ...aligned(metas, a, b) };
      const both = [...a.values, ...b.values];
      const chance = chanceOf(metas.a, quantity, null);
      this.scale = scaleOf(both, quantity, chance, chance === null ? "" : "chance");
      this.range = balanced(this.found.difference);
    }
    this.legend.show(this.scale);
    this.balance.show(this.range, "diverging");
    this.#draw(
      0,
      metas.a,
      metas.a.layers.map((layer) => layer.name),
      (row, check) => at(a, check, row),
      this.scale,
      metas.a.name,
    );
    this.#draw(
      1,
      metas.b,
      metas.b.layers.map((layer) => layer.name),
      (row, check) => at(b, check, row),
      this.scale,
      metas.b.name,
    );
    const { layers, columns, difference } = this.found;
    const names = layers.pairs.map((pair) => pair.name);
    this.#draw(
      2,
      metas.a,
      names,
      (row, check) => difference[row * columns + check],
      this.range,
      "Difference, first minus second",
      "diverging",
    );
    const check = this.app.check;
    const partner = this.found.checks.pairs[check];
    this.panels[0].map.at(null, check);
    this.panels[1].map.at(null, partner < 0 ? null : partner);
    this.panels[2].map.at(null, check);
    say(this.how, `Layers are aligned by ${layers.how}, checks by ${this.found.checks.how}. Both maps have one scale.`);
    this.#fillTable(check, partner);
    this.#tell(null, null, null);
  }

  #draw(place, meta, names, value, scale, heading, name = "viridis") {
    const { map, heading: node } = this.panels[place];
    say(node, heading);
    const moments = meta.steps.map((_, check) => shortMoment(meta, check));
    const label = `${heading}: ${title(this.found.quantity)} of ${count(names.length, "layer")} by ${axisName(meta)}`;
    map.show({
      rows: names.length,
      columns: moments.length,
      value,
      names: shortNames(names),
      moments,
      scale,
      name,
      mark: this.painted,
      label,
    });
  }

  #fillTable(check, partner) {
    const { metas, quantity, a, b, layers } = this.found;
    const lines = layers.pairs.map((pair) => {
      const [one, other] = [at(a, check, pair.a), pair.b < 0 ? NaN : at(b, partner, pair.b)];
      const cells = [digits(one, quantity), digits(other, quantity), change(one - other)];
      return el(
        "tr",
        {},
        el("th", { scope: "row" }, pair.name),
        cells.map((text) => el("td", {}, text)),
      );
    });
    const head = ["layer", metas.a.name, metas.b.name, "difference"].map((text) => el("th", { scope: "col" }, text));
    const other =
      partner < 0 ? "which the second run has not reached" : `and ${moment(metas.b, partner)} of the second`;
    const caption = el("caption", {}, `${title(quantity)} ${atMoment(metas.a, check)} of the first run, ${other}`);
    replace(
      this.table,
      el("table", { class: "numbers" }, caption, el("thead", {}, el("tr", {}, head)), el("tbody", {}, lines)),
    );
  }

  #pick(name, row, column) {
    if (column === null) return;
    const { checks } = this.found;
    const check = name === "b" ? checks.pairs.indexOf(column) : column;
    if (check >= 0) this.app.chooseCheck(check);
  }

  #tell(name, row, column) {
    if (!name || row === null || column === null)
      return say(this.readout, "Point at a map for layer and value; click to choose a check.");
    const { metas, a, b, layers, columns, difference } = this.found;
    const meta = name === "b" ? metas.b : metas.a;
    const layer = name === "difference" ? layers.pairs[row].name : meta.layers[row].name;
    const value = {
      a: () => at(a, column, row),
      b: () => at(b, column, row),
      difference: () => difference[row * columns + column],
    }[name]();
    say(this.readout, `${layer} · ${moment(meta, column)}: ${name === "difference" ? change(value) : number(value)}`);
  }
}

/** Layers and checks that belong together, and the difference on the first run's checks. */
function aligned(metas, a, b) {
  const layers = layerPairs(metas.a.layers, metas.b.layers);
  const checks = checkPairs(metas.a, metas.b);
  const columns = metas.a.steps.length;
  const difference = new Float32Array(layers.pairs.length * columns).fill(NaN);
  layers.pairs.forEach((pair, row) => {
    checks.pairs.forEach((partner, check) => {
      if (pair.b >= 0 && partner >= 0)
        difference[row * columns + check] = at(a, check, pair.a) - at(b, partner, pair.b);
    });
  });
  return { layers, checks, columns, difference };
}
