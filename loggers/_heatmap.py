"""Shared parts of heat-maps: shrinking, cells, title, colour bar, legend and ticks."""

import numpy as np

from convscope.loggers._canvas import (
    TITLE_SIZE,
    Floats,
    Page,
    Picture,
    colour,
    missing_swatch,
    stretch,
    stripe,
)
from convscope.loggers.names import shorten_middle

HEATMAP_SIDE = 240
MAP_ROW = 14
BAR_WIDTH = 12


def shrink(values: Floats, rows: int, columns: int) -> Floats:
    """Means of blocks if there are more cells than wanted, so that none is skipped; NaN is not counted."""
    if values.shape[0] <= rows and values.shape[1] <= columns:
        return values
    known = np.isfinite(values)
    sums = _block_sums(np.where(known, values, 0.0), rows, columns)
    counts = _block_sums(known.astype(np.float64), rows, columns)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def shrink_signed(matrix: Floats, cells: int) -> Floats:
    """Mean size with the more frequent sign, so that opposite correlations do not cancel into white."""
    return shrink(np.abs(matrix), cells, cells) * np.where(shrink(matrix, cells, cells) < 0, -1.0, 1.0)


def _block_sums(values: Floats, rows: int, columns: int) -> Floats:
    for axis, limit in enumerate((rows, columns)):
        length = values.shape[axis]
        parts = min(length, limit)
        values = np.add.reduceat(values, np.arange(parts) * length // parts, axis=axis)
    return values


def colour_cells(values: Floats, height: int, width: int, palette: str, low: float, high: float) -> Picture:
    picture = stretch(colour(values, palette, low, high), height, width)
    stripe(picture, stretch(~np.isfinite(values), height, width))
    return picture


def draw_title(page: Page, title: str) -> None:
    fitting = (page.pixels.shape[1] - 8) // 8
    for number, line in enumerate(title.split("\n")):
        page.text(shorten_middle(line, fitting), 4, 4 + 16 * number, down="top", size=TITLE_SIZE)


def draw_colour_bar(
    page: Page, palette: str, limits: tuple[float, float], label: str, left: int, top: int, height: int, steps: int
) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high = limits
    ramp = np.linspace(high, low, height)[:, None]
    page.area(stretch(colour(ramp, palette, low, high), height, BAR_WIDTH), left, top)
    marks = np.asarray(MaxNLocator(steps).tick_values(low, high), dtype=np.float64)
    marks = marks[(marks >= low) & (marks <= high)]
    places = [top + round((high - mark) / (high - low) * (height - 1)) for mark in marks]
    page.ticks_right(places, [f"{mark:.4g}" for mark in marks], left + BAR_WIDTH)
    fitting = max(8, (height + 40) // 7)
    page.text(shorten_middle(label, fitting), page.pixels.shape[1] - 2, top + height / 2, across="right", upwards=True)


def draw_legend(page: Page, label: str, left: int) -> None:
    bottom = page.pixels.shape[0]
    page.area(missing_swatch(), left, bottom - 20)
    page.text(label, left + 18, bottom - 14)


def middles_of(cells: int, pixels: int, start: int) -> list[int]:
    return [start + (2 * cell + 1) * pixels // (2 * cells) for cell in range(cells)]


def tick_stride(columns: int, width: int, characters: int) -> int:
    """The least of 1, 2, 5, 10, 20, … at which the tick labels fit."""
    fitting = max(1, width // (characters * 7 + 6))
    decade = 1
    while columns > fitting * 5 * decade:
        decade *= 10
    return next(factor * decade for factor in (1, 2, 5) if columns <= fitting * factor * decade)


def clamp(value: int, least: int, most: int) -> int:
    return max(least, min(most, value))
