"""Two-scale sparse regression by ADMM: the solver behind multi-scale interpretation.

Source: paper (Cui, Wang and Wang, IEEE TMM 2019). The problem and the splitting are the paper's; the order of the
updates, the step size that adapts, the stopping rule and the last step on the support are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from convscope._arguments import number, whole_number
from convscope.metrics.functional._precision import as_double
from convscope.metrics.functional._validation import check_finite

_RELAXATION = 1.6  # between 1.5 and 1.8 ADMM needs fewer steps (Boyd et al. 2011, section 3.4.3)
_EVERY = 25  # steps between two looks at the residuals and the step size
_ADAPTING = 1000  # the step size rests after so many steps: one that never does may keep ADMM from converging
_FEASIBLE = 1e-9


class TwoScaleSums(NamedTuple):
    r"""Weighted sums over the perturbed copies of each image: all that the solver needs, they add up over chunks.

    Attributes:
        coarse_gram: ``(B, p, p)``, :math:`\sum_k h_k z^c_k z^{cT}_k`.
        coarse_moment: ``(B, p)``, :math:`\sum_k h_k y_k z^c_k`.
        fine_gram: ``(B, q, q)``, likewise of the fine scale.
        fine_moment: ``(B, q)``.
        output_square: ``(B,)``, :math:`\sum_k h_k y_k^2`.
    """

    coarse_gram: Tensor
    coarse_moment: Tensor
    fine_gram: Tensor
    fine_moment: Tensor
    output_square: Tensor


class TwoScaleWeights(NamedTuple):
    """What the solver found, float64.

    Attributes:
        coarse: ``(B, p)`` weights of the coarse super-pixels.
        fine: ``(B, q)`` weights of the fine ones; those inside a coarse one add up to its weight.
        objective: ``(B,)`` value of the objective at ``fine`` and at the coarse weights that follow from it.
        constraint_residual: ``(B,)`` largest ``|w_f T - w_c|``.
        primal_residual: ``(B,)`` norm of the last step's disagreement between the copies of the variables.
        dual_residual: ``(B,)`` norm of the last step's change of them, times the step size.
        optimality: ``(B,)`` how far the weights are from the conditions of Karush, Kuhn and Tucker: the largest
            gradient that no subgradient of the penalties cancels, relative to the gradient at zero.
        iterations: ``(B,)`` int64, steps that were made for each image.
        converged: ``(B,)`` bool, ``optimality`` is below the tolerance.
    """

    coarse: Tensor
    fine: Tensor
    objective: Tensor
    constraint_residual: Tensor
    primal_residual: Tensor
    dual_residual: Tensor
    optimality: Tensor
    iterations: Tensor
    converged: Tensor


def two_scale_sums(coarse: Tensor, fine: Tensor, output: Tensor, weight: Tensor) -> TwoScaleSums:
    """Sums of one chunk of copies.

    Args:
        coarse: ``(B, K, p)`` what each copy shows of each coarse super-pixel.
        fine: ``(B, K, q)`` likewise of the fine ones.
        output: ``(B, K)`` the model's output on the copies.
        weight: ``(B, K)`` not negative, how near a copy is to the image.

    Raises:
        ValueError: if shapes do not fit, a value is not finite, or a weight is negative.
    """
    if coarse.ndim != 3 or fine.ndim != 3 or any(t.shape[:2] != coarse.shape[:2] for t in (fine, output, weight)):
        raise ValueError(
            f"Give coarse (B, K, p), fine (B, K, q), output (B, K) and weight (B, K), got {tuple(coarse.shape)}, "
            f"{tuple(fine.shape)}, {tuple(output.shape)} and {tuple(weight.shape)}."
        )
    for name, tensor in (("coarse", coarse), ("fine", fine), ("output", output), ("weight", weight)):
        check_finite(name, tensor)
    if bool((weight < 0).any()):
        raise ValueError(f"The weight must not be negative, got {float(weight.min()):g}.")
    z_c, z_f, y, h = as_double(coarse), as_double(fine), as_double(output), as_double(weight)
    weighted = h * y
    return TwoScaleSums(
        (z_c * h[..., None]).mT @ z_c,
        (weighted[:, None] @ z_c)[:, 0],
        (z_f * h[..., None]).mT @ z_f,
        (weighted[:, None] @ z_f)[:, 0],
        (weighted * y).sum(1),
    )


@dataclass(frozen=True)
class _TwoScaleProblem:
    sums: TwoScaleSums
    membership: Tensor  # (B, q, p)
    coarse_penalty: Tensor  # (B, 1)
    fine_penalty: Tensor  # (B, 1)
    balance: float

    def part(self, images: Tensor) -> _TwoScaleProblem:
        """The problem of some of the images, a mask ``(B,)``."""
        sums, coarse, fine = (
            (part[images] for part in self.sums),
            self.coarse_penalty[images],
            self.fine_penalty[images],
        )
        return _TwoScaleProblem(TwoScaleSums(*sums), self.membership[images], coarse, fine, self.balance)

    def to_coarse(self, fine: Tensor) -> Tensor:
        return (fine[:, None] @ self.membership)[:, 0]

    def to_fine(self, coarse: Tensor) -> Tensor:
        return (self.membership @ coarse[..., None])[..., 0]

    def objective(self, coarse: Tensor, fine: Tensor) -> Tensor:
        s = self.sums
        both = _half_squares(s.coarse_gram, s.coarse_moment, coarse) + self.balance * _half_squares(
            s.fine_gram, s.fine_moment, fine
        )
        constant = 0.5 * (1 + self.balance) * s.output_square
        sparse = self.coarse_penalty[:, 0] * coarse.abs().sum(1) + self.fine_penalty[:, 0] * fine.abs().sum(1)
        return both + constant + sparse


def two_scale_regression(
    sums: TwoScaleSums,
    membership: Tensor,
    coarse_penalty: float | Tensor,
    fine_penalty: float | Tensor,
    balance: float = 1.0,
    *,
    start: TwoScaleWeights | None = None,
    tolerance: float = 1e-8,
    max_iterations: int = 5000,
) -> TwoScaleWeights:
    r"""Sparse weights at two scales that explain one output, tied so that fine weights add up to coarse ones.

    .. math::
        \min \tfrac12 \sum_k h_k (w_c z^c_k - y_k)^2 + \lambda_c \|w_c\|_1
        + \tfrac{\mu}{2} \sum_k h_k (w_f z^f_k - y_k)^2 + \lambda_f \|w_f\|_1
        \quad \text{subject to } w_f T = w_c

    Each scale has a smooth and a sparse copy of its weights. Smooth coarse with sparse fine weights, and smooth fine
    with sparse coarse ones, are the two blocks of an ordinary ADMM: neither block couples its own members, so that it
    converges for any step size. What it finds is refined by solving exactly for the weights that are not zero.

    Args:
        sums: Of ``B`` images, see :func:`two_scale_sums`.
        membership: ``(B, q, p)`` or ``(q, p)``, 1 where a fine super-pixel lies inside a coarse one. Rows of zeros, and
            columns, are allowed: images with fewer super-pixels are padded so.
        coarse_penalty: λ_c, not negative; one number or ``(B,)``.
        fine_penalty: λ_f, likewise.
        balance: μ, above zero.
        start: Weights to begin from, those of the last snapshot for instance; of other shapes they are left out.
        tolerance: ``optimality`` at which an image is done.
        max_iterations: Steps after which to stop in any case; ``converged`` says whether that was too soon.

    Raises:
        ValueError: if shapes do not fit, a number is out of range, or a sum is not finite.

    Source: paper (Cui, Wang and Wang, IEEE TMM 2019).

    Example:
        >>> import torch
        >>> z = torch.eye(2).expand(1, 2, 2)
        >>> sums = two_scale_sums(z, z, torch.tensor([[3.0, 0.5]]), torch.ones(1, 2))
        >>> found = two_scale_regression(sums, torch.eye(2), coarse_penalty=0.5, fine_penalty=0.5)
        >>> found.coarse.round(decimals=6)
        tensor([[2.5000, 0.0000]], dtype=torch.float64)
    """
    number("balance", balance, least=0.0, above=True)
    number("tolerance", tolerance, least=0.0, above=True)
    whole_number("max_iterations", max_iterations)
    problem = _problem(sums, membership, coarse_penalty, fine_penalty, balance)
    if sums.coarse_moment.numel() == 0 or sums.fine_moment.numel() == 0:
        return _nothing(problem)
    run, iterations = _Admm(problem, start), 0
    found = _Found(problem)
    while True:
        steps = min(_EVERY, max_iterations - iterations)
        for step in range(1, steps + 1):
            run.step(measure=step == steps)
        iterations += steps
        found.take(run, iterations, tolerance)
        if iterations == max_iterations or not bool(found.open.any()):
            return found.weights(tolerance)
        if iterations <= _ADAPTING:
            run.adapt()


class _Found:
    """The weights of each image, kept from the look at which they were found good enough.

    An image that is done is left alone from then on: what is found for it does not depend on which others it is solved
    with.
    """

    def __init__(self, problem: _TwoScaleProblem) -> None:
        sums = problem.sums
        self._problem = problem
        self._coarse, self._fine = torch.zeros_like(sums.coarse_moment), torch.zeros_like(sums.fine_moment)
        self._primal, self._dual = torch.zeros_like(sums.output_square), torch.zeros_like(sums.output_square)
        self._optimality = torch.full_like(sums.output_square, torch.inf)
        self._iterations = torch.zeros_like(sums.output_square, dtype=torch.long)
        self.open = torch.ones_like(sums.output_square, dtype=torch.bool)

    def take(self, run: _Admm, iterations: int, tolerance: float) -> None:
        """Refine what ADMM has come to for the images that are not done yet."""
        chosen, problem = self.open.nonzero().flatten(), self._problem.part(self.open)
        coarse, fine = _refined(problem, run.sparse_coarse[chosen], run.sparse_fine[chosen])
        optimality = _optimality(problem, coarse, fine)
        self._coarse[chosen], self._fine[chosen], self._optimality[chosen] = coarse, fine, optimality
        self._primal[chosen], self._dual[chosen] = run.primal[chosen], run.dual[chosen]
        self._iterations[chosen] = iterations
        self.open[chosen] = optimality > tolerance

    def weights(self, tolerance: float) -> TwoScaleWeights:
        problem, coarse, fine = self._problem, self._coarse, self._fine
        gap = (problem.to_coarse(fine) - coarse).abs().amax(1)
        objective, converged = problem.objective(coarse, fine), self._optimality <= tolerance
        return TwoScaleWeights(
            coarse, fine, objective, gap, self._primal, self._dual, self._optimality, self._iterations, converged
        )


class _Admm:
    """The two blocks, in scaled form: each multiplier is divided by the step size."""

    def __init__(self, problem: _TwoScaleProblem, start: TwoScaleWeights | None) -> None:
        self._problem, sums = problem, problem.sums
        self.sparse_coarse, self.fine = torch.zeros_like(sums.coarse_moment), torch.zeros_like(sums.fine_moment)
        if start is not None and start.coarse.shape == self.sparse_coarse.shape and start.fine.shape == self.fine.shape:
            self.sparse_coarse, self.fine = start.coarse.clone(), start.fine.clone()
        self.coarse, self.sparse_fine = self.sparse_coarse.clone(), self.fine.clone()
        self._tie, self._of_coarse = torch.zeros_like(self.coarse), torch.zeros_like(self.coarse)
        self._of_fine = torch.zeros_like(self.fine)
        scale = (
            sums.coarse_gram.diagonal(dim1=1, dim2=2).mean(1)
            + problem.balance * sums.fine_gram.diagonal(dim1=1, dim2=2).mean(1)
        ) / 2
        self._rho = torch.where(scale > 0, scale, 1.0)[:, None]
        self.primal = self.dual = torch.full_like(sums.output_square, torch.inf)
        self._factorise()

    def _factorise(self) -> None:
        sums, problem, rho = self._problem.sums, self._problem, self._rho[..., None]
        eye_c = torch.eye(sums.coarse_moment.shape[1], dtype=torch.float64, device=rho.device)
        eye_f = torch.eye(sums.fine_moment.shape[1], dtype=torch.float64, device=rho.device)
        tied = problem.membership @ problem.membership.mT
        # Inverses, as in the paper: a product for all images is many times faster than triangular solves one by one,
        # the step size keeps the condition small, and what is found is refined on its support in any case.
        self._coarse_inverse = _inverse(sums.coarse_gram + 2 * rho * eye_c)
        self._fine_inverse = _inverse(problem.balance * sums.fine_gram + rho * (tied + eye_f))

    def step(self, measure: bool) -> None:
        """Smooth coarse and sparse fine weights, then smooth fine and sparse coarse ones, then the multipliers."""
        problem, sums, rho = self._problem, self._problem.sums, self._rho
        tied = problem.to_coarse(self.fine)
        right = sums.coarse_moment + rho * (tied - self._tie + self.sparse_coarse - self._of_coarse)
        self.coarse = (self._coarse_inverse @ right[..., None])[..., 0]
        self.sparse_fine = _soft(self.fine - self._of_fine, problem.fine_penalty / rho)
        # Over-relaxation: the second block sees the first one's step a little longer than it was.
        coarse_for_tie = _RELAXATION * self.coarse + (1 - _RELAXATION) * tied
        coarse_for_copy = _RELAXATION * self.coarse + (1 - _RELAXATION) * self.sparse_coarse
        fine_for_copy = _RELAXATION * self.sparse_fine + (1 - _RELAXATION) * self.fine
        right = problem.balance * sums.fine_moment + rho * (
            problem.to_fine(coarse_for_tie + self._tie) + fine_for_copy + self._of_fine
        )
        before = self.fine, self.sparse_coarse, tied
        self.fine = (self._fine_inverse @ right[..., None])[..., 0]
        self.sparse_coarse = _soft(coarse_for_copy + self._of_coarse, problem.coarse_penalty / rho)
        tied = problem.to_coarse(self.fine)
        self._tie = self._tie + coarse_for_tie - tied
        self._of_coarse = self._of_coarse + coarse_for_copy - self.sparse_coarse
        self._of_fine = self._of_fine + fine_for_copy - self.fine
        if measure:
            self._measure(before, tied)

    def _measure(self, before: tuple[Tensor, Tensor, Tensor], tied: Tensor) -> None:
        apart = [self.coarse - tied, self.coarse - self.sparse_coarse, self.sparse_fine - self.fine]
        moved = [tied - before[2], self.sparse_coarse - before[1], self.fine - before[0]]
        self.primal, self.dual = _norm(apart), self._rho[:, 0] * _norm(moved)

    def adapt(self) -> None:
        """A step size at which neither residual lags behind: multipliers are rescaled with it."""
        primal, dual = self.primal, self.dual / self._rho[:, 0]
        factor = torch.where(primal > 10 * dual, 2.0, torch.where(dual > 10 * primal, 0.5, 1.0))[:, None]
        if bool((factor != 1).any()):
            self._rho = self._rho * factor
            self._tie, self._of_coarse, self._of_fine = (
                u / factor for u in (self._tie, self._of_coarse, self._of_fine)
            )
            self._factorise()


def _refined(problem: _TwoScaleProblem, sparse_coarse: Tensor, sparse_fine: Tensor) -> tuple[Tensor, Tensor]:
    """Feasible weights: the sparse fine ones, or those that are exact on their support where these are no worse."""
    coarse, fine = problem.to_coarse(sparse_fine), sparse_fine
    exact = torch.stack([_on_support(problem, b, sparse_coarse[b], sparse_fine[b]) for b in range(len(fine))])
    its_coarse = problem.to_coarse(exact).masked_fill(sparse_coarse == 0, 0.0)
    better = problem.objective(its_coarse, exact) <= problem.objective(coarse, fine)
    gap = (problem.to_coarse(exact) - its_coarse).abs().amax(1)
    use = (better & (gap <= _FEASIBLE * (1 + exact.abs().amax(1))))[:, None]
    return torch.where(use, its_coarse, coarse), torch.where(use, exact, fine)


def _optimality(problem: _TwoScaleProblem, coarse: Tensor, fine: Tensor) -> Tensor:
    """Distance from the conditions of optimality ``(B,)``, relative to the gradient at zero.

    Each fine super-pixel says which subgradients of its coarse one's penalty would cancel its own gradient: one value
    where its weight is not zero, otherwise an interval. The weights are optimal where these have a value in common.
    """
    sums = problem.sums
    of_coarse = problem.to_fine((sums.coarse_gram @ coarse[..., None])[..., 0] - sums.coarse_moment)
    of_fine = (sums.fine_gram @ fine[..., None])[..., 0] - sums.fine_moment
    gradient = of_coarse + problem.balance * of_fine
    center = -gradient - problem.fine_penalty * fine.sign()
    reach = torch.where(fine == 0, problem.fine_penalty, 0.0)
    inside = problem.membership.bool()
    low = (center - reach)[..., None].masked_fill(~inside, -torch.inf).amax(1)
    high = (center + reach)[..., None].masked_fill(~inside, torch.inf).amin(1)
    own_reach = torch.where(coarse == 0, problem.coarse_penalty, 0.0)
    own = problem.coarse_penalty * coarse.sign()
    low, high = torch.maximum(low, own - own_reach), torch.minimum(high, own + own_reach)
    # A fine super-pixel of padding lies in no coarse one: its gradient is its own.
    alone = (center.abs() - reach).masked_fill(inside.any(2), 0.0)
    at_zero = (problem.to_fine(sums.coarse_moment) + problem.balance * sums.fine_moment).abs().amax(1)
    worst = torch.maximum((low - high).clamp(min=0).amax(1) / 2, alone.clamp(min=0).amax(1))
    return worst / torch.where(at_zero > 0, at_zero, 1.0)


def _on_support(problem: _TwoScaleProblem, image: int, sparse_coarse: Tensor, sparse_fine: Tensor) -> Tensor:
    """Minimum of one image's objective with the signs fixed: a linear system (Karush, Kuhn and Tucker)."""
    sums, to = problem.sums, problem.membership[image]
    free = sparse_fine != 0
    if not bool(free.any()):
        return sparse_fine
    gram = to @ sums.coarse_gram[image] @ to.mT + problem.balance * sums.fine_gram[image]
    right = to @ sums.coarse_moment[image] + problem.balance * sums.fine_moment[image]
    right = right - problem.coarse_penalty[image] * (to @ sparse_coarse.sign())
    right = right - problem.fine_penalty[image] * sparse_fine.sign()
    zero = to[free][:, sparse_coarse == 0].mT  # these sums of fine weights must vanish
    zero = zero[zero.abs().sum(1) > 0]
    size, rows = int(free.sum()), len(zero)
    system = torch.zeros(size + rows, size + rows, dtype=torch.float64, device=gram.device)
    system[:size, :size], system[size:, :size], system[:size, size:] = gram[free][:, free], zero, zero.mT
    target = torch.cat([right[free], right.new_zeros(rows)])
    found = torch.linalg.pinv(system, hermitian=True) @ target
    exact = torch.zeros_like(sparse_fine)
    exact[free] = found[:size]
    return exact


def _problem(
    sums: TwoScaleSums, membership: Tensor, coarse_penalty: float | Tensor, fine_penalty: float | Tensor, balance: float
) -> _TwoScaleProblem:
    images, q, p = len(sums.output_square), sums.fine_moment.shape[1], sums.coarse_moment.shape[1]
    if membership.shape not in ((q, p), (images, q, p)):
        raise ValueError(
            f"The membership must have shape ({images}, {q}, {p}) or ({q}, {p}), got {tuple(membership.shape)}."
        )
    if not bool(((membership == 0) | (membership == 1)).all()) or bool((membership.sum(-1) > 1).any()):
        raise ValueError(
            "The membership must hold 0 and 1, and put each fine super-pixel inside at most one coarse one."
        )
    for name, tensor in sums._asdict().items():
        check_finite(name, tensor)
    to = as_double(membership).expand(images, q, p)
    coarse, fine = _penalty("coarse", coarse_penalty, sums), _penalty("fine", fine_penalty, sums)
    return _TwoScaleProblem(TwoScaleSums(*map(as_double, sums)), to, coarse, fine, float(balance))


def _penalty(name: str, value: float | Tensor, sums: TwoScaleSums) -> Tensor:
    images = len(sums.output_square)
    penalty = torch.as_tensor(value, dtype=torch.float64, device=sums.output_square.device)
    if penalty.shape not in ((), (images,)) or not bool((penalty >= 0).all()) or not bool(penalty.isfinite().all()):
        raise ValueError(
            f"`{name}_penalty` must be a finite number of at least 0, or one for each image, got {value!r}."
        )
    return penalty.expand(images)[:, None]


def _nothing(problem: _TwoScaleProblem) -> TwoScaleWeights:
    """No super-pixel at one of the scales: nothing but zero is feasible."""
    sums = problem.sums
    coarse, fine = torch.zeros_like(sums.coarse_moment), torch.zeros_like(sums.fine_moment)
    zero = torch.zeros_like(sums.output_square)
    none = torch.zeros_like(zero, dtype=torch.long)
    return TwoScaleWeights(coarse, fine, problem.objective(coarse, fine), zero, zero, zero, zero, none, zero == 0)


def _half_squares(gram: Tensor, moment: Tensor, weights: Tensor) -> Tensor:
    """``½ w A wᵀ - b wᵀ`` for each image."""
    return 0.5 * ((weights[:, None] @ gram)[:, 0] * weights).sum(1) - (moment * weights).sum(1)


def _inverse(matrices: Tensor) -> Tensor:
    return torch.cholesky_inverse(torch.linalg.cholesky(matrices))


def _soft(values: Tensor, threshold: Tensor) -> Tensor:
    return values.sign() * (values.abs() - threshold).clamp(min=0)


def _norm(parts: list[Tensor]) -> Tensor:
    return torch.stack([part.square().sum(1) for part in parts]).sum(0).sqrt()
