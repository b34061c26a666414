"""Correlation of a layer's filters: the Pearson matrix and summaries of its spectrum."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from convscope._arguments import share
from convscope.metrics.functional._precision import as_double
from convscope.metrics.functional._validation import check_channels, check_finite
from convscope.metrics.functional.covariance import (
    Moments,
    channel_moments,
    correlation_of,
)


class CorrelationSummary(NamedTuple):
    """Summary of one correlation matrix, float32 scalars.

    Attributes:
        mean_abs: mean \\|ρ\\| over pairs of different varying filters, in [0, 1]; NaN where there is no pair.
        redundant_share: share of those pairs with \\|ρ\\| above the threshold, in [0, 1]; NaN likewise.
        effective_rank: exp of the entropy of the normalised spectrum, in [1, C].
        effective_rank_ratio: the same divided by C, constant filters included in C.
        participation_ratio: (Σλ)²/Σλ², in [1, C].
        participation_ratio_ratio: the same divided by C.
        constant: number of filters without variation, int64.
    """

    mean_abs: Tensor
    redundant_share: Tensor
    effective_rank: Tensor
    effective_rank_ratio: Tensor
    participation_ratio: Tensor
    participation_ratio_ratio: Tensor
    constant: Tensor


class CorrelationResult(NamedTuple):
    """Result of :class:`~convscope.metrics.ChannelCorrelation`: the matrix and its summary.

    Attributes:
        matrix: ``(C, C)`` float32 Pearson correlations, zero rows and columns for constant filters.
        varying: ``(C,)`` bool, filters that vary.
        mean_abs: see :class:`CorrelationSummary`, as the next six.
        redundant_share: see there.
        effective_rank: see there.
        effective_rank_ratio: see there.
        participation_ratio: see there.
        participation_ratio_ratio: see there.
        constant: see there.
        mean: ``(C,)`` float32 mean activation.
        variance: ``(C,)`` float32 population variance of the activation.
    """

    matrix: Tensor
    varying: Tensor
    mean_abs: Tensor
    redundant_share: Tensor
    effective_rank: Tensor
    effective_rank_ratio: Tensor
    participation_ratio: Tensor
    participation_ratio_ratio: Tensor
    constant: Tensor
    mean: Tensor
    variance: Tensor


class ChannelStatistics(NamedTuple):
    """Result of :class:`~convscope.metrics.ChannelMoments`.

    Attributes:
        matrix: ``(C, C)`` float32 Pearson correlations, zero rows and columns for constant filters.
        varying: ``(C,)`` bool, filters that vary.
        mean: ``(C,)`` float32 mean activation.
        variance: ``(C,)`` float32 population variance of the activation.
    """

    matrix: Tensor
    varying: Tensor
    mean: Tensor
    variance: Tensor


def channel_correlation(activation: Tensor, max_positions: int | None = None, seed: int = 0) -> Tensor:
    """Pearson correlation of the filters of a layer, over samples and positions.

    Args:
        activation: ``(N, C, *S)``, of any float type.
        max_positions: at most this many positions of each map, the same ones for every sample; all if ``None``.
        seed: which positions.

    Returns:
        ``(C, C)`` float32 in [-1, 1], with zero rows and columns for constant filters.

    Raises:
        ValueError: if the shape or type is wrong, there is no sample, or a value is NaN or Inf.

    Source: reconstruction (Yang et al. 2022 name feature correlation; the paper's body is not public).

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 2.0, 5.0], [2.0, 4.0, 5.0], [3.0, 6.0, 5.0]])
        >>> channel_correlation(x)
        tensor([[1., 1., 0.],
                [1., 1., 0.],
                [0., 0., 0.]])
    """
    check_channels("activation", activation, activation.shape[1] if activation.ndim > 1 else 0)
    moments = channel_moments(activation, max_positions, seed)
    check_moments(moments)
    return correlation_of(moments)[0].float()


def correlation_summary(matrix: Tensor, threshold: float = 0.9) -> CorrelationSummary:
    """Summaries of a Pearson matrix as :func:`channel_correlation` gives it.

    The spectrum is that of the correlation, not of the covariance: scaling a filter (as a BatchNorm does to no
    effect on what it tells apart) must not change how many directions a layer is said to use. Constant filters
    are left out of the pairs and the spectrum, and counted.

    Args:
        matrix: ``(C, C)``, zero diagonal entries marking constant filters.
        threshold: of \\|ρ\\| above which a pair is redundant, in (0, 1].

    Returns:
        A :class:`CorrelationSummary`. With one varying filter both ranks are 1, with none 0; with fewer than
        two there are no pairs, and ``mean_abs`` and ``redundant_share`` are NaN, not measured.

    Raises:
        ValueError: if the matrix is not square, not finite, or ``threshold`` is out of range.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> summary = correlation_summary(torch.eye(4))
        >>> summary.effective_rank, summary.mean_abs
        (tensor(4.), tensor(0.))
    """
    threshold = share("threshold", threshold, "a correlation")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"The correlation matrix must have shape (C, C), got {tuple(matrix.shape)}.")
    check_finite("correlation matrix", matrix)
    matrix = as_double(matrix)
    varying = matrix.diagonal() != 0
    return _summary(matrix, varying, int(varying.sum()), threshold)


def _summary(matrix: Tensor, varying: Tensor, count: int, threshold: float) -> CorrelationSummary:
    """As :func:`correlation_summary`, for a finite matrix in float64 of which ``count`` filters vary."""
    channels = len(matrix)
    kept = matrix if count == channels else matrix[varying][:, varying]
    ranks = _ranks(_shares(torch.linalg.eigvalsh(kept))).float()
    # Wide layers have matrices of many MiB: no copy of the pairs is made.
    pairs, sizes = count * (count - 1.0), kept.abs().fill_diagonal_(0)
    shares = torch.stack([sizes.sum(), (sizes > threshold).sum()]) / pairs  # NaN where there is no pair
    constant = torch.full((), channels - count, dtype=torch.int64, device=matrix.device)
    mean_abs, redundant = shares.float().unbind()
    (rank, participation), (rank_ratio, participation_ratio) = ranks.unbind(), (ranks / channels).unbind()
    return CorrelationSummary(mean_abs, redundant, rank, rank_ratio, participation, participation_ratio, constant)


def effective_rank(eigenvalues: Tensor) -> Tensor:
    r"""Effective rank of a spectrum: :math:`\exp H(\lambda / \sum \lambda)` (Roy & Vetterli 2007).

    Args:
        eigenvalues: ``(C,)`` of a positive semi-definite matrix; negative ones are rounding and count as 0.

    Returns:
        A float32 scalar in [1, C], 0 where the spectrum is empty or zero.

    Raises:
        ValueError: if an eigenvalue is NaN or Inf.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> effective_rank(torch.tensor([2.0, 2.0, 0.0]))
        tensor(2.)
    """
    check_finite("eigenvalues", eigenvalues)
    return _ranks(_shares(eigenvalues))[0].float()


def participation_ratio(eigenvalues: Tensor) -> Tensor:
    r"""Participation ratio of a spectrum: :math:`(\sum \lambda)^2 / \sum \lambda^2`.

    Args:
        eigenvalues: ``(C,)`` of a positive semi-definite matrix; negative ones are rounding and count as 0.

    Returns:
        A float32 scalar in [1, C], 0 where the spectrum is empty or zero.

    Raises:
        ValueError: if an eigenvalue is NaN or Inf.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> participation_ratio(torch.tensor([3.0, 1.0]))
        tensor(1.6000)
    """
    check_finite("eigenvalues", eigenvalues)
    return _ranks(_shares(eigenvalues))[1].float()


def channel_statistics(moments: Moments) -> ChannelStatistics:
    """Correlation matrix, means and variances from the moments of a layer."""
    return _statistics(moments)[0]


def correlation_result(moments: Moments, threshold: float) -> CorrelationResult:
    """Correlation matrix and summary from the moments of a layer."""
    found, matrix, count = _statistics(moments)
    summary = _summary(matrix, found.varying, count, threshold)
    return CorrelationResult(found.matrix, found.varying, *summary, found.mean, found.variance)


def _statistics(moments: Moments) -> tuple[ChannelStatistics, Tensor, int]:
    """Statistics, the matrix in float64 and the number of filters that vary.

    Raises:
        ValueError: if there was no sample, or an activation was NaN or Inf.
    """
    matrix, varying = correlation_of(moments)
    mean = moments.total / moments.observations
    variance = (moments.product.diagonal() / moments.observations - mean.square()).clamp(min=0)
    # One look for all that is to be known: no sample, or a NaN or Inf anywhere in the moments, comes out as NaN or Inf.
    ends = [end for each in (matrix, mean, variance) for end in torch.aminmax(each)]
    *found, count = torch.stack([*ends, varying.sum()]).tolist()
    if not all(map(math.isfinite, found)):
        check_moments(moments)
        check_finite("correlation matrix", matrix)
    return ChannelStatistics(matrix.float(), varying, mean.float(), variance.float()), matrix, int(count)


def check_moments(moments: Moments) -> None:
    """There is something to correlate, and it is finite."""
    if moments.observations == 0:
        raise ValueError("The correlation needs samples, got none. Update the metric before computing it.")
    check_finite("activation's moments", moments.product, moments.total)


def _shares(eigenvalues: Tensor) -> Tensor:
    """A finite spectrum with a sum of 1, or of 0 where it is empty or zero."""
    spectrum = as_double(eigenvalues).clamp(min=0)
    return torch.nan_to_num(spectrum / spectrum.sum(), 0.0)


def _ranks(shares: Tensor) -> Tensor:
    """Effective rank and participation ratio ``(2,)`` of a spectrum of that sum, 0 where that is 0."""
    square = shares.square().sum()
    return torch.where(square > 0, torch.stack([torch.special.entr(shares).sum().exp(), 1 / square]), 0.0)
