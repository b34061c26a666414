"""Held-out samples as pictures, on the process that holds them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch

from convscope.capture.data.batches import tree_tensors
from convscope.capture.data.heldout import HeldOut
from convscope.loggers._canvas import Picture

THUMBNAIL = 64


class ExampleImages:
    """Held-out images by their number in the held-out set.

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
        """Return whether the inputs are images ``(N, C, H, W)``."""
        return first_image(self._heldout.one(int(self._heldout.index[0]))) is not None

    def picture(self, number: int) -> Picture | None:
        """``(H, W, 3)`` uint8, stretched from the image's own least to its greatest value; None if it is not an image.

        How inputs were normalised is not known, so brightness does not compare between pictures. The darkest and the
        brightest hundredth do not count, so that a few extreme values do not leave the rest without contrast.
        """
        image = first_image(self._heldout.one(number))
        if image is None:
            return None
        image = image if len(image) == 3 else image.mean(0, keepdim=True).expand(3, -1, -1)
        low, high = torch.quantile(_thinned(image), torch.tensor([0.01, 0.99])).tolist()
        if high <= low:  # nearly all values are equal: what differs is all there is to see
            low, high = float(image.min()), float(image.max())
        scaled = ((image - low) / max(high - low, 1e-12)).clamp(0, 1) * 255
        return np.asarray(scaled.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy(), dtype=np.uint8)

    def thumbnail(self, number: int) -> bytes | None:
        """The picture as PNG of at most 64 pixels a side; None if it is not an image."""
        from PIL import Image

        picture, kept = self.picture(number), io.BytesIO()
        if picture is None:
            return None
        small = Image.fromarray(picture)
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        small.save(kept, "PNG")
        return kept.getvalue()


def _thinned(image: torch.Tensor) -> torch.Tensor:
    """At most about a million of an image's values: ``torch.quantile`` takes 16 million."""
    flat = image.flatten()
    return flat[:: max(1, len(flat) >> 20)]


def first_image(inputs: Any) -> torch.Tensor | None:
    """The first image ``(C, H, W)`` among a sample's inputs."""
    found = image_among(inputs)
    return None if found is None else found[0].float()


def image_among(inputs: Any) -> torch.Tensor | None:
    """The first image ``(n, C, H, W)`` among the inputs of some samples."""
    return next((tensor for tensor in tree_tensors(inputs) if tensor.dim() == 4 and not tensor.is_complex()), None)
