"""Identity of a layer: the operations that ran. It is found again by them in every chunk, not only by its name.

A network that calls its modules more or less often, depending on its input, would put another operation's activation
under a layer's name. So the whole path of modules is compared, and norms and activations are followed from tensor to
tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from convscope.capture.network.follower import CallPath, Event, EventKey
from convscope.capture.network.modules import tensors_in

Sizes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Identity:
    """The operations that make a layer, compared in every chunk.

    Attributes:
        head: The first operation of the layer.
        path: The modules that it ran in, each with its call number.
        calls: Number of times that the operation ran in the whole pass.
        links: The operations that follow it in its unit, see :func:`link`.
        weights: Names of the parameters that a functional operation's weights are, or are computed from.
        computed: True if they are computed in the forward pass.
        input_sizes: Sizes of one sample's tensors when it was planned; inputs of other sizes give other activations.
    """

    head: EventKey
    path: CallPath = ()
    calls: int = 1
    links: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    computed: bool = False
    input_sizes: Sizes = ()


def link(key: EventKey, module: nn.Module | None) -> str:
    """Name of a norm or activation as a part of a unit: its module, or its function."""
    return key.operation if module is None else f"{key.owner} (module)"


class Weights:
    """Tensors that are parameters or buffers of a model, or computed from them alone."""

    def __init__(self, model: nn.Module) -> None:
        named = [*model.named_parameters(), *model.named_buffers()]
        self._names: dict[int, frozenset[str]] = {id(tensor): frozenset([name]) for name, tensor in named}
        self._own = set(self._names)
        self._kept: list[torch.Tensor] = []  # kept alive, so that identities stay unique

    def follow(self, event: Event) -> None:
        """Take note of a result that an operation computed from weights alone."""
        sources = [self._names.get(id(tensor)) for tensor in event.inputs]
        if sources and None not in sources:
            for tensor in tensors_in(event.output):
                if id(tensor) not in self._names:
                    self._names[id(tensor)] = frozenset().union(*filter(None, sources))
                    self._kept.append(tensor)

    def of(self, inputs: Iterable[torch.Tensor]) -> tuple[tuple[str, ...], bool]:
        """Names of the parameters among an operation's inputs, and True if some are computed."""
        found = [tensor for tensor in inputs if id(tensor) in self._names]
        names = frozenset().union(*(self._names[id(tensor)] for tensor in found))
        return tuple(sorted(names)), any(id(tensor) not in self._own for tensor in found)
