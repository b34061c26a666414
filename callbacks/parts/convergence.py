"""Layers that have converged, from the input on, and what freezing them would save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convscope.capture.network.costs import freezing_saves, multiplications
from convscope.capture.network.trace import Layer

LIMIT, CHECKS = 0.995, 8  # CKA with the previous check, and for how many of them in a row


class Convergence:
    """Count, for each layer, of the checks in a row at which it was as at the one before."""

    def __init__(self) -> None:
        self._quiet: dict[str, int] = {}

    def freezable(self, layers: Sequence[Layer], likeness: Mapping[str, float]) -> dict[str, float]:
        """Share of a step as it is now that freezing saves, for each layer that has converged like all before it.

        Layers whose weights ask for no gradient count as converged, but are not named: they are frozen already, and
        what that saves is no part of a step any more.

        Args:
            layers: The observed layers, in the order in which they run.
            likeness: CKA of each with the previous check, where it is known.
        """
        for layer in layers:
            still = likeness.get(layer.name, 0.0) >= LIMIT
            self._quiet[layer.name] = self._quiet.get(layer.name, 0) + 1 if still else 0
        saved = freezing_saves([multiplications(layer) for layer in layers])
        found: dict[str, float] = {}
        already = 0.0
        for layer, share in zip(layers, saved, strict=True):
            if not _learns(layer):
                already = share if not found else already
            elif self._quiet[layer.name] < CHECKS:
                break
            else:
                found[layer.name] = (share - already) / (1 - already)
        return found

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return dict(self._quiet)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from a checkpoint."""
        self._quiet = {name: int(count) for name, count in state.items()}


def _learns(layer: Layer) -> bool:
    return layer.module is None or any(parameter.requires_grad for parameter in layer.module.parameters())
