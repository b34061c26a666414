"""Super-pixels of an image at two scales, each fine one inside one coarse one.

Source: the two scales are the paper's (Cui, Wang and Wang, IEEE TMM 2019); that small images get grid cells, and the
numbers of super-pixels, are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from convscope._arguments import one_of

Segmenter = Literal["grid", "slic", "quickshift"]
SEGMENTERS: tuple[Segmenter, ...] = get_args(Segmenter)


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


def usual_counts(height: int, width: int) -> tuple[int, int]:
    """How many coarse and fine super-pixels an image of this size gets where nobody says (ours).

    16 and 64, and on smaller images so many fewer that a fine one has at least 2 × 2 pixels.
    """
    fine = max(1, min(64, (height // 2) * (width // 2)))
    return max(1, min(16, fine // 4)), fine


def segment(image: Tensor, method: str = "grid", coarse: int = 16, fine: int = 64) -> Segments:
    """Super-pixels at two scales.

    Args:
        image: ``(C, H, W)`` in any range; the grid uses only its size.
        method: ``"grid"``; or ``"slic"`` or ``"quickshift"``, which need scikit-image (``pip install
            'convscope[segments]'``).
        coarse: About so many coarse super-pixels; for the grid their exact number is a product of whole numbers.
        fine: About so many fine ones, at least as many. The grid divides each coarse cell into as many.

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
    one_of("method", method, SEGMENTERS)
    height, width = image.shape[1:]
    if not 1 <= coarse <= fine <= height * width:
        raise ValueError(
            f"coarse={coarse!r}, fine={fine!r}: give whole numbers with 1 <= coarse <= fine <= {height * width}, the "
            "number of pixels"
        )
    return _grids(height, width, coarse, fine) if method == "grid" else _by_colour(image, method, coarse, fine)


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


def _grids(height: int, width: int, coarse: int, fine: int) -> Segments:
    """Cells of about equal sides; a fine side is a whole fraction of a coarse one, so that there are no slivers."""
    rows = max(1, min(height, round((coarse * height / width) ** 0.5)))
    columns = max(1, min(width, round(coarse / rows)))
    each = fine / (rows * columns)
    # In a coarse cell that is twice as wide as high, twice as many fine columns as rows.
    down = max(1, min(height // rows, round((each * (height / rows) / (width / columns)) ** 0.5)))
    across = max(1, min(width // columns, round(each / down)))
    return _nested(_grid(height, width, rows, columns), _grid(height, width, rows * down, columns * across))


def _grid(height: int, width: int, rows: int, columns: int) -> Tensor:
    row = torch.arange(height) * rows // height
    column = torch.arange(width) * columns // width
    cell: Tensor = row[:, None] * columns + column
    return cell


def _nested(coarse: Tensor, fine: Tensor) -> Segments:
    """Both numberings from 0 without gaps, the fine ones of a coarse one following one another."""
    _, coarse = coarse.unique(return_inverse=True)
    pairs = coarse * (int(fine.max()) + 1) + fine
    _, fine = pairs.unique(return_inverse=True)
    membership = torch.zeros(int(fine.max()) + 1, int(coarse.max()) + 1, dtype=torch.float64)
    membership[fine.flatten(), coarse.flatten()] = 1
    return Segments(coarse, fine, membership)


def _by_colour(image: Tensor, method: str, coarse: int, fine: int) -> Segments:
    """Two segmentations by colour; each fine segment goes as a whole to the coarse one that most of it lies in.

    To cut it along coarse borders would give many super-pixels of a few pixels each.
    """
    skimage = _skimage()
    shown = image.detach().float().cpu()
    shown = (shown - shown.min()) / (shown.max() - shown.min()).clamp(min=1e-12)
    pixels: Any = shown.permute(1, 2, 0).double().numpy()
    many, few = (_colour_segments(skimage, pixels, method, count) for count in (fine, coarse))
    shares = torch.zeros(int(many.max()) + 1, int(few.max()) + 1, dtype=torch.float64)
    shares.index_put_((many.flatten(), few.flatten()), torch.ones(many.numel(), dtype=torch.float64), accumulate=True)
    return _nested(shares.argmax(1)[many], many)


def _colour_segments(skimage: Any, pixels: Any, method: str, count: int) -> Tensor:
    if method == "slic":
        found = skimage.slic(pixels, n_segments=count, start_label=0, channel_axis=-1)
    else:
        colours = pixels if pixels.shape[2] == 3 else np.repeat(pixels.mean(2, keepdims=True), 3, axis=2)
        # Quickshift takes a distance, not a number: that at which so many segments of equal size would lie.
        reach = float((pixels.shape[0] * pixels.shape[1] / count) ** 0.5)
        found = skimage.quickshift(colours, kernel_size=max(1.0, reach / 4), max_dist=reach, rng=0)
    numbers: Tensor = torch.from_numpy(found.astype(np.int64)).unique(return_inverse=True)[1]
    return numbers


def require_segmenter(method: str) -> None:
    """Raise where a method's library is missing.

    Raises:
        ImportError: if scikit-image is needed and missing.
    """
    if method != "grid":
        _skimage()


def _skimage() -> Any:
    try:
        from skimage import segmentation
    except ImportError as error:
        raise ImportError(
            "super-pixels by colour need scikit-image, which is missing: pip install 'convscope[segments]', or use the "
            "grid"
        ) from error
    return segmentation
