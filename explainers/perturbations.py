"""Perturbed copies of an image, for input resampling.

A perturbation is a function ``(image, copies, generator) -> (copies, C, H, W)``; :data:`PERTURBATIONS` names the ones
here. The first copy is the image itself. All randomness comes from the generator, so that an image has the same copies
at every check and on every process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Perturbation = Callable[[Tensor, int, torch.Generator], Tensor]


@dataclass(frozen=True)
class GrowingNoise:
    """Noise that multiplies each pixel and grows from copy to copy: ``x · (1 + i·ε_i)``, ``ε_i ~ N(0, scale²)``.

    Source: paper (Lengerich et al. 2017, arXiv 1707.09641, authors' code: scale 0.1, 50 copies). The authors
    multiply raw pixels; on normalised ones a pixel of the mean colour never changes.
    """

    scale: float = 0.1

    def __call__(self, image: Tensor, copies: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(copies, *image.shape, generator=generator).to(image)
        growth = torch.arange(copies, dtype=image.dtype, device=image.device).view(-1, 1, 1, 1)
        return image * (1 + growth * self.scale * noise)


@dataclass(frozen=True)
class ConstantNoise:
    """Noise of one size that is added to every copy but the first: ``x + σ·ε_i``, ``ε_i ~ N(0, 1)`` (ours)."""

    sigma: float = 0.1

    def __call__(self, image: Tensor, copies: int, generator: torch.Generator) -> Tensor:
        found = image + self.sigma * torch.randn(copies, *image.shape, generator=generator).to(image)
        found[0] = image
        return found


@dataclass(frozen=True)
class Occlusion:
    """A square of the image's mean colour at a random place, its side a share of the smaller side (ours)."""

    share: float = 0.25

    def __call__(self, image: Tensor, copies: int, generator: torch.Generator) -> Tensor:
        height, width = image.shape[1:]
        side = max(1, round(self.share * min(height, width)))
        rows = torch.randint(height - side + 1, (copies,), generator=generator)
        columns = torch.randint(width - side + 1, (copies,), generator=generator)
        row, column = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
        top, left = rows.view(-1, 1, 1), columns.view(-1, 1, 1)
        hidden = (row >= top) & (row < top + side) & (column >= left) & (column < left + side)
        hidden[0] = False
        return torch.where(hidden[:, None].to(image.device), image.mean((1, 2), keepdim=True), image)


@dataclass(frozen=True)
class Blur:
    """A Gaussian blur that grows from copy to copy, from none to ``sigma`` pixels (ours; without randomness)."""

    sigma: float = 3.0

    def __call__(self, image: Tensor, copies: int, generator: torch.Generator) -> Tensor:
        widths = torch.linspace(0, self.sigma, copies).tolist()
        return torch.stack([image if width == 0 else _blurred(image, width) for width in widths])


@dataclass(frozen=True)
class Quantisation:
    """JPEG's change of 8 × 8 blocks: cosine coefficients rounded more coarsely from copy to copy (ours).

    The step grows from none to ``steps`` of 1/256 of the image's range, for the lowest frequency, and with frequency.
    """

    steps: float = 64.0

    def __call__(self, image: Tensor, copies: int, generator: torch.Generator) -> Tensor:
        blocks, restore = _blocks(image)
        basis = _cosines().to(image)
        coefficients = basis @ blocks @ basis.mT
        unit = (image.max() - image.min()).clamp(min=torch.finfo(image.dtype).tiny) / 256
        frequency = 1 + torch.arange(8, dtype=image.dtype, device=image.device)
        coarse = unit * (frequency[:, None] + frequency) / 2
        found = [image]
        for step in torch.linspace(0, self.steps, copies).tolist()[1:]:
            rounded = (coefficients / (coarse * step)).round() * (coarse * step)
            found.append(restore(basis.mT @ rounded @ basis))
        return torch.stack(found)


PERTURBATIONS: dict[str, Callable[..., Perturbation]] = {
    "growing_noise": GrowingNoise,
    "constant_noise": ConstantNoise,
    "occlusion": Occlusion,
    "blur": Blur,
    "quantisation": Quantisation,
}


def perturb(image: Tensor, perturbation: Perturbation, copies: int, seed: int, number: int) -> Tensor:
    """Copies ``(copies, C, H, W)`` of one image, the first as it is; the same for a seed and an image's number.

    Args:
        image: ``(C, H, W)``, floating point.
        perturbation: One of :data:`PERTURBATIONS`, or a function of your own.
        copies: At least 2.
        seed: Of the run.
        number: Of the image in the held-out set.

    Raises:
        ValueError: if the image is not floating point or constant, or the function gave something else than copies.
    """
    if image.ndim != 3 or not image.is_floating_point():
        raise ValueError(
            f"image of shape {tuple(image.shape)} and {image.dtype}: give floating point (C, H, W); convert whole "
            "numbers in the data set, HeldOut(adapter=...)"
        )
    if bool((image == image.flatten()[0]).all()):
        raise ValueError(f"sample {number} is one value everywhere, so that perturbing it says nothing; leave it out")
    generator = torch.Generator().manual_seed(_mixed(seed, number))
    found: Any = perturbation(image, copies, generator)
    if not isinstance(found, Tensor) or found.shape != (copies, *image.shape):
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"the perturbation returned {got}: return a tensor {(copies, *image.shape)}, one row per copy")
    if not bool(found.isfinite().all()):
        raise ValueError(f"the perturbation of sample {number} has NaN or infinite values; return finite ones")
    return torch.cat([image[None], found[1:].to(image)])


def _mixed(seed: int, number: int) -> int:
    """A seed for one image: neighbours must not share their streams."""
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
    """Blocks ``(…, 8, 8)`` of an image, its edge repeated to whole blocks, and the way back."""
    channels, height, width = image.shape
    padded = F.pad(image[None], (0, -width % 8, 0, -height % 8), mode="replicate")[0]
    down, across = padded.shape[1] // 8, padded.shape[2] // 8
    blocks = padded.view(channels, down, 8, across, 8).transpose(2, 3)

    def restore(changed: Tensor) -> Tensor:
        return changed.transpose(2, 3).reshape(channels, down * 8, across * 8)[:, :height, :width]

    return blocks, restore


def _cosines() -> Tensor:
    """The orthonormal cosine basis of 8 values, a row per frequency."""
    k, n = torch.arange(8.0)[:, None], torch.arange(8.0)[None]
    basis = torch.cos(math.pi * (2 * n + 1) * k / 16) * 0.5
    basis[0] /= math.sqrt(2)
    return basis
