"""Ranges of colours: from chance to best, outliers left out."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convscope.loggers import overview, scale
from convscope.loggers.overview import Marker, Panel, overview_picture
from convscope.loggers.scale import Scale, scale_of


@pytest.mark.parametrize("module", [scale, overview])
def test_examples_run(module: object) -> None:
    assert doctest.testmod(module).failed == 0


def test_accuracies_close_together_get_the_whole_range() -> None:
    found = scale_of(np.linspace(0.25, 0.46, 60), 0, 1, start=0.1, start_name="chance")
    assert (found.low, found.high) == (0.1, pytest.approx(0.46))
    assert (found.low_name, found.high_name) == ("chance", "best")


def test_one_value_far_out_does_not_make_all_others_one_colour() -> None:
    values = np.append(np.linspace(1.0, 2.0, 40), 1e6)
    assert scale_of(values).high == pytest.approx(2.0)


def test_a_few_dead_layers_among_sound_ones_are_no_outliers() -> None:
    assert scale_of([0.0] * 40 + [0.97], 0, 1).high == pytest.approx(0.97)


@pytest.mark.parametrize("values", [[], [math.nan], [0.5], [0.1, 0.1], [0.0], [1.0]])
def test_there_is_always_a_range_within_bounds(values: list[float]) -> None:
    for start in (None, 0.1, 1.0):
        found = scale_of(values, 0.0, 1.0, start, "chance" if start else "")
        assert 0 <= found.low < found.high <= 1


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_any_values_have_a_range(values: list[float]) -> None:
    found = scale_of(values)
    assert found.low < found.high


def panel(layers: int, checks: int) -> Panel:
    values = np.random.default_rng(0).random((layers, checks))
    return Panel("Probe accuracy", values, range(checks), [f"conv{n}" for n in range(layers)], Scale(0, 1))


@pytest.mark.parametrize(("layers", "checks", "panels"), [(1, 1, 1), (4, 3, 6), (15, 4, 6), (40, 200, 14), (300, 2, 2)])
def test_an_overview_is_a_card_wide_and_not_endless(layers: int, checks: int, panels: int) -> None:
    x = ["–", *range(checks - 1)]
    picture = overview_picture([panel(layers, checks)] * panels, x, "epoch", [Marker(checks - 1, "critical")])
    assert picture.shape[1] == 350
    assert picture.shape[0] < 2200
    assert (picture == overview.SEVERITIES["critical"]).all(2).sum() > 30 * panels


def test_an_overview_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one learning map"):
        overview_picture([], [0], "epoch")
