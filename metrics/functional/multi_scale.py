"""Multi-scale interpretation from sums over perturbed copies: sparse weights, how well they fit, importances.

Source: paper (Cui, Wang and Wang, IEEE TMM 2019) for the two scales, the objective and the importances. That penalties
follow from a target sparsity, the weighted R², the areas and the common evidence are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convscope._arguments import refuse, share
from convscope.metrics.functional._precision import as_double
from convscope.metrics.functional._validation import check_finite
from convscope.metrics.functional.admm import TwoScaleSolver, TwoScaleSums, TwoScaleWeights

_LEAST = 1e-3  # of the penalty at which everything vanishes
_HALVINGS = 6  # so that the penalty is known to a tenth of itself
_TOLERANCE = 1e-9
_SEARCHING, _STEPS = 300, 5000  # steps of the solver at most, in the search and at the penalty that it ends with
_VISIBLE = 1e-6  # of the largest contribution: what is smaller is zero to the precision of the outputs


class MultiScaleResult(NamedTuple):
    """Result of :class:`~convscope.metrics.MultiScaleFit`, of B images with p coarse and q fine super-pixels.

    Attributes:
        coarse: ``(B, p)`` float64 importance of each coarse super-pixel: weight times activation, in units of the
            class probability; below 0 where the super-pixel speaks against the class.
        fine: ``(B, q)`` likewise of the fine ones.
        coarse_r2: ``(B,)`` weighted R² of the coarse scale in [0, 1]; 0 where it is no better than the weighted mean
            of the output, NaN where the output does not vary.
        fine_r2: ``(B,)`` of the fine scale.
        coarse_nonzero: ``(B,)`` share of the coarse super-pixels whose weight is not zero.
        fine_nonzero: ``(B,)`` of the fine ones.
        strength: ``(B,)`` penalties as a share of those at which all weights are zero.
        weights: What the solver found.
    """

    coarse: Tensor
    fine: Tensor
    coarse_r2: Tensor
    fine_r2: Tensor
    coarse_nonzero: Tensor
    fine_nonzero: Tensor
    strength: Tensor
    weights: TwoScaleWeights


def sparse_two_scale_regression(
    sums: TwoScaleSums,
    membership: Tensor,
    nonzero: float = 0.75,
    balance: float = 1.0,
    start: TwoScaleWeights | None = None,
) -> tuple[TwoScaleWeights, Tensor]:
    """:func:`two_scale_regression` with penalties so large that a given share of fine weights is not zero (ours).

    Penalties are a common share of those at which every weight is zero, ``max |Σ h y z|`` of each scale. The share is
    found by halving, for each image.

    Args:
        sums: Of ``B`` images.
        membership: ``(B, q, p)`` or ``(q, p)``.
        nonzero: Largest share of the fine super-pixels that may have a weight, in (0, 1]; one may always.
        balance: μ.
        start: As there.

    Returns:
        The weights, and the share of the penalties ``(B,)``.

    Raises:
        ValueError: as there, or if ``nonzero`` is out of range.

    Source: reconstruction; the paper gives no penalties (Cui, Wang and Wang, IEEE TMM 2019).

    Example:
        >>> import torch
        >>> from convscope.metrics.functional import two_scale_sums
        >>> z = torch.eye(4).expand(1, 4, 4)
        >>> sums = two_scale_sums(z, z, torch.tensor([[4.0, 3.0, 2.0, 1.0]]), torch.ones(1, 4))
        >>> weights, _ = sparse_two_scale_regression(sums, torch.eye(4), nonzero=0.5)
        >>> (weights.fine != 0).tolist()
        [[True, True, False, False]]
    """
    share("nonzero", nonzero, "a share of the fine super-pixels")
    images = len(sums.output_square)
    inside = as_double(membership).expand(images, *membership.shape[-2:]).sum(2) > 0
    most = (nonzero * inside.sum(1)).floor().clamp(min=1)
    largest = sums.coarse_moment.abs(), balance * sums.fine_moment.abs()
    limits = [moment.amax(1) if moment.shape[1] else moment.new_zeros(images) for moment in largest]
    low, high = (torch.full_like(sums.output_square, edge) for edge in (math.log(_LEAST), 0.0))

    solver = TwoScaleSolver(sums, membership, balance, start)

    def solve(at: Tensor, steps: int) -> TwoScaleWeights:
        coarse, fine = (at.exp() * limit for limit in limits)
        return solver.solve(coarse, fine, _TOLERANCE, steps)

    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        few = nonzero_weights(solve(middle, _SEARCHING).fine, sums.fine_gram).sum(1) <= most
        low, high = torch.where(few, low, middle), torch.where(few, middle, high)
    return solve(high, _STEPS), high.exp()


def nonzero_weights(weights: Tensor, gram: Tensor) -> Tensor:
    """Which weights ``(B, q)`` are not zero, by more than rounding of what they contribute."""
    size = weights.abs() * gram.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    largest = size.amax(1, keepdim=True) if size.shape[1] else size.new_zeros(len(size), 1)
    return size > _VISIBLE * largest


def weighted_r2(gram: Tensor, moment: Tensor, weights: Tensor, square: Tensor, total: Tensor, weight: Tensor) -> Tensor:
    r"""Weighted R² of a linear model without intercept, from sums over copies.

    .. math:: 1 - \frac{\sum_k h_k (w z_k - y_k)^2}{\sum_k h_k (y_k - \bar y)^2}, \quad \bar y \text{ the weighted mean}

    Args:
        gram: ``(B, p, p)``, Σ h z zᵀ.
        moment: ``(B, p)``, Σ h y z.
        weights: ``(B, p)``.
        square: ``(B,)``, Σ h y².
        total: ``(B,)``, Σ h y.
        weight: ``(B,)``, Σ h.

    Returns:
        ``(B,)`` float64: at most 1; below 0 is given as 0, no better than the mean; NaN where ``y`` does not vary by
        more than rounding in float32.

    Raises:
        ValueError: if a sum is not finite.

    Source: ours.

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> weighted_r2(torch.tensor([[[5.0]]]), torch.tensor([[5.0]]), torch.ones(1, 1), 5 * one, 3 * one, 2 * one)
        tensor([1.], dtype=torch.float64)
    """
    for name, sums in (("gram", gram), ("moment", moment), ("weights", weights)):
        check_finite(name, sums)
    gram, moment, weights, square, total, weight = map(as_double, (gram, moment, weights, square, total, weight))
    fitted = (weights[:, None] @ gram)[:, 0]
    misfit = (fitted * weights).sum(1) - 2 * (moment * weights).sum(1) + square
    spread = square - total.square() / torch.where(weight > 0, weight, 1.0)
    known = spread > 1e-11 * square
    return torch.where(known, (1 - misfit / torch.where(known, spread, 1.0)).clamp(0, 1), torch.nan)


def explain_two_scales(
    sums: TwoScaleSums,
    total: Tensor,
    weight: Tensor,
    membership: Tensor,
    activations: tuple[Tensor, Tensor],
    nonzero: float = 0.75,
    balance: float = 1.0,
    start: TwoScaleWeights | None = None,
) -> MultiScaleResult:
    """Importances of super-pixels at both scales, and how well they explain the output.

    Args:
        sums: Of ``B`` images.
        total: ``(B,)``, Σ h y.
        weight: ``(B,)``, Σ h.
        membership: ``(B, q, p)``.
        activations: ``(B, p)`` and ``(B, q)``: mean activation of the deep layer over each coarse super-pixel, of the
            shallow one over each fine one.
        nonzero: See :func:`sparse_two_scale_regression`.
        balance: μ.
        start: Weights of the last snapshot.

    Raises:
        ValueError: as there.

    Source: paper (Cui, Wang and Wang, IEEE TMM 2019); see the module for what is ours.

    Example:
        >>> import torch
        >>> from convscope.metrics.functional import two_scale_sums
        >>> shown, ones = torch.eye(4).expand(1, 4, 4), torch.ones(1, 4)
        >>> sums = two_scale_sums(shown, shown, torch.tensor([[4.0, 0.0, 0.0, 0.0]]), ones)
        >>> found = explain_two_scales(sums, torch.tensor([4.0]), torch.tensor([4.0]), torch.eye(4)[None], (ones, ones))
        >>> found.fine.argmax(1), found.coarse.argmax(1)
        (tensor([0]), tensor([0]))
    """
    weights, strength = sparse_two_scale_regression(sums, membership, nonzero, balance, start)
    r2 = [
        weighted_r2(gram, moment, found, sums.output_square, total, weight)
        for gram, moment, found in (
            (sums.coarse_gram, sums.coarse_moment, weights.coarse),
            (sums.fine_gram, sums.fine_moment, weights.fine),
        )
    ]
    counts = membership.sum(1).gt(0).sum(1), membership.sum(2).gt(0).sum(1)
    nonzeros = nonzero_weights(weights.coarse, sums.coarse_gram), nonzero_weights(weights.fine, sums.fine_gram)
    shares = [found.sum(1) / count.clamp(min=1) for found, count in zip(nonzeros, counts, strict=True)]
    coarse, fine = (found * as_double(a) for found, a in zip((weights.coarse, weights.fine), activations, strict=True))
    return MultiScaleResult(coarse, fine, r2[0], r2[1], shares[0], shares[1], strength, weights)


def switching_area(probability: Tensor, shares: Sequence[float]) -> Tensor:
    """Areas under curves of a class probability against the share of super-pixels switched (trapezoidal rule).

    Where the super-pixels that matter most are switched off first the area is small (deletion), where they are switched
    on first it is large (insertion).

    Args:
        probability: ``(*, R)``.
        shares: R shares of the super-pixels, rising from 0 to 1.

    Returns:
        ``(*)`` float64, in [0, 1].

    Raises:
        ValueError: if the lengths differ, or ``shares`` does not rise from 0 to 1.

    Source: Petsiuk et al. 2018 (arXiv 1806.07421), on super-pixels.

    Example:
        >>> import torch
        >>> switching_area(torch.tensor([[0.8, 0.2, 0.0]]), [0.0, 0.5, 1.0])
        tensor([0.3000], dtype=torch.float64)
    """
    places = torch.tensor(list(shares), dtype=torch.float64)
    if len(places) < 2 or probability.shape[-1:] != places.shape:
        raise ValueError(
            f"Each share needs a probability, at least two, got {tuple(probability.shape)} for {list(shares)}."
        )
    if places[0] != 0 or places[-1] != 1 or bool((places.diff() <= 0).any()):
        raise refuse("shares", list(shares), "shares that rise from 0 to 1")
    values = as_double(probability)
    return torch.trapezoid(values, places.to(values.device))


def common_evidence(importance: Tensor) -> Tensor:
    """Evidence that images have in common, at each place: the mean over images of its share of the importance.

    Near 0 everywhere if every image has its important region elsewhere; near 1 at one place if all evidence for the
    class is there in every image, near -1 if all evidence against it is: a mark, a watermark, a border.

    Args:
        importance: ``(B, G)`` of each image at each of G places, above 0 where it speaks for the class.

    Returns:
        ``(G,)`` float64 in [-1, 1]; NaN if no image has any importance. Images without any do not count.

    Raises:
        ValueError: if a value is not finite.

    Source: ours.

    Example:
        >>> import torch
        >>> common_evidence(torch.tensor([[1.0, 0.0], [0.0, 3.0]])), common_evidence(torch.tensor([[2.0, -2.0]]))
        (tensor([0.5000, 0.5000], dtype=torch.float64), tensor([ 0.5000, -0.5000], dtype=torch.float64))
    """
    check_finite("importance", importance)
    values = as_double(importance)
    total = values.abs().sum(1, keepdim=True)
    with_any = total[:, 0] > 0
    if not bool(with_any.any()):
        return torch.full_like(values[0], torch.nan)
    return (values[with_any] / total[with_any]).mean(0)
