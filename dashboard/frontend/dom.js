// Small helpers for building the page. Data reach the page as text nodes and attributes only, never as HTML.

/**
 * Makes an element. Attributes whose name begins with "on" are listeners; null, undefined and false leave one out.
 * Children are nodes or strings, and strings become text.
 */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Replaces the children of a container; the focus stays on the element with the same `data-key`. */
export function replace(container, ...children) {
  const active = document.activeElement;
  const key = active && container.contains(active) ? active.closest("[data-key]")?.dataset.key : undefined;
  container.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
  if (key !== undefined) {
    const again = [...container.querySelectorAll("[data-key]")].find((node) => node.dataset.key === key);
    again?.focus({ preventScroll: true });
  }
}

/** Sets a text only if it differs, so that live regions are not read out again. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Fills a select with options `{value, text, group}`, and chooses one; an unchanged list is left alone. */
export function fill(select, options, chosen) {
  const mark = JSON.stringify(options);
  if (select.dataset.mark !== mark) {
    select.dataset.mark = mark;
    const groups = new Map();
    const made = [];
    for (const { value, text, group } of options) {
      const option = el("option", { value }, text);
      if (!group) made.push(option);
      else if (groups.has(group)) groups.get(group).append(option);
      else {
        groups.set(group, el("optgroup", { label: group }, option));
        made.push(groups.get(group));
      }
    }
    select.replaceChildren(...made);
  }
  if (select.value !== String(chosen ?? "")) select.value = chosen ?? "";
}

/** A label with its select. */
export function menu(text, onchange) {
  const select = el("select", { onchange: () => onchange(select.value) });
  return { node: el("label", { class: "menu" }, el("span", {}, text), select), select };
}

/** Notes a moment for measurements, the last one of its name. */
export function mark(name) {
  performance.clearMarks(`convscope:${name}`);
  performance.mark(`convscope:${name}`);
}

/** Calls a function at most once per frame. */
export function perFrame(act) {
  let asked = 0;
  return () => {
    if (!asked) {
      asked = requestAnimationFrame(() => {
        asked = 0;
        act();
      });
    }
  };
}

/** An explanation in place of what is not there. */
export function note(...sentences) {
  return el("p", { class: "note" }, ...sentences);
}
