// What each layer does at a check, in words: it learns, stands still, has lost what it knew, or its filters are dead.

import { percent } from "./format.js";
import { at } from "./store.js";

const DEAD = { watch: 0.25, problem: 0.5 }; // share of filters
const LOST = { watch: 0.1, problem: 0.2 }; // of what the layer had gained over chance or its least value
const LEAST = 0.05; // score: smaller losses are noise
const SETTLED = 0.99; // similarity to the previous check
const JUDGED = ["score", "dead", "still"];
export const LEVELS = ["none", "fine", "watch", "problem"];

/**
 * State of every layer at a check: `{layer, place, level, from, words}`, `from` the check at which its problem began.
 * `tables` holds what the run has of `score`, `dead`, `still` and `similar`, null where it has none; `name(check)` gives
 * a check's moment.
 */
export function states(meta, tables, check, chance, name) {
  return meta.layers.map((layer, place) => {
    const found = [
      dead(tables.dead, check, place, name),
      lost(tables.score, check, place, chance, name),
      still(tables.still, check, place, name),
    ].filter(Boolean);
    const level = LEVELS[Math.max(1, ...found.map((one) => LEVELS.indexOf(one.level)))];
    if (!found.length) found.push(calm(tables, check, place));
    if (!JUDGED.some((name) => tables[name] && !Number.isNaN(at(tables[name], check, place)))) {
      return { layer: layer.name, place, level: "none", from: Infinity, words: "not judged" };
    }
    const from = Math.min(...found.map((one) => (one?.level === "problem" ? one.from : Infinity)));
    return { layer: layer.name, place, level, from, words: joined(found.filter(Boolean)) };
  });
}

function dead(table, check, place, name) {
  const now = table ? at(table, check, place) : NaN;
  if (!(now >= DEAD.watch)) return null;
  const since = begin(check, (each) => at(table, each, place) >= Math.max(DEAD.watch, now / 2));
  const level = now >= DEAD.problem ? "problem" : "watch";
  return { level, words: `${percent(now)} of filters dead`, since: sinceWhen(since, name), from: since };
}

function lost(table, check, place, chance, name) {
  const now = table ? at(table, check, place) : NaN;
  if (Number.isNaN(now)) return null;
  let [best, least] = [-Infinity, chance ?? Infinity];
  for (let each = 0; each <= check; each++) {
    const value = at(table, each, place);
    if (value > best) best = value;
    if (chance === null && value < least) least = value;
  }
  const drop = best - now;
  const share = drop / Math.max(best - least, LEAST);
  if (drop < LEAST || share < LOST.watch) return null;
  const since = begin(check, (each) => best - at(table, each, place) >= Math.max(LEAST, drop / 2));
  const level = share >= LOST.problem ? "problem" : "watch";
  return { level, words: `lost ${Math.round(100 * drop)} points`, since: sinceWhen(since, name), from: since };
}

function still(table, check, place, name) {
  if (!table || at(table, check, place) !== 1) return null;
  const since = begin(check, (each) => at(table, each, place) === 1);
  return { level: "problem", words: "weights stand still", since: sinceWhen(since, name), from: since };
}

function calm(tables, check, place) {
  const gain = tables.score ? at(tables.score, check, place) - at(tables.score, 0, place) : NaN;
  if (check > 0 && at(tables.similar ?? { rows: 0 }, check, place) >= SETTLED) {
    return { words: Number.isFinite(gain) ? `settled, ${points(gain)} since the start` : "settled" };
  }
  if (check === 0 || !Number.isFinite(gain)) return null;
  return { words: gain >= 0.02 ? `learns, ${points(gain)} since the start` : `${points(gain)} since the start` };
}

function points(gain) {
  const whole = Math.round(100 * gain);
  return whole === 0 ? "no gain" : `${whole > 0 ? "+" : "−"}${Math.abs(whole)} points`;
}

/** Findings in words; those that began together share their moment. */
function joined(found) {
  const moments = [...new Set(found.map((one) => one.since ?? ""))];
  const parts = moments.map((since) => {
    const words = found.filter((one) => (one.since ?? "") === since).map((one) => one.words);
    return `${words.join(", ")} ${since}`.trim();
  });
  return parts.join("; ");
}

/** The first check of the stretch up to this one in which a condition holds; checks without a value do not end it. */
function begin(check, holds) {
  let first = check;
  for (let each = check - 1; each >= 0 && holds(each); each--) first = each;
  return first;
}

function sinceWhen(check, name) {
  return name(check) === "before training" ? "from the start" : `since ${name(check)}`;
}
