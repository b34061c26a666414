"""The sheet of explanations: a row per check, red for the class, blue against it, where the super-pixels are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convscope.loggers.explanations import LABEL, SIDE, TOP, SheetRow, explanation_sheet, overlay

IMAGE = np.full((8, 8, 3), 120, dtype=np.uint8)
QUARTERS = np.arange(8)[:, None] // 4 * 2 + np.arange(8)[None] // 4
CELLS = np.arange(8)[:, None] // 2 * 4 + np.arange(8)[None] // 2


def row(coarse: Any, label: str = "epoch 0") -> SheetRow:
    return SheetRow(label, "class 3, p 0.90", np.asarray(coarse, dtype=float), np.zeros(16))


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_row_per_check_on_a_card(count: int) -> None:
    sheet = explanation_sheet(IMAGE, (QUARTERS, CELLS), [row([1, 0, 0, 0])] * count, "sample 3")
    assert sheet.shape == (TOP + count * (SIDE + 4), 350, 3)
    assert sheet.dtype == np.uint8


def test_what_speaks_for_the_class_is_red_and_what_speaks_against_it_blue() -> None:
    values = np.array([1.0, -0.5, 0.0, 0.0])[QUARTERS]
    picture = overlay(IMAGE, values).astype(int)
    red, blue, nothing = picture[1, 1], picture[1, 6], picture[6, 1]
    assert red[0] > red[2] + 60
    assert blue[2] > blue[0] + 20
    assert nothing[0] == nothing[2]
    assert (overlay(IMAGE, np.zeros((8, 8))) == nothing).all()  # nothing is important


def test_rows_show_their_own_importances() -> None:
    sheet = explanation_sheet(IMAGE, (QUARTERS, CELLS), [row([1, 0, 0, 0]), row([0, 0, 0, 1])], "").astype(int)
    left = LABEL + SIDE + 4  # of the coarse column
    for place, (y, x) in enumerate([(20, 20), (SIDE - 20, SIDE - 20)]):
        pixel = sheet[TOP + place * (SIDE + 4) + y, left + x]
        other = sheet[TOP + place * (SIDE + 4) + SIDE - y, left + SIDE - x]
        assert pixel[0] > pixel[2] + 60
        assert other[0] == other[2]


@pytest.mark.parametrize(
    ("segments", "rows"), [((QUARTERS, CELLS), []), ((QUARTERS[:4], CELLS), [row([1, 0, 0, 0])])], ids=["rows", "size"]
)
def test_bad_input_is_named(segments: Any, rows: Any) -> None:
    with pytest.raises(ValueError, match="give at least one row and segments of"):
        explanation_sheet(IMAGE, segments, rows, "")
