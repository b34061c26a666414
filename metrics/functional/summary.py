"""Summaries of a vector of filter importances, and of its change between two checks."""

from __future__ import annotations

import torch
from torch import Tensor

from convscope._arguments import share
from convscope.metrics.functional._precision import as_double
from convscope.metrics.functional._validation import (
    check_not_negative,
    check_same_shape,
    check_vector,
)


def gini(values: Tensor) -> Tensor:
    r"""Gini coefficient: how unevenly importance is spread over filters.

    .. math:: G = \frac{\sum_i \sum_j |x_i - x_j|}{2 C \sum_i x_i}

    Args:
        values: ``(C,)``, none negative.

    Returns:
        A float32 scalar in [0, 1 - 1/C]: 0 where all filters matter alike (or all values are zero),
        1 - 1/C where one filter holds everything.

    Raises:
        ValueError: if ``values`` is not a finite vector, is empty, or holds a negative value.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> gini(torch.tensor([0.0, 0.0, 0.0, 1.0]))
        tensor(0.7500)
    """
    check_vector("values", values)
    check_not_negative("values", values)
    ordered = as_double(values).sort().values
    count, total = ordered.numel(), ordered.sum()
    if total == 0:
        return total.float()
    rank = torch.arange(1, count + 1, dtype=torch.float64, device=ordered.device)
    # Zero from below is rounding: the exact value is never negative.
    return ((2 * rank - count - 1) @ ordered / (count * total)).clamp(min=0).float()


def top_count(num_values: int, fraction: float) -> int:
    """Number of filters in the top ``fraction``: at least one."""
    fraction = share("fraction", fraction, "a share of the filters")
    return max(1, round(fraction * num_values))


def top_share(values: Tensor, fraction: float = 0.1) -> Tensor:
    """Share of the total that the top ``fraction`` of filters holds.

    Args:
        values: ``(C,)``, none negative.
        fraction: in (0, 1]; ``max(1, round(fraction * C))`` filters are taken.

    Returns:
        A float32 scalar in [k/C, 1], k the number of filters taken; k/C where all values are zero.

    Raises:
        ValueError: if ``values`` is not a finite vector, is empty, or holds a negative value, or ``fraction``
            is out of range.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> top_share(torch.tensor([6.0, 1.0, 1.0, 2.0]), fraction=0.25)
        tensor(0.6000)
    """
    check_vector("values", values)
    check_not_negative("values", values)
    values = as_double(values)
    k = top_count(values.numel(), fraction)
    if values.sum() == 0:
        return torch.tensor(k / values.numel(), device=values.device)
    return (values.topk(k).values.sum() / values.sum()).float()


def average_ranks(values: Tensor) -> Tensor:
    """Ranks from 1, tied values sharing the mean of their ranks."""
    _, group, counts = torch.unique(values, sorted=True, return_inverse=True, return_counts=True)
    ranks: Tensor = (counts.cumsum(0) - (counts.double() - 1) / 2)[group]  # summed as integers: the same on any device
    return ranks


def rank_stability(current: Tensor, previous: Tensor) -> Tensor:
    """Spearman correlation of filter importance now and before (ties share their mean rank).

    Args:
        current: ``(C,)``.
        previous: ``(C,)``.

    Returns:
        A float32 scalar in [-1, 1]: 1 where the order of filters did not change. NaN, not measured, where a vector is
        constant and so has no order.

    Raises:
        ValueError: if the two are not finite vectors of one length.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> rank_stability(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0]))
        tensor(0.5000)
    """
    _check_pair(current, previous)
    a, b = average_ranks(as_double(current)), average_ranks(as_double(previous).to(current.device))
    a, b = a - a.mean(), b - b.mean()
    scale = (a.square().sum() * b.square().sum()).sqrt()
    return (a @ b / scale).clamp(-1, 1).float()  # 0 / 0 is NaN


def turnover(current: Tensor, previous: Tensor, fraction: float = 0.1) -> Tensor:
    r"""Share of the most important filters that were replaced: :math:`1 - \text{Jaccard}` of two top sets.

    .. math:: 1 - \frac{|A \cap B|}{|A \cup B|}

    Args:
        current: ``(C,)``.
        previous: ``(C,)``.
        fraction: in (0, 1]; ``max(1, round(fraction * C))`` filters make up a top set. Of tied filters the one
            with the lower index is taken.

    Returns:
        A float32 scalar in [0, 1]: 0 where the top set is the same, 1 where nothing of it is left.

    Raises:
        ValueError: if the two are not finite vectors of one length, or ``fraction`` is out of range.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> turnover(torch.tensor([9.0, 8.0, 1.0, 0.0]), torch.tensor([9.0, 1.0, 8.0, 0.0]), fraction=0.5)
        tensor(0.6667)
    """
    _check_pair(current, previous)
    k = top_count(current.numel(), fraction)
    common = (_top_mask(current, k) & _top_mask(previous.to(current.device), k)).sum().double()
    return (1 - common / (2 * k - common)).float()


def _top_mask(values: Tensor, k: int) -> Tensor:
    mask = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    mask[values.sort(descending=True, stable=True).indices[:k]] = True
    return mask


def _check_pair(current: Tensor, previous: Tensor) -> None:
    check_same_shape("`current`", current, "`previous`", previous)
    check_vector("current importance", current)
    check_vector("previous importance", previous)
