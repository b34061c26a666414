"""The logistic probe: k-fold multinomial regression, all folds solved at once on whitened features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from convscope._arguments import number, whole_number
from convscope.metrics.functional._precision import standardise, where_double_exists
from convscope.metrics.functional.ridge import Spectrum
from convscope.metrics.functional.scores import Scorer, encode_classes, prepare_probe_input

# Where to stop: an accuracy is settled long before the last digits of the logits are. Against the converged fit
# fewer than 3 % of predictions differed on pooled CNN features, and no accuracy by a point.
_OPTIONS = {"gtol": 1e-2, "ftol": 5e-5, "maxcor": 5}


def stratified_folds(target: Tensor, folds: int) -> Tensor:
    """Fold of each sample ``(N,)``: classes dealt out in turn, in the order of the samples, no randomness."""
    order = target.sort(stable=True).indices
    fold = torch.empty_like(order)
    fold[order] = torch.arange(len(order), device=order.device) % folds
    return fold


def equal_folds(codes: Tensor, folds: int) -> tuple[Tensor, Tensor]:
    """Stratified folds, and who trains in each: in every fold the same number of samples per class.

    A fold that holds out one sample fewer of a class than the fullest does, leaves out one more that is predicted in
    another fold.

    Args:
        codes: ``(N,)`` classes, 0 to K - 1, each present.
        folds: their number F.

    Returns:
        The fold ``(N,)`` in which a sample is predicted, and ``(N, F)`` bool, who trains.
    """
    fold, counts = stratified_folds(codes, folds), torch.bincount(codes)
    by_class, start = codes.sort(stable=True).indices, counts.cumsum(0) - counts
    number = torch.arange(folds, device=codes.device)[:, None]
    trains = fold[:, None] != number[:, 0]
    held = torch.stack([torch.bincount(codes[fold == f], minlength=len(counts)) for f in range(folds)])
    # The sample that the next fold holds out, or any where there are fewer samples than folds.
    extra = by_class[start + torch.where(counts >= folds, (number + 1 - start) % folds, number % counts)]
    short = held < held.amax(dim=0)
    trains[extra[short], number.expand_as(extra)[short]] = False
    return fold, trains


@dataclass(frozen=True)
class _Problem:
    """All folds side by side in one whitened basis, so that each step is two matrix products for all of them.

    In this basis the loss starts with the same curvature in every direction, which is what makes a few L-BFGS
    steps enough. The last column is constant and carries the intercept, without penalty.

    Attributes:
        rows: ``(N, r + 1)`` float32.
        penalty: ``(r + 1, 1, 1)`` float32.
        folds: number of folds, F.
        num_classes: K.
    """

    rows: Tensor
    penalty: Tensor
    folds: int
    num_classes: int

    @classmethod
    def of(cls, standardised: Tensor, folds: int, l2: float, num_classes: int) -> _Problem:
        spectrum = Spectrum.of(standardised.float())
        curvature = spectrum.eigenvalues / num_classes + l2
        rows = spectrum.components / curvature.sqrt()
        rows = torch.nn.functional.pad(rows, (0, 1), value=(num_classes / len(rows)) ** 0.5)
        penalty = torch.nn.functional.pad(l2 / curvature, (0, 1))
        return cls(rows, penalty[:, None, None], folds, num_classes)

    def logits(self, theta: Tensor, absent: Tensor) -> Tensor:
        """``(N, F, K)`` of every sample in every fold, minus infinity for classes that a fold never trained on."""
        flat = self.rows @ theta.flatten(1)
        logits = flat.view(-1, self.folds, self.num_classes)
        return logits.masked_fill_(absent, -torch.inf)

    def solve(self, codes: Tensor, max_iter: int) -> Tensor:
        """Out-of-fold logits ``(N, K)`` for labels coded 0 to K - 1."""
        fold, trains = equal_folds(codes, self.folds)
        objective = _Objective(self, codes, trains)
        start = np.zeros(int(np.prod(objective.shape)))
        options = {**_OPTIONS, "maxiter": max_iter}
        solution = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
        logits = self.logits(objective.unflatten(solution), objective.absent)
        return logits[torch.arange(len(codes), device=codes.device), fold].double()


class _Objective:
    """Penalised multinomial loss of all folds and its gradient. Folds share no parameter, so the sum splits."""

    def __init__(self, problem: _Problem, codes: Tensor, trains: Tensor) -> None:
        self.problem = problem
        truth = torch.nn.functional.one_hot(codes, problem.num_classes).to(problem.rows.dtype)
        self.trains = trains
        # A class without a training sample in some fold has no finite solution there: it is left out of the fold.
        self.absent = self.trains.to(truth.dtype).T @ truth == 0
        self.truth = truth[:, None]
        self.codes = codes[:, None, None].expand(-1, problem.folds, 1)
        self.shape = (problem.rows.shape[1], problem.folds, problem.num_classes)

    def __call__(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        theta = self.unflatten(flat)
        logits = self.problem.logits(theta, self.absent)
        log_share = logits.log_softmax(dim=2)
        surprise = -log_share.gather(2, self.codes)[:, :, 0]
        # A held-out sample of an absent class has infinite surprise: it does not train, so it must not count.
        fit = torch.where(self.trains, surprise, 0.0).sum(dtype=torch.float64)
        shrink = self.problem.penalty * theta
        residual = (log_share.exp_() - self.truth) * self.trains[:, :, None]
        gradient = (self.problem.rows.T @ residual.flatten(1)).view(self.shape) + shrink
        loss = fit + 0.5 * (shrink * theta).sum(dtype=torch.float64)
        return float(loss), gradient.cpu().double().numpy().ravel()

    def unflatten(self, flat: np.ndarray) -> Tensor:
        return torch.from_numpy(flat).to(self.problem.rows).view(self.shape)


def logistic_scorer(features: Tensor, target: Tensor, folds: int = 5, l2: float = 1.0, max_iter: int = 100) -> Scorer:
    """Whitened features prepared once; any labels may be fitted afterwards, in folds stratified on those labels.

    Args:
        features: ``(N, C)``.
        target: ``(N,)`` class indices.
        folds: number of folds.
        l2: penalty.
        max_iter: bound on L-BFGS iterations.

    Returns:
        A function from labels ``(N,)`` to out-of-fold logits ``(N, K)``.

    Raises:
        ValueError: if :func:`logistic_probe_scores` would raise it.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([0.0, 1, 2, 8, 9, 10])[:, None], torch.tensor([0, 0, 0, 1, 1, 1])
        >>> logistic_scorer(x, y, folds=3)(y).shape
        torch.Size([6, 2])
    """
    folds, l2, max_iter = check_logistic(folds, l2, max_iter)
    features, target = prepare_probe_input(where_double_exists(features), target)
    folds = whole_number("folds", folds, f"a whole number of folds of {len(target)} samples", least=2, most=len(target))
    num_classes = encode_classes(target)[0].numel()
    # Softmax with two columns splits one weight vector into two halves and so counts its square only half.
    penalty = 2 * l2 if num_classes == 2 else l2
    problem = _Problem.of(standardise(features), folds, penalty, num_classes)
    return lambda labels: problem.solve(encode_classes(labels.to(target.device))[1], max_iter)


def logistic_probe_scores(
    features: Tensor, target: Tensor, folds: int = 5, l2: float = 1.0, max_iter: int = 100
) -> Tensor:
    r"""Out-of-fold logits of a multinomial logistic regression.

    .. math:: \min_W \sum_i -\log p_W(y_i \mid x_i) + \tfrac{\lambda}{2} \|W\|_F^2

    as scikit-learn's ``LogisticRegression(C=1 / l2)``: intercept not penalised. Features are standardised over
    all samples (no label is seen; a fold's own mean is the intercept's business, its own scale would change the
    penalty by a hair), which lets all folds share one basis. L-BFGS starts from zeros. Folds are stratified and
    depend on labels and the order of the samples alone; each fits as many samples of a class as any other, so that a
    fold does not tell which classes it holds out (a few samples sit out a fit for that). The fit runs in float32 and
    stops when a step lowers the loss by less than 5e-5 of itself: accuracy is settled long before the last digits of
    the logits are.

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


def check_logistic(folds: int, l2: float, max_iter: int) -> tuple[int, float, int]:
    """Options of the logistic probe, as far as they can be judged without data."""
    folds = whole_number("folds", folds, least=2)
    return folds, number("l2", l2, least=0.0, above=True), whole_number("max_iter", max_iter)
