"""Metrics by layer in one check: fresh ones each time, on the record's device, gone at the end."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torchmetrics import MeanMetric

from convscope.callbacks.parts.per_layer import PerLayer, positions_each


@dataclass(frozen=True)
class OfName:
    """All that is asked of a layer."""

    name: str
    module: None = None


@dataclass(frozen=True)
class Chunk:
    """All that is asked of a record."""

    layer: OfName
    activation: torch.Tensor


A, B = OfName("a"), OfName("b")


def made() -> PerLayer[MeanMetric]:
    metrics = PerLayer[MeanMetric]()
    metrics.make([A, B], lambda layer: MeanMetric())  # type: ignore[list-item]
    return metrics


def test_each_layer_has_a_metric_of_its_own() -> None:
    metrics = made()
    for value in (1.0, 4.0):
        metrics.update(Chunk(A, torch.zeros(1)), value)  # type: ignore[arg-type]
    metrics.update(Chunk(B, torch.zeros(1)), 7.0)  # type: ignore[arg-type]
    assert [float(metrics.compute(layer)) for layer in (A, B)] == [2.5, 7.0]  # type: ignore[arg-type]
    assert (list(metrics), len(metrics), A in metrics) == (["a", "b"], 2, True)


def test_a_check_begins_with_fresh_metrics_and_ends_with_none() -> None:
    metrics = made()
    first = metrics.of(A)  # type: ignore[arg-type]
    metrics.make([A], lambda layer: MeanMetric())  # type: ignore[list-item]
    assert metrics.of(A) is not first  # type: ignore[arg-type]
    assert B not in metrics
    metrics.drop()
    assert len(metrics) == 0
    with pytest.raises(KeyError):
        metrics.compute(A)  # type: ignore[arg-type]


def test_a_metric_follows_its_record_to_another_device() -> None:
    metrics = made()
    assert metrics.on(A, torch.device("meta")).device.type == "meta"  # type: ignore[arg-type]
    assert metrics.of(B).device.type == "cpu"  # type: ignore[arg-type]


def test_one_may_be_put_later() -> None:
    metrics, late = PerLayer[MeanMetric](), MeanMetric()
    metrics.put(A, late)  # type: ignore[arg-type]
    assert metrics.of(A) is late  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("observations", "samples", "positions"), [(None, 8, None), (16, 8, 2), (17, 8, 3), (1, 8, 1), (8, 1, 8)]
)
def test_positions_that_each_sample_contributes(observations: int | None, samples: int, positions: int | None) -> None:
    assert positions_each(observations, samples) == positions
