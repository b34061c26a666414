"""Whole activations of some layers on some held-out samples, equal on every process."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from convscope.callbacks.parts.per_layer import PerLayer
from convscope.capture.data.heldout import HeldOut
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Record, Subject, observe
from convscope.metrics import PooledFeatures


class FeatureMaps:
    """Collects activations as they come, as a consumer of a pass or as a part of an observer.

    Args:
        layers: Which layers.
        numbers: Of the samples that are kept; None for all.
    """

    needs_gradient = False
    takes_nonfinite = False

    def __init__(self, layers: Iterable[Layer], numbers: torch.Tensor | None = None) -> None:
        self.layers = {layer.name: layer for layer in layers}
        self._numbers = numbers
        self._kept = PerLayer[PooledFeatures]()
        self._kept.make(self.layers.values(), lambda layer: PooledFeatures(values_of(layer)))

    def wants(self, layer: Layer) -> bool:
        return layer in self._kept

    def on_activation(self, record: Record) -> None:
        if record.layer not in self._kept:
            return
        mine = slice(None) if self._numbers is None else torch.isin(record.index, self._numbers)
        index = record.index[mine]
        if len(index):
            rows = mine if isinstance(mine, slice) else mine.to(record.activation.device)
            self._kept.update(record, record.activation[rows].float().flatten(1), index)

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None:
        """Not asked for."""

    def of(self, layer: Layer) -> torch.Tensor:
        """``(N, C, *S)`` of all processes' samples, in the order of their numbers; every process must call it."""
        # Under inference mode, as in a validation, a result could not take part in a graph.
        with torch.inference_mode(False):
            rows: torch.Tensor = self._kept.compute(layer).clone()
            return rows.view(-1, layer.channels, *layer.spatial)


def values_of(layer: Layer) -> int:
    """Values of one sample's activation."""
    values = layer.channels
    for side in layer.spatial:
        values *= side
    return values


def maps_of(subject: Subject, heldout: HeldOut, layers: list[Layer], chunk_size: int) -> FeatureMaps:
    """Activations in a pass of their own; every process must call it.

    Raises:
        RuntimeError: A layer could not be observed.
    """
    found = FeatureMaps(layers)
    seen = observe(subject, heldout, layers, [found], chunk_size=chunk_size)
    for error in seen.failures.values():
        raise error
    for name in sorted(seen.missing | seen.unmatched.keys() | seen.nonfinite.keys()):
        raise RuntimeError(f"layer {name} {seen.unmatched.get(name, 'gave no finite activations')} in a further pass")
    return found
