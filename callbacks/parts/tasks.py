"""Task of the held-out targets (classes, labels, quantities, masks), and their form for a probe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from convscope.capture.data.heldout import HeldOut
from convscope.capture.data.targets import IGNORED, TargetSummary
from convscope.capture.errors import TooFewError

TaskName = Literal["classification", "multilabel", "regression", "segmentation"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)

MOST_CLASSES = 1000
"""Most classes that a probe distinguishes, the most frequent ones: time and memory grow with their number."""


class NoTaskError(ValueError):
    """Targets that cannot be probed; the message is one sentence why."""


@dataclass(frozen=True)
class Task:
    """A task, with the way its targets are read.

    Attributes:
        name: Which task.
        argmax: The first axis of a sample's target stands for classes: one-hot rows or masks.
        positions: Shape of a mask, for segmentation.
        classes: The classes that occur, for classification and segmentation.
        ignored: Some labels are ignored.
        left_out: Classes that are not probed: a sample that is the only one of its class cannot be predicted from
            others, and at most a thousand classes are told apart.
        samples: How many samples have a class that is probed, for classification.
        balanced: The largest class has at most half more samples than the smallest.
    """

    name: TaskName
    argmax: bool = False
    positions: tuple[int, ...] = ()
    classes: tuple[int, ...] = ()
    ignored: bool = False
    left_out: tuple[int, ...] = ()
    samples: int = 0
    balanced: bool = False

    def counted(
        self, raw: torch.Tensor, features: torch.Tensor, index: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Targets, features and numbers of the samples that are probed: their label is neither ignored nor left out."""
        targets = self.targets(raw)
        # In a mask single positions are ignored, by the metric.
        ignored = self.ignored and self.name != "segmentation"
        if not (ignored or self.left_out):
            return targets, (features, index)
        mine = torch.ones(len(raw), dtype=torch.bool, device=raw.device)
        if ignored:
            mine &= (raw != IGNORED).reshape(len(raw), -1).all(1)
        if self.left_out:
            mine &= ~torch.isin(targets, torch.tensor(self.left_out, device=targets.device))
        return targets[mine], (features[mine.to(features.device)], index[mine.to(index.device)])

    def notes(self) -> list[str]:
        """Answers to a callback, sentences without their subject, on the classes that it leaves out."""
        if not self.left_out:
            return []
        told = len(self.classes) - len(self.left_out)
        few, beyond = "have fewer than two held-out samples each", f"are beyond the {MOST_CLASSES:,} most frequent"
        why = few if told < MOST_CLASSES else beyond
        return [f"distinguishes {told:,} of {len(self.classes):,} classes; the others {why}"]

    def targets(self, raw: torch.Tensor) -> torch.Tensor:
        """Convert targets to classes ``(N,)``, labels ``(N, K)``, quantities ``(N, D)`` or masks ``(N, *S)``."""
        if self.argmax:
            raw = raw.argmax(1)
        if self.name == "segmentation":
            return raw.long().reshape(len(raw), *self.positions)
        if self.name == "classification":
            return raw.long() if raw.dim() == 1 else raw.long().reshape(len(raw))
        return raw.double().reshape(len(raw), -1)


def settle_task(heldout: HeldOut, wanted: TaskName | None = None) -> Task:
    """The task of a held-out set, the same on every process.

    ==============================================  ================
    one sample's target                             inferred task
    ==============================================  ================
    a whole number, or 0.0 and 1.0 only             classification
    a one-hot row                                   classification
    a row of 0 and 1                                multilabel
    real numbers                                    regression
    whole numbers of one or more dimensions         segmentation
    a one-hot mask ``(K, *S)``, or ``(1, *S)``      segmentation
    ==============================================  ================

    Args:
        heldout: The prepared held-out set.
        wanted: The task that the user names, None to infer it.

    Raises:
        NoTaskError: if these targets cannot be probed, or nearly every sample has a class of its own.
        TooFewError: if there is one sample, or one class.
        ValueError: if they could be probed but are faulty or too few, or do not fit ``wanted``.
    """
    summary = heldout.summary
    if summary is None:
        raise NoTaskError("the held-out batches have no targets to predict")
    if -1 in summary.shape:
        raise NoTaskError(
            "its targets have several sizes, which are not probed; give samples of one size, or an adapter to one size"
        )
    name = wanted or _inferred(summary)
    task = _MAKERS[name](summary)
    if task is None:
        raise ValueError(
            f"task={name!r} does not fit held-out targets of shape (N{_sizes(summary)}) and {summary.dtype}: it needs "
            f"{_NEEDS[name]}; leave task= out to infer it, or fix the targets with HeldOut(adapter=...)"
        )
    _check_enough(task, summary, heldout.total)
    even = bool(summary.counts) and max(summary.counts) <= 1.5 * min(summary.counts)
    return _with_enough_samples(replace(task, ignored=summary.ignored, balanced=even), summary, heldout.total)


def class_task(heldout: HeldOut) -> Task:
    """The task of a held-out set, for callbacks that need classes.

    Raises:
        NoTaskError: if the targets are not classes.
        ValueError: if they are classes, but faulty or too few.
    """
    found = heldout.summary
    if found is not None and found.shares and not (found.one_hot or found.binary):
        raise ValueError(f"{_soft_labels(found)} to take each row's largest")
    task = settle_task(heldout)
    if task.name != "classification" and heldout.summary is not None:
        raise NoTaskError(
            f"its targets (N{_sizes(heldout.summary)}) of {heldout.summary.dtype} are {_NOUNS[task.name]}, not class "
            "indices (N,)"
        )
    return task


_NOUNS = {
    "classification": "classes",
    "multilabel": "labels of which several may hold",
    "regression": "quantities",
    "segmentation": "masks",
}
_NEEDS = {
    "classification": "one class index per sample, or a row with a column per class",
    "multilabel": "rows (N, K) of 0 and 1",
    "regression": "one number (N,) or one row of numbers (N, D) per sample",
    "segmentation": "a class index per position (N, *S), or one-hot masks (N, K, *S)",
}


def _inferred(summary: TargetSummary) -> TaskName:
    dims, whole = len(summary.shape), not summary.floating
    if dims > 1:
        return _inferred_mask(summary)
    if summary.shape in ((), (1,)):
        return "classification" if whole or summary.binary else "regression"
    if summary.one_hot:
        return "classification"
    if summary.binary:
        return "multilabel"
    if summary.shares:
        raise ValueError(
            f"{_soft_labels(summary)}, or LayerProbe(task='classification') to take each row's largest, or "
            "LayerProbe(task='regression') to predict the shares themselves"
        )
    return "segmentation" if whole else "regression"


def _soft_labels(summary: TargetSummary) -> str:
    return (
        f"held-out targets are soft labels (N{_sizes(summary)}), but class indices (N,) are needed; pass "
        "HeldOut(adapter=lambda batch: (batch[0], batch[1].argmax(1)))"
    )


def _inferred_mask(summary: TargetSummary) -> TaskName:
    if summary.floating and not summary.binary:
        raise NoTaskError(
            f"its targets (N{_sizes(summary)}) of {summary.dtype} are a quantity at each position, which is not probed"
        )
    if _segmentation(summary) is None:
        raise NoTaskError(
            f"its targets (N{_sizes(summary)}) of {summary.dtype} are masks that may overlap, which are not probed; an "
            "adapter that gives one class index per position makes them a segmentation"
        )
    return "segmentation"


def _classification(summary: TargetSummary) -> Task | None:
    if summary.shape in ((), (1,)) and (not summary.floating or summary.binary):
        return Task("classification", classes=summary.classes)
    if summary.one_hot:  # a class occurs where its column is 1 somewhere
        return Task("classification", True, classes=tuple(k for k, high in enumerate(summary.high) if high == 1))
    if summary.shares:
        return Task("classification", True, classes=tuple(range(summary.shape[0])))
    return None


def _multilabel(summary: TargetSummary) -> Task | None:
    return Task("multilabel") if len(summary.shape) == 1 and summary.binary else None


def _regression(summary: TargetSummary) -> Task | None:
    return Task("regression") if len(summary.shape) < 2 else None


def _segmentation(summary: TargetSummary) -> Task | None:
    shape = summary.shape
    several = summary.floating or summary.dtype == "bool"  # usually these are one mask per channel
    if len(shape) == 0 or (summary.floating and not summary.binary):
        return None
    if len(shape) > 1 and summary.one_hot:
        return Task("segmentation", True, shape[1:], tuple(range(shape[0])))
    if len(shape) > 1 and shape[0] == 1:
        return Task("segmentation", False, shape[1:], summary.classes)
    return None if several and len(shape) > 2 else Task("segmentation", False, shape, summary.classes)


_MAKERS = {
    "classification": _classification,
    "multilabel": _multilabel,
    "regression": _regression,
    "segmentation": _segmentation,
}


def _check_enough(task: Task, summary: TargetSummary, samples: int) -> None:
    if task.name in ("regression", "multilabel"):
        _check_columns(task, summary, samples)
        return
    if not task.classes and summary.ignored:
        raise ValueError(
            "every held-out label is ignored, as -100 and HeldOut(ignore_index=...) are: a probe needs at least two "
            "classes; fix the labels or ignore_index=, or use a larger HeldOut(size=...)"
        )
    if len(task.classes) < 2:
        every = "sample has" if task.name == "classification" else "position has"
        raise TooFewError(
            f"every held-out {every} class {task.classes[0] if task.classes else 'none'}: a probe needs at least two "
            "classes; use a shuffled or stratified source, or a larger HeldOut(size=...)"
        )
    if samples < 2:
        raise TooFewError("the held-out set has one sample: a probe needs at least two; raise HeldOut(size=...)")


def _with_enough_samples(task: Task, summary: TargetSummary, samples: int) -> Task:
    """The task without the classes that cannot be probed.

    Raises:
        NoTaskError: if fewer than two classes can be.
    """
    if task.name != "classification":
        return task
    counts = _class_counts(task, summary)
    often = sorted((label for label in task.classes if counts[label] > 1), key=lambda label: (-counts[label], label))
    if len(often) < 2:
        raise NoTaskError(
            f"the held-out set has {samples} samples of {len(task.classes)} classes, and a probe needs at least two "
            "samples of at least two classes, as it predicts each sample from others of its class; raise "
            f"HeldOut(size=...) to {10 * len(task.classes)}, or give a source with several samples of a class"
            + ("; if the targets are quantities, pass LayerProbe(task='regression')" if not summary.shape else "")
        )
    kept = set(often[:MOST_CLASSES])
    left_out = tuple(label for label in task.classes if label not in kept)
    return replace(task, left_out=left_out, samples=sum(counts[label] for label in kept))


def _class_counts(task: Task, summary: TargetSummary) -> dict[int, int]:
    if task.argmax:
        return dict(enumerate(summary.counts))
    return dict(zip(summary.classes, summary.counts, strict=True))


def _check_columns(task: Task, summary: TargetSummary, samples: int) -> None:
    if any(value != value or abs(value) == float("inf") for value in (*summary.low, *summary.high)):
        raise ValueError("held-out targets have NaN or infinite values; remove or fix them with HeldOut(adapter=...)")
    if summary.low == summary.high or samples < 3:
        raise ValueError(
            f"the {samples} held-out samples all have one target: a probe of {_NOUNS[task.name]} needs some that "
            "differ; use a shuffled source, or a larger HeldOut(size=...)"
        )


def _sizes(summary: TargetSummary) -> str:
    return "".join(f", {size}" for size in summary.shape) or ","
