"""One place checks arguments: what is accepted comes back, what is not is named with what would be."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from convscope import _arguments as arguments


@pytest.mark.parametrize("value", [1, 7, np.int64(7), np.uint8(1)])
def test_whole_numbers_are_accepted(value: Any) -> None:
    found = arguments.whole_number("size", value)
    assert found == value
    assert type(found) is int


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "size=0: give a whole number, at least 1"),
        (True, "size=True: give a whole number, at least 1"),
        (2.5, "size=2.5: give a whole number, at least 1"),
        (1e4, "size=10000.0: give a whole number, at least 1 (such as 10000)"),
        (-3.0, "size=-3.0: give a whole number, at least 1"),
        (float("inf"), "size=inf: give a whole number, at least 1"),
        ("8", "size='8': give a whole number, at least 1"),
        (None, "size=None: give a whole number, at least 1"),
        (torch.zeros(40), "size=<Tensor>: give a whole number, at least 1"),
    ],
)
def test_what_is_no_whole_number_is_named(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        arguments.whole_number("size", value)


def test_none_is_accepted_where_it_means_something() -> None:
    assert arguments.whole_number_or_none("max_layers", None, "all layers") is None
    assert arguments.whole_number_or_none("max_layers", 3, "all layers") == 3
    with pytest.raises(ValueError, match=r"^max_layers=0: give a whole number, at least 1, or None for all layers$"):
        arguments.whole_number_or_none("max_layers", 0, "all layers")


@pytest.mark.parametrize("value", [0.5, 1, 1.0, np.float32(0.25)])
def test_shares_are_accepted(value: Any) -> None:
    assert arguments.share("top", value) == value


@pytest.mark.parametrize("value", [0, -0.1, 1.1, float("nan"), "0.5", True, None])
def test_what_is_no_share_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^top={value!r}: give a share of the filters in \(0, 1\]$"):
        arguments.share("top", value, "a share of the filters")


def test_one_itself_may_be_left_out() -> None:
    with pytest.raises(ValueError, match=r"in \(0, 1\)$"):
        arguments.share("redundant_threshold", 1.0, "a correlation", below_one=True)
    assert arguments.share("redundant_threshold", 0.99, below_one=True) == 0.99


@pytest.mark.parametrize("value", ["c", [], {}, True, None])
def test_only_the_values_listed_are_accepted(value: Any) -> None:
    assert arguments.one_of("which", "b", ("a", "b", 1)) == "b"
    with pytest.raises(ValueError, match=rf"^which={re.escape(repr(value))}: give one of 'a', 'b', 1$"):
        arguments.one_of("which", value, ("a", "b", 1))


@pytest.mark.parametrize("value", ["no", 0, 1, None])
def test_only_true_and_false_are_flags(value: Any) -> None:
    assert arguments.flag("debiased", True) is True
    assert arguments.flag("debiased", False) is False
    with pytest.raises(ValueError, match=rf"^debiased={value!r}: give True or False$"):
        arguments.flag("debiased", value)


def test_other_arguments_are_named_alike() -> None:
    with pytest.raises(ValueError, match=r"^loss=3: give a callable, called as loss\(outputs\), or None to infer it$"):
        arguments.callable_or_none("loss", 3, "loss(outputs)", "to infer it")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^network='': give the name of a submodule$"):
        arguments.text_or_none("network", "", "the name of a submodule")
    with pytest.raises(ValueError, match=r"^HeldOut\(size=0\): give a whole number, at least 1$"):
        arguments.whole_number("HeldOut(size", 0)


def test_callables_texts_and_none_come_back() -> None:
    assert arguments.callable_or_none("loss", print, "loss()", "to infer it") is print
    assert arguments.callable_or_none("loss", None, "loss()", "to infer it") is None
    assert arguments.text_or_none("network", "disc", "a name") == "disc"
    assert arguments.text_or_none("network", None, "a name") is None
