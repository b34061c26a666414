"""Criteria of filter importance, measured layer by layer in the shared pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torchmetrics import Metric

from convscope._arguments import different, one_of
from convscope.callbacks.parts.per_layer import PerLayer
from convscope.capture.network.trace import Layer
from convscope.capture.network.weights import filter_weights, norm_scale
from convscope.capture.observation import Record
from convscope.metrics import (
    ActivationImportance,
    BatchNormImportance,
    GradientActivationImportance,
    OutputCorrelation,
    TaylorImportance,
    WeightImportance,
)

Criterion = Literal[
    "taylor", "gradient_activation", "activation", "weight_l1", "weight_l2", "batchnorm", "output_correlation"
]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
_GRADIENT = ("taylor", "gradient_activation")
_PARAMETER = ("weight_l1", "weight_l2", "batchnorm")


class ImportanceMeasure:
    """One criterion in one check: the shared pass feeds it, and it gives each layer's importances.

    Args:
        criterion: One of :data:`CRITERIA`.
    """

    def __init__(self, criterion: Criterion) -> None:
        self.criterion = one_of("criterion", criterion, CRITERIA)
        self._metrics = PerLayer[Metric]()
        self._pooled: list[tuple[Layer, torch.Tensor]] = []  # of this chunk, until its output comes

    @property
    def needs_gradient(self) -> bool:
        """Return whether the pass must have a backward."""
        return self.criterion in _GRADIENT

    @property
    def needs_output(self) -> bool:
        """Return whether the model's output must be observed, as the last layer."""
        return self.criterion == "output_correlation"

    def suits(self, layer: Layer) -> bool:
        """Return whether the layer has what the criterion measures."""
        if layer.is_output:
            return self.needs_output
        if self.criterion == "batchnorm":
            return norm_scale(layer) is not None
        return self.criterion not in _PARAMETER or filter_weights(layer) is not None

    def begin(self, layers: Sequence[Layer]) -> None:
        """Make new metrics; criteria of parameters are measured at once."""
        self._pooled = []
        outputs = next((layer.channels for layer in layers if layer.is_output), 0)
        self._metrics.make(
            (layer for layer in layers if not layer.is_output), lambda layer: self._metric(layer, outputs)
        )
        for layer in layers if self.criterion in _PARAMETER else ():
            values = norm_scale(layer) if self.criterion == "batchnorm" else filter_weights(layer)
            if values is not None:
                self._metrics.on(layer, values.device).update(values)

    def on_activation(self, record: Record) -> None:
        """Take in a layer's activations of one chunk."""
        if self.criterion == "activation":
            self._metrics.update(record, record.activation)
        elif self.needs_output and not record.layer.is_output:
            self._pooled.append((record.layer, record.pooled))
        elif self.needs_output:
            for layer, pooled in self._pooled:
                self._metrics.on(layer, pooled.device).update(pooled, record.pooled)
            self._pooled = []

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None:
        """Take in a layer's activations and gradients of one chunk."""
        mine = record.counted
        activation = record.activation
        if mine is not None:  # an ignored sample has no loss; it must not count as importance 0
            activation, gradient = activation[mine], gradient[mine]
        if len(gradient):
            self._metrics.update(record, activation, gradient)

    def importance(self, layer: Layer) -> torch.Tensor:
        """Importance ``(C,)`` float64 of each filter, over all processes; every process must call it."""
        found: torch.Tensor = self._metrics.compute(layer)
        return found.double().cpu()

    def end(self) -> None:
        """Release the metrics."""
        self._metrics.drop()
        self._pooled = []

    def _metric(self, layer: Layer, outputs: int) -> Metric:
        makers: dict[str, Callable[[], Metric]] = {
            "taylor": lambda: TaylorImportance(layer.channels),
            "gradient_activation": lambda: GradientActivationImportance(layer.channels),
            "activation": lambda: ActivationImportance(layer.channels),
            "weight_l1": lambda: WeightImportance(layer.channels, norm=1),
            "weight_l2": lambda: WeightImportance(layer.channels, norm=2),
            "batchnorm": lambda: BatchNormImportance(layer.channels),
            "output_correlation": lambda: OutputCorrelation(layer.channels, outputs),
        }
        return makers[self.criterion]()


class Criteria:
    """Several criteria of the same layers, to be compared with ablation.

    Args:
        names: Different criteria, at least one.

    Attributes:
        names: The same.

    Raises:
        ValueError: if a name is not a criterion, or there is none.
    """

    def __init__(self, names: Sequence[Criterion]) -> None:
        self.names: tuple[Criterion, ...] = different("criteria", names, "a list of different criteria")
        for name in self.names:
            one_of("criteria", name, CRITERIA)
        self._measures: dict[str, ImportanceMeasure] = {name: ImportanceMeasure(name) for name in self.names}
        self._layers: dict[str, set[str]] = {}

    @property
    def need_gradient(self) -> bool:
        """Return whether any of them needs the pass to have a backward."""
        return any(measure.needs_gradient for measure in self._measures.values())

    def measures(self, layer: Layer, name: str | None = None) -> bool:
        """Return whether one criterion (by default any) can be measured on a layer."""
        measures = self._measures.values() if name is None else [self._measures[name]]
        return any(measure.suits(layer) for measure in measures)

    def begin(self, layers: Sequence[Layer]) -> None:
        """Make new metrics for one check."""
        for name, measure in self._measures.items():
            mine = [layer for layer in layers if measure.suits(layer)]
            self._layers[name] = {layer.name for layer in mine}
            measure.begin(mine)

    def on_activation(self, record: Record) -> None:
        """Take in a layer's activations of one chunk."""
        for name, measure in self._measures.items():
            if record.layer.name in self._layers[name]:
                measure.on_activation(record)

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None:
        """Take in a layer's activations and gradients of one chunk."""
        for name, measure in self._measures.items():
            if measure.needs_gradient and record.layer.name in self._layers[name]:
                measure.on_gradient(record, gradient)

    def values(self, layer: Layer) -> dict[str, torch.Tensor]:
        """Importances ``(C,)`` of one layer by criterion; every process must call it."""
        measures = self._measures.items()
        return {name: measure.importance(layer) for name, measure in measures if layer.name in self._layers[name]}

    def end(self) -> None:
        """Release the metrics."""
        for measure in self._measures.values():
            measure.end()
