"""Input resampling: does a filter move with the output (influence), and does it stay put under noise (precision).

An image is perturbed many times. Over its copies ``i``, at every position of a filter's map, the correlation with the
output and the variance are taken from sums that stream, so that no stack of copies is kept. Source: paper (Lengerich et
al. 2017, arXiv 1707.09641, and its authors' code); what is ours says so.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from convscope._arguments import whole_number
from convscope.metrics.functional._precision import as_double, is_varying
from convscope.metrics.functional._validation import check_channels, check_finite

LEAST_ACTIVATION = 0.1
"""The paper's: a filter whose mean activation lies below has no precision."""


class ResamplingSums(NamedTuple):
    """Sums over the copies of one image, float64, of differences from the first copy seen: they add up over chunks.

    Attributes:
        origin: ``(C, *S)`` the first copy's activation, taken off before squaring so that nothing cancels.
        output_origin: scalar, the first copy's output.
        copies: scalar, how many were seen.
        activation: ``(C, *S)`` sum of ``a``.
        square: ``(C, *S)`` sum of ``a²``.
        product: ``(C, *S)`` sum of ``a·y``.
        output: scalar, sum of ``y``.
        output_square: scalar, sum of ``y²``.
    """

    origin: Tensor
    output_origin: Tensor
    copies: Tensor
    activation: Tensor
    square: Tensor
    product: Tensor
    output: Tensor
    output_square: Tensor


class ResamplingScores(NamedTuple):
    """Scores of every filter on one image, float64.

    Attributes:
        influence: ``(C,)`` mean over positions of ``|Pearson(a, y)|``, 0 to 1; NaN where no position varies, or the
            output does not.
        precision: ``(C,)`` one over the mean over positions of ``Var(a)``; infinite for a filter that never moves, NaN
            where its mean activation is below the least.
        relative_precision: ``(C,)`` ``mean(a)² / Var(a)``, kept by a rescaled filter (ours); NaN without activation.
        mean: ``(C,)`` mean activation over copies and positions.
    """

    influence: Tensor
    precision: Tensor
    relative_precision: Tensor
    mean: Tensor


def start_resampling(activation: Tensor, output: Tensor) -> ResamplingSums:
    """Empty sums for one image, from the first of its copies ``(C, *S)`` and that copy's output."""
    origin = as_double(activation)
    zero = origin.new_zeros(())
    empty = torch.zeros_like(origin)
    return ResamplingSums(origin, as_double(output).reshape(()), zero, empty, empty, empty, zero, zero)


def add_copies(sums: ResamplingSums, activation: Tensor, output: Tensor) -> ResamplingSums:
    """Sums with some more copies of the image.

    Args:
        sums: Of the copies before.
        activation: ``(I, C, *S)``.
        output: ``(I,)`` the output that influence is on, such as the probability of a class.

    Raises:
        ValueError: if shapes do not fit, or a value is NaN or infinite.
    """
    check_channels("activation", activation, len(sums.origin))
    if output.shape != activation.shape[:1]:
        raise ValueError(f"The output must have shape ({len(activation)},), got {tuple(output.shape)}.")
    check_finite("activation", activation)
    check_finite("output", output)
    a, y = as_double(activation) - sums.origin, as_double(output) - sums.output_origin
    weights = y.view(-1, *[1] * (a.ndim - 1))
    return ResamplingSums(
        sums.origin,
        sums.output_origin,
        sums.copies + len(y),
        sums.activation + a.sum(0),
        sums.square + a.square().sum(0),
        sums.product + (a * weights).sum(0),
        sums.output + y.sum(),
        sums.output_square + y.square().sum(),
    )


def resampling_scores(sums: ResamplingSums, least_activation: float = LEAST_ACTIVATION) -> ResamplingScores:
    """Influence and precision of every filter from the sums over one image's copies.

    Raises:
        ValueError: if there are fewer than two copies.
    """
    if sums.copies < 2:
        raise ValueError(f"Resampling needs at least 2 copies of an image, got {int(sums.copies)}.")
    shift = sums.activation / sums.copies
    variance = (sums.square / sums.copies - shift.square()).clamp(min=0).reshape(len(shift), -1)
    mean = (sums.origin + shift).reshape(len(shift), -1)
    filter_mean, filter_variance = mean.mean(1), variance.mean(1)
    inactive = filter_mean < least_activation
    relative = filter_mean.square() / filter_variance
    return ResamplingScores(
        _influence(sums, shift.reshape(mean.shape), variance, mean),
        (1 / filter_variance).masked_fill(inactive, torch.nan),
        relative.masked_fill(filter_mean == 0, torch.nan),
        filter_mean,
    )


def _influence(sums: ResamplingSums, shift: Tensor, variance: Tensor, mean: Tensor) -> Tensor:
    y = sums.output / sums.copies
    y_variance = (sums.output_square / sums.copies - y.square()).clamp(min=0)
    moves = is_varying(y_variance, y_variance + (sums.output_origin + y).square())
    varying = is_varying(variance, variance + mean.square()) & moves
    covariance = sums.product.reshape(mean.shape) / sums.copies - shift * y
    scale = torch.where(varying, variance * y_variance, 1.0).sqrt()
    correlation = (covariance / scale).abs().clamp(max=1).masked_fill(~varying, torch.nan)
    return correlation.nanmean(1)


def top_filters(scores: Tensor, k: int) -> Tensor:
    """Which filters are among the ``k`` highest ``(C,)`` bool; NaN never is, and ties go to the first.

    Raises:
        ValueError: if ``k`` is not a positive whole number.

    Example:
        >>> import torch
        >>> top_filters(torch.tensor([1.0, float("nan"), 3.0, 2.0]), 2)
        tensor([False, False,  True,  True])
    """
    whole_number("k", k)
    known = ~scores.isnan()
    order = scores.masked_fill(~known, -torch.inf).argsort(descending=True, stable=True)
    order = order[known[order]][:k]
    chosen = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    chosen[order] = True
    return chosen


class Overlap(NamedTuple):
    """How two sets of filters agree, over one layer or several.

    Attributes:
        overlap: ``Σ|A∩B| / Σ(|A| + |B|)``, as the paper's authors compute it: 0 to 0.5.
        jaccard: ``Σ|A∩B| / Σ|A∪B|``, 0 to 1.
        overlap_chance: Expected overlap of two random sets of the same sizes.
        jaccard_chance: Expected Jaccard index of such sets.
    """

    overlap: float
    jaccard: float
    overlap_chance: float
    jaccard_chance: float


def set_overlap(first: list[Tensor], second: list[Tensor]) -> Overlap:
    """Agreement of two choices of filters, layer by layer, with what chance would give.

    Random sets of sizes ``a`` and ``b`` out of ``C`` filters share a hypergeometric number of them. Layers are
    independent, so that the number over all layers is distributed as the convolution; both chance levels are exact.

    Args:
        first: ``(C,)`` bool for each layer.
        second: the same shapes.

    Returns:
        NaN where both sets are empty everywhere.

    Raises:
        ValueError: if the masks do not fit one another.

    Example:
        >>> import torch
        >>> a, b = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
        >>> [round(value, 3) for value in set_overlap([a], [b])]
        [0.25, 0.333, 0.25, 0.389]
    """
    if len(first) != len(second) or any(a.shape != b.shape or a.ndim != 1 for a, b in zip(first, second, strict=True)):
        raise ValueError("Both choices must have one mask (C,) for each layer, and the same layers.")
    shared = float(sum(int((a & b).sum()) for a, b in zip(first, second, strict=True)))
    sizes = float(sum(int(a.sum()) + int(b.sum()) for a, b in zip(first, second, strict=True)))
    if sizes == 0:
        return Overlap(torch.nan, torch.nan, torch.nan, torch.nan)
    counts = _shared_by_chance(first, second)
    number = torch.arange(len(counts), dtype=torch.float64)
    return Overlap(
        shared / sizes,
        shared / (sizes - shared),
        float((counts * number).sum() / sizes),
        float((counts * number / (sizes - number)).sum()),
    )


def permuted_overlap(first: list[Tensor], second: list[Tensor], permutations: int, seed: int = 0) -> Tensor:
    """Overlaps ``(permutations,)`` when the filters of every layer are shuffled: what chance gives, by trial.

    Raises:
        ValueError: as for :func:`set_overlap`.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        [mask[torch.randperm(len(mask), generator=generator)] for mask in second] for _ in range(permutations)
    ]  # fmt: skip
    return torch.tensor([set_overlap(first, shuffled).overlap for shuffled in drawn], dtype=torch.float64)


def _shared_by_chance(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """Distribution of the number of shared filters, over all layers together."""
    total = torch.ones(1, dtype=torch.float64)
    for a, b in zip(first, second, strict=True):
        layer = _hypergeometric(len(a), int(a.sum()), int(b.sum()))
        total = torch.nn.functional.conv1d(
            total.view(1, 1, -1), layer.flip(0).view(1, 1, -1), padding=len(layer) - 1
        ).view(-1)
    return total


def _hypergeometric(filters: int, first: int, second: int) -> Tensor:
    """Probability of 0, 1, … shared members of two random sets."""
    shared = torch.arange(min(first, second) + 1, dtype=torch.float64)
    log = _log_choose(first, shared) + _log_choose(filters - first, second - shared)
    log = log - _log_choose(filters, torch.tensor(float(second), dtype=torch.float64))
    return log.exp()


def _log_choose(n: int, k: Tensor) -> Tensor:
    possible = (k >= 0) & (k <= n)
    k = k.clamp(0, n)
    value = torch.lgamma(torch.tensor(n + 1.0, dtype=torch.float64)) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return value.masked_fill(~possible, -torch.inf)
