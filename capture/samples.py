"""A few held-out samples that differ, for a rehearsal of the forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from convscope.capture.batches import tree_map, tree_tensors
from convscope.capture.heldout import HeldOut

_WANTED = 4


def distinct_samples(heldout: HeldOut, wanted: int = _WANTED) -> list[Any]:
    """Inputs of ``wanted`` held-out samples, each as a batch of one, of one size, no two equal.

    The first is the set's first. Where all are equal (blank images), or of different sizes, copies of the first with
    noise on them take the missing places.
    """
    found: list[Any] = []
    for chunk in heldout.chunks(1):
        if not found or (_sizes(chunk.inputs) == _sizes(found[0]) and not any(_equal(chunk.inputs, f) for f in found)):
            found.append(chunk.inputs)
        if len(found) == wanted:
            break
    return found + [_disturbed(found[0], number) for number in range(wanted - len(found))]


def joined(few: list[Any]) -> Any:
    """One batch of samples; tensors without a batch axis are the first sample's."""

    def at(path: tuple[Any, ...], tree: Any) -> Any:
        for key in path:
            tree = tree[key]
        return tree

    def join(tree: Any, path: tuple[Any, ...]) -> Any:
        if isinstance(tree, torch.Tensor):
            return torch.cat([at(path, sample) for sample in few]) if tree.dim() > 0 and len(few) > 1 else tree
        if isinstance(tree, Mapping):
            return {key: join(value, (*path, key)) for key, value in tree.items()}
        if isinstance(tree, list | tuple):
            parts = [join(value, (*path, place)) for place, value in enumerate(tree)]
            return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
        return tree

    return join(few[0], ())


def _sizes(inputs: Any) -> list[torch.Size]:
    return [tensor.shape for tensor in tree_tensors(inputs)]


def _equal(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tree_tensors(one), tree_tensors(other), strict=True))


def _disturbed(inputs: Any, number: int) -> Any:
    """Copies with noise, within the range of the values; whole numbers change places, so that each stays valid."""
    generator = torch.Generator().manual_seed(number)

    def disturb(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.numel() == 0:
            return tensor
        if not tensor.is_floating_point():
            order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
            return tensor.flatten()[order].view(tensor.shape)
        spread = float(tensor.float().std(correction=0))
        noise = torch.randn(tensor.shape, generator=generator).to(tensor.device)
        moved = tensor.float() + (0.3 * spread if spread > 0 else 1.0) * noise
        return (moved.clamp(tensor.min(), tensor.max()) if spread > 0 else moved).to(tensor.dtype)

    return tree_map(disturb, inputs)
