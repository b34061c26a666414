"""Copies of an image with some of its super-pixels switched off.

Source: paper (Cui, Wang and Wang, IEEE TMM 2019): each super-pixel is on or off with equal chance, and zero if
off. The other fills are ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FILLS = ("zero", "mean", "blur")


def draw_switches(copies: int, segments: int, seed: int) -> Tensor:
    """Super-pixels that are on in each copy: ``(copies, segments)`` bool, by the seed; the first copy is whole."""
    on = torch.rand(copies, segments, generator=torch.Generator().manual_seed(seed)) < 0.5
    on[:1] = True
    return on


def fill_image(image: Tensor, fill: str) -> Tensor:
    """Pixels ``(C, H, W)`` that replace super-pixels that are off.

    Args:
        image: ``(C, H, W)``.
        fill: ``"zero"`` (the paper's; after normalisation that is the mean colour of the data), ``"mean"`` of each
            channel over the image, or ``"blur"``, the image under a box of a quarter of its side.

    Raises:
        ValueError: if ``fill`` is none of these.
    """
    if fill == "zero":
        return torch.zeros_like(image)
    if fill == "mean":
        return image.mean((1, 2), keepdim=True).expand_as(image)
    if fill == "blur":
        side = max(1, min(image.shape[1:]) // 8)
        padded = F.pad(image[None], (side, side, side, side), mode="replicate")
        return F.avg_pool2d(padded, 2 * side + 1, stride=1)[0]
    raise ValueError(f"fill={fill!r}: give one of {', '.join(map(repr, FILLS))}")


def switched(image: Tensor, fill: Tensor, fine: Tensor, on: Tensor) -> Tensor:
    """Copies ``(K, C, H, W)`` of an image, with ``fill`` where super-pixels are off.

    Args:
        image: ``(C, H, W)``.
        fill: the same shape, see :func:`fill_image`.
        fine: ``(H, W)`` number of each pixel's super-pixel.
        on: ``(K, q)`` bool.

    Example:
        >>> import torch
        >>> image, fine = torch.ones(1, 1, 2), torch.tensor([[0, 1]])
        >>> switched(image, torch.zeros_like(image), fine, torch.tensor([[True, False]])).flatten().tolist()
        [1.0, 0.0]
    """
    shown = on.to(image.device)[:, fine.to(image.device)][:, None]
    return torch.where(shown, image, fill)


def share_on(on: Tensor, membership: Tensor) -> Tensor:
    """Share ``(K, p)`` of each coarse super-pixel's fine ones that are on, float64."""
    return on.double() @ membership / membership.sum(0).clamp(min=1)


def nearness(image: Tensor, copies: Tensor, width: float | None = None) -> tuple[Tensor, float]:
    """Weight ``(K,)`` of each copy, ``exp(-‖X - Z‖² / σ²)`` float64, and ``σ²``, by default the median (ours)."""
    squares = (copies - image).double().square().flatten(1).sum(1)
    chosen = float(squares.median()) if width is None else width
    return (-squares / (chosen if chosen > 0 else 1.0)).exp(), chosen
