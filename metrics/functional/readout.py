"""Calibrated probabilities from a probe's out-of-sample scores, and their calibration error."""

from __future__ import annotations

import torch
from torch import Tensor

from convscope._arguments import whole_number
from convscope.metrics.functional._precision import as_double
from convscope.metrics.functional._validation import check_finite, check_target
from convscope.metrics.functional.logistic import stratified_folds
from convscope.metrics.functional.scores import encode_classes

_MAX_STEPS = 50
_TOLERANCE = 1e-7


def calibrated_readout(scores: Tensor, target: Tensor, folds: int = 5) -> Tensor:
    r"""Log-probabilities of the classes from a probe's out-of-sample scores.

    .. math:: p_i = \mathrm{softmax}(\log \pi + \beta_{f(i)} (s_i - \pi))

    :math:`\pi` are the shares of the classes and :math:`\beta \ge 0` the one parameter, that of temperature scaling
    (Guo et al. 2017), fitted by maximum likelihood on the folds other than the sample's own, :math:`f(i)`: no sample
    calibrates itself. Scores that say nothing get :math:`\beta = 0` and so the shares of the classes. With classes of
    equal size the order of the scores, and with it the prediction, is kept. Targets are smoothed as by Platt (1999):
    n samples without an error do not make a probability of one.

    Args:
        scores: ``(N, K)``, estimates of class membership such as :class:`~convscope.metrics.RidgeProbe` gives, one
            column for each class present in ``target``, sorted.
        target: ``(N,)`` class indices.
        folds: parts of which each is calibrated by the others; at most N.

    Returns:
        ``(N, K)`` float64 log-probabilities; each row's exponentials sum to one.

    Raises:
        ValueError: if shapes disagree, a score is NaN or Inf, or ``folds`` is out of range.

    Source: reconstruction (the Hybrid CNN-Interpreter's layer-specific prediction, arXiv 2211.00185; its body is not
    public). Calibration: Guo et al. 2017, Platt 1999.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6], [0.2, 0.8]])
        >>> calibrated_readout(scores, torch.tensor([0, 0, 1, 1]), folds=2).exp().argmax(dim=1)
        tensor([0, 0, 1, 1])
    """
    codes = _check(scores, target)
    folds = whole_number("folds", folds, f"a whole number of folds of {len(codes)} samples", least=2, most=len(codes))
    shares = torch.bincount(codes, minlength=scores.shape[1]).double() / len(codes)
    offsets = as_double(scores).to(codes.device) - shares
    fold = stratified_folds(codes, folds)
    trains = (fold != torch.arange(folds, device=codes.device)[:, None]).double()
    everybody = _fit(offsets, shares.log(), codes, torch.ones_like(trains[:1]), trains.new_zeros(1))
    beta = _fit(offsets, shares.log(), codes, trains, everybody.expand(folds))
    return (shares.log() + beta[fold][:, None] * offsets).log_softmax(dim=1)


def calibration_error(log_probabilities: Tensor, target: Tensor, num_bins: int = 15) -> Tensor:
    r"""Expected calibration error: mean distance between how sure the predictions are and how often they are right.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{N} \left|\mathrm{accuracy}_b - \mathrm{confidence}_b\right|

    over bins of equal width of the confidence, the largest probability of a row.

    Args:
        log_probabilities: ``(N, K)``; minus infinity for a class that is ruled out.
        target: ``(N,)`` column indices in [0, K - 1].
        num_bins: number of bins.

    Returns:
        A float32 scalar in [0, 1]. Even perfect calibration gives some noise, about
        :math:`\sqrt{\text{bins} / N} / 3`.

    Raises:
        ValueError: if shapes disagree, there is no sample, or ``num_bins`` is below 1.

    Source: reconstruction (Naeini et al. 2015, Guo et al. 2017).

    Example:
        >>> import torch
        >>> calibration_error(torch.tensor([[0.75, 0.25], [0.75, 0.25]]).log(), torch.tensor([0, 1]))
        tensor(0.2500)
    """
    num_bins = whole_number("num_bins", num_bins)
    check_target(target, len(log_probabilities))
    if log_probabilities.ndim != 2 or len(target) == 0:
        raise ValueError(
            f"The log-probabilities must have shape (N, K) with N >= 1, got {tuple(log_probabilities.shape)}."
        )
    confidence, predicted = as_double(log_probabilities).exp().max(dim=1)
    hits = (predicted == target.to(predicted.device)).double()
    bins = (confidence * num_bins).ceil().long().sub(1).clamp(0, num_bins - 1)
    gaps = torch.zeros(num_bins, dtype=torch.float64, device=bins.device).index_add_(0, bins, hits - confidence)
    return (gaps.abs().sum() / len(target)).float()


def _check(scores: Tensor, target: Tensor) -> Tensor:
    check_target(target, scores.shape[0])
    classes, codes = encode_classes(target)
    if scores.ndim != 2 or scores.shape[1] != len(classes) or len(classes) < 2:
        raise ValueError(
            f"The scores must have shape (N, {max(2, len(classes))}), one column for each class present in the target "
            f"and at least two classes, got {tuple(scores.shape)}."
        )
    check_finite("scores", scores)
    return codes


def _fit(offsets: Tensor, prior: Tensor, codes: Tensor, weights: Tensor, beta: Tensor) -> Tensor:
    """The slope ``(F,)`` of each fold: Newton's method inside a bracket, since the loss is convex in it."""
    wanted = _smoothed(offsets, codes)
    low, high = torch.zeros_like(beta), torch.full_like(beta, torch.inf)
    useless = _derivatives(low, offsets, prior, wanted, weights)[0] >= 0  # the loss is least at zero or below
    for _ in range(_MAX_STEPS):
        slope, curvature = _derivatives(beta, offsets, prior, wanted, weights)
        low, high = torch.where(slope < 0, beta, low), torch.where(slope >= 0, beta, high)
        step = beta - slope / curvature.clamp(min=1e-300)
        # Newton's method doubles its digits: after a step as small as this nothing is left to gain.
        settled = useless | ((step - beta).abs() <= _TOLERANCE * (1 + beta))
        if bool(settled.all()):
            return torch.where(useless, 0.0, step)
        middle = torch.where(high.isinf(), 2 * low + 1, (low + high) / 2)
        # A Newton step that leaves the bracket, or grows tenfold, comes from a flat stretch: halve the bracket instead.
        inside = (step > low) & (step < high) & (step < 10 * low + 10)
        beta = torch.where(inside | settled, step, middle)
    return torch.where(useless, 0.0, beta)


def _smoothed(offsets: Tensor, codes: Tensor) -> Tensor:
    """Expected offset ``(N,)`` under targets that leave the other classes a share of 1 / (N + 2)."""
    n, k = offsets.shape
    share = 1 / (n + 2)
    own = offsets.gather(1, codes[:, None])[:, 0]
    return (1 - share) * own + share * (offsets.sum(dim=1) - own) / (k - 1)


def _derivatives(
    beta: Tensor, offsets: Tensor, prior: Tensor, wanted: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """First and second derivative ``(F,)`` of each fold's loss."""
    probability = (prior + beta[:, None, None] * offsets).softmax(dim=2)
    mean = (probability * offsets).sum(dim=2)
    square = (probability * offsets.square()).sum(dim=2)
    return (weights * (mean - wanted)).sum(dim=1), (weights * (square - mean.square())).sum(dim=1)
