"""Drift between two checks against NumPy, and features that keep their order over chunks and ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from convscope.metrics import ChannelCorrelation, PooledFeatures
from convscope.metrics.functional import correlation_change, mean_shift, variance_shift


def activations(seed: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(200, 5)) @ rng.normal(size=(5, 5)) + shift


def test_correlation_change_is_the_relative_frobenius_norm() -> None:
    now, before = (np.corrcoef(activations(seed), rowvar=False) for seed in (0, 1))
    expected = np.sqrt(((now - before) ** 2).sum()) / np.sqrt((before**2).sum())
    assert float(correlation_change(torch.tensor(now), torch.tensor(before))) == pytest.approx(expected, rel=1e-6)
    assert float(correlation_change(torch.tensor(-now), torch.tensor(now))) == pytest.approx(2.0)
    assert float(correlation_change(torch.tensor(now), torch.tensor(now))) == 0.0


def test_mean_shift_is_in_standard_deviations() -> None:
    x = activations(0)
    mean, variance = torch.tensor(x.mean(0)), torch.tensor(x.var(0))
    assert float(mean_shift(mean + 2 * variance.sqrt(), variance, mean, variance)) == pytest.approx(2.0)
    y = activations(1, shift=1.0)
    expected = np.sqrt(((x.mean(0) - y.mean(0)) ** 2).sum() / ((x.var(0) + y.var(0)).sum() / 2))
    found = mean_shift(mean, variance, torch.tensor(y.mean(0)), torch.tensor(y.var(0)))
    assert float(found) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("now", "before", "expected"),
    [([4, 4], [2, 2], 1 / 3), ([2, 2], [4, 4], 1 / 3), ([0, 3], [3, 0], 1), ([1, 2], [1, 2], 0)],
)
def test_variance_shift_is_bounded(now: list[float], before: list[float], expected: float) -> None:
    found = variance_shift(torch.tensor(now, dtype=torch.float32), torch.tensor(before, dtype=torch.float32))
    assert float(found) == pytest.approx(expected)


def test_layers_that_do_not_vary() -> None:
    zero, one = torch.zeros(3), torch.ones(3)
    assert float(mean_shift(zero, zero, zero, zero)) == 0.0
    assert float(mean_shift(one, zero, zero, zero)) == float("inf")
    assert float(mean_shift(one, zero, zero, one)) == pytest.approx(np.sqrt(2))
    assert float(variance_shift(zero, zero)) == 0.0
    assert torch.isnan(correlation_change(torch.zeros(3, 3), torch.zeros(3, 3)))
    assert float(correlation_change(torch.eye(3), torch.zeros(3, 3))) == float("inf")


def test_bad_input_is_named() -> None:
    one = torch.ones(3)
    with pytest.raises(ValueError, match=r"\(3, 3\) and \(2, 2\)"):
        correlation_change(torch.eye(3), torch.eye(2))
    with pytest.raises(ValueError, match=r"\(C, C\), got \(3,\)"):
        correlation_change(one, one)
    with pytest.raises(ValueError, match="1 of 9 values are NaN"):
        correlation_change(
            torch.eye(3).index_put_((torch.tensor(0), torch.tensor(1)), torch.tensor(np.nan)), torch.eye(3)
        )
    with pytest.raises(ValueError, match="previous variance must not be negative"):
        variance_shift(one, -one)
    with pytest.raises(ValueError, match=r"`mean` and `variance`"):
        mean_shift(one, torch.ones(4), one, torch.ones(4))
    with pytest.raises(ValueError, match="2 of 3 values are NaN"):
        mean_shift(torch.tensor([1.0, np.nan, np.inf]), one, one, one)


def test_features_come_in_order_each_once_whatever_chunks_and_ranks() -> None:
    rows, index = torch.randn(7, 3), torch.tensor([4, 2, 6, 0, 1, 5, 3])
    whole, first, second = PooledFeatures(3), PooledFeatures(3), PooledFeatures(3)
    whole.update(rows, index)
    first.update(rows[:4], index[:4])
    second.update(rows[3:], index[3:])  # sample 0 twice, as a padded sampler gives it
    first.features += second.features
    first.index += second.index
    expected = rows[np.argsort(index.numpy())]
    assert torch.equal(whole.compute(), expected)
    assert torch.equal(first.compute(), expected)


def test_features_without_an_index_stay_as_they_came_and_bad_ones_are_named() -> None:
    metric = PooledFeatures(2)
    metric.update(torch.tensor([[1.0, 2.0]]).half())
    metric.update(torch.tensor([[0.0, 1.0]]))
    assert metric.compute().tolist() == [[1, 2], [0, 1]]
    with pytest.raises(ValueError, match=r"\(N, 2\), got \(1, 3\)"):
        metric.update(torch.ones(1, 3))
    with pytest.raises(ValueError, match="must not be negative, got -4"):
        metric.update(torch.ones(1, 2), torch.tensor([-4]))
    metric.update(torch.ones(1, 2), torch.tensor([5]))
    with pytest.raises(ValueError, match="some without"):
        metric.compute()
    broken = PooledFeatures(1)
    broken.update(torch.tensor([[float("nan")]]))
    with pytest.raises(ValueError, match="1 of 1 values are NaN"):
        broken.compute()
    with pytest.raises(ValueError, match="num_channels"):
        PooledFeatures(0)


@pytest.mark.parametrize("size", [7, 1])
@pytest.mark.parametrize("step", [1e-3, 1e-2])
def test_chunks_change_drift_by_what_they_change_in_its_operands(size: int, step: float) -> None:
    def drift(chunk: int) -> torch.Tensor:
        return torch.stack(changes(*(measured(chunk, weights) for weights in (before + step * moved, before))))

    generator = torch.Generator().manual_seed(0)
    inputs, before = torch.randn(60, 3, 10, 10, generator=generator), torch.randn(8, 3, 3, 3, generator=generator)
    moved = torch.randn(before.shape, generator=generator)

    def measured(chunk: int, weights: torch.Tensor) -> Any:
        metric = ChannelCorrelation(8)
        for part in inputs.split(chunk):
            metric.update(F.relu(F.conv2d(part, weights)))
        return metric.compute()

    torch.testing.assert_close(drift(size), drift(60), atol=2e-6, rtol=0)


def changes(now: Any, before: Any) -> tuple[torch.Tensor, ...]:
    return (
        correlation_change(now.matrix, before.matrix),
        mean_shift(now.mean, now.variance, before.mean, before.variance),
        variance_shift(now.variance, before.variance),
    )
