"""Linear CKA against HSIC written out with centring matrices (plain) and with Song's estimator (debiased)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group

from convscope.metrics import LinearCKA
from convscope.metrics.functional import linear_cka, linear_cka_matrix

SHAPES = [(40, 6, 9), (12, 30, 3), (9, 20, 25), (5, 1, 1)]


def correlated(samples: int, c: int, d: int, seed: int = 0, offset: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, c)) @ rng.normal(size=(c, c)) + offset
    y = x @ rng.normal(size=(c, d)) + 2 * rng.normal(size=(samples, d)) * np.sqrt(c)
    return torch.tensor(x), torch.tensor(y)


def hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Gretton et al. 2005, with centring matrices."""
    n = len(k)
    h = np.eye(n) - np.ones((n, n)) / n
    return float(np.trace(k @ h @ m @ h) / (n - 1) ** 2)


def unbiased_hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Song et al. 2012, equation 5."""
    n, one = len(k), np.ones(len(k))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    both = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return float((np.trace(k @ m) + both - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3)))


def oracle(x: torch.Tensor, y: torch.Tensor, debiased: bool) -> float:
    dependence = unbiased_hsic if debiased else hsic
    k, m = (x @ x.T).numpy(), (y @ y.T).numpy()
    return dependence(k, m) / np.sqrt(dependence(k, k) * dependence(m, m))


def streamed(x: torch.Tensor, y: torch.Tensor, debiased: bool = False, sizes: tuple[int, ...] = (1, 2)) -> float:
    metric = LinearCKA(x.shape[1], y.shape[1], debiased)
    parts = [*sizes, len(x) - sum(sizes)]
    for a, b in zip(x.split(parts), y.split(parts), strict=True):
        metric.update(a, b)
    return float(metric.compute())


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_kernel_formulation(shape: tuple[int, int, int], debiased: bool) -> None:
    x, y = correlated(*shape)
    expected = oracle(x, y, debiased)
    assert float(linear_cka(x, y, debiased)) == pytest.approx(expected, abs=1e-6)
    assert streamed(x, y, debiased) == pytest.approx(expected, abs=1e-6)


def test_one_column_each_is_squared_correlation() -> None:
    x, y = correlated(50, 1, 1)
    assert float(linear_cka(x, y)) == pytest.approx(np.corrcoef(x[:, 0], y[:, 0])[0, 1] ** 2, abs=1e-6)


@pytest.mark.parametrize("debiased", [False, True])
def test_invariant_to_rotation_scale_and_shift_but_not_to_other_maps(debiased: bool) -> None:
    x, y = correlated(40, 6, 9)
    rotation = torch.tensor(ortho_group.rvs(6, random_state=1))
    assert float(linear_cka(7 * x @ rotation - 3, y, debiased)) == pytest.approx(float(linear_cka(x, y, debiased)))
    assert float(linear_cka(x, 5 * x @ rotation + 1, debiased)) == pytest.approx(1.0)
    stretched = x * torch.tensor([100.0, 1, 1, 1, 1, 1])
    assert float(linear_cka(x, stretched, debiased)) < 0.99


def test_debiased_is_about_zero_for_unrelated_wide_features_where_plain_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = [torch.randn(2, 30, 300, generator=generator) for _ in range(20)]
    plain = torch.stack([linear_cka(x, y) for x, y in pairs])
    debiased = torch.stack([linear_cka(x, y, debiased=True) for x, y in pairs])
    assert plain.mean() > 0.8
    assert abs(float(debiased.mean())) < 0.02


@pytest.mark.parametrize("constant", [0.0, 3.1, 300.0])
def test_columns_that_do_not_vary_are_of_no_account(constant: float) -> None:
    x, y = correlated(20, 4, 5)
    padded = torch.cat([x.float(), torch.full((20, 2), constant)], dim=1)
    for debiased in (False, True):
        expected = pytest.approx(float(linear_cka(x, y, debiased)), abs=1e-5)
        assert float(linear_cka(padded, y, debiased)) == expected
        assert streamed(padded, y, debiased) == expected
        still = padded[:, 4:]
        assert float(linear_cka(still, y, debiased)) == float(linear_cka(y, still, debiased)) == 0.0
        assert streamed(still, y, debiased) == 0.0
        assert torch.isnan(linear_cka(still, 2 * still, debiased))
        assert np.isnan(streamed(still, 2 * still, debiased))


def test_half_precision_features_and_large_means() -> None:
    x, y = correlated(60, 5, 7)
    assert float(linear_cka(x.bfloat16(), y.half())) == pytest.approx(float(linear_cka(x, y)), abs=0.01)
    for debiased in (False, True):
        assert streamed(x + 300, y - 500, debiased) == pytest.approx(oracle(x, y, debiased), abs=1e-5)


def test_two_shards_add_up() -> None:
    x, y = correlated(30, 4, 6)
    shards = [LinearCKA(4, 6, debiased=True) for _ in range(2)]
    for rank, shard in enumerate(shards):
        shard.update(x[rank::2], y[rank::2])
    whole = LinearCKA(4, 6, debiased=True)
    for name in shards[0].metric_state:
        setattr(whole, name, getattr(shards[0], name) + getattr(shards[1], name))
    whole._update_count = 1
    assert float(whole.compute()) == pytest.approx(oracle(x, y, True), abs=1e-6)


@pytest.mark.parametrize("debiased", [False, True])
def test_matrix_is_every_pair(debiased: bool) -> None:
    x, y = correlated(20, 4, 30)
    z = torch.zeros(20, 3)
    found = linear_cka_matrix([x, y, z], debiased)
    for i, a in enumerate((x, y, z)):
        for j, b in enumerate((x, y, z)):
            assert float(found[i, j]) == pytest.approx(float(linear_cka(a, b, debiased)), abs=1e-6, nan_ok=True)


@pytest.mark.parametrize(("fewest", "debiased"), [(2, False), (4, True)])
def test_the_fewest_samples_give_a_number_and_one_less_a_reason(fewest: int, debiased: bool) -> None:
    x, y = correlated(10, 3, 3)
    expected = pytest.approx(oracle(x[:fewest], y[:fewest], debiased), abs=1e-6)
    enough = LinearCKA(3, 3, debiased)
    enough.update(x[:fewest], y[:fewest])
    assert float(enough.compute()) == expected
    assert float(linear_cka(x[:fewest], y[:fewest], debiased)) == expected
    short = LinearCKA(3, 3, debiased)
    short.update(x[: fewest - 1], y[: fewest - 1])
    with pytest.raises(ValueError, match=f"at least {fewest} samples, got {fewest - 1}"):
        short.compute()
    with pytest.raises(ValueError, match=f"at least {fewest} samples, got {fewest - 1}"):
        linear_cka(x[: fewest - 1], y[: fewest - 1], debiased)


def test_bad_input_is_named() -> None:
    x, y = correlated(10, 3, 3)
    with pytest.raises(ValueError, match="10 and 9 rows"):
        linear_cka(x, y[:9])
    with pytest.raises(ValueError, match=r"\(N, C\), got \(10,\)"):
        linear_cka(x[:, 0], y)
    with pytest.raises(ValueError, match="1 of 30 values are NaN or Inf"):
        linear_cka(x, y.masked_fill(torch.eye(10, 3).flip(0).bool() & (torch.arange(3) == 0), float("nan")))
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        linear_cka(x[:1], y[:1])
    with pytest.raises(ValueError, match="at least 4 samples, got 3"):
        linear_cka(x[:3], y[:3], debiased=True)
    with pytest.raises(ValueError, match="at least one representation"):
        linear_cka_matrix([])
    with pytest.raises(ValueError, match="num_x"):
        LinearCKA(0, 3)
    metric = LinearCKA(3, 3)
    with pytest.raises(ValueError, match=r"got \(10, 3\) and \(9, 3\)"):
        metric.update(x, y[:9])
    metric.update(x[:1], y[:1])
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        metric.compute()
    metric.update(x.fill_(float("inf")), y)
    with pytest.raises(ValueError, match="NaN or Inf"):
        metric.compute()
