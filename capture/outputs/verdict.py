"""The verdict on a model's result for a few samples: the part that is its output, and its task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

import torch

from convscope.capture.data.targets import TargetSummary
from convscope.capture.outputs.choice import Outputs
from convscope.capture.outputs.fit import Classes, Fit, Shape, fit_to_targets, text_of
from convscope.capture.outputs.parts import PartPath, Selector, describe, part_at, path_text, selected, tensor_parts
from convscope.capture.outputs.probabilities import ends_in_sigmoid, rows_are_probabilities, tolerance


@dataclass(frozen=True)
class Stated:
    """Statements of the user about the output: :class:`~convscope.capture.HeldOut`'s ``logits`` and ``classes``.

    Attributes:
        logits: The part that is the logits, False for none, None if the user does not say.
        classes: Number of classes, or the labels that are classes.
        trusted: The user's loss takes logits.
    """

    logits: Selector | Literal[False] | None = None
    classes: Classes = None
    trusted: bool = False


@dataclass(frozen=True)
class Runs:
    """Outputs of a model for some held-out samples.

    Attributes:
        outputs: Outputs for one sample and for several, as far as there are any.
        counts: Number of samples in each.
        inputs: Shape of a sample's first input, to recognise a reconstruction.
        with_graph: Function that returns the output for several samples with its graph, None if it has none.
    """

    outputs: Sequence[Any]
    counts: Sequence[int]
    inputs: Shape = ()
    with_graph: Callable[[], Any] | None = None


def settle_outputs(runs: Runs, summary: TargetSummary | None, stated: Stated = Stated()) -> Outputs:
    """Decide which part of the model's result is its output, and its task.

    Raises:
        ValueError: if the user names a part that is not there, or that cannot be the logits for these targets.
    """
    if stated.logits is not None and stated.logits is not False:  # 0 is a place, False means none
        return _settled_by_user(runs, summary, stated)
    rows = _rows_of(runs)
    if not rows:
        return Outputs(path=None, why_not=_no_rows(runs))
    shapes = {path: _sample_shape(tensors, runs.counts) or () for path, tensors in rows.items()}
    chosen, fit, note = _chosen(shapes, rows, summary, stated)
    ids = _class_ids(runs) if fit.task == "binary" and fit.mistake else None  # otherwise it is a score
    if fit.task in ("classes", "binary", "labels"):
        ids = ids or _float_ids(rows[chosen], lambda: _graph_at(runs.with_graph, chosen))
    if ids:
        fit, note = Fit(fit.shape, why_not=ids), None
    verdict = _verdict(chosen, rows[chosen], fit, runs, stated)
    if stated.logits is False:
        verdict = replace(verdict, task=None, why_not="HeldOut(logits=False) says that the model returns none")
        return replace(verdict, mistake=None, notes=())
    return replace(verdict, notes=(*verdict.notes, *([note] if note else [])))


def _settled_by_user(runs: Runs, summary: TargetSummary | None, stated: Stated) -> Outputs:
    selector: Any = stated.logits
    asked = f"HeldOut(logits={selector!r})"
    try:
        found = [selected(output, selector) for output in runs.outputs]
    except LookupError as error:
        raise ValueError(f"{asked}: there is no such part in {describe(runs.outputs[-1])}") from error
    except Exception as error:
        raise ValueError(
            f"{asked} failed on {describe(runs.outputs[-1])} ({type(error).__name__}: {error}); give a "
            "callable(output) that returns the logits"
        ) from error
    if not isinstance(found[-1], torch.Tensor) or not found[-1].is_floating_point():
        raise ValueError(f"{asked} gives {describe(found[-1])}; the logits must be a floating-point tensor (N, K, *)")
    graph = _graph_of(runs.with_graph, selector)
    if ids := _float_ids(found, graph):
        raise ValueError(f"{asked} gives no logits: {ids}")
    shape = _sample_shape(found, runs.counts)
    if shape is None:
        raise ValueError(
            f"{asked} gives shape {tuple(found[-1].shape)} for {runs.counts[-1]} samples; the logits must have one row "
            "for each sample"
        )
    fit = _fit(shape, summary, stated, trusted=True)
    if summary is not None and fit.task is None and fit.why_not:
        raise ValueError(f"{asked} gives {text_of(shape)}: {fit.why_not}")
    verdict = _verdict((), found, fit, replace(runs, with_graph=graph), stated)
    notes = (f"{asked} gives {_DETACHED}",) if _detaches(runs.with_graph, graph) else ()
    return replace(verdict, path=None, selector=_Selects(selector), notes=notes)


def _graph_of(with_graph: Callable[[], Any] | None, selector: Selector) -> Callable[[], Any]:
    """The part that a user names with its graph, None if it has none."""

    def graph() -> Any:
        output = None if with_graph is None else with_graph()
        return None if output is None else selected(output, selector)

    return graph


def _detaches(whole: Callable[[], Any] | None, part: Callable[[], Any]) -> bool:
    """Return whether a part has no graph although the model's result has one."""
    found = part()
    cut = isinstance(found, torch.Tensor) and not found.requires_grad
    return cut and whole is not None and any(t.requires_grad for t in tensor_parts(whole()).values())


@dataclass(frozen=True)
class _Selects:
    """A user's selector of the logits, as a function."""

    selector: Selector

    def __call__(self, output: Any) -> Any:
        return selected(output, self.selector)


def _rows_of(runs: Runs) -> dict[PartPath, list[torch.Tensor]]:
    """Floating-point parts with one row per sample, whatever the number of samples."""
    parts = [tensor_parts(output) for output in runs.outputs]
    common = [path for path in parts[-1] if all(path in found for found in parts)]
    listed = {path: [found[path] for found in parts] for path in common if parts[-1][path].is_floating_point()}
    return {path: tensors for path, tensors in listed.items() if _sample_shape(tensors, runs.counts) is not None}


def _sample_shape(tensors: Sequence[Any], counts: Sequence[int]) -> Shape | None:
    """Shape of one sample's part, None if rows are not samples."""
    last, count = tensors[-1], counts[-1]
    if count == 1:  # nothing to compare with: a tensor without an axis for the samples was squeezed
        if last.dim() < 2:
            return tuple(last.shape) if last.numel() > 1 else ()
        return tuple(last.shape[1:]) if len(last) == 1 else None
    if last.dim() == 0 or len(last) != count:
        return None
    shape = tuple(last.shape[1:])
    return shape if all(_is_one_of(t, shape) for t in tensors[:-1]) else None


def _is_one_of(alone: torch.Tensor, shape: Shape) -> bool:
    """Return whether this is one sample's part of that shape, maybe squeezed; maps may have another size."""
    of_other_size = alone.dim() == len(shape) + 1 > 2 and len(alone) == 1 and alone.shape[1] == shape[0]
    return alone.numel() == prod(shape) or of_other_size


def _chosen(
    shapes: dict[PartPath, Shape],
    rows: dict[PartPath, list[torch.Tensor]],
    summary: TargetSummary | None,
    stated: Stated,
) -> tuple[PartPath, Fit, str | None]:
    """The part that is the output, its fit, and the assumption made in choosing it."""
    named = [path for path in shapes if _is_named_logits(path)]
    if named:
        return named[0], _fit(shapes[named[0]], summary, stated, trusted=True), None
    fits = {path: _fit(shape, summary, stated, stated.trusted) for path, shape in shapes.items()}
    first = next(iter(fits))
    if len(fits) == 1:
        return first, fits[first], None
    if summary is None:
        return first, replace(fits[first], unclear=_several(list(fits))), None
    if ("out",) in fits and fits["out",].task:  # torchvision's segmentation networks
        return ("out",), fits["out",], None
    exact = [path for path, fit in fits.items() if fit.exact and not fit.mistake]
    if len(exact) == 1 or (exact and _say_the_same([rows[path] for path in exact])):
        text = f"of the model's result, {path_text(exact[0])} {text_of(shapes[exact[0]])} is taken for its output"
        return exact[0], fits[exact[0]], f"{text}; HeldOut(logits=...) names another"
    if len(exact) > 1:
        return first, Fit(fits[first].shape, why_not=_several(exact), unclear=_several(exact)), None
    return first, fits[first], None


def _say_the_same(parts: list[list[torch.Tensor]]) -> bool:
    """Return whether all parts give the same probabilities, as logits and their softmax do."""
    if any(tensors[-1].dim() < 2 for tensors in parts):
        return False
    last = [tensors[-1].detach().float() for tensors in parts]
    found = [rows if rows_are_probabilities(rows) else rows.softmax(1) for rows in last]
    return all(rows.shape == found[0].shape and torch.allclose(rows, found[0], atol=1e-3) for rows in found[1:])


def _fit(shape: Shape, summary: TargetSummary | None, stated: Stated, trusted: bool) -> Fit:
    if summary is None:
        return Fit(shape or (1,), why_not=None if trusted else _UNLABELLED)
    return fit_to_targets(shape, summary, stated.classes, trusted)


def _verdict(path: PartPath, tensors: Sequence[torch.Tensor], fit: Fit, runs: Runs, stated: Stated) -> Outputs:
    returned = _sample_shape(tensors, runs.counts) or ()
    verdict = Outputs(
        path=path,
        returned=returned,
        shape=fit.shape,
        task=fit.task,
        labels=fit.labels,
        last=fit.last,
        why_not=_of_inputs(fit, returned, runs.inputs),
        unclear=fit.unclear,
        mistake=fit.mistake,
        about=fit.about,
        notes=(f"{fit.note}; if they are none, say HeldOut(logits=False)",) if fit.note else (),
    )
    if fit.task in (None, "quantities") or fit.mistake:
        return verdict
    trusted = stated.logits is not None or stated.trusted or _is_named_logits(path)
    return _with_form(verdict, tensors, runs.with_graph, trusted)


def _graph_at(with_graph: Callable[[], Any] | None, path: PartPath) -> Any:
    graph = None if with_graph is None else with_graph()
    return None if graph is None else part_at(graph, path)


def _with_form(
    verdict: Outputs, tensors: Sequence[torch.Tensor], with_graph: Callable[[], Any] | None, trusted: bool
) -> Outputs:
    """The verdict after a look at the values: probabilities, or rows of length one, which are an embedding's."""
    plain = replace(verdict, selector=None, path=())
    outputs = [plain.take(tensor) for tensor in tensors]
    if verdict.task == "classes":
        if all(rows_are_probabilities(rows) for rows in outputs):
            return replace(verdict, form="probabilities")
        if not trusted and all(_have_length_one(rows) for rows in outputs):
            return replace(verdict, task=None, why_not=_EMBEDDING, notes=())
    between = all(bool(((rows >= 0) & (rows <= 1)).all()) for rows in outputs)
    zero = not any(bool(rows.any()) for rows in outputs)  # as from a head whose weights begin at zero
    if not between or zero or (trusted and verdict.task == "classes"):
        return verdict
    tensor = _graph_at(with_graph, verdict.path or ())
    return _between_0_and_1(verdict, ends_in_sigmoid(tensor) if isinstance(tensor, torch.Tensor) else None, trusted)


def _between_0_and_1(verdict: Outputs, of_sigmoid: bool | None, trusted: bool) -> Outputs:
    """The verdict on outputs in [0, 1]; ``of_sigmoid`` is None if the operation that made them is not known."""
    if of_sigmoid and verdict.task == "classes":  # a softmax of them is not what the model predicts
        return replace(verdict, task=None, why_not=_SIGMOIDS, notes=())
    if of_sigmoid:
        return replace(verdict, form="probabilities")
    if trusted:
        return verdict
    if of_sigmoid is None:
        return replace(verdict, task=None, why_not=_SIGMOID, notes=())
    note = "all tried outputs lie in [0, 1] and are taken for logits; if they are probabilities, say "
    return replace(verdict, notes=(*verdict.notes, f"{note}HeldOut(logits=torch.logit)"))


_UNLABELLED = (
    "the held-out batches have no targets, so it is not known whether the model's output is logits; "
    "HeldOut(logits=...) says which part of it is"
)
_DETACHED = (
    "a tensor that is detached from the network, so that there are no gradients of it, and nothing that needs one is "
    "measured; select the logits without .detach()"
)
_EMBEDDING = (
    "the rows of the model's output all have length one, so they are an embedding, not logits; name the logits with "
    "HeldOut(logits=...), or pass loss="
)
_SIGMOID = (
    "the model's outputs lie in [0, 1], and whether they are logits or probabilities is not known; say which with "
    "HeldOut(logits=callable), for example torch.logit for probabilities"
)

_SIGMOIDS = (
    "the model's outputs lie in [0, 1], as those of a sigmoid do, so they are not logits of classes; say "
    "HeldOut(logits=torch.logit) if they are probabilities, or pass loss="
)


def _have_length_one(rows: torch.Tensor) -> bool:
    lengths = rows.detach().flatten(1).double().norm(dim=1)
    return rows.shape[1] > 1 and bool(((lengths - 1).abs() <= tolerance(rows)).all())


def _of_inputs(fit: Fit, returned: Shape, inputs: Shape) -> str | None:
    if fit.why_not and len(returned) > 1 and returned == inputs:
        return (
            f"the model's output {text_of(returned)} has the shape of its input, so it is a reconstruction, not "
            "logits; name the logits with HeldOut(logits=...), or pass loss="
        )
    return fit.why_not


def _no_rows(runs: Runs) -> str:
    """Reason why no part of the model's result can be its output."""
    output, count = runs.outputs[-1], runs.counts[-1]
    is_float = any(tensor.is_floating_point() for tensor in tensor_parts(output).values())
    ids = None if is_float else _class_ids(runs)
    return ids or (
        f"the model returns {describe(output)} for {count} samples, and no floating-point tensor in it has one row for "
        "each, so it is not observed as a layer and has no loss; HeldOut(logits=callable) can make such rows of it"
    )


def _class_ids(runs: Runs) -> str | None:
    """The sentence about a model that returns whole numbers for its samples, None if it does not."""
    count = runs.counts[-1]
    whole = [t for t in tensor_parts(runs.outputs[-1]).values() if not (t.is_floating_point() or t.is_complex())]
    found = next((t for t in whole if t.numel() == count == 1 or (t.dim() > 0 and len(t) == count)), None)
    if found is None:
        return None
    return _ids_of(found)


def _float_ids(tensors: Sequence[torch.Tensor], graph: Callable[[], Any]) -> str | None:
    """The same sentence for class indices, or one-hot rows, given as floats: whole numbers without a graph."""
    if not all(bool((rows == rows.round()).all()) for rows in tensors):
        return None
    found = graph()
    without = isinstance(found, torch.Tensor) and not found.requires_grad
    return _ids_of(tensors[-1]) if without else None


def _ids_of(found: torch.Tensor) -> str:
    kind = str(found.dtype).removeprefix("torch.")
    return (
        f"the model returns class indices of {kind} in evaluation mode, so there are no logits; return logits, or "
        "pass HeldOut(network=...) to run a submodule that does"
    )


def _is_named_logits(path: PartPath) -> bool:
    name = str(path[-1]) if path else ""
    return name.endswith("logits") and not name.startswith("aux")


def _several(paths: list[PartPath]) -> str:
    listed = " and ".join(path_text(path) for path in paths)
    return (
        f"the model returns several tensors that could be its logits ({listed}); until you say which, for example with "
        f"HeldOut(logits={_literal(paths[0])}), its output is the first tensor that it returns, and nothing is taken "
        "for logits"
    )


def _literal(path: PartPath) -> str:
    return repr(path[0] if len(path) == 1 else path_text(path))
