"""The pictures of predictions, removal, classes, layers and filters: right size, right places, right complaints."""

from __future__ import annotations

import doctest
import importlib
from typing import Any

import numpy as np
import pytest

from convscope.loggers.classes import class_table, layer_heatmap
from convscope.loggers.curves import removal_curves
from convscope.loggers.filter_grid import EDGE, FilterRow, example_grid, marked
from convscope.loggers.predictions import TRUTH, prediction_strip, thumbnail

IMAGE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


@pytest.mark.parametrize("name", ["classes", "curves", "filter_grid", "predictions"])
def test_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"convscope.loggers.{name}")).failed == 0


@pytest.mark.parametrize(("layers", "classes"), [(1, 2), (7, 10), (30, 100), (5, 1000)])
def test_a_strip_is_a_card_wide_and_marks_the_true_class(layers: int, classes: int) -> None:
    table = np.random.default_rng(0).dirichlet(np.ones(classes), layers)
    names = [f"layer{i}" for i in range(layers)]
    pictures = [prediction_strip(IMAGE, table, names, truth, "sample") for truth in (0, classes - 1)]
    columns = [np.flatnonzero((p == TRUTH).all(2).any(0)).mean() for p in pictures]
    assert pictures[0].shape[1] == 350
    assert pictures[0].dtype == np.uint8
    assert columns[0] < columns[1]


def test_the_most_probable_class_is_brightest() -> None:
    table = np.array([[0.02, 0.96, 0.02]])
    row = prediction_strip(None, table, ["a"], 0, "")[50, 150:340].astype(int).sum(1)
    thirds = [part.mean() for part in np.array_split(row, 3)]
    assert thirds[1] == max(thirds)


def test_a_thumbnail_keeps_the_images_shape() -> None:
    small = thumbnail(np.zeros((10, 20, 3), dtype=np.uint8), 40)
    dark = (small == 0).all(2)
    assert small.shape == (40, 40, 3)
    assert (dark.any(1).sum(), dark.any(0).sum()) == (20, 40)


def test_curves_run_where_their_values_are() -> None:
    high = removal_curves([0, 1], {"a": [1.0, 1.0]}, "t", "accuracy")
    low = removal_curves([0, 1], {"a": [0.0, 0.0]}, "t", "accuracy")
    blue = (0, 114, 178)

    def mean_row(picture: np.ndarray) -> float:
        return float(np.flatnonzero((picture[:210] == blue).all(2).any(1)).mean())

    assert mean_row(high) < mean_row(low)


def test_the_active_region_keeps_its_colour_and_the_rest_is_faded_but_never_black() -> None:
    image, spot = np.zeros((8, 8, 3), dtype=np.uint8), np.zeros((4, 4))
    image[..., 0], spot[1, 1] = 200, 1
    picture = marked(image, spot, 56)
    assert picture[21, 21].tolist() == [200, 0, 0]  # in the middle of the active cell
    assert picture[50, 50].min() == picture[50, 50].max() > 100  # a light grey
    assert (picture == EDGE).all(2).any()


def test_rises_are_red_falls_are_blue_and_nothing_measured_is_grey() -> None:
    picture = class_table([[1.0, -1.0, np.nan]], ["0"], "t", "u").astype(int)
    middle = picture[42 + 60, 50:260]
    assert (middle[:, 0] - middle[:, 2]).max() > 50
    assert (middle[:, 2] - middle[:, 0]).max() > 50
    assert (middle == 221).all(1).any()


@pytest.mark.parametrize("count", [1, 7, 60])
def test_a_layer_heatmap_is_a_card_wide(count: int) -> None:
    matrix = np.eye(count)
    assert layer_heatmap(matrix, [f"net.layer{i}.conv" for i in range(count)], "t", "CKA").shape[1] == 350


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: prediction_strip(None, [[0.5, 0.5]], ["a", "b"], 0, ""), "one row per layer"),
        (lambda: prediction_strip(None, [[0.5, 0.5]], ["a"], 2, ""), "truth"),
        (lambda: removal_curves([0, 1], {}, "", ""), "1 to 4"),
        (lambda: removal_curves([0, 1], {"a": [1.0]}, "", ""), "'a' has 1"),
        (lambda: class_table([[1.0]], ["a", "b"], "", ""), "2 rows"),
        (lambda: layer_heatmap([[1.0, 2.0]], ["a"], "", ""), "square"),
        (lambda: example_grid([], ""), "at least one"),
        (lambda: example_grid([FilterRow("a", "b", [])], ""), "at least one"),
    ],
)
def test_bad_input_is_named(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
