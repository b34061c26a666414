"""Ridge probe with exact leave-one-out, in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convscope.metrics.functional._precision import as_double, standardise
from convscope.metrics.functional._validation import check_features, check_finite, check_positive
from convscope.metrics.functional.scores import Scorer, one_hot, prepare_probe_input

DEFAULT_ALPHAS: tuple[float, ...] = tuple(10.0 ** (exponent / 2) for exponent in range(-4, 9))
"""The grid of penalties, from 0.01 to 10,000, two a decade."""

Predictor = Callable[[Tensor], Tensor]
"""A ridge prepared on fixed features: targets ``(N, K)`` in, their out-of-sample predictions ``(N, K)`` out."""


@dataclass(frozen=True)
class Spectrum:
    """Standardised features in their principal axes.

    Attributes:
        components: ``(N, r)``, columns orthogonal, ``components @ components.T`` equal to ``X @ X.T``.
        eigenvalues: ``(r,)``, squared lengths of those columns.
    """

    components: Tensor
    eigenvalues: Tensor

    @classmethod
    def of(cls, standardised: Tensor) -> Spectrum:
        """Through the smaller of the two Gram matrices, features or samples."""
        n, c = standardised.shape
        if c <= n:
            _, axes = torch.linalg.eigh(standardised.T @ standardised)
            components = standardised @ axes
        else:
            eigenvalues, axes = torch.linalg.eigh(standardised @ standardised.T)
            components = axes * eigenvalues.clamp(min=0).sqrt()
        return cls(components, components.square().sum(dim=0))

    def leave_one_out(self, targets: Tensor, alphas: Tensor) -> Tensor:
        """Predictions ``(A, N, K)`` of each row's targets from all the other rows, for each penalty."""
        mean = targets.mean(dim=0)
        inverse = 1 / (self.eigenvalues + alphas[:, None])
        coefficients = inverse[:, :, None] * (self.components.T @ (targets - mean))
        stacked = coefficients.permute(1, 0, 2).flatten(1)
        fitted = mean + (self.components @ stacked).reshape(-1, *coefficients.shape[::2]).permute(1, 0, 2)
        leverage = (1 / len(targets) + self.components.square() @ inverse.T).T[:, :, None]
        return (fitted - leverage * targets) / (1 - leverage)


def ridge_predictor(features: Tensor, targets: Tensor, alphas: Sequence[float] = DEFAULT_ALPHAS) -> Predictor:
    """Ridge on targets of any meaning: one factorisation, penalty chosen on ``targets``, any targets afterwards.

    The predictor that comes back keeps the hat matrix that ``targets`` chose, so that a control costs two thin matrix
    products and is judged by the very same probe. See :func:`ridge_probe_scores` for the formula.

    Args:
        features: ``(N, C)``.
        targets: ``(N, K)`` numbers whose leave-one-out squared error, summed over columns, chooses the penalty.
        alphas: the grid of penalties.

    Returns:
        A function from targets ``(N, K)`` to float64 leave-one-out predictions ``(N, K)``.

    Raises:
        ValueError: if shapes disagree, a value is NaN or Inf, or the grid is empty or not positive.

    Source: reconstruction (linear probes, Alain & Bengio 2016).

    Example:
        >>> import torch
        >>> x = torch.arange(6.0)[:, None]
        >>> ridge_predictor(x, 3 * x + 1)(3 * x + 1).round().flatten().tolist()
        [1.0, 4.0, 7.0, 10.0, 13.0, 16.0]
    """
    check_alphas(alphas)
    check_features(features)
    if targets.ndim != 2 or len(targets) != len(features):
        raise ValueError(f"The targets must have shape ({len(features)}, K), got {tuple(targets.shape)}.")
    check_finite("features", features)
    check_finite("targets", targets)
    spectrum = Spectrum.of(standardise(features))
    device = spectrum.components.device
    grid = torch.tensor(list(alphas), dtype=torch.float64, device=device)
    truth = as_double(targets).to(device)
    errors = (spectrum.leave_one_out(truth, grid) - truth).square().sum(dim=(1, 2))
    chosen = grid[errors.argmin()][None]
    return lambda others: spectrum.leave_one_out(as_double(others).to(device), chosen)[0]


def ridge_scorer(features: Tensor, target: Tensor, alphas: Sequence[float] = DEFAULT_ALPHAS) -> Scorer:
    """Ridge prepared on ``features``: one factorisation, penalty chosen on ``target``, any labels afterwards.

    The scorer that comes back keeps the hat matrix that ``target`` chose, so that a control labelling costs two
    thin matrix products and is judged by the very same probe.

    Args:
        features: ``(N, C)``.
        target: ``(N,)`` class indices that choose the penalty.
        alphas: the grid of penalties.

    Returns:
        A function from labels ``(N,)`` to leave-one-out scores ``(N, K)``.

    Raises:
        ValueError: for what :func:`ridge_probe_scores` refuses.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([0.0, 1, 2, 8, 9, 10])[:, None], torch.tensor([0, 0, 0, 1, 1, 1])
        >>> ridge_scorer(x, y)(y.flip(0)).shape
        torch.Size([6, 2])
    """
    features, target = prepare_probe_input(features, target)
    predictor = ridge_predictor(features, one_hot(target), alphas)
    return lambda labels: predictor(one_hot(labels))


def ridge_probe_scores(features: Tensor, target: Tensor, alphas: Sequence[float] = DEFAULT_ALPHAS) -> Tensor:
    r"""Exact leave-one-out scores of ridge regression on one-hot targets.

    With the hat matrix :math:`H = \tfrac{1}{N}11^\top + X(X^\top X + \alpha I)^{-1}X^\top` of the standardised
    features (population standard deviation, constant features left out, intercept not penalised),

    .. math:: \hat y_i^{(-i)} = \frac{\hat y_i - H_{ii} y_i}{1 - H_{ii}}

    is what a probe fitted without sample i says about it. The penalty is the one of ``alphas`` with the least
    leave-one-out squared error. Standardisation uses all samples; it sees no label.

    Args:
        features: ``(N, C)``, of any float type.
        target: ``(N,)`` class indices; only the classes present get a column.
        alphas: the grid of penalties, each above 0.

    Returns:
        ``(N, K)`` float64: estimates of class membership, around [0, 1] but not bounded. Columns are the
        classes present, sorted.

    Raises:
        ValueError: if shapes or types disagree, the target is not class indices, a feature is NaN or Inf, there
            is only one class, or the grid is empty or not positive.

    Source: reconstruction (linear probes, Alain & Bengio 2016; the paper's body is not public).

    Example:
        >>> import torch
        >>> x, y = torch.tensor([0.0, 1, 2, 8, 9, 10])[:, None], torch.tensor([0, 0, 0, 1, 1, 1])
        >>> ridge_probe_scores(x, y).argmax(dim=1)
        tensor([0, 0, 0, 1, 1, 1])
    """
    return ridge_scorer(features, target, alphas)(target)


def check_alphas(alphas: Sequence[float]) -> None:
    """A grid of penalties holds at least one, each above zero."""
    if len(alphas) == 0:
        raise ValueError("`alphas` must hold at least one penalty, got none.")
    for alpha in alphas:
        check_positive("alphas", alpha)
