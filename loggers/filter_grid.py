"""Picture of the images that activate a layer's filters most, with the region responsible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convscope.loggers._canvas import Floats, Page, Picture, stretch
from convscope.loggers.names import shorten_middle
from convscope.loggers.predictions import thumbnail

SIDE = 56
GAP = 4
LABEL = 100
EDGE = (255, 140, 0)
DIMMED = 0.35
ACTIVE = 0.5  # share of the peak above which a region counts as active


@dataclass(frozen=True)
class FilterRow:
    """One filter: two lines of text, and images ``(H, W, 3)`` uint8 with the filter's map ``(h, w)`` on each."""

    label: str
    note: str
    examples: Sequence[tuple[Picture, Floats]]


def example_grid(rows: Sequence[FilterRow], title: str) -> Picture:
    """Draw one row per filter: its label, then the images that activate it most.

    Regions below half of the map's peak are dimmed, and the others are edged in orange; a map covers its whole image,
    each of its cells the same size.

    Args:
        rows: at least one filter, each with at least one example.
        title: the line above.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: if there is no row, or a row without an example.
        ImportError: if matplotlib is missing.

    >>> image, spot = np.zeros((8, 8, 3), dtype=np.uint8), np.eye(4)
    >>> example_grid([FilterRow("12", "important", [(image, spot)])], "conv1").shape
    (88, 350, 3)
    """
    if not rows or not all(row.examples for row in rows):
        raise ValueError(f"give at least one filter, each with at least one example, got {len(rows)} filters")
    width = LABEL + max(len(row.examples) for row in rows) * (SIDE + GAP) + GAP
    page = Page(max(350, width), 28 + len(rows) * (SIDE + GAP))
    page.text(shorten_middle(title, 46), 4, 4, down="top", size=10.0)
    for place, row in enumerate(rows):
        top = 26 + place * (SIDE + GAP)
        page.text(row.label, 4, top + SIDE / 2 - 8)
        page.text(row.note, 4, top + SIDE / 2 + 8)
        for column, (image, activation) in enumerate(row.examples):
            page.area(marked(image, activation), LABEL + column * (SIDE + GAP), top)
    return page.pixels


def marked(image: Picture, activation: Floats) -> Picture:
    """``image`` as a thumbnail, dimmed where ``activation`` is below half of its peak."""
    scale = SIDE / max(image.shape[:2])
    size = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
    active = stretch(activation >= ACTIVE * activation.max(), *size)
    picture = stretch(image, *size).copy()
    picture[~active] = np.rint(picture[~active] * DIMMED)
    picture[active & _next_to(~active)] = EDGE
    return thumbnail(picture, SIDE)


def _next_to(mask: np.ndarray) -> np.ndarray:
    """Pixels with a neighbour in ``mask``."""
    padded = np.pad(mask, 1)
    return np.asarray(padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:])
