"""The problem of multi-scale interpretation: sums over copies, the objective, and the conditions of its minimum.

Source: the problem is the paper's (Cui, Wang and Wang, IEEE TMM 2019); the refinement on a support is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from convscope.metrics.functional._precision import as_double
from convscope.metrics.functional._validation import check_finite

_FEASIBLE = 1e-9
_ACCURATE = 1e-12


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


def two_scale_sums(coarse: Tensor, fine: Tensor, output: Tensor, weight: Tensor) -> TwoScaleSums:
    """Sums of one chunk of copies.

    Args:
        coarse: ``(B, K, p)`` what each copy shows of each coarse super-pixel.
        fine: ``(B, K, q)`` likewise of the fine ones.
        output: ``(B, K)`` the model's output on the copies.
        weight: ``(B, K)`` not negative, how near a copy is to the image.

    Raises:
        ValueError: if shapes do not fit, a value is not finite, or a weight is negative.

    Source: paper (Cui, Wang and Wang, IEEE TMM 2019).

    Example:
        >>> import torch
        >>> shown = torch.eye(2).expand(1, 2, 2)
        >>> two_scale_sums(shown, shown, torch.tensor([[3.0, 1.0]]), torch.ones(1, 2)).fine_moment
        tensor([[3., 1.]], dtype=torch.float64)
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
class TwoScaleProblem:
    """The problem of B images, at some penalties.

    Attributes:
        sums: float64.
        membership: ``(B, q, p)``.
        balance: μ.
        coarse_penalty: ``(B, 1)``.
        fine_penalty: ``(B, 1)``.
    """

    sums: TwoScaleSums
    membership: Tensor
    balance: float
    coarse_penalty: Tensor
    fine_penalty: Tensor

    @classmethod
    def of(cls, sums: TwoScaleSums, membership: Tensor, balance: float) -> TwoScaleProblem:
        """The problem without penalties.

        Raises:
            ValueError: if shapes do not fit, a sum is not finite, or the membership is none.
        """
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
        found = TwoScaleSums(*map(as_double, sums))
        none = torch.zeros_like(found.output_square)[:, None]
        return cls(found, as_double(membership).expand(images, q, p), balance, none, none)

    def at(self, coarse_penalty: float | Tensor, fine_penalty: float | Tensor) -> TwoScaleProblem:
        """The same problem at other penalties, one number or ``(B,)`` each.

        Raises:
            ValueError: if a penalty is negative or not finite.
        """
        coarse, fine = (_penalty(n, v, self.sums) for n, v in (("coarse", coarse_penalty), ("fine", fine_penalty)))
        return replace(self, coarse_penalty=coarse, fine_penalty=fine)

    def part(self, images: Tensor) -> TwoScaleProblem:
        """The problem of some of the images, by their places."""
        sums = TwoScaleSums(*(part[images] for part in self.sums))
        return replace(
            self,
            sums=sums,
            membership=self.membership[images],
            coarse_penalty=self.coarse_penalty[images],
            fine_penalty=self.fine_penalty[images],
        )

    @property
    def is_empty(self) -> bool:
        """Return whether there is no super-pixel at one of the scales, or no image."""
        return self.sums.coarse_moment.numel() == 0 or self.sums.fine_moment.numel() == 0

    @property
    def penalties(self) -> Tensor:
        """``(B, q + p)``: of each fine weight, then of each coarse one."""
        fine, coarse = self.sums.fine_moment, self.sums.coarse_moment
        return torch.cat([self.fine_penalty.expand_as(fine), self.coarse_penalty.expand_as(coarse)], 1)

    def on_fine(self) -> tuple[Tensor, Tensor]:
        """Gram matrix ``(B, q, q)`` and moment ``(B, q)`` of fine weights alone, the coarse ones being their sums."""
        sums, to = self.sums, self.membership
        gram = to @ sums.coarse_gram @ to.mT + self.balance * sums.fine_gram
        return gram, self.to_fine(sums.coarse_moment) + self.balance * sums.fine_moment

    def to_coarse(self, fine: Tensor) -> Tensor:
        """Sums ``(B, p)`` of fine weights inside each coarse super-pixel."""
        return (fine[:, None] @ self.membership)[:, 0]

    def to_fine(self, coarse: Tensor) -> Tensor:
        """For each fine super-pixel ``(B, q)`` the value of its coarse one."""
        return (self.membership @ coarse[..., None])[..., 0]

    def objective(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """``(B,)``."""
        s = self.sums
        both = _half_squares(s.coarse_gram, s.coarse_moment, coarse) + self.balance * _half_squares(
            s.fine_gram, s.fine_moment, fine
        )
        constant = 0.5 * (1 + self.balance) * s.output_square
        sparse = self.coarse_penalty[:, 0] * coarse.abs().sum(1) + self.fine_penalty[:, 0] * fine.abs().sum(1)
        return both + constant + sparse


def refined(problem: TwoScaleProblem, sparse_coarse: Tensor, sparse_fine: Tensor) -> tuple[Tensor, Tensor]:
    """Feasible weights: the sparse fine ones, or those that are exact on their support where these are no worse."""
    coarse, fine = problem.to_coarse(sparse_fine), sparse_fine
    gram, moment = problem.on_fine()
    exact = torch.stack(
        [_on_support(problem, gram[b], moment[b], b, sparse_coarse[b], sparse_fine[b]) for b in range(len(fine))]
    )
    its_coarse = problem.to_coarse(exact).masked_fill(sparse_coarse == 0, 0.0)
    better = problem.objective(its_coarse, exact) <= problem.objective(coarse, fine)
    gap = (problem.to_coarse(exact) - its_coarse).abs().amax(1)
    use = (better & (gap <= _FEASIBLE * (1 + exact.abs().amax(1))))[:, None]
    return torch.where(use, its_coarse, coarse), torch.where(use, exact, fine)


def optimality(problem: TwoScaleProblem, coarse: Tensor, fine: Tensor) -> Tensor:
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


def _on_support(
    problem: TwoScaleProblem, gram: Tensor, moment: Tensor, image: int, sparse_coarse: Tensor, sparse_fine: Tensor
) -> Tensor:
    """Minimum of one image's objective with the signs fixed: a linear system (Karush, Kuhn and Tucker)."""
    to, free = problem.membership[image], sparse_fine != 0
    if not bool(free.any()):
        return sparse_fine
    right = moment - problem.coarse_penalty[image] * (to @ sparse_coarse.sign())
    right = right - problem.fine_penalty[image] * sparse_fine.sign()
    zero = to[free][:, sparse_coarse == 0].mT  # these sums of fine weights must vanish
    zero = zero[zero.abs().sum(1) > 0]
    size, rows = int(free.sum()), len(zero)
    system = gram.new_zeros(size + rows, size + rows)
    system[:size, :size], system[size:, :size], system[:size, size:] = gram[free][:, free], zero, zero.mT
    exact = torch.zeros_like(sparse_fine)
    exact[free] = _solved(system, torch.cat([right[free], right.new_zeros(rows)]))[:size]
    return exact


def _solved(system: Tensor, target: Tensor) -> Tensor:
    """Solution of a symmetric system; the smallest one where there are several."""
    found: Tensor
    found, failed = torch.linalg.solve_ex(system, target)
    bound = _ACCURATE * (1 + float(target.abs().max()))
    if bool(failed) or not bool(((system @ found - target).abs() <= bound).all()):
        found = torch.linalg.pinv(system, hermitian=True) @ target
    return found


def _penalty(name: str, value: float | Tensor, sums: TwoScaleSums) -> Tensor:
    images = len(sums.output_square)
    penalty = torch.as_tensor(value, dtype=torch.float64, device=sums.output_square.device)
    if penalty.shape not in ((), (images,)) or not bool((penalty >= 0).all()) or not bool(penalty.isfinite().all()):
        raise ValueError(
            f"`{name}_penalty` must be a finite number of at least 0, or one for each image, got {value!r}."
        )
    return penalty.expand(images)[:, None]


def _half_squares(gram: Tensor, moment: Tensor, weights: Tensor) -> Tensor:
    """``½ w A wᵀ - b wᵀ`` for each image."""
    return 0.5 * ((weights[:, None] @ gram)[:, 0] * weights).sum(1) - (moment * weights).sum(1)
