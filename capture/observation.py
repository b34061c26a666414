"""The one pass: run the held-out set through the network and hand each layer's activations to who asked for them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from convscope.capture.batches import tree_map
from convscope.capture.follow import Event, follow
from convscope.capture.heldout import Chunk, HeldOut
from convscope.capture.isolation import isolated
from convscope.capture.loss import Loss, logits_of
from convscope.capture.modules import tensors_in
from convscope.capture.trace import OUTPUT, Layer, Trace, trace

HALF_SCALES = (2.0**16, 2.0**8)
"""Factors for the loss that are tried where activations are float16, before the loss as it is."""


@dataclass
class Record:
    """One layer's activations for one chunk, valid only while the consumer is called.

    Attributes:
        layer: Which layer.
        activation: ``(n, C, *S)`` with the layer's ``spatial`` S, without a graph, in the network's own precision.
        targets: ``(n, ...)`` on the activation's device, None where the batches have none.
        index: ``(n,)`` numbers of the samples in the held-out set.
    """

    layer: Layer
    activation: torch.Tensor
    targets: torch.Tensor | None
    index: torch.Tensor

    @cached_property
    def pooled(self) -> torch.Tensor:
        """Spatial mean ``(n, C)`` in float32 or better; computed once for all consumers."""
        dtype = torch.promote_types(self.activation.dtype, torch.float32)
        if self.activation.dim() == 2:
            return self.activation.to(dtype)
        return self.activation.flatten(2).mean(-1, dtype=dtype)


class Consumer(Protocol):
    """Who wants a layer's activations. An exception costs the consumer this layer, for this check.

    Out of memory is no fault of the layer: it ends the pass, unless the chunk is of one sample.
    """

    @property
    def needs_gradient(self) -> bool: ...

    @property
    def takes_nonfinite(self) -> bool: ...

    def wants(self, layer: str) -> bool: ...

    def on_activation(self, record: Record) -> None: ...

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None: ...


@dataclass
class Subject:
    """The network under observation: how to run it, where, and in which precision."""

    module: nn.Module
    forward: Callable[[Any], Any]
    device: torch.device
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext
    loss: Loss | None = None

    def logits(self, inputs: Any) -> torch.Tensor:
        """Outputs ``(n, K, *S)`` for a nested structure of inputs on any device."""
        placed = tree_map(lambda t: t.to(self.device), inputs)
        with self.precision():
            return _with_classes(logits_of(self.forward(placed)))


@dataclass
class Observed:
    """What a pass left to report.

    Attributes:
        samples: How many were run.
        failures: Exceptions by (consumer's place, layer).
        nonfinite: Layers with NaN or infinite activations, and in how many samples; only consumers that take such
            values were given them.
        nonfinite_gradients: Layers whose gradient was NaN or infinite; given to the same consumers only.
        missing: Layers that did not run.
        unmatched: Layers whose rows are not as many a sample as in the trace; nobody was given them.
        loss_error: What the loss or its backward raised; from then on the pass went on without gradients, so those
            that were handed out are of some samples only.
    """

    samples: int = 0
    failures: dict[tuple[int, str], Exception] = field(default_factory=dict)
    nonfinite: dict[str, int] = field(default_factory=dict)
    nonfinite_gradients: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    unmatched: set[str] = field(default_factory=set)
    loss_error: Exception | None = None


def trace_layers(subject: Subject, heldout: HeldOut) -> tuple[Trace, torch.Tensor]:
    """Trace one held-out sample; returns the trace and the sample's logits ``(1, K, *S)``."""
    chunk = next(heldout.chunks(1))
    with isolated(subject.module, seed=heldout.seed, gradients=False):
        found, logits = trace(subject.module, lambda: subject.logits(chunk.inputs))
    return found, logits


def observe(
    subject: Subject,
    heldout: HeldOut,
    layers: Collection[Layer],
    consumers: list[Consumer],
    *,
    chunk_size: int | None = None,
) -> Observed:
    """Run every held-out sample through the network once, forward, and backward if a consumer needs gradients.

    Gradients are those of the summed loss with respect to the activations alone; no weight gradient is computed.
    The network, its gradients, buffers, modes and all random streams are left as they were, also after an
    exception.

    Args:
        subject: The network.
        heldout: The prepared held-out set; this process's share of it is run.
        layers: Layers to observe, as traced.
        consumers: Who gets the records. A consumer's exception is kept in the report, and the pass goes on.
        chunk_size: Samples a forward pass; the held-out set's own by default.

    Raises:
        Exception: Whatever the network's own forward raises; of the loss and its backward only out of memory, where
            fewer samples at a time may do.
    """
    gradients = any(c.needs_gradient for c in consumers) and subject.loss is not None
    run = _Pass(subject, {layer.key: layer for layer in layers}, consumers, gradients)
    with isolated(subject.module, seed=heldout.seed, gradients=gradients):
        for chunk in heldout.chunks(chunk_size):
            run.chunk(chunk)
    run.report.missing = {layer.name for layer in layers} - run.fired
    return run.report


class _Pass:
    """State of one pass over the held-out set."""

    def __init__(self, subject: Subject, layers: dict[Any, Layer], consumers: list[Consumer], gradients: bool) -> None:
        self._subject, self._consumers, self._gradients = subject, consumers, gradients
        self._output = next((layer for layer in layers.values() if layer.name == OUTPUT), None)
        self._layers = layers
        self._chunk: Chunk | None = None
        self._pending: list[tuple[Record, GradientEdge]] = []
        self.report = Observed()
        self.fired: set[str] = set()

    def chunk(self, chunk: Chunk) -> None:
        """One forward, and at most one backward, over one chunk."""
        self._chunk, self._pending = chunk, []
        self._targets = None if chunk.targets is None else chunk.targets.to(self._subject.device)
        with follow(self._subject.module, self._on_event):
            logits = self._subject.logits(chunk.inputs)
        if self._output is not None:
            self._observe(self._output, logits)
        if self._gradients and self._pending:
            self._try_backward(logits)
        if not chunk.padding:
            self.report.samples += len(chunk.index)

    def _on_event(self, event: Event) -> torch.Tensor | None:
        layer = self._layers.get(event.key)
        if layer is None or layer.name == OUTPUT:
            return None
        tensor = next(tensors_in(event.output), None)
        return None if tensor is None else self._observe(layer, tensor, replaceable=tensor is event.output)

    def _observe(self, layer: Layer, tensor: torch.Tensor, replaceable: bool = False) -> torch.Tensor | None:
        """Hand out one activation; returns a tensor to go on with where the original cannot have a gradient."""
        self.fired.add(layer.name)
        replacement = None
        if self._gradients and replaceable and not tensor.requires_grad and tensor.is_floating_point():
            # Everything before is frozen: start a graph here. The clone lets in-place operations follow.
            replacement = tensor = tensor.detach().requires_grad_().clone()
        self._hand_out(layer, tensor)
        return replacement

    def _hand_out(self, layer: Layer, tensor: torch.Tensor) -> None:
        if self._chunk is None or self._chunk.padding:
            return
        if len(tensor) != layer.repeats * len(self._chunk.index):
            self.report.unmatched.add(layer.name)  # whose each row is cannot be known
            return
        activation = _by_sample(tensor.detach(), layer)
        record = Record(layer, activation, self._targets, self._chunk.index)
        with _plain_arithmetic(tensor.device):
            finite = self._finite(record)
            for place, consumer in enumerate(self._consumers):
                if finite or consumer.takes_nonfinite:
                    self._guarded(place, layer, lambda c=consumer: c.on_activation(record))  # type: ignore[misc]
            if not finite:
                return
            if self._gradients and tensor.requires_grad and self._wants_gradient(layer.name):
                if layer.overwritten:
                    record.activation = activation.clone()
                self._pending.append((record, get_gradient_edge(tensor)))

    def _try_backward(self, logits: torch.Tensor) -> None:
        """A loss or backward that fails costs gradients alone: this chunk's and all that would follow."""
        try:
            self._backward(logits)
        except Exception as error:
            if self._may_shrink(error):
                raise
            self.report.loss_error = error
            self._gradients, self._pending = False, []

    def _backward(self, logits: torch.Tensor) -> None:
        if self._subject.loss is None or self._targets is None:
            return
        with self._subject.precision():
            loss = self._subject.loss(logits, self._targets)
        gradients, scale = self._gradients_of(loss)
        while self._pending:
            record, gradient = self._pending.pop()[0], gradients.pop()
            self._hand_gradient(record, gradient if gradient is None or scale == 1 else gradient.float() / scale)

    def _gradients_of(self, loss: torch.Tensor) -> tuple[list[torch.Tensor | None], float]:
        """Gradients at all pending layers, and the factor by which they are too large.

        In float16 those of a network that is sure of its answers would vanish; a power of two changes no digit.
        """
        half = any(record.activation.dtype == torch.float16 for record, _ in self._pending)
        edges = [edge for _, edge in self._pending]
        for scale in HALF_SCALES if half else ():
            found = torch.autograd.grad(loss * scale, edges, allow_unused=True, retain_graph=True)
            if all(gradient is None or bool(torch.isfinite(gradient).all()) for gradient in found):
                return list(found), scale
        return list(torch.autograd.grad(loss, edges, allow_unused=True)), 1.0

    def _hand_gradient(self, record: Record, gradient: torch.Tensor | None) -> None:
        if gradient is None:  # the layer does not reach the loss
            return
        if not bool(torch.isfinite(gradient.sum(dtype=torch.promote_types(gradient.dtype, torch.float32)))):
            self.report.nonfinite_gradients.add(record.layer.name)
        finite = record.layer.name not in self.report.nonfinite_gradients
        moved = _by_sample(gradient, record.layer)
        with _plain_arithmetic(gradient.device):
            for place, consumer in enumerate(self._consumers):
                if consumer.needs_gradient and (finite or consumer.takes_nonfinite):
                    self._guarded(place, record.layer, lambda c=consumer: c.on_gradient(record, moved))  # type: ignore[misc]

    def _wants_gradient(self, layer: str) -> bool:
        return any(consumer.needs_gradient and consumer.wants(layer) for consumer in self._consumers)

    def _guarded(self, place: int, layer: Layer, call: Callable[[], None]) -> None:
        if not self._consumers[place].wants(layer.name) or (place, layer.name) in self.report.failures:
            return
        try:
            call()
        except Exception as error:
            if self._may_shrink(error):
                raise
            self.report.failures[place, layer.name] = error

    def _may_shrink(self, error: Exception) -> bool:
        """Whether fewer samples at a time may do."""
        return isinstance(error, torch.OutOfMemoryError) and self._chunk is not None and len(self._chunk.index) > 1

    def _finite(self, record: Record) -> bool:
        """A NaN or Inf anywhere makes a pooled value so: cheap, and enough to name the layer."""
        bad = (~torch.isfinite(record.pooled)).any(1)
        name = record.layer.name
        if bool(bad.any()):
            self.report.nonfinite[name] = self.report.nonfinite.get(name, 0) + int(bad.sum())
        return name not in self.report.nonfinite


@contextmanager
def _plain_arithmetic(device: torch.device) -> Iterator[None]:
    """No graph, no autocast, and float32 for new tensors, which in a forward pass of bf16-true would be bfloat16."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_default_dtype(default)


def _by_sample(tensor: torch.Tensor, layer: Layer) -> torch.Tensor:
    """``(n, C, *S)`` with the channels second, and an axis that was folded into the batch third."""
    moved = tensor.movedim(layer.channel_dim, 1)
    return moved if layer.repeats == 1 else moved.reshape(-1, layer.repeats, *moved.shape[1:]).movedim(2, 1)


def _with_classes(logits: torch.Tensor) -> torch.Tensor:
    """One logit a sample as ``(n, 1)``; ``.squeeze()`` of a single sample leaves no axis at all."""
    return logits.reshape(-1, 1) if logits.dim() < 2 else logits
