// The place in the page: view, run, layer, check, quantity. It outlives a reload and new data.

const NAMES = ["view", "run", "layer", "step", "family", "quantity", "other", "curve"];

/** Holds the place, keeps it in the address and in the session, and tells listeners of changes. */
export class Place {
  constructor() {
    this.listeners = [];
    this.storage = `convscope:${location.pathname}`;
    const kept = new URLSearchParams(location.hash.slice(1) || this.#stored());
    this.now = Object.fromEntries(NAMES.map((name) => [name, kept.get(name)]));
  }

  /** Changes some parts; null clears one. `step` null means the newest check, also when newer ones come. */
  set(changes) {
    const before = this.now;
    this.now = { ...before, ...changes };
    if (NAMES.every((name) => before[name] === this.now[name])) return;
    this.#keep();
    for (const listener of this.listeners) listener();
  }

  #keep() {
    const parts = NAMES.filter((name) => this.now[name] !== null && this.now[name] !== undefined);
    const text = new URLSearchParams(parts.map((name) => [name, this.now[name]])).toString();
    clearTimeout(this.pending); // browsers refuse more than some hundred changes of the address in a few seconds
    this.pending = setTimeout(() => {
      try {
        // Not "#…" alone: the frame's page has a base address, against which that would be resolved.
        history.replaceState(null, "", `${location.pathname}${location.search}#${text}`);
        sessionStorage.setItem(this.storage, text);
      } catch {
        // A notebook's sandbox may forbid both; then the place is lost on reload, and nothing else.
      }
    }, 150);
  }

  #stored() {
    try {
      return sessionStorage.getItem(this.storage) ?? "";
    } catch {
      return "";
    }
  }
}
