"""The logistic probe: k-fold multinomial regression, all folds solved at once on whitened features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from convscope.metrics.functional._precision import at_least_single, is_varying, where_double_exists
from convscope.metrics.functional._validation import check_positive, check_positive_int
from convscope.metrics.functional.scores import Scorer, encode_classes, prepare_probe_input

# Share of the largest eigenvalue below which a direction is float32 rounding: the penalty rules it anyway.
_RANK_SHARE = 1e-6
_GRADIENT_TOLERANCE = 1e-2
_LOSS_TOLERANCE = 1e-6


def stratified_folds(target: Tensor, folds: int) -> Tensor:
    """Fold of each sample ``(N,)``: classes dealt out in turn, in the order of the samples, no randomness."""
    order = target.sort(stable=True).indices
    fold = torch.empty_like(order)
    fold[order] = torch.arange(len(order), device=order.device) % folds
    return fold


@dataclass(frozen=True)
class _Folds:
    """All folds' training rows, whitened and padded to one size: ``Z`` (F, n, r), weights (F, n), penalty (F, r).

    In whitened coordinates the loss has nearly the same curvature in every direction, which is what makes a few
    L-BFGS steps enough. A constant column carries the intercept, without penalty.
    """

    train: Tensor
    weight: Tensor
    penalty: Tensor
    train_rows: list[Tensor]
    test: list[Tensor]
    test_rows: list[Tensor]


def _whiten(train: Tensor, test: Tensor, l2: float, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Training and test rows in coordinates where the initial Hessian is the identity, and the penalty there."""
    mean = train.mean(dim=0)
    variance = (train - mean).square().mean(dim=0)
    varying = is_varying(variance, train.square().mean(dim=0))
    scale = variance[varying].sqrt()
    train, test = (train - mean)[:, varying] / scale, (test - mean)[:, varying] / scale
    eigenvalues, directions = _principal(train)
    curvature = eigenvalues / num_classes + l2
    directions = directions / curvature.sqrt()
    intercept = (num_classes / len(train)) ** 0.5
    bordered = (torch.nn.functional.pad(x @ directions, (0, 1), value=intercept) for x in (train, test))
    return next(bordered), next(bordered), torch.nn.functional.pad(l2 / curvature, (0, 1))


def _principal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (r,) and directions (C, r) of ``rowsᵀ rows``, through the smaller of the two Gram matrices."""
    if rows.shape[1] <= rows.shape[0]:
        eigenvalues, directions = torch.linalg.eigh(rows.T @ rows)
        return eigenvalues.clamp(min=0), directions
    eigenvalues, left = torch.linalg.eigh(rows @ rows.T)
    keep = eigenvalues > _RANK_SHARE * eigenvalues.max()
    eigenvalues = eigenvalues[keep]
    return eigenvalues, rows.T @ left[:, keep] / eigenvalues.sqrt()


def _prepare(features: Tensor, fold: Tensor, folds: int, l2: float, num_classes: int) -> _Folds:
    train_rows = [(fold != f).nonzero()[:, 0] for f in range(folds)]
    test_rows = [(fold == f).nonzero()[:, 0] for f in range(folds)]
    parts = [_whiten(features[a], features[b], l2, num_classes) for a, b in zip(train_rows, test_rows, strict=True)]
    width = max(z.shape[1] for z, _, _ in parts)
    widen = [torch.nn.functional.pad(z, (width - z.shape[1], 0)) for z, _, _ in parts]
    return _Folds(
        pad_sequence(widen, batch_first=True),
        pad_sequence([torch.ones_like(z[:, 0]) for z in widen], batch_first=True),
        torch.stack([torch.nn.functional.pad(p, (width - len(p), 0)) for _, _, p in parts]),
        train_rows,
        [torch.nn.functional.pad(z, (width - z.shape[1], 0)) for _, z, _ in parts],
        test_rows,
    )


class _Objective:
    """Penalised multinomial loss of all folds and its gradient. The folds share nothing, so their sum splits."""

    def __init__(self, data: _Folds, codes: Tensor, num_classes: int) -> None:
        self.data = data
        onehot = torch.nn.functional.one_hot(codes, num_classes).to(data.train.dtype)
        self.truth = pad_sequence([onehot[rows] for rows in data.train_rows], batch_first=True)
        # A class without a training sample in some fold has no finite solution there: it is left out of the fold.
        self.absent = (self.truth.sum(dim=1) == 0)[:, None]
        self.shape = (data.train.shape[0], data.train.shape[2], num_classes)

    def __call__(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        theta = self.unflatten(flat)
        logits = torch.bmm(self.data.train, theta).masked_fill(self.absent, -torch.inf)
        log_norm = logits.logsumexp(dim=2)
        fit = log_norm - torch.where(self.truth > 0, logits, 0).sum(dim=2)
        shrink = self.data.penalty[:, :, None] * theta
        loss = (self.data.weight * fit).sum(dtype=torch.float64) + 0.5 * (shrink * theta).sum(dtype=torch.float64)
        residual = self.data.weight[:, :, None] * ((logits - log_norm[:, :, None]).exp() - self.truth)
        gradient = torch.bmm(self.data.train.transpose(1, 2), residual) + shrink
        return float(loss), gradient.cpu().double().numpy().ravel()

    def unflatten(self, flat: np.ndarray) -> Tensor:
        return torch.from_numpy(flat).to(self.data.train).view(self.shape)


def _solve(data: _Folds, codes: Tensor, num_classes: int, max_iter: int) -> Tensor:
    objective = _Objective(data, codes, num_classes)
    options: dict[str, Any] = {
        "maxiter": max_iter,
        "maxfun": 2 * max_iter,
        "gtol": _GRADIENT_TOLERANCE,
        "ftol": _LOSS_TOLERANCE,
    }
    start = np.zeros(int(np.prod(objective.shape)))
    solution = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
    theta = objective.unflatten(solution)
    scores = torch.empty(len(codes), num_classes, dtype=torch.float64, device=codes.device)
    for f, rows in enumerate(data.test_rows):
        scores[rows] = (data.test[f] @ theta[f]).masked_fill(objective.absent[f], -torch.inf).double()
    return scores


def logistic_scorer(features: Tensor, target: Tensor, folds: int = 5, l2: float = 1.0, max_iter: int = 100) -> Scorer:
    """Folds and whitened features prepared once; any labels may be fitted afterwards.

    Folds are stratified on ``target`` and stay as they are for other labels.

    Args:
        features: ``(N, C)``.
        target: ``(N,)`` class indices that the folds are stratified on.
        folds: number of folds.
        l2: penalty.
        max_iter: bound on L-BFGS iterations.

    Returns:
        A function from labels ``(N,)`` to out-of-fold logits ``(N, K)``.

    Raises:
        ValueError: for what :func:`logistic_probe_scores` refuses.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([0.0, 1, 2, 8, 9, 10])[:, None], torch.tensor([0, 0, 0, 1, 1, 1])
        >>> logistic_scorer(x, y, folds=3)(y).shape
        torch.Size([6, 2])
    """
    check_logistic(folds, l2, max_iter)
    features, target = prepare_probe_input(where_double_exists(features), target)
    if folds > len(target):
        raise ValueError(f"`folds` must be at most the number of samples, {len(target)}, got {folds}.")
    num_classes = encode_classes(target)[0].numel()
    # Softmax with two columns splits one weight vector into two halves and so counts its square only half.
    penalty = 2 * l2 if num_classes == 2 else l2
    data = _prepare(at_least_single(features), stratified_folds(target, folds), folds, penalty, num_classes)
    return lambda labels: _solve(data, encode_classes(labels.to(target.device))[1], num_classes, max_iter)


def logistic_probe_scores(
    features: Tensor, target: Tensor, folds: int = 5, l2: float = 1.0, max_iter: int = 100
) -> Tensor:
    r"""Out-of-fold logits of a multinomial logistic regression.

    .. math:: \min_W \sum_i -\log p_W(y_i \mid x_i) + \tfrac{\lambda}{2} \|W\|_F^2

    as scikit-learn's ``LogisticRegression(C=1 / l2)``: intercept not penalised, features standardised with the
    training folds' statistics. L-BFGS starts from zeros. Folds are stratified and depend on the order of the
    samples alone. The fit runs in float32 (float64 for float64 features) and stops when the loss no longer falls
    by a millionth: accuracy is settled long before the last digits of the logits are.

    Args:
        features: ``(N, C)``, of any float type.
        target: ``(N,)`` class indices; only the classes present get a column.
        folds: number of folds, from 2 to N.
        l2: penalty :math:`\lambda`, above 0.
        max_iter: bound on L-BFGS iterations.

    Returns:
        ``(N, K)`` float64 logits; minus infinity for a class that the training folds of a sample lack. Columns
        are the classes present, sorted.

    Raises:
        ValueError: if shapes or types disagree, the target is not class indices, a feature is NaN or Inf, there
            is only one class, or an option is out of range.

    Source: reconstruction (linear probes, Alain & Bengio 2016).

    Example:
        >>> import torch
        >>> x, y = torch.tensor([0.0, 1, 2, 8, 9, 10])[:, None], torch.tensor([0, 0, 0, 1, 1, 1])
        >>> logistic_probe_scores(x, y, folds=3).argmax(dim=1)
        tensor([0, 0, 0, 1, 1, 1])
    """
    return logistic_scorer(features, target, folds, l2, max_iter)(target)


def check_logistic(folds: int, l2: float, max_iter: int) -> None:
    """Options of the logistic probe that can be judged without data."""
    check_positive_int("folds", folds, minimum=2)
    check_positive("l2", l2)
    check_positive_int("max_iter", max_iter)
