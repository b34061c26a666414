// Columns of the filter table from further arrays of a record: classes that a filter serves, purity of its part.

import { number, percent } from "../format.js";

/** The columns of a layer that the run has, as of the chosen check. */
export async function extraColumns(app, layer) {
  return { served: await served(app, layer), purity: await purity(app, layer) };
}

async function served(app, layer) {
  const found = await arrays(app, "class_filters", layer, ["layers", "served", "strongest", "rho"]);
  if (!found) return null;
  const name = (label) => String(app.meta.class_names?.[label] ?? label);
  return [
    {
      title: "classes served",
      help: "Number of classes among whose strongest filters it is",
      values: found.served,
      text: String,
    },
    { title: "closest class", help: "Class whose output it correlates with most", values: found.strongest, text: name },
    { title: "ρ class", help: "Correlation with the output of that class", values: found.rho, text: number },
  ];
}

/** Purity of the measured filters, and their numbers: of a wide layer only some are measured. */
async function purity(app, layer) {
  const found = await arrays(app, "parts", layer, ["layers", "numbers", "purity"]);
  if (!found) return null;
  const values = [];
  found.numbers.forEach((filter, place) => (values[filter] = found.purity[place] ?? NaN));
  const column = {
    title: "purity",
    help: "Share of its activation that comes from one class",
    values,
    text: (share) => (Number.isFinite(share) ? percent(share) : "–"),
  };
  return { column, numbers: found.numbers };
}

/** One layer's piece of arrays that hold all layers' filters, by `layers` and `sizes`; null if there are none. */
async function arrays(app, kind, layer, names) {
  const family = app.meta.families.find((one) => one.kind === kind && names.every((name) => one.arrays.includes(name)));
  if (!family) return null;
  const ask = async (name) => (await app.ask("array", { family: family.name, name, check: app.check }))?.value;
  const [layers, sizes] = [await ask("layers"), await ask("sizes")];
  const place = layers?.indexOf(layer) ?? -1;
  if (place < 0 || !sizes) return null;
  const begin = sizes.slice(0, place).reduce((sum, size) => sum + size, 0);
  const pieces = {};
  for (const name of names.slice(1)) pieces[name] = ((await ask(name)) ?? []).slice(begin, begin + sizes[place]);
  return pieces;
}
