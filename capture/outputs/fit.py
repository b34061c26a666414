"""Fit of outputs and held-out targets: a shape that can be logits (or quantities), or the reason why it cannot."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from convscope.capture.data.targets import TargetSummary

OutputTask = Literal["classes", "binary", "labels", "quantities"]
"""One logit per class; one logit for two classes; one logit per label, several of which may hold; quantities."""
Labels = Literal["index", "one-hot", "shares", "values"]
Classes = int | tuple[int, ...] | None
Shape = tuple[int, ...]
About = Literal["label", "task"] | None
_RARE = 1e-3
_FEW = 20  # classes; more than these, all occurring, may as well be ages
_NO_CHANCE = 8  # least gap, in labels, between the last label and the others that is not due to chance


@dataclass(frozen=True)
class Fit:
    """Result of comparing outputs with targets.

    Attributes:
        shape: ``(K, *S)`` of a sample's output, once axes are in order.
        task: Task of the outputs, None if they do not fit.
        labels: Form in which a target names its class.
        last: The classes are the output's last axis and not its second.
        exact: The number of outputs is the one that the targets need, so hardly anything else can be meant.
        why_not: Why they do not fit, a sentence.
        unclear: Why it is not known whether this part of the model's result is the output, a sentence.
        mistake: The error in the targets if these are the outputs for them, a sentence.
        about: Subject of the mistake: one label that may not be a class, or a task that may be another; None if it
            is only between targets and outputs, so that it does not matter to callbacks that read targets alone.
        note: Assumption, a sentence.
    """

    shape: Shape
    task: OutputTask | None = None
    labels: Labels = "index"
    last: bool = False
    exact: bool = False
    why_not: str | None = None
    unclear: str | None = None
    mistake: str | None = None
    about: About = None
    note: str | None = None


def fit_to_targets(shape: Shape, summary: TargetSummary, classes: Classes, trusted: bool) -> Fit:
    """Compare the shape of a sample's output with the targets.

    Args:
        shape: Shape of one sample's output, as the model returns it.
        summary: The targets.
        classes: The classes that the user states.
        trusted: The user says that these are the logits, so there may be more of them than classes that occur.
    """
    flat = _flat(shape)
    if summary.single:
        return _fit_one_value(flat, summary, classes, trusted)
    if len(summary.shape) == 1 and (summary.one_hot or summary.shares) and flat == summary.shape:
        kind: Labels = "one-hot" if summary.one_hot else "shares"
        return Fit(flat, "classes", kind, exact=True)
    if len(summary.shape) == 1 and summary.binary and flat == summary.shape:
        return Fit(flat, "labels", "values", exact=True)
    if summary.floating and not summary.binary:
        same = prod(shape) == prod(summary.shape) and _flat(shape) == _flat(summary.shape)
        return Fit(shape or (1,), "quantities", "values", exact=True) if same else _misfit(shape, summary)
    return _fit_mask(shape, summary, classes)


def doubtful_label(classes: tuple[int, ...]) -> str | None:
    """Question about a label that is far from all others or negative; None if there is none.

    After ``0 … 20`` a 255 is hardly a class; of a few labels out of a thousand classes nothing can be concluded.
    """
    doubtful = classes[0] if classes[0] < 0 else classes[-1]
    if classes[0] >= 0 and not _gap_before_last(classes):
        return None
    return (
        f"held-out labels are {_listed(classes)}, of which {doubtful} may not be a class; {ask_to_ignore(doubtful)}, "
        f"and if it is one, HeldOut(classes={_list_text(classes)})"
    )


def _gap_before_last(classes: tuple[int, ...]) -> bool:
    """Return whether the gap between the last label and the others is too large for chance."""
    if len(classes) < 2:
        return False
    *rest, top = classes
    span = rest[-1] + 1
    missing = top - span
    return missing >= _NO_CHANCE and not _by_chance(len(rest), span, missing)


def outside(classes: tuple[int, ...], count: int) -> str | None:
    """A sentence about labels outside ``[0, count)``, None if there are none."""
    wrong = [label for label in classes if not 0 <= label < count]
    if not wrong:
        return None
    said = (
        f"held-out labels lie in [{classes[0]}, {classes[-1]}], but the model has {count} outputs, so labels must be "
        f"in [0, {count - 1}]"
    )
    ask = f"; {ask_to_ignore(wrong[0])}" if len(wrong) == 1 and len(classes) > 1 else ""
    return (
        f"{said}{ask}; otherwise fix the labels or the adapter, name the logits with HeldOut(logits=...), or say "
        "HeldOut(logits=False) if the model returns none, which LayerPrediction(output='readout') can read out"
    )


def _of_other_classes(classes: tuple[int, ...], count: int) -> str | None:
    """A sentence if so many labels lie outside ``[0, count)`` that the outputs are an embedding, else None.

    Labels that would fit if they began at 0 are a mistake instead.
    """
    wrong = [label for label in classes if not 0 <= label < count]
    shifted = len(classes) > 0 and classes[-1] - classes[0] < count
    if len(wrong) < 2 or shifted or not (len(classes) > count or 2 * len(wrong) > len(classes)):
        return None
    return (
        f"held-out labels lie in [{classes[0]}, {classes[-1]}], {len(wrong)} of {len(classes)} beyond the model's "
        f"{count} outputs, so these are not logits of them, and the loss is unknown; name the logits with "
        "HeldOut(logits=...), or pass loss="
    )


def ask_to_ignore(label: int) -> str:
    """Question about a label that is not a class."""
    return f"if {label} marks what is to be ignored, pass HeldOut(ignore_index={label})"


def _fit_one_value(flat: Shape, summary: TargetSummary, classes: Classes, trusted: bool) -> Fit:
    """Targets of one value per sample: a class, or a quantity."""
    if len(flat) > 1:
        return Fit(
            flat,
            why_not=f"the model's output has shape {text_of(flat)}, where the targets are one value per sample, so it "
            "is not logits; name them with HeldOut(logits=...)",
        )
    count = flat[0]
    if summary.floating and not summary.binary:
        return _fit_quantity(count, summary)
    if count == 1 and isinstance(classes, int) and classes != 2:
        return Fit(flat, why_not=f"the model has one output where HeldOut(classes={classes}) says {classes}")
    if count == 1:
        about: About = None if _few_classes(summary.classes) else _about(summary.classes, 2)
        return Fit(flat, "binary", exact=True, mistake=_one_output(summary.classes), about=about)
    return _fit_classes(flat, summary.classes, classes, trusted)


def _fit_quantity(count: int, summary: TargetSummary) -> Fit:
    if count == 1:
        return Fit((1,), "quantities", "values", exact=True)
    found = summary.classes
    if found and found[0] >= 0 and found[-1] < count:
        return Fit(
            (count,),
            about="task",
            mistake=f"held-out targets are whole numbers from {found[0]} to {found[-1]} of {summary.dtype}, and the "
            f"model has {count} outputs: class indices must be integers; pass HeldOut(adapter=lambda batch: (batch[0], "
            "batch[1].long())), or say HeldOut(logits=False) if they are quantities",
        )
    return _misfit((count,), summary)


def _fit_classes(flat: Shape, found: tuple[int, ...], classes: Classes, trusted: bool) -> Fit:
    count = flat[0]
    if not trusted and (other := _of_other_classes(found, count)):
        return Fit(flat, why_not=other)
    if wrong := outside(found, count):
        return Fit(flat, "classes", mistake=wrong)
    if isinstance(classes, int) and count != classes:
        return Fit(flat, why_not=f"the model has {count} outputs where HeldOut(classes={classes}) says {classes}")
    # As many outputs as labels from 0 to the largest, or as the user says, can hardly mean anything else.
    span = max(found, default=0) + 1
    if count in (span, classes) or (count == 2 and span == 1):
        note = f"the model's output {text_of(flat)} is taken for logits of the classes 0 to {count - 1}"
        return Fit(flat, "classes", exact=True, note=note)
    if trusted or (isinstance(classes, tuple) and count > classes[-1]):
        return Fit(flat, "classes")
    # Few held-out samples of many classes miss some by chance; far more outputs than that are something else.
    if _by_chance(len(found), span, count - span):
        note = f"the model's output {text_of(flat)} is taken for logits, though only {len(found)} classes are held out"
        return Fit(flat, "classes", note=note)
    return Fit(
        flat,
        why_not=f"the model has {count} outputs where the targets have {len(found)} classes, so its output may not be "
        f"logits, and its loss is unknown; say HeldOut(classes={count}) if some classes are not held "
        "out, HeldOut(logits=...) if the logits are another part of the model's result, or else pass loss=",
    )


def _by_chance(seen: int, span: int, missing: int) -> bool:
    """Return whether so many classes in a row may be missing by chance if ``seen`` of ``span`` occur."""
    return bool((1 - seen / span) ** missing >= _RARE)


def _about(found: tuple[int, ...], count: int) -> About:
    """Subject of a question about labels that do not fit: one label to ignore, or with several the task."""
    return "label" if sum(not 0 <= label < count for label in found) == 1 else "task"


def _few_classes(found: tuple[int, ...]) -> bool:
    """Return whether labels are few enough to be classes on their own, as for a discriminator's inputs."""
    return found == tuple(range(len(found))) and len(found) <= _FEW


def _one_output(found: tuple[int, ...]) -> str | None:
    """A sentence about classes that one logit cannot distinguish."""
    if set(found) <= {0, 1}:
        return None
    wrong = [label for label in found if label not in (0, 1)]
    ignore = f"; {ask_to_ignore(wrong[0])}" if len(wrong) == 1 else ""
    if len(found) == 2:
        ignore += (
            "; if they are two classes, give them as 0 and 1: HeldOut(adapter=lambda batch: (batch[0], (batch[1] == "
            f"{found[1]}).long()))"
        )
    return (
        f"held-out labels are {_listed(found)}, but the model has one output, which distinguishes the classes 0 and 1; "
        "if the targets are quantities, give them as floats: HeldOut(adapter=lambda batch: (batch[0], "
        f"batch[1].float())){ignore}"
    )


def _fit_mask(shape: Shape, summary: TargetSummary, classes: Classes) -> Fit:
    """Targets of one class (or several labels) per position."""
    wanted = summary.shape
    # Channels of 0 and 1, several of which may be 1 at a position, are labels; integers may also be class indices.
    overlapping = summary.binary and len(wanted) > 1 and wanted[0] > 1 and not summary.one_hot
    if overlapping and shape == wanted and (summary.floating or len(wanted) > 2):
        return Fit(shape, "labels", "values", exact=True)
    one_hot = summary.one_hot and len(wanted) > 1
    places = wanted[1:] if one_hot or (len(wanted) > 1 and wanted[0] == 1) else wanted
    labels: Labels = "one-hot" if one_hot else "index"
    if (_alike(shape, places) or _alike(shape, (1, *places))) and not one_hot:
        whole = (1, *shape[-len(places) :])
        if not set(summary.classes) <= {0, 1}:
            return Fit(whole, mistake=_quantities(summary), about=_about(summary.classes, 2))
        return Fit(whole, "binary", exact=True)
    # Classes on the second axis are torch's custom, so they win if both axes would fit.
    second, last = _alike(shape[1:], places), _alike(shape[:-1], places)
    last = last and not second
    if not (second or last):
        return _fit_other_places(shape, places, summary)
    ordered = (shape[-1], *shape[:-1]) if last else shape
    count = ordered[0]
    if isinstance(classes, int) and classes != count:
        return Fit(ordered, why_not=f"the model has {count} outputs where HeldOut(classes={classes}) says {classes}")
    known = (count == wanted[0]) if one_hot else True
    if not known:
        return _misfit(shape, summary)
    wrong = None if one_hot else outside(summary.classes, count)
    return Fit(ordered, "classes", labels, last, exact=True, mistake=wrong, about="label")


def _fit_other_places(shape: Shape, places: Shape, summary: TargetSummary) -> Fit:
    if len(shape) == len(places) + 1 and len(places) > 1:
        one_is_wrong = _about(summary.classes, shape[0]) == "label" and not summary.one_hot
        return Fit(
            shape,
            mistake=outside(summary.classes, shape[0]) if one_is_wrong else None,
            about="label",
            why_not=f"the model's output {text_of(shape)} and the targets {text_of(summary.shape)} differ in size; "
            "bring the logits to the targets' size with HeldOut(logits=callable), for example a function that returns "
            f"torch.nn.functional.interpolate(output, {places})",
        )
    return _misfit(shape, summary)


def _quantities(summary: TargetSummary) -> str:
    wrong = [label for label in summary.classes if label not in (0, 1)]
    said = (
        f"held-out targets {text_of(summary.shape)} of {summary.dtype} are {_listed(summary.classes)}, but the model "
        "has one output per position, which distinguishes the classes 0 and 1; "
    )
    if len(wrong) == 1:
        return f"{said}{ask_to_ignore(wrong[0])}, else fix the masks with HeldOut(adapter=...)"
    return (
        f"{said}if the targets are quantities, give them as floats: HeldOut(adapter=lambda batch: (batch[0], "
        "batch[1].float()))"
    )


def _misfit(shape: Shape, summary: TargetSummary) -> Fit:
    return Fit(
        shape,
        why_not=f"no loss can be inferred from outputs {text_of(shape)} and targets {text_of(summary.shape)} of "
        f"{summary.dtype}; pass loss=, a callable(outputs, targets) that returns one value per sample, or name the "
        "output with HeldOut(logits=...)",
    )


def _alike(shape: Shape, places: Shape) -> bool:
    """Return whether sizes agree; -1 stands for sizes that differ from sample to sample."""
    return len(shape) == len(places) and all(b in (a, -1) for a, b in zip(shape, places, strict=True))


def _flat(shape: Shape) -> Shape:
    """Remove axes of size one, but never the last remaining axis."""
    return tuple(size for size in shape if size != 1) or (1,)


def text_of(shape: Shape) -> str:
    """Text of a sample's shape with the batch axis: ``(N, 3, 8, 8)``."""
    return f"(N{''.join(f', {size}' for size in shape) or ','})"


def _listed(found: tuple[int, ...]) -> str:
    if len(found) < 7:
        return ", ".join(map(str, found)) or "none"
    if found[:-1] == tuple(range(found[0], found[-2] + 1)) and found[-1] > found[-2] + 1:
        return f"{found[0]} to {found[-2]} and {found[-1]}"
    return f"whole numbers from {found[0]} to {found[-1]}"


def _list_text(found: tuple[int, ...]) -> str:
    return str(list(found)) if len(found) < 7 else f"[{found[0]}, ..., {found[-1]}]"
