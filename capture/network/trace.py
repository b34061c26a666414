"""Trace of one forward pass, and the layers in it: conv units, in the order in which they run."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from convscope.capture.network.axes import ChannelAxes
from convscope.capture.network.follower import Calls, Event, EventKey
from convscope.capture.network.identity import Identity, Sizes, Weights, link
from convscope.capture.network.modules import Kind, tensors_in
from convscope.capture.network.names import layer_names, unique
from convscope.capture.network.rows import RowOrder

OUTPUT = "output"
"""Name of the last layer, the model's output, unless a layer of the user's has it."""

OUTPUT_KEY = EventKey("", OUTPUT, 0)

LayerId = tuple[EventKey, EventKey]


@dataclass(frozen=True)
class Layer:
    """A place in the network where activations are observed.

    Attributes:
        name: Name in ``named_modules()``, without wrapper prefixes. A module that runs more than once in a
            forward pass gives one layer per call: ``conv``, ``conv@2``, ``conv@3``.
        kind: Class name of the module, or the function's name for a functional convolution.
        parts: The operations of the unit, such as ``("Conv2d", "BatchNorm2d", "ReLU")``.
        channels: Number of channels (filters) ``C``.
        spatial: The activation's other sizes, ``(H, W)`` for images, ``()`` for vectors.
        channel_dim: Axis of the channels in the tensor that the network computes.
        key: Operation after which the layer is observed.
        order: Position of that operation in the traced pass.
        rows: Order of the tensor's rows. A sample has more than one if the network folds another
            axis into the batch (frames, windows, views); that axis is then the first of ``spatial``.
        identity: The operations by which the layer is found again.
        problem: Reason why the layer cannot be measured, ``""`` if it can; "layer <name> <problem>" is a sentence.
        is_output: True if this is the model's output.
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
    rows: RowOrder
    identity: Identity
    problem: str = ""
    is_output: bool = False
    module: nn.Module | None = field(default=None, repr=False, compare=False)
    norm: nn.Module | None = field(default=None, repr=False, compare=False)
    activation: nn.Module | None = field(default=None, repr=False, compare=False)
    overwritten: bool = field(default=False, compare=False)

    @property
    def id(self) -> LayerId:
        """Unique key of the layer in its network: its first operation and its last."""
        return self.identity.head, self.key

    @property
    def is_unit(self) -> bool:
        """Return whether this is a conv unit, and so has filters."""
        return self.parts[0].lower().startswith("conv") or isinstance(self.module, nn.modules.conv._ConvNd)

    @property
    def repeats(self) -> int:
        """Rows of the tensor for one sample."""
        return self.rows.repeats

    def fold(self, tensor: torch.Tensor) -> torch.Tensor:
        """``(n, C, *S)`` from the network's own tensor: channels second, an axis folded into the batch third."""
        moved = tensor if self.channel_dim == 1 else tensor.movedim(self.channel_dim, 1)
        return moved if self.repeats == 1 else self.rows.fold(moved).movedim(2, 1)

    def unfold(self, tensor: torch.Tensor) -> torch.Tensor:
        """The network's own arrangement of ``(n, C, *S)``: the inverse of :meth:`fold`."""
        moved = tensor if self.repeats == 1 else self.rows.unfold(tensor.movedim(1, 2))
        return moved.movedim(1, self.channel_dim)

    def mismatch(self, tensor: torch.Tensor, samples: int, same_size: bool) -> str | None:
        """Reason why a chunk's tensor is not this layer's, None if it is.

        Args:
            tensor: As the network computed it.
            samples: Number of samples in the chunk.
            same_size: True if the inputs have the same size as the traced ones.
        """
        if tensor.dim() <= self.channel_dim and not self.is_output:
            return "has another number of axes for some inputs"
        if len(tensor) != self.repeats * samples:
            return "does not give the same number of rows for each sample"
        shape = list(tensor.shape[1:])
        channels = shape.pop(self.channel_dim - 1) if shape else 1
        expected = self.spatial if self.repeats == 1 else self.spatial[1:]
        if channels != self.channels or len(shape) != len(expected):
            return "has another number of channels or axes for some inputs"
        return "has another size for inputs of the same size" if same_size and tuple(shape) != expected else None


@dataclass
class _Step:
    """One operation of the trace, with its output tensor kept alive so that identities stay unique."""

    event: Event
    order: int
    output: torch.Tensor
    version: int
    sources: tuple[int, ...]
    channel_dim: int
    weights: tuple[tuple[str, ...], bool] = ((), False)

    @property
    def key(self) -> EventKey:
        return self.event.key

    @property
    def kind(self) -> Kind:
        return self.event.kind

    @property
    def module(self) -> nn.Module | None:
        return self.event.module

    @property
    def label(self) -> str:
        return self.key.operation if self.module is None else type(self.module).__name__


class Trace:
    """Operations in the order they ran. ``units()`` gives conv units, ``modules()`` modules that returned a tensor.

    Attributes:
        samples: Number of samples that were run together.
        rows: Row order by operation, where it is known.
        problems: Operations after which nothing can be measured, and why; the output is :data:`OUTPUT_KEY`.
        notes: Sentences on layers that cannot be seen, or not correctly.
        hidden: Some layers run where they cannot be seen, in TorchScript or ``torch.vmap``.
        input_sizes: Sizes of one sample's tensors.
    """

    def __init__(self, model: nn.Module, samples: int = 1) -> None:
        self.samples = samples
        self.rows: dict[EventKey, RowOrder] = {}
        self.problems: dict[EventKey, str] = {}
        self.notes: list[str] = []
        self.hidden = False
        self.input_sizes: Sizes = ()
        self.calls = Calls()
        self.steps: list[_Step] = []
        self.containers: list[_Step] = []
        self.producer: dict[int, int] = {}  # id of a tensor -> index of the step that last wrote it
        self._consumers: Counter[int] = Counter()
        self._consumer: dict[int, int] = {}
        self._axes = ChannelAxes()
        self._weights = Weights(model)

    def __call__(self, event: Event) -> None:
        """Record one event of :func:`~convscope.capture.network.follower.follow`."""
        output = next(tensors_in(event.output), None)
        if output is None:
            return
        if event.kind != "other" or event.module is None:
            self._axes.follow(event, output)
        if event.kind == "other" and event.module is not None:
            self.containers.append(self._step(event, output, ()))
            return
        sources = tuple(self.producer[id(t)] for t in event.inputs if id(t) in self.producer)
        self.steps.append(self._step(event, output, sources))
        self._weights.follow(event)
        here = len(self.steps) - 1
        for source in set(sources):
            self._consumers[source] += 1
            self._consumer[source] = here
        for tensor in tensors_in(event.output):
            self.producer[id(tensor)] = here

    def _step(self, event: Event, output: torch.Tensor, sources: tuple[int, ...]) -> _Step:
        order = len(self.steps) + len(self.containers)
        axis = self._axes.of(output)
        channel_dim = _likely_axis(output) if axis is None else axis
        weights = self._weights.of(event.inputs) if event.module is None else ((), False)
        return _Step(event, order, output, _version(output), sources, channel_dim, weights)

    def units(self, *, raw: bool = False) -> list[Layer]:
        """One layer per convolution that ran: after the norm and activation that directly consume it, or raw."""
        heads = [i for i, step in enumerate(self.steps) if step.kind == "conv"]
        chains = [[self.steps[i] for i in ([i] if raw else self._chain(i))] for i in heads]
        return self._layers(chains)

    def modules(self) -> list[Layer]:
        """Every module call that returned a tensor, inner modules before the ones that hold them."""
        calls = [step for step in self.steps if step.module is not None] + self.containers
        calls = [step for step in calls if step.output.dim() >= 2 and step.key.owner]
        return self._layers([[step] for step in sorted(calls, key=lambda step: step.order)])

    def output(self, logits: torch.Tensor, taken: Iterable[str] = ()) -> Layer:
        """The model's output as the last layer; another layer of the name ``"output"`` makes it ``"output@model"``.

        Args:
            logits: Of one sample, ``(1, K, *S)``.
            taken: Names of the other observed layers.
        """
        names = set(taken)
        name = unique(OUTPUT if OUTPUT not in names else f"{OUTPUT}@model", names)
        layer = output_layer(logits, self.rows.get(OUTPUT_KEY))
        problem = self.problems.get(OUTPUT_KEY, "") or layer.problem
        return replace(layer, name=name, problem=problem, identity=Identity(OUTPUT_KEY, input_sizes=self.input_sizes))

    def _layers(self, chains: list[list[_Step]]) -> list[Layer]:
        named = layer_names([chain[0].event for chain in chains])
        return [self._layer(name, chain) for name, chain in zip(named, chains, strict=True)]

    def _layer(self, name: str, chain: list[_Step]) -> Layer:
        head, end = chain[0], chain[-1]
        rows, *shape = end.output.shape
        channels = shape.pop(end.channel_dim - 1)
        # A unit's norm and activation leave rows where they are, and may be counted differently in another pass.
        order = self.rows.get(head.key, RowOrder(inner=max(1, rows // self.samples)))
        links = tuple(link(step.key, step.module) for step in chain[1:])
        calls = self.calls[head.key.owner, head.key.operation] or 1
        return Layer(
            name=name,
            kind=head.label,
            parts=tuple(s.label for s in chain),
            channels=channels,
            spatial=tuple(shape) if order.repeats == 1 else (order.repeats, *shape),
            channel_dim=end.channel_dim,
            key=end.key,
            order=end.order,
            rows=order,
            identity=Identity(head.key, head.event.path, calls, links, *head.weights, self.input_sizes),
            problem=self.problems.get(head.key, "") or _not_real(end.output),
            module=head.module,
            norm=next((s.module for s in chain[1:] if s.kind == "norm"), None),
            activation=next((s.module for s in chain if s.kind == "activation"), None),
            overwritten=_version(end.output) != end.version,
        )

    def _chain(self, head: int) -> list[int]:
        """Extend a convolution by the norm, then the activation, that alone consumes it."""
        chain = [head]
        for kind in ("norm", "activation"):
            following = self._only_consumer(chain[-1])
            if following is not None and self.steps[following].kind == kind:
                chain.append(following)
        return chain

    def _only_consumer(self, step: int) -> int | None:
        if self._consumers[step] != 1:
            return None
        following = self._consumer[step]
        same_shape = self.steps[following].output.shape == self.steps[step].output.shape
        return following if same_shape else None


def _version(tensor: torch.Tensor) -> int:
    """Number of writes to the tensor; torch does not count them for tensors made under inference mode."""
    return -1 if tensor.is_inference() else tensor._version


def _likely_axis(output: torch.Tensor) -> int:
    """The usual channel axis, if nothing else is known: three dimensions are (N, tokens, C), any others (N, C, *S)."""
    return 2 if output.dim() == 3 else 1


def _not_real(tensor: torch.Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    return "" if tensor.is_floating_point() else f"has values of type {kind}, for which no metric is defined"


def output_layer(logits: torch.Tensor, rows: RowOrder | None = None) -> Layer:
    """The model's output as the last layer, from the logits ``(1, K, *S)`` of one sample."""
    shape = tuple(logits.shape)
    order = RowOrder(inner=max(1, len(logits))) if rows is None else rows
    return Layer(
        name=OUTPUT,
        kind=OUTPUT,
        parts=(OUTPUT,),
        channels=shape[1] if len(shape) > 1 else 1,
        spatial=shape[2:] if order.repeats == 1 else (order.repeats, *shape[2:]),
        channel_dim=1,
        key=OUTPUT_KEY,
        order=sys.maxsize,
        rows=order,
        identity=Identity(OUTPUT_KEY),
        problem=_not_real(logits) if logits.is_complex() else "",
        is_output=True,
    )


def without_problems(layers: Collection[Layer]) -> tuple[list[Layer], list[str]]:
    """The layers that can be measured, and one sentence per other layer."""
    said = [f"layer {layer.name} {layer.problem}; it is not measured" for layer in layers if layer.problem]
    return [layer for layer in layers if not layer.problem], said
