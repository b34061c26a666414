"""Overview picture: all learning maps of a run in one, on one time axis, with the alerts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from convscope.loggers._canvas import CARD, Floats, Page, Picture, text_width
from convscope.loggers._heatmap import clamp, colour_cells, middles_of, shorten_to, shrink, stretch_ramp, time_ticks
from convscope.loggers.names import short_labels
from convscope.loggers.scale import Scale

RIGHT = 66  # colour bar and its two numbers
HEAD = 22  # title of a panel, and the triangles of the one above
NAME_LIMIT = 16
SEVERITIES = {"critical": (190, 20, 30), "warning": (235, 140, 0)}


class Marker(NamedTuple):
    """An alert on the time axis: the check's column, and the severity."""

    column: int
    severity: str


@dataclass(frozen=True)
class Panel:
    """One learning map: ``values`` ``(L, T)``, and the overview's column for each of its T checks."""

    title: str
    values: Floats
    columns: Sequence[int]
    layers: Sequence[str]
    scale: Scale


def overview_picture(
    panels: Sequence[Panel], x: Sequence[float | str], x_label: str, markers: Sequence[Marker] = ()
) -> Picture:
    """Draw learning maps one below another, layers in depth order, the input on top; triangles are alerts.

    Args:
        panels: at least one map.
        x: labels of the columns.
        x_label: what they count.
        markers: alerts; in each column the most severe is drawn.

    Returns:
        ``(H, 350, 3)`` uint8.

    Raises:
        ValueError: if there is no map.
        ImportError: if matplotlib is missing.

    >>> panel = Panel("Probe accuracy", np.array([[0.2, 0.4]]), [0, 1], ["conv1"], Scale(0.1, 0.4))
    >>> overview_picture([panel], ["–", 0], "epoch").shape[1]
    350
    """
    if not panels:
        raise ValueError("give at least one learning map")
    names = [short_labels(panel.layers, NAME_LIMIT) for panel in panels]
    most = clamp(1100 // len(panels) - 28, 40, 132)
    rows = [clamp(most // len(labels), 3, 14) for labels in names]
    ends = [
        label for labels, row in zip(names, rows, strict=True) for label in (labels if row >= 12 else _ends(labels))
    ]
    left = text_width(ends) + 8
    width = CARD - left - RIGHT
    heights = [row * len(labels) for row, labels in zip(rows, names, strict=True)]
    top = 22
    page = Page(CARD, top + sum(heights) + len(panels) * HEAD + (len(panels) - 1) * 6 + 52 + 18 * bool(markers))
    page.text("Learning maps, input layer on top", 4, 3, down="top", size=10.0)
    for panel, labels, height in zip(panels, names, heights, strict=True):
        top += HEAD
        page.text(shorten_to(panel.title, CARD - 8), 4, top - 3, down="bottom")
        _panel(page, panel, labels, (left, top, width, height), len(x))
        _alerts(page, markers, left, top + height, width, len(x))
        top += height + 6
    bottom = top - 6
    _legend(page, markers)
    time_ticks(page, x, left, bottom + 8, width)
    page.text(x_label, left + width / 2, bottom + 30, across="middle", down="top")
    return page.pixels


def _ends(labels: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([labels[0], labels[-1]]))


def _panel(page: Page, panel: Panel, labels: list[str], box: tuple[int, int, int, int], columns: int) -> None:
    left, top, width, height = box
    scale, table = panel.scale, np.full((len(panel.layers), columns), np.nan)
    table[:, list(panel.columns)] = panel.values
    page.area(colour_cells(shrink(table, height, width), height, width, "viridis", scale.low, scale.high), left, top)
    if height >= 12 * len(labels):
        for label, y in zip(labels, middles_of(len(labels), height, top), strict=True):
            page.text(label, left - 4, y, across="right")
    else:
        for label, y in zip(_ends(labels), (top + 6, top + height - 6), strict=False):
            page.text(label, left - 4, y, across="right")
    bar = left + width + 6
    page.area(stretch_ramp("viridis", height, 8), bar, top)
    for value, at in ((scale.high, top + 5), (scale.low, top + height - 5)):
        page.text(f"{value:.2g}", bar + 12, at)


def _alerts(page: Page, markers: Sequence[Marker], left: int, bottom: int, width: int, columns: int) -> None:
    """A triangle under the column of each alert, the most severe last, so that it lies on top."""
    rank = list(SEVERITIES)
    known = [marker for marker in markers if marker.severity in SEVERITIES]
    for marker in sorted(known, key=lambda m: -rank.index(m.severity)):
        middle = middles_of(columns, width, left)[marker.column]
        for row in range(8):
            half = row // 2
            page.pixels[bottom + 2 + row, max(0, middle - half) : middle + half + 1] = SEVERITIES[marker.severity]


def _legend(page: Page, markers: Sequence[Marker]) -> None:
    start, y = 4, page.pixels.shape[0] - 10
    for severity in [name for name in SEVERITIES if any(m.severity == name for m in markers)]:
        for row in range(8):
            page.pixels[y - 4 + row, start + 4 - row // 2 : start + 5 + row // 2] = SEVERITIES[severity]
        page.text(f"{severity} alert", start + 12, y)
        start += 30 + text_width([f"{severity} alert"])
