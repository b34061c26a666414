"""Health of a layer: filters that never fire, never vary or sit at a bound; sizes of signals and updates."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from convscope._arguments import refuse, share
from convscope.metrics.functional._precision import as_double, at_least_single
from convscope.metrics.functional._validation import check_channels, check_finite, check_same_shape

Bounds = tuple[float | None, float | None]
"""Least and greatest value that an activation function can give, None where it has no such bound."""

# A filter counts as constant when its range is below 1e-6 of its largest value: float32 rounding, no variation.
_CONSTANT_RANGE_SHARE = 1e-6
# A value counts as at a bound within this share of the distance between the bounds (of the bound, if there is one).
_BOUND_MARGIN = 0.01

# A layer stands still when its weights turned by no more than rounding does in an epoch of pure weight decay …
_STILL = 1e-5
# … and by no more than this share of what the most-moved layer turned.
_STILL_SHARE = 1e-3


class ActivityResult(NamedTuple):
    """Result of :class:`~convscope.metrics.FilterActivity`; NaN and infinite values are counted and left out.

    Attributes:
        dead: ``(C,)`` bool, filters that are never active.
        constant: ``(C,)`` bool, filters that give one value everywhere and are not dead.
        saturated: ``(C,)`` bool, filters nearly all of whose values lie at a bound of the activation function.
        active_share: ``(C,)`` float32 in [0, 1], share of values above zero.
        rms: float32 scalar, root mean square over the whole layer.
        nonfinite: int64 scalar, number of NaN and infinite values.
    """

    dead: Tensor
    constant: Tensor
    saturated: Tensor
    active_share: Tensor
    rms: Tensor
    nonfinite: Tensor


class ActivitySums(NamedTuple):
    """Per-filter sums and extremes ``(C,)`` of the finite values, float64, and the number of values left out."""

    minimum: Tensor
    maximum: Tensor
    squares: Tensor
    positive: Tensor
    at_bound: Tensor
    seen: Tensor
    nonfinite: Tensor


def activity_sums(activation: Tensor, bounds: Bounds = (None, None)) -> ActivitySums:
    """Sums of one chunk ``(N, C, *S)`` with at least one value per filter."""
    values = activation.detach()
    dims = [dim for dim in range(values.ndim) if dim != 1]
    minimum, maximum = values.amin(dims), values.amax(dims)
    each = torch.full_like(minimum, values.numel() // values.shape[1], dtype=torch.float64, device="cpu")
    counts, nonfinite = each.to(as_double(minimum).device), torch.zeros((), dtype=torch.int64)
    if not bool(torch.isfinite(minimum + maximum).all()):
        finite = torch.isfinite(values)
        counts, nonfinite = as_double(finite.sum(dims)), (~finite).sum()
        minimum = values.where(finite, torch.inf).amin(dims)
        maximum = values.where(finite, -torch.inf).amax(dims)
        values = values.where(finite, 0.0)
    positive, at_bound = as_double(_how_many(values > 0, dims)), as_double(_at_bound(values, bounds, dims))
    squares = _squares(values, dims)
    return ActivitySums(as_double(minimum), as_double(maximum), squares, positive, at_bound, counts, nonfinite)


def activity_result(
    sums: ActivitySums, rectified: bool, saturated_share: float, off: tuple[float, float] = (-math.inf, 0.0)
) -> ActivityResult:
    """The result from the sums of all chunks."""
    known = sums.seen > 0
    if not bool(known.any()) and int(sums.nonfinite) == 0:
        raise ValueError("Filter activity needs at least one activation, got none. Call update() first.")
    count = sums.seen.clamp(min=1)
    low, high = off if rectified else (0.0, 0.0)
    silent = (sums.minimum >= low) & (sums.maximum <= high)
    largest = torch.maximum(sums.maximum.abs(), sums.minimum.abs())
    still = sums.maximum - sums.minimum <= _CONSTANT_RANGE_SHARE * largest
    return ActivityResult(
        dead=known & silent,
        constant=known & still & ~silent,
        saturated=known & ~(silent & rectified) & (sums.at_bound >= saturated_share * count),
        active_share=(sums.positive / count).float(),
        rms=(sums.squares.sum() / sums.seen.sum().clamp(min=1)).sqrt().float(),
        nonfinite=sums.nonfinite,
    )


def filter_activity(
    activation: Tensor,
    rectified: bool = True,
    bounds: Bounds = (None, None),
    saturated_share: float = 0.95,
    off: tuple[float, float] = (-math.inf, 0.0),
) -> ActivityResult:
    """Dead, constant and saturated filters of a layer, and the size of the layer's signal.

    - **dead**: never active. With a rectifier (ReLU, GELU, SiLU, …) every value is in the range ``off``; otherwise
      every value is exactly zero, since a negative output is as good as a positive one.
    - **constant**: not dead, but the same value for every sample at every position, up to float32 rounding.
    - **saturated**: at least ``saturated_share`` of the values lie within 1 % of a bound of the activation function.

    Args:
        activation: ``(N, C, *S)`` of any float type.
        rectified: Whether the layer ends in a rectifier.
        bounds: Least and greatest value of the activation function, None for no bound: ``(-1, 1)`` for tanh,
            ``(None, 6)`` for ReLU6, whose lower end means "off" and not "saturated".
        saturated_share: Share of a filter's values that must lie at a bound, in (0, 1].
        off: Least and greatest value that a rectified filter gives while it is off: anything up to 0 for ReLU,
            ``(-0.014, 0)`` for SiLU, whose negative values are a flat tail only near zero.

    Returns:
        An :class:`ActivityResult`.

    Raises:
        ValueError: if the shape or type is wrong, there is no value, the bounds or ``off`` are not ordered, or
            ``saturated_share`` is out of range.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> found = filter_activity(torch.tensor([[0.0, 2.0, 0.0], [0.0, 2.0, 1.0]]))
        >>> found.dead.tolist(), found.constant.tolist()
        ([True, False, False], [False, True, False])
    """
    check_channels("activation", activation, activation.shape[1] if activation.ndim > 1 else 0)
    check_bounds(bounds)
    check_off(off)
    saturated_share = share("saturated_share", saturated_share, "a share of the values")
    if activation.numel() == 0:
        raise ValueError(f"Filter activity needs at least one value per filter, got shape {tuple(activation.shape)}.")
    return activity_result(activity_sums(activation, bounds), rectified, saturated_share, off)


def signal_rms(signal: Tensor) -> Tensor:
    """Root mean square of an activation or a gradient.

    Args:
        signal: Of any shape and float type, with at least one value.

    Returns:
        Float32 scalar, at least 0, in the unit of the signal.

    Raises:
        ValueError: if there is no value, or one is NaN or Inf.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> round(float(signal_rms(torch.tensor([1.0, -7.0]))), 4)
        5.0
    """
    if signal.numel() == 0:
        raise ValueError(f"A root mean square needs at least one value, got shape {tuple(signal.shape)}.")
    check_finite("signal", signal)
    return (squared_sum(signal) / signal.numel()).sqrt().float()


def squared_sum(signal: Tensor) -> Tensor:
    """Sum of squares, a float64 scalar that neither overflows nor underflows for any finite float32."""
    return _squares(signal.detach(), list(range(signal.ndim)))


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
    before, change = _weights_and_change(current, previous)
    return _relative(change, before)


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
    before, change = _weights_and_change(current, previous)
    norm = before @ before
    along = torch.zeros_like(change) if norm == 0 else (change @ before) / norm * before
    return _relative(change - along, before)


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


def _at_bound(values: Tensor, bounds: Bounds, dims: list[int]) -> Tensor:
    lower, upper = bounds
    ends = [end for end in bounds if end is not None]
    margin = _BOUND_MARGIN * (abs(ends[-1] - ends[0]) if len(ends) == 2 else abs(ends[0]) if ends else 0.0)
    found = torch.zeros(values.shape[1], dtype=torch.int64, device=values.device)
    if lower is not None:
        found += _how_many(values <= lower + margin, dims)
    if upper is not None:
        found += _how_many(values >= upper - margin, dims)
    return found


def _how_many(mask: Tensor, dims: list[int]) -> Tensor:
    """Counts along ``dims``: in 32 bits twice as fast as in 64, and no chunk has so many values."""
    return mask.sum(dims, dtype=torch.int32)


def _squares(values: Tensor, dims: list[int]) -> Tensor:
    """Sums of squares over ``dims`` in float64; in float32 inside a sample unless that over- or underflows.

    Not beyond a sample: a float32 sum over a chunk would depend on how large the chunk is.
    """
    inside = [dim for dim in dims if dim > 0]
    norm: Tensor = torch.linalg.vector_norm(at_least_single(values), dim=inside) if inside else values.abs()
    if bool(((norm > 1e-15) & torch.isfinite(norm)).all()):
        squares = as_double(norm).square()
        return squares.sum(dim=0) if 0 in dims else squares
    exact: Tensor = torch.linalg.vector_norm(as_double(values), dim=dims)
    return exact.square()


def _weights_and_change(current: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
    check_same_shape("`current`", current, "`previous`", previous)
    check_finite("weights", current, previous)
    now, before = as_double(current).flatten(), as_double(previous).flatten()
    return before, now - before


def _relative(change: Tensor, before: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(change)
    return size.float() if size == 0 else (size / torch.linalg.vector_norm(before)).float()


def check_off(off: tuple[float, float]) -> None:
    """The least value lies at or below the greatest."""
    if not off[0] <= off[1]:
        raise refuse("off", off, "(least, greatest) value of a filter that is off, such as (-0.014, 0.0) for SiLU")


def check_bounds(bounds: Bounds) -> None:
    """The lower bound lies below the upper one."""
    lower, upper = bounds
    if lower is not None and upper is not None and not lower < upper:
        raise refuse("bounds", bounds, "(lower, upper) with lower < upper, None for no bound")
