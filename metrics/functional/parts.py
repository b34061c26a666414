"""Part interpretability of filters: filter loss, its two entropies, filter class and purity, location instability.

Source: paper (Zhang, Wu and Zhu 2018, arXiv 1710.00935). A filter is part-like where its map says of every image either
"my part is here", one peak at one place, or "it is not there"; the filter loss is the negative mutual information
between maps and such templates. Maps are expected after a rectifier (not negative).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope._arguments import whole_number
from convscope.metrics.functional._precision import as_double, at_least_single
from convscope.metrics.functional._validation import check_finite, check_target

LARGEST_MAP = 14
"""Larger maps are max-pooled to this size: templates number n² + 1, each of n² values."""

_BETA = 4.0  # the paper's
_AT_ONCE = 1 << 24  # numbers held at once while filters are scored


class PartScores(NamedTuple):
    """Part scores of every filter, float64, in nats.

    Attributes:
        filter_loss: ``(C,)`` ``-MI(X; T)``, at most 0; the lower, the more part-like.
        category_entropy: ``(C,)`` ``H({T⁻, T⁺} | X)``: doubt about whether the part is there, 0 to log 2.
        spatial_entropy: ``(C,)`` ``Σ_x p(T⁺, x) H(T⁺ | X = x)``: doubt about where, 0 to log n².
        bound: The least that the loss can be, ``-H(T)``; loss = bound + both entropies.
    """

    filter_loss: Tensor
    category_entropy: Tensor
    spatial_entropy: Tensor
    bound: float


def part_maps(activation: Tensor, largest: int = LARGEST_MAP) -> Tensor:
    """Square maps ``(N, C, n, n)`` with ``n ≤ largest`` from activations ``(N, C, H, W)``, by max-pooling.

    ``n`` is the smaller of ``H``, ``W`` and ``largest``. Max-pooling keeps each peak and its place to within a cell.

    Raises:
        ValueError: if there are not two spatial dimensions, or ``largest`` is not a positive whole number.
    """
    whole_number("largest", largest)
    if activation.ndim != 4:
        raise ValueError(
            f"Part scores need maps of shape (N, C, H, W), got {tuple(activation.shape)}. "
            "Choose layers with two spatial dimensions."
        )
    n = min(activation.shape[2], activation.shape[3], largest)
    return F.adaptive_max_pool2d(at_least_single(activation), n)


@lru_cache(maxsize=32)
def part_templates(n: int) -> Tensor:
    r"""Templates ``(n² + 1, n, n)`` float64: a peak at each place, in reading order; the negative one last.

    .. math:: t^+_{ij}(\mu) = \tau \max(1 - \beta \|[i, j] - \mu\|_1 / n, -1), \quad t^-_{ij} = -\tau

    with :math:`\tau = 0.5 / n^2` and :math:`\beta = 4`.

    Raises:
        ValueError: if ``n`` is not a positive whole number.
    """
    whole_number("n", n)
    places = torch.cartesian_prod(torch.arange(n), torch.arange(n)).double()
    distance = torch.cdist(places, places, p=1)
    peaks = (1 - _BETA * distance / n).clamp(min=-1)
    return (0.5 / n**2) * torch.cat([peaks, -torch.ones(1, n * n)]).view(-1, n, n)


def template_shares(n: int) -> Tensor:
    """Prior probability ``(n² + 1,)`` of each template: ``1 / (1 + n²)`` for all of them."""
    return torch.full((n * n + 1,), 1 / (1 + n * n), dtype=torch.float64)


def part_scores(maps: Tensor) -> PartScores:
    r"""Filter loss and its two entropies over a set of images.

    .. math:: \text{loss} = -\sum_T p(T) \sum_x p(x|T) \log \frac{p(x|T)}{p(x)}, \quad
        p(x|T) = \frac{e^{\sum_{ij} x_{ij} t_{ij}}}{Z_T}

    Args:
        maps: ``(N, C, n, n)`` not negative, of all images together: ``Z_T`` is a sum over them.

    Raises:
        ValueError: if there is no image, shapes are wrong, or a value is NaN, infinite or negative.

    Source: paper (arXiv 1710.00935, equations 2 to 5).

    Example:
        >>> import torch
        >>> scores = part_scores(torch.zeros(5, 1, 4, 4))
        >>> [round(float(value), 3) for value in (scores.spatial_entropy[0], scores.bound)]
        [2.609, -2.833]
    """
    _check_maps(maps)
    n = maps.shape[-1]
    templates, prior = part_templates(n).to(maps.device), template_shares(n).to(maps.device)
    step = max(1, _AT_ONCE // (len(maps) * (n * n + 1)))
    parts = [_scores(as_double(chunk), templates, prior) for chunk in maps.split(step, dim=1)]
    category, spatial = (torch.cat(column) for column in zip(*parts, strict=True))
    bound = float((prior * prior.log()).sum())
    return PartScores(bound + category + spatial, category, spatial, bound)


def _scores(maps: Tensor, templates: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    """Both entropies ``(C,)`` of some filters."""
    fit = maps.flatten(2).transpose(0, 1) @ templates.flatten(1).mT  # (C, N, T)
    log_given = fit - fit.logsumexp(dim=1, keepdim=True)  # log p(x | T)
    log_joint = log_given + prior.log()
    log_image = log_joint.logsumexp(dim=2)  # log p(x)
    log_posterior = log_joint - log_image[..., None]  # log p(T | x)
    log_there, log_absent = log_posterior[..., :-1].logsumexp(2), log_posterior[..., -1]
    category = -(log_there.exp() * log_there + log_absent.exp() * log_absent)
    place = log_posterior[..., :-1] - log_there[..., None]
    spatial = -(place.exp() * place).sum(2)
    image = log_image.exp()
    return (image * category).sum(1), (image * log_there.exp() * spatial).sum(1)


def class_activation(maps: Tensor, target: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Sums that add up over chunks: total activation ``(K, C)`` by class, and images ``(K,)`` of each, float64.

    Args:
        maps: ``(N, C, *S)``.
        target: ``(N,)`` class indices below ``classes``.

    Raises:
        ValueError: if shapes or types are wrong, or a class index is out of range.
    """
    check_target(target, len(maps))
    if len(target) and (int(target.min()) < 0 or int(target.max()) >= classes):
        raise ValueError(
            f"Class indices must lie in [0, {classes - 1}], got {int(target.min())} to {int(target.max())}."
        )
    per_image = as_double(maps).flatten(2).sum(2) if maps.ndim > 2 else as_double(maps)
    of_class = F.one_hot(target.long(), classes).to(per_image)
    return of_class.mT @ per_image, of_class.sum(0)


def filter_classes(total: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Class of each filter ``(C,)``, that whose images activate it most on average, and its purity ``(C,)``.

    Purity (ours) is that class's share in the sum of the classes' mean activations: 1/K for a filter that fires for all
    alike, 1 for one that fires for a single class; NaN for one that never fires. Classes without images do not count.

    Args:
        total: ``(K, C)`` from :func:`class_activation`.
        images: ``(K,)``.

    Example:
        >>> import torch
        >>> filter_classes(torch.tensor([[6.0, 1.0], [2.0, 1.0]]), torch.tensor([2.0, 1.0]))
        (tensor([0, 1]), tensor([0.6000, 0.6667]))
    """
    mean = torch.where(images[:, None] > 0, total / images[:, None].clamp(min=1), 0.0)
    best, owner = mean.max(0)
    return owner, torch.where(best > 0, best / mean.sum(0), torch.nan)


class Peaks(NamedTuple):
    """Where each map is highest.

    Attributes:
        value: ``(N, C)`` float32 the highest activation.
        place: ``(N, C, 2)`` float32 row and column of its centre, as shares of the image's height and width, 0 to 1.
    """

    value: Tensor
    place: Tensor


def peaks(activation: Tensor) -> Peaks:
    """Peak of each map ``(N, C, H, W)``; of several equal ones the first in reading order."""
    height, width = activation.shape[2:]
    value, index = at_least_single(activation).flatten(2).max(2)
    row, column = index.div(width, rounding_mode="floor"), index % width
    place = torch.stack([(row + 0.5) / height, (column + 0.5) / width], dim=2)
    return Peaks(value.float(), place.float())


def location_instability(found: Peaks, landmarks: Tensor, size: tuple[int, int], top: int = 100) -> Tensor:
    r"""Deviation of the distance between a filter's peak and a landmark, over the images that excite it most.

    .. math:: D_{f,k} = \sqrt{\operatorname{var}_I\left(\frac{\|p_k - p(\hat\mu)\|}{\sqrt{w^2 + h^2}}\right)}

    Args:
        found: Peaks ``(N, C)``.
        landmarks: ``(N, K, 2)`` row and column, as shares of height and width; NaN where an image lacks one.
        size: Height and width of the images in pixels.
        top: Number of images with that landmark that count, those with the highest peaks.

    Returns:
        ``(C, K)`` float64, 0 for a filter that stands still relative to a landmark; NaN with fewer than two images. The
        paper's figure is the mean over both.

    Raises:
        ValueError: if shapes do not fit.

    Source: paper (arXiv 1710.00935, section 5.3).
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
        order = found.value[there].argsort(dim=0, descending=True, stable=True)[:top]
        chosen = distance.gather(0, order)
        columns.append(chosen.std(0, correction=0) if len(chosen) > 1 else chosen.new_full(place.shape[1:2], torch.nan))
    return torch.stack(columns, dim=1) if columns else place.new_zeros(place.shape[1], 0)


def equivariance_proxy(
    before: Peaks, after: Peaks, shift: tuple[float, float], flipped: bool, size: tuple[int, int]
) -> Tensor:
    """How far peaks are from where they should be once the image was flipped and shifted (ours, a proxy).

    Stands in for :func:`location_instability` without landmarks: a filter that follows its part moves with it.

    Args:
        before: Peaks ``(N, C)`` of the images.
        after: Peaks of the images after a left-right flip (if ``flipped``), then a shift.
        shift: Rows and columns of the shift, as shares of height and width.
        flipped: Whether they were flipped.
        size: Height and width of the images in pixels.

    Returns:
        ``(C,)`` float64: mean distance over images whose peak stays inside, in image diagonals; NaN if there are none.
    """
    scale = torch.tensor(size, dtype=torch.float64, device=before.place.device)
    expected = as_double(before.place)
    if flipped:
        expected = torch.stack([expected[..., 0], 1 - expected[..., 1]], dim=2)
    expected = expected + torch.tensor(shift, dtype=torch.float64, device=expected.device)
    inside = ((expected > 0) & (expected < 1)).all(2) & (before.value > 0)
    distance: Tensor = ((as_double(after.place) - expected) * scale).norm(dim=2) / scale.norm()
    return distance.masked_fill(~inside, torch.nan).nanmean(0)


def _check_maps(maps: Tensor) -> None:
    if maps.ndim != 4 or maps.shape[2] != maps.shape[3] or 0 in maps.shape:
        raise ValueError(f"The maps must have shape (N, C, n, n) with at least one image, got {tuple(maps.shape)}.")
    check_finite("maps", maps)
    if bool((maps < 0).any()):
        raise ValueError(
            f"The maps must not be negative, got a minimum of {float(maps.min()):g}. Take them after a ReLU, or clamp."
        )
