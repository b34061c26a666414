"""What the held-out targets look like, over all processes: the facts from which a task is inferred."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce

import torch

_AT_ONCE = 64  # samples looked at together: masks of a whole held-out set may be gigabytes
_MOST_CLASSES = 1 << 16


@dataclass(frozen=True)
class TargetSummary:
    """Facts about targets ``(N, *shape)``, the same on every process.

    Attributes:
        shape: Shape of one sample's target; -1 where samples differ in size (masks of images of several sizes).
        dtype: Its number format, as text.
        floating: Whether it is one of real numbers.
        low: Least value of each column for shapes ``()`` and ``(K,)``, otherwise one value over all.
        high: Greatest value, likewise.
        binary: Every value is 0 or 1.
        one_hot: Along the first axis of ``shape`` there is exactly one 1, and otherwise 0.
        shares: Rows ``(K,)`` are not negative and sum to one.
        classes: Values that occur, sorted, where they are whole numbers; negative ones (-100: ignore) left out.
    """

    shape: tuple[int, ...]
    dtype: str
    floating: bool
    low: tuple[float, ...]
    high: tuple[float, ...]
    binary: bool
    one_hot: bool
    shares: bool
    classes: tuple[int, ...]


def summarise_targets(targets: torch.Tensor) -> TargetSummary | None:
    """Facts about this process's targets, None where it has none."""
    return merge_summaries(_summary(part) for part in torch.split(targets, _AT_ONCE)) if len(targets) else None


def merge_summaries(summaries: Iterable[TargetSummary | None]) -> TargetSummary | None:
    """Facts about the targets of all processes together."""
    known = [summary for summary in summaries if summary is not None]
    return reduce(_merged, known) if known else None


def _merged(a: TargetSummary, b: TargetSummary) -> TargetSummary:
    if (len(a.shape), a.dtype) != (len(b.shape), b.dtype):
        raise ValueError(
            f"held-out targets differ in kind: {a.dtype} of shape {a.shape} and {b.dtype} of shape {b.shape}; "
            "fix the data set or the adapter"
        )
    if len(a.low) != len(b.low):  # rows of several lengths have no columns
        a, b = _over_all(a), _over_all(b)
    return TargetSummary(
        tuple(m if m == n else -1 for m, n in zip(a.shape, b.shape, strict=True)),
        a.dtype,
        a.floating,
        tuple(map(_least, a.low, b.low)),
        tuple(map(_greatest, a.high, b.high)),
        a.binary and b.binary,
        a.one_hot and b.one_hot,
        a.shares and b.shares,
        tuple(sorted({*a.classes, *b.classes})),
    )


def _over_all(summary: TargetSummary) -> TargetSummary:
    return replace(summary, low=(reduce(_least, summary.low),), high=(reduce(_greatest, summary.high),))


def _least(a: float, b: float) -> float:
    return a if a != a or a < b else b  # NaN stays


def _greatest(a: float, b: float) -> float:
    return a if a != a or a > b else b


def _summary(targets: torch.Tensor) -> TargetSummary:
    shape, floating = tuple(targets.shape[1:]), targets.is_floating_point()
    columns = targets.reshape(len(targets), -1) if len(shape) < 2 else targets.reshape(-1, 1)
    binary = bool(((targets == 0) | (targets == 1)).all())
    several = len(shape) > 0 and shape[0] > 1
    sums = targets.sum(1, dtype=torch.float64 if floating else None) if several else torch.zeros(1)
    return TargetSummary(
        shape,
        str(targets.dtype).removeprefix("torch."),
        floating,
        tuple(columns.amin(0).tolist()),
        tuple(columns.amax(0).tolist()),
        binary,
        binary and several and bool((sums == 1).all()),
        len(shape) == 1 and several and bool((targets >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all()),
        () if floating and not binary else _classes(targets),
    )


def _classes(targets: torch.Tensor) -> tuple[int, ...]:
    values = targets.flatten().long()
    values = values[values >= 0]
    if len(values) and int(values.max()) < _MOST_CLASSES:  # counting is far faster than sorting where masks are large
        return tuple(values.bincount().nonzero().flatten().tolist())
    return tuple(torch.unique(values).tolist())
