"""The tolerance that docs/compatibility.md states: how far a number may depend on the size of the chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from tests.networks import TinyResNet
from tests.support.metric_cases import CASES, Drawn, K, per_sample
from tests.support.metric_laws import fields

SAMPLES, WIDTH = 60, 16
OF_THE_LARGEST = 2e-6
"""Relative to the largest value of a vector or matrix; a scalar is its own largest."""
STOPPED_EARLY = 2e-5
"""Of a fit that stops early, and in float32: the logistic probe's."""


def pictures_and_labels() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(SAMPLES, 3, 24, 24, generator=generator)
    return pictures + torch.randn(SAMPLES, 3, 1, 1, generator=generator), torch.arange(SAMPLES) % K


def observed(net: TinyResNet, pictures: Tensor, labels: Tensor) -> dict[str, Drawn]:
    """Two layers of a network for some samples, with real gradients and outputs."""
    stem = F.relu(net.bn1(net.conv1(pictures)))
    layer = net.layer1(stem)
    output = net.fc(net.layer2(layer).mean((2, 3)))
    gradients = torch.autograd.grad(F.cross_entropy(output, labels, reduction="sum"), (stem, layer))
    masks = (pictures[:, 0] > 0).long()
    return {
        name: Drawn(activation.detach(), gradient, labels, output.detach(), masks)
        for name, activation, gradient in zip(("stem", "layer1"), (stem, layer), gradients, strict=True)
    }


def measured(size: int) -> dict[str, dict[str, Any]]:
    """Every metric of two layers of a network, in chunks of this size."""
    torch.manual_seed(0)
    net, (pictures, labels) = TinyResNet(WIDTH, classes=K).eval(), pictures_and_labels()
    found: dict[str, dict[str, Metric]] = {
        layer: {name: CASES[name].make(WIDTH) for name in per_sample()} for layer in ("stem", "layer1")
    }
    for rows in torch.arange(SAMPLES).split(size):
        for layer, drawn in observed(net, pictures[rows], labels[rows]).items():
            for name, metric in found[layer].items():
                inputs = CASES[name].feed(drawn)
                extra = {"index": rows} if CASES[name].indexed else {}
                metric.update(*inputs, **extra)
    return {layer: {name: metric.compute() for name, metric in kept.items()} for layer, kept in found.items()}


@pytest.fixture(scope="module")
def whole() -> dict[str, dict[str, Any]]:
    return measured(SAMPLES)


@pytest.mark.parametrize("size", [1, 7, 32, 59])
def test_numbers_do_not_depend_on_the_size_of_chunks(whole: dict[str, dict[str, Any]], size: int) -> None:
    too_far = {}
    for layer, kept in measured(size).items():
        for name, result in kept.items():
            for field, value in fields(result).items():
                expected = fields(whole[layer][name])[field].double()
                error = float((value.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
                allowed = STOPPED_EARLY if field in CASES[name].stops_early else OF_THE_LARGEST
                if value.shape != expected.shape or not error <= allowed:
                    too_far[layer, name, field] = error
    assert too_far == {}
