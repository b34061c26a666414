// Layer: everything about one layer, over time and at the chosen check, and its filters.

import { el, fill, menu, replace, say } from "../dom.js";
import { atMoment, count } from "../format.js";
import { incidentsOf } from "../incidents.js";
import { Bars } from "../parts/bars.js";
import { card } from "../parts/cards.js";
import { columnsOf, FilterTable } from "../parts/filter_table.js";
import { Matrix } from "../parts/matrix.js";
import { extraColumns } from "../parts/extra_columns.js";
import { QuantityCharts } from "../parts/quantity_charts.js";

export class Layer {
  constructor(app) {
    this.app = app;
    this.layers = menu("Layer", (layer) => app.place.set({ layer }));
    this.before = el("button", { type: "button", "aria-label": "Previous layer", onclick: () => this.#move(-1) }, "‹");
    this.after = el("button", { type: "button", "aria-label": "Next layer", onclick: () => this.#move(1) }, "›");
    this.facts = el("span", { class: "note" });
    this.incidents = el("section", { class: "cards wide" });
    this.charts = new QuantityCharts(app);
    this.families = menu("Filters by", (family) => {
      this.family = family;
      this.update();
    });
    this.bars = new Bars();
    this.matrix = new Matrix();
    this.table = new FilterTable();
    this.pictures = el("div", { class: "pictures" });
    this.parts = {
      bars: section("Distribution over filters", this.families.node, this.bars.node),
      matrix: section("Correlation of filters", this.matrix.node),
      table: section("Filters", this.table.node),
      pictures: section("Pictures", this.pictures),
    };
    const head = el("div", { class: "toolbar" }, this.before, this.layers.node, this.after, this.facts);
    const two = el("div", { class: "two" }, this.parts.matrix, this.parts.bars);
    const training = section("Over training", this.charts.node);
    this.node = el("div", {}, head, this.incidents, training, two, this.parts.table, this.parts.pictures);
  }

  async update() {
    const { app } = this;
    const { meta } = app;
    const place = Math.max(app.layer, 0);
    const layer = meta.layers[place];
    fill(
      this.layers.select,
      meta.layers.map(({ name }) => ({ value: name, text: name })),
      layer.name,
    );
    this.before.disabled = place <= 0;
    this.after.disabled = place >= meta.layers.length - 1;
    const spatial = layer.spatial?.length ? ` of ${layer.spatial.join(" × ")}` : "";
    say(
      this.facts,
      `${layer.kind} · ${count(layer.channels, "filter")}${spatial} · layer ${place + 1} of ${meta.layers.length}`,
    );
    this.#showIncidents(layer.name);
    this.charts.at(app.check);
    if (!(await app.rests())) return;
    await this.charts.update(place);
    this.charts.at(app.check);
    await this.#showFilters(layer.name);
    this.#showPictures(layer.name);
  }

  #move(by) {
    const { meta } = this.app;
    const place = Math.min(Math.max(this.app.layer, 0) + by, meta.layers.length - 1);
    this.app.place.set({ layer: meta.layers[Math.max(place, 0)].name });
  }

  #showIncidents(layer) {
    const found = incidentsOf(this.app.meta)
      .filter((one) => one.layers.includes(layer))
      .reverse();
    const mark = JSON.stringify([found, layer]);
    if (this.mark === mark) return;
    this.mark = mark;
    replace(
      this.incidents,
      found.length ? el("h2", {}, "Incidents of this layer") : [],
      found.slice(0, 3).map((one) => card(this.app, one, true)),
    );
  }

  async #showFilters(layer) {
    const { app } = this;
    const { meta, check } = app;
    const families = meta.families.filter((one) => one.filters.includes(layer));
    const tables = await Promise.all(families.map((one) => app.ask("filters", { family: one.name, layer })));
    const filters = families
      .map((one, place) => ({ ...described(one), table: tables[place] }))
      .filter((one) => one.table?.rows);
    const correlated = meta.families.find((one) => one.matrices.includes(layer));
    const correlation = correlated ? await app.ask("correlation", { family: correlated.name, layer, check }) : null;
    const extra = await extraColumns(app, layer);
    if (app.check !== check || meta.layers[Math.max(app.layer, 0)].name !== layer) return; // the place has changed meanwhile
    this.parts.matrix.hidden = !correlated;
    if (correlation) this.matrix.show(correlation, layer);
    this.matrix.node.hidden = !correlation;
    this.parts.matrix.firstChild.textContent =
      correlation || !correlated
        ? `Correlation of filters ${atMoment(meta, check)}`
        : `Correlation of filters was not measured ${atMoment(meta, check)}`;
    const columns = columnsOf(meta, check, { filters, correlation, ...extra });
    this.parts.table.hidden = columns.length < 2;
    if (columns.length > 1) this.table.show(columns);
    this.#showBars(filters, check);
  }

  #showBars(filters, check) {
    this.parts.bars.hidden = !filters.length;
    if (!filters.length) return;
    const one =
      filters.find((each) => each.family === this.family) ??
      filters.find((each) => each.kind === "importance") ??
      filters[0];
    fill(
      this.families.select,
      filters.map((each) => ({ value: each.family, text: each.title })),
      one.family,
    );
    const { values, columns, rows } = one.table;
    const row = check < rows ? Array.from(values.slice(check * columns, (check + 1) * columns)) : [];
    this.bars.show(row, one.title);
  }

  #showPictures(layer) {
    const { app } = this;
    const tags = app.meta.pictures.filter((tag) => tag.endsWith(`/${layer}`));
    this.parts.pictures.hidden = !tags.length;
    const shown = tags.map((tag) => {
      const source = app.store.picture({ run: app.meta.name, tag, check: app.check });
      return el(
        "figure",
        {},
        el("figcaption", {}, tag),
        el("img", { src: source, alt: `${tag} ${atMoment(app.meta, app.check)}`, loading: "lazy" }),
      );
    });
    const mark = `${tags} ${app.check} ${app.meta.revision}`;
    if (this.drawn === mark) return;
    this.drawn = mark;
    replace(this.pictures, shown);
  }
}

function section(title, ...nodes) {
  return el("section", {}, el("h2", {}, title), ...nodes);
}

/** How a family's values per filter are called. */
function described(family) {
  const known = {
    importance: ["importance", "Importance of the filter; the callback's criterion"],
    health: ["active", "Share of held-out samples for which it is active anywhere"],
    ablation: ["ablation", "Rise of the loss without the filter"],
    resampling: ["influence", "Influence of the filter on the output among perturbed copies"],
    parts: ["filter loss", "Part interpretability: lower is closer to one part of one class"],
  };
  const [name, help] = known[family.kind] ?? [family.name, `Value of ${family.name} for each filter`];
  const title = family.name === family.kind ? name : family.name.replace(`${family.kind}_`, "");
  return { family: family.name, kind: family.kind, title, help };
}
