"""Heat-maps of filters against classes, and of the layers of a network against one another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from convscope.loggers._canvas import CARD, Floats, Page, Picture, text_width
from convscope.loggers._heatmap import (
    HEATMAP_SIDE,
    MAP_ROW,
    clamp,
    colour_cells,
    column_height,
    draw_colour_bar,
    draw_columns,
    draw_title,
    middles_of,
    shrink,
    shrink_signed,
    tick_stride,
)
from convscope.loggers.names import short_labels

NAME_LIMIT = 16


def class_table(
    values: npt.ArrayLike,
    rows: Sequence[str],
    title: str,
    unit: str,
    limit: float | None = None,
    classes: Sequence[str] | None = None,
) -> Picture:
    """Draw values of either sign, filters (rows) against classes (columns): blue below 0, white at 0, red above.

    Args:
        values: ``(F, K)``; NaN is drawn grey.
        rows: F labels, usually the filters' numbers.
        title: one or two lines above.
        unit: the colour bar's label.
        limit: the value of the darkest red, and of the darkest blue below 0; the largest size if None.
        classes: K names, written upwards below their columns; by default columns are numbered.

    Returns:
        ``(H, 350, 3)`` uint8.

    Raises:
        ValueError: if ``values`` is empty or does not match ``rows`` or ``classes``.
        ImportError: if matplotlib is missing.

    >>> class_table([[0.1, -0.2], [0.0, 0.3]], ["7", "12"], "conv1", "rise of the loss").shape[1]
    350
    """
    table = _as_table(values, len(rows))
    finite = np.abs(table[np.isfinite(table)])
    bound = limit if limit is not None else float(finite.max(initial=0.0)) or 1.0
    left, top = text_width(list(rows)) + 26, 42
    width, height = CARD - left - 80, clamp(len(rows) * MAP_ROW, 126, 560)
    names = list(map(str, range(table.shape[1]))) if classes is None else list(classes)
    if len(names) != table.shape[1]:
        raise ValueError(f"classes must name the {table.shape[1]} columns, got {len(names)} names")
    below = column_height(names, width)
    page = Page(CARD, top + height + below + 22)
    draw_title(page, title)
    shown = shrink(table, height, width)
    page.area(colour_cells(shown, height, width, "RdBu_r", -bound, bound), left, top)
    thinned = slice(None, None, -(-len(rows) * 12 // height))
    page.ticks_left(middles_of(len(rows), height, top)[thinned], list(rows)[thinned], left)
    draw_columns(page, names, left, top + height, width)
    page.text("class", left + width / 2, top + height + below, across="middle", down="top")
    page.text("filter", 2, top + height / 2, upwards=True)
    draw_colour_bar(page, "RdBu_r", (-bound, bound), unit, left + width + 12, top, height, steps=4)
    return page.pixels


def layer_heatmap(matrix: npt.ArrayLike, layers: Sequence[str], title: str, unit: str) -> Picture:
    """Draw a quantity of every pair of layers, depth on both axes, colours from 0 to 1.

    Args:
        matrix: ``(L, L)``; NaN is drawn grey.
        layers: L names in depth order; columns are numbered in the same order.
        title: one or two lines above.
        unit: the colour bar's label.

    Returns:
        ``(H, 350, 3)`` uint8.

    Raises:
        ValueError: if ``matrix`` is empty, not square, or does not match ``layers``.
        ImportError: if matplotlib is missing.

    >>> layer_heatmap([[1, 0.5], [0.5, 1]], ["conv1", "output"], "epoch 3", "CKA").shape[1]
    350
    """
    table = _as_table(matrix, len(layers))
    if table.shape[0] != table.shape[1]:
        raise ValueError(f"matrix must be square (L, L), got shape {table.shape}")
    count, names = len(layers), short_labels(layers, NAME_LIMIT)
    left, top = text_width(names) + 24, 42
    side = min(HEATMAP_SIDE, CARD - left - 76)
    page = Page(CARD, top + side + 44)
    draw_title(page, title)
    page.area(colour_cells(shrink_signed(table, side), side, side, "viridis", 0.0, 1.0), left, top)
    thinned = slice(None, None, -(-count * 12 // side))
    middles = middles_of(count, side, 0)
    page.ticks_left([top + place for place in middles][thinned], names[thinned], left)
    stride = tick_stride(count, side, len(str(count)))
    labels = [str(place + 1) for place in range(count)]
    page.ticks_below([left + place for place in middles][::stride], labels[::stride], top + side)
    page.text("layer, in order of depth →", left + side / 2, top + side + 20, across="middle", down="top")
    page.text("← depth", 2, top + side / 2, upwards=True)
    draw_colour_bar(page, "viridis", (0.0, 1.0), unit, left + side + 12, top, side, steps=4)
    return page.pixels


def _as_table(values: npt.ArrayLike, rows: int) -> Floats:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.size == 0 or len(table) != rows:
        raise ValueError(f"values must be a non-empty table of {rows} rows, got shape {table.shape}")
    return table
