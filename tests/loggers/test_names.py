"""Layer names made short at word boundaries."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convscope.loggers import names
from convscope.loggers.names import ELLIPSIS, short_labels, shorten_name


def test_examples_run() -> None:
    assert doctest.testmod(names).failed == 0


def test_names_of_a_resnet_stay_whole_words() -> None:
    layers = [f"net.layer{stage}.{block}.conv{conv}" for stage in (1, 2) for block in (0, 1) for conv in (1, 2)]
    assert short_labels([*layers, "output"], 16)[:3] == ["…layer1.0.conv1", "…layer1.0.conv2", "…layer1.1.conv1"]


def test_words_that_all_end_with_go_too() -> None:
    layers = [f"resnet.encoder.stages.{s}.layers.{n}.convolution" for s in (0, 1) for n in (0, 1)]
    assert short_labels(layers, 14) == ["…0.layers.0…", "…0.layers.1…", "…1.layers.0…", "…1.layers.1…"]


words = st.text(st.sampled_from("abcxyz0123_"), min_size=1, max_size=12)
layer_names = st.lists(words, min_size=1, max_size=7).map(".".join)


@given(layer_names, st.integers(8, 30))
def test_a_short_name_is_a_name_without_some_words(name: str, limit: int) -> None:
    short = shorten_name(name, limit)
    assert len(short) <= limit
    head, _, tail = short.partition(ELLIPSIS)
    assert name.startswith(head)
    assert name.endswith(tail)


@given(st.lists(layer_names, min_size=1, max_size=12, unique=True), st.integers(10, 24))
def test_labels_stay_apart(layers: list[str], limit: int) -> None:
    labels = short_labels(layers, limit)
    assert len(set(labels)) == len(layers)
    assert all(len(label) <= limit for label in labels)


def test_a_limit_below_a_number_and_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 8"):
        short_labels(["a"], 7)
