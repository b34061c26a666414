"""Filter activity and signal size against NumPy and against torch's own layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.metrics import FilterActivity, SignalRMS
from convscope.metrics.functional import direction_change, filter_activity, signal_rms, standing_still, update_ratio


def relu_unit(dying: tuple[int, ...]) -> torch.Tensor:
    """What a convolution with six filters gives; the biases of some are pushed far below zero."""
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(3, 6, 3)
    with torch.no_grad():
        conv.bias[list(dying)] = -1000.0
        return torch.relu(conv(torch.randn(10, 3, 8, 8, generator=generator)))


@pytest.mark.parametrize("dying", [(), (2,), (0, 5), (0, 1, 2, 3, 4, 5)])
def test_filters_whose_bias_is_pushed_negative_are_dead(dying: tuple[int, ...]) -> None:
    found = filter_activity(relu_unit(dying))
    assert found.dead.nonzero().flatten().tolist() == list(dying)
    assert not found.constant.any()
    assert not found.saturated.any()


def test_dead_means_never_one_active_pixel_is_enough() -> None:
    activation = torch.zeros(4, 2, 5, 5)
    activation[3, 1, 4, 4] = 1e-30
    assert filter_activity(activation).dead.tolist() == [True, False]


def test_without_a_rectifier_a_negative_output_is_alive() -> None:
    activation = torch.stack([-torch.rand(50) - 1, torch.zeros(50), torch.rand(50)], dim=1)
    assert filter_activity(activation, rectified=True).dead.tolist() == [True, True, False]
    assert filter_activity(activation, rectified=False).dead.tolist() == [False, True, False]


def test_a_smooth_rectifier_is_dead_on_its_flat_tail_and_alive_in_its_dip() -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.rand(200, 3, generator=generator) + torch.tensor([-10.0, -2.0, 3.0])
    found = filter_activity(F.silu(before), off=(-0.014, 0.0))
    assert found.dead.tolist() == [True, False, False]
    metric = FilterActivity(3, off=(-0.014, 0.0))
    metric.update(F.silu(before[:100]))
    metric.update(F.silu(before[100:]))
    assert metric.compute().dead.tolist() == found.dead.tolist()
    with pytest.raises(ValueError, match="off="):
        filter_activity(before, off=(1.0, 0.0))


def test_constant_up_to_rounding_and_not_when_dead() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(200, generator=generator)
    columns = [torch.full((200,), 3.1), 5 + 1e-7 * noise, torch.zeros(200), 5 + 1e-3 * noise]
    found = filter_activity(torch.stack(columns, dim=1))
    assert found.constant.tolist() == [True, True, False, False]
    assert found.dead.tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("function", "bounds"),
    [(torch.tanh, (-1, 1)), (torch.sigmoid, (0, 1)), (F.relu6, (None, 6)), (F.elu, (-1, None)), (F.hardtanh, (-1, 1))],
)
def test_saturated_filters_are_those_pushed_to_a_bound(function: object, bounds: tuple) -> None:
    before = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    push = 20.0 if bounds[1] is not None else -20.0
    activation = function(before + torch.tensor([0.0, push, push / 20]))
    found = filter_activity(activation, rectified=function in (F.relu6, F.elu), bounds=bounds)
    # An ELU unit that is never positive is dead, and counted as that alone.
    assert (found.dead if function is F.elu else found.saturated).tolist() == [False, True, False]
    assert not (found.dead & found.saturated).any()


def test_saturated_share_decides_and_both_ends_count() -> None:
    column = torch.tensor([-1.0] * 4 + [1.0] * 4 + [0.0] * 2)[:, None]
    assert filter_activity(column, False, (-1, 1), saturated_share=0.8).saturated.tolist() == [True]
    assert filter_activity(column, False, (-1, 1), saturated_share=0.81).saturated.tolist() == [False]
    assert filter_activity(column, False, (-1, None), saturated_share=0.8).saturated.tolist() == [False]
    assert filter_activity(column, False, saturated_share=0.1).saturated.tolist() == [False]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 7), (12, 5, 4, 3), (6, 5, 2, 3, 2)])
def test_streams_to_what_numpy_says(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    activation = torch.randn(shape, generator=torch.Generator().manual_seed(1)).clamp(min=-0.5).to(dtype)
    metric = FilterActivity(5, rectified=False, bounds=(-0.5, None), saturated_share=0.3)
    for chunk in activation.split([1, 3, shape[0] - 4]):
        metric.update(chunk)
    found, values = metric.compute(), np.moveaxis(activation.double().numpy(), 1, 0).reshape(5, -1)
    assert found.rms == pytest.approx(np.sqrt((values**2).mean()), rel=1e-6)
    assert found.active_share.numpy() == pytest.approx((values > 0).mean(1))
    assert found.saturated.tolist() == ((values <= -0.495).mean(1) >= 0.3).tolist()
    assert int(found.nonfinite) == 0


def test_two_shards_add_up_one_of_them_empty() -> None:
    activation = relu_unit((1,))
    metrics = [FilterActivity(6) for _ in range(3)]
    metrics[0].update(activation[:4])
    metrics[1].update(activation[4:])
    metrics[2].update(activation[:0])
    reduce = {"minimum": torch.amin, "maximum": torch.amax}
    whole = FilterActivity(6)
    for name in whole.metric_state:
        stacked = torch.stack([getattr(metric, name) for metric in metrics])
        setattr(whole, name, reduce.get(name, torch.sum)(stacked, dim=0))
    whole._update_count = 1
    expected = filter_activity(activation)
    for name in ("dead", "constant", "saturated", "active_share"):
        assert torch.equal(getattr(whole.compute(), name), getattr(expected, name))
    assert float(whole.compute().rms) == pytest.approx(float(expected.rms))
    with pytest.raises(ValueError, match="at least one activation"):
        metrics[2].compute()


def test_values_that_are_not_finite_are_counted_and_left_out() -> None:
    activation = torch.tensor([[1.0, 0.0, 2.0], [np.nan, 0.0, np.inf], [3.0, -np.inf, np.nan]])
    metric = FilterActivity(3)
    for row in activation.split(1):
        metric.update(row)
    for found in (metric.compute(), filter_activity(activation)):
        assert int(found.nonfinite) == 4
        assert float(found.rms) == pytest.approx(np.sqrt((1 + 9 + 0 + 0 + 4) / 5))
        assert found.dead.tolist() == [False, True, False]
        assert found.active_share.tolist() == [1.0, 0.0, 1.0]
    nothing = filter_activity(torch.full((2, 1), float("nan")))
    assert (nothing.dead | nothing.constant | nothing.saturated).tolist() == [False]


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e25])
def test_signal_rms_at_any_scale(scale: float) -> None:
    signal = torch.randn(7, 3, 5, generator=torch.Generator().manual_seed(0)) * scale
    expected = np.sqrt((signal.double().numpy() ** 2).mean())
    metric = SignalRMS()
    for chunk in signal.split(3):
        metric.update(chunk)
    assert float(metric.compute().rms) == pytest.approx(expected, rel=1e-5)
    assert float(signal_rms(signal)) == pytest.approx(expected, rel=1e-5)
    assert float(filter_activity(signal).rms) == pytest.approx(expected, rel=1e-5)


def test_signal_rms_counts_what_is_not_finite() -> None:
    metric = SignalRMS()
    metric.update(torch.tensor([3.0, float("nan"), 4.0]))
    metric.update(torch.tensor([[float("-inf")]]).half())
    found = metric.compute()
    assert (float(found.rms), int(found.nonfinite)) == (pytest.approx(np.sqrt(12.5)), 2)
    with pytest.raises(ValueError, match="1 of 2 values are NaN"):
        signal_rms(torch.tensor([1.0, float("nan")]))
    with pytest.raises(ValueError, match="at least one value"):
        signal_rms(torch.empty(0))
    with pytest.raises(ValueError, match="at least one value"):
        SignalRMS().compute()


def stepped(weight: nn.Parameter, gradient: torch.Tensor, **arguments: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights after and before ten steps of torch's own SGD."""
    before = weight.detach().clone()
    optimizer = torch.optim.SGD([weight], **arguments)
    for _ in range(10):
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach(), before


def test_update_ratio_of_an_sgd_step() -> None:
    gradient = torch.randn(4, 3, 3, 3)
    after, before = stepped(nn.Parameter(torch.randn(4, 3, 3, 3)), gradient, lr=1e-3)
    expected = 1e-2 * np.linalg.norm(gradient) / np.linalg.norm(before)
    assert float(update_ratio(after, before)) == pytest.approx(expected, rel=1e-4)
    along = 1e-2 * float(gradient.flatten() @ before.flatten()) / float(before.square().sum())
    assert float(direction_change(after, before)) == pytest.approx(np.sqrt(expected**2 - along**2), rel=1e-4)


def test_weight_decay_alone_shrinks_and_does_not_turn() -> None:
    weight = nn.Parameter(torch.randn(4, 3, 3, 3))
    after, before = stepped(weight, torch.zeros(4, 3, 3, 3), lr=0.1, weight_decay=0.1)
    assert float(update_ratio(after, before)) == pytest.approx(1 - 0.99**10, rel=1e-4)
    assert float(direction_change(after, before)) < 1e-6


def test_updates_from_and_to_zero_weights() -> None:
    zero, one = torch.zeros(3), torch.ones(3)
    for ratio in (update_ratio, direction_change):
        assert float(ratio(zero, zero)) == 0.0
        assert float(ratio(one, zero)) == float("inf")
    assert float(update_ratio(zero, one)) == 1.0
    assert float(direction_change(zero, one)) == 0.0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([0.1, 0.0, 0.05], [False, True, False]),
        ([0.1, 1e-6, 0.05], [False, True, False]),
        ([1e-4, 2e-6, 1e-4], [False, False, False]),  # slow, but not a thousand times slower
        ([0.0, 0.0], [False, False]),  # nothing moves
        ([1e-7, 0.0], [False, False]),
        ([float("inf"), 0.0], [False, True]),
        ([], []),
    ],
)
def test_layers_that_stand_still_while_others_move(changes: list[float], expected: list[bool]) -> None:
    assert standing_still(torch.tensor(changes)).tolist() == expected


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(N, 0, \*\), got \(3,\)"):
        filter_activity(torch.ones(3))
    with pytest.raises(ValueError, match=r"floating point, got torch\.int64"):
        filter_activity(torch.ones(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"got shape \(0, 2\)"):
        filter_activity(torch.ones(0, 2))
    for make in (lambda **a: FilterActivity(2, **a), lambda **a: filter_activity(torch.ones(3, 2), **a)):
        with pytest.raises(ValueError, match=r"^bounds=\(1, -1\): give \(lower, upper\) with lower < upper"):
            make(bounds=(1, -1))
        with pytest.raises(ValueError, match="saturated_share"):
            make(saturated_share=0.0)
    with pytest.raises(ValueError, match=r"\(N, 2, \*\), got \(3, 4\)"):
        FilterActivity(2).update(torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        update_ratio(torch.ones(2), torch.ones(3))
    with pytest.raises(ValueError, match="1 of 2 values are NaN"):
        direction_change(torch.tensor([1.0, float("nan")]), torch.ones(2))
    with pytest.raises(ValueError, match="without NaN"):
        standing_still(torch.tensor([float("nan")]))
