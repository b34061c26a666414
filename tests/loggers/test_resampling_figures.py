"""Pictures of input resampling: what is drawn where, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convscope.loggers.resampling import (
    BOTH,
    GREY,
    HEIGHT,
    INFLUENTIAL,
    LEFT,
    MEASURED,
    PRECISE,
    SIDE,
    TOP,
    MapRow,
    copies_grid,
    overlap_over_training,
    score_scatter,
)

pytest.importorskip("matplotlib")


def places(picture: Any, tint: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of a colour within the plot, from its upper left corner."""
    plot = picture[TOP : TOP + HEIGHT, LEFT:-12]
    return np.argwhere((plot == tint).all(-1))


def test_the_curve_lies_where_its_values_are() -> None:
    picture = overlap_over_training([0, 1, 2], [0.0, 0.25, 0.5], [0.1] * 3, [0.2] * 3, "title")
    curve = places(picture, MEASURED)
    left, right = curve[curve[:, 1] < 12][:, 0].mean(), curve[curve[:, 1] > curve[:, 1].max() - 4][:, 0].mean()
    assert left > 0.95 * HEIGHT
    assert right < 0.05 * HEIGHT
    assert abs(places(picture, GREY)[:, 0].mean() / HEIGHT - 0.8) < 0.02  # chance, 0.1 of 0.5


def test_a_check_without_a_value_leaves_a_gap() -> None:
    whole = places(overlap_over_training([0, 1, 2], [0.4] * 3, [0.1] * 3, [0.2] * 3, ""), MEASURED)
    gap = places(overlap_over_training([0, 1, 2], [0.4, np.nan, 0.4], [0.1] * 3, [0.2] * 3, ""), MEASURED)
    assert 0 < len(gap) < 0.5 * len(whole)


def test_one_check_alone_can_be_drawn() -> None:
    assert len(places(overlap_over_training([5], [0.3], [0.1], [0.2], ""), MEASURED))


def test_filters_lie_to_the_right_by_influence_and_above_by_precision() -> None:
    influence, precision = [0.1, 0.9, 0.5, np.nan, 0.4], [100.0, 1.0, 10.0, 5.0, np.inf]
    right, up = [False, True, True, False, False], [True, False, True, False, False]
    picture = score_scatter(influence, precision, right, up, "conv1")
    spots = {name: places(picture, tint).mean(0) for name, tint in (("r", INFLUENTIAL), ("u", PRECISE), ("b", BOTH))}
    assert spots["u"][1] < spots["b"][1] < spots["r"][1]
    assert spots["u"][0] < spots["b"][0] < spots["r"][0]
    assert len(np.unique(places(picture, GREY)[:, 1])) <= 4  # the one with infinite precision, on the edge


def test_copies_are_shown_above_the_maps_of_filters() -> None:
    red = np.zeros((8, 8, 3), dtype=np.uint8)
    red[..., 0] = 255
    rows = [MapRow("conv1", "3, both", [np.eye(4), np.zeros((4, 4))])]
    picture = copies_grid([red, red], ["clean", "copy 49"], rows, "sample 5")
    assert (picture == (255, 0, 0)).all(-1).sum() == 2 * SIDE * SIDE
    bright = ((picture == (253, 231, 36)).all(-1) | (picture == (253, 231, 37)).all(-1)).sum()
    assert bright == pytest.approx(SIDE * SIDE / 4, rel=0.1)  # the diagonal of the first map, nothing of the second


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: overlap_over_training([], [], [], [], ""), "at least one"),
        (lambda: overlap_over_training([1], [0.1, 0.2], [0.1], [0.1], ""), "for each of 1 checks"),
        (lambda: score_scatter([0.1], [1.0, 2.0], [True], [True], ""), "four vectors of one length"),
        (lambda: copies_grid([], [], [], ""), "at least one"),
        (lambda: copies_grid([np.zeros((2, 2, 3), np.uint8)], ["a"], [MapRow("l", "", [])], ""), "each of 1 copies"),
    ],
)
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
