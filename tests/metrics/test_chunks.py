"""The tolerance that docs/compatibility.md states: how far a number may depend on the size of the chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

import convscope.metrics as metrics
from tests.networks import TinyResNet

SAMPLES, CLASSES = 60, 4
OF_THE_LARGEST = 2e-6
"""Relative to the largest value of a vector or matrix; a scalar is its own largest."""
LOGITS = 2e-5
"""Of the logistic probe: its fit stops early, and in float32."""


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(SAMPLES, 3, 24, 24, generator=generator)
    return pictures + torch.randn(SAMPLES, 3, 1, 1, generator=generator), torch.arange(SAMPLES) % CLASSES


def made(channels: int) -> dict[str, Metric]:
    return {
        "TaylorImportance": metrics.TaylorImportance(channels),
        "GradientActivationImportance": metrics.GradientActivationImportance(channels),
        "ActivationImportance": metrics.ActivationImportance(channels),
        "OutputCorrelation": metrics.OutputCorrelation(channels, CLASSES),
        "ChannelCorrelation": metrics.ChannelCorrelation(channels),
        "ChannelMean": metrics.ChannelMean(channels),
        "FilterActivity": metrics.FilterActivity(channels),
        "SignalRMS": metrics.SignalRMS(),
        "LinearCKA": metrics.LinearCKA(channels, CLASSES),
        "PooledFeatures": metrics.PooledFeatures(channels),
        "RidgeProbe": metrics.RidgeProbe(),
        "LogisticProbe": metrics.LogisticProbe(),
        "KNNProbe": metrics.KNNProbe(),
        "CentroidProbe": metrics.CentroidProbe(),
        "RegressionProbe": metrics.RegressionProbe(),
        "MultiLabelProbe": metrics.MultiLabelProbe(),
        "SegmentationProbe": metrics.SegmentationProbe(),
        "OutputReadout": metrics.OutputReadout(),
        "InterventionOutcome": metrics.InterventionOutcome(1, CLASSES),
    }


def update(found: dict[str, Metric], activation: Tensor, gradient: Tensor, output: Tensor, rest: Any) -> None:
    pictures, labels, index = rest
    pooled, quantities = activation.mean((2, 3)), pictures.mean((2, 3)).double()
    losses = F.cross_entropy(output, labels, reduction="none")
    inputs: dict[str, tuple[Tensor, ...]] = {
        "TaylorImportance": (activation, gradient),
        "GradientActivationImportance": (activation, gradient),
        "OutputCorrelation": (pooled, output),
        "ChannelMean": (pooled,),
        "LinearCKA": (pooled, output),
        "PooledFeatures": (pooled, index),
        "RegressionProbe": (pooled, quantities, index),
        "MultiLabelProbe": (pooled, (quantities > 0).long(), index),
        "SegmentationProbe": (activation, (pictures[:, 0] > 0).long(), index),
        "OutputReadout": (output, labels, index),
        "InterventionOutcome": (losses[None], (output.argmax(1) == labels)[None], labels),
    }
    for name, metric in found.items():
        probed = (pooled, labels, index) if name in ("RidgeProbe", "LogisticProbe", "KNNProbe", "CentroidProbe") else ()
        metric.update(*(inputs.get(name) or probed or (activation,)))


def measured(size: int) -> dict[str, dict[str, Any]]:
    """Every metric of two layers of a network, in chunks of this size."""
    torch.manual_seed(0)
    net, (pictures, labels) = TinyResNet(16, classes=CLASSES).eval(), data()
    found = {"stem": made(16), "layer1": made(16)}
    for rows in torch.arange(SAMPLES).split(size):
        stem = F.relu(net.bn1(net.conv1(pictures[rows])))
        layer = net.layer1(stem)
        output = net.fc(net.layer2(layer).mean((2, 3)))
        gradients = torch.autograd.grad(F.cross_entropy(output, labels[rows], reduction="sum"), (stem, layer))
        for kept, activation, gradient in zip(found.values(), (stem, layer), gradients, strict=True):
            update(kept, activation.detach(), gradient, output.detach(), (pictures[rows], labels[rows], rows))
    return {layer: {name: metric.compute() for name, metric in kept.items()} for layer, kept in found.items()}


@pytest.fixture(scope="module")
def whole() -> dict[str, dict[str, Any]]:
    return measured(SAMPLES)


def test_every_metric_of_samples_is_held_to_it() -> None:
    whole_vectors = {"WeightImportance", "BatchNormImportance", "GiniCoefficient", "TopShare", "RankStability"}
    kinds = {n for n in metrics.__all__ if isinstance(kind := getattr(metrics, n), type) and issubclass(kind, Metric)}
    assert kinds - whole_vectors - {"Turnover"} == made(2).keys()


@pytest.mark.parametrize("size", [1, 7, 32, 59])
def test_numbers_do_not_depend_on_the_size_of_chunks(whole: dict[str, dict[str, Any]], size: int) -> None:
    too_far = {}
    for layer, kept in measured(size).items():
        for name, result in kept.items():
            for field, value in tensors(result).items():
                expected = tensors(whole[layer][name])[field].double()
                error = float((value.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
                allowed = LOGITS if (name, field) == ("LogisticProbe", "scores") else OF_THE_LARGEST
                if value.shape != expected.shape or not error <= allowed:
                    too_far[layer, name, field] = error
    assert too_far == {}


def tensors(result: Any) -> dict[str, Tensor]:
    return {"": result} if isinstance(result, Tensor) else result._asdict()
