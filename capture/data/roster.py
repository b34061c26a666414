"""Roster of the held-out samples by content: it tells which rows of a batch are held-out samples, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

import torch

from convscope.capture.data.batches import batch_length, kind_of, tree_tensors
from convscope.capture.data.heldout import HeldOut

MOST_TARGETS = 64 * 2**20
"""Bytes of targets that processes exchange; whoever runs a sample must know its target."""

_AT_ONCE = 2**20  # numbers that are multiplied at a time, so that memory stays small

Digest = tuple[int, ...]


class Part(NamedTuple):
    """Samples of one kind, as one process holds them."""

    kind: Hashable
    digests: list[Digest]
    numbers: list[int]
    targets: torch.Tensor | None


class Roster:
    """Numbers and targets of all held-out samples, found by the content of their inputs.

    Args:
        parts: The samples of all processes.
    """

    def __init__(self, parts: Iterable[Part]) -> None:
        self._kinds: set[Hashable] = set()
        self._numbers: dict[tuple[Hashable, Digest], list[int]] = {}
        self._targets: dict[int, torch.Tensor] = {}
        self.numbers: set[int] = set()
        for part in parts:
            self._kinds.add(part.kind)
            self.numbers |= set(part.numbers)
            for digest, number in zip(part.digests, part.numbers, strict=True):
                self._numbers.setdefault((part.kind, digest), []).append(number)
            if part.targets is not None:
                self._targets |= dict(zip(part.numbers, part.targets, strict=True))

    def find(self, call: Any, taken: set[int]) -> tuple[list[int], list[int]]:
        """Rows of a call of the network that are held-out samples, and the samples' numbers.

        Two samples of equal inputs are told apart by nothing, and give equal activations: each row stands for one of
        them, in turn.

        Args:
            call: Positional and named arguments, on any device.
            taken: Numbers that have been found before.
        """
        count = batch_length(call)
        kind: Hashable = kind_of(call, count) if count else None
        if kind not in self._kinds:
            return [], []
        rows, numbers = [], list[int]()
        for row, digest in enumerate(digests_of(call, count)):
            free = (n for n in self._numbers.get((kind, digest), ()) if n not in taken and n not in numbers)
            number = next(free, None)
            if number is not None:
                rows.append(row)
                numbers.append(number)
        return rows, numbers

    def targets(self, numbers: list[int]) -> torch.Tensor | None:
        """Targets of samples of one kind; None where there are none."""
        return torch.stack([self._targets[number] for number in numbers]) if self._targets else None


def parts_of(heldout: HeldOut, arguments: Callable[[Any], Any]) -> list[Part]:
    """This process's held-out samples, as ``arguments(inputs)`` gives them to the network."""
    found = []
    for chunk in heldout.chunks():
        if not chunk.padding:
            call, count = arguments(chunk.inputs), len(chunk.index)
            digests = digests_of(call, count)
            found.append(Part(kind_of(call, count), digests, chunk.index.tolist(), chunk.targets))
    return found


def digests_of(tree: Any, rows: int) -> list[Digest]:
    """A text-like key of each row's bits, over all tensors of a batch that have such rows.

    Two sums modulo 2**64 of the bits times fixed random factors: the same on every device, and 128 bits together.
    """
    tensors = [tensor for tensor in tree_tensors(tree) if tensor.dim() > 0 and len(tensor) == rows]
    sums = [_sums(tensor, place) for place, tensor in enumerate(tensors)]
    total = torch.stack([each.to(sums[0].device) for each in sums]).sum(0)
    return [tuple(row) for row in total.tolist()]


def _sums(tensor: torch.Tensor, place: int) -> torch.Tensor:
    """Sums ``(n, 2)`` in int64, which wraps around."""
    bits = _bits(tensor)
    seed = torch.Generator().manual_seed(20_077 + place)
    factors = torch.randint(-(2**63), 2**63 - 1, (2, bits.shape[1]), generator=seed).to(bits.device) | 1
    step = max(1, _AT_ONCE // max(1, bits.shape[1]))
    return torch.cat([(part.long()[:, None] * factors).sum(-1) for part in bits.split(step)])


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Each row's bits as whole numbers ``(n, L)``, of 32 bits where that divides."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(len(tensor), -1).view(torch.uint8)
    return plain.view(torch.int32) if plain.shape[1] % 4 == 0 else plain
