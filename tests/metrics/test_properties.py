"""What must hold of every metric, whatever it is fed: chunks, orders, scales, constants, NaN, and next to nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics import Metric

import convscope.metrics as metrics

Inputs = tuple[Tensor, ...]
K, S = 3, 2  # classes or outputs, and filter sets


@dataclass(frozen=True)
class Case:
    """One metric: how to make it for C channels, what to feed it, and which laws its results obey.

    Attributes:
        make: From the number of channels.
        feed: From (normal draws ``(N, C, 2, 3)``, class indices ``(N,)``), each input with samples first.
        fewest: Samples below which it refuses to compute.
        indexed: It takes each sample's number.
        powers: Result fields that grow with that power of a factor of the first input; the others must not change.
            None where there is no such law.
        channels: Whether the first input has channels on axis 1 (0 where a metric is not of samples).
        counts_nonfinite: NaN is counted, where the others refuse it.
        one_shot: Takes one whole vector or weight, so there are neither chunks nor samples.
        loose: Fields that follow from comparing numbers, which rounding may turn at a tie.
        correlations: Fields that are NaN, not measured, where the input does not vary.
    """

    make: Callable[[int], Metric]
    feed: Callable[[Tensor, Tensor], Inputs]
    fewest: int = 1
    indexed: bool = False
    powers: dict[str, int] | None = field(default_factory=dict)
    channels: bool = True
    counts_nonfinite: bool = False
    one_shot: bool = False
    loose: tuple[str, ...] = ()
    correlations: frozenset[str] = frozenset()


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def shadow(x: Tensor) -> Tensor:
    """Another tensor of the same shape that is neither equal nor unrelated."""
    return x.flip(0).flip(-1) * 0.5 + x.abs()


ALONE, PAIRS = frozenset({""}), frozenset({"mean_abs", "redundant_share"})
JUDGED = ("accuracy", "balanced_accuracy", "selectivity", "control_accuracy", "chance")
RANKED = ("mean_average_precision", "mean_iou", "chance", "selectivity", "control", "control_score", "predicted")
CASES: dict[str, Case] = {
    "TaylorImportance": Case(metrics.TaylorImportance, lambda x, y: (x, shadow(x).detach()), powers={"": 2}),
    "GradientActivationImportance": Case(
        metrics.GradientActivationImportance, lambda x, y: (x, shadow(x)), powers={"": 1}
    ),
    "ActivationImportance": Case(metrics.ActivationImportance, lambda x, y: (x,), powers={"": 1}),
    "WeightImportance": Case(metrics.WeightImportance, lambda x, y: (x[0],), powers={"": 1}, one_shot=True),
    "BatchNormImportance": Case(
        metrics.BatchNormImportance, lambda x, y: (x[0, :, 0, 0],), powers={"": 1}, one_shot=True
    ),
    "OutputCorrelation": Case(lambda c: metrics.OutputCorrelation(c, K), lambda x, y: (pooled(x), outputs(x, y))),
    "ChannelCorrelation": Case(
        metrics.ChannelCorrelation,
        lambda x, y: (x,),
        powers={"mean": 1, "variance": 2, "covariance": 2},
        correlations=PAIRS,
    ),
    "ChannelMean": Case(metrics.ChannelMean, lambda x, y: (pooled(x),), powers={"": 1}),
    "FilterActivity": Case(metrics.FilterActivity, lambda x, y: (x,), powers={"rms": 1}, counts_nonfinite=True),
    "SignalRMS": Case(lambda c: metrics.SignalRMS(), lambda x, y: (x,), powers={"rms": 1}, counts_nonfinite=True),
    "LinearCKA": Case(
        lambda c: metrics.LinearCKA(c, K), lambda x, y: (pooled(x), outputs(x, y)), 2, correlations=ALONE
    ),
    "PooledFeatures": Case(metrics.PooledFeatures, lambda x, y: (pooled(x),), indexed=True, powers={"": 1}),
    "RidgeProbe": Case(lambda c: metrics.RidgeProbe(), lambda x, y: (pooled(x), y), 2, True, loose=JUDGED),
    "LogisticProbe": Case(
        lambda c: metrics.LogisticProbe(folds=2), lambda x, y: (pooled(x), y), 2, True, None, loose=JUDGED
    ),
    "KNNProbe": Case(
        lambda c: metrics.KNNProbe(k=1), lambda x, y: (pooled(x), y), 2, True, None, loose=(*JUDGED, "scores")
    ),
    "CentroidProbe": Case(lambda c: metrics.CentroidProbe(), lambda x, y: (pooled(x), y), 2, True, None, loose=JUDGED),
    "OutputReadout": Case(
        lambda c: metrics.OutputReadout(), lambda x, y: (outputs(x, y), y), 1, True, None, channels=False, loose=JUDGED
    ),
    "RegressionProbe": Case(lambda c: metrics.RegressionProbe(), lambda x, y: (pooled(x), outputs(x, y)), 2, True),
    "MultiLabelProbe": Case(
        lambda c: metrics.MultiLabelProbe(), lambda x, y: (pooled(x), one_hot(y)), 2, True, loose=RANKED
    ),
    "SegmentationProbe": Case(
        lambda c: metrics.SegmentationProbe(), lambda x, y: (x, masks(y)), 2, True, None, loose=RANKED
    ),
    "GiniCoefficient": Case(lambda c: metrics.GiniCoefficient(), lambda x, y: (x[0, :, 0, 0].abs(),), one_shot=True),
    "TopShare": Case(lambda c: metrics.TopShare(), lambda x, y: (x[0, :, 0, 0].abs(),), one_shot=True),
    "RankStability": Case(
        lambda c: metrics.RankStability(),
        lambda x, y: (x[0, :, 0, 0], x[0, :, 1, 1]),
        one_shot=True,
        correlations=ALONE,
    ),
    "Turnover": Case(lambda c: metrics.Turnover(), lambda x, y: (x[0, :, 0, 0], x[0, :, 1, 1]), one_shot=True),
    "InterventionOutcome": Case(
        lambda c: Outcome(S, K),
        lambda x, y: (x[:, :1, 0, :S].squeeze(1).abs(), x[:, 0, 1, :S] > 0, y),
        powers={"loss": 1, "class_loss": 1},
        channels=False,
    ),
}


class Outcome(metrics.InterventionOutcome):
    """Takes samples first, as the others do."""

    def update(self, losses: Tensor, hits: Tensor, target: Tensor) -> None:  # type: ignore[override]
        super().update(losses.T, hits.T, target)


def outputs(x: Tensor, y: Tensor) -> Tensor:
    """``(N, K)``, each with a part of the truth."""
    return torch.stack([x[:, 0, 0, 0] * (k + 1) + (y == k) for k in range(K)], dim=1)


def one_hot(y: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(y, K).float()


def masks(y: Tensor) -> Tensor:
    """``(N, 2, 3)`` class indices."""
    return (y[:, None, None] + torch.arange(6).view(2, 3)) % K


def data(seed: int, samples: int, channels: int) -> tuple[Tensor, Tensor]:
    """Distinct values a few units large, every class at least twice where there is room, and related to the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % K
    return torch.randn(samples, channels, 2, 3, generator=generator) + 0.5 * labels.view(-1, 1, 1, 1), labels


def result(
    case: Case, channels: int, inputs: Inputs, cuts: list[int] | None = None, order: Tensor | None = None
) -> Any:
    """Feed everything, in chunks that end at ``cuts``, samples in ``order``, and compute."""
    metric = case.make(channels)
    if case.one_shot:
        metric.update(*inputs)
        return metric.compute()
    numbers = torch.arange(len(inputs[0])) if order is None else order
    ends = sorted({0, len(numbers), *(cuts or [])})
    for start, stop in pairwise(ends):
        rows = numbers[start:stop]
        extra = {"index": rows} if case.indexed else {}
        metric.update(*(each[rows] for each in inputs), **extra)
    return metric.compute()


def fields(found: Any) -> dict[str, Tensor]:
    """A result's tensors by name; nested results by the names of their parts, a tensor under the empty name."""
    if isinstance(found, Tensor):
        return {"": found}
    named = found._asdict() if hasattr(found, "_asdict") else dict(enumerate(found))
    flat = {str(name): fields(value) for name, value in named.items()}
    return {inner or outer: tensor for outer, parts in flat.items() for inner, tensor in parts.items()}


def assert_alike(found: Any, expected: Any, rtol: float = 1e-5) -> None:
    one, other = fields(found), fields(expected)
    assert one.keys() == other.keys()
    for name in one:
        scale = float(other[name].double().abs().nan_to_num().max()) if other[name].numel() else 1.0
        torch.testing.assert_close(
            one[name].double(),
            other[name].double(),
            rtol=rtol,
            atol=rtol * max(scale, 1e-3),
            equal_nan=True,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def numbers_or_reason(case: Case, channels: int, inputs: Inputs) -> dict[str, Tensor]:
    """A result's tensors; none where it is refused in a sentence."""
    try:
        return fields(result(case, channels, inputs))
    except ValueError as error:
        if len(str(error)) < 20:
            raise
        return {}


def per_sample() -> list[str]:
    return [name for name, case in CASES.items() if not case.one_shot]


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
    inputs = case.feed(*data(seed, samples, channels))
    whole = result(case, channels, inputs)
    assert_alike(result(case, channels, inputs, [cut for cut in cuts if cut < samples]), whole)


@pytest.mark.parametrize("name", per_sample())
@lightly
@given(seed=seeds, samples=sizes, channels=widths, draw=st.randoms())
def test_the_order_of_samples_does_not_matter(name: str, seed: int, samples: int, channels: int, draw: Any) -> None:
    case = CASES[name]
    inputs = case.feed(*data(seed, samples, channels))
    order = torch.tensor(draw.sample(range(samples), samples))
    shuffled = result(case, channels, inputs, cuts=[samples // 2], order=order)
    assert_alike(shuffled, result(case, channels, inputs))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.channels])
@lightly
@given(seed=seeds, samples=sizes, channels=st.sampled_from([4, 5]), draw=st.randoms())
def test_channels_may_be_renumbered(name: str, seed: int, samples: int, channels: int, draw: Any) -> None:
    case = CASES[name]
    x, y = data(seed, samples, channels)
    order = torch.tensor(draw.sample(range(channels), channels))
    beside = case.feed(x, y)[1:]  # what goes with the channels is taken from the same draws
    one, other = case.feed(x, y), case.feed(x[:, order], y)
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
    first, *rest = case.feed(*data(seed, samples, channels))
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
    first, *rest = case.feed(*data(0, 9, 4))
    spoiled = first.clone()
    spoiled.view(-1)[0] = bad
    if case.counts_nonfinite:
        assert int(fields(result(case, 4, (spoiled, *rest)))["nonfinite"]) == 1
        return
    with pytest.raises(ValueError, match=r"(?i)nan|finite|inf"):
        result(case, 4, (spoiled, *rest))


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-30, 1e6])
@pytest.mark.parametrize("name", CASES)
def test_constants_give_numbers_or_a_reason(name: str, value: float) -> None:
    case = CASES[name]
    _, labels = data(0, 9, 4)
    inputs = case.feed(torch.full((9, 4, 2, 3), value), labels)
    found = numbers_or_reason(case, 4, inputs)
    assert not any(bool(torch.isinf(tensor.double()).any()) for tensor in found.values())
    assert {key for key, tensor in found.items() if bool(torch.isnan(tensor.double()).any())} <= case.correlations


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("name", per_sample())
def test_one_or_two_samples_of_one_channel_give_numbers_or_a_reason(name: str, samples: int) -> None:
    case = CASES[name]
    inputs = case.feed(*data(0, samples, 1))
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
    inputs = case.feed(*data(0, 12, 4))
    expected = result(case, 4, inputs)
    metric = case.make(4)
    nothing, everything = torch.arange(0), torch.arange(12)
    for rows in (nothing, everything, nothing):
        metric.update(*(each[rows] for each in inputs), **({"index": rows} if case.indexed else {}))
    assert_alike(metric.compute(), expected)
    alone = case.make(4)
    alone.update(*(each[nothing] for each in inputs), **({"index": nothing} if case.indexed else {}))
    if name == "PooledFeatures":  # what it was given is what it gives
        assert alone.compute().shape == (0, 4)
        return
    with pytest.raises(ValueError, match=r"(?i)at least|needs samples|no value|update"):
        alone.compute()


@pytest.mark.parametrize("name", CASES)
def test_reset_forgets_and_the_result_survives_a_state_dict(name: str) -> None:
    case = CASES[name]
    inputs = case.feed(*data(0, 12, 4))
    metric, extra = case.make(4), {"index": torch.arange(12)} if case.indexed else {}
    metric.update(*inputs, **extra)
    first = metric.compute()
    metric.reset()
    metric.update(*inputs, **extra)
    assert_alike(metric.compute(), first, rtol=1e-12)
