"""Part interpretability of filters: filter loss with its two entropies, filter class and purity.

Source: paper (Zhang, Wu and Zhu 2018, arXiv 1710.00935). A filter is part-like where its map says of every image either
"my part is here", one peak at one place, or "it is not there"; the filter loss is the negative mutual information
between maps and such templates. Maps are expected after a rectifier (not negative).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope._arguments import one_of, whole_number
from convscope.metrics.functional._precision import as_double, where_double_exists
from convscope.metrics.functional._validation import check_finite, check_target

LARGEST_MAP = 14
"""Larger maps are max-pooled to this size: templates number n² + 1, each of n² values."""

LossScale = Literal["as_is", "total"]
SCALES: tuple[LossScale, ...] = get_args(LossScale)

_BETA = 4.0  # the paper's
_CLEAR = 20.0  # times n²: total of a map that tells one template from another by exp(20)
_AT_ONCE = 1 << 18  # numbers held at once while filters are scored: what fits a cache


class PartScoreResult(NamedTuple):
    """Part scores of every filter, float64, in nats.

    Attributes:
        filter_loss: ``(C,)`` ``-MI(X; T)``, at most 0; the lower, the more part-like.
        category_entropy: ``(C,)`` ``H({T⁻, T⁺} | X)``: doubt about whether the part is there, 0 to log 2.
        spatial_entropy: ``(C,)`` ``Σ_x p(T⁺, x) H(T⁺ | X = x)``: doubt about where, 0 to log n².
        bound: scalar, the least that the loss can be, ``-H(T)``; loss = bound + both entropies.
    """

    filter_loss: Tensor
    category_entropy: Tensor
    spatial_entropy: Tensor
    bound: Tensor


def part_side(height: int, width: int, largest: int = LARGEST_MAP) -> int:
    """``n``, the side of a layer's part maps: the smaller of height and width, at most ``largest``."""
    return min(height, width, whole_number("largest", largest))


def part_maps(activation: Tensor, side: int | None = None) -> Tensor:
    """Square maps ``(N, C, n, n)`` from activations ``(N, C, H, W)``, by max-pooling; negative values become 0.

    Max-pooling keeps each peak and its place to within a cell.

    Args:
        activation: Of any size.
        side: ``n``; by default the smaller of ``H`` and ``W``, at most 14.

    Raises:
        ValueError: if there are not two spatial dimensions, or ``side`` is not a positive whole number.

    Source: ours; the paper's maps are of one layer's size.

    Example:
        >>> import torch
        >>> part_maps(torch.zeros(2, 3, 28, 20)).shape, part_maps(torch.zeros(2, 3, 28, 20), 7).shape
        (torch.Size([2, 3, 14, 14]), torch.Size([2, 3, 7, 7]))
    """
    if activation.ndim != 4:
        raise ValueError(
            f"Part scores need maps of shape (N, C, H, W), got {tuple(activation.shape)}. "
            "Choose layers with two spatial dimensions."
        )
    side = part_side(*activation.shape[2:]) if side is None else whole_number("side", side)
    single = activation.to(torch.promote_types(activation.dtype, torch.float32))  # with its gradient, if it has one
    if len(activation) == 0:  # which pooling refuses
        return single.new_zeros(0, activation.shape[1], side, side)
    height, width = single.shape[2:]
    if height % side == 0 and width % side == 0:  # the same cells, but with a backward that is deterministic on a GPU
        return F.max_pool2d(single, (height // side, width // side)).clamp(min=0)
    if single.requires_grad:
        return _cells(_cells(single, side, 2), side, 3).clamp(min=0)
    return F.adaptive_max_pool2d(single, side).clamp(min=0)


def _cells(maps: Tensor, side: int, dim: int) -> Tensor:
    """Maxima of the cells of adaptive pooling along one axis; its own backward is not deterministic on a GPU."""
    size = maps.shape[dim]
    bounds = [(i * size // side, -(-(i + 1) * size // side)) for i in range(side)]
    return torch.stack([maps.narrow(dim, low, high - low).amax(dim) for low, high in bounds], dim)


def scaled_to_total(maps: Tensor) -> Tensor:
    """Maps ``(N, C, n, n)`` of each filter, scaled so that its mean total over images that excite it is 20 n² (ours).

    The filter loss depends on how large activations are: near 0 for small ones whatever their shape, near its bound
    for huge ones, where any difference between images decides. Scaled so, filters, layers and epochs compare: a total
    in one place tells its template from all others by exp(20). A filter that never fires stays as it is.
    """
    total = maps.sum((2, 3))
    mean = total.sum(0) / (total > 0).sum(0).clamp(min=1)
    factor = _CLEAR * maps.shape[-1] ** 2 / torch.where(mean > 0, mean, 1.0)
    return maps * torch.where(mean > 0, factor, 1.0)[:, None, None]


@lru_cache(maxsize=32)
def part_templates(n: int) -> Tensor:
    r"""Templates ``(n² + 1, n, n)`` float64: a peak at each place, in reading order; the negative one last.

    .. math:: t^+_{ij}(\mu) = \tau \max(1 - \beta \|[i, j] - \mu\|_1 / n, -1), \quad t^-_{ij} = -\tau

    with :math:`\tau = 0.5 / n^2` and :math:`\beta = 4`.

    Raises:
        ValueError: if ``n`` is not a positive whole number.
    """
    whole_number("n", n)
    # Kept for later calls, which may need a gradient: an inference tensor could not take part in one.
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        places = torch.cartesian_prod(torch.arange(n), torch.arange(n)).double()
        distance = torch.cdist(places, places, p=1)
        peaks = (1 - _BETA * distance / n).clamp(min=-1)
        negative = torch.full((1, n * n), -1.0, dtype=torch.float64)
        return (0.5 / n**2) * torch.cat([peaks, negative]).view(-1, n, n)


def template_shares(n: int) -> Tensor:
    """Prior probability ``(n² + 1,)`` of each template: ``1 / (1 + n²)`` for all of them."""
    return torch.full((n * n + 1,), 1 / (1 + n * n), dtype=torch.float64)


def part_scores(maps: Tensor, scale: LossScale = "as_is") -> PartScoreResult:
    r"""Filter loss and its two entropies over a set of images.

    .. math:: \text{loss} = -\sum_T p(T) \sum_x p(x|T) \log \frac{p(x|T)}{p(x)}, \quad
        p(x|T) = \frac{e^{\sum_{ij} x_{ij} t_{ij}}}{Z_T}

    Args:
        maps: ``(N, C, n, n)`` not negative, of all images together: ``Z_T`` is a sum over them. The loss is also at
            least ``-log N``, so that fewer than ``n² + 1`` images cannot reach its bound.
        scale: ``"as_is"``, the paper's; ``"total"`` for maps as :func:`scaled_to_total` makes them, whose loss does not
            change when activations grow or shrink as a whole (ours).

    Raises:
        ValueError: if there is no image, shapes are wrong, a value is NaN, infinite or negative, or ``scale`` is
            unknown.

    Source: paper (arXiv 1710.00935, equations 2 to 5).

    Example:
        >>> import torch
        >>> scores = part_scores(torch.zeros(5, 1, 4, 4))
        >>> [round(float(value), 3) for value in (scores.spatial_entropy[0], scores.bound)]
        [2.609, -2.833]
    """
    one_of("scale", scale, SCALES)
    _check_maps(maps)
    n = maps.shape[-1]
    at, prior = where_double_exists(maps).device, template_shares(n)
    templates = part_templates(n).flatten(1).to(at)
    step = max(1, _AT_ONCE // (len(maps) * (n * n + 1)))
    parts = [_scores(_scaled(as_double(chunk), scale), templates, 1 / (n * n + 1)) for chunk in maps.split(step, dim=1)]
    category, spatial = (torch.cat(column) for column in zip(*parts, strict=True))
    bound = (prior * prior.log()).sum().to(at)
    return PartScoreResult((bound + category + spatial).clamp(max=0), category, spatial, bound)


def _scaled(maps: Tensor, scale: LossScale) -> Tensor:
    return scaled_to_total(maps) if scale == "total" else maps


def _scores(maps: Tensor, templates: Tensor, prior: float) -> tuple[Tensor, Tensor]:
    """Both entropies ``(C,)`` of some filters, from probabilities p(T, x) of templates and images, none a logarithm.

    Relative to the image that fits a template best all numbers are between 0 and 1; what underflows weighs nothing.
    """
    fit = maps.flatten(2).transpose(0, 1) @ templates.mT  # (C, N, T)
    fit -= fit.amax(1, keepdim=True)
    given = fit.exp()
    share = prior / given.sum(1, keepdim=True)  # (C, 1, T), so that p(T, x) = share · given
    there = (given[..., :-1] @ share[..., :-1].mT).squeeze(2)  # (C, N)
    absent = given[..., -1] * share[..., -1]
    image = (there + absent).clamp(min=torch.finfo(there.dtype).tiny)
    category = -(torch.xlogy(there, there / image) + torch.xlogy(absent, absent / image)).sum(1)
    # Σ p(T, x) log p(T, x) over both; Σ_x p(T, x) is the prior of T.
    fitted = fit.mul_(given)[..., :-1].sum(1)
    own = (share[:, 0, :-1] * fitted + prior * share[:, 0, :-1].log()).sum(1)
    return category.clamp(min=0), (torch.xlogy(there, there).sum(1) - own).clamp(min=0)


def filter_loss(maps: Tensor, scale: LossScale = "as_is") -> Tensor:
    """Filter loss ``(C,)`` of a batch with a gradient, to be added to a training loss.

    The same number as :func:`part_scores` gives. The paper keeps ``Z_T`` and ``p(x)`` of the training set and lets
    only the template that fits an image give a gradient; here both are of the batch and the gradient is exact (ours).

    Args:
        maps: ``(N, C, n, n)`` not negative, of any floating type; computed in float32 or better.
        scale: As in :func:`part_scores`. As they are, activations of a few units in a small map have next to no
            gradient; scaled, the gradient is of shape alone.

    Raises:
        ValueError: if shapes are wrong, or ``scale`` is unknown.

    Source: paper (arXiv 1710.00935, equations 2 to 5), with the difference above.

    Example:
        >>> import torch
        >>> maps = torch.rand(8, 2, 4, 4, requires_grad=True)
        >>> filter_loss(maps).mean().backward()
        >>> maps.grad.shape
        torch.Size([8, 2, 4, 4])
    """
    one_of("scale", scale, SCALES)
    _check_shape(maps)
    n, dtype = maps.shape[-1], torch.promote_types(maps.dtype, torch.float32)
    with torch.autocast(maps.device.type, enabled=False):
        templates = part_templates(n).flatten(1).to(maps.device, dtype)
        fit = _scaled(maps.to(dtype), scale).flatten(2).transpose(0, 1) @ templates.mT  # (C, N, T)
        log_given = fit - fit.logsumexp(dim=1, keepdim=True)  # log p(x | T)
        log_image = log_given.logsumexp(dim=2, keepdim=True) - math.log(n * n + 1)
        return -(log_given.exp() * (log_given - log_image)).sum((1, 2)) / (n * n + 1)


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

    Raises:
        IndexError: if there is no class.

    Source: paper (arXiv 1710.00935) for the class; purity is ours.

    Example:
        >>> import torch
        >>> filter_classes(torch.tensor([[6.0, 1.0], [2.0, 1.0]]), torch.tensor([2.0, 1.0]))
        (tensor([0, 1]), tensor([0.6000, 0.6667]))
    """
    mean = torch.where(images[:, None] > 0, total / images[:, None].clamp(min=1), 0.0)
    best, owner = mean.max(0)
    return owner, torch.where(best > 0, best / mean.sum(0), torch.nan)


def _check_maps(maps: Tensor) -> None:
    _check_shape(maps)
    check_finite("maps", maps)
    if bool((maps < 0).any()):
        raise ValueError(
            f"The maps must not be negative, got a minimum of {float(maps.min()):g}. Take them after a ReLU, or clamp."
        )


def _check_shape(maps: Tensor) -> None:
    if maps.ndim != 4 or maps.shape[2] != maps.shape[3] or 0 in maps.shape:
        raise ValueError(f"The maps must have shape (N, C, n, n) with at least one image, got {tuple(maps.shape)}.")
