// An incident as a card: severity, sentence, cause, where to look, and ways to go there.

import { el } from "../dom.js";
import { atMoment, moment, number } from "../format.js";
import { shape } from "../incidents.js";

/** The whole incident; `short` leaves out causes and values. */
export function card(app, one, short = false) {
  const { meta } = app;
  return el(
    "article",
    { class: `card ${one.severity}` },
    el(
      "h3",
      {},
      el("span", { class: "sign", "aria-hidden": "true" }, shape(one.severity)),
      ` ${one.severity} · ${moment(meta, one.check)}`,
      el("span", { class: "state" }, state(meta, one)),
    ),
    el("p", { class: "sentence" }, one.sentence),
    ...(short ? cause(one) : details(one)),
    jumps(app, one, short ? 3 : 12),
  );
}

function state(meta, one) {
  return one.ended === null ? "open" : `closed ${atMoment(meta, one.ended)}${one.ending ? `, ${one.ending}` : ""}`;
}

/** The probable cause in one line, with what else changed. */
function cause(one) {
  const text = [one.likely ? `Likely: ${one.likely}.` : "", changes(one) ? `Changed: ${changes(one)}.` : ""].join(" ");
  return text.trim() ? [el("p", { class: "note" }, text.trim())] : [];
}

function changes(one) {
  return Object.entries(one.changed)
    .map(([name, [before, now]]) => `${name} ${number(before)} → ${number(now)}`)
    .join(", ");
}

function details(one) {
  const followed = one.rules.filter((rule) => rule !== one.rule).map((rule) => String(rule).replaceAll("_", " "));
  const rows = [
    ["Rule", one.rule.replaceAll("_", " ")],
    ["Likely", one.likely],
    ["Look at", one.lookAt],
    ["With it", followed.join(", ")],
    ["What else changed", changes(one)],
  ].filter(([, text]) => text);
  const found = rows.length
    ? el("dl", {}, rows.map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]).flat())
    : null;
  return [found, values(one)].filter(Boolean);
}

function values(one) {
  const tags = Object.keys(one.values);
  if (!tags.length) return null;
  const lines = tags
    .slice(0, 12)
    .map((tag) =>
      el(
        "tr",
        {},
        el("th", { scope: "row" }, tag),
        el("td", {}, number(one.values[tag])),
        el("td", {}, number(one.expected[tag])),
      ),
    );
  const head = el(
    "tr",
    {},
    ["series", "value", "expected"].map((name) => el("th", { scope: "col" }, name)),
  );
  return el("table", { class: "numbers" }, el("thead", {}, head), el("tbody", {}, lines));
}

function jumps(app, one, most) {
  const step = String(app.meta.steps[one.check]);
  const go = (changes) => () => app.place.set({ step, ...changes });
  const layers = one.known
    .slice(0, most)
    .map((layer) =>
      el(
        "button",
        { type: "button", "data-key": `jump ${one.key} ${layer}`, onclick: go({ view: "layer", layer }) },
        layer,
      ),
    );
  const more = one.known.length - layers.length;
  return el(
    "p",
    { class: "jumps" },
    el(
      "button",
      { type: "button", "data-key": `jump ${one.key}`, onclick: go({ view: "overview", layer: one.known[0] ?? null }) },
      `Show ${moment(app.meta, one.check)}`,
    ),
    layers,
    more > 0 ? el("span", {}, `and ${more} more`) : null,
  );
}
