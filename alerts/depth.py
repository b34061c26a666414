"""Depth order of layers, learnt from the order in which their series were first logged."""

from __future__ import annotations

import math
from collections.abc import Iterable

from convscope.alerts.alert import layer_in


class DepthOrder:
    """Layers in order, from the input on.

    Callbacks log their layers in depth order, but each of them may observe others: the orders are merged, so that a
    layer that only one of them knows comes after the one that this callback logged before it.

    Example:
        >>> order = DepthOrder()
        >>> order.learn(["probe/accuracy/conv2", "probe/accuracy/fc"])
        >>> order.learn(["health/rms/conv1", "health/rms/conv2", "health/rms/conv3", "val_loss"])
        >>> order.layers
        ['conv1', 'conv2', 'conv3', 'fc']
    """

    def __init__(self) -> None:
        self.layers: list[str] = []

    def learn(self, tags: Iterable[str]) -> None:
        """Take in the tags of one check, in the order in which they were logged."""
        families: dict[str, list[str]] = {}
        for tag in tags:
            if (layer := layer_in(tag)) is not None:
                families.setdefault(tag.rsplit(layer, 1)[0], []).append(layer)
        for layers in families.values():
            if not set(layers) <= set(self.layers):
                self._merge(layers)

    def _merge(self, layers: list[str]) -> None:
        place = 0
        for layer in layers:
            if layer in self.layers:
                place = self.layers.index(layer) + 1
            else:
                self.layers.insert(place, layer)
                place += 1

    def place(self, layer: str | None) -> float:
        """Place in the network, from 0; infinite for a name that is not a layer."""
        return self.layers.index(layer) if layer in self.layers else math.inf
