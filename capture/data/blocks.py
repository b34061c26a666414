"""Samples of one shape, kept together: images of several sizes are several blocks, and no pass mixes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from convscope.capture.data.batches import batch_length, join_rows, kind_of, take_rows, tree_map


@dataclass(frozen=True)
class Block:
    """Samples that can go through a network together.

    Attributes:
        inputs: Nested tensors with ``n`` rows; a tensor without a row per sample belongs to all of them.
        targets: ``(n, ...)``, None where there are none.
        index: ``(n,)`` number of each sample.
    """

    inputs: Any
    targets: torch.Tensor | None
    index: torch.Tensor

    def __len__(self) -> int:
        return len(self.index)

    def take(self, part: torch.Tensor | slice) -> Block:
        """Some of the samples."""
        targets = None if self.targets is None else self.targets[part]
        return Block(take_rows(self.inputs, part, len(self)), targets, self.index[part])

    def numbered(self, index: torch.Tensor) -> Block:
        """The same samples under other numbers."""
        return Block(self.inputs, self.targets, index)

    @property
    def kind(self) -> Any:
        """Key that is equal for blocks that can be joined."""
        return kind_of(self.inputs, len(self)), kind_of(self.targets, len(self))


def block_of(inputs: Any, targets: Any) -> Block:
    """One adapted batch as a block on the CPU, its samples numbered from 0.

    Raises:
        ValueError: if there are not as many targets as inputs.
    """
    rows = batch_length((inputs, targets))
    found = batch_length(inputs)
    if targets is not None and (targets.dim() == 0 or len(targets) != found):
        given = len(targets) if targets.dim() else "one number as its"
        raise ValueError(
            f"a held-out batch has {found} inputs but {given} targets; fix the data set, its collate_fn or the adapter"
        )
    inputs, targets = tree_map(_to_cpu, inputs), tree_map(_to_cpu, targets)
    return Block(inputs, targets, torch.arange(found if targets is None else rows))


def joined(blocks: Iterable[Block]) -> list[Block]:
    """One block per kind, each in the order of its numbers, the block with the first number first."""
    kinds: dict[Any, list[Block]] = {}
    for block in blocks:
        if len(block):
            kinds.setdefault(block.kind, []).append(block)
    return sorted((_sorted(_join(parts)) for parts in kinds.values()), key=lambda block: int(block.index[0]))


def passes(lengths: Iterable[int], size: int) -> int:
    """Number of forward passes of at most ``size`` samples that blocks of these lengths take."""
    return sum(math.ceil(length / size) for length in lengths)


def pieces(blocks: Iterable[Block], size: int) -> Iterator[Block]:
    """The blocks in pieces of at most ``size`` samples."""
    for block in blocks:
        for start in range(0, len(block), size):
            yield block.take(slice(start, start + size))


def _join(parts: list[Block]) -> Block:
    if len(parts) == 1:
        return parts[0]
    rows = [len(part) for part in parts]
    targets = join_rows([part.targets for part in parts], rows)
    return Block(join_rows([part.inputs for part in parts], rows), targets, torch.cat([part.index for part in parts]))


def _sorted(block: Block) -> Block:
    if bool((block.index[1:] > block.index[:-1]).all()):
        return block
    return block.take(block.index.argsort())


def _to_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)
