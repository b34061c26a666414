"""The one pass: run the held-out set through the network and hand each layer's activations to its consumers."""

from __future__ import annotations

import cmath
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Protocol, TypeVar

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from convscope.capture.data.batches import tree_map
from convscope.capture.data.heldout import Chunk, HeldOut
from convscope.capture.data.targets import counted_rows
from convscope.capture.gradients import hand_gradients
from convscope.capture.looks import Looks
from convscope.capture.network.finder import Finder
from convscope.capture.network.follower import Calls, Event, follow
from convscope.capture.network.modules import tensors_in
from convscope.capture.network.rehearsal import rehearse, sizes_of
from convscope.capture.network.samples import Samples
from convscope.capture.network.trace import Layer, LayerId, Trace
from convscope.capture.outputs.choice import Outputs
from convscope.capture.outputs.loss import Loss
from convscope.capture.outputs.parts import logits_of
from convscope.capture.state.isolation import isolated

T = TypeVar("T")
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and named arguments of a call."""


@dataclass
class Record:
    """One layer's activations for one chunk, valid only while the consumer is called.

    Attributes:
        layer: The layer.
        activation: ``(n, C, *S)`` with the layer's ``spatial`` S, without a graph, in the network's own precision.
        targets: ``(n, ...)`` on the activation's device, None where the batches have none.
        index: ``(n,)`` numbers of the samples in the held-out set.
        counted: ``(n,)`` mask of the samples with a label that counts, on the CPU; None if all have one.
    """

    layer: Layer
    activation: torch.Tensor
    targets: torch.Tensor | None
    index: torch.Tensor
    counted: torch.Tensor | None = None
    _shared: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def pooled(self) -> torch.Tensor:
        """Spatial mean ``(n, C)`` in float32 or better; computed once for all consumers."""
        dtype = _single_or_better(self.activation.dtype)
        if self.activation.dim() == 2:
            return self.activation.to(dtype)
        return self.activation.mean(tuple(range(2, self.activation.dim())), dtype=dtype)

    def once(self, key: Hashable, compute: Callable[[torch.Tensor], T]) -> T:
        """``compute(activation)``, computed once for all consumers that ask with the same key."""
        if key not in self._shared:
            self._shared[key] = compute(self.activation)
        found: T = self._shared[key]
        return found


class Consumer(Protocol):
    """Object that takes layers' activations. An exception costs it this layer, for this check.

    Running out of memory is not the layer's fault: it ends the pass, unless the chunk is of one sample.
    """

    @property
    def needs_gradient(self) -> bool: ...

    @property
    def takes_nonfinite(self) -> bool: ...

    def wants(self, layer: Layer) -> bool: ...

    def on_activation(self, record: Record) -> None: ...

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None: ...


@dataclass
class Subject:
    """The network under observation, with its device and precision, and the way to run it.

    ``outputs`` names the part of its result that is its output, once
    :func:`~convscope.capture.outputs.settling.settle` has decided; ``loss`` is summed over samples. ``network`` is the
    module that ``forward`` calls, with ``arguments(inputs)``, where it calls one.
    """

    module: nn.Module
    forward: Callable[[Any], Any]
    device: torch.device
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext
    loss: Loss | None = None
    outputs: Outputs | None = None
    network: nn.Module | None = None
    arguments: Callable[[Any], Arguments] | None = None

    def logits(self, inputs: Any) -> torch.Tensor:
        """Outputs ``(n, K, *S)`` for a nested structure of inputs on any device; ``(1, 0)`` where there are none."""
        return self.logits_in(self.returned(inputs))

    def logits_in(self, returned: Any) -> torch.Tensor:
        """The part of the network's result that :meth:`logits` gives."""
        with self.precision():  # a user's function may compute
            return _with_classes(logits_of(returned)) if self.outputs is None else self.outputs.take(returned)

    def returned(self, inputs: Any) -> Any:
        """The network's result for a nested structure of inputs on any device."""
        placed = tree_map(lambda t: t.to(self.device, copy=True), inputs)  # a network may write into its input
        with self.precision():
            return self.forward(placed)


@dataclass
class LayerFaults:
    """Layers that a pass could not measure, as plain values; each field is explained in :class:`Observed`."""

    nonfinite: dict[str, int] = field(default_factory=dict)
    nonfinite_gradients: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    unmatched: dict[str, str] = field(default_factory=dict)
    without_gradient: set[str] = field(default_factory=set)


@dataclass
class Observed(LayerFaults):
    """Report of a pass.

    Attributes:
        samples: Number of samples that were run.
        failures: Exceptions by (consumer's place, layer).
        nonfinite: Layers with NaN or infinite activations, with the number of samples; only consumers that take
            such values were given them.
        nonfinite_gradients: Layers whose gradient was NaN or infinite; given to the same consumers only.
        missing: Layers that did not run.
        unmatched: Layers that differ from the plan in some chunk, and why: "layer <name> <why>" is a sentence.
            Their records must not be used.
        without_gradient: Layers that no gradient of the loss reaches: an auxiliary head, a backbone under ``no_grad``,
            layers before a reentrant checkpoint.
        loss_error: The error of the loss or its backward; from then on the pass went on without gradients, so those
            that were handed out are of some samples only.
    """

    samples: int = 0
    failures: dict[tuple[int, str], Exception] = field(default_factory=dict)
    loss_error: Exception | None = None


def trace_layers(subject: Subject, heldout: HeldOut, samples: Samples | None = None) -> tuple[Trace, torch.Tensor]:
    """Trace the first held-out sample, and determine from a few others how rows belong to samples.

    Every process must call it.

    Returns:
        The trace, and the sample's logits ``(1, K, *S)``.
    """
    return rehearse(subject.module, subject.logits, heldout, samples)


def observe(
    subject: Subject,
    heldout: HeldOut,
    layers: Collection[Layer],
    consumers: list[Consumer],
    *,
    chunk_size: int | None = None,
) -> Observed:
    """Run every held-out sample through the network once, forward, and backward if a consumer needs gradients.

    Gradients are those of the summed loss with respect to the activations alone; no weight gradient is computed. Where
    activations are float16 a chunk has up to three backward passes, with less and less scaling (``HALF_SCALES``).
    The network, its gradients, buffers, modes and all random streams are left as they were, also after an
    exception.

    Args:
        subject: The network.
        heldout: The prepared held-out set; this process's share of it is run.
        layers: Layers to observe, as traced; one with a ``problem`` is reported as unmatched and given to no consumer.
        consumers: Receivers of the records. A consumer's exception is kept in the report, and the pass goes on.
        chunk_size: Samples per forward pass; the held-out set's own by default.

    Raises:
        Exception: if the network's own forward raises it. From the loss and its backward only out of memory is
            raised, if fewer samples at a time may succeed.
    """
    gradients = any(c.needs_gradient for c in consumers) and subject.loss is not None
    run = Pass(subject, list({layer.id: layer for layer in layers}.values()), consumers, gradients)
    with isolated(subject.module, seed=heldout.seed, gradients=gradients):
        for chunk in heldout.chunks(chunk_size):
            run.chunk(chunk)
    run.close()
    return run.report


class Pass:
    """State of one pass over the held-out set: for each chunk :meth:`chunk`, or the steps that it takes one by one."""

    def __init__(self, subject: Subject, layers: list[Layer], consumers: list[Consumer], gradients: bool) -> None:
        self._subject, self._consumers, self._gradients = subject, consumers, gradients
        self.layers = layers
        self._output = next((layer for layer in layers if layer.is_output), None)
        self._inner = [layer for layer in layers if not (layer.is_output or layer.problem)]
        self._chunk: Chunk | None = None
        self._rows: torch.Tensor | None = None
        self._pending: list[tuple[Record, GradientEdge]] = []
        self._chunks = 0
        self._fired: Counter[LayerId] = Counter()
        self._looks = Looks()
        self.report = Observed(unmatched={layer.name: layer.problem for layer in layers if layer.problem})

    def chunk(self, chunk: Chunk) -> None:
        """Run one forward, and at most one backward, on one chunk."""
        self.open(chunk)
        with follow(self._subject.module, self.on_event) as calls:
            logits = self._subject.logits(chunk.inputs)
        self.finish(calls, logits)

    def open(self, chunk: Chunk, rows: torch.Tensor | None = None, batch: int | None = None) -> None:
        """Await the forward of a chunk, or of a ``batch`` of so many samples among which it takes some ``rows``."""
        self._chunk, self._pending, self._sizes = chunk, [], sizes_of(chunk.inputs)
        self._rows, self._batch = rows, len(chunk.index) if batch is None else batch
        self._targets = None if chunk.targets is None else chunk.targets.to(self._subject.device)
        self._counted, self._failed_before = counted_rows(chunk.targets), set(self.report.failures)
        # A new one per chunk: the operations that run in this chunk decide which of them is the layer.
        self._finder = Finder(self._subject.module, self._inner)

    def finish(self, calls: Calls, logits: torch.Tensor) -> None:
        """End a chunk whose forward has run: take its output, and run the backward."""
        self._finder.finish(calls)
        if self._output is not None and not self._output.problem:
            self._observe(self._output, logits)
        if self._gradients and self._pending:
            self._try_backward(logits)
        self._looks.answer()
        self._chunks += 1
        if self._chunk is not None and not self._chunk.padding:
            self.report.samples += len(self._chunk.index)
        for layer in self._inner:
            if layer.id in self._finder.problems:
                self._leave_out(layer, self._finder.problems[layer.id])

    def close(self) -> None:
        """Report, after all chunks, the layers that ran in none or only some of them."""
        for layer in self.layers:
            if self._fired[layer.id] == 0 and layer.name not in self.report.unmatched:
                self.report.missing.add(layer.name)
            elif 0 < self._fired[layer.id] < self._chunks:
                self._leave_out(layer, "ran for some of the held-out samples only")

    def _leave_out(self, layer: Layer, reason: str) -> None:
        self.report.unmatched.setdefault(layer.name, reason)

    def on_event(self, event: Event) -> torch.Tensor | None:
        """Take in an operation of the forward; the tensor with which the network goes on where it is another."""
        tensor = next(tensors_in(event.output), None)
        if tensor is None:
            return None
        replacement = None
        for layer in self._finder.at(event):
            found = self._observe(layer, tensor, replaceable=tensor is event.output)
            if found is not None:
                replacement = tensor = found
        self._finder.leave(tensor)
        return replacement

    def _observe(self, layer: Layer, tensor: torch.Tensor, replaceable: bool = False) -> torch.Tensor | None:
        """Hand out one activation; return a tensor to go on with where the original cannot have a gradient."""
        self._fired[layer.id] += 1
        replacement = None
        if self._gradients and replaceable and not tensor.requires_grad and tensor.is_floating_point():
            # Everything before is frozen. A clone of the leaf lets in-place operations follow.
            replacement = tensor = _started(tensor)
        self._hand_out(layer, tensor)
        return replacement

    def _hand_out(self, layer: Layer, tensor: torch.Tensor) -> None:
        # A padding chunk keeps processes in step where one has fewer samples: it runs, and counts nowhere.
        if self._chunk is None or self._chunk.padding:
            return
        mismatch = layer.mismatch(tensor, self._batch, self._sizes == layer.identity.input_sizes)
        if mismatch is not None:
            self._leave_out(layer, mismatch)
        if layer.name in self.report.unmatched:
            return
        # Detached, since a consumer must not prolong the graph; the gradient is awaited at the tensor itself, below.
        activation = layer.fold(tensor.detach())
        if self._rows is not None:
            activation = activation.index_select(0, self._rows)
        record = Record(layer, activation, self._targets, self._chunk.index, self._counted)
        with _plain_arithmetic(tensor.device):
            # Checked before anyone sees it: a NaN in one chunk would spoil sums over all of them.
            finite = self._finite(record)
            for place, consumer in enumerate(self._consumers):
                if finite or consumer.takes_nonfinite:
                    self._guarded(place, layer, lambda c=consumer: c.on_activation(record))  # type: ignore[misc]
            if finite and self._gradients and self._wants_gradient(layer):
                self._await_gradient(record, tensor)

    def _await_gradient(self, record: Record, tensor: torch.Tensor) -> None:
        if not tensor.requires_grad:
            self.report.without_gradient.add(record.layer.name)
        elif record.layer.name not in self.report.without_gradient:
            # An in-place operation that follows writes into this memory before the backward comes.
            if record.layer.overwritten:
                record.activation = record.activation.clone()
            # The edge and not the tensor: it names the place in the graph even if the tensor is overwritten in place.
            self._pending.append((record, get_gradient_edge(tensor)))

    def _try_backward(self, logits: torch.Tensor) -> None:
        """Run the backward; a failure costs only gradients: this chunk's and all that would follow."""
        try:
            self._backward(logits)
        except Exception as error:
            if self._may_shrink(error):
                raise
            self.report.loss_error = error
            # The forward succeeded, so metrics without gradients are still measured in this and all later chunks.
            self._gradients, self._pending = False, []

    def _backward(self, logits: torch.Tensor) -> None:
        if self._subject.loss is None or self._targets is None:
            return
        with self._subject.precision():
            loss = self._subject.loss(logits, self._targets)
        half = any(record.activation.dtype == torch.float16 for record, _ in self._pending)
        records: list[Record | None] = [record for record, _ in self._pending]
        edges, self._pending = [edge for _, edge in self._pending], []

        def hand(place: int, gradient: torch.Tensor | None, scale: float) -> None:
            record, records[place] = records[place], None  # let go: its activation is freed once it has been used
            if record is not None:
                self._hand_gradient(record, gradient if gradient is None or scale == 1 else gradient.float() / scale)

        hand_gradients(loss, edges, half, hand)

    def _hand_gradient(self, record: Record, gradient: torch.Tensor | None) -> None:
        if gradient is None:
            self.report.without_gradient.add(record.layer.name)
            return
        name = record.layer.name
        # One sum finds any NaN or Inf; in half precision the sum itself could overflow.
        total = gradient.sum(dtype=_single_or_better(gradient.dtype))
        self._looks.ask(total, lambda total: self._note_bad_gradient(name, total))
        finite = name not in self.report.nonfinite_gradients
        moved = record.layer.fold(gradient)
        with _plain_arithmetic(gradient.device):
            for place, consumer in enumerate(self._consumers):
                if consumer.needs_gradient and (finite or consumer.takes_nonfinite):
                    self._guarded(place, record.layer, lambda c=consumer: c.on_gradient(record, moved))  # type: ignore[misc]

    def _wants_gradient(self, layer: Layer) -> bool:
        return any(consumer.needs_gradient and consumer.wants(layer) for consumer in self._consumers)

    def _guarded(self, place: int, layer: Layer, call: Callable[[], None]) -> None:
        if not self._consumers[place].wants(layer) or (place, layer.name) in self.report.failures:
            return
        try:
            call()
        except Exception as error:
            if self._may_shrink(error):
                raise
            self.report.failures[place, layer.name] = error

    def _may_shrink(self, error: Exception) -> bool:
        """Return whether fewer samples at a time may fit."""
        return isinstance(error, torch.OutOfMemoryError) and self._chunk is not None and len(self._chunk.index) > 1

    def _finite(self, record: Record) -> bool:
        """Return whether all values are finite, as far as is known: a NaN or Inf anywhere makes a pooled value so.

        Where looking would wait for a device, the answer comes at the end of the chunk. Metrics may then have seen
        such values: the layer is reported all the same, and what they found for it is not used.
        """
        name, pooled = record.layer.name, record.pooled
        self._looks.ask(pooled.sum(), lambda total: self._note_bad(name, pooled, total))
        return name not in self.report.nonfinite

    def _note_bad(self, name: str, pooled: torch.Tensor, total: complex) -> None:
        if cmath.isfinite(total):
            return
        count = int((~torch.isfinite(pooled)).any(1).sum())
        if count:  # else the sum has overflowed
            self.report.nonfinite[name] = self.report.nonfinite.get(name, 0) + count
            self._excuse(name, lambda consumer: not consumer.takes_nonfinite)

    def _note_bad_gradient(self, name: str, total: complex) -> None:
        if not cmath.isfinite(total):
            self.report.nonfinite_gradients.add(name)
            self._excuse(name, lambda consumer: consumer.needs_gradient and not consumer.takes_nonfinite)

    def _excuse(self, name: str, spoilt: Callable[[Consumer], bool]) -> None:
        """Forget failures, in this chunk, of consumers that were given what they do not take."""
        for place, layer in set(self.report.failures) - self._failed_before:
            if layer == name and spoilt(self._consumers[place]):
                del self.report.failures[place, layer]


@cache
def _single_or_better(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)  # a call into torch each time, though nothing is computed


def _started(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as the start of a graph, also where the network switched gradients off for its backbone."""
    with torch.inference_mode(False), torch.enable_grad():
        own = tensor.clone() if tensor.is_inference() else tensor.detach()
        return own.requires_grad_().clone()


@contextmanager
def _plain_arithmetic(device: torch.device) -> Iterator[None]:
    """Compute without graph and autocast, new tensors in float32: in a forward of bf16-true they would be bfloat16."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_default_dtype(default)


def _with_classes(logits: torch.Tensor) -> torch.Tensor:
    """The logits with a class axis, ``(n, 1)`` for one per sample; ``.squeeze()`` of one sample leaves no axis."""
    return logits.reshape(-1, 1) if logits.dim() < 2 else logits
