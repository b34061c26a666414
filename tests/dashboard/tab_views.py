"""The tab's views in a browser, opened at a place, and what a person would do there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.dashboard.tab_page import TabPage
from tests.loggers._browser import wait_for
from tests.support.tensorboards import Served

VIEWS = ("overview", "incidents", "layer", "predictions", "compare", "methods")
AXE = Path(__file__).parents[2] / "dashboard" / "frontend" / "node_modules" / "axe-core" / "axe.min.js"

_SETTLED = """
const [asked, shown] = ['asked', 'shown'].map((name) => performance.getEntriesByName(`convscope:${name}`)[0]);
return Boolean(shown && shown.startTime >= asked.startTime);
"""
# Number of different colours in the canvases that match: a blank canvas has one.
_COLORS = """
return [...document.querySelectorAll(arguments[0])].map((canvas) => {
  if (!canvas.width || !canvas.height) return 0;
  const pixels = new Uint32Array(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  return new Set(pixels).size;
});
"""
_SLIDE = """
const [check, done] = arguments;
const slider = document.querySelector('input[type=range]');
const begin = performance.now();
slider.value = check;
slider.dispatchEvent(new Event('input'));
requestAnimationFrame(() => setTimeout(() => done(performance.now() - begin)));
"""
_AXE = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ['violations']}).then((found) => done(found.violations.map(
  (one) => `${one.id}: ${one.nodes.map((node) => node.html.slice(0, 120)).join(' ')}`)));
"""


def show(page: TabPage, server: Served, **place: str) -> None:
    """Open the tab's own page, without TensorBoard around it, at a place, and wait until it is drawn."""
    page.open_file(f"{server.url}/data/plugin_entry.html?name=convscope#{urlencode(place)}")
    settle(page)


def settle(page: TabPage) -> None:
    """Wait until the last change is drawn."""
    wait_for(lambda: page.script(_SETTLED), "the view to be drawn")
    page.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    wait_for(lambda: page.script(_SETTLED), "the view to be drawn")


def colors(page: TabPage, selector: str) -> list[int]:
    """Number of different colours in each canvas."""
    found: list[int] = page.script(_COLORS, selector)
    return found


def slide(page: TabPage, check: int) -> float:
    """Milliseconds from a move of the slider until its picture has been drawn."""
    return float(page.driver.execute_async_script(_SLIDE, check))


def text_of(page: TabPage, selector: str) -> str:
    """Text of the first element of a selector."""
    return str(page.script("return document.querySelector(arguments[0])?.innerText ?? ''", selector))


def press(page: TabPage, selector: str) -> None:
    """Click on an element and wait until what it changes is drawn."""
    page.find(selector).click()
    settle(page)


def choose(page: TabPage, label: str, value: str) -> None:
    """Choose an option of the menu with this label."""
    page.script(
        "const [label, value] = arguments;"
        "const menu = [...document.querySelectorAll('label.menu')].find((one) => one.firstChild.textContent === label);"
        "const select = menu.querySelector('select');"
        "select.value = value; select.dispatchEvent(new Event('change'));",
        label,
        value,
    )
    settle(page)


def options(page: TabPage, label: str) -> list[str]:
    """Values of the menu with this label."""
    found: list[str] = page.script(
        "const menu = [...document.querySelectorAll('label.menu')]"
        ".find((one) => one.firstChild.textContent === arguments[0]);"
        "return [...menu.querySelectorAll('option')].map((one) => one.value)",
        label,
    )
    return found


def rows(page: TabPage, selector: str) -> list[list[str]]:
    """Cells of a table's body as text."""
    found: list[list[str]] = page.script(
        "return [...document.querySelectorAll(`${arguments[0]} tbody tr`)]"
        ".map((row) => [...row.children].map((cell) => cell.innerText))",
        selector,
    )
    return found


def violations(page: TabPage) -> Any:
    """What axe-core finds wrong for people who do not see or point."""
    page.script(AXE.read_text(encoding="utf-8"))
    found = page.driver.execute_async_script(_AXE)
    assert isinstance(found, list), json.dumps(found)
    return found
