"""Input resampling: does a filter move with the output (influence), and does it stay put under noise (precision).

An image is perturbed many times. Over its copies ``i``, at every position of a filter's map, the correlation with the
output and the variance are taken from sums that stream, so that no stack of copies is kept. Source: paper (Lengerich et
al. 2017, arXiv 1707.09641, and its authors' code); what is ours says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from convscope._arguments import whole_number
from convscope.metrics.functional._precision import as_double, is_varying, where_double_exists
from convscope.metrics.functional._validation import check_channels, check_finite

LEAST_ACTIVATION = 0.1
"""The paper's: a filter whose mean activation lies below has no precision."""
_BLOCK = 2048  # columns
_ONE_IN_20 = 0.05

_Layer = tuple[Tensor, Tensor, Tensor, Tensor]


class ResamplingSums(NamedTuple):
    """Sums over copies of one image, float64. They add up over chunks and over processes.

    Attributes:
        copies: scalar, how many copies were seen.
        activation: ``(C, P)`` sum of ``a`` at each of P positions.
        square: ``(C, P)`` sum of ``a²``.
        product: ``(C, P)`` sum of ``a·y``.
        output: scalar, sum of ``y``.
        output_square: scalar, sum of ``y²``.
    """

    copies: Tensor
    activation: Tensor
    square: Tensor
    product: Tensor
    output: Tensor
    output_square: Tensor


class ResamplingScores(NamedTuple):
    """Scores of every filter, ``(C,)`` on one image or ``(I, C)`` on several, float64.

    Attributes:
        influence: Mean over positions of ``|Pearson(a, y)|``, 0 to 1; NaN where no position varies, or the output
            does not.
        variance: Mean over positions of the variance over copies; 0 where it is no more than rounding.
        mean: Mean activation over copies and positions.
    """

    influence: Tensor
    variance: Tensor
    mean: Tensor

    @property
    def precision(self) -> Tensor:
        """``1 / Var``, as in the paper: infinite for a filter that never moves, NaN below the least activation."""
        return (1 / self.variance).masked_fill(self.mean < LEAST_ACTIVATION, torch.nan)

    @property
    def relative_precision(self) -> Tensor:
        """``mean² / Var`` (ours), which a rescaled filter keeps; NaN for a filter without activation."""
        return (self.mean.square() / self.variance).masked_fill(self.mean == 0, torch.nan)


def resampling_sums(activation: Tensor, output: Tensor) -> ResamplingSums:
    """Sums over some copies of one image.

    Args:
        activation: ``(I, C, *S)``.
        output: ``(I,)`` the output that influence is on, such as the probability of a class.

    Returns:
        Add those of several chunks part by part.

    Raises:
        ValueError: if shapes do not fit, or a value is NaN or infinite.

    Source: paper (Lengerich et al. 2017, arXiv 1707.09641).

    Example:
        >>> import torch
        >>> activation = torch.tensor([[[0.0, 1.0]], [[2.0, 1.0]]])
        >>> resampling_sums(activation, torch.tensor([0.1, 0.3])).square
        tensor([[4., 2.]], dtype=torch.float64)
    """
    check_channels("activation", activation, activation.shape[1] if activation.ndim > 1 else 0)
    if output.shape != activation.shape[:1]:
        raise ValueError(f"The output must have shape ({len(activation)},), got {tuple(output.shape)}.")
    a = where_double_exists(activation.detach())
    y = as_double(output).to(a.device)
    sums = _column_sums(a.flatten(1), y)
    # NaN and infinity end up in the sums: one look at these is cheaper than one at every value.
    check_finite("activation", sums[::2])
    check_finite("output", y)
    activations, products, squares = sums.view(3, activation.shape[1], -1)
    return ResamplingSums(y.new_tensor(len(y)), activations, squares, products, y.sum(), y.square().sum())


def _column_sums(values: Tensor, weights: Tensor) -> Tensor:
    """Sums of ``v``, ``w·v`` and ``v²`` over the rows of ``(I, V)``, as ``(3, V)`` float64."""
    both = torch.stack([torch.ones_like(weights), weights])
    found = weights.new_empty((3, values.shape[1]))
    # On a CPU a block that stays in its cache is several times faster than a float64 copy of everything.
    width = _BLOCK if values.device.type == "cpu" else max(1, values.shape[1])
    for start in range(0, values.shape[1], width):
        block, columns = values[:, start : start + width].double(), slice(start, start + width)
        found[:2, columns] = both @ block
        found[2, columns] = both[0] @ block.square_()
    return found


def resampling_scores(sums: ResamplingSums) -> ResamplingScores:
    """Influence, variance and mean of every filter from the sums over one image's copies.

    Args:
        sums: Of all copies of one image.

    Raises:
        ValueError: if there are fewer than two copies.

    Source: paper (Lengerich et al. 2017, arXiv 1707.09641); what :class:`ResamplingScores` calls ours is ours.

    Example:
        >>> import torch
        >>> activation = torch.tensor([[[0.0, 1.0]], [[2.0, 1.0]]])
        >>> resampling_scores(resampling_sums(activation, torch.tensor([0.1, 0.3]))).variance
        tensor([0.5000], dtype=torch.float64)
    """
    if sums.copies < 2:
        raise ValueError(f"Resampling needs the values of at least 2 copies of an image, got {int(sums.copies)}.")
    mean, mean_square = sums.activation / sums.copies, sums.square / sums.copies
    variance = (mean_square - mean.square()).clamp(min=0)
    variance = torch.where(is_varying(variance, mean_square), variance, 0.0)
    return ResamplingScores(_influence(sums, mean, variance), variance.mean(1), mean.mean(1))


def _influence(sums: ResamplingSums, mean: Tensor, variance: Tensor) -> Tensor:
    y, y_square = sums.output / sums.copies, sums.output_square / sums.copies
    y_variance = (y_square - y.square()).clamp(min=0)
    varying = (variance > 0) & is_varying(y_variance, y_square)
    covariance = sums.product / sums.copies - mean * y
    scale = torch.where(varying, variance * y_variance, 1.0).sqrt()
    correlation = (covariance / scale).abs().clamp(max=1).masked_fill(~varying, torch.nan)
    return correlation.nanmean(1)


def top_filters(scores: Tensor, k: int) -> Tensor:
    """Mask ``(C,)`` bool of the ``k`` highest filters; NaN is never among them, and ties go to the first.

    Args:
        scores: ``(C,)``.
        k: How many.

    Raises:
        ValueError: if ``k`` is not a positive whole number.

    Source: paper (Lengerich et al. 2017, arXiv 1707.09641).

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
    """Agreement of two choices of filters, over one layer or several.

    Attributes:
        overlap: ``Σ|A∩B| / Σ(|A| + |B|)``, as the paper's authors compute it: 0 to 0.5.
        jaccard: ``Σ|A∩B| / Σ|A∪B|``, 0 to 1.
        overlap_chance: Expected overlap of random choices of the same sizes.
        jaccard_chance: Expected Jaccard index of such choices.
        overlap_limit: What the overlap of one in 20 such choices exceeds, at most.
    """

    overlap: float
    jaccard: float
    overlap_chance: float
    jaccard_chance: float
    overlap_limit: float


Masks = Sequence[Tensor]
"""``(C,)`` bool for each layer."""


def set_overlap(
    first: Masks, second: Masks, first_from: Masks | None = None, second_from: Masks | None = None
) -> Overlap:
    """Agreement of two choices of filters, layer by layer, with what chance would give.

    Random choices of the same sizes share a number of filters whose distribution is exact: hypergeometric within a
    layer, and as layers are independent, the convolution over several. A filter that one choice cannot
    take (a dead one has no influence) is left out of what that choice is drawn from: otherwise sets would seem to agree
    beyond chance just because both avoid dead filters.

    Args:
        first: ``(C,)`` bool for each layer.
        second: The same shapes.
        first_from: Filters that the first choice could take; all by default.
        second_from: Those that the second could take.

    Returns:
        NaN where both choices are empty everywhere.

    Raises:
        ValueError: if the masks do not fit one another, or a choice holds what it could not take.

    Source: paper (Lengerich et al. 2017, arXiv 1707.09641, authors' code) for the overlap; chance levels are ours.

    Example:
        >>> import torch
        >>> a, b = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
        >>> [round(value, 3) for value in set_overlap([a], [b])]
        [0.25, 0.333, 0.25, 0.389, 0.5]
    """
    layers = _checked(first, second, first_from, second_from)
    shared = float(sum(int((a & b).sum()) for a, b, _, _ in layers))
    sizes = float(sum(int(a.sum()) + int(b.sum()) for a, b, _, _ in layers))
    if sizes == 0:
        return Overlap(*[torch.nan] * 5)
    chances = _shared_by_chance(layers)
    number = torch.arange(len(chances), dtype=torch.float64)
    limit = sum(total < 1 - _ONE_IN_20 for total in accumulate(chances.tolist()))
    return Overlap(
        shared / sizes,
        shared / (sizes - shared),
        float((chances * number).sum() / sizes),
        float((chances * number / (sizes - number)).sum()),
        limit / sizes,
    )


def permuted_overlap(
    first: Masks,
    second: Masks,
    permutations: int,
    seed: int = 0,
    first_from: Masks | None = None,
    second_from: Masks | None = None,
) -> Tensor:
    """Overlap and Jaccard index when the filters of every layer are shuffled: what chance gives, by trial.

    Args:
        first: As in :func:`set_overlap`.
        second: Likewise.
        permutations: How many trials.
        seed: Of the shuffling.
        first_from: As in :func:`set_overlap`.
        second_from: Likewise.

    Returns:
        ``(permutations, 2)`` float64.

    Raises:
        ValueError: as for :func:`set_overlap`; if ``permutations`` is not a positive whole number.

    Source: reconstruction (the paper gives no chance level).

    Example:
        >>> import torch
        >>> a, b = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
        >>> permuted_overlap([a], [b], 2000).mean(0).round(decimals=1).tolist()
        [0.2, 0.4]
    """
    whole_number("permutations", permutations)
    layers = _checked(first, second, first_from, second_from)
    generator = torch.Generator().manual_seed(seed)
    sizes = float(sum(int(a.sum()) + int(b.sum()) for a, b, _, _ in layers))

    def trial() -> list[float]:
        drawn = [(_shuffled(a, p, generator), _shuffled(b, q, generator)) for a, b, p, q in layers]
        shared = float(sum(int((a & b).sum()) for a, b in drawn))
        return [shared / sizes, shared / (sizes - shared)] if sizes else [torch.nan, torch.nan]

    return torch.tensor([trial() for _ in range(permutations)], dtype=torch.float64)


def _shuffled(chosen: Tensor, allowed: Tensor, generator: torch.Generator) -> Tensor:
    places = allowed.nonzero().flatten()
    found = torch.zeros_like(chosen)
    found[places[torch.randperm(len(places), generator=generator)[: int(chosen.sum())]]] = True
    return found


def _checked(first: Masks, second: Masks, first_from: Masks | None, second_from: Masks | None) -> list[_Layer]:
    """Both choices and what each is from, layer by layer."""
    everything = [torch.ones_like(mask) for mask in first]
    parts = [first, second, first_from or everything, second_from or everything]
    fitting = len({len(part) for part in parts}) == 1
    if not fitting or any(
        mask.shape != masks[0].shape or mask.ndim != 1 for masks in zip(*parts, strict=True) for mask in masks
    ):
        raise ValueError("Both choices must have one mask (C,) for each layer, and the same layers.")
    layers = [(a, b, p, q) for a, b, p, q in zip(*parts, strict=True)]
    if any(bool((a & ~p).any() or (b & ~q).any()) for a, b, p, q in layers):
        raise ValueError("A choice holds a filter that it could not take: fix `first_from` or `second_from`.")
    return layers


def _shared_by_chance(layers: list[_Layer]) -> Tensor:
    """Distribution of the number of shared filters, over all layers together."""
    total = torch.ones(1, dtype=torch.float64)
    for a, b, p, q in layers:
        counts = [int(mask.sum()) for mask in (p, q, p & q, a, b)]
        layer = torch.tensor(_chances(*counts), dtype=torch.float64)
        total = torch.nn.functional.conv1d(
            total.view(1, 1, -1), layer.flip(0).view(1, 1, -1), padding=len(layer) - 1
        ).view(-1)
    return total


@lru_cache(maxsize=4096)
def _chances(first_from: int, second_from: int, common: int, first: int, second: int) -> tuple[float, ...]:
    """Probability of 0, 1, … shared members of random sets drawn from two sets that have ``common`` members."""
    found = [0.0] * (min(first, second) + 1)
    for u in range(min(first, common) + 1):
        for v in range(min(second, common) + 1):
            weight = _drawn(first_from, common, first, u) * _drawn(second_from, common, second, v)
            for shared in range(min(u, v) + 1) if weight else ():
                found[shared] += weight * _drawn(common, u, v, shared)
    return tuple(found)


def _drawn(filters: int, marked: int, taken: int, shared: int) -> float:
    """Probability that ``shared`` of ``taken`` filters, drawn from ``filters``, are among the ``marked``."""
    rest = taken - shared
    if rest > filters - marked:
        return 0.0
    return math.comb(marked, shared) * math.comb(filters - marked, rest) / math.comb(filters, taken)
