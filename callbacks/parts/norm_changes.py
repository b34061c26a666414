"""Movement of BatchNorm's running statistics since the last check."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from convscope.callbacks.parts.reading import read
from convscope.capture.network.trace import Layer
from convscope.capture.network.weights import running_statistics
from convscope.metrics.functional import statistics_change


class NormChanges:
    """Copies of the observed layers' running statistics at their last check, on the CPU."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[Tensor, Tensor]] = {}
        self._now: dict[str, tuple[Tensor, Tensor]] = {}
        self._changes: dict[str, float] = {}

    def measure(self, layers: Iterable[Layer]) -> None:
        """Read all layers, in the state that training left them in."""
        found = {layer.name: running_statistics(layer.norm) for layer in layers}
        held = {name: statistics for name, statistics in found.items() if statistics is not None}
        # Statistics that hold NaN would make every distance NaN; the layer waits until they are finite again.
        sums = read({name: torch.cat(statistics).sum() for name, statistics in held.items()})
        self._now = {name: statistics for name, statistics in held.items() if math.isfinite(sums[name])}
        known = {name: before for name in self._now if (before := self._last(name)) is not None}
        self._changes = read({name: statistics_change(*self._now[name], *before) for name, before in known.items()})

    def scalars(self, layer: str) -> dict[str, float]:
        """``statistics_change`` of one layer, where it is known; closes the layer's check."""
        if layer in self._now:
            self._before[layer] = self._now.pop(layer)
        change = self._changes.get(layer, math.inf)
        return {"statistics_change": change} if math.isfinite(change) else {}

    def _last(self, name: str) -> tuple[Tensor, Tensor] | None:
        before = self._before.get(name)
        return before if before is not None and before[0].shape == self._now[name][0].shape else None

    def state_dict(self) -> dict[str, Any]:
        """The copies."""
        return dict(self._before)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._before = {name: (mean, variance) for name, (mean, variance) in state.items()}
