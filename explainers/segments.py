"""Super-pixels of an image at two scales, each fine one inside one coarse one.

Source: the two scales are the paper's (Cui, Wang and Wang, IEEE TMM 2019); that small images get grid cells, and the
numbers of super-pixels, are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

SEGMENTERS = ("grid", "slic", "quickshift")


@dataclass(frozen=True)
class Segments:
    """Super-pixels of one image.

    Attributes:
        coarse: ``(H, W)`` number of each pixel's coarse super-pixel, from 0.
        fine: ``(H, W)`` number of each pixel's fine super-pixel, from 0.
        membership: ``(q, p)`` float64, 1 if a fine super-pixel lies inside a coarse one: one in each row.
    """

    coarse: Tensor
    fine: Tensor
    membership: Tensor

    @property
    def counts(self) -> tuple[int, int]:
        """Numbers of coarse and of fine super-pixels."""
        return self.membership.shape[1], self.membership.shape[0]


def segment(image: Tensor, method: str = "grid", coarse: int = 16, fine: int = 64) -> Segments:
    """Super-pixels at two scales.

    Args:
        image: ``(C, H, W)`` in any range; the grid uses only its size.
        method: ``"grid"``; or ``"slic"`` or ``"quickshift"``, which need scikit-image (``pip install
            scikit-image``).
        coarse: Approximate number of coarse super-pixels; for the grid the exact one is a product of whole numbers.
        fine: Approximate number of fine ones, at least as large.

    Raises:
        ValueError: if the image is not ``(C, H, W)``, the method is unknown, or the numbers do not fit the image.
        ImportError: if scikit-image is needed and missing; the message says what to install.

    Example:
        >>> import torch
        >>> found = segment(torch.zeros(3, 32, 32), coarse=16, fine=64)
        >>> found.counts, found.coarse[0, ::8].tolist(), found.fine[0, ::4].tolist()
        ((16, 64), [0, 1, 2, 3], [0, 1, 4, 5, 8, 9, 12, 13])
    """
    if image.ndim != 3:
        raise ValueError(f"image of shape {tuple(image.shape)}: give one image (C, H, W)")
    if method not in SEGMENTERS:
        raise ValueError(f"method={method!r}: give one of {', '.join(map(repr, SEGMENTERS))}")
    height, width = image.shape[1:]
    if not 1 <= coarse <= fine <= height * width:
        raise ValueError(
            f"coarse={coarse!r}, fine={fine!r}: give whole numbers with 1 <= coarse <= fine <= {height * width}, the "
            "number of pixels"
        )
    if method == "grid":
        return _nested(_grid(height, width, coarse), _grid(height, width, fine))
    return _nested(*_by_colour(image, method, coarse, fine))


def segment_means(values: Tensor, segments: Tensor, count: int) -> Tensor:
    """Mean of a map over each super-pixel: ``(N, count)`` from ``(N, H, W)`` and numbers ``(H, W)``.

    A map of another size than the image is resized first: each pixel takes the value of the cell in which it lies.
    """
    if values.shape[1:] != segments.shape:
        values = torch.nn.functional.interpolate(values[:, None], segments.shape, mode="nearest-exact")[:, 0]
    flat, where = values.flatten(1).double(), segments.flatten().to(values.device)
    pixels = torch.bincount(where, minlength=count).clamp(min=1)
    one_hot = torch.nn.functional.one_hot(where, count).double()
    return flat @ one_hot / pixels


def _grid(height: int, width: int, cells: int) -> Tensor:
    """Cells of about equal sides, their number as near to ``cells`` as possible."""
    rows = max(1, min(height, round((cells * height / width) ** 0.5)))
    columns = max(1, min(width, round(cells / rows)))
    row = torch.arange(height) * rows // height
    column = torch.arange(width) * columns // width
    cell: Tensor = row[:, None] * columns + column
    return cell


def _nested(coarse: Tensor, fine: Tensor) -> Segments:
    """Both numberings from 0 without gaps; a fine super-pixel that a coarse border cuts becomes several."""
    _, coarse = coarse.unique(return_inverse=True)
    pairs = coarse * (int(fine.max()) + 1) + fine
    _, fine = pairs.unique(return_inverse=True)  # sorted: the fine ones of a coarse one follow one another
    membership = torch.zeros(int(fine.max()) + 1, int(coarse.max()) + 1, dtype=torch.float64)
    membership[fine.flatten(), coarse.flatten()] = 1
    return Segments(coarse, fine, membership)


def _by_colour(image: Tensor, method: str, coarse: int, fine: int) -> tuple[Tensor, Tensor]:
    skimage = _skimage()
    shown = image.detach().float().cpu()
    shown = (shown - shown.min()) / (shown.max() - shown.min()).clamp(min=1e-12)
    pixels: Any = shown.permute(1, 2, 0).double().numpy()
    if method == "slic":
        numbers = [skimage.slic(pixels, n_segments=n, start_label=0, channel_axis=-1) for n in (coarse, fine)]
    else:
        colours = pixels if pixels.shape[2] == 3 else np.repeat(pixels[..., :1], 3, axis=2)
        # Quickshift takes a distance, not a number: the distance between so many segments of equal size.
        reach = [float((pixels.shape[0] * pixels.shape[1] / n) ** 0.5) for n in (coarse, fine)]
        numbers = [
            skimage.quickshift(colours, kernel_size=max(1.0, r / 4), max_dist=r, rng=0) for r in reach
        ]  # fmt: skip
    return torch.from_numpy(numbers[0].astype(np.int64)), torch.from_numpy(numbers[1].astype(np.int64))


def _skimage() -> Any:
    try:
        from skimage import segmentation
    except ImportError as error:
        raise ImportError(
            "super-pixels by colour need scikit-image: pip install scikit-image, or use method='grid'"
        ) from error
    return segmentation
