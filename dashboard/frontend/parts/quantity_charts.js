// Charts of everything that was measured of one layer: quantities of one family and range share a chart.

import { ink } from "../colors.js";
import { Curves } from "../curves.js";
import { el, replace } from "../dom.js";
import { shortMoment } from "../format.js";
import { chanceOf } from "../quantities.js";
import { column } from "../store.js";

const MOST = 5; // curves in a chart
const ORDER = ["probe", "health", "drift", "importance", "correlation", "prediction"];

export class QuantityCharts {
  constructor(app) {
    this.app = app;
    this.charts = new Map();
    this.leading = el("div", { class: "charts" });
    this.others = el("div", { class: "charts" });
    this.more = el("details", {}, el("summary", {}, "Charts of further callbacks"), this.others);
    this.node = el("div", {}, this.leading, this.more);
  }

  async update(place) {
    const { app } = this;
    const { meta } = app;
    const groups = groupsOf(meta);
    const asked = groups.flatMap((group) =>
      group.quantities.map((one) => app.ask("values", { family: group.family, quantity: one.name })),
    );
    const summaries = groups.map((group) =>
      group.kind === "probe" ? app.ask("summary", { family: group.family }) : null,
    );
    const tables = await Promise.all(asked);
    const guesses = await Promise.all(summaries);
    if (Math.max(app.layer, 0) !== place || app.meta !== meta) return; // another layer was chosen meanwhile
    let next = 0;
    this.zeros = [];
    const shown = groups.map((group, number) => {
      const own = group.quantities.map((one) => ({ one, table: tables[next++] })).filter(({ table }) => table);
      const curves = own.map(({ one, table }) => ({ one, values: column(table, place) }));
      const known = curves.filter(({ values }) => values.some((value) => !Number.isNaN(value)));
      const told = known.filter(({ one, values }) => !this.#always(one, values));
      return told.length ? this.#show(group, told, guesses[number], place) : null;
    });
    const zeros = this.zeros.length ? el("p", { class: "note" }, `Always 0: ${this.zeros.join(", ")}.`) : null;
    const further = groups.map((group) => isFurther(meta, group));
    replace(this.leading, [...shown.filter((one, number) => !further[number]), zeros].filter(Boolean));
    replace(
      this.others,
      shown.filter((one, number) => one && further[number]),
    );
    if (!this.leading.childElementCount) this.more.open = true;
    this.more.hidden = !this.others.childElementCount;
  }

  /** Moves the line of all charts. */
  at(check) {
    for (const { curves } of this.charts.values()) {
      curves.at(check);
      curves.read(check);
    }
  }

  /** Notes a count that is 0 at every check, which needs no chart. */
  #always(one, values) {
    const zero = values.every((value) => !value) && !isShare(one);
    if (zero) this.zeros.push(one.title);
    return zero;
  }

  #show(group, known, summary, place) {
    const { meta } = this.app;
    if (!this.charts.has(group.key)) this.charts.set(group.key, this.#make(group));
    const { node, curves } = this.charts.get(group.key);
    const chance = known
      .map(({ one }) => chanceOf(meta, { ...one, kind: group.kind }, summary))
      .find((value) => value !== null);
    const checks = meta.steps.map((_, check) => check);
    const series = known.map(({ one, values }) => ({ label: one.title, values }));
    if (chance !== undefined)
      series.push({ label: "chance", values: checks.map(() => chance), dash: [4, 4], color: ink("muted") });
    const { low, high } = group.quantities[0];
    const names = (check) =>
      Number.isInteger(check) && check >= 0 && check < checks.length ? shortMoment(meta, check) : "";
    curves.show({
      x: checks,
      series,
      span: [-0.5, checks.length - 0.5],
      low: low ?? null,
      high: high ?? null,
      log: wide(known, low, high),
      names,
      mark: `${meta.name} ${meta.revision} ${place}`,
      label: group.title,
    });
    return node;
  }

  #make(group) {
    const { app } = this;
    const curves = new Curves({ height: 150, gutter: 64, right: 8, onpick: (x) => app.chooseCheck(Math.round(x)) });
    curves.node.classList.add("legend-below");
    const node = el("figure", { class: "chart" }, el("figcaption", {}, group.title), curves.node);
    return { node, curves };
  }
}

/** Quantities by chart: shares of a family first, then those of one unit, at most five in a chart. */
function groupsOf(meta) {
  const families = [...meta.families].sort((a, b) => rank(a.kind) - rank(b.kind));
  return families.flatMap((family) => {
    const units = new Map();
    for (const one of family.quantities) {
      const unit = isShare(one) ? "" : one.unit || one.title;
      units.set(unit, [...(units.get(unit) ?? []), one]);
    }
    const sorted = [...units].sort(([one], [other]) => Boolean(one) - Boolean(other));
    return sorted.flatMap(([unit, all]) =>
      pieces(all).map((quantities, place) => chart(family, unit, quantities, place)),
    );
  });
}

function chart(family, unit, quantities, place) {
  const what = quantities.length === 1 ? quantities[0].title : unit;
  const title = what ? `${family.name}: ${what}` : family.name;
  return { key: `${family.name} ${unit} ${place}`, family: family.name, kind: family.kind, quantities, title };
}

function pieces(all) {
  return Array.from({ length: Math.ceil(all.length / MOST) }, (_, place) =>
    all.slice(place * MOST, (place + 1) * MOST),
  );
}

/** Return whether a quantity lies within -1 and 1, and is not a yes or no. */
function isShare(one) {
  return one.low !== null && one.high !== null && one.low >= -1 && one.high <= 1 && !one.unit.startsWith("0 or");
}

/** Return whether a family is not the first of the kinds that every layer is judged by. */
function isFurther(meta, { family, kind }) {
  return !ORDER.includes(kind) || meta.families.find((one) => one.kind === kind).name !== family;
}

function rank(kind) {
  const found = ORDER.indexOf(kind);
  return found < 0 ? ORDER.length : found;
}

/** Return whether sizes span so much that only a logarithmic axis shows them. */
function wide(known, low, high) {
  if (low !== 0 || (high !== null && high !== undefined)) return false;
  const sizes = known.flatMap(({ values }) => values.filter((value) => value > 0));
  return sizes.length > 1 && sizes.reduce((a, b) => Math.max(a, b)) / sizes.reduce((a, b) => Math.min(a, b)) > 100;
}
