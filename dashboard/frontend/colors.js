// Colours of maps and curves, safe for colour-blind eyes, and the theme of the page.

const VIRIDIS = (
  "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1fa088 28ae80 3fbc73 5ec962 84d44b addc30 d8e219 " +
  "fde725"
).split(" ");
// Blue to orange: the ends differ for every kind of colour vision; the middle is close to the page.
const DIVERGING = {
  light: "0b3d78 2166ac 4393c3 92c5de d1e5f0 f5f5f3 fddbb0 f7b05b e08214 b35806 7f3b08".split(" "),
  dark: "9bd0ff 5fb0f7 2f86cf 1f5f99 1c3d5c 26282c 5a3d1a 97621b d08722 ffab40 ffd08a".split(" "),
};
// Okabe and Ito's colours; the yellow is left out, since it cannot be seen on white.
const SERIES = {
  light: ["#0072b2", "#d55e00", "#007a5a", "#a8487f", "#9a6b00", "#2f86b8"],
  dark: ["#56b4e9", "#ff9e5e", "#35c79a", "#e59bc4", "#e6b03c", "#9ad0ef"],
};

/** 256 colours of a palette, as the numbers that image data take. */
export function palette(name) {
  const stops = name === "diverging" ? DIVERGING[theme()] : VIRIDIS;
  const parts = stops.map((stop) => [0, 2, 4].map((start) => parseInt(stop.slice(start, start + 2), 16)));
  return Uint32Array.from({ length: 256 }, (_, place) => {
    const exact = (place / 255) * (parts.length - 1);
    const below = Math.min(Math.floor(exact), parts.length - 2);
    const [red, green, blue] = parts[below].map((from, channel) =>
      Math.round(from + (parts[below + 1][channel] - from) * (exact - below)),
    );
    return packed(red, green, blue);
  });
}

/** A colour as the number that image data take. */
export function packed(red, green, blue) {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

/** The colour of what was not measured, as such a number. */
export function missing() {
  return theme() === "dark" ? packed(74, 77, 84) : packed(205, 207, 211);
}

/** A CSS gradient of a palette, for its legend. */
export function gradient(name) {
  const stops = name === "diverging" ? DIVERGING[theme()] : VIRIDIS;
  return `linear-gradient(to right, ${stops.map((stop) => `#${stop}`).join(", ")})`;
}

/** Colour of a curve, by its number. */
export function seriesColor(place) {
  const colors = SERIES[theme()];
  return colors[place % colors.length];
}

/** A custom property of the page's style. */
export function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

export function theme() {
  return document.documentElement.dataset.theme === "dark" ? "dark" : "light";
}

/** Follows TensorBoard's theme, which it shows as a class of its own page only, or else the system's. */
export function followTheme(onchange) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const outer = outerBody();
  const apply = () => {
    const dark = outer ? outer.classList.contains("dark-mode") : system.matches;
    const name = dark ? "dark" : "light";
    if (document.documentElement.dataset.theme === name) return;
    document.documentElement.dataset.theme = name;
    onchange();
  };
  if (outer) new MutationObserver(apply).observe(outer, { attributes: true, attributeFilter: ["class"] });
  else system.addEventListener("change", apply);
  apply();
}

function outerBody() {
  try {
    return window.parent === window ? null : window.parent.document.body;
  } catch {
    return null; // a page of another origin, as in a notebook
  }
}
