"""A few held-out samples that differ, for a rehearsal of the forward pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from convscope.capture.data.batches import tree_map, tree_tensors
from convscope.capture.data.heldout import HeldOut

_WANTED = 4


@dataclass(frozen=True)
class Samples:
    """Samples for a rehearsal, each as a batch of one.

    Attributes:
        inputs: The network's inputs for each sample.
        own: True for tensors in it with a row per sample; the others belong to all samples.
    """

    inputs: list[Any]
    own: tuple[bool, ...]

    def batch(self, order: Iterable[int]) -> Any:
        """Some of the samples as one batch; numbers beyond the last begin again with the first."""
        chosen = [tree_tensors(self.inputs[i % len(self.inputs)]) for i in order]
        columns = zip(*chosen, strict=True)
        joined = [torch.cat(list(column)) if own else column[0] for column, own in zip(columns, self.own, strict=True)]
        tensors = iter(joined)
        return tree_map(lambda _: next(tensors), self.inputs[0])


def distinct_samples(heldout: HeldOut, wanted: int = _WANTED) -> Samples:
    """``wanted`` held-out samples of one size, no two equal, the same on every process.

    They are chosen once per prepared set; every process must call it that first time.

    The first is the set's first. If there are not enough different samples of one size (blank images), copies of the
    first with added noise fill the missing places.
    """
    if heldout.few is None:
        heldout.few = heldout.from_main(_chosen(heldout, wanted))
    few: Samples = heldout.few
    return few


def _chosen(heldout: HeldOut, wanted: int) -> Samples:
    found: list[Any] = []
    for chunk in heldout.chunks(1):
        if not found or (_sizes(chunk.inputs) == _sizes(found[0]) and not any(_equal(chunk.inputs, f) for f in found)):
            found.append(chunk.inputs)
        if len(found) == wanted:
            break
    own = _own(found[0], next(heldout.chunks(2)).inputs)
    found += [_disturbed(found[0], own, number) for number in range(wanted - len(found))]
    return Samples(found, own)


def _own(one: Any, two: Any) -> tuple[bool, ...]:
    """The tensors that grow with the number of samples."""
    pairs = list(zip(tree_tensors(one), tree_tensors(two), strict=True))
    alone = all(a.shape[:1] == b.shape[:1] for a, b in pairs)  # the second chunk has one sample too
    return tuple(a.dim() > 0 and len(a) == 1 and (alone or len(b) != 1) for a, b in pairs)


def _sizes(inputs: Any) -> list[torch.Size]:
    return [tensor.shape for tensor in tree_tensors(inputs)]


def _equal(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tree_tensors(one), tree_tensors(other), strict=True))


def _disturbed(inputs: Any, own: tuple[bool, ...], number: int) -> Any:
    """Copies with noise, within the range of the values; whole numbers change places, so that each stays valid."""
    generator, owned = torch.Generator().manual_seed(number), iter(own)

    def disturb(tensor: torch.Tensor) -> torch.Tensor:
        if not next(owned) or tensor.numel() == 0:
            return tensor
        if not tensor.is_floating_point():
            order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
            return tensor.flatten()[order].view(tensor.shape)
        spread = float(tensor.float().std(correction=0))
        noise = torch.randn(tensor.shape, generator=generator).to(tensor.device)
        moved = tensor.float() + (0.3 * spread if spread > 0 else 1.0) * noise
        return (moved.clamp(tensor.min(), tensor.max()) if spread > 0 else moved).to(tensor.dtype)

    return tree_map(disturb, inputs)
