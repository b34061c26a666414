// Overview: which layers learn, which stand still, when something broke and where.

import { ink, theme } from "../colors.js";
import { Curves } from "../curves.js";
import { el, fill, mark, menu, replace, say } from "../dom.js";
import { atMoment, axisName, capital, change, count, moment, number, shortMoment, shortNames } from "../format.js";
import { HeatMap } from "../heatmap.js";
import { incidentsOf } from "../incidents.js";
import { card } from "../parts/cards.js";
import { LayerList } from "../parts/layer_list.js";
import { Legend } from "../parts/legend.js";
import { Markers } from "../parts/markers.js";
import { Losses } from "../parts/losses.js";
import { Thumbs } from "../parts/thumbs.js";
import { ValuesTable } from "../parts/values_table.js";
import { chanceOf, chosen, first, knowledge, options, title } from "../quantities.js";
import { scaleOf } from "../scale.js";
import { states } from "../status.js";
import { at, column } from "../store.js";

const NOTHING = "No number of a layer was measured in this run: convscope.suite() has the callbacks that do.";

export class Overview {
  constructor(app) {
    this.app = app;
    this.hovered = { row: null, column: null };
    this.headline = el("h2", { class: "headline" });
    this.quantity = menu("Quantity", (value) => this.#pickQuantity(value));
    this.meaning = el("span", { class: "meaning" });
    this.legend = new Legend();
    this.readout = el("p", { class: "readout", "aria-live": "polite" });
    this.thumbs = new Thumbs(app, (one) => app.place.set({ family: one.family, quantity: one.name }));
    this.markers = new Markers(app, (one) =>
      app.place.set({ step: String(app.meta.steps[one.check]), layer: one.known[0] ?? null }),
    );
    this.map = new HeatMap({
      onhover: (row, columnUnder) => this.#hover(row, columnUnder),
      onpick: (row, columnUnder) => this.#pick(row, columnUnder),
      onopen: (row) => app.place.set({ view: "layer", layer: app.meta.layers[row].name }),
    });
    this.axis = el("p", { class: "axis-name" });
    this.curve = new Curves({
      height: 110,
      onhover: (x) => this.#hoverCheck(x),
      onpick: (x) => app.chooseCheck(Math.round(x)),
    });
    this.losses = new Losses(app, (x) => this.#hoverCheck(x));
    this.table = new ValuesTable(app);
    this.list = new LayerList(app);
    this.cards = el("div", { class: "cards" });
    this.listTitle = el("h2", {});
    new ResizeObserver(() => this.#mark()).observe(this.map.node);
    this.node = this.#build();
  }

  #build() {
    const bar = el("div", { class: "toolbar" }, this.quantity.node, this.legend.node);
    const left = el(
      "section",
      { "aria-label": "Learning map" },
      bar,
      this.meaning,
      this.readout,
      this.markers.node,
      this.map.node,
      this.axis,
      this.curve.node,
      this.losses.node,
      this.table.node,
    );
    const right = el(
      "aside",
      { "aria-label": "What happened" },
      el("h2", {}, "What happened"),
      this.cards,
      this.listTitle,
      this.list.node,
    );
    this.columns = el("div", { class: "columns" }, left, right);
    return el("div", { class: "overview" }, this.headline, this.thumbs.node, this.columns);
  }

  async update() {
    const { app } = this;
    const quantity = chosen(app.meta, app.place.now.family, app.place.now.quantity);
    this.thumbs.node.hidden = this.columns.hidden = !quantity;
    if (!quantity) return say(this.headline, NOTHING);
    const [table, summary] = await Promise.all([
      app.ask("values", { family: quantity.family, quantity: quantity.name }),
      quantity.kind === "probe" ? app.ask("summary", { family: quantity.family }) : null,
    ]);
    const now = chosen(app.meta, app.place.now.family, app.place.now.quantity);
    if (!table || now?.name !== quantity.name || now.family !== quantity.family) return; // another was chosen meanwhile
    this.shown = { quantity, table, chance: chanceOf(app.meta, quantity, summary) };
    this.#showMap();
    await this.#showStates();
    await this.losses.update();
    await this.thumbs.update(quantity);
  }

  #showMap() {
    const { app, shown } = this;
    const { meta, check } = app;
    const { quantity, table, chance } = shown;
    fill(this.quantity.select, options(meta), `${quantity.family}/${quantity.name}`);
    say(this.meaning, quantity.meaning === quantity.title ? "" : quantity.meaning);
    say(this.axis, axisName(meta));
    if (this.table_ !== table || this.theme !== theme()) {
      [this.table_, this.theme] = [table, theme()];
      shown.scale = this.scale = scaleOf(table.values, quantity, chance, chance === null ? "" : "chance");
      this.painted = (this.painted ?? 0) + 1;
    }
    this.legend.show(this.scale);
    this.map.show({
      rows: meta.layers.length,
      columns: meta.steps.length,
      value: (row, each) => at(table, each, row),
      names: shortNames(meta.layers.map((layer) => layer.name)),
      moments: meta.steps.map((_, each) => shortMoment(meta, each)),
      scale: this.scale,
      mark: this.painted,
      label:
        `${title(quantity)} of ${count(meta.layers.length, "layer")} at ${count(meta.steps.length, "check")}. ` +
        "Arrow keys choose layer and check, Enter opens the layer.",
    });
    this.map.at(app.layer < 0 ? null : app.layer, check);
    this.losses.at(check);
    this.table.show(table, quantity, check);
    mark("map");
    this.#mark();
    this.#tell();
  }

  #mark() {
    if (this.app.meta && this.map.width) this.markers.show(incidentsOf(this.app.meta), (each) => this.map.center(each));
  }

  /** What each layer does, and what happened until the chosen check. */
  async #showStates() {
    const { app } = this;
    const { meta } = app;
    const wanted = {
      score: knowledge(meta),
      dead: first(meta, "health", ["dead_filters"]),
      still: first(meta, "health", ["not_learning"]),
      similar: first(meta, "drift", ["cka_previous"]),
    };
    const tables = {};
    for (const [name, one] of Object.entries(wanted)) {
      tables[name] = one ? await app.ask("values", { family: one.family, quantity: one.name }) : null;
    }
    const summary = wanted.score ? await app.ask("summary", { family: wanted.score.family }) : null;
    const chance = wanted.score ? chanceOf(meta, wanted.score, summary) : null;
    const { check } = app;
    const found = states(meta, tables, check, chance, (each) => moment(meta, each));
    this.states = found;
    this.list.show(found);
    say(this.listTitle, `Layers ${atMoment(meta, check)}`);
    this.#tellIncidents(found);
    this.#showCurve();
  }

  #tellIncidents(found) {
    const { meta, check } = this.app;
    const sofar = incidentsOf(meta).filter((one) => one.check <= check);
    const open = sofar.filter((one) => one.ended === null || one.ended > check);
    const judged = found.filter((one) => one.level !== "none");
    const broken = judged.filter((one) => one.level === "problem");
    const since = broken.length ? moment(meta, Math.min(...broken.map((one) => one.from))) : "";
    const layers = count(judged.length, "layer");
    const parts = [
      broken.length
        ? `${broken.length} of ${layers} with a problem, the first since ${since}`
        : `no problem in ${layers}`,
      sofar.length ? `${count(sofar.length, "incident")}, ${open.length || "none"} open` : "no incident",
    ];
    say(this.headline, `${capital(moment(meta, check))}: ${parts.slice(judged.length ? 0 : 1).join("; ")}`);
    const bad = broken.length || open.some((one) => one.severity === "critical");
    this.headline.className = `headline ${bad ? "problem" : "fine"}`;
    const now = JSON.stringify(sofar);
    if (this.told === now) return;
    this.told = now;
    const newest = [...sofar].reverse();
    const all =
      newest.length > 2
        ? el(
            "button",
            { type: "button", class: "link", onclick: () => this.app.place.set({ view: "incidents" }) },
            `All ${newest.length} incidents`,
          )
        : null;
    replace(
      this.cards,
      newest.slice(0, 2).map((one) => card(this.app, one, true)),
      all ?? [],
      newest.length ? [] : el("p", { class: "note" }, "No incident up to this check."),
    );
  }

  /** The curve of the layer under the pointer; else of the chosen one, of the one with the worst state, or the last. */
  #showCurve() {
    const { app, shown } = this;
    const { meta } = app;
    const worst = this.states?.find((one) => one.level === "problem")?.place;
    const place = this.hovered.row ?? (app.layer >= 0 ? app.layer : (worst ?? meta.layers.length - 1));
    const { quantity, table, chance } = shown;
    const checks = meta.steps.map((_, each) => each);
    const own = { label: shortNames(meta.layers.map((layer) => layer.name))[place], values: column(table, place) };
    const guess =
      chance === null ? [] : [{ label: "chance", values: checks.map(() => chance), dash: [4, 4], color: ink("muted") }];
    this.curve.show({
      x: checks,
      series: [own, ...guess],
      span: [-0.5, checks.length - 0.5],
      low: quantity.low,
      high: quantity.high,
      log: this.scale.log,
      names: null,
      mark: `${this.painted} ${place}`,
      label: title(quantity),
    });
    this.curve.at(app.check);
    this.curve.read(this.hovered.column ?? app.check);
  }

  #hover(row, columnUnder) {
    this.hovered = { row, column: columnUnder };
    this.#showCurve();
    this.#tell();
  }

  #hoverCheck(x) {
    const last = this.app.meta.steps.length - 1;
    this.hovered = { ...this.hovered, column: x === null ? null : Math.min(Math.max(Math.round(x), 0), last) };
    this.curve.read(this.hovered.column ?? this.app.check);
  }

  #pick(row, columnUnder) {
    this.app.place.set({ layer: this.app.meta.layers[row].name });
    if (columnUnder !== null) this.app.chooseCheck(columnUnder);
  }

  #pickQuantity(value) {
    const slash = value.indexOf("/");
    this.app.place.set({ family: value.slice(0, slash), quantity: value.slice(slash + 1) });
  }

  /** Layer, value and change of the cell under the pointer, or else of the chosen one. */
  #tell() {
    const { app, shown, hovered } = this;
    const { meta } = app;
    const row = hovered.row ?? (app.layer >= 0 ? app.layer : null);
    const check = hovered.column ?? app.check;
    if (row === null) return say(this.readout, "Point at the map, or click into it, for layer, value and change.");
    const value = at(shown.table, check, row);
    const moved = check > 0 ? `, ${change(value - at(shown.table, check - 1, row))} since the last check` : "";
    const text = Number.isNaN(value) ? "not measured" : `${number(value)}${moved}`;
    say(this.readout, `${meta.layers[row].name} · ${moment(meta, check)}: ${text}`);
  }
}
