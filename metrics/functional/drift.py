"""Distance of a layer from its earlier self: correlation matrix, channel means and variances."""

from __future__ import annotations

import torch
from torch import Tensor

from convscope.metrics.functional._precision import as_double
from convscope.metrics.functional._validation import (
    check_finite,
    check_not_negative,
    check_same_shape,
    check_vector,
)


def correlation_change(current: Tensor, previous: Tensor) -> Tensor:
    r"""Relative change of a correlation matrix, :math:`\|R_t - R_{t-1}\|_F / \|R_{t-1}\|_F`.

    Args:
        current: ``(C, C)`` Pearson matrix now, as :func:`~convscope.metrics.functional.channel_correlation` gives it.
        previous: ``(C, C)`` the same filters' matrix before.

    Returns:
        Float32 scalar, 0 for no change, 2 where every sign flipped. Infinite where no filter varied before and
        some do now; NaN, not measured, where none does at either time.

    Raises:
        ValueError: if the matrices are not square and of one size, or a value is NaN or Inf.

    Source: reconstruction (feature correlation over training, Yang et al. 2022, arXiv 2211.00185).

    Example:
        >>> import torch
        >>> correlation_change(torch.eye(2), torch.ones(2, 2))
        tensor(0.7071)
    """
    check_same_shape("`current`", current, "`previous`", previous)
    if current.ndim != 2 or current.shape[0] != current.shape[1]:
        raise ValueError(f"A correlation matrix must have shape (C, C), got {tuple(current.shape)}.")
    check_finite("correlations", current, previous)
    return _matrix_change(current, previous)


def _matrix_change(current: Tensor, previous: Tensor) -> Tensor:
    now, before = as_double(current), as_double(previous)
    change: Tensor = torch.linalg.norm(now - before) / torch.linalg.norm(before)
    return change.float()


def mean_shift(mean: Tensor, variance: Tensor, previous_mean: Tensor, previous_variance: Tensor) -> Tensor:
    r"""Shift of a layer's channel means, in standard deviations of the layer.

    .. math:: \sqrt{\frac{\sum_c (\mu_c - \mu'_c)^2}{\frac{1}{2} \sum_c (\sigma_c^2 + \sigma_c'^2)}}

    The sums are over channels before the division, so that a channel that does not vary cannot blow it up.

    Args:
        mean: ``(C,)`` channel means now.
        variance: ``(C,)`` channel variances now.
        previous_mean: ``(C,)`` channel means before.
        previous_variance: ``(C,)`` channel variances before.

    Returns:
        Float32 scalar, at least 0. Infinite where no channel varies at either time and the means moved.

    Raises:
        ValueError: if they are not vectors of one length, a variance is negative, or a value is NaN or Inf.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> mean_shift(torch.tensor([3.0]), torch.tensor([4.0]), torch.tensor([1.0]), torch.tensor([4.0]))
        tensor(1.)
    """
    check_same_shape("`mean`", mean, "`previous_mean`", previous_mean)
    check_same_shape("`mean`", mean, "`variance`", variance)
    _check_variances(variance, previous_variance)
    check_vector("mean", mean)
    check_vector("previous mean", previous_mean)
    return _mean_change(mean, variance, previous_mean, previous_variance)


def _mean_change(mean: Tensor, variance: Tensor, previous_mean: Tensor, previous_variance: Tensor) -> Tensor:
    moved = torch.linalg.vector_norm(as_double(mean) - as_double(previous_mean))
    spread = (as_double(variance).sum() + as_double(previous_variance).sum()) / 2
    return _ratio(moved, spread.sqrt())


def variance_shift(variance: Tensor, previous_variance: Tensor) -> Tensor:
    r"""Relative change of a layer's channel variances, :math:`\sum_c|v_c - v'_c| / \sum_c(v_c + v'_c)`.

    Args:
        variance: ``(C,)`` channel variances now.
        previous_variance: ``(C,)`` channel variances before.

    Returns:
        Float32 scalar in [0, 1]: 0 for no change, 1/3 where every variance doubled or halved, 1 where channels that
        varied no longer do and those that did not now do.

    Raises:
        ValueError: if they are not vectors of one length, a variance is negative, or a value is NaN or Inf.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> variance_shift(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 1.0]))
        tensor(0.3333)
    """
    _check_variances(variance, previous_variance)
    return _variance_change(variance, previous_variance)


def _variance_change(variance: Tensor, previous_variance: Tensor) -> Tensor:
    now, before = as_double(variance), as_double(previous_variance)
    return _ratio((now - before).abs().sum(), (now + before).sum())


Statistics = tuple[Tensor, Tensor, Tensor]
"""Correlation matrix ``(C, C)``, means ``(C,)`` and variances ``(C,)`` of a layer's filters."""


def statistics_changes(now: Statistics, before: Statistics) -> dict[str, Tensor]:
    """:func:`correlation_change`, :func:`mean_shift` and :func:`variance_shift` of statistics that need no check."""
    (matrix, mean, variance), (old_matrix, old_mean, old_variance) = now, before
    return {
        "correlation_change": _matrix_change(matrix, old_matrix),
        "mean_shift": _mean_change(mean, variance, old_mean, old_variance),
        "variance_shift": _variance_change(variance, old_variance),
    }


def _check_variances(variance: Tensor, previous_variance: Tensor) -> None:
    check_same_shape("`variance`", variance, "`previous_variance`", previous_variance)
    for name, values in (("variance", variance), ("previous variance", previous_variance)):
        check_vector(name, values)
        check_not_negative(name, values)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """A float32 quotient in which 0 / 0 is 0."""
    return torch.where(numerator == 0, 0.0, numerator / denominator).float()
