"""Held-out samples as pictures, on the process that holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from convscope.capture.data.batches import tree_tensors
from convscope.capture.data.heldout import HeldOut
from convscope.loggers._canvas import Picture


class ExampleImages:
    """Looks up held-out images by their number in the held-out set.

    Args:
        heldout: The prepared set; only this process's share of it can be looked up.
    """

    def __init__(self, heldout: HeldOut) -> None:
        self._heldout = heldout

    @property
    def numbers(self) -> list[int]:
        """Numbers of the samples that this process holds, sorted."""
        return sorted(number for number in self._heldout.index.tolist() if number >= 0)

    @property
    def has_images(self) -> bool:
        """Whether the inputs are images ``(N, C, H, W)``."""
        return first_image(self._heldout.one(int(self._heldout.index[0]))) is not None

    def picture(self, number: int) -> Picture | None:
        """``(H, W, 3)`` uint8, stretched from the image's own least to its greatest value; None if it is no image.

        How inputs were normalised is not known, so brightness does not compare between pictures.
        """
        image = first_image(self._heldout.one(number))
        if image is None:
            return None
        image = image if len(image) == 3 else image.mean(0, keepdim=True).expand(3, -1, -1)
        low, high = image.min(), image.max()
        scaled = (image - low) / (high - low).clamp(min=1e-12) * 255
        return np.asarray(scaled.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy(), dtype=np.uint8)


def first_image(inputs: Any) -> torch.Tensor | None:
    """The first image ``(C, H, W)`` among a sample's inputs."""
    found = (t for t in tree_tensors(inputs) if t.dim() == 4 and not t.is_complex())
    return next((image[0].float() for image in found), None)
