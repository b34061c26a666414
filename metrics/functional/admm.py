"""Two-scale sparse regression by ADMM: the solver behind multi-scale interpretation.

Source: the problem is the paper's (Cui, Wang and Wang, IEEE TMM 2019), which ties two scales of smooth weights and two
of sparse ones. Here the tie is put in, which leaves smooth fine weights and sparse copies of both scales: the same
minimum in fewer steps. That, the step sizes, the stopping rule and the last step on the support are ours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from convscope._arguments import number, whole_number
from convscope.metrics.functional._two_scale_problem import (
    TwoScaleProblem,
    TwoScaleSums,
    optimality,
    refined,
    two_scale_sums,
)

__all__ = ["TwoScaleSolver", "TwoScaleSums", "TwoScaleWeights", "two_scale_regression", "two_scale_sums"]

_RELAXATION = 1.6  # between 1.5 and 1.8 ADMM needs fewer steps (Boyd et al. 2011, section 3.4.3)
_EVERY = 25  # steps between two looks at the residuals and the step size
_LOOK = 100  # steps after which weights are refined although their signs still change
_ADAPTING = 1000  # the step size rests after so many steps: one that never does may keep ADMM from converging
_OFF = 3.0  # by so much the residuals must differ before the step size follows
_ROUNDING = 1e-11  # of the largest contribution
_FLAT = 1e-6  # of the largest curvature: step sizes do not go below that


class TwoScaleWeights(NamedTuple):
    """Result of the solver, float64.

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

    Smooth fine weights, and sparse copies of them and of their sums, are the two blocks of an ordinary ADMM, which
    converges for any step sizes. What it finds is refined by solving exactly for the weights that are not zero.

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
    number("tolerance", tolerance, least=0.0, above=True)
    whole_number("max_iterations", max_iterations)
    solver = TwoScaleSolver(sums, membership, balance, start)
    return solver.solve(coarse_penalty, fine_penalty, tolerance, max_iterations)


class TwoScaleSolver:
    r"""ADMM on the sums of some images, from penalty to penalty: what was found for one is where the next begins.

    Coarse weights are sums of the fine ones, :math:`x`; copies of both are sparse:

    .. math:: \min \tfrac12 x G x^T - b x^T + \lambda_f \|z_f\|_1 + \lambda_c \|z_c\|_1
        \quad \text{subject to } z_f = x, \; z_c = x T

    The step size of each row follows the curvature there, since activations of super-pixels differ by orders of
    magnitude. An image that is done is left alone: what is found for it does not depend on which others there are.

    Args:
        sums: As in :func:`two_scale_regression`.
        membership: As there.
        balance: As there.
        start: As there.

    Raises:
        ValueError: as there.
    """

    def __init__(
        self, sums: TwoScaleSums, membership: Tensor, balance: float = 1.0, start: TwoScaleWeights | None = None
    ) -> None:
        balance = number("balance", balance, least=0.0, above=True)
        self._problem = problem = TwoScaleProblem.of(sums, membership, balance)
        self._gram, self._moment = problem.on_fine()
        eye = torch.eye(self._moment.shape[1], dtype=torch.float64, device=self._moment.device)
        self._rows = torch.cat([eye.expand_as(self._gram), problem.membership.mT], 1)  # (B, q + p, q)
        self._scale = _curvature(self._gram, self._rows)
        self._size = torch.ones_like(self._scale[:, :1])
        self._split, self._dual = torch.zeros_like(self._scale), torch.zeros_like(self._scale)
        if start is not None:
            before = torch.cat([start.fine, start.coarse], 1).to(self._split)
            same = start.fine.shape == sums.fine_moment.shape and before.shape == self._split.shape
            self._split = before if same else self._split
        self._matrix, self._shift = self._map(slice(None))

    def solve(
        self,
        coarse_penalty: float | Tensor,
        fine_penalty: float | Tensor,
        tolerance: float = 1e-8,
        max_iterations: int = 5000,
    ) -> TwoScaleWeights:
        """Weights at some penalties, as :func:`two_scale_regression` gives them."""
        problem = self._problem.at(coarse_penalty, fine_penalty)
        if problem.is_empty:
            return _nothing(problem)
        found, signs, iterations = _Found(problem), self._split.sign(), 0
        while bool(found.open.any()) and iterations < max_iterations:
            here, steps = found.open.nonzero()[:, 0], min(_EVERY, max_iterations - iterations)
            found.primal[here], found.dual[here], lead = self._advance(problem, here, steps)
            iterations += steps
            # What is refined is right once its signs are: until these are at rest it is too soon to look.
            before, signs = signs, self._split.sign()
            late = iterations % _LOOK == 0 or iterations == max_iterations
            ready = here if late else here[(signs == before).all(1)[here]]
            found.take(ready, self._split, iterations, tolerance)
            if iterations <= _ADAPTING:
                self._adapt(here, lead)
        return found.weights(tolerance)

    def _advance(self, problem: TwoScaleProblem, here: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Make steps for the images ``here``; primal and dual residual of the last, and how far the first leads."""
        scale = (self._size * self._scale)[here]
        threshold = problem.penalties[here] / scale
        matrix, shift, z, u = (part[here] for part in (self._matrix, self._shift, self._split, self._dual))
        for _ in range(steps):
            smooth = torch.baddbmm(shift[..., None], matrix, (z - u)[..., None])[..., 0]
            before, moved = z, u + torch.lerp(z, smooth, _RELAXATION)
            # Its soft threshold: what the bounds leave over.
            u = moved.clamp(-threshold, threshold)
            z = moved - u
        apart, changed = smooth - z, scale * (z - before)
        # Relative to what they are residuals of, each row in units of its own curvature.
        root = scale.sqrt()
        # At the edge of the bounds rounding would decide what is zero.
        size = root * z.abs()
        z = torch.where(size > _ROUNDING * size.amax(1, keepdim=True), z, 0.0)
        self._split[here], self._dual[here] = z, u
        primal = _norm(root * apart) / _above_zero(torch.maximum(_norm(root * z), _norm(root * smooth)))
        dual = _norm(changed / root) / _above_zero(_norm(root * u))
        return _norm(apart), _norm(changed), primal / _above_zero(dual)

    def _adapt(self, here: Tensor, lead: Tensor) -> None:
        """A step size at which neither residual lags behind (as OSQP's); multipliers are rescaled with it."""
        off = (lead > _OFF) | (lead < 1 / _OFF)
        if not bool(off.any()):
            return
        images, factor = here[off], lead[off].sqrt().clamp(0.1, 10.0)[:, None]
        self._size[images] *= factor
        self._dual[images] /= factor
        self._matrix[images], self._shift[images] = self._map(images)

    def _map(self, images: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The smooth weights on all rows as a map of ``z - u``: matrix ``(b, q + p, q + p)``, and what it adds."""
        rows = self._rows[images]
        weighted = rows.mT * (self._size * self._scale)[images][:, None]
        solved = torch.cholesky_solve(
            torch.cat([weighted, self._moment[images][..., None]], 2),
            torch.linalg.cholesky(self._gram[images] + weighted @ rows),
        )
        found = rows @ solved
        return found[..., :-1].contiguous(), found[..., -1]


class _Found:
    """The weights of each image, kept from the look at which they were found good enough."""

    def __init__(self, problem: TwoScaleProblem) -> None:
        sums = problem.sums
        self._problem = problem
        self._coarse, self._fine = torch.zeros_like(sums.coarse_moment), torch.zeros_like(sums.fine_moment)
        self.primal, self.dual = torch.zeros_like(sums.output_square), torch.zeros_like(sums.output_square)
        self._optimality = torch.full_like(sums.output_square, torch.inf)
        self._iterations = torch.zeros_like(sums.output_square, dtype=torch.long)
        self.open = torch.ones_like(sums.output_square, dtype=torch.bool)

    def take(self, images: Tensor, split: Tensor, iterations: int, tolerance: float) -> None:
        """Refine what ADMM has come to for some images."""
        if len(images) == 0:
            return
        problem, q = self._problem.part(images), self._fine.shape[1]
        coarse, fine = refined(problem, split[images, q:], split[images, :q])
        apart = optimality(problem, coarse, fine)
        self._coarse[images], self._fine[images], self._optimality[images] = coarse, fine, apart
        self._iterations[images] = iterations
        self.open[images] = apart > tolerance

    def weights(self, tolerance: float) -> TwoScaleWeights:
        problem, coarse, fine = self._problem, self._coarse, self._fine
        gap = (problem.to_coarse(fine) - coarse).abs().amax(1)
        objective, converged = problem.objective(coarse, fine), self._optimality <= tolerance
        return TwoScaleWeights(
            coarse, fine, objective, gap, self.primal, self.dual, self._optimality, self._iterations, converged
        )


def _nothing(problem: TwoScaleProblem) -> TwoScaleWeights:
    """No super-pixel at one of the scales: nothing but zero is feasible."""
    sums = problem.sums
    coarse, fine = torch.zeros_like(sums.coarse_moment), torch.zeros_like(sums.fine_moment)
    zero = torch.zeros_like(sums.output_square)
    none = torch.zeros_like(zero, dtype=torch.long)
    return TwoScaleWeights(coarse, fine, problem.objective(coarse, fine), zero, zero, zero, zero, none, zero == 0)


def _curvature(gram: Tensor, rows: Tensor) -> Tensor:
    """Step size of each row ``(B, q + p)``: of a fine weight its own curvature, of a sum that of moving all alike."""
    own = gram.diagonal(dim1=1, dim2=2)
    least = _FLAT * own.amax(1, keepdim=True) if own.shape[1] else own
    own = torch.maximum(own, least)
    own = torch.where(own > 0, own, 1.0)
    return 1 / _above_zero((rows / own[:, None]).sum(2), 1.0)


def _norm(values: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(values, dim=1)
    return found


def _above_zero(values: Tensor, otherwise: float = 1e-300) -> Tensor:
    return torch.where(values > 0, values, otherwise)
