"""Effect of removing filters: sums of outcomes by class, and the area under a removal curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convscope._arguments import refuse
from convscope.metrics.functional._precision import as_double
from convscope.metrics.functional._validation import check_finite


class OutcomeResult(NamedTuple):
    """Result of :class:`~convscope.metrics.InterventionOutcome`, for S filter sets and K classes.

    Attributes:
        loss: ``(S,)`` float32 mean loss.
        accuracy: ``(S,)`` float32 in [0, 1].
        class_loss: ``(S, K)`` float32 mean loss over the samples of each class; NaN for a class without samples.
        class_accuracy: ``(S, K)`` float32, likewise.
    """

    loss: Tensor
    accuracy: Tensor
    class_loss: Tensor
    class_accuracy: Tensor


def sums_by_class(values: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Sums ``(S, K)`` in float64 of ``(S, n)`` values over the samples of each class."""
    zeros = torch.zeros(len(values), num_classes, dtype=torch.float64, device=as_double(values).device)
    return zeros.index_add_(1, target.to(zeros.device), as_double(values))


def outcome_result(losses: Tensor, hits: Tensor, counts: Tensor) -> OutcomeResult:
    """Means from sums ``(S, K)`` and the number of samples of each class ``(K,)``."""
    if counts.sum() == 0:
        raise ValueError("The outcome of an intervention needs samples, got none. Update the metric before computing.")
    check_finite("losses after an intervention", losses)
    total = counts.sum()
    return OutcomeResult(
        (losses.sum(1) / total).float(),
        (hits.sum(1) / total).float(),
        (losses / counts).float(),
        (hits / counts).float(),
    )


def removal_area(accuracy: Tensor, shares: Sequence[float]) -> Tensor:
    r"""Area under the curve of accuracy against the share of filters removed.

    .. math:: \int_0^1 \mathrm{accuracy}(r)\, dr \quad \text{(trapezoidal rule)}

    High for an order that removes what does not matter first, low for one that removes what matters first.

    Args:
        accuracy: ``(R,)``.
        shares: R shares of removed filters, rising from 0 to 1.

    Returns:
        A float32 scalar, in [0, 1] where the accuracies are.

    Raises:
        ValueError: if the lengths differ, or ``shares`` does not rise from 0 to 1.

    Source: reconstruction (arXiv 2211.00185: the effect of filter importance).

    Example:
        >>> import torch
        >>> removal_area(torch.tensor([0.9, 0.9, 0.1]), [0.0, 0.5, 1.0])
        tensor(0.7000)
    """
    places = torch.tensor(list(shares), dtype=torch.float64)
    if accuracy.shape != places.shape or len(places) < 2:
        raise ValueError(f"Each share needs an accuracy, at least two, got {tuple(accuracy.shape)} for {list(shares)}.")
    if places[0] != 0 or places[-1] != 1 or bool((places.diff() <= 0).any()):
        raise refuse("shares", list(shares), "shares that rise from 0 to 1")
    return torch.trapezoid(as_double(accuracy).cpu(), places).float()
