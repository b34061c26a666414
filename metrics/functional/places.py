"""Places of filters' peaks: location instability relative to landmarks, and a proxy without them.

Source: paper (Zhang, Wu and Zhu 2018, arXiv 1710.00935) for the instability; the proxy is ours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from convscope._arguments import whole_number
from convscope.metrics.functional._precision import as_double, at_least_single
from convscope.metrics.functional._validation import check_finite


class PeaksResult(NamedTuple):
    """Position of each map's peak.

    Attributes:
        value: ``(N, C)`` float32 the highest activation.
        place: ``(N, C, 2)`` float32 row and column of its centre, as shares of the image's height and width, 0 to 1.
    """

    value: Tensor
    place: Tensor


def peaks(activation: Tensor) -> PeaksResult:
    """Peak of each map ``(N, C, H, W)``; of several equal ones the first in reading order.

    Raises:
        ValueError: if there are not two spatial dimensions, or a value is NaN or Inf.

    Source: paper (arXiv 1710.00935): the place of a filter's highest activation stands for that of its part.

    Example:
        >>> import torch
        >>> peaks(torch.eye(2).view(1, 1, 2, 2)).place
        tensor([[[0.2500, 0.2500]]])
    """
    if activation.ndim != 4:
        raise ValueError(f"Peaks need maps of shape (N, C, H, W), got {tuple(activation.shape)}.")
    check_finite("activation", activation)
    height, width = activation.shape[2:]
    value, index = at_least_single(activation).flatten(2).max(2)
    row, column = index.div(width, rounding_mode="floor"), index % width
    place = torch.stack([(row + 0.5) / height, (column + 0.5) / width], dim=2)
    return PeaksResult(value.float(), place.float())


def location_instability(found: PeaksResult, landmarks: Tensor, size: tuple[int, int], top: int = 100) -> Tensor:
    r"""Deviation of the distance between a filter's peak and a landmark, over the images that excite it most.

    .. math:: D_{f,k} = \sqrt{\operatorname{var}_I\left(\frac{\|p_k - p(\hat\mu)\|}{\sqrt{w^2 + h^2}}\right)}

    Args:
        found: PeaksResult ``(N, C)``.
        landmarks: ``(N, K, 2)`` row and column, as shares of height and width; NaN where an image lacks one.
        size: Height and width of the images in pixels.
        top: Number of images with that landmark that count, those with the highest peaks.

    Returns:
        ``(C, K)`` float64, 0 for a filter that stands still relative to a landmark; NaN with fewer than two images
        that have the landmark and excite the filter. The paper's figure is the mean over both.

    Raises:
        ValueError: if shapes do not fit.

    Source: paper (arXiv 1710.00935, section 5.3).

    Example:
        >>> import torch
        >>> found = peaks(torch.eye(4).view(4, 1, 2, 2))
        >>> location_instability(found, found.place, (32, 32))
        tensor([[0.]], dtype=torch.float64)
    """
    whole_number("top", top)
    if landmarks.ndim != 3 or len(landmarks) != len(found.value) or landmarks.shape[2] != 2:
        raise ValueError(f"The landmarks must have shape ({len(found.value)}, K, 2), got {tuple(landmarks.shape)}.")
    scale = torch.tensor(size, dtype=torch.float64, device=landmarks.device)
    place = as_double(found.place) * scale
    columns = []
    for k in range(landmarks.shape[1]):
        there = landmarks[:, k].isfinite().all(1)
        distance = (place[there] - (as_double(landmarks[there, k]) * scale)[:, None]).norm(dim=2) / scale.norm()
        value, order = found.value[there].sort(dim=0, descending=True, stable=True)
        columns.append(_deviation(distance.gather(0, order[:top]), value[:top] > 0))
    return torch.stack(columns, dim=1) if columns else place.new_zeros(place.shape[1], 0)


def _deviation(values: Tensor, counts: Tensor) -> Tensor:
    """Population standard deviation ``(C,)`` of those values ``(N, C)`` that count; NaN where fewer than two do."""
    known = values.masked_fill(~counts, torch.nan)
    deviation = (known - known.nanmean(0)).square().nanmean(0).sqrt()
    return torch.where(counts.sum(0) > 1, deviation, torch.nan)


def equivariance_proxy(
    before: PeaksResult, after: PeaksResult, shift: tuple[float, float], flipped: bool, size: tuple[int, int]
) -> Tensor:
    """Distance of peaks from their expected places after the image was flipped and shifted (ours, a proxy).

    Stands in for :func:`location_instability` without landmarks: a filter that follows its part moves with it.

    Args:
        before: PeaksResult ``(N, C)`` of the images.
        after: PeaksResult of the images after a left-right flip (if ``flipped``), then a shift.
        shift: Rows and columns of the shift, as shares of height and width.
        flipped: Whether they were flipped.
        size: Height and width of the images in pixels.

    Returns:
        ``(C,)`` float64: mean distance over images whose peak stays inside, in image diagonals; NaN if there are none.

    Raises:
        ValueError: if shapes do not fit.

    Source: ours.

    Example:
        >>> import torch
        >>> found = peaks(torch.rand(4, 1, 2, 2))
        >>> equivariance_proxy(found, found, (0.0, 0.0), False, (8, 8))
        tensor([0.], dtype=torch.float64)
    """
    total, count = displacement(before, after, shift, flipped, size)
    return torch.where(count > 0, total / count, torch.nan)


def displacement(
    before: PeaksResult, after: PeaksResult, shift: tuple[float, float], flipped: bool, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Sums that add up over chunks, of :func:`equivariance_proxy`: distances ``(C,)`` and images ``(C,)``, float64."""
    if before.place.shape != after.place.shape:
        raise ValueError(
            f"Peaks before and after must have one shape, got {tuple(before.place.shape)} and "
            f"{tuple(after.place.shape)}."
        )
    scale = torch.tensor(size, dtype=torch.float64, device=before.place.device)
    expected = as_double(before.place)
    if flipped:
        expected = torch.stack([expected[..., 0], 1 - expected[..., 1]], dim=2)
    expected = expected + torch.tensor(shift, dtype=torch.float64, device=expected.device)
    inside = ((expected > 0) & (expected < 1)).all(2) & (before.value > 0)
    distance: Tensor = ((as_double(after.place) - expected) * scale).norm(dim=2) / scale.norm()
    return distance.masked_fill(~inside, 0.0).sum(0), inside.sum(0).double()
