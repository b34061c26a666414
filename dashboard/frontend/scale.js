// Range of a map's colours: from chance, or the least value, to the best, without outliers.
// It is the range that convscope.loggers.scale gives to the same map among the pictures.

const LEAST_SPAN = 0.05; // of the possible range: smaller differences are noise and should not be visible
const FENCE = 3; // interquartile ranges beyond the quartiles: Tukey's "far out"
const WIDE = 100; // times: a size that spans more is drawn on a logarithmic scale

/**
 * The range `{low, high, lowName, highName, log}` for values; `low` and `high` of `bounds` are what the quantity can
 * be, null if open, and `start` where colours begin (the accuracy of a guess), with its name.
 */
export function scaleOf(values, bounds = {}, start = null, startName = "") {
  const least = bounds.low ?? null;
  const most = bounds.high ?? null;
  let found = finite(values);
  if (least === 0 && most === null && start === null) {
    const log = logarithmic(found);
    if (log) return log;
  }
  if (!found.length) found = [start ?? least ?? most ?? 0];
  let [low, high] = withoutOutliers(found);
  if (start !== null) low = start;
  if (least !== null) [low, high] = [Math.max(low, least), Math.max(high, least)];
  if (most !== null) [low, high] = [Math.min(low, most), Math.min(high, most)];
  [low, high] = wideEnough(low, high, least, most, start !== null);
  return { low, high, lowName: startName, highName: startName ? "best" : "", log: false };
}

/** A range around zero, the same to both sides. */
export function balanced(values) {
  const [low, high] = withoutOutliers(finite(values).length ? finite(values) : [0]);
  const most = Math.max(Math.abs(low), Math.abs(high)) || 1;
  return { low: -most, high: most, lowName: "", highName: "", log: false };
}

/** Place of a value in a range, 0 to 1; NaN stays NaN. */
export function position(value, { low, high, log }) {
  const share = log ? Math.log(Math.max(value, low) / low) / Math.log(high / low) : (value - low) / (high - low);
  return Math.min(1, Math.max(0, share));
}

function finite(values) {
  return Array.from(values).filter(Number.isFinite);
}

function logarithmic(found) {
  const sizes = found.filter((value) => value > 0).sort((a, b) => a - b);
  const low = quantile(sizes, 0.02);
  const high = sizes[sizes.length - 1];
  return sizes.length && high / low > WIDE ? { low, high, lowName: "", highName: "", log: true } : null;
}

function withoutOutliers(found) {
  const sorted = Float64Array.from(found).sort();
  const quarter = quantile(sorted, 0.25);
  const three = quantile(sorted, 0.75);
  const fence = FENCE * (three - quarter);
  // If most values are equal (no dead filters), the others are not outliers: the map must show them.
  if (fence <= 0) return [sorted[0], sorted[sorted.length - 1]];
  const kept = sorted.filter((value) => value >= quarter - fence && value <= three + fence);
  return [kept[0], kept[kept.length - 1]];
}

function quantile(sorted, share) {
  const place = (sorted.length - 1) * share;
  const below = Math.floor(place);
  const next = sorted[Math.min(below + 1, sorted.length - 1)];
  return sorted[below] + (next - sorted[below]) * (place - below);
}

function wideEnough(low, high, least, most, fixed) {
  const bounded = least !== null && most !== null;
  const span = bounded ? LEAST_SPAN * (most - least) : 1e-3 * Math.max(Math.abs(low), Math.abs(high)) || 1;
  const missing = span - (high - low);
  if (missing <= 0) return [low, high];
  if (fixed && (most === null || low + span <= most)) return [low, low + span];
  [low, high] = [low - missing / 2, high + missing / 2];
  if (most !== null && high > most) return [most - span, most];
  if (least !== null && low < least) return [least, least + span];
  return [low, high];
}
