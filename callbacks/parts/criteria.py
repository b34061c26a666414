"""Cheap criteria of filter importance, measured in the shared pass for comparison with ablation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from convscope.callbacks.importance import Criterion, FilterImportance
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Record


class Criteria:
    """Several criteria of the same layers.

    Args:
        names: Criteria of :class:`~convscope.FilterImportance`.

    Raises:
        ValueError: A name is no criterion, or there is none.
    """

    def __init__(self, names: Sequence[Criterion]) -> None:
        if isinstance(names, str) or not names or len(set(names)) != len(names):
            raise ValueError(f"criteria={names!r}: give a list of different criteria, at least one")
        self._observers: dict[str, FilterImportance] = {name: FilterImportance(criterion=name) for name in names}
        self._layers: dict[str, set[str]] = {}

    @property
    def need_gradient(self) -> bool:
        """Whether any of them needs the pass to have a backward."""
        return any(observer.needs_gradient for observer in self._observers.values())

    def measures(self, layer: Layer, name: str | None = None) -> bool:
        """Whether one criterion (by default any) can be had of a layer."""
        observers = self._observers.values() if name is None else [self._observers[name]]
        return any(_measures(observer, layer) for observer in observers)

    def begin(self, layers: list[Layer], samples: int) -> None:
        """Fresh metrics for one check."""
        for name, observer in self._observers.items():
            mine = [layer for layer in layers if _measures(observer, layer)]
            self._layers[name] = {layer.name for layer in mine}
            observer.begin(mine, samples)

    def on_activation(self, record: Record) -> None:
        """Take in a layer's activations of one chunk."""
        for name, observer in self._observers.items():
            if record.layer.name in self._layers[name]:
                observer.on_activation(record)

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None:
        """Take in a layer's activations and gradients of one chunk."""
        for name, observer in self._observers.items():
            if observer.needs_gradient and record.layer.name in self._layers[name]:
                observer.on_gradient(record, gradient)

    def values(self, layer: Layer) -> dict[str, torch.Tensor]:
        """Importances ``(C,)`` of one layer by criterion; to be called on every process."""
        found = {}
        for name, observer in self._observers.items():
            if layer.name in self._layers[name]:
                result = observer.compute(layer)
                if result is not None and result.distribution is not None:
                    found[name] = torch.from_numpy(result.distribution)
        return found

    def end(self) -> None:
        """Let go of the metrics."""
        for observer in self._observers.values():
            observer.end()


def _measures(observer: FilterImportance, layer: Layer) -> bool:
    if layer.is_output:
        return observer.includes_output
    return observer.suits(layer)
