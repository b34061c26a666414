// Numbers and moments as people read them.

const MINUS = "\u2212";

/** A number with three significant digits; "–" if it was not measured. */
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : `${MINUS}∞`;
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text =
    size >= 1e5 || size < 1e-3 ? value.toExponential(1) : size >= 100 ? value.toFixed(0) : value.toPrecision(3);
  return text.replace("-", MINUS);
}

/** A number for a column or an axis: a share with fixed digits, so that decimal points are in line. */
export function digits(value, quantity) {
  const share = quantity && quantity.low !== null && quantity.high !== null && quantity.high <= 1;
  return share && Number.isFinite(value) ? value.toFixed(3).replace("-", MINUS) : number(value);
}

/** A change with its sign. */
export function change(value) {
  if (!Number.isFinite(value)) return "–";
  return value > 0 ? `+${number(value)}` : number(value);
}

/** A share as a percentage. */
export function percent(value) {
  const share = 100 * value;
  return `${share > 0 && share < 1 ? share.toFixed(1) : Math.round(share)} %`;
}

/** Moment of a check as in the printed table: "before training", "epoch 3", "step 120". */
export function moment(meta, check) {
  const trigger = meta.triggers[check];
  if (trigger === "start") return "before training";
  if (trigger === "step") return `step ${meta.steps[check]}`;
  return `epoch ${meta.epochs[check] - 1}`;
}

/** The same in a sentence: "before training", "at epoch 3". */
export function atMoment(meta, check) {
  const text = moment(meta, check);
  return meta.triggers[check] === "start" ? text : `at ${text}`;
}

/** A text with a capital letter at its begin. */
export function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** The same for an axis: "–", "3", "120". */
export function shortMoment(meta, check) {
  const trigger = meta.triggers[check];
  if (trigger === "start") return "–";
  return String(trigger === "step" ? meta.steps[check] : meta.epochs[check] - 1);
}

/** What the axis counts: epochs, or steps if every check but the first was made at a step. */
export function axisName(meta) {
  const later = meta.triggers.filter((trigger) => trigger !== "start");
  return later.length && later.every((trigger) => trigger === "step") ? "step" : "epoch";
}

/** A word with its number: "1 check", "3 checks". */
export function count(amount, word) {
  return `${amount} ${word}${amount === 1 ? "" : "s"}`;
}

/**
 * Names without the parts that all of them begin with: "backbone.layer1.0" becomes "layer1.0". A number alone says
 * nothing, so "features.0" stays.
 */
export function shortNames(names) {
  const own = names.filter((name) => name !== "output");
  if (own.length < 2) return names;
  let shared = own[0].lastIndexOf(".") + 1;
  const fits = () => own.every((name) => name.startsWith(own[0].slice(0, shared)) && !/^\d/.test(name.slice(shared)));
  while (shared && !fits()) shared = own[0].lastIndexOf(".", shared - 2) + 1;
  return names.map((name) => (name.startsWith(own[0].slice(0, shared)) ? name.slice(shared) : name));
}

/** A name cut in the middle, since layers' names differ at both ends. */
export function cut(name, most) {
  if (name.length <= most) return name;
  const tail = Math.ceil((most - 1) * 0.65);
  return `${name.slice(0, most - 1 - tail)}…${name.slice(-tail)}`;
}
