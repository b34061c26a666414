"""Picture of accuracy against the share of filters removed, one line per order of removal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from convscope.loggers._canvas import CARD, Page, Picture, text_width
from convscope.loggers.names import shorten_middle

HEIGHT = 170
LEFT, TOP = 44, 30
GRID = (228, 228, 228)
# Okabe and Ito's palette: distinct for colour-blind readers; on paper the markers distinguish the lines.
COLOURS = ((0, 114, 178), (213, 94, 0), (110, 110, 110), (0, 158, 115))


def removal_curves(shares: Sequence[float], curves: Mapping[str, Sequence[float]], title: str, label: str) -> Picture:
    """Draw curves over the share of filters removed; both axes run from 0 to 1.

    Args:
        shares: R places in [0, 1], rising.
        curves: name -> R values in [0, 1]; four curves at most. NaN leaves a gap.
        title: the line above.
        label: name of the values.

    Returns:
        ``(H, 350, 3)`` uint8.

    Raises:
        ValueError: if there is no curve or more than four, or a length differs from that of ``shares``.
        ImportError: if matplotlib is missing.

    >>> removal_curves([0, 0.5, 1], {"ascending": [0.9, 0.9, 0.1]}, "conv1", "accuracy").shape
    (254, 350, 3)
    """
    if not 1 <= len(curves) <= len(COLOURS):
        raise ValueError(f"give 1 to {len(COLOURS)} curves, got {len(curves)}")
    for name, values in curves.items():
        if len(values) != len(shares):
            raise ValueError(f"curve {name!r} has {len(values)} values for {len(shares)} shares")
    page, width = Page(CARD, TOP + HEIGHT + 54), CARD - LEFT - 12
    page.text(shorten_middle(title, 46), 4, 4, down="top", size=10.0)
    page.area(_plot(shares, curves, width), LEFT, TOP)
    marks = [0.0, 0.25, 0.5, 0.75, 1.0]
    page.ticks_below([LEFT + round(mark * (width - 1)) for mark in marks], [f"{m:g}" for m in marks], TOP + HEIGHT)
    page.ticks_left([TOP + round((1 - mark) * (HEIGHT - 1)) for mark in marks], [f"{m:g}" for m in marks], LEFT)
    page.text("share of filters removed", LEFT + width / 2, TOP + HEIGHT + 20, across="middle", down="top")
    page.text(label, 2, TOP + HEIGHT / 2, upwards=True)
    _legend(page, list(curves))
    return page.pixels


def _plot(shares: Sequence[float], curves: Mapping[str, Sequence[float]], width: int) -> Picture:
    picture = np.full((HEIGHT, width, 3), 255, dtype=np.uint8)
    for mark in (0.25, 0.5, 0.75):
        picture[round((1 - mark) * (HEIGHT - 1))] = GRID
        picture[:, round(mark * (width - 1))] = GRID
    for (_, values), colour in zip(curves.items(), COLOURS, strict=False):
        _line(picture, shares, values, colour)
    return picture


def _line(picture: Picture, shares: Sequence[float], values: Sequence[float], colour: tuple[int, int, int]) -> None:
    """One curve, two pixels thick, with a marker at each value."""
    height, width = picture.shape[:2]
    columns = np.linspace(0, 1, width)
    heights = np.interp(columns, shares, values)
    rows = (1 - np.clip(heights, 0, 1)) * (height - 1)
    for column in range(width):
        if not np.isfinite(rows[column]):
            continue
        before = rows[max(0, column - 1)]
        low, high = sorted((rows[column], before if np.isfinite(before) else rows[column]))
        picture[max(0, round(low) - 1) : round(high) + 1, column] = colour
    for share, value in zip(shares, values, strict=True):
        if np.isfinite(value):
            row, column = round((1 - min(max(value, 0), 1)) * (height - 1)), round(share * (width - 1))
            picture[max(0, row - 3) : row + 3, max(0, column - 3) : column + 3] = colour


def _legend(page: Page, names: list[str]) -> None:
    left, y = LEFT, page.pixels.shape[0] - 10
    for name, colour in zip(names, COLOURS, strict=False):
        page.pixels[y - 2 : y + 2, left : left + 16] = colour
        page.pixels[y - 4 : y + 4, left + 5 : left + 12] = colour
        page.text(name, left + 20, y)
        left += 32 + text_width([name])
