"""Finder of planned layers among the operations of a forward pass, with reasons where a layer differs from the plan."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from convscope.capture.network.follower import Calls, Event, EventKey
from convscope.capture.network.identity import Weights, link
from convscope.capture.network.trace import Layer

REPLACED = "is another module than when it was planned"
ELSEWHERE = "runs in another place of the network for some inputs"
UNEVEN = "runs more or less often for some inputs"


class Finder:
    """Finder of layers among the events of one forward pass, with reasons where a layer differs from the plan.

    Attributes:
        problems: By layer's ``id``, why it was not found although something like it ran.
        seen: ``id`` of the layers that ran.
    """

    def __init__(self, model: nn.Module, layers: Collection[Layer]) -> None:
        self.problems: dict[tuple[EventKey, EventKey], str] = {}
        self.seen: set[tuple[EventKey, EventKey]] = set()
        self._layers = layers
        self._heads: dict[EventKey, list[Layer]] = {}
        for layer in layers:
            self._heads.setdefault(layer.identity.head, []).append(layer)
        functional = [layer for layer in layers if layer.identity.weights]
        self._weights = Weights(model) if functional else None
        self._computed = any(layer.identity.computed for layer in functional)
        # Units that still wait for their norm or activation, by the tensor that it must take.
        self._open: dict[int, tuple[torch.Tensor, list[tuple[Layer, int]]]] = {}

    def at(self, event: Event) -> list[Layer]:
        """Layers whose last operation this is."""
        if self._computed and self._weights is not None:
            self._weights.follow(event)
        self._here = [(layer, 0) for layer in self._heads.get(event.key, ()) if self._is_planned(layer, event)]
        if self._open and event.kind in ("norm", "activation"):
            self._here += self._continued(event)
        self.seen |= {layer.id for layer, done in self._here if done == len(layer.identity.links)}
        return [layer for layer, done in self._here if done == len(layer.identity.links)]

    def leave(self, tensor: torch.Tensor) -> None:
        """Take note of the tensor with which the network continues after the event."""
        waiting = [(layer, done) for layer, done in self._here if done < len(layer.identity.links)]
        if waiting:
            self._open[id(tensor)] = tensor, waiting

    def finish(self, calls: Calls) -> None:
        """End the pass: a layer whose operation ran more or less often than planned may be another one."""
        self._open.clear()
        for layer in self._layers:
            owner, operation, _ = layer.identity.head
            if not layer.is_output and layer.id in self.seen and calls[owner, operation] != layer.identity.calls:
                self.problems.setdefault(layer.id, UNEVEN)

    def _continued(self, event: Event) -> list[tuple[Layer, int]]:
        here, name = [], link(event.key, event.module)
        for tensor in event.inputs:
            left = self._left_as(tensor)
            _, waiting = self._open.get(left, (None, []))
            here += [(layer, done + 1) for layer, done in waiting if layer.identity.links[done] == name]
            if here:
                del self._open[left]
                break
        return here

    def _left_as(self, tensor: torch.Tensor) -> int:
        """``id`` of the tensor that the network went on with, of which this one may be a view for backward hooks."""
        if type(tensor.grad_fn).__name__ != "BackwardHookFunctionBackward":
            return id(tensor)
        same = (name for name, (left, _) in self._open.items() if _is_view_of_all(tensor, left))
        return next(same, id(tensor))

    def _is_planned(self, layer: Layer, event: Event) -> bool:
        problem = self._difference(layer, event)
        if problem is not None:
            self.problems.setdefault(layer.id, problem)
        return problem is None

    def _difference(self, layer: Layer, event: Event) -> str | None:
        identity = layer.identity
        if layer.module is not None and event.module is not layer.module:
            return REPLACED
        if event.path != identity.path:
            return ELSEWHERE
        if identity.weights and self._weights is not None:
            weights, _ = self._weights.of(event.inputs)
            if weights and weights != identity.weights:
                return ELSEWHERE
        return None


def _is_view_of_all(view: torch.Tensor, tensor: torch.Tensor) -> bool:
    return view.data_ptr() == tensor.data_ptr() and view.shape == tensor.shape and view.stride() == tensor.stride()
