"""Prediction strip: a held-out image beside the prediction of each layer for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from convscope.loggers._canvas import CARD, INK, Floats, Page, Picture, colour, stretch, text_width
from convscope.loggers._heatmap import column_height, draw_columns, draw_title
from convscope.loggers.names import short_labels

IMAGE_SIDE = 72
ROW = 14
NAME_LIMIT = 16
TRUTH = (214, 39, 40)


def prediction_strip(
    image: Picture | None,
    probabilities: npt.ArrayLike,
    layers: list[str],
    truth: int,
    title: str,
    classes: Sequence[str] | None = None,
) -> Picture:
    """Draw one sample: its image, and beside it the probability of each class (columns) at each layer (rows).

    The input's layer is on top, the output at the bottom. Colours run from 0 (dark) to 1 (bright); a red mark above
    and below shows the true class, a small square in each row the predicted one.

    Args:
        image: ``(H, W, 3)`` uint8, None if the sample is not an image.
        probabilities: ``(L, K)`` in [0, 1].
        layers: L names in depth order.
        truth: column of the true class.
        title: one or two lines above.
        classes: K names, below their columns; by default columns have no names.

    Returns:
        ``(H, W, 3)`` uint8, 350 wide.

    Raises:
        ValueError: if shapes disagree or ``truth`` is not a column.
        ImportError: if matplotlib is missing.

    >>> picture = np.zeros((8, 8, 3), dtype=np.uint8)
    >>> prediction_strip(picture, [[0.5, 0.5], [0.1, 0.9]], ["conv", "output"], 1, "sample 3: class 1").shape[1]
    350
    """
    table = _as_table(probabilities, layers, truth)
    names = short_labels(layers, NAME_LIMIT)
    left = IMAGE_SIDE + 24 + text_width(names)
    width, height, top = CARD - left - 8, max(ROW * len(layers), IMAGE_SIDE), 34 + 16 * title.count("\n")
    below = 12 if classes is None else 12 + column_height(classes, width)
    page = Page(CARD, top + height + below + 22)
    draw_title(page, title)
    if image is not None:
        page.area(thumbnail(image, IMAGE_SIDE), 4, top)
    page.area(_strip(table, height, width), left, top)
    page.ticks_left([top + (2 * row + 1) * height // (2 * len(names)) for row in range(len(names))], names, left)
    middle = left + (2 * truth + 1) * width // (2 * table.shape[1])
    for start in (top - 9, top + height + 3):
        page.pixels[start : start + 6, middle - 2 : middle + 3] = TRUTH
    if classes is not None:
        draw_columns(page, _named(classes, table.shape[1]), left, top + height + 10, width)
    page.text("class (red: the true one)", CARD - 8, top + height + below, across="right", down="top")
    return page.pixels


def _named(classes: Sequence[str], columns: int) -> Sequence[str]:
    if len(classes) != columns:
        raise ValueError(f"classes must name the {columns} columns, got {len(classes)} names")
    return classes


def thumbnail(image: Picture, side: int) -> Picture:
    """``image`` on a light ground of ``side`` × ``side`` pixels, its shape kept, pixels repeated or skipped."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    fitted = stretch(image, max(1, round(height * scale)), max(1, round(width * scale)))
    ground = np.full((side, side, 3), 238, dtype=np.uint8)
    top, left = (side - fitted.shape[0]) // 2, (side - fitted.shape[1]) // 2
    ground[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted
    return ground


def _strip(table: Floats, height: int, width: int) -> Picture:
    """Cells of the table, a small square in each row's largest; the maximum of neighbours if pixels are too few."""
    classes = table.shape[1]
    shown = min(classes, width)
    starts = np.arange(shown) * classes // shown
    picture = stretch(colour(np.maximum.reduceat(table, starts, axis=1), "viridis", 0.0, 1.0), height, width)
    for row, best in enumerate(table.argmax(axis=1)):
        x, y = (2 * best + 1) * width // (2 * classes), (2 * row + 1) * height // (2 * len(table))
        picture[max(0, y - 2) : y + 2, max(0, x - 2) : x + 2] = 255
        picture[max(0, y - 1) : y + 1, max(0, x - 1) : x + 1] = INK
    return picture


def _as_table(probabilities: npt.ArrayLike, layers: list[str], truth: int) -> Floats:
    table = np.asarray(probabilities, dtype=np.float64)
    if table.ndim != 2 or table.size == 0 or len(table) != len(layers):
        raise ValueError(
            f"probabilities must be a ({len(layers)}, K) table, one row per layer, got shape {table.shape}"
        )
    if not 0 <= truth < table.shape[1]:
        raise ValueError(f"truth must be one of the {table.shape[1]} columns, got {truth}")
    return table
