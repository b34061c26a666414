// The page around the views: run, view, time, and the newest data without losing the place.

import { followTheme } from "./colors.js";
import { el, fill, mark, menu, perFrame, replace, say } from "./dom.js";
import { explain, noRuns } from "./empty.js";
import { capital, count } from "./format.js";
import { checkAt } from "./incidents.js";
import { Place } from "./place.js";
import { Store } from "./store.js";
import { Timeline } from "./timeline.js";
import { Compare } from "./views/compare.js";
import { Incidents } from "./views/incidents.js";
import { Layer } from "./views/layer.js";
import { Methods } from "./views/methods.js";
import { Overview } from "./views/overview.js";
import { Predictions } from "./views/predictions.js";

const REST = 70; // milliseconds without a move, after which the slider rests
const EVERY = 4000; // milliseconds between two looks for new checks
const VIEWS = {
  overview: ["Overview", Overview],
  incidents: ["Incidents", Incidents],
  layer: ["Layer", Layer],
  predictions: ["Predictions", Predictions],
  compare: ["Compare", Compare],
  methods: ["Methods", Methods],
};

export class App {
  constructor(root, source) {
    this.store = new Store(source);
    this.place = new Place();
    this.meta = null;
    this.view = null;
    this.timeline = new Timeline(this);
    this.runs = menu("Run", (run) => this.place.set({ run, step: null, layer: null }));
    this.live = el("span", { class: "live", role: "status" });
    this.tabs = el("nav", { "aria-label": "Views" }, ...Object.keys(VIEWS).map((name) => this.#tab(name)));
    this.main = el("main", { id: "view", tabindex: "-1" });
    this.bar = el("header", { class: "bar" }, el("h1", {}, "convscope"), this.runs.node, this.tabs, this.live);
    root.replaceChildren(this.bar, this.timeline.node, this.main);
    this.place.listeners.push(() => this.show());
    this.render = perFrame(() => this.#render());
    followTheme(() => this.render());
  }

  /** Shows what there is, then looks for more while the page can be seen. */
  async start() {
    await this.look();
    if (!this.store.source.live) return;
    const again = async () => {
      if (!document.hidden && innerWidth > 0) await this.look(); // TensorBoard hides a tab by its size only
      setTimeout(again, EVERY);
    };
    setTimeout(again, EVERY);
  }

  async look() {
    try {
      const changed = await this.store.refresh();
      this.lost = false;
      if (changed || !this.meta) await this.show();
    } catch (error) {
      this.lost = true;
      if (!this.meta) replace(this.main, explain(`The data cannot be read: ${error.message}.`));
    }
    this.#tellLive();
  }

  /** Reads what the place asks for, and renders. */
  async show() {
    mark("asked");
    const name = this.#run();
    this.#fillRuns(name);
    const entry = this.store.entry(name);
    const problem = entry ? entry.problem : "";
    if (!entry || problem || !entry.checks) return this.#explain(entry, problem);
    const turn = (this.turn = (this.turn ?? 0) + 1);
    try {
      const meta = await this.store.ask("run", { run: name });
      if (turn !== this.turn) return;
      this.meta = meta;
    } catch (error) {
      if (turn === this.turn) replace(this.main, explain(`The run cannot be read: ${error.message}.`));
      return;
    }
    this.render();
  }

  /** Place of the check that is shown; the newest one if none was chosen. */
  get check() {
    const step = this.place.now.step;
    return step === null ? this.meta.steps.length - 1 : checkAt(this.meta, Number(step));
  }

  chooseCheck(check) {
    const last = this.meta.steps.length - 1;
    const within = Math.min(Math.max(check, 0), last);
    this.place.set({ step: within === last ? null : String(this.meta.steps[within]) });
  }

  /** Waits until the slider rests, for what is asked anew at each check; false if it has moved on meanwhile. */
  async rests() {
    const check = this.check;
    if (this.rested !== check)
      await new Promise((resolve) => setTimeout(resolve, this.rested === undefined ? 0 : REST));
    if (!this.meta || this.check !== check) return false;
    this.rested = check;
    return true;
  }

  /** Place of the layer that is shown, by its name. */
  get layer() {
    return this.meta.layers.findIndex((layer) => layer.name === this.place.now.layer);
  }

  /** An answer about the run that is shown. */
  ask(path, parameters = {}) {
    return this.store.maybe(path, { run: this.meta.name, ...parameters });
  }

  #render() {
    if (!this.meta) return;
    const name = this.place.now.view in VIEWS ? this.place.now.view : "overview";
    if (this.shown !== name || !this.view) {
      this.view = new VIEWS[name][1](this);
      this.explained = null;
      this.shown = name;
      replace(this.main, this.view.node);
    }
    for (const tab of this.tabs.children) {
      tab.toggleAttribute("disabled", false);
      if (tab.dataset.view === name) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
    this.timeline.node.hidden = false;
    this.timeline.update();
    this.#tellLive();
    this.#update();
  }

  async #update() {
    const view = this.view;
    try {
      await view.update();
    } catch (error) {
      if (view === this.view && this.meta) say(this.live, `Something failed: ${error.message}`);
      if (!error.status) console.error(error);
    } finally {
      mark("shown");
    }
  }

  #run() {
    const asked = this.store.entry(this.place.now.run);
    return (asked ?? this.store.runs.find((run) => !run.problem && run.checks) ?? this.store.runs[0])?.name;
  }

  #fillRuns(name) {
    const made = this.store.runs.map((run) => ({
      value: run.name,
      text: `${run.name} (${run.problem ? "cannot be read" : count(run.checks, "check")})`,
    }));
    this.runs.node.hidden = !made.length;
    fill(this.runs.select, made, name);
  }

  #explain(entry, problem) {
    this.meta = null;
    this.view = null;
    this.timeline.node.hidden = true;
    for (const tab of this.tabs.children) tab.toggleAttribute("disabled", true);
    const now = `${entry?.name} ${problem}`;
    if (this.explained !== now) replace(this.main, problem ? explain(`${capital(problem)}.`) : noRuns(entry));
    this.explained = now;
    this.#tellLive();
    mark("shown");
  }

  #tellLive() {
    const found = this.meta ? this.store.entry(this.meta.name) : null;
    const text = this.lost ? "The server does not answer; trying again" : found ? count(found.checks, "check") : "";
    say(this.live, text);
    this.live.classList.toggle("lost", Boolean(this.lost));
  }

  #tab(name) {
    return el(
      "button",
      { type: "button", "data-view": name, "data-key": `tab ${name}`, onclick: () => this.place.set({ view: name }) },
      VIEWS[name][0],
    );
  }
}
