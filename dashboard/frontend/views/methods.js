// Methods: pictures that callbacks drew themselves (resampling, parts, scales, filters), as of the chosen check.

import { el, fill, menu, note, replace, say } from "../dom.js";
import { atMoment } from "../format.js";

const FIRST = ["resampling", "parts", "multi_scale", "explainer"];
const MOST = 24; // pictures in the page at once

export class Methods {
  constructor(app) {
    this.app = app;
    this.family = null;
    this.menu = menu("Method", (family) => {
      this.family = family;
      this.update();
    });
    this.title = el("h2", {});
    this.list = el("div", { class: "pictures" });
    this.more = note("");
    this.none = note(
      "This run has no pictures of methods: InputResampling(), PartInterpretability(), FilterPictures() and " +
        'suite("full") draw some.',
    );
    this.head = el("div", { class: "toolbar" }, this.title, this.menu.node);
    this.node = el("section", { "aria-label": "Methods" }, this.head, this.list, this.more, this.none);
    this.figures = new Map();
  }

  async update() {
    const { app } = this;
    if (!(await app.rests())) return;
    const { meta, check } = app;
    const groups = groupsOf(meta);
    const names = [...groups.keys()];
    this.none.hidden = names.length > 0;
    this.head.hidden = !names.length;
    const family = names.includes(this.family) ? this.family : names[0];
    if (!family) return;
    fill(
      this.menu.select,
      names.map((name) => ({ value: name, text: `${name} (${groups.get(name).length})` })),
      family,
    );
    say(this.title, `Pictures ${atMoment(meta, check)}`);
    const tags = groups.get(family);
    say(
      this.more,
      tags.length > MOST ? `The first ${MOST} of ${tags.length} pictures; those of a layer are on its page.` : "",
    );
    replace(
      this.list,
      tags.slice(0, MOST).map((tag) => this.#figure(tag, check)),
    );
  }

  #figure(tag, check) {
    const { app } = this;
    if (!this.figures.has(tag)) {
      const image = el("img", { loading: "lazy" });
      const absent = note("Not drawn yet at this check.");
      image.addEventListener("error", () => this.#failed(image, absent, true));
      image.addEventListener("load", () => this.#failed(image, absent, false));
      absent.hidden = true;
      const figure = el("figure", {}, el("figcaption", {}, tag.slice(tag.indexOf("/") + 1)), image, absent);
      this.figures.set(tag, { figure, image });
    }
    const { figure, image } = this.figures.get(tag);
    const source = app.store.picture({ run: app.meta.name, tag, check });
    image.alt = `${tag} ${atMoment(app.meta, check)}`;
    if (image.getAttribute("src") !== source) image.setAttribute("src", source);
    return figure;
  }

  #failed(image, absent, failed) {
    image.hidden = failed;
    absent.hidden = !failed;
  }
}

/** Tags by family; companion methods first. */
function groupsOf(meta) {
  const groups = new Map();
  for (const tag of meta.pictures) {
    const family = tag.split("/")[0];
    groups.set(family, [...(groups.get(family) ?? []), tag]);
  }
  const kind = (family) => meta.families.find((one) => one.name === family)?.kind ?? family;
  const rank = (family) => (FIRST.includes(kind(family)) ? FIRST.indexOf(kind(family)) : FIRST.length);
  return new Map([...groups].sort(([one], [other]) => rank(one) - rank(other)));
}
