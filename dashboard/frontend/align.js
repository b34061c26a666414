// Which layers and checks of two runs belong together.

/**
 * Pairs of layers `{name, a, b}`, places in both runs or -1: by name if at least half of the shallower run's names are
 * in both, else by relative depth. `how` says which.
 */
export function layerPairs(a, b) {
  const places = new Map(b.map((layer, place) => [layer.name, place]));
  const shared = a.filter((layer) => places.has(layer.name)).length;
  if (shared >= Math.min(a.length, b.length) / 2) {
    const pairs = a.map((layer, place) => ({ name: layer.name, a: place, b: places.get(layer.name) ?? -1 }));
    return { pairs, how: "name" };
  }
  const rows = Math.max(a.length, b.length);
  const pairs = Array.from({ length: rows }, (_, row) => {
    const [one, other] = [depth(row, rows, a.length), depth(row, rows, b.length)];
    const names = [a[one].name, b[other].name];
    return { name: names[0] === names[1] ? names[0] : names.join(" | "), a: one, b: other };
  });
  return { pairs, how: "relative depth" };
}

function depth(row, rows, length) {
  return rows < 2 ? 0 : Math.round((row * (length - 1)) / (rows - 1));
}

/** For each check of one run that of the other at the same epoch, or at the nearest step; -1 if there is none. */
export function checkPairs(one, other) {
  const unique = (meta) => new Set(meta.epochs).size === meta.epochs.length;
  if (unique(one) && unique(other)) {
    return { pairs: one.epochs.map((epoch) => other.epochs.indexOf(epoch)), how: "epoch" };
  }
  const pairs = one.steps.map((step) => {
    let nearest = -1;
    other.steps.forEach((each, place) => {
      if (nearest < 0 || Math.abs(each - step) < Math.abs(other.steps[nearest] - step)) nearest = place;
    });
    const beyond = step > other.steps[other.steps.length - 1];
    return beyond ? -1 : nearest;
  });
  return { pairs, how: "step" };
}
