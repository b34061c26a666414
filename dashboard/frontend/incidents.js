// Incidents of a run with what the views need of them, whatever version of the record they come from.

const SHAPES = { critical: "◆", warning: "▲", info: "●" };

/** Incidents with their check, oldest first: `{number, severity, sentence, layers, check, ended, …}`. */
export function incidentsOf(meta) {
  return meta.incidents.map((raw, place) => {
    const opened = raw.opened ?? { step: raw.step, epoch: raw.epoch };
    const layers = raw.layers ?? layersIn(Object.keys(raw.values ?? {}));
    return {
      key: `${raw.incident ?? place}:${opened.step}:${raw.rule}`,
      number: raw.incident ?? place + 1,
      rule: String(raw.rule ?? ""),
      rules: raw.rules ?? [raw.rule],
      severity: raw.severity in SHAPES ? raw.severity : "info",
      sentence: String(raw.message ?? raw.text ?? ""),
      likely: String(raw.likely ?? ""),
      lookAt: String(raw.look_at ?? ""),
      layers,
      known: layers.filter((name) => meta.layers.some((layer) => layer.name === name)),
      check: checkAt(meta, opened.step),
      ended: raw.closed ? checkAt(meta, raw.closed.step) : null,
      ending: String(raw.ending ?? ""),
      values: raw.values ?? {},
      expected: raw.expected ?? {},
      changed: raw.changed ?? {},
    };
  });
}

/** A severity as a shape, so that it does not rest on colour alone. */
export function shape(severity) {
  return SHAPES[severity];
}

/** The check at which a step was measured: the last one that is not later. */
export function checkAt(meta, step) {
  let found = 0;
  meta.steps.forEach((each, check) => {
    if (each <= step) found = check;
  });
  return found;
}

function layersIn(tags) {
  const found = tags.map((tag) => tag.split("/").slice(2).join("/")).filter(Boolean);
  return [...new Set(found)];
}
