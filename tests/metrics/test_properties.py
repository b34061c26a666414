"""What must hold of every metric, whatever it is fed: chunks, orders, scales, constants, NaN, and next to nothing."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics import Metric

import convscope.metrics as metrics
from tests.support.metric_cases import CASES, per_sample
from tests.support.metric_laws import assert_alike, draw, drawn, fields, numbers_or_reason, result, update

seeds = st.integers(0, 2**20)
sizes = st.integers(9, 16)
widths = st.integers(1, 5)
lightly = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


def test_every_metric_has_a_case() -> None:
    exported = [getattr(metrics, name) for name in metrics.__all__]
    assert {kind.__name__ for kind in exported if inspect.isclass(kind) and issubclass(kind, Metric)} == CASES.keys()


@pytest.mark.parametrize("name", per_sample())
@lightly
@given(seed=seeds, samples=sizes, channels=widths, cuts=st.lists(st.integers(0, 16), max_size=5))
def test_any_chunking_gives_the_same(name: str, seed: int, samples: int, channels: int, cuts: list[int]) -> None:
    case = CASES[name]
    inputs = case.feed(draw(seed, samples, channels))
    whole = result(case, channels, inputs)
    assert_alike(result(case, channels, inputs, [cut for cut in cuts if cut < samples]), whole)


@pytest.mark.parametrize("name", per_sample())
@lightly
@given(seed=seeds, samples=sizes, channels=widths, random=st.randoms())
def test_the_order_of_samples_does_not_matter(name: str, seed: int, samples: int, channels: int, random: Any) -> None:
    case = CASES[name]
    inputs = case.feed(draw(seed, samples, channels))
    order = torch.tensor(random.sample(range(samples), samples))
    shuffled = result(case, channels, inputs, cuts=[samples // 2], order=order)
    assert_alike(shuffled, result(case, channels, inputs))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.channels])
@lightly
@given(seed=seeds, samples=sizes, channels=st.sampled_from([4, 5]), random=st.randoms())
def test_channels_may_be_renumbered(name: str, seed: int, samples: int, channels: int, random: Any) -> None:
    case = CASES[name]
    whole = draw(seed, samples, channels)
    order = torch.tensor(random.sample(range(channels), channels))
    one = case.feed(whole)
    beside = one[1:]  # what goes with the channels is taken from the same draws
    other = case.feed(drawn(whole.activation[:, order], whole.labels))
    other = (
        other[0],
        *(mine if same_channels(mine, one[0]) else given for mine, given in zip(other[1:], beside, strict=True)),
    )
    expected = {key: renumbered(value, order, channels) for key, value in fields(result(case, channels, one)).items()}
    found = fields(result(case, channels, other))
    for key in found.keys() - set(case.loose):
        torch.testing.assert_close(found[key].double(), expected[key].double(), rtol=1e-4, atol=1e-5)


def same_channels(tensor: Tensor, first: Tensor) -> bool:
    return tensor.shape == first.shape and tensor.is_floating_point()


def renumbered(value: Tensor, order: Tensor, channels: int) -> Tensor:
    """Every axis that has one entry a channel, in the new order; no other axis is of that length."""
    for axis in range(value.dim()):
        if value.shape[axis] == channels:
            value = value.index_select(axis, order)
    return value


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.powers is not None])
@lightly
@given(seed=seeds, samples=sizes, channels=widths, exponent=st.integers(-8, 8))
def test_scaling_does_what_it_should(name: str, seed: int, samples: int, channels: int, exponent: int) -> None:
    case = CASES[name]
    first, *rest = case.feed(draw(seed, samples, channels))
    base = fields(result(case, channels, (first, *rest)))
    scaled = fields(result(case, channels, (first * 2.0**exponent, *rest)))
    for key, value in base.items():
        factor = 2.0 ** (exponent * (case.powers or {}).get(key, 0))
        if key not in case.loose:
            expected = value.double() * factor
            torch.testing.assert_close(scaled[key].double(), expected, rtol=1e-4, atol=1e-6 * factor, equal_nan=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", CASES)
def test_nan_and_infinity_are_refused_or_counted(name: str, bad: float) -> None:
    case = CASES[name]
    first, *rest = case.feed(draw(0, 9, 4))
    spoiled = first.clone()
    spoiled.view(-1)[0] = bad
    if case.counts_nonfinite:
        assert int(fields(result(case, 4, (spoiled, *rest)))["nonfinite"]) == 1
        return
    with pytest.raises(ValueError, match=r"(?i)nan|finite|inf"):
        result(case, 4, (spoiled, *rest))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_the_same_values_in_another_number_format_give_the_same(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    inputs = tuple(
        each.bfloat16().half().float() if each.is_floating_point() else each for each in case.feed(draw(0, 12, 4))
    )  # values that all formats hold
    other = tuple(each.to(dtype) if each.is_floating_point() else each for each in inputs)
    assert_alike(result(case, 4, other), result(case, 4, inputs), rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-30, 1e6])
@pytest.mark.parametrize("name", CASES)
def test_constants_give_numbers_or_a_reason(name: str, value: float) -> None:
    case = CASES[name]
    labels = draw(0, 9, 4).labels
    inputs = case.feed(drawn(torch.full((9, 4, 2, 3), value), labels))
    found = numbers_or_reason(case, 4, inputs)
    assert not any(bool(torch.isinf(tensor.double()).any()) for tensor in found.values())
    assert {key for key, tensor in found.items() if bool(torch.isnan(tensor.double()).any())} <= case.correlations


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("name", per_sample())
def test_one_or_two_samples_of_one_channel_give_numbers_or_a_reason(name: str, samples: int) -> None:
    case = CASES[name]
    inputs = case.feed(draw(0, samples, 1))
    if samples < case.fewest:
        with pytest.raises(ValueError, match=r"(?i)sample|class|fold|value"):
            result(case, 1, inputs)
        return
    found = numbers_or_reason(case, 1, inputs)
    spoiled = [key for key, tensor in found.items() if bool(torch.isnan(tensor.double()).any())]
    # NaN, as it says, for a class that has no sample and for pairs of filters where there is one filter.
    assert set(spoiled) <= {"class_loss", "class_accuracy", *case.correlations}


@pytest.mark.parametrize("name", per_sample())
def test_an_empty_chunk_changes_nothing_and_nothing_alone_is_refused(name: str) -> None:
    case = CASES[name]
    inputs = case.feed(draw(0, 12, 4))
    expected = result(case, 4, inputs)
    metric = case.make(4)
    nothing, everything = torch.arange(0), torch.arange(12)
    for rows in (nothing, everything, nothing):
        update(case, metric, inputs, rows)
    assert_alike(metric.compute(), expected)
    alone = case.make(4)
    update(case, alone, inputs, nothing)
    if case.may_be_empty:
        assert alone.compute().shape == (0, 4)
        return
    with pytest.raises(ValueError, match=r"(?i)at least|needs samples|no value|update"):
        alone.compute()


@pytest.mark.parametrize("name", CASES)
def test_reset_forgets_and_the_result_survives_a_state_dict(name: str) -> None:
    case = CASES[name]
    inputs = case.feed(draw(0, 12, 4))
    metric, extra = case.make(4), {"index": torch.arange(12)} if case.indexed else {}
    metric.update(*inputs, **extra)
    first = metric.compute()
    metric.reset()
    metric.update(*inputs, **extra)
    assert_alike(metric.compute(), first, rtol=1e-12)
