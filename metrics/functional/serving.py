"""Filters by class: each filter's share in serving a class, from correlations with the outputs."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from convscope._arguments import whole_number
from convscope.metrics.functional._precision import as_double
from convscope.metrics.functional._validation import check_finite


class ServingResult(NamedTuple):
    """The filters that serve each class best.

    Attributes:
        filters: ``(K, top)`` their numbers, the strongest first.
        shares: ``(K, top)`` float32, the share that each has in all that serves the class; 0 where nothing does.
    """

    filters: Tensor
    shares: Tensor


def serving_filters(correlation: Tensor, top: int = 3) -> ServingResult:
    r"""The filters whose activation rises with a class's output, and how much of that each one holds.

    .. math:: s_{c,k} = \frac{\max(\rho_{c,k}, 0)^2}{\sum_{c'} \max(\rho_{c',k}, 0)^2}

    Args:
        correlation: ``(C, K)`` Pearson correlation of each filter's pooled activation with each output.
        top: filters to name for each class; all C of them where there are no more.

    Returns:
        A :class:`ServingResult`. Shares lie in [0, 1]; over all filters of a class they sum to one.

    Raises:
        ValueError: if the shape is wrong, a value is NaN or Inf, or ``top`` is below 1.

    Source: reconstruction (arXiv 2211.00185: feature correlation with the output); the share is ours.

    Example:
        >>> import torch
        >>> serving_filters(torch.tensor([[0.8, 0.0], [-0.9, 0.6], [0.4, 0.0]]), top=1)
        ServingResult(filters=tensor([[0],
                [1]]), shares=tensor([[0.8000],
                [1.0000]]))
    """
    if correlation.ndim != 2 or 0 in correlation.shape:
        raise ValueError(f"The correlations must have shape (C, K), got {tuple(correlation.shape)}.")
    top = whole_number("top", top, "a whole number of filters")
    check_finite("correlations", correlation)
    strength = as_double(correlation).clamp(min=0).square()
    # A class that no filter serves has a sum of zero, and shares of zero.
    shares = strength / strength.sum(dim=0).clamp(min=1e-300)
    order = shares.argsort(dim=0, descending=True, stable=True)[:top]
    return ServingResult(order.T, shares.gather(0, order).T.float())
