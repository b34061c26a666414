"""Scores of read-outs for targets that are no single class: quantities, several labels, a class per position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from convscope._arguments import one_of, whole_number
from convscope.metrics.functional._precision import as_double, is_varying
from convscope.metrics.functional._validation import check_finite, check_same_shape

Ties = Literal["together", "shuffled"]


def r2_score(predictions: Tensor, targets: Tensor) -> Tensor:
    r"""Coefficient of determination, the mean over targets.

    .. math:: R^2 = \frac{1}{D}\sum_d 1 - \frac{\sum_i (y_{id} - \hat y_{id})^2}{\sum_i (y_{id} - \bar y_d)^2}

    Args:
        predictions: ``(N, D)``.
        targets: ``(N, D)``; constant columns, for which it is not defined, are left out.

    Returns:
        A float32 scalar, at most 1; 0 for a prediction no better than the mean, below 0 for a worse one.

    Raises:
        ValueError: if shapes disagree, a value is NaN or Inf, or every target is constant.

    Source: the field's definition.

    Example:
        >>> import torch
        >>> r2_score(torch.tensor([[1.0], [2.0], [2.0]]), torch.tensor([[1.0], [2.0], [3.0]]))
        tensor(0.5000)
    """
    predictions, targets = _checked(predictions, targets)
    spread = (targets - targets.mean(dim=0)).square().sum(dim=0)
    varying = is_varying(spread, targets.square().sum(dim=0))
    _some("varies", varying)
    error = (targets - predictions).square().sum(dim=0)
    return (1 - error[varying] / spread[varying]).mean().float()


def mean_average_precision(scores: Tensor, targets: Tensor, ties: Ties = "together") -> Tensor:
    r"""Mean over labels of the average precision of ranking the samples by a label's scores.

    .. math:: AP = \sum_n (R_n - R_{n-1}) P_n

    over the distinct scores from high to low, with precision P and recall R among the samples down to there.

    Args:
        scores: ``(N, K)``, higher for a label that is more likely there.
        targets: ``(N, K)``, 1 where the label is there and 0 where not. Labels that are there always or never, for
            which there is nothing to rank, are left out.
        ties: ``"together"`` ranks samples that share a score at one place, as the formula says; ``"shuffled"`` takes
            the mean over all their orders, so that scores that are all alike rank as random ones do.

    Returns:
        A float32 scalar in (0, 1]; for scores that say nothing about :func:`blind_average_precision`.

    Raises:
        ValueError: if shapes disagree, a score is NaN or Inf, a target is not 0 or 1, no label varies, or ``ties`` is
            unknown.

    Source: the field's definition.

    Example:
        >>> import torch
        >>> mean_average_precision(torch.tensor([[0.1], [0.4], [0.35], [0.8]]), torch.tensor([[0], [0], [1], [1]]))
        tensor(0.8333)
    """
    scores, targets = _checked(scores, targets)
    check_zero_or_one(targets)
    one_of("ties", ties, get_args(Ties))
    score = _average_precision if ties == "together" else _shuffled_precision
    ranked = _varying_labels(targets).nonzero().flatten().tolist()
    return torch.stack([score(scores[:, label], targets[:, label]) for label in ranked]).mean().float()


def blind_average_precision(targets: Tensor) -> Tensor:
    r"""Mean average precision that a ranking in random order has on average, over the labels that vary.

    .. math:: AP = \frac{p - 1}{N - 1} + \frac{N - p}{N (N - 1)} \sum_{n=1}^{N} \frac{1}{n}

    for a label that p of N samples have.

    Args:
        targets: ``(N, K)`` of 0 and 1.

    Returns:
        A float32 scalar in (0, 1], somewhat above :func:`label_prevalence` where samples are few.

    Raises:
        ValueError: if a target is not 0 or 1, or no label varies.

    Source: the field's definition, averaged over all orders.

    Example:
        >>> import torch
        >>> blind_average_precision(torch.tensor([[1], [0]]))
        tensor(0.7500)
    """
    targets = as_double(targets)
    return mean_average_precision(torch.zeros_like(targets), targets, "shuffled")


def label_prevalence(targets: Tensor) -> Tensor:
    """Mean share of samples that have a label, over the labels that vary.

    Args:
        targets: ``(N, K)`` of 0 and 1.

    Returns:
        A float32 scalar in (0, 1).

    Raises:
        ValueError: if a target is not 0 or 1, or no label varies.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> label_prevalence(torch.tensor([[1, 1], [0, 1], [0, 1], [0, 1]]))
        tensor(0.2500)
    """
    targets = as_double(targets)
    check_zero_or_one(targets)
    return targets[:, _varying_labels(targets)].mean().float()


def mean_iou(predicted: Tensor, target: Tensor) -> Tensor:
    r"""Intersection over union of each class, the mean over the classes present in the target.

    .. math:: IoU_k = \frac{|\{\hat y = k\} \cap \{y = k\}|}{|\{\hat y = k\} \cup \{y = k\}|}

    Args:
        predicted: ``(N, *)`` class indices.
        target: ``(N, *)`` class indices; negative ones (-100) are ignored, there and in ``predicted``.

    Returns:
        A float32 scalar in [0, 1].

    Raises:
        ValueError: if shapes disagree, or no position counts.

    Source: the field's definition.

    Example:
        >>> import torch
        >>> mean_iou(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 0, 0, 1]]))
        tensor(0.5833)
    """
    check_same_shape("predicted", predicted, "target", target)
    counted = target >= 0
    _some("is a position that counts", counted)
    predicted, target = predicted[counted], target[counted]
    ious = [_iou(predicted == label, target == label) for label in torch.unique(target)]
    return torch.stack(ious).mean().float()


def control_score(judge: Callable[[Tensor], Tensor], samples: int, n_controls: int = 4, seed: int = 0) -> Tensor:
    """Mean of ``judge(order)`` over random orders of the samples: what a probe reaches on targets of other samples.

    Args:
        judge: score of a prepared probe on the targets brought into an order ``(N,)``.
        samples: N.
        n_controls: how many orders to average over.
        seed: of the orders; the same as :func:`control_accuracy` draws.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: if ``n_controls`` is below 1.

    Source: reconstruction (Hewitt & Liang 2019, with permuted targets as the control).

    Example:
        >>> import torch
        >>> y = torch.arange(8.0)[:, None]
        >>> bool(control_score(lambda order: r2_score(y, y[order]), 8) < 1)
        True
    """
    n_controls = whole_number("n_controls", n_controls)
    generator = torch.Generator().manual_seed(seed)
    scores = [judge(torch.randperm(samples, generator=generator)) for _ in range(n_controls)]
    return torch.stack(scores).double().mean().float()


def check_zero_or_one(targets: Tensor) -> None:
    """Multi-label targets are 0 or 1."""
    if targets.ndim != 2 or not bool(((targets == 0) | (targets == 1)).all()):
        raise ValueError(
            f"Multi-label targets must have shape (N, K) and be 0 or 1, got shape {tuple(targets.shape)} with values "
            f"from {float(targets.min()):g} to {float(targets.max()):g}."
        )


def _varying_labels(targets: Tensor) -> Tensor:
    share = targets.mean(dim=0)
    varying = (share > 0) & (share < 1)
    _some("is there in some samples and not in others", varying)
    return varying


def _average_precision(scores: Tensor, truth: Tensor) -> Tensor:
    scores, order = scores.sort(descending=True, stable=True)
    hits = truth[order].long().cumsum(0).to(truth.dtype)  # counts: a sum of floats is not deterministic on a GPU
    # Only where the score changes: samples that share a score cannot be told apart.
    last = torch.ones_like(scores, dtype=torch.bool)
    last[:-1] = scores[1:] != scores[:-1]
    precision = (hits / torch.arange(1, len(hits) + 1, device=hits.device))[last]
    recall = hits[last] / hits[-1]
    return (precision * torch.diff(recall, prepend=recall.new_zeros(1))).sum()


def _shuffled_precision(scores: Tensor, truth: Tensor) -> Tensor:
    """Average precision, the mean over all orders of samples that share a score (up to rounding)."""
    scores, order = scores.sort(descending=True)
    truth = truth[order]
    starts = torch.ones_like(scores, dtype=torch.bool)
    starts[1:] = scores[:-1] - scores[1:] > 1e-9 * (1 + scores[1:].abs())
    group, first = starts.cumsum(0) - 1, starts.nonzero().flatten()
    size = torch.bincount(group).double()
    # Counted in whole numbers: a running sum of floats has no deterministic kernel on a GPU.
    counts = torch.zeros(len(size), dtype=torch.long, device=size.device).index_add_(0, group, truth.long())
    hits, before = counts.double(), (counts.cumsum(0) - counts).double()
    place = torch.arange(len(scores), device=scores.device)
    # The share of hits in a group is the chance of one at each of its places; given that, the others lie at random.
    earlier = (place - first[group]) * ((hits - 1) / (size - 1).clamp(min=1)).clamp(min=0)[group]
    return ((hits / size)[group] * (before[group] + 1 + earlier) / (place + 1)).sum() / hits.sum()


def _iou(predicted: Tensor, truth: Tensor) -> Tensor:
    return (predicted & truth).sum().double() / (predicted | truth).sum()


def _checked(predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    check_same_shape("predictions", predictions, "targets", targets)
    if predictions.ndim != 2 or len(predictions) == 0:
        raise ValueError(f"Predictions and targets must have shape (N, K) with N >= 1, got {tuple(targets.shape)}.")
    check_finite("predictions", predictions)
    check_finite("targets", targets)
    predictions = as_double(predictions)
    return predictions, as_double(targets).to(predictions.device)


def _some(what: str, condition: Tensor) -> None:
    if not bool(condition.any()):
        raise ValueError(f"There is no target that {what}: nothing can be judged. Use a larger or other held-out set.")
