"""Held-out samples as pictures, on the process that holds them."""

from __future__ import annotations

import numpy as np
import torch

from convscope.capture.batches import tree_tensors
from convscope.capture.heldout import HeldOut
from convscope.loggers._canvas import Picture


class ExampleImages:
    """Looks up held-out images by their number in the held-out set.

    Args:
        heldout: The prepared set; only this process's share of it can be looked up.
    """

    def __init__(self, heldout: HeldOut) -> None:
        self._places = {int(number): place for place, number in enumerate(heldout.index) if number >= 0}
        self._images = next((t for t in tree_tensors(heldout.inputs) if _is_image(t)), None)

    @property
    def numbers(self) -> list[int]:
        """Numbers of the samples that this process holds, sorted."""
        return sorted(self._places)

    @property
    def has_images(self) -> bool:
        """Whether the inputs are images ``(N, C, H, W)``."""
        return self._images is not None

    def picture(self, number: int) -> Picture | None:
        """``(H, W, 3)`` uint8, stretched from the image's own least to its greatest value; None if it is no image.

        How inputs were normalised is not known, so brightness does not compare between pictures.
        """
        if self._images is None:
            return None
        image = self._images[self._places[number]].float()
        image = image if len(image) == 3 else image.mean(0, keepdim=True).expand(3, -1, -1)
        low, high = image.min(), image.max()
        scaled = (image - low) / (high - low).clamp(min=1e-12) * 255
        return np.asarray(scaled.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy(), dtype=np.uint8)


def _is_image(tensor: torch.Tensor) -> bool:
    return tensor.dim() == 4 and not tensor.is_complex()
