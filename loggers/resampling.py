"""Pictures of input resampling: overlap over training, filters by both scores, copies and filters' maps on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convscope.loggers._canvas import CARD, INK, Floats, Page, Picture, colour, stretch, text_width
from convscope.loggers.names import shorten_middle
from convscope.loggers.predictions import thumbnail

HEIGHT, LEFT, TOP = 170, 52, 44
BAND, GRID, GREY = (226, 226, 226), (240, 240, 240), (130, 130, 130)
# Okabe and Ito's palette: distinct for eyes that do not distinguish red and green.
MEASURED, PRECISE, INFLUENTIAL, BOTH = (0, 114, 178), (0, 158, 115), (213, 94, 0), (0, 0, 0)
SIDE, GAP, LABEL = 58, 4, 96


def overlap_over_training(
    epochs: Sequence[float], overlap: Sequence[float], chance: Sequence[float], limit: Sequence[float], title: str
) -> Picture:
    """Draw the overlap over training above what chance gives; the vertical axis runs from 0 to 0.5.

    Args:
        epochs: T places, rising.
        overlap: T values in [0, 0.5]; NaN leaves a gap.
        chance: T expected values of random choices.
        limit: T values that one random choice in 20 exceeds; the area below is shaded.
        title: the line above.

    Returns:
        ``(H, 350, 3)`` uint8.

    Raises:
        ValueError: if lengths differ, or there is no check.
        ImportError: if matplotlib is missing.

    >>> overlap_over_training([0, 1], [0.1, 0.3], [0.1, 0.1], [0.2, 0.2], "resampling").shape
    (268, 350, 3)
    """
    if not epochs or not len(epochs) == len(overlap) == len(chance) == len(limit):
        raise ValueError(f"give one value of each curve for each of {len(epochs)} checks, at least one")
    page, width = Page(CARD, TOP + HEIGHT + 54), CARD - LEFT - 12
    page.text(shorten_middle(title, 46), 4, 4, down="top", size=10.0)
    places = _places(epochs, width)
    plot = np.full((HEIGHT, width, 3), 255, dtype=np.uint8)
    rows = {name: _rows(values) for name, values in (("chance", chance), ("limit", limit), ("overlap", overlap))}
    _shade(plot, places, rows["limit"])
    for mark in (0.1, 0.2, 0.3, 0.4):
        plot[round((1 - mark / 0.5) * (HEIGHT - 1))] = GRID
    _line(plot, places, rows["chance"], GREY)
    _line(plot, places, rows["overlap"], MEASURED, markers=True)
    page.area(plot, LEFT, TOP)
    marks = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    page.ticks_left([TOP + round((1 - m / 0.5) * (HEIGHT - 1)) for m in marks], [f"{m:g}" for m in marks], LEFT)
    stride = max(1, -(-len(epochs) // 8))
    page.ticks_below([LEFT + p for p in places[::stride]], [f"{e:g}" for e in epochs[::stride]], TOP + HEIGHT)
    page.text("epochs trained", LEFT + width / 2, TOP + HEIGHT + 20, across="middle", down="top")
    page.text("overlap of the two top sets", 2, TOP + HEIGHT / 2, upwards=True)
    _legend(page, [("overlap", MEASURED), ("chance", GREY), ("19 of 20 random", BAND)])
    return page.pixels


def score_scatter(
    influence: npt.ArrayLike, precision: npt.ArrayLike, influential: npt.ArrayLike, precise: npt.ArrayLike, title: str
) -> Picture:
    """Draw a layer's filters by influence (to the right) and precision (upwards, logarithmic), the top ones marked.

    Filters without influence or precision are left out and counted in the title; one whose precision is
    infinite lies on the upper edge.

    Args:
        influence: ``(C,)`` in [0, 1].
        precision: ``(C,)``, above 0.
        influential: ``(C,)`` bool, chosen by influence.
        precise: ``(C,)`` bool, chosen by precision.
        title: the line above.

    Returns:
        ``(H, 350, 3)`` uint8.

    Raises:
        ValueError: if lengths differ.
        ImportError: if matplotlib is missing.

    >>> score_scatter([0.1, 0.9], [10.0, 1.0], [False, True], [True, False], "conv1").shape
    (268, 350, 3)
    """
    x, y = np.asarray(influence, dtype=np.float64), np.asarray(precision, dtype=np.float64)
    right, up = np.asarray(influential, dtype=bool), np.asarray(precise, dtype=bool)
    if not x.shape == y.shape == right.shape == up.shape or x.ndim != 1:
        raise ValueError(f"give four vectors of one length, got {x.shape}, {y.shape}, {right.shape} and {up.shape}")
    page, width = Page(CARD, TOP + HEIGHT + 54), CARD - LEFT - 12
    shown = np.isfinite(x) & ~np.isnan(y) & (y > 0)
    page.text(shorten_middle(title, 46), 4, 4, down="top", size=10.0)
    page.text(f"{int(shown.sum())} of {len(x)} filters have both scores", 4, 20, down="top")
    low, high = _decades(y[shown])
    plot = np.full((HEIGHT, width, 3), 255, dtype=np.uint8)
    for mark in range(low + 1, high):
        plot[round((high - mark) / (high - low) * (HEIGHT - 1))] = GRID
    for place in np.argsort(right.astype(int) + up.astype(int), kind="stable"):
        if shown[place]:
            level = np.clip(np.log10(min(y[place], 10.0**high)), low, high)
            row, column = round(float(high - level) / (high - low) * (HEIGHT - 1)), round(float(x[place]) * (width - 1))
            tint = (
                BOTH if right[place] and up[place] else INFLUENTIAL if right[place] else PRECISE if up[place] else GREY
            )
            size = 3 if right[place] or up[place] else 2
            plot[max(0, row - size) : row + size, max(0, column - size) : column + size] = tint
    page.area(plot, LEFT, TOP)
    marks = [0.0, 0.25, 0.5, 0.75, 1.0]
    page.ticks_below([LEFT + round(m * (width - 1)) for m in marks], [f"{m:g}" for m in marks], TOP + HEIGHT)
    step = max(1, (high - low) // 5)
    powers = list(range(low, high + 1, step))
    page.ticks_left(
        [TOP + round((high - p) / (high - low) * (HEIGHT - 1)) for p in powers], [f"1e{p}" for p in powers], LEFT
    )
    page.text(
        "influence, mean |correlation| with the output",
        LEFT + width / 2,
        TOP + HEIGHT + 20,
        across="middle",
        down="top",
    )
    page.text("precision", 2, TOP + HEIGHT / 2, upwards=True)
    _legend(page, [("influential", INFLUENTIAL), ("precise", PRECISE), ("both", BOTH)])
    return page.pixels


@dataclass(frozen=True)
class MapRow:
    """One filter: two lines of text, and its map ``(h, w)`` on each copy that is shown."""

    label: str
    note: str
    maps: Sequence[Floats]


def copies_grid(copies: Sequence[Picture], names: Sequence[str], rows: Sequence[MapRow], title: str) -> Picture:
    """Draw some copies of an image in a row, and below them the filters' maps on each.

    A filter's maps share one colour scale, from the least (dark) to the greatest (bright) of its values.

    Args:
        copies: V pictures ``(H, W, 3)`` uint8.
        names: V words above them.
        rows: filters, each with V maps.
        title: the line above.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: if numbers of copies, names and maps differ, or there is no copy.
        ImportError: if matplotlib is missing.

    >>> image, spot = np.zeros((8, 8, 3), dtype=np.uint8), np.eye(4)
    >>> copies_grid([image], ["clean"], [MapRow("conv1", "filter 3", [spot])], "sample 5").shape
    (168, 350, 3)
    """
    if not copies or len(names) != len(copies) or any(len(row.maps) != len(copies) for row in rows):
        raise ValueError(f"give one name, and one map of each filter, for each of {len(copies)} copies, at least one")
    width = LABEL + len(copies) * (SIDE + GAP) + GAP
    page = Page(max(CARD, width), 44 + (1 + len(rows)) * (SIDE + GAP))
    page.text(shorten_middle(title, 46), 4, 4, down="top", size=10.0)
    for column, (name, copy) in enumerate(zip(names, copies, strict=True)):
        left = LABEL + column * (SIDE + GAP)
        page.text(name, left + SIDE / 2, 24, across="middle", down="top")
        page.area(thumbnail(copy, SIDE), left, 40)
    for place, row in enumerate(rows, 1):
        top = 40 + place * (SIDE + GAP)
        page.text(shorten_middle(row.label, 12), 4, top + SIDE / 2 - 8)
        page.text(shorten_middle(row.note, 14), 4, top + SIDE / 2 + 8)
        low = min(float(each.min()) for each in row.maps)
        high = max(float(each.max()) for each in row.maps)
        for column, each in enumerate(row.maps):
            tinted = colour(each, "viridis", low, high if high > low else low + 1)
            page.area(thumbnail(stretch(tinted, *_fitted(each)), SIDE), LABEL + column * (SIDE + GAP), top)
    return page.pixels


def _fitted(values: Floats) -> tuple[int, int]:
    scale = SIDE / max(values.shape)
    return max(1, round(values.shape[0] * scale)), max(1, round(values.shape[1] * scale))


def _places(epochs: Sequence[float], width: int) -> list[int]:
    """Columns of the checks, with a little space on both sides."""
    span = max(epochs[-1] - epochs[0], 1e-9)
    return [8 + round((epoch - epochs[0]) / span * (width - 17)) for epoch in epochs]


def _rows(values: Sequence[float]) -> Floats:
    return (1 - np.clip(np.asarray(values, dtype=np.float64) / 0.5, 0, 1)) * (HEIGHT - 1)


def _shade(plot: Picture, places: list[int], rows: Floats) -> None:
    """Polygon of the area below a curve."""
    for column in range(places[0], places[-1] + 1):
        row = np.interp(column, places, rows)
        if np.isfinite(row):
            plot[round(row) :, column] = BAND


def _line(plot: Picture, places: list[int], rows: Floats, tint: tuple[int, int, int], markers: bool = False) -> None:
    columns = np.arange(places[0], places[-1] + 1)
    heights = np.interp(columns, places, rows)
    for place, column in enumerate(columns):
        ends = heights[max(0, place - 1) : place + 1]
        if np.isfinite(ends).all():
            plot[max(0, round(ends.min()) - 1) : round(ends.max()) + 1, column] = tint
    for spot, row in zip(places, rows, strict=True) if markers else ():
        if np.isfinite(row):
            plot[max(0, round(row) - 3) : round(row) + 3, max(0, spot - 3) : spot + 3] = tint


def _decades(values: Floats) -> tuple[int, int]:
    """Whole powers of ten around the finite values."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return -1, 1
    low, high = int(np.floor(np.log10(finite.min()))), int(np.ceil(np.log10(finite.max())))
    return low, max(high, low + 1)


def _legend(page: Page, entries: Sequence[tuple[str, tuple[int, int, int]]]) -> None:
    left, y = LEFT, page.pixels.shape[0] - 10
    for name, tint in entries:
        page.pixels[y - 5 : y + 5, left : left + 12] = INK
        page.pixels[y - 4 : y + 4, left + 1 : left + 11] = tint
        page.text(name, left + 16, y)
        left += 28 + text_width([name])
