"""Sheet of explanations: an image beside the importance of its super-pixels at two scales, a row per check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convscope.loggers._canvas import CARD, Floats, Page, Picture, colour
from convscope.loggers.names import shorten_middle
from convscope.loggers.predictions import thumbnail

SIDE = 78
GAP = 4
LABEL = 102
TOP = 44
GROUND = 0.35  # how much of the grey image is left under a colour

AnyArray = npt.NDArray[Any]


@dataclass(frozen=True)
class SheetRow:
    """One check of one image.

    Attributes:
        label: When it was, "epoch 3".
        note: What the network said.
        coarse: ``(p,)`` importance of coarse super-pixels.
        fine: ``(q,)`` of fine ones.
    """

    label: str
    note: str
    coarse: Floats | AnyArray
    fine: Floats | AnyArray


def explanation_sheet(
    image: Picture, segments: tuple[AnyArray, AnyArray], rows: Sequence[SheetRow], title: str
) -> Picture:
    """Draw one row per check: the image, its coarse importances and its fine ones.

    Red speaks for the class, blue against it; the strongest super-pixel of each map has the full colour.

    Args:
        image: ``(H, W, 3)`` uint8.
        segments: ``(H, W)`` number of each pixel's coarse and of its fine super-pixel.
        rows: at least one.
        title: the line above.

    Returns:
        ``(H, W, 3)`` uint8, 350 wide.

    Raises:
        ValueError: if there is no row, or segments and image differ in size.
        ImportError: if matplotlib is missing.

    >>> picture, halves = np.zeros((4, 4, 3), dtype=np.uint8), np.arange(4)[:, None] // 2 + np.zeros((4, 4), dtype=int)
    >>> explanation_sheet(picture, (halves, halves), [SheetRow("epoch 0", "p 0.9", [0, 1], [0, 1])], "sample 3").shape
    (126, 350, 3)
    """
    if not rows or any(numbers.shape != image.shape[:2] for numbers in segments):
        raise ValueError(
            f"give at least one row and segments of {image.shape[:2]}, got {len(rows)} rows and "
            f"{', '.join(str(numbers.shape) for numbers in segments)}"
        )
    page = Page(CARD, TOP + len(rows) * (SIDE + GAP))
    page.text(shorten_middle(title, 46), 4, 4, down="top", size=10.0)
    lefts = [LABEL + column * (SIDE + GAP) for column in range(3)]
    for left, name in zip(lefts, ("image", "coarse", "fine"), strict=True):
        page.text(name, left + SIDE / 2, TOP - 4, across="middle", down="bottom")
    for place, row in enumerate(rows):
        top = TOP + place * (SIDE + GAP)
        page.text(row.label, 4, top + SIDE / 2 - 8)
        page.text(row.note, 4, top + SIDE / 2 + 8)
        maps = [np.asarray(values, dtype=np.float64)[numbers] for values, numbers in _pairs(row, segments)]
        for left, picture in zip(lefts, [image, *(overlay(image, values) for values in maps)], strict=True):
            page.area(thumbnail(picture, SIDE), left, top)
    return page.pixels


def overlay(image: Picture, values: Floats) -> Picture:
    """A grey copy of an image under the colours of a map ``(H, W)``, red above 0 and blue below, by their size."""
    largest = float(np.abs(values).max())
    scaled = values / largest if largest > 0 else values
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    strength = (1 - GROUND) * np.abs(scaled)[..., None]
    # From light grey, so that a dark image does not hide what is coloured.
    ground = 96 + grey * (159 / 255)
    mixed = ground * (1 - strength) + colour(scaled, "coolwarm", -1.0, 1.0) * strength
    return np.rint(mixed).astype(np.uint8)


def _pairs(row: SheetRow, segments: tuple[AnyArray, AnyArray]) -> list[tuple[Any, AnyArray]]:
    return [(row.coarse, segments[0]), (row.fine, segments[1])]
