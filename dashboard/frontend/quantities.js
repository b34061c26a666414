// Which quantity is shown first, how families are called, and what counts as chance.

import { column } from "./store.js";

// By kind of family: the quantity that says most, in the order in which a stranger would ask.
const LEADING = [
  ["probe", ["accuracy", "balanced_accuracy", "mean_average_precision", "r2", "miou", "pixel_accuracy"]],
  ["health", ["dead_filters"]],
  ["drift", ["cka_previous"]],
  ["health", ["update_ratio"]],
  ["importance", ["gini"]],
  ["correlation", ["mean_abs"]],
  ["health", ["gradient_rms"]],
  ["prediction", ["true_probability"]],
];

/** All quantities of a run: `{family, kind, name, title, unit, low, high, meaning}`. */
export function quantities(meta) {
  return meta.families.flatMap((family) =>
    family.quantities.map((quantity) => ({ ...quantity, family: family.name, kind: family.kind })),
  );
}

/** The leading quantities that a run has, the most telling first, each once. */
export function leading(meta) {
  const known = quantities(meta);
  const found = LEADING.map(([kind, names]) => {
    const family = meta.families.find((each) => each.kind === kind)?.name;
    const name = names.find((each) => known.some((one) => one.family === family && one.name === each));
    return known.find((one) => one.family === family && one.name === name);
  });
  return found.filter(Boolean);
}

/** The quantity with this name, or else the leading one. */
export function chosen(meta, family, name) {
  const known = quantities(meta);
  return known.find((one) => one.family === family && one.name === name) ?? leading(meta)[0] ?? known[0] ?? null;
}

/** The first quantity of a kind among some names, null if the run has none. */
export function first(meta, kind, names) {
  const known = quantities(meta).filter((one) => one.kind === kind);
  return names.map((name) => known.find((one) => one.name === name)).find(Boolean) ?? null;
}

/** The quantity that says how much a layer knows. */
export function knowledge(meta) {
  return first(meta, "probe", LEADING[0][1]);
}

/** Options of a menu of quantities, grouped by family. */
export function options(meta) {
  return quantities(meta).map((one) => ({ value: `${one.family}/${one.name}`, text: title(one), group: one.family }));
}

/** A title with its unit where the title alone is ambiguous. */
export function title(quantity) {
  const unit = quantity.unit && !quantity.title.toLowerCase().includes(quantity.unit.toLowerCase());
  return unit ? `${quantity.title} (${quantity.unit})` : quantity.title;
}

/** The score of a guess where a quantity has one: the start of its colours. Null where there is none. */
export function chanceOf(meta, quantity, summary) {
  if (quantity.kind !== "probe" || !["accuracy", "balanced_accuracy"].includes(quantity.name)) return null;
  const own = summary?.chance?.filter((value) => Number.isFinite(value)) ?? [];
  return own.length ? own[own.length - 1] : (meta.chance ?? null);
}

/** A layer's curve of a table that may be missing. */
export function curveOf(table, place) {
  return table ? column(table, place) : [];
}
