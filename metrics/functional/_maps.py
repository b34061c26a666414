"""Reductions of activations over positions, a few samples at a time, so that what is read again lies in a cache.

An activation of a chunk is larger than a processor's cache, and memory for an intermediate result of its size is slow
to get: several reductions of one block after the other cost little more than the first alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from convscope.metrics.functional._precision import at_least_single

_BLOCK = 1 << 18  # numbers in a block: 1 MiB of float32
_FEW = 64  # with fewer positions than these, a product with ones is faster than a sum


def map_blocks(activation: Tensor) -> Iterator[Tensor]:
    """An activation ``(N, C, *S)`` as blocks ``(n, C, P)`` of a few samples, in float32 or better; one on a GPU."""
    for block in sample_blocks(activation):
        yield at_least_single(_as_maps(block))


def sample_blocks(tensor: Tensor) -> tuple[Tensor, ...]:
    """Parts of a few samples each."""
    if tensor.device.type != "cpu" or tensor.numel() <= _BLOCK:
        return (tensor,)
    blocks: tuple[Tensor, ...] = tensor.split(max(1, _BLOCK * len(tensor) // tensor.numel()))
    return blocks


def _as_maps(block: Tensor) -> Tensor:
    if block.ndim < 3:
        return block[..., None]
    if block.stride(1) == 1:
        last = block.movedim(1, -1)
        if last.is_contiguous():  # channels last: a view, where flattening the positions would copy
            return last.flatten(1, -2).transpose(1, 2)
    return block.flatten(2)


class _Kept(threading.local):
    most = 64

    def __init__(self) -> None:
        self.memory: Tensor | None = None
        self.views: dict[tuple[Any, ...], Tensor] = {}


_kept = _Kept()


def scratch(block: Tensor) -> Tensor:
    """Memory of a block's shape and type for a result that is used up before the next call; see :func:`map_blocks`."""
    if block.device.type != "cpu" or block.dtype != torch.float32 or block.numel() > _BLOCK:
        return torch.empty_like(block)
    form = block.shape, block.is_contiguous()
    if form not in _kept.views:
        if len(_kept.views) >= _kept.most:
            _kept.views.clear()
        _kept.views[form] = _view(*form)
    return _kept.views[form]


@torch.inference_mode(False)  # it outlives the block that asks first
def _view(shape: torch.Size, contiguous: bool) -> Tensor:
    if _kept.memory is None or _kept.memory.numel() < shape.numel():
        _kept.memory = torch.empty(_BLOCK)
    memory = _kept.memory[: shape.numel()]
    return memory.view(shape) if contiguous else memory.view(shape[0], shape[2], -1).transpose(1, 2)


def sum_inside(maps: Tensor) -> Tensor:
    """Sums ``(n, C)`` of maps ``(n, C, P)`` over their positions."""
    few = maps.shape[2] < _FEW and maps.is_contiguous() and maps.device.type == "cpu"
    return maps @ torch.ones(maps.shape[2], dtype=maps.dtype, device=maps.device) if few else maps.sum(2)


def extremes(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest values ``(C,)`` of maps ``(n, C, P)``; NaN where there is one."""
    if maps.device.type != "cpu":
        return maps.amin((0, 2)), maps.amax((0, 2))
    first, then = (0, 1) if maps.shape[2] < _FEW else (2, 0)
    return maps.amin(first).amin(then), maps.amax(first).amax(then)
