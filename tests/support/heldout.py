"""Held-out sets of numbered images, read without a trainer."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import IterableDataset

from convscope.capture import HeldOut


def numbered(total: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images ``(total, 1, 2, 2)`` whose values are their own number, and their labels 0 to 3."""
    images = torch.arange(float(total)).reshape(total, 1, 1, 1).expand(total, 1, 2, 2).clone()
    return images, torch.arange(total) % 4


class Stream(IterableDataset):
    """Samples in order, which cannot be read by number."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels

    def __iter__(self) -> Any:
        yield from zip(self.images, self.labels, strict=True)


def prepared(source: Any, **arguments: Any) -> HeldOut:
    """The held-out set of one process, read."""
    heldout = HeldOut(source, **arguments)
    heldout.prepare()
    return heldout


def numbers(heldout: HeldOut) -> list[int]:
    """Numbers of the images that were chosen, in held-out order."""
    return [int(chunk.inputs.flatten()[0]) for chunk in heldout.chunks(1) if not chunk.padding]
