"""Find the layers of a network from one traced sample: conv units, in the order in which they run."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from convscope.capture.axes import ChannelAxes
from convscope.capture.follow import Event, EventKey, follow
from convscope.capture.modules import Kind, tensors_in

OUTPUT = "output"
"""Name of the last layer: what the model returns."""


@dataclass(frozen=True)
class Layer:
    """A place in the network where activations are observed.

    Attributes:
        name: What ``named_modules()`` says, without wrapper prefixes. A module that runs more than once in a
            forward pass gives one layer a call: ``conv``, ``conv@2``, ``conv@3``.
        kind: Class name of the module, or the function's name for a functional convolution.
        parts: The operations of the unit, e.g. ``("Conv2d", "BatchNorm2d", "ReLU")``.
        channels: Number of channels (filters) ``C``.
        spatial: The activation's other sizes, ``(H, W)`` for images, ``()`` for vectors.
        channel_dim: Axis of the channels in the tensor that the network computes.
        repeats: Rows of that tensor for one sample. More than one where the network folds another axis into the batch
            (frames, windows); that axis is then the first of ``spatial``.
        key: Operation after which the layer is observed.
        order: Position of that operation in the traced pass.
        module: Module that holds the filters, None for a functional convolution and for the output.
        norm: Normalisation of the unit, if it has one and it is a module.
        activation: Activation function of the unit, if it has one and it is a module.
        overwritten: The network later writes into the observed tensor (in-place ReLU, ``x += y``).
    """

    name: str
    kind: str
    parts: tuple[str, ...]
    channels: int
    spatial: tuple[int, ...]
    channel_dim: int
    key: EventKey
    order: int
    repeats: int = 1
    module: nn.Module | None = field(default=None, repr=False, compare=False)
    norm: nn.Module | None = field(default=None, repr=False, compare=False)
    activation: nn.Module | None = field(default=None, repr=False, compare=False)
    overwritten: bool = field(default=False, compare=False)

    @property
    def is_unit(self) -> bool:
        """Whether this is a conv unit, and so has filters."""
        return self.parts[0].lower().startswith("conv") or isinstance(self.module, nn.modules.conv._ConvNd)


@dataclass
class _Step:
    """One operation of the trace, with its output tensor kept alive so that identities stay unique."""

    key: EventKey
    order: int
    kind: Kind
    module: nn.Module | None
    output: torch.Tensor
    version: int
    sources: tuple[int, ...]
    channel_dim: int

    @property
    def label(self) -> str:
        return self.key.operation if self.module is None else type(self.module).__name__


class Trace:
    """What ran, in order. ``units()`` gives the conv units, ``modules()`` every module that returned a tensor."""

    def __init__(self) -> None:
        self._steps: list[_Step] = []
        self._containers: list[_Step] = []
        self._producer: dict[int, int] = {}  # id of a tensor -> index of the step that last wrote it
        self._consumers: Counter[int] = Counter()
        self._consumer: dict[int, int] = {}
        self._axes = ChannelAxes()

    def __call__(self, event: Event) -> None:
        """Record one event of :func:`~convscope.capture.follow.follow`."""
        output = next(tensors_in(event.output), None)
        if output is None:
            return
        if event.kind != "other" or event.module is None:
            self._axes.follow(event, output)
        if event.kind == "other" and event.module is not None:
            self._containers.append(self._step(event, output, ()))
            return
        sources = tuple(self._producer[id(t)] for t in event.inputs if id(t) in self._producer)
        self._steps.append(self._step(event, output, sources))
        here = len(self._steps) - 1
        for source in set(sources):
            self._consumers[source] += 1
            self._consumer[source] = here
        for tensor in tensors_in(event.output):
            self._producer[id(tensor)] = here

    def _step(self, event: Event, output: torch.Tensor, sources: tuple[int, ...]) -> _Step:
        order = len(self._steps) + len(self._containers)
        axis = self._axes.of(output)
        channel_dim = _likely_axis(output) if axis is None else axis
        return _Step(event.key, order, event.kind, event.module, output, output._version, sources, channel_dim)

    def units(self, *, raw: bool = False) -> list[Layer]:
        """One layer per convolution that ran: after the norm and activation that directly consume it, or raw."""
        heads = [i for i, step in enumerate(self._steps) if step.kind == "conv"]
        return [self._unit([i] if raw else self._chain(i)) for i in heads]

    def modules(self) -> list[Layer]:
        """Every module call that returned a tensor, inner modules before the ones that hold them."""
        calls = [step for step in self._steps if step.module is not None] + self._containers
        calls = [step for step in calls if step.output.dim() >= 2 and step.key.owner]
        return [_layer([step]) for step in sorted(calls, key=lambda step: step.order)]

    def _unit(self, chain: list[int]) -> Layer:
        return _layer([self._steps[i] for i in chain])

    def _chain(self, head: int) -> list[int]:
        """Extend a convolution by the norm, then the activation, that alone consumes it."""
        chain = [head]
        for kind in ("norm", "activation"):
            following = self._only_consumer(chain[-1])
            if following is not None and self._steps[following].kind == kind:
                chain.append(following)
        return chain

    def _only_consumer(self, step: int) -> int | None:
        if self._consumers[step] != 1:
            return None
        following = self._consumer[step]
        same_shape = self._steps[following].output.shape == self._steps[step].output.shape
        return following if same_shape else None


def _layer(chain: list[_Step]) -> Layer:
    head, end = chain[0], chain[-1]
    repeats, *shape = end.output.shape
    channels = shape.pop(end.channel_dim - 1)
    norm = next((s.module for s in chain[1:] if s.kind == "norm"), None)
    activation = next((s.module for s in chain if s.kind == "activation"), None)
    return Layer(
        name=_call_name(head.key),
        kind=head.label,
        parts=tuple(s.label for s in chain),
        channels=channels,
        spatial=tuple(shape) if repeats == 1 else (repeats, *shape),
        channel_dim=end.channel_dim,
        key=end.key,
        order=end.order,
        repeats=repeats,
        module=head.module,
        norm=norm,
        activation=activation,
        overwritten=end.output._version != end.version,
    )


def _likely_axis(output: torch.Tensor) -> int:
    """Where the pass does not tell: three dimensions are (N, tokens, C), any others (N, C, *S)."""
    return 2 if output.dim() == 3 else 1


def _call_name(key: EventKey) -> str:
    name = key.owner or key.operation
    return name if key.call == 1 else f"{name}@{key.call}"


def output_layer(logits: torch.Tensor) -> Layer:
    """The model's output as the last layer, from a sample's logits ``(N, K, *S)``."""
    shape = tuple(logits.shape)
    channels = shape[1] if len(shape) > 1 else 1
    return Layer(OUTPUT, OUTPUT, (OUTPUT,), channels, shape[2:], 1, EventKey("", OUTPUT, 1), order=sys.maxsize)


def trace(model: nn.Module, run: Callable[[], Any]) -> tuple[Trace, Any]:
    """Follow ``run()``, one forward pass of ``model`` on one sample, and return the trace and what it returned."""
    found = Trace()
    with follow(model, found):
        result = run()
    return found, result
