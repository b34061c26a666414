"""Perturbed copies of an image, for input resampling.

A perturbation is a function ``(image, number, copies, generator) -> image`` that makes copy ``number`` of ``copies``;
:data:`PERTURBATIONS` names the ones here. Copy 0 is the image itself; perturbations are not called for it. All
randomness comes from the generator, which is seeded by run, image and copy: an image has the same copies at every
check, in any chunks and on every process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Perturbation = Callable[[Tensor, int, int, torch.Generator], Tensor]


@dataclass(frozen=True)
class GrowingNoise:
    """Noise that multiplies each value and grows from copy to copy: ``x · (1 + i·ε_i)``, ``ε_i ~ N(0, scale²)``.

    Source: paper (Lengerich et al. 2017, arXiv 1707.09641, authors' code: scale 0.1, 50 copies). Their code subtracts
    each channel's mean before it multiplies, so that a pixel of the mean colour never changes.
    """

    scale: float = 0.1

    def __call__(self, image: Tensor, number: int, copies: int, generator: torch.Generator) -> Tensor:
        return image * (1 + number * self.scale * _normal(image, generator))


@dataclass(frozen=True)
class ConstantNoise:
    """Noise of one size that is added to every copy but the first: ``x + σ·ε_i``, ``ε_i ~ N(0, 1)`` (ours)."""

    sigma: float = 0.1

    def __call__(self, image: Tensor, number: int, copies: int, generator: torch.Generator) -> Tensor:
        return image + self.sigma * _normal(image, generator)


@dataclass(frozen=True)
class Occlusion:
    """A square of the image's mean colour at a random place, its side a share of the smaller side (ours)."""

    share: float = 0.25

    def __call__(self, image: Tensor, number: int, copies: int, generator: torch.Generator) -> Tensor:
        height, width = image.shape[1:]
        side = min(max(1, round(self.share * min(height, width))), height, width)
        top = int(torch.randint(height - side + 1, (), generator=generator))
        left = int(torch.randint(width - side + 1, (), generator=generator))
        found = image.clone()
        found[:, top : top + side, left : left + side] = image.mean((1, 2), keepdim=True)
        return found


@dataclass(frozen=True)
class Blur:
    """A Gaussian blur that grows from copy to copy, from none to ``sigma`` pixels (ours; without randomness)."""

    sigma: float = 3.0

    def __call__(self, image: Tensor, number: int, copies: int, generator: torch.Generator) -> Tensor:
        return _blurred(image, self.sigma * number / (copies - 1))


@dataclass(frozen=True)
class Quantisation:
    """JPEG's change of 8 × 8 blocks: cosine coefficients rounded more coarsely from copy to copy (ours).

    The step grows from none to ``steps`` of 1/256 of the image's range, for the lowest frequency, and with frequency.
    """

    steps: float = 64.0

    def __call__(self, image: Tensor, number: int, copies: int, generator: torch.Generator) -> Tensor:
        blocks, restore = _blocks(image)
        basis = _cosines().to(image)
        unit = (image.max() - image.min()).clamp(min=torch.finfo(image.dtype).tiny) / 256
        frequency = 1 + torch.arange(8, dtype=image.dtype, device=image.device)
        step = unit * (frequency[:, None] + frequency) / 2 * (self.steps * number / (copies - 1))
        rounded = (basis @ blocks @ basis.mT / step).round() * step
        return restore(basis.mT @ rounded @ basis)


PERTURBATIONS: dict[str, Callable[..., Perturbation]] = {
    "growing_noise": GrowingNoise,
    "constant_noise": ConstantNoise,
    "occlusion": Occlusion,
    "blur": Blur,
    "quantisation": Quantisation,
}
"""Perturbations by name; each takes its strength as its only argument."""


def perturb(
    image: Tensor, perturbation: Perturbation, numbers: Iterable[int], copies: int, seed: int, sample: int
) -> Tensor:
    """Some of the ``copies`` of one image, the first of which is the image as it is.

    Args:
        image: ``(C, H, W)``, floating point.
        perturbation: One of :data:`PERTURBATIONS`, or a function of your own.
        numbers: Numbers of the wanted copies, from 0 to ``copies - 1``.
        copies: Number of copies in all, at least 2.
        seed: Seed of the run.
        sample: The image's number in the held-out set.

    Returns:
        ``(n, C, H, W)``.

    Raises:
        ValueError: if ``image`` is not a floating-point image, has one value everywhere, or the function returns
            anything but an image of the same shape, or NaN.
    """
    check_image(image, sample)
    return torch.stack([_copy(image, perturbation, number, copies, seed, sample) for number in numbers])


def check_image(image: Tensor, sample: int) -> None:
    """Check that ``image`` can be perturbed.

    Raises:
        ValueError: if it is not a floating-point image, or has one value everywhere.
    """
    if image.ndim != 3 or not image.is_floating_point():
        raise ValueError(
            f"image of shape {tuple(image.shape)}, {image.dtype}: give floating point (C, H, W); whole numbers "
            "are made floats where the data are read"
        )
    if is_constant(image):
        raise ValueError(
            f"image of sample {sample} is one value everywhere, so that there is nothing to perturb; leave it out"
        )


def is_constant(image: Tensor) -> bool:
    """Return whether every channel of an image ``(C, H, W)`` has one value everywhere."""
    return bool((image.amax((1, 2)) == image.amin((1, 2))).all())


def _copy(image: Tensor, perturbation: Perturbation, number: int, copies: int, seed: int, sample: int) -> Tensor:
    if number == 0:
        return image
    generator = torch.Generator().manual_seed(_mixed(_mixed(seed, sample), number))
    found: Any = perturbation(image, number, copies, generator)
    if not isinstance(found, Tensor) or found.shape != image.shape:
        given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"perturbation returned {given} for copy {number} of an image {tuple(image.shape)}: return a "
            "tensor of its shape"
        )
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"copy {number} of sample {sample} has NaN or infinite values: fix the perturbation")
    return found.to(image)


def _normal(image: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(image.shape, generator=generator).to(image)


def _mixed(seed: int, number: int) -> int:
    """A seed for each number: neighbours must not share their random streams."""
    return (seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + 1) % 2**63


def _blurred(image: Tensor, sigma: float) -> Tensor:
    reach = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
    kernel = (-offsets.square() / (2 * sigma**2)).exp()
    kernel = kernel / kernel.sum()
    padded = F.pad(image[:, None], (reach, reach, reach, reach), mode="replicate")
    rows = F.conv2d(padded, kernel.view(1, 1, -1, 1))
    return F.conv2d(rows, kernel.view(1, 1, 1, -1))[:, 0]


def _blocks(image: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Blocks ``(…, 8, 8)`` of an image, its edge repeated to whole blocks, and the inverse."""
    channels, height, width = image.shape
    padded = F.pad(image[None], (0, -width % 8, 0, -height % 8), mode="replicate")[0]
    down, across = padded.shape[1] // 8, padded.shape[2] // 8
    blocks = padded.view(channels, down, 8, across, 8).transpose(2, 3)

    def restore(changed: Tensor) -> Tensor:
        return changed.transpose(2, 3).reshape(channels, down * 8, across * 8)[:, :height, :width]

    return blocks, restore


def _cosines() -> Tensor:
    """The orthonormal cosine basis of 8 values, one row per frequency."""
    k, n = torch.arange(8.0)[:, None], torch.arange(8.0)[None]
    basis = torch.cos(math.pi * (2 * n + 1) * k / 16) * 0.5
    basis[0] /= math.sqrt(2)
    return basis
