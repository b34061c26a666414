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
    this.node = el("div", { class: "charts" });
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
    const shown = groups.map((group, number) => {
      const own = group.quantities.map((one) => ({ one, table: tables[next++] })).filter(({ table }) => table);
      const curves = own.map(({ one, table }) => ({ one, values: column(table, place) }));
      const known = curves.filter(({ values }) => values.some((value) => !Number.isNaN(value)));
      return known.length ? this.#show(group, known, guesses[number], place) : null;
    });
    replace(this.node, shown.filter(Boolean));
  }

  /** Moves the line of all charts. */
  at(check) {
    for (const { curves } of this.charts.values()) {
      curves.at(check);
      curves.read(check);
    }
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

function groupsOf(meta) {
  const families = [...meta.families].sort((a, b) => rank(a.kind) - rank(b.kind));
  return families.flatMap((family) => {
    const groups = new Map();
    for (const one of family.quantities) {
      const shared =
        one.low !== null && one.high !== null && one.low >= -1 && one.high <= 1 && !one.unit.startsWith("0 or");
      const name = shared ? "shares" : one.unit || one.name;
      const last = [...groups.keys()].filter((each) => each.startsWith(name)).length;
      const key =
        [...groups.entries()].find(([each, list]) => each.startsWith(name) && list.length < MOST)?.[0] ??
        `${name} ${last}`;
      groups.set(key, [...(groups.get(key) ?? []), one]);
    }
    return [...groups].map(([key, quantities]) => ({
      key: `${family.name} ${key}`,
      family: family.name,
      kind: family.kind,
      quantities,
      title:
        quantities.length === 1
          ? `${family.name}: ${quantities[0].title}`
          : `${family.name}${key.startsWith("shares") ? "" : `: ${key.replace(/ \d+$/, "")}`}`,
    }));
  });
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
