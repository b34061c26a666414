"""Reductions that go over a few samples at a time, and updates over a few weights, against plain float64."""

from __future__ import annotations

import pytest
import torch

from convscope.metrics import FilterActivity, TaylorImportance
from convscope.metrics.functional import _maps, filter_activity, taylor_importance, weight_update


def made(shape: tuple[int, ...], layout: str, seed: int = 0) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).clamp(min=-0.5)
    values[2:4, 1] = 0.0  # a filter that is silent in some samples
    if layout == "channels last":
        return values.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "transposed":
        return values.transpose(0, 1).contiguous().transpose(0, 1)
    return values


@pytest.mark.parametrize("layout", ["plain", "channels last", "transposed"])
@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 7), (12, 5, 4, 3), (12, 5, 9, 8), (6, 5, 2, 3, 2)])
@pytest.mark.parametrize("block", [1, 50, 1 << 18])
def test_activity_and_taylor_sums_are_those_of_the_whole(
    shape: tuple[int, ...], layout: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_maps, "_BLOCK", block)
    activation, gradient = made(shape, layout), made(shape, layout, seed=1)
    values = activation.double().movedim(1, 0).flatten(1)
    for dtype in (torch.float32, torch.float64):
        found = filter_activity(activation.to(dtype), rectified=False, bounds=(-0.5, None), saturated_share=0.3)
        assert float(found.rms) == pytest.approx(float(values.square().mean().sqrt()), rel=1e-6)
        torch.testing.assert_close(found.active_share, (values > 0).double().mean(1).float())
        assert found.saturated.tolist() == ((values <= -0.495).double().mean(1) >= 0.3).tolist()
        product = (activation.double() * gradient.double()).reshape(*shape[:2], -1).sum(2)
        taylor = taylor_importance(activation.to(dtype), gradient.to(dtype))
        torch.testing.assert_close(taylor, product.square().mean(0).float(), rtol=1e-5, atol=1e-7)


def test_a_large_activation_is_read_in_several_blocks_of_kept_memory() -> None:
    activation = torch.relu(torch.randn(40, 32, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert len(_maps.sample_blocks(activation)) > 1
    metric, taylor = FilterActivity(32), TaylorImportance(32)
    for part in activation.split(17):
        metric.update(part)
        taylor.update(part, part)
    values = activation.double()
    assert float(metric.compute().rms) == pytest.approx(float(values.square().mean().sqrt()), rel=1e-6)
    torch.testing.assert_close(
        taylor.compute(), values.square().sum((2, 3)).square().mean(0).float(), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e25])
@pytest.mark.parametrize("step", [0.0, 1e-7, 1e-2, 1.0])
@pytest.mark.parametrize("count", [3, 1000, 70_001])
def test_updates_of_weights_are_those_of_float64(count: int, step: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    before = scale * torch.randn(count, generator=generator)
    now = before * (1 - 0.1 * step) + step * scale * torch.randn(count, generator=generator)
    old, change = before.double(), now.double() - before.double()
    along = (change @ old) / (old @ old) * old
    found = weight_update(now, before)
    assert float(found.ratio) == pytest.approx(float(change.norm() / old.norm()), rel=1e-5)
    assert float(found.turn) == pytest.approx(float((change - along).norm() / old.norm()), rel=1e-4, abs=1e-9)
