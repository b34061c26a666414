"""Movement of BatchNorm's running statistics since the last check."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from convscope.capture.network.trace import Layer
from convscope.capture.network.weights import running_statistics
from convscope.metrics.functional import statistics_change


class NormChanges:
    """Copies of the observed layers' running statistics at their last check, on the CPU."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[Tensor, Tensor]] = {}
        self._now: dict[str, tuple[Tensor, Tensor]] = {}

    def measure(self, layers: Iterable[Layer]) -> None:
        """Read all layers, in the state that training left them in."""
        read = {layer.name: running_statistics(layer.norm) for layer in layers}
        # Statistics that hold NaN would make every distance NaN; the layer waits until they are finite again.
        self._now = {name: found for name, found in read.items() if found is not None and _finite(found)}

    def scalars(self, layer: str) -> dict[str, float]:
        """``statistics_change`` of one layer, where it is known; closes the layer's check."""
        if layer not in self._now:
            return {}
        before, now = self._before.get(layer), self._now.pop(layer)
        self._before[layer] = now
        if before is None or before[0].shape != now[0].shape:
            return {}
        change = float(statistics_change(*now, *before))
        return {"statistics_change": change} if math.isfinite(change) else {}

    def state_dict(self) -> dict[str, Any]:
        """The copies."""
        return dict(self._before)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._before = {name: (mean, variance) for name, (mean, variance) in state.items()}


def _finite(found: tuple[Tensor, Tensor]) -> bool:
    return all(bool(torch.isfinite(one).all()) for one in found)
