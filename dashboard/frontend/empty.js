// What is shown where there is nothing to show: what to do about it.

import { el } from "./dom.js";

const EXAMPLE = `import lightning as L
import convscope

trainer = L.Trainer(max_epochs=20, callbacks=convscope.suite())
trainer.fit(model, datamodule)`;

/** A page with one sentence. */
export function explain(sentence) {
  return el("section", { class: "empty" }, el("h2", {}, "Nothing to show"), el("p", {}, sentence));
}

/** What to do if no run has data of convscope, or this one has no check yet. */
export function noRuns(entry) {
  if (entry) {
    return el(
      "section",
      { class: "empty" },
      el("h2", {}, "No check yet"),
      el("p", {}, `“${entry.name}” has started; its first check appears here by itself.`),
    );
  }
  return el(
    "section",
    { class: "empty" },
    el("h2", {}, "No run here has data of convscope yet"),
    el("p", {}, "Add the callbacks to your trainer; the first check, before training, appears here by itself:"),
    el("pre", { tabindex: "0" }, el("code", {}, EXAMPLE)),
    el(
      "p",
      {},
      "If a run was trained with them: was TensorBoard started with the folder of that run, or one above it? " +
        "Runs with another logger keep their data in a folder of their own, which convscope names in its log.",
    ),
  );
}
