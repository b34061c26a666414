"""The few held-out images that are explained: their super-pixels, and what they look like, known to every process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from convscope.callbacks.parts.example_images import ExampleImages, image_among
from convscope.capture.data.heldout import HeldOut
from convscope.explainers.segments import Segmenter, Segments, segment, usual_counts
from convscope.loggers._canvas import Picture


@dataclass(frozen=True)
class ExplainedImage:
    """One image: its number in the held-out set, its super-pixels, and its picture ``(H, W, 3)`` uint8."""

    number: int
    segments: Segments
    picture: Picture | None


class ExplainedImages:
    """The images in the order of their numbers; every process must make one.

    Args:
        sample: The prepared held-out samples to explain; this process's share of them is divided into super-pixels
            here, and what is found goes to all.
        method: How to divide them.
        counts: About how many coarse and fine super-pixels; None for what is usual for the image's size.

    Raises:
        ValueError: The counts do not fit an image.
    """

    def __init__(self, sample: HeldOut, method: Segmenter, counts: tuple[int | None, int | None]) -> None:
        pictures = ExampleImages(sample)
        mine = [
            ExplainedImage(number, _divided(sample.one(number), method, counts), pictures.picture(number))
            for number in pictures.numbers
        ]
        gathered: list[list[ExplainedImage]] = sample.gather(mine)
        self.images = sorted((image for found in gathered for image in found), key=lambda image: image.number)
        self._places = {image.number: place for place, image in enumerate(self.images)}

    def __len__(self) -> int:
        return len(self.images)

    @property
    def most(self) -> tuple[int, int]:
        """Largest numbers of coarse and of fine super-pixels of an image."""
        coarse, fine = zip(*(image.segments.counts for image in self.images), strict=True)
        return max(coarse), max(fine)

    def place(self, number: int) -> int:
        """Place of the image with that number in the held-out set, -1 where there is none."""
        return self._places.get(number, -1)

    def counts(self, place: int) -> tuple[int, int]:
        """Numbers of coarse and fine super-pixels of an image; of none, 1 each."""
        return self.images[place].segments.counts if place >= 0 else (1, 1)

    def shares(self, place: int, fine: torch.Tensor, side: int) -> torch.Tensor:
        """Size of an image's importance ``(q,)`` at ``side × side`` places, ``(side²,)``: so images can be compared."""
        segments = self.images[place].segments
        pixels = segments.fine.flatten().bincount(minlength=segments.counts[1])
        density = (fine[: segments.counts[1]].abs() / pixels)[segments.fine]
        return torch.nn.functional.adaptive_avg_pool2d(density[None], side).flatten()


def _divided(inputs: Any, method: Segmenter, counts: tuple[int | None, int | None]) -> Segments:
    found = image_among(inputs)
    if found is None:
        raise ValueError("a held-out sample has no image (C, H, W)")
    image = found[0]
    usual = usual_counts(*image.shape[1:])
    coarse, fine = (given or usually for given, usually in zip(counts, usual, strict=True))
    if counts[0] is None:
        coarse = min(coarse, fine)
    elif counts[1] is None:
        fine = max(coarse, fine)
    return segment(image, method, coarse, fine)
