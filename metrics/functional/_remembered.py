"""The last few results of a function of one tensor: all layers of a check have the same samples and labels."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor

T = TypeVar("T")


class Remembered(threading.local, Generic[T]):
    """A function that gives its last results again for an equal tensor; nobody may write to them.

    Args:
        compute: The function. It is given a tensor that nobody else can write to.
        most: Number of results that are kept.

    Example:
        >>> double = Remembered(lambda tensor: 2 * tensor)
        >>> double(torch.ones(1)) is double(torch.ones(1))
        True
    """

    largest = 1_000_000
    """Numbers in a tensor that is kept: 8 MB."""

    def __init__(self, compute: Callable[[Tensor], T], most: int = 4) -> None:
        self._compute, self._most = compute, most
        self._known: list[tuple[Tensor, T]] = []
        _everyone.add(self)

    def __call__(self, tensor: Tensor) -> T:
        for asked, found in reversed(self._known):
            if asked is tensor or (_alike(asked, tensor) and torch.equal(asked, tensor)):
                return found
        with torch.inference_mode(False):  # it outlives the block that asks first
            kept = tensor.clone()
        result = self._compute(kept)
        if tensor.numel() <= self.largest:
            self._known = [*self._known, (kept, result)][-self._most :]
        return result


_everyone: WeakSet[Remembered] = WeakSet()


def forget() -> None:
    """Let go of all results: once a fit is over they would only hold memory, that of a device maybe."""
    for one in _everyone:
        one._known = []


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
