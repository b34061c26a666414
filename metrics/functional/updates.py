"""Updates of a layer's weights: their size, the part that turns them, layers that stand still; running statistics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convscope.metrics.functional._precision import as_double, at_least_single
from convscope.metrics.functional._validation import check_finite, check_same_shape

# A layer stands still when its weights turned by no more than rounding does in an epoch of pure weight decay …
_STILL = 1e-5
# … and by no more than this share of what the most-moved layer turned.
_STILL_SHARE = 1e-3
_AT_ONCE = 1 << 16  # weights in a block, so that both copies and their difference stay in a cache
_ROW = 256  # weights that are summed in float32
_SMALL, _LARGE = 1e-10, 1e15  # norms whose squares fit into float32


class WeightUpdate(NamedTuple):
    """Relative change of a layer's weights, float32 scalars: ``ratio``, and the part ``turn`` of it that turns them."""

    ratio: Tensor
    turn: Tensor


def weight_update(current: Tensor, previous: Tensor) -> WeightUpdate:
    """:func:`update_ratio` and :func:`direction_change` of the same weights, read together.

    Args:
        current: Weights now, of any shape.
        previous: The same weights before.

    Returns:
        A :class:`WeightUpdate`.

    Raises:
        ValueError: if the shapes differ, or a value is NaN or Inf.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> weight_update(torch.tensor([0.0, 8.0]), torch.tensor([3.0, 4.0]))
        WeightUpdate(ratio=tensor(1.), turn=tensor(0.9600))
    """
    ratio, turn = weight_updates([(current, previous)])[0]
    device = current.device
    return WeightUpdate(torch.tensor(ratio, device=device).float(), torch.tensor(turn, device=device).float())


def weight_updates(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[float, float]]:
    """Ratio and turn of several weights on one device, current and previous, read together.

    Raises:
        ValueError: if shapes differ, or a value is NaN or Inf.
    """
    if not pairs:
        return []
    flat = [_flat(*pair) for pair in pairs]
    products = torch.stack([_products(*pair) for pair in flat]).tolist()
    for place, (norm, change, _) in enumerate(products):
        if not (_is_safe(norm) and (change == 0 or _is_safe(change))):
            flat[place] = _precise(*pairs[place])
            products[place] = _products(*flat[place]).tolist()
    factors = [along / norm if norm > 0 else 0.0 for norm, _, along in products]
    away = torch.stack([_away(*pair, factor) for pair, factor in zip(flat, factors, strict=True)]).tolist()
    return [
        (_relative(change, norm), _relative(part, norm)) for (norm, change, _), part in zip(products, away, strict=True)
    ]


def _flat(current: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
    check_same_shape("`current`", current, "`previous`", previous)
    return at_least_single(current).flatten(), at_least_single(previous).flatten()


def _precise(current: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
    check_finite("weights", current, previous)
    return as_double(current).flatten(), as_double(previous).flatten()


def update_ratio(current: Tensor, previous: Tensor) -> Tensor:
    r"""Size of a weight update relative to the weights, :math:`\|w - w'\| / \|w'\|`.

    Args:
        current: Weights now, of any shape.
        previous: The same weights before.

    Returns:
        Float32 scalar, at least 0; per step a value near 1e-3 is usual. Infinite where all weights were zero and
        some no longer are.

    Raises:
        ValueError: if the shapes differ, or a value is NaN or Inf.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> update_ratio(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0]))
        tensor(0.1000)
    """
    return weight_update(current, previous).ratio


def direction_change(current: Tensor, previous: Tensor) -> Tensor:
    r"""The part of a weight update that changes the weights' direction, relative to the weights.

    .. math:: \|\Delta - \frac{\Delta \cdot w'}{\|w'\|^2} w'\| / \|w'\|, \quad \Delta = w - w'

    Weight decay without a gradient shrinks all weights alike and turns nothing: 0, though the update ratio is not.

    Args:
        current: Weights now, of any shape.
        previous: The same weights before.

    Returns:
        Float32 scalar, at least 0 and at most the update ratio. Infinite where all weights were zero and some no
        longer are.

    Raises:
        ValueError: if the shapes differ, or a value is NaN or Inf.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> w = torch.tensor([3.0, 4.0])
        >>> direction_change(0.5 * w, w), direction_change(w + torch.tensor([-4.0, 3.0]), w)
        (tensor(0.), tensor(1.))
    """
    return weight_update(current, previous).turn


def statistics_change(mean: Tensor, variance: Tensor, previous_mean: Tensor, previous_variance: Tensor) -> Tensor:
    r"""Movement of a normalisation's running statistics, relative to the standard deviations that it divides by.

    .. math:: \sqrt{\sum_c (\mu_c - \mu'_c)^2 + (\sigma_c - \sigma'_c)^2} / \sqrt{\sum_c \sigma'^2_c}

    Args:
        mean: ``(C,)`` running means now.
        variance: ``(C,)`` running variances now; values below zero, which an extrapolating momentum gives, count as 0.
        previous_mean: The means before.
        previous_variance: The variances before.

    Returns:
        Float64 scalar, at least 0; exactly 0 where the statistics were not updated. Infinite where all variances were
        zero and something has changed.

    Raises:
        ValueError: if the shapes differ.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> one, four = torch.ones(2), torch.full((2,), 4.0)
        >>> float(statistics_change(one, one, one, one)), float(statistics_change(one, four, one, one))
        (0.0, 1.0)
    """
    check_same_shape("`mean`", mean, "`previous_mean`", previous_mean)
    check_same_shape("`variance`", variance, "`previous_variance`", previous_variance)
    means, before = as_double(mean), as_double(previous_mean).to(mean.device)
    now, std = (as_double(one).to(mean.device).clamp_min(0).sqrt() for one in (variance, previous_variance))
    change = torch.linalg.vector_norm(torch.cat([means - before, now - std]))
    return torch.where(change == 0, 0.0, change / torch.linalg.vector_norm(std))


def standing_still(changes: Tensor) -> Tensor:
    """Mask of the layers that stand still while others move.

    Args:
        changes: ``(L,)`` relative change of each layer's weights, as :func:`direction_change` gives it.

    Returns:
        ``(L,)`` bool: changes of at most 1e-5 and at most a thousandth of the largest. Where the largest is below
        1e-5 too, nothing moves (a learning rate of zero) and no layer is singled out.

    Raises:
        ValueError: if ``changes`` is not a vector without NaN.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> standing_still(torch.tensor([0.1, 0.0, 0.02])), standing_still(torch.tensor([0.0, 0.0]))
        (tensor([False,  True, False]), tensor([False, False]))
    """
    if changes.ndim != 1 or bool(torch.isnan(changes).any()):
        raise ValueError(f"`changes` must be a vector (L,) without NaN, got {changes!r}.")
    if len(changes) == 0 or changes.max() <= _STILL:
        return torch.zeros(len(changes), dtype=torch.bool, device=changes.device)
    return (changes <= _STILL) & (changes <= _STILL_SHARE * changes.max())


def _is_safe(squares: float) -> bool:
    """Return whether a sum of squares in float32 is right: neither over- nor underflow, nor NaN."""
    return _SMALL**2 < squares < _LARGE**2


def _products(now: Tensor, before: Tensor) -> Tensor:
    """``w'·w'``, ``Δ·Δ`` and ``Δ·w'`` ``(3,)`` in float64; where weights hardly change, Δ is exact in float32 too."""
    found = []
    for new, old in _pairs(now, before):
        change = new - old
        found.append(torch.stack([_sum(old * old), _sum(change * change), _sum(change * old)]))
    return found[0] if len(found) == 1 else torch.stack(found).sum(0)


def _away(now: Tensor, before: Tensor, factor: float) -> Tensor:
    """Squared norm of ``Δ - factor · w'``, float64."""
    found = []
    for new, old in _pairs(now, before):
        away = (new - old).sub_(old, alpha=factor)
        found.append(_sum(away * away))
    return found[0] if len(found) == 1 else torch.stack(found).sum(0)


def _pairs(now: Tensor, before: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(now.split(_AT_ONCE), before.to(now.device).split(_AT_ONCE), strict=True)


def _sum(values: Tensor) -> Tensor:
    """Sum of a block in float64, in its own precision over a few values at a time."""
    whole = len(values) // _ROW * _ROW
    if whole == 0:
        return as_double(values).sum()
    total = as_double(values[:whole].view(-1, _ROW).sum(1)).sum()
    return total if whole == len(values) else total + as_double(values[whole:]).sum()


def _relative(change: float, before: float) -> float:
    """Root of a quotient in which 0 / 0 is 0."""
    return 0.0 if change == 0 else math.sqrt(change / before) if before > 0 else math.inf
