"""Copies of an image with some of its super-pixels switched off.

Source: paper (Cui, Wang and Wang, IEEE TMM 2019): each super-pixel is on or off with equal chance, and zero if
off. The other fills are ours.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope._arguments import refuse

Fill = Literal["zero", "mean", "blur"]
FILLS: tuple[Fill, ...] = get_args(Fill)


def draw_switches(copies: int, segments: int, seed: int, number: int = 0) -> Tensor:
    """Which super-pixels are on in each copy: ``(copies, segments)`` bool; the first copy is whole (ours).

    Args:
        copies: K.
        segments: q.
        seed: Of the run.
        number: Of the image in the held-out set: each image has draws of its own, the same at every check.
    """
    on = torch.rand(copies, segments, generator=_generator(seed, number)) < 0.5
    on[:1] = True
    return on


def random_ranks(orders: int, segments: int, seed: int, number: int = 0) -> Tensor:
    """Random orders of super-pixels ``(orders, segments)``: the place of each in each order."""
    return torch.rand(orders, segments, generator=_generator(seed + 1, number)).argsort(1).argsort(1)


def _generator(seed: int, number: int) -> torch.Generator:
    # Mixed, since neighbouring numbers of neighbouring seeds must not share their streams.
    return torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + number * 0xD1B54A32D192ED03 + 1) % 2**63)


def fill_image(image: Tensor, fill: Fill) -> Tensor:
    """What stands where super-pixels are off, ``(C, H, W)``.

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
    raise refuse("fill", fill, f"one of {', '.join(map(repr, FILLS))}")


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


def distances(image: Tensor, fill: Tensor, fine: Tensor, count: int) -> Tensor:
    """Squared distance ``(count,)`` float64 from an image ``(C, H, W)`` that switching off each super-pixel makes."""
    squares = (image - fill).double().square().sum(0).flatten()
    return torch.zeros(count, dtype=torch.float64).index_add_(0, fine.flatten().cpu(), squares.cpu())


def nearness(on: Tensor, distance: Tensor) -> Tensor:
    """Weight ``(K,)`` of each copy, ``exp(-‖X - Z‖² / σ²)`` float64, ``σ²`` the median over the copies (ours).

    Args:
        on: ``(K, q)`` bool.
        distance: ``(q,)`` of :func:`distances`: those of the super-pixels that are off add up.
    """
    squares = (~on).double() @ distance
    width = squares.median()
    return (-squares / torch.where(width > 0, width, 1.0)).exp()
