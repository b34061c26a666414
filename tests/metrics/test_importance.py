"""Filter importance against captum, autograd, scipy and torch's own pruning."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from captum.attr import LayerGradientXActivation
from scipy import stats
from torch import Tensor, nn
from torch.nn.utils import prune

from convscope.metrics import (
    ActivationImportance,
    BatchNormImportance,
    GradientActivationImportance,
    OutputCorrelation,
    TaylorImportance,
    WeightImportance,
)
from convscope.metrics.functional import (
    activation_importance,
    batch_norm_importance,
    gradient_activation_importance,
    output_correlation,
    taylor_importance,
    weight_importance,
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU())
        self.head = nn.Linear(5, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).mean((2, 3)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(20, 2, 8, 8, generator=torch.Generator().manual_seed(1))


def observe(net: Net, images: Tensor) -> tuple[Tensor, Tensor]:
    activation = net.body(images)
    activation.retain_grad()
    net.head(activation.mean((2, 3)))[:, 1].sum().backward()
    assert activation.grad is not None
    return activation.detach(), activation.grad


def test_taylor_and_product_equal_captum(net: Net, images: Tensor) -> None:
    attribution = LayerGradientXActivation(net, net.body).attribute(images, target=1).detach()
    pair = observe(net, images)
    expected = attribution.sum((2, 3)).square().mean(0)
    torch.testing.assert_close(taylor_importance(*pair), expected)
    torch.testing.assert_close(gradient_activation_importance(*pair), attribution.abs().mean((0, 2, 3)))


def test_taylor_is_the_squared_slope_of_a_gate_on_the_filter(net: Net, images: Tensor) -> None:
    def gated(gate: Tensor) -> Tensor:
        return net.head((net.body(images) * gate[:, :, None, None]).mean((2, 3)))[:, 1].sum()

    slope = torch.autograd.functional.jacobian(gated, torch.ones(20, 5))
    torch.testing.assert_close(taylor_importance(*observe(net, images)), slope.square().mean(0))


def test_activation_equals_numpy(images: Tensor) -> None:
    np.testing.assert_allclose(activation_importance(images), np.abs(images.numpy()).mean((0, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("norm", [1, 2])
def test_weight_norm_ranks_as_torch_pruning_does(norm: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3)
    scores = weight_importance(conv.weight, norm)
    np.testing.assert_allclose(scores, np.linalg.norm(conv.weight.detach().flatten(1), ord=norm, axis=1), rtol=1e-6)
    pruned = prune.LnStructured(amount=3, n=norm, dim=0).prune(conv.weight.detach())
    removed = (pruned.flatten(1) == 0).all(1).nonzero()[:, 0]
    assert set(removed.tolist()) == set(scores.argsort()[:3].tolist())


def test_batch_norm_importance_is_the_response_of_the_output_to_its_input_scale() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    nn.init.normal_(norm.weight)
    deviation = norm(torch.randn(500, 4, 3, 3)).std((0, 2, 3), correction=0)
    torch.testing.assert_close(batch_norm_importance(norm.weight), deviation.detach(), rtol=1e-4, atol=1e-4)


def test_output_correlation_equals_scipy() -> None:
    features, outputs = torch.randn(30, 4) * 5 + 100, torch.randn(30, 3)
    outputs[:, 0] += features[:, 2]
    metric = OutputCorrelation(4, 3)
    for rows in torch.arange(30).split(7):
        metric.update(features[rows], outputs[rows])
    expected = np.array([[stats.pearsonr(features[:, c], outputs[:, k]).statistic for k in range(3)] for c in range(4)])
    np.testing.assert_allclose(metric.matrix(), expected, atol=1e-6)
    np.testing.assert_allclose(metric.compute(), np.abs(expected).max(1), atol=1e-6)
    np.testing.assert_allclose(output_correlation(features, outputs), expected, atol=1e-6)


def test_output_correlation_of_a_constant_filter_is_zero() -> None:
    features, outputs = torch.randn(30, 2), torch.randn(30, 2)
    features[:, 0], outputs[:, 1] = 0.1, 7.3
    matrix = output_correlation(features, outputs)
    assert matrix[0].tolist() == [0, 0]
    assert matrix[:, 1].tolist() == [0, 0]
    assert matrix[1, 0] != 0


PAIRS: list[tuple[Callable[[int], TaylorImportance], Callable[..., Tensor]]] = [
    (TaylorImportance, taylor_importance),
    (GradientActivationImportance, gradient_activation_importance),
]


@pytest.mark.parametrize(("make", "function"), PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(16, 5), (16, 5, 7), (16, 5, 4, 3), (16, 5, 2, 3, 2)])
def test_chunks_add_up_in_every_shape_and_precision(make, function, dtype, shape) -> None:
    activation, gradient = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    metric = make(5)
    for rows in (torch.arange(0), *torch.randperm(16).split(5)):
        metric.update(activation[rows], gradient[rows])
    exact = function(activation.double(), gradient.double())
    torch.testing.assert_close(metric.compute(), exact, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(function(activation, gradient), exact, rtol=1e-5, atol=1e-6)


def test_small_gradients_in_half_precision_do_not_underflow() -> None:
    activation, gradient = torch.ones(4, 1, 9).half(), torch.full((4, 1, 9), 1e-6).half()
    expected = (9 * float(gradient[0, 0, 0])) ** 2  # about 1e-10, far below what half precision can hold
    assert taylor_importance(activation, gradient).item() == pytest.approx(expected, rel=1e-5)


def test_channels_last_makes_no_difference() -> None:
    pair = torch.randn(6, 5, 4, 3), torch.randn(6, 5, 4, 3)
    last = [x.contiguous(memory_format=torch.channels_last) for x in pair]
    torch.testing.assert_close(taylor_importance(*last), taylor_importance(*pair))
    torch.testing.assert_close(gradient_activation_importance(*last), gradient_activation_importance(*pair))


def test_activation_chunks_add_up() -> None:
    activation = torch.randn(16, 5, 4, 3)
    metric = ActivationImportance(5)
    for chunk in activation.split(3):
        metric.update(chunk)
    torch.testing.assert_close(metric.compute(), activation.abs().mean((0, 2, 3)))


def test_several_states_of_the_weights_average() -> None:
    metric = WeightImportance(2, norm=2)
    metric.update(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    metric.update(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    assert metric.compute().tolist() == [5, 1]
    scale = BatchNormImportance(2)
    scale.update(torch.tensor([-1.0, 2.0]))
    assert scale.compute().tolist() == [1, 2]


def test_a_layer_of_one_filter_gives_a_vector_of_one() -> None:
    metric = ActivationImportance(1)
    metric.update(torch.ones(2, 1, 3))
    assert metric.compute().shape == metric.compute().shape == (1,)


A = torch.ones(4, 2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TaylorImportance(0), "num_channels=0: give a whole number, at least 1"),
        (lambda: TaylorImportance(3).update(A, A), "activation must have shape (N, 3, *), got (4, 2, 3)"),
        (lambda: TaylorImportance(2).update(A, A[:3]), "must have one shape, got (4, 2, 3) and (3, 2, 3)"),
        (lambda: GradientActivationImportance(2).update(A, A[:, :1]), "gradient must have shape (N, 2, *)"),
        (lambda: ActivationImportance(2).update(A.long()), "must be floating point, got torch.int64"),
        (lambda: WeightImportance(2, norm=3), "norm=3: give one of 1, 2"),
        (lambda: weight_importance(torch.ones(2, 2), norm=0), "norm=0: give one of 1, 2"),
        (lambda: WeightImportance(2).update(torch.ones(3, 2)), "shape (2, *), output channels first"),
        (lambda: weight_importance(torch.ones(3)), "output channels first"),
        (lambda: weight_importance(torch.ones(3, 2).long()), "must be floating point"),
        (lambda: BatchNormImportance(2).update(torch.ones(3)), "shape (2,), got torch.float32 of shape (3,)"),
        (lambda: batch_norm_importance(torch.ones(3).long()), "must be floating point"),
        (lambda: OutputCorrelation(2, 0), "num_outputs=0: give a whole number, at least 1"),
        (lambda: OutputCorrelation(0, 2), "num_channels=0: give a whole number, at least 1"),
        (lambda: OutputCorrelation(2, 2).update(torch.ones(4, 3), torch.ones(4, 2)), "features must have shape (N, 2"),
        (lambda: OutputCorrelation(2, 2).update(torch.ones(4, 2), torch.ones(4, 3)), "outputs must have shape (N, 2"),
        (lambda: OutputCorrelation(2, 2).update(torch.ones(4, 2), torch.ones(3, 2)), "floating point of shape (4, K)"),
        (lambda: output_correlation(torch.ones(4, 2), torch.ones(3, 2)), "outputs must be floating point of shape (4"),
        (lambda: output_correlation(torch.ones(4, 2), torch.ones(4, 2).long()), "outputs must be floating point"),
        (lambda: output_correlation(A, torch.ones(4, 2)), "features must have shape (N, C), got (4, 2, 3)"),
        (lambda: output_correlation(torch.full((4, 1), torch.nan), torch.ones(4, 1)), "must be finite"),
        (lambda: output_correlation(torch.ones(0, 1), torch.ones(0, 1)), "needs samples, got none"),
        (lambda: taylor_importance(A * torch.nan, A), "must be finite"),
        (lambda: activation_importance(A[:0]), "needs samples, got none"),
    ],
)
def test_bad_input_is_refused_with_a_reason(call, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
