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
    check_vector_shape,
    least_and_greatest,
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
    _check_magnitudes(values)
    return _gini(as_double(values)).float()


def _gini(values: Tensor) -> Tensor:
    ordered, count = values.sort().values, values.numel()
    weights = torch.arange(1 - count, count, 2, dtype=values.dtype, device=values.device)
    # Zero from below is rounding: the exact value is never negative. 0 / 0 is 0: all values are alike.
    return torch.nan_to_num(weights @ ordered / (count * ordered.sum()), 0.0).clamp(min=0)


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
    _check_magnitudes(values)
    return _top_share(as_double(values), top_count(values.numel(), fraction)).float()


def _top_share(values: Tensor, k: int) -> Tensor:
    # 0 / 0: of values that are all zero, any k are the top.
    return torch.nan_to_num(values.topk(k).values.sum() / values.sum(), k / values.numel())


def average_ranks(values: Tensor) -> Tensor:
    """Ranks from 1, float64, tied values sharing the mean of their ranks."""
    ordered = values.sort().values
    below = torch.searchsorted(ordered, values)
    not_above = torch.searchsorted(ordered, values, right=True)
    return as_double(below + not_above + 1) / 2


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
    current = as_double(current)
    return _rank_stability(current, as_double(previous).to(current.device)).float()


def _rank_stability(current: Tensor, previous: Tensor) -> Tensor:
    a, b = (ranks - ranks.mean() for ranks in (average_ranks(current), average_ranks(previous)))
    alike: Tensor = a @ b / (torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b))  # 0 / 0 is NaN
    return alike.clamp(-1, 1)


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
    return _turnover(current, previous.to(current.device), top_count(current.numel(), fraction)).float()


def _turnover(current: Tensor, previous: Tensor, k: int) -> Tensor:
    common = as_double((_top_mask(current, k) & _top_mask(previous, k)).sum())
    return 1 - common / (2 * k - common)


def _top_mask(values: Tensor, k: int) -> Tensor:
    mask = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    return mask.index_fill_(0, values.sort(descending=True, stable=True).indices[:k], True)


def summaries(current: Tensor, previous: Tensor | None, fraction: float) -> dict[str, Tensor]:
    """All summaries of importances ``(C,)`` float64, scalars; those of change only where there are previous ones.

    Raises:
        ValueError: if ``current`` is not a finite vector, is empty, or holds a negative value.
    """
    _check_magnitudes(current)
    k = top_count(current.numel(), fraction)
    found = {"gini": _gini(current), "top_share": _top_share(current, k), "mean": current.mean()}
    if previous is not None:
        found["rank_stability"] = _rank_stability(current, previous)
        found["turnover"] = _turnover(current, previous, k)
    return found


def _check_magnitudes(values: Tensor) -> None:
    check_vector_shape("values", values)
    least, _ = least_and_greatest("values", values)
    if least < 0:
        check_not_negative("values", values)


def _check_pair(current: Tensor, previous: Tensor) -> None:
    check_same_shape("`current`", current, "`previous`", previous)
    check_vector("current importance", current)
    check_vector("previous importance", previous)
