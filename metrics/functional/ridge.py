"""Ridge probe with exact leave-one-out, in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from convscope._arguments import numbers
from convscope.metrics.functional._precision import as_double, column_squares, standardise
from convscope.metrics.functional._validation import check_features, check_finite
from convscope.metrics.functional.folds import partners
from convscope.metrics.functional.scores import Scorer, labels_of, one_hot, prepare_probe_input

DEFAULT_ALPHAS: tuple[float, ...] = tuple(10.0 ** (exponent / 2) for exponent in range(-4, 9))
"""The grid of penalties, from 0.01 to 10,000, two a decade."""

_AT_ONCE = 4_000_000  # numbers in a block of an intermediate result, so that memory stays bounded
_COLUMNS_AT_ONCE = 500_000  # the same for columns that are looked at one after the other, which fit into a cache
_READING = 50  # reading rows one by one costs so many times what multiplying all of them does

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
        return cls(components, column_squares(components))

    def leverage(self, inverse: Tensor) -> Tensor:
        """Diagonals ``(A, N)`` of the hat matrices; ``inverse`` ``(A, r)`` is one over eigenvalues and penalties."""
        rows = max(1, _AT_ONCE // max(1, self.components.shape[1]))
        squares = _joined([part.square() @ inverse.T for part in self.components.split(rows)])
        return (1 / len(self.components) + squares).T

    def leave_one_out(self, targets: Tensor, alphas: Tensor) -> Tensor:
        """Predictions ``(A, N, K)`` of each row's targets from all the other rows, for each penalty."""
        mean = targets.mean(dim=0)
        inverse = 1 / (self.eigenvalues + alphas[:, None])
        coefficients = inverse[:, :, None] * (self.components.T @ (targets - mean))
        stacked = coefficients.permute(1, 0, 2).flatten(1)
        fitted = mean + (self.components @ stacked).reshape(-1, *coefficients.shape[::2]).permute(1, 0, 2)
        leverage = self.leverage(inverse)[:, :, None]
        return (fitted - leverage * targets) / (1 - leverage)

    def best(self, targets: Tensor, alphas: Tensor) -> Tensor:
        """The penalty ``(1,)`` with the least leave-one-out squared error, summed over columns."""
        errors = [
            (self.leave_one_out(targets, part) - targets).square().sum(dim=(1, 2))
            for part in alphas.split(max(1, _AT_ONCE // targets.numel()))
        ]
        return alphas[_joined(errors).argmin(dim=0, keepdim=True)]


@dataclass(frozen=True)
class _Pairs:
    """Fits without two samples, for one penalty: what does not depend on the targets is computed once.

    Attributes:
        components: ``(N, r)``, see :class:`Spectrum`.
        inverse: ``(r,)`` one over eigenvalue and penalty.
        away: ``(N,)`` 1 − H_ii of each row: what is left of its own answer when the fit does without it.
        hat: ``(N, N)``, None where there are too many samples to keep it.
    """

    components: Tensor
    inverse: Tensor
    away: Tensor
    hat: Tensor | None

    @classmethod
    def of(cls, spectrum: Spectrum, alpha: Tensor) -> _Pairs:
        components, inverse = spectrum.components, 1 / (spectrum.eigenvalues + alpha)
        small = len(components) ** 2 <= _AT_ONCE
        away = 1 - spectrum.leverage(inverse[None])[0]
        return cls(components, inverse, away, (components * inverse) @ components.T if small else None)

    def left_out(self, targets: Tensor) -> Tensor:
        """Predictions ``(N, K)`` of 0 and 1, each from all rows but its own and its partner's in that column."""
        width = max(1, _COLUMNS_AT_ONCE // max(1, len(targets)))
        partner = _joined([partners(part > 0.5) for part in targets.split(width, dim=1)], dim=1)
        entries = self._entries(partner)
        columns = zip(*(each.split(width, dim=1) for each in (targets, partner, entries)), strict=True)
        return _joined([self._answers(*each) for each in columns], dim=1)

    def _answers(self, targets: Tensor, partner: Tensor, entries: Tensor) -> Tensor:
        """What :meth:`left_out` gives for some of the columns."""
        centred = targets - targets.mean(dim=0)
        residual = centred - self.components @ (self.inverse[:, None] * (self.components.T @ centred))
        both, other = entries + 1 / len(targets), self.away[partner]
        # The first row of the 2 × 2 system that leaving two rows out comes down to.
        found = (other * residual + both * residual.gather(0, partner)) / (self.away[:, None] * other - both.square())
        return targets - found

    def _entries(self, partner: Tensor) -> Tensor:
        """Entries ``(N, K)`` of the hat matrix at each row and its partners, without the intercept's part."""
        if self.hat is not None:
            return self.hat.gather(1, partner)
        (n, k), width = partner.shape, self.components.shape[1]
        # Reading single entries is slow, but there are few where classes are few: else a whole block is multiplied out.
        few = _READING * k < n
        blocks = []
        for rows in torch.arange(n, device=partner.device).split(max(1, _AT_ONCE // (k * width + 1 if few else n))):
            weighted = self.components[rows] * self.inverse
            if few:
                block = torch.einsum("nr,nkr->nk", weighted, self.components[partner[rows]])
            else:
                block = (weighted @ self.components.T).gather(1, partner[rows])
            blocks.append(block)
        return torch.cat(blocks)


def _joined(parts: list[Tensor], dim: int = 0) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def ridge_predictor(
    features: Tensor, targets: Tensor, alphas: Sequence[float] = DEFAULT_ALPHAS, or_mean: bool = False
) -> Predictor:
    """Ridge on targets of any meaning: one factorisation, penalty chosen on ``targets``, any targets afterwards.

    The predictor that comes back keeps the hat matrix that ``targets`` chose, so that a control costs two thin matrix
    products and is judged by the very same probe. See :func:`ridge_probe_scores` for the formula.

    Args:
        features: ``(N, C)``.
        targets: ``(N, K)`` numbers whose leave-one-out squared error, summed over columns, chooses the penalty.
        alphas: the grid of penalties.
        or_mean: the mean of the other samples, without any slope, is chosen where its error is the least.

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
    spectrum, chosen = _prepared(features, targets, alphas, or_mean)
    device = spectrum.components.device
    return lambda others: spectrum.leave_one_out(as_double(others).to(device), chosen)[0]


def ridge_label_predictor(features: Tensor, targets: Tensor, alphas: Sequence[float] = DEFAULT_ALPHAS) -> Predictor:
    r"""Ridge on columns of 0 and 1: each value predicted without its sample and without one of the other answer.

    Leaving out the sample alone would give its answer away: what is left has one yes fewer if the answer is yes, and a
    probe that knows nothing would say no. With a partner j of the other answer, taken in turn, what is left has the
    same number of each, whatever the answer. With the hat matrix H of :func:`ridge_probe_scores` the prediction is
    exactly that of a fit without both,

    .. math:: \hat y_i^{(-i,-j)} = y_i - \left[(I - H_{BB})^{-1} (y_B - \hat y_B)\right]_i, \quad B = (i, j)

    Args:
        features: ``(N, C)``, at least three samples.
        targets: ``(N, K)`` of 0 and 1, whose leave-one-out squared error chooses the penalty.
        alphas: the grid of penalties.

    Returns:
        A function from targets ``(N, K)`` of 0 and 1 to float64 predictions ``(N, K)``.

    Raises:
        ValueError: if :func:`ridge_predictor` would raise it, or there are fewer than three samples.

    Source: ours (leave-pair-out: Airola et al. 2009).

    Example:
        >>> import torch
        >>> y = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
        >>> ridge_label_predictor(torch.full((4, 1), 3.0), y)(y).flatten().tolist()
        [0.5, 0.5, 0.5, 0.5]
    """
    if len(features) < 3:
        raise ValueError(f"A probe of labels needs at least 3 samples, got {len(features)}. Enlarge the held-out set.")
    return _label_predictor(*_prepared(features, targets, alphas))


def _label_predictor(spectrum: Spectrum, alpha: Tensor) -> Predictor:
    pairs = _Pairs.of(spectrum, alpha)
    return lambda others: pairs.left_out(as_double(others).to(alpha.device))


@dataclass(frozen=True)
class _RidgeScorer:
    """Scorer of labels that takes several labellings in one product."""

    predictor: Predictor

    def __call__(self, labels: Tensor) -> Tensor:
        found = labels_of(labels)
        return next(self.together(found.codes[None], len(found.classes)))[0]

    def together(self, codes: Tensor, num_classes: int) -> Iterator[Tensor]:
        """Scores ``(l, N, K)`` of labellings ``(L, N)``, as places among K classes, in products that memory bounds."""
        for part in codes.split(max(1, _AT_ONCE // max(1, codes.shape[1] * num_classes))):
            columns = one_hot(part, num_classes).transpose(0, 1)
            yield self.predictor(columns.flatten(1)).reshape(columns.shape).transpose(0, 1)


def ridge_scorer(features: Tensor, target: Tensor, alphas: Sequence[float] = DEFAULT_ALPHAS) -> Scorer:
    """Ridge prepared on ``features``: one factorisation, penalty chosen on ``target``, any labels afterwards.

    The scorer that comes back keeps the hat matrix that ``target`` chose, so that a control labelling costs a few
    thin matrix products and is judged by the very same probe.

    Args:
        features: ``(N, C)``.
        target: ``(N,)`` class indices that choose the penalty.
        alphas: the grid of penalties.

    Returns:
        A function from labels ``(N,)`` to out-of-sample scores ``(N, K)``.

    Raises:
        ValueError: if :func:`ridge_probe_scores` would raise it.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([0.0, 1, 2, 8, 9, 10])[:, None], torch.tensor([0, 0, 0, 1, 1, 1])
        >>> ridge_scorer(x, y)(y.flip(0)).shape
        torch.Size([6, 2])
    """
    features, target = prepare_probe_input(features, target)
    labels = labels_of(target)
    truth = one_hot(labels.codes, len(labels.classes))
    return _RidgeScorer(_label_predictor(*_fitted(features, truth, check_alphas(alphas))))


def ridge_probe_scores(features: Tensor, target: Tensor, alphas: Sequence[float] = DEFAULT_ALPHAS) -> Tensor:
    r"""Exact out-of-sample scores of ridge regression on one-hot targets.

    With the hat matrix :math:`H = \tfrac{1}{N}11^\top + X(X^\top X + \alpha I)^{-1}X^\top` of the standardised
    features (population standard deviation, constant features left out, intercept not penalised),

    .. math:: \hat y_i^{(-i)} = \frac{\hat y_i - H_{ii} y_i}{1 - H_{ii}}

    is what a probe fitted without sample i says about it. The penalty is the one of ``alphas`` with the least squared
    error of these. The scores themselves leave out one sample more, a partner that changes with the class's column: see
    :func:`ridge_label_predictor`. That way features that know nothing score as chance, not below.
    Standardisation uses all samples; it sees no label.

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


def _prepared(
    features: Tensor, targets: Tensor, alphas: Sequence[float], or_mean: bool = False
) -> tuple[Spectrum, Tensor]:
    """Factorised features, the penalty ``(1,)`` that suits the targets best."""
    alphas = check_alphas(alphas)
    check_features(features)
    if targets.ndim != 2 or len(targets) != len(features):
        raise ValueError(f"The targets must have shape ({len(features)}, K), got {tuple(targets.shape)}.")
    check_finite("targets", targets)
    # An infinite penalty is the fit without a slope, so that the mean competes as one more penalty of the grid.
    return _fitted(features, targets, (*alphas, torch.inf) if or_mean else alphas)


def _fitted(features: Tensor, targets: Tensor, alphas: tuple[float, ...]) -> tuple[Spectrum, Tensor]:
    spectrum = Spectrum.of(standardise(features))
    device = spectrum.components.device
    return spectrum, spectrum.best(as_double(targets).to(device), _grid(alphas, device))


@lru_cache(maxsize=8)  # all layers of a check have the same one
def _grid(alphas: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(alphas, dtype=torch.float64, device=device)


def check_alphas(alphas: Sequence[float]) -> tuple[float, ...]:
    """A grid of penalties holds at least one, each above zero."""
    return numbers("alphas", alphas, "penalties", least=0.0, above=True)
