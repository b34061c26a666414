// Table of a layer's filters at a check, sorted by any of its columns.

import { el, replace } from "../dom.js";
import { moment, number } from "../format.js";

const MOST = 200; // rows in the page at once; sorting brings any filter among them

export class FilterTable {
  constructor() {
    this.sorted = { column: 0, down: false };
    this.more = el("p", { class: "note" });
    this.body = el("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Table of filters" });
    this.node = el("div", {}, this.body, this.more);
  }

  /** Columns `{title, help, values, text(value)}`, one value for each filter; undefined or NaN stands last. */
  show(columns) {
    const mark = JSON.stringify([columns, this.sorted]);
    if (this.mark === mark) return;
    this.mark = mark;
    this.columns = columns;
    this.sorted.column = Math.min(this.sorted.column, columns.length - 1);
    const { column, down } = this.sorted;
    const { values } = columns[column];
    const rows = values.map((_, filter) => filter).sort((a, b) => order(values[a], values[b], down) || a - b);
    const shown = rows.slice(0, MOST);
    this.more.textContent = rows.length > MOST ? `The first ${MOST} of ${rows.length} filters in this order.` : "";
    const head = el(
      "tr",
      {},
      columns.map((one, place) => this.#head(one, place)),
    );
    const lines = shown.map((filter) =>
      el(
        "tr",
        {},
        columns.map((one, place) => cell(place, one.text(one.values[filter], filter))),
      ),
    );
    const caption = el("caption", {}, "Filters; a column's name sorts by it");
    replace(this.body, el("table", { class: "numbers" }, caption, el("thead", {}, head), el("tbody", {}, lines)));
  }

  #head(one, place) {
    const own = this.sorted.column === place;
    const sort = own ? (this.sorted.down ? "descending" : "ascending") : null;
    const press = () => {
      this.sorted = { column: place, down: own ? !this.sorted.down : place !== 0 };
      this.show(this.columns);
    };
    const mark = own ? (this.sorted.down ? " ▾" : " ▴") : "";
    const button = el(
      "button",
      { type: "button", "data-key": `sort ${one.title}`, title: one.help, onclick: press },
      one.title,
      el("span", { "aria-hidden": "true" }, mark),
    );
    return el("th", { scope: "col", "aria-sort": sort }, button);
  }
}

function cell(place, text) {
  return place === 0 ? el("th", { scope: "row" }, text) : el("td", {}, text);
}

function order(one, other, down) {
  const known = [one, other].map((value) => value !== undefined && value !== null && !Number.isNaN(value));
  if (!known[0] || !known[1]) return known[1] - known[0];
  return down ? other - one : one - other;
}

/** The columns for a layer: filter number, one per family with filters, partner, dead since, classes, purity. */
export function columnsOf(meta, check, { filters, correlation, served, purity }) {
  const size = Math.max(0, ...filters.map((one) => one.table.columns), correlation?.order.length ?? 0);
  const numbers = Array.from({ length: size }, (_, filter) => filter);
  const columns = [{ title: "filter", help: "Number of the filter in its layer", values: numbers, text: String }];
  for (const one of filters) {
    const places = one.kind === "parts" && purity ? purity.numbers : null; // which filters the values are of
    const row = numbers.map((filter) => value(one.table, check, places ? places.indexOf(filter) : filter));
    if (row.some((each) => !Number.isNaN(each)))
      columns.push({ title: one.title, help: one.help, values: row, text: one.text ?? number });
    if (one.kind === "health") columns.push(deadSince(meta, check, one.table, numbers));
  }
  if (correlation) {
    const partner = numbers.map((filter) =>
      correlation.partner[filter] === filter ? NaN : correlation.partner[filter],
    );
    columns.push(
      {
        title: "closest",
        help: "Filter that it correlates with most",
        values: partner,
        text: (each) => (Number.isNaN(each) ? "constant" : String(each)),
      },
      {
        title: "ρ",
        help: "Correlation with the closest filter",
        values: numbers.map((filter) => (Number.isNaN(partner[filter]) ? NaN : correlation.rho[filter])),
        text: number,
      },
    );
  }
  if (served) columns.push(...served);
  if (purity) columns.push(purity.column);
  return columns;
}

function value(table, check, filter) {
  return check < table.rows && filter >= 0 && filter < table.columns
    ? table.values[check * table.columns + filter]
    : NaN;
}

/** The check since which a filter has been active for no held-out sample. */
function deadSince(meta, check, table, numbers) {
  const values = numbers.map((filter) => {
    if (value(table, check, filter) !== 0) return NaN;
    let since = check;
    for (let each = check - 1; each >= 0; each--) {
      const found = value(table, each, filter);
      if (found > 0) break;
      if (found === 0) since = each;
    }
    return since;
  });
  return {
    title: "dead since",
    help: "Check since which it has been active for no held-out sample",
    values,
    text: (each) => (Number.isNaN(each) ? "" : moment(meta, each)),
  };
}
