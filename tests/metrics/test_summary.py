"""Summaries of importance against scipy, numpy and closed examples."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from convscope.metrics import GiniCoefficient, RankStability, TopShare, Turnover
from convscope.metrics.functional import depth_monotonicity, gini, rank_stability, top_share, turnover

values_of = st.lists(st.floats(0, 1e3, width=32), min_size=1, max_size=30)


@given(values_of)
@settings(max_examples=60, deadline=None)
def test_gini_equals_the_mean_absolute_difference(values: list[float]) -> None:
    x = np.array(values)
    result = gini(torch.tensor(values, dtype=torch.float64)).item()
    assert 0 <= result <= 1 - 1 / len(values) + 1e-6
    expected = np.abs(x[:, None] - x[None]).sum() / (2 * len(x) * x.sum()) if x.sum() > 0 else 0.0
    assert result == pytest.approx(expected, abs=1e-6)


@given(values_of, st.floats(0.01, 1))
@settings(max_examples=60, deadline=None)
def test_top_share_equals_numpy(values: list[float], fraction: float) -> None:
    k = max(1, round(fraction * len(values)))
    total = sum(values)
    expected = np.sort(values)[::-1][:k].sum() / total if total > 0 else k / len(values)
    result = top_share(torch.tensor(values, dtype=torch.float64), fraction).item()
    assert result == pytest.approx(expected, rel=1e-5)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
@settings(max_examples=60, deadline=None)
def test_rank_stability_equals_scipy_with_ties(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs, dtype=float).T
    result = rank_stability(torch.tensor(a), torch.tensor(b)).item()
    if 1 in (len(set(a)), len(set(b))):
        assert np.isnan(result)
    else:
        assert result == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-6)


@pytest.mark.parametrize("other", [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
def test_the_order_of_constants_is_not_measured(other: list[float]) -> None:
    constant = torch.full((3,), 0.25)
    assert torch.isnan(rank_stability(constant, torch.tensor(other)))
    assert torch.isnan(rank_stability(torch.tensor(other), constant))
    assert torch.isnan(rank_stability(torch.ones(1), torch.ones(1)))
    assert torch.isnan(depth_monotonicity(constant))
    assert torch.isnan(depth_monotonicity(constant[:1]))


def test_turnover_is_one_minus_jaccard() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.permutation(40).astype(float), generator.permutation(40).astype(float)
    top_a, top_b = set(np.argsort(-a)[:10]), set(np.argsort(-b)[:10])
    expected = 1 - len(top_a & top_b) / len(top_a | top_b)
    assert turnover(torch.tensor(a), torch.tensor(b), 0.25).item() == pytest.approx(expected)
    assert turnover(torch.tensor(a), torch.tensor(a)) == 0
    assert turnover(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])) == 1


def test_turnover_of_ties_is_decided_by_position() -> None:
    assert turnover(torch.ones(10), torch.ones(10), 0.3) == 0


def test_classes_collect_chunks_of_filters() -> None:
    current, previous = torch.rand(21), torch.rand(21)
    pairs = [
        (GiniCoefficient(), gini(current), (current,)),
        (TopShare(0.3), top_share(current, 0.3), (current,)),
        (RankStability(), rank_stability(current, previous), (current, previous)),
        (Turnover(0.3), turnover(current, previous, 0.3), (current, previous)),
    ]
    for metric, expected, vectors in pairs:
        for rows in torch.arange(21).split(5):
            metric.update(*(vector[rows] for vector in vectors))
        assert metric.compute() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    values = torch.rand(500).to(dtype)  # their sum alone would overflow half precision's digits
    assert gini(values) == gini(values.double())
    assert top_share(values) == top_share(values.double())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gini(torch.tensor([1.0, -2.0])), "must not be negative, got a minimum of -2"),
        (lambda: top_share(torch.tensor([1.0, -2.0])), "must not be negative"),
        (lambda: gini(torch.ones(2, 2)), "must be a vector of shape (C,) with C >= 1, got (2, 2)"),
        (lambda: gini(torch.ones(0)), "must be a vector of shape (C,) with C >= 1, got (0,)"),
        (lambda: gini(torch.tensor([torch.nan])), "values must be finite"),
        (lambda: top_share(torch.ones(3), 0.0), "fraction=0.0: give a share of the filters in (0, 1]"),
        (lambda: TopShare(1.1), "fraction=1.1: give a share of the filters in (0, 1]"),
        (lambda: Turnover(-1.0), "fraction=-1.0: give a share of the filters in (0, 1]"),
        (lambda: rank_stability(torch.ones(3), torch.ones(2)), "must have one shape, got (3,) and (2,)"),
        (lambda: rank_stability(torch.ones(1), torch.tensor([torch.inf])), "previous importance must be finite"),
        (lambda: turnover(torch.tensor([torch.nan]), torch.ones(1)), "current importance must be finite"),
        (lambda: GiniCoefficient().update(torch.ones(2, 2)), "must be a vector of shape (C,), got (2, 2)"),
        (lambda: Turnover().update(torch.ones(3), torch.ones(2)), "must have one shape"),
        (lambda: RankStability().update(torch.ones(2, 2), torch.ones(2, 2)), "must be a vector"),
    ],
)
def test_bad_input_is_refused_with_a_reason(call, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_seen() -> None:
    with pytest.raises(ValueError, match="with C >= 1, got"):
        GiniCoefficient().compute()
