"""Summary of the held-out targets over all processes: the facts from which a task is inferred."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce

import torch

IGNORED = -100
"""The label that is not counted, by the field's custom, whatever the user's data has."""
_AT_ONCE = 64  # samples summarised together: masks of a whole held-out set may be gigabytes
_MOST_CLASSES = 1 << 16


@dataclass(frozen=True)
class LabelForm:
    """Conversion of a user's targets to those that callbacks see: int64, ignored labels -100, signs as 0 and 1.

    Attributes:
        ignore_index: The user's label that is to be ignored; None if that is only -100.
        signs: Labels are -1 and 1, the two classes of a hinge loss.
    """

    ignore_index: int | None = None
    signs: bool = False

    def canonical(self, targets: torch.Tensor) -> torch.Tensor:
        """Targets as callbacks see them; floats stay floats."""
        if not targets.is_floating_point() and not targets.is_complex():
            targets = targets.long()
        if self.ignore_index not in (None, IGNORED):
            targets = targets.masked_fill(targets == self.ignore_index, IGNORED)
        return torch.where(targets == -1, 0, targets) if self.signs else targets

    def restored(self, targets: torch.Tensor, ignored: int | None = None) -> torch.Tensor:
        """A copy of canonical targets in the form that the user's own loss expects; it may write to it.

        Args:
            targets: The canonical ones.
            ignored: The label that this loss ignores, None if it names none.
        """
        if self.signs:
            targets = torch.where(targets == 0, -1, targets)
        marked = self.ignore_index if ignored is None else ignored
        return targets.clone() if marked in (None, IGNORED) else targets.masked_fill(targets == IGNORED, marked)


@dataclass(frozen=True)
class TargetSummary:
    """Facts about targets ``(N, *shape)``, the same on every process. Ignored labels (-100) are left out.

    Attributes:
        shape: Shape of one sample's target; -1 where samples differ in size (masks of images of several sizes).
        dtype: Its number format, as text.
        floating: True for real numbers.
        low: Least value of each column for shapes ``()`` and ``(K,)``, otherwise one value over all.
        high: Greatest value, likewise.
        binary: Every value is 0 or 1.
        one_hot: Along the first axis of ``shape`` there is exactly one 1, and otherwise 0.
        shares: Rows ``(K,)`` are not negative and sum to one.
        classes: Values that occur, sorted, if they are whole numbers; floats only if 0 and 1, or one per sample.
        ignored: Some label is ignored.
        counts: Number of samples per class: of ``classes`` if a target is one value, per column (as a
            sample's largest) if it is a row; empty for masks.
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
    ignored: bool = False
    counts: tuple[int, ...] = ()

    @property
    def single(self) -> bool:
        """Return whether there is one value per sample."""
        return self.shape in ((), (1,))

    @property
    def signs(self) -> bool:
        """Return whether every value is -1 or 1, and both occur."""
        return self.classes == (-1, 1)

    def check_classes(self, stated: int | tuple[int, ...] | None) -> None:
        """Compare with the classes that the user states.

        Raises:
            ValueError: if a label is none of them.
        """
        allowed = range(stated) if isinstance(stated, int) else stated
        wrong = [] if allowed is None else [label for label in self.classes if label not in allowed]
        if wrong and not (self.one_hot or (self.floating and not self.binary)):
            said = stated if isinstance(stated, int) else list(stated or ())
            raise ValueError(
                f"HeldOut(classes={said!r}), but a held-out label is {wrong[0]}; if it marks what is to be ignored, "
                f"pass HeldOut(ignore_index={wrong[0]}), else fix classes= or the labels"
            )

    def with_signs_as_classes(self) -> TargetSummary:
        """The facts with -1 and 1 read as classes 0 and 1."""
        return replace(self, low=tuple(max(v, 0.0) for v in self.low), binary=True, classes=(0, 1))


def counted_rows(targets: torch.Tensor | None) -> torch.Tensor | None:
    """Mask ``(n,)`` of samples with a label that counts, None if all have one."""
    if targets is None or targets.is_floating_point():
        return None
    counted = (targets != IGNORED).reshape(len(targets), -1).any(1)
    return None if bool(counted.all()) else counted


def summarise_targets(targets: torch.Tensor, form: LabelForm = LabelForm()) -> TargetSummary | None:
    """Facts about this process's targets, None where it has none."""
    return merge_summaries(_summary(part, form) for part in torch.split(targets, _AT_ONCE)) if len(targets) else None


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
    whole = not a.floating or (a.binary and b.binary) or bool(a.classes and b.classes)
    if len(a.low) != len(b.low):  # rows of different lengths have no common columns
        a, b = _over_all(a), _over_all(b)
    classes = tuple(sorted({*a.classes, *b.classes})) if whole else ()
    return TargetSummary(
        tuple(m if m == n else -1 for m, n in zip(a.shape, b.shape, strict=True)),
        a.dtype,
        a.floating,
        tuple(map(_least, a.low, b.low)),
        tuple(map(_greatest, a.high, b.high)),
        a.binary and b.binary,
        a.one_hot and b.one_hot,
        a.shares and b.shares,
        classes,
        a.ignored or b.ignored,
        _counts_together(a, b, classes),
    )


def _over_all(summary: TargetSummary) -> TargetSummary:
    return replace(summary, low=(reduce(_least, summary.low),), high=(reduce(_greatest, summary.high),))


def _counts_together(a: TargetSummary, b: TargetSummary, classes: tuple[int, ...]) -> tuple[int, ...]:
    if len(a.shape) == 1 and a.shape != (1,):
        same = len(a.counts) == len(b.counts)
        return tuple(x + y for x, y in zip(a.counts, b.counts, strict=True)) if same else ()
    counted = Counter(dict(zip(a.classes, a.counts, strict=False)))
    counted.update(dict(zip(b.classes, b.counts, strict=False)))
    return tuple(counted[label] for label in classes) if a.counts or b.counts else ()


def _least(a: float, b: float) -> float:
    return a if a != a or a < b else b  # NaN stays


def _greatest(a: float, b: float) -> float:
    return a if a != a or a > b else b


def _summary(raw: torch.Tensor, form: LabelForm) -> TargetSummary:
    targets = form.canonical(raw)
    shape, floating = tuple(targets.shape[1:]), targets.is_floating_point()
    # A -100.0 among quantities is a quantity, unless the user named a label to ignore.
    may_be = not floating or form.ignore_index is not None
    ignored = (targets == IGNORED) if may_be else None
    apart = None if ignored is None or not bool(ignored.any()) else ignored
    counted = targets if apart is None else targets[~apart]
    columns = targets.reshape(len(targets), -1) if len(shape) < 2 else targets.reshape(-1, 1)
    binary = bool(((counted == 0) | (counted == 1)).all())
    several = len(shape) > 0 and shape[0] > 1
    sums = targets.sum(1, dtype=torch.float64 if floating else None) if several else torch.zeros(1)
    classes = _classes(counted) if not floating or binary or (shape in ((), (1,)) and _whole(counted)) else ()
    return TargetSummary(
        shape,
        str(raw.dtype).removeprefix("torch."),
        floating,
        tuple(_without(columns, apart, torch.inf).amin(0).tolist()),
        tuple(_without(columns, apart, -torch.inf).amax(0).tolist()),
        binary,
        binary and several and bool((sums == 1).all()),
        len(shape) == 1 and several and bool((targets >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all()),
        classes,
        apart is not None,
        _counts(targets, counted, classes),
    )


def _counts(targets: torch.Tensor, counted: torch.Tensor, classes: tuple[int, ...]) -> tuple[int, ...]:
    """Number of samples per class, see :class:`TargetSummary`."""
    if targets.dim() > 2:
        return ()
    if targets.dim() == 2 and targets.shape[1] > 1:
        return tuple(targets.argmax(1).bincount(minlength=targets.shape[1]).tolist())
    return tuple(torch.unique(counted.long(), return_counts=True)[1].tolist()) if classes else ()


def _without(columns: torch.Tensor, apart: torch.Tensor | None, value: float) -> torch.Tensor:
    return columns if apart is None else columns.double().masked_fill(apart.reshape(columns.shape), value)


def _whole(values: torch.Tensor) -> bool:
    return bool((values == values.round()).all()) and bool((values.abs() < 2**31).all())


def _classes(counted: torch.Tensor) -> tuple[int, ...]:
    values = counted.flatten().long()
    if len(values) == 0:
        return ()
    # Counting is far faster than sorting where masks are large.
    if int(values.min()) >= 0 and int(values.max()) < _MOST_CLASSES:
        return tuple(values.bincount().nonzero().flatten().tolist())
    return tuple(torch.unique(values).tolist())
