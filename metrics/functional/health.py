"""Health of a layer: filters that never fire, never vary or sit at a bound, and sizes of signals."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from convscope._arguments import refuse, share
from convscope._devices import free_to_look
from convscope.metrics.functional._maps import extremes, map_blocks, scratch, sum_inside
from convscope.metrics.functional._precision import as_double, at_least_single, column_squares, without_graph
from convscope.metrics.functional._validation import check_channels, check_finite

Bounds = tuple[float | None, float | None]
"""Least and greatest value that an activation function can give, None where it has no such bound."""

# A filter counts as constant when its range is below 1e-6 of its largest value: float32 rounding, no variation.
_CONSTANT_RANGE_SHARE = 1e-6
# A value counts as at a bound within this share of the distance between the bounds (of the bound, if there is one).
_BOUND_MARGIN = 0.01

# Squares are taken in float32 where the root of their sum over a chunk lies in between: what is lost is no digit of it.
_SMALL, _LARGE = 1e-10, 1e15


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
    """Extremes and sums of one chunk's finite values.

    Attributes:
        minimum: ``(C,)``.
        maximum: ``(C,)``.
        sums: ``(2, C)`` or ``(3, C)`` float64: squares, values above zero and, where there is a bound, values at one.
        number: of values of each filter, with those that are not finite.
        left_out: ``(C,)`` float64, how many of them are not finite; None for none.
    """

    minimum: Tensor
    maximum: Tensor
    sums: Tensor
    number: int | Tensor
    left_out: Tensor | None


def activity_sums(activation: Tensor, bounds: Bounds = (None, None)) -> ActivitySums:
    """Sums of one chunk ``(N, C, *S)`` with at least one value per filter."""
    values = without_graph(activation)
    if free_to_look(values):
        found = _plain_sums(values, bounds)
        if is_safe(float(found.sums[0].sum())):
            return found
    return _careful_sums(values, bounds)


def _plain_sums(values: Tensor, bounds: Bounds) -> ActivitySums:
    """Sums of finite values whose squares fit into float32."""
    ends: list[tuple[Tensor, Tensor]] = []
    sums: list[Tensor] = []
    for block in map_blocks(values):
        ends.append(extremes(block))
        memory = scratch(block)  # of numbers: a sum of truth values is several times slower
        squared = torch.linalg.vector_norm(block, dim=2).square_()
        positive = sum_inside(torch.gt(block, 0, out=memory))
        sums.append(torch.stack([squared, positive, *_at_bound(block, bounds, memory)]))
    least, greatest = zip(*ends, strict=True)
    minimum = least[0] if len(ends) == 1 else torch.stack(least).amin(0)
    maximum = greatest[0] if len(ends) == 1 else torch.stack(greatest).amax(0)
    # In float32 inside a sample only: a float32 sum over a chunk would depend on how large the chunk is.
    inside = as_double(sums[0] if len(sums) == 1 else torch.cat(sums, dim=1))
    return ActivitySums(minimum, maximum, inside.sum(1), values.numel() // values.shape[1], None)


def _careful_sums(values: Tensor, bounds: Bounds) -> ActivitySums:
    """Sums of any values: NaN and infinite ones are left out, and squares are taken in float64."""
    dims, count = [dim for dim in range(values.ndim) if dim != 1], values.numel() // values.shape[1]
    known = torch.nan_to_num(values, 0.0, 0.0, 0.0)
    maps = at_least_single(known.flatten(2) if known.ndim > 2 else known[..., None])
    squares = torch.linalg.vector_norm(as_double(known), dim=dims).square_()
    at_bound = [as_double(one).sum(0) for one in _at_bound(maps, bounds, torch.empty_like(maps))]
    return ActivitySums(
        torch.nan_to_num(values, torch.inf, torch.inf, torch.inf).amin(dims),
        torch.nan_to_num(values, -torch.inf, -torch.inf, -torch.inf).amax(dims),
        torch.stack([squares, as_double((known > 0).sum(dims)), *at_bound]),
        count,
        count - as_double((values.abs() < torch.inf).sum(dims)),
    )


def activity_result(
    found: ActivitySums, rectified: bool, saturated_share: float, off: tuple[float, float] = (-math.inf, 0.0)
) -> ActivityResult:
    """The result from the sums of all chunks, of which there is at least one."""
    least, greatest = as_double(found.minimum), as_double(found.maximum)
    left_out = torch.zeros_like(least) if found.left_out is None else found.left_out
    seen = found.number - left_out
    known, count = seen > 0, seen.clamp(min=1)
    low, high = off if rectified else (0.0, 0.0)
    silent = (least >= low) & (greatest <= high)
    still = greatest - least <= _CONSTANT_RANGE_SHARE * torch.maximum(greatest.abs(), least.abs())
    at_bound = found.sums[2] if len(found.sums) > 2 else torch.zeros_like(count)
    return ActivityResult(
        dead=known & silent,
        constant=known & still & ~silent,
        saturated=known & ~(silent & rectified) & (at_bound >= saturated_share * count),
        active_share=(found.sums[1] / count).float(),
        rms=(found.sums[0].sum() / seen.sum().clamp(min=1)).sqrt().float(),
        nonfinite=left_out.sum().long(),
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
    values = without_graph(signal)
    if free_to_look(values):
        squares = inside_squares(values)
        if is_safe(float(squares)):
            return squares
    norm: Tensor = torch.linalg.vector_norm(as_double(values))
    return norm.square()


def inside_squares(values: Tensor) -> Tensor:
    """Sum of squares, a float64 scalar; in float32 inside a sample, so right where it :func:`is_safe`."""
    norms = (
        torch.linalg.vector_norm(at_least_single(values), dim=tuple(range(1, values.ndim)))
        if values.ndim > 1
        else values
    )
    return column_squares(norms)


def is_safe(squares: float) -> bool:
    """Return whether float32 holds all squares of this sum that matter to it; false for NaN, infinity and zero."""
    return _SMALL**2 < squares < _LARGE**2


def _at_bound(maps: Tensor, bounds: Bounds, marks: Tensor) -> list[Tensor]:
    """Numbers ``(n, C)`` of values at a bound in maps ``(n, C, P)``, none without one; ``marks`` is scratch memory."""
    lower, upper = bounds
    ends = [end for end in bounds if end is not None]
    margin = _BOUND_MARGIN * (abs(ends[-1] - ends[0]) if len(ends) == 2 else abs(ends[0]) if ends else 0.0)
    found = [] if lower is None else [sum_inside(torch.le(maps, lower + margin, out=marks))]
    if upper is not None:
        found.append(sum_inside(torch.ge(maps, upper - margin, out=marks)))
    return [found[0] + found[1]] if len(found) == 2 else found


def check_off(off: tuple[float, float]) -> None:
    """The least value lies at or below the greatest."""
    if not off[0] <= off[1]:
        raise refuse("off", off, "(least, greatest) value of a filter that is off, such as (-0.014, 0.0) for SiLU")


def check_bounds(bounds: Bounds) -> None:
    """The lower bound lies below the upper one."""
    lower, upper = bounds
    if lower is not None and upper is not None and not lower < upper:
        raise refuse("bounds", bounds, "(lower, upper) with lower < upper, None for no bound")
