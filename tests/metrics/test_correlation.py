"""Streaming correlation against numpy and scipy, where float32 alone would lose it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from convscope.metrics import ChannelCorrelation, ChannelMoments
from convscope.metrics.functional import (
    channel_correlation,
    correlation_summary,
    effective_rank,
    participation_ratio,
)
from convscope.metrics.functional.covariance import sample_positions


def make_activation(n: int = 24, c: int = 6, size: int = 5, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(c, c, generator=generator)
    mixed = torch.einsum("ncs,cd->nds", torch.randn(n, c, size * size, generator=generator), mixing)
    return torch.relu(mixed).reshape(n, c, size, size)


def rows(activation: torch.Tensor) -> np.ndarray:
    return activation.double().transpose(0, 1).flatten(1).numpy()


def test_equals_numpy() -> None:
    activation = make_activation()
    metric = ChannelCorrelation(6)
    metric.update(activation)
    result = metric.compute()
    np.testing.assert_allclose(result.matrix, np.corrcoef(rows(activation)), atol=1e-6)
    np.testing.assert_allclose(channel_correlation(activation), np.corrcoef(rows(activation)), atol=1e-6)
    np.testing.assert_allclose(result.mean, rows(activation).mean(1), rtol=1e-6)
    np.testing.assert_allclose(result.variance, rows(activation).var(1), rtol=1e-5)


def test_summary_equals_numpy_and_scipy() -> None:
    activation = make_activation()
    activation[:, 3] = activation[:, 0] * 2 + 1e-3 * torch.randn(activation[:, 0].shape)
    metric = ChannelCorrelation(6, redundant_threshold=0.5)
    metric.update(activation)
    result, matrix = metric.compute(), np.corrcoef(rows(activation))
    pairs = np.abs(matrix[~np.eye(6, dtype=bool)])
    share = np.linalg.eigvalsh(matrix) / 6
    rank, participation = np.exp(stats.entropy(share)), 1 / np.sum(share**2)
    assert result.mean_abs.item() == pytest.approx(pairs.mean(), rel=1e-5)
    assert result.redundant_share.item() == pytest.approx((pairs > 0.5).mean())
    assert result.effective_rank.item() == pytest.approx(rank, rel=1e-5)
    assert result.effective_rank_ratio.item() == pytest.approx(rank / 6, rel=1e-5)
    assert result.participation_ratio.item() == pytest.approx(participation, rel=1e-5)
    assert result.participation_ratio_ratio.item() == pytest.approx(participation / 6, rel=1e-5)


def test_chunks_in_any_split_and_order_add_up() -> None:
    activation = make_activation(40)
    expected = np.corrcoef(rows(activation))
    for seed in range(4):
        generator = np.random.default_rng(seed)
        metric = ChannelCorrelation(6)
        for chunk in np.array_split(generator.permutation(40), generator.integers(2, 40)):
            metric.update(activation[torch.from_numpy(chunk)])
        metric.update(activation[:0])
        np.testing.assert_allclose(metric.compute().matrix, expected, atol=2e-6)


def test_a_large_mean_does_not_wash_out_small_variation() -> None:
    activation = make_activation(40) + 3000  # float32 sums of squares would keep no digit of a variance near 1
    metric = ChannelCorrelation(6)
    for chunk in activation.split(7):
        metric.update(chunk)
    np.testing.assert_allclose(metric.compute().matrix, np.corrcoef(rows(activation)), atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, 1234.567])
def test_constant_filters_are_counted_and_never_nan(value: float) -> None:
    activation = make_activation(300)
    activation[:, 2] = value
    metric = ChannelCorrelation(6)
    for chunk in activation.split(37):
        metric.update(chunk)
    result = metric.compute()
    assert result.constant == 1
    assert result.varying.tolist() == [True, True, False, True, True, True]
    assert result.matrix[2].abs().sum() == result.matrix[:, 2].abs().sum() == 0
    others = [0, 1, 3, 4, 5]
    alone = correlation_summary(result.matrix[others][:, others])
    assert result.effective_rank.item() == pytest.approx(alone.effective_rank.item())
    assert result.effective_rank_ratio.item() == pytest.approx(alone.effective_rank.item() / 6)


@pytest.mark.parametrize(("varying", "rank"), [(0, 0.0), (1, 1.0)])
def test_fewer_than_two_varying_filters_have_documented_values(varying: int, rank: float) -> None:
    activation = torch.ones(8, 3, 4)
    activation[:, :varying] = torch.randn(8, varying, 4)
    metric = ChannelCorrelation(3)
    metric.update(activation)
    result = metric.compute()
    assert (result.effective_rank, result.participation_ratio) == (rank, rank)
    assert torch.isnan(result.mean_abs)
    assert torch.isnan(result.redundant_share)
    assert result.constant == 3 - varying


def test_a_layer_of_one_filter_keeps_its_shapes() -> None:
    metric = ChannelCorrelation(1)
    metric.update(torch.randn(8, 1, 4))
    result = metric.compute()
    assert result.matrix.shape == (1, 1)
    assert result.varying.shape == result.mean.shape == (1,)


def test_sampled_positions_are_the_same_for_every_chunk() -> None:
    activation = make_activation(40, size=8)
    positions = sample_positions(64, 10, seed=3)
    assert positions is not None
    expected = np.corrcoef(rows(activation.flatten(2)[:, :, positions]))
    metric = ChannelCorrelation(6, max_positions=10, seed=3)
    for chunk in activation.split(7):
        metric.update(chunk)
    np.testing.assert_allclose(metric.compute().matrix, expected, atol=2e-6)
    assert not torch.equal(channel_correlation(activation, 10, seed=4), channel_correlation(activation, 10, seed=3))
    assert sample_positions(64, 64, seed=0) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_accumulated_in_full(dtype: torch.dtype) -> None:
    activation = make_activation(40).to(dtype)
    np.testing.assert_allclose(channel_correlation(activation), np.corrcoef(rows(activation)), atol=2e-6)


@pytest.mark.parametrize("shape", [(20, 6), (20, 6, 9), (20, 6, 3, 3), (20, 6, 3, 3, 2)])
def test_any_number_of_spatial_dimensions(shape: tuple[int, ...]) -> None:
    activation = torch.randn(shape)
    expected = np.corrcoef(rows(activation.reshape(20, 6, -1)))
    np.testing.assert_allclose(channel_correlation(activation), expected, atol=2e-6)


def test_channels_last_and_gradients_make_no_difference() -> None:
    activation = make_activation().requires_grad_()
    last = activation.contiguous(memory_format=torch.channels_last)
    metric = ChannelCorrelation(6)
    metric.update(last)
    assert not metric.product.requires_grad
    torch.testing.assert_close(metric.compute().matrix, channel_correlation(activation), rtol=0, atol=2e-6)


@given(st.integers(0, 10_000), st.floats(0.01, 100))
@settings(max_examples=20, deadline=None)
def test_scale_of_a_filter_does_not_matter(seed: int, factor: float) -> None:
    activation = make_activation(seed=seed)
    rescaled = activation * torch.tensor([factor, 1, 1, 1, 1, 1])[:, None, None]
    torch.testing.assert_close(channel_correlation(rescaled), channel_correlation(activation), rtol=0, atol=1e-5)


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_spectrum_summaries_are_bounded_and_ordered(eigenvalues: list[float]) -> None:
    spectrum = torch.tensor(eigenvalues, dtype=torch.float64)
    rank, participation = effective_rank(spectrum).item(), participation_ratio(spectrum).item()
    assert 1 - 1e-5 <= participation <= rank + 1e-4 <= len(eigenvalues) + 2e-4  # Rényi entropies fall with the order
    assert rank == pytest.approx(np.exp(stats.entropy(eigenvalues)), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ChannelCorrelation(0), "num_channels=0: give a whole number, at least 1"),
        (
            lambda: ChannelCorrelation(2, max_positions=0),
            "max_positions=0: give a whole number, at least 1, or None for all positions",
        ),
        (
            lambda: ChannelCorrelation(2, redundant_threshold=1.5),
            "redundant_threshold=1.5: give a correlation in (0, 1]",
        ),
        (lambda: ChannelCorrelation(2).update(torch.zeros(4, 3)), "must have shape (N, 2, *), got (4, 3)"),
        (lambda: ChannelCorrelation(2).update(torch.zeros(4, 2).long()), "must be floating point, got torch.int64"),
        (lambda: channel_correlation(torch.zeros(3)), "must have shape (N, 0, *), got (3,)"),
        (lambda: channel_correlation(torch.full((4, 2), torch.nan)), "must be finite"),
        (lambda: correlation_summary(torch.zeros(2, 3)), "must have shape (C, C), got (2, 3)"),
        (lambda: correlation_summary(torch.full((2, 2), torch.inf)), "correlation matrix must be finite"),
        (lambda: correlation_summary(torch.eye(2), threshold=0.0), "threshold=0.0: give a correlation in (0, 1]"),
        (lambda: effective_rank(torch.tensor([torch.nan])), "eigenvalues must be finite"),
    ],
)
def test_bad_input_is_refused_with_a_reason(call, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_seen_and_not_finite() -> None:
    metric = ChannelCorrelation(2)
    with pytest.raises(ValueError, match="needs samples, got none"):
        metric.compute()
    metric.update(torch.tensor([[1.0, torch.inf], [2.0, 3.0]]))
    with pytest.raises(ValueError, match="must be finite"):
        metric.compute()


def test_states_stay_behind_where_a_device_has_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convscope.metrics._base.WITHOUT_DOUBLE", {"meta"})
    metric = ChannelCorrelation(2).to("meta")
    assert metric.product.device.type == "cpu"


@pytest.mark.parametrize("channels", [1, 3])
def test_one_of_two_metrics_adds_for_both_and_resets_alone(channels: int) -> None:
    alone, adds, follows = ChannelCorrelation(channels), ChannelCorrelation(channels), ChannelMoments(channels)
    for part in make_activation(c=channels).split(7):
        alone.update(part)
        adds.update(part)
        follows.share_states(adds)
    assert torch.equal(follows.compute().matrix, alone.compute().matrix)
    assert torch.equal(adds.compute().matrix, alone.compute().matrix)
    adds.reset()
    assert adds.product.abs().sum() == 0
    assert torch.equal(follows.product, alone.product)
    adds.update(make_activation(c=channels, seed=1))
    again = ChannelCorrelation(channels)
    again.update(make_activation(c=channels, seed=1))
    assert torch.equal(adds.compute().matrix, again.compute().matrix)


def test_a_metric_takes_the_memory_of_its_matrix_once_and_only_when_there_is_something_to_add() -> None:
    def stored(tensor: torch.Tensor) -> int:
        return tensor.untyped_storage().nbytes()

    metric = ChannelCorrelation(100)
    assert metric.product.shape == (100, 100)
    assert stored(metric.product) == 8
    metric.update(make_activation(c=100))
    assert stored(metric.product) == 80_000
    assert stored(metric._defaults["product"]) == 8
    moved = metric.to("cpu").double()
    assert stored(moved._defaults["product"]) == 8
