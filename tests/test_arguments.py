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


def test_none_may_be_accepted_besides() -> None:
    assert arguments.one_of_or_none("task", None, ("a", "b"), "to infer it") is None
    assert arguments.one_of_or_none("task", "a", ("a", "b"), "to infer it") == "a"
    with pytest.raises(ValueError, match=r"^task='c': give one of 'a', 'b', or None to infer it$"):
        arguments.one_of_or_none("task", "c", ("a", "b"), "to infer it")


@pytest.mark.parametrize("value", ["no", 0, 1, None])
def test_only_true_and_false_are_flags(value: Any) -> None:
    assert arguments.flag("debiased", True) is True
    assert arguments.flag("debiased", False) is False
    with pytest.raises(ValueError, match=rf"^debiased={value!r}: give True or False$"):
        arguments.flag("debiased", value)


def test_a_number_may_have_an_upper_bound() -> None:
    assert arguments.whole_number("k", 5, most=5) == 5
    with pytest.raises(ValueError, match=r"^k=6: give a whole number of neighbours, at least 1 and at most 5$"):
        arguments.whole_number("k", 6, "a whole number of neighbours", most=5)


def test_zero_is_accepted_where_it_means_something() -> None:
    assert arguments.whole_number_or_zero("changed", 0, "no table") == 0
    assert arguments.whole_number_or_zero("changed", np.int32(4), "no table") == 4
    for value, meant in ((-1, ""), (2.0, r" \(such as 2\)"), (0.0, ""), (False, "")):
        message = rf"^changed={value!r}: give a whole number, at least 1{meant}, or 0 for no table$"
        with pytest.raises(ValueError, match=message):
            arguments.whole_number_or_zero("changed", value, "no table")


@pytest.mark.parametrize("value", [0, -1.5, float("inf"), float("nan"), "1", True, None])
def test_what_is_no_number_above_a_bound_is_named(value: Any) -> None:
    assert arguments.number("l2", np.float64(0.5), above=True, least=0.0) == 0.5
    with pytest.raises(ValueError, match=rf"^l2={value!r}: give a finite number, above 0$"):
        arguments.number("l2", value, least=0.0, above=True)


def test_numbers_without_a_bound_and_with_one() -> None:
    assert arguments.number("mean", -3) == -3.0
    assert arguments.number("delta", 0, least=0.0) == 0.0
    with pytest.raises(ValueError, match=r"^mean=nan: give a finite number$"):
        arguments.number("mean", float("nan"))
    with pytest.raises(ValueError, match=r"^delta=-1: give a finite number, at least 0$"):
        arguments.number("delta", -1, least=0.0)


@pytest.mark.parametrize("values", [(), [1.0, -1.0], [1.0, "2"], 3.0, "12", None, [True]])
def test_lists_of_numbers(values: Any) -> None:
    assert arguments.numbers("alphas", np.array([0.5, 2.0]), "penalties") == (0.5, 2.0)
    message = rf"^alphas={re.escape(repr(values))}: give penalties, at least one, each a finite number, above 0$"
    with pytest.raises(ValueError, match=message):
        arguments.numbers("alphas", values, "penalties", least=0.0, above=True)


@pytest.mark.parametrize("values", [[], "ab", ["a", "a"], None, [["a"], ["a"]], {"a": 1}])
def test_lists_of_different_values(values: Any) -> None:
    assert arguments.different("criteria", ["a", "b"], "a list") == ("a", "b")
    message = rf"^criteria={re.escape(repr(values))}: give a list of different criteria, at least 1$"
    with pytest.raises(ValueError, match=message):
        arguments.different("criteria", values, "a list of different criteria")
    with pytest.raises(ValueError, match="at least 3"):
        arguments.different("criteria", ["a", "b"], "a list", least=3)


def test_shares_may_include_zero_or_none() -> None:
    assert arguments.share("tolerance", 0, zero=True, below_one=True) == 0.0
    with pytest.raises(ValueError, match=r"^tolerance=1\.0: give a share in \[0, 1\)$"):
        arguments.share("tolerance", 1.0, zero=True, below_one=True)
    assert arguments.share_or_none("max_overhead", None, "no bound") is None
    assert arguments.share_or_none("max_overhead", 0.05, "no bound") == 0.05
    with pytest.raises(ValueError, match=r"^max_overhead=5: give a share in \(0, 1\], or None for no bound$"):
        arguments.share_or_none("max_overhead", 5, "no bound")


@pytest.mark.parametrize("value", ["", "a/b", "a b", "a\n", 7, True, ["a"]])
def test_parts_of_tags(value: Any) -> None:
    assert arguments.tag_or_none("name", "probe_2", "mine") == "probe_2"
    assert arguments.tag_or_none("name", None, "mine") is None
    message = rf"^name={re.escape(repr(value))}: give a word without blanks and slashes, such as 'mine', or None$"
    with pytest.raises(ValueError, match=message):
        arguments.tag_or_none("name", value, "mine")


def test_objects_are_shown_by_their_type() -> None:
    with pytest.raises(ValueError, match=r"^size=<object>: give"):
        arguments.whole_number("size", object())


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
