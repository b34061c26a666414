"""One rehearsed pass: the result of every operation, summarised in few numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from convscope.capture.network.enliven import enlivened
from convscope.capture.network.follower import Event, EventKey, follow
from convscope.capture.network.modules import tensors_in
from convscope.capture.network.rows import noise_of, signature
from convscope.capture.network.samples import Samples
from convscope.capture.network.trace import OUTPUT_KEY
from convscope.capture.state.isolation import isolated


class Rows(NamedTuple):
    """Result of one operation in one pass."""

    shape: torch.Size
    signature: torch.Tensor
    precision: float


Seen = dict[EventKey, Rows]


class PassWatch:
    """Recorder of the result of every operation of a pass; ``alive`` first adds a signal to dead layers."""

    def __init__(self, alive: bool = False) -> None:
        self._alive, self._seen = alive, Seen()

    def __call__(self, event: Event) -> torch.Tensor | None:
        replaced = enlivened(event) if self._alive else None
        tensor = next(tensors_in(event.output), None) if replaced is None else replaced
        if tensor is not None and (rows := _rows(tensor)):
            self._seen[event.key] = rows
        return replaced

    def with_output(self, logits: torch.Tensor) -> Seen:
        """All operations and the model's output."""
        if rows := _rows(logits):
            self._seen[OUTPUT_KEY] = rows
        return self._seen


class Network(NamedTuple):
    """A network, the function that runs it (``inputs -> logits``), and the seed of its random numbers."""

    module: nn.Module
    run: Callable[[Any], torch.Tensor]
    seed: int

    def seen(self, few: Samples, order: Iterable[int], alive: bool = False, seed: int = 0) -> Seen:
        """Results of every operation for some samples together, in an order; ``seed`` changes random draws."""
        inputs, watch = few.batch(order), PassWatch(alive)
        with isolated(self.module, seed=self.seed + seed, gradients=False), follow(self.module, watch):
            logits = self.run(inputs)
        return watch.with_output(logits)


def differ(one: Rows, other: Rows) -> bool:
    """Return whether two passes differ by more than rounding."""
    if one.shape != other.shape or not one.signature.numel():
        return one.shape != other.shape
    return float((one.signature - other.signature).abs().max()) > noise_of(one.signature, one.precision)


def _rows(tensor: torch.Tensor) -> Rows | None:
    if tensor.dim() == 0 or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        return None
    precision = torch.finfo(tensor.dtype).eps if tensor.is_floating_point() or tensor.is_complex() else 0.0
    return Rows(tensor.shape, signature(tensor), max(precision, torch.finfo(torch.float32).eps))
