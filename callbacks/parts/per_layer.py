"""One metric per layer for one check: made at its beginning, updated where each record is, dropped at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

import torch
from torchmetrics import Metric

from convscope._devices import IN_STEP, WITHOUT_DOUBLE
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Record
from convscope.metrics import ChannelMoments

M = TypeVar("M", bound=Metric)


class PerLayer(Generic[M]):
    """Metrics by layer.

    Example:
        >>> from torchmetrics import MeanMetric
        >>> metrics = PerLayer[MeanMetric]()
        >>> list(metrics)
        []
    """

    def __init__(self) -> None:
        self._metrics: dict[str, M] = {}

    def make(self, layers: Iterable[Layer], metric: Callable[[Layer], M]) -> None:
        """Make a new metric per layer, in the place of those of the last check."""
        self._metrics = {}
        for layer in layers:
            with _on_device_of(layer):
                self._metrics[layer.name] = metric(layer)

    def update(self, record: Record, *values: Any) -> None:
        """Update the record's layer, on the device where its activation is."""
        self.on(record.layer, record.activation.device).update(*values)

    def of(self, layer: Layer) -> M:
        """The metric of a layer."""
        return self._metrics[layer.name]

    def named(self, name: str) -> M:
        """The metric of the layer of that name."""
        return self._metrics[name]

    def on(self, layer: Layer, device: torch.device) -> M:
        """The metric of a layer, its states on a device: in a model in parts, the device of the layer."""
        metric = self.of(layer)
        return metric if metric.device == device else metric.to(device)  # a call that costs, where nothing moves too

    def put(self, layer: Layer, metric: M) -> None:
        """Set the metric of one layer, where it could not be made at the beginning of the check."""
        self._metrics[layer.name] = metric

    def compute(self, layer: Layer) -> Any:
        """The result of one layer, over all processes."""
        return self._metrics[layer.name].compute()

    def finish(self, layer: Layer) -> Any:
        """As :meth:`compute`, after which the layer's metric is released: where its states are large."""
        result = self.compute(layer)
        del self._metrics[layer.name]
        return result

    def drop(self) -> None:
        """Release all metrics."""
        self._metrics = {}

    def __contains__(self, layer: Layer) -> bool:
        return layer.name in self._metrics

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def __len__(self) -> int:
        return len(self._metrics)


def _on_device_of(layer: Layer) -> AbstractContextManager[Any]:
    """A block in which new tensors are where a layer's weights are: taking them there, one by one, waits each time."""
    weight = None if layer.module is None else next(layer.module.parameters(), None)
    if weight is None or weight.device.type in {*IN_STEP, *WITHOUT_DOUBLE, "meta"}:
        return nullcontext()
    return weight.device


C = TypeVar("C", bound=ChannelMoments)


class Correlations(PerLayer[C]):
    """Correlation metrics by layer. Where several callbacks have one of the same positions, one adds up for all."""

    def take(self, record: Record) -> None:
        """Update the record's layer."""
        metric = self.on(record.layer, record.activation.device)
        same = ("channel moments", metric.max_positions, metric.seed)
        updated = record.once(same, lambda activation: _updated(metric, activation))
        if updated is not metric:
            metric.share_states(updated)


def _updated(metric: C, activation: torch.Tensor) -> C:
    metric.update(activation)
    return metric


def positions_each(observations: int | None, samples: int) -> int | None:
    """Positions of each sample to read, so that a filter has at least ``observations`` values; None for all."""
    return None if observations is None else -(-observations // samples)
