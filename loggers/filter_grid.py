"""Picture of the images that activate a layer's filters most, with the region responsible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convscope.loggers._canvas import CARD, Floats, Page, Picture, stretch, text_width
from convscope.loggers._heatmap import clamp, draw_title
from convscope.loggers.predictions import thumbnail

MOST_SIDE, LEAST_SIDE = 64, 32
GAP = 4
EDGE = (255, 120, 0)
FADED, FADED_TO = 0.45, 235  # what is not active keeps this share of its contrast, on a light ground
ACTIVE = 0.5  # of the peak: what counts as the active region


@dataclass(frozen=True)
class FilterRow:
    """One filter: two lines of text, and images ``(H, W, 3)`` uint8 with the filter's map ``(h, w)`` on each."""

    label: str
    note: str
    examples: Sequence[tuple[Picture, Floats]]


def example_grid(rows: Sequence[FilterRow], title: str) -> Picture:
    """Draw one row per filter: its label, then the images that activate it most.

    What lies below half of the map's peak is faded to grey, and the rest is edged in orange; a map is laid over its
    image as a whole, each of its cells the same size. Labels have a column of their own, as wide as they need.

    Args:
        rows: at least one filter, each with at least one example.
        title: one or two lines above.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: if there is no row, or a row without an example.
        ImportError: if matplotlib is missing.

    >>> image, spot = np.zeros((8, 8, 3), dtype=np.uint8), np.eye(4)
    >>> example_grid([FilterRow("12", "important", [(image, spot)])], "conv1").shape
    (96, 350, 3)
    """
    if not rows or not all(row.examples for row in rows):
        raise ValueError(f"give at least one filter, each with at least one example, got {len(rows)} filters")
    count = max(len(row.examples) for row in rows)
    left = 8 + text_width([text for row in rows for text in (row.label, row.note)])
    side = clamp((CARD - left) // count - GAP, LEAST_SIDE, MOST_SIDE)
    first = 28 + 16 * title.count("\n")
    page = Page(max(CARD, left + count * (side + GAP)), first + len(rows) * (side + GAP))
    draw_title(page, title)
    for place, row in enumerate(rows):
        top = first - 1 + place * (side + GAP)
        page.text(row.label, 4, top + side / 2 - 8)
        page.text(row.note, 4, top + side / 2 + 8)
        for column, (image, activation) in enumerate(row.examples):
            page.area(marked(image, activation, side), left + column * (side + GAP), top)
    return page.pixels


def marked(image: Picture, activation: Floats, side: int) -> Picture:
    """``image`` as a thumbnail, faded where ``activation`` is below half of its peak."""
    scale = side / max(image.shape[:2])
    size = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
    active = stretch(activation >= ACTIVE * activation.max(), *size)
    picture = stretch(image, *size).copy()
    grey = picture[~active].mean(axis=-1, keepdims=True)
    picture[~active] = np.rint(FADED_TO + (grey - 255) * FADED)
    picture[active & _next_to(~active)] = EDGE
    return thumbnail(picture, side)


def _next_to(mask: np.ndarray) -> np.ndarray:
    """Pixels with a neighbour in ``mask``."""
    padded = np.pad(mask, 1)
    return np.asarray(padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:])
