"""What the held-out targets look like, over all processes: the facts from which a task is inferred."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import torch

_AT_ONCE = 64  # samples looked at together: masks of a whole held-out set may be gigabytes
_MOST_CLASSES = 1 << 16


@dataclass(frozen=True)
class TargetSummary:
    """Facts about targets ``(N, *shape)``, the same on every process.

    Attributes:
        shape: Shape of one sample's target.
        dtype: Its number format, as text.
        floating: Whether it is one of real numbers.
        low: Least value of each column for shapes ``()`` and ``(K,)``, otherwise one value over all.
        high: Greatest value, likewise.
        binary: Every value is 0 or 1.
        one_hot: Along the first axis of ``shape`` there is exactly one 1, and otherwise 0.
        shares: Rows ``(K,)`` are not negative and sum to one.
        classes: Values that occur, sorted, where they are whole numbers; negative ones (-100: ignore) left out.
        counts: How many samples have each class: of ``classes`` where a target is one value, of each column (as a
            sample's largest) where it is a row; empty for masks.
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
    counts: tuple[int, ...] = ()


def summarise_targets(targets: torch.Tensor) -> TargetSummary | None:
    """Facts about this process's targets, None where it has none."""
    return merge_summaries(_summary(part) for part in torch.split(targets, _AT_ONCE)) if len(targets) else None


def merge_summaries(summaries: Iterable[TargetSummary | None]) -> TargetSummary | None:
    """Facts about the targets of all processes together."""
    known = [summary for summary in summaries if summary is not None]
    return reduce(_merged, known) if known else None


def _merged(a: TargetSummary, b: TargetSummary) -> TargetSummary:
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        raise ValueError(
            f"held-out targets differ in kind: {a.dtype} of shape {a.shape} and {b.dtype} of shape {b.shape}; "
            "mend the data set or the adapter"
        )
    classes = tuple(sorted({*a.classes, *b.classes}))
    return TargetSummary(
        a.shape,
        a.dtype,
        a.floating,
        tuple(map(_least, a.low, b.low)),
        tuple(map(_greatest, a.high, b.high)),
        a.binary and b.binary,
        a.one_hot and b.one_hot,
        a.shares and b.shares,
        classes,
        _counts_together(a, b, classes),
    )


def _counts_together(a: TargetSummary, b: TargetSummary, classes: tuple[int, ...]) -> tuple[int, ...]:
    if len(a.shape) == 1 and a.shape != (1,):
        return tuple(x + y for x, y in zip(a.counts, b.counts, strict=True))
    counted = Counter(dict(zip(a.classes, a.counts, strict=False)))
    counted.update(dict(zip(b.classes, b.counts, strict=False)))
    return tuple(counted[label] for label in classes) if a.counts or b.counts else ()


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
        _counts(targets, whole=not floating or binary),
    )


def _counts(targets: torch.Tensor, whole: bool) -> tuple[int, ...]:
    """How many samples have each class, see :class:`TargetSummary`."""
    if targets.dim() > 2:
        return ()
    if targets.dim() == 2 and targets.shape[1] > 1:
        return tuple(targets.argmax(1).bincount(minlength=targets.shape[1]).tolist())
    values = targets.flatten().long()
    return tuple(torch.unique(values[values >= 0], return_counts=True)[1].tolist()) if whole else ()


def _classes(targets: torch.Tensor) -> tuple[int, ...]:
    values = targets.flatten().long()
    values = values[values >= 0]
    if len(values) and int(values.max()) < _MOST_CLASSES:  # counting is far faster than sorting where masks are large
        return tuple(values.bincount().nonzero().flatten().tolist())
    return tuple(torch.unique(values).tolist())
