"""The plan of a check: for one held-out set, who observes which layers, and with which loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from convscope.callbacks.bridge import gather_objects
from convscope.callbacks.failures import Failures
from convscope.callbacks.together import ElsewhereError, together
from convscope.capture.errors import UserError
from convscope.capture.heldout import HeldOut
from convscope.capture.layers import select_layers, spread_over_depth
from convscope.capture.loss import Loss, NoLossError, infer_loss, summed
from convscope.capture.observation import Subject, trace_layers
from convscope.capture.portable import packed, unpacked
from convscope.capture.trace import OUTPUT, Layer, Trace, output_layer

if TYPE_CHECKING:
    from convscope.callbacks.base import LayerObserver

T = TypeVar("T")


class IdleError(Exception):
    """Nothing in this network is of the kind that an observer measures."""


@dataclass
class Plan:
    """One held-out set's part of a check. ``layers`` maps an observer's name to its layers, in depth order.

    ``idle`` says of each observer that rests for want of layers why it does.
    """

    subject: Subject
    heldout: HeldOut
    observers: list[LayerObserver] = field(default_factory=list)
    layers: dict[str, list[Layer]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    chunk_size: int = 0


def make_plan(
    subject: Subject, heldout: HeldOut, observers: list[LayerObserver], failures: Failures | None = None
) -> Plan:
    """Choose each observer's layers in a traced pass, and settle the loss.

    The main process's plan is everyone's: where layers depend on the input, others would plan otherwise.

    Raises:
        UserError: a layer entry matches nothing, or the held-out set is faulty for an observer.
        Exception: the network's forward failed.
    """
    failures = failures or Failures(raising=True)
    plan = Plan(subject, heldout, chunk_size=heldout.batch_size)
    faults = together(lambda: _drafted(plan, observers))
    for name, error in faults.items():
        failures.record(f"choosing the layers of {name}", error)
    for observer in list(plan.observers):
        _make_ready(plan, observer, failures)
    return plan


def _drafted(plan: Plan, observers: list[LayerObserver]) -> dict[str, Exception]:
    """Fill in the plan; returns by observer's name what failed that is no mistake of the user's."""
    found, logits = trace_layers(plan.subject, plan.heldout)
    no_loss = _or_mistake(lambda: _settle_loss(plan, logits, observers))
    output = _output(plan, logits)
    faults: dict[str, Exception] = {}
    for observer in observers:
        try:
            _or_mistake(lambda o=observer: _place(plan, found, o, output, no_loss))  # type: ignore[misc]
        except IdleError as error:
            plan.idle.append(str(error))
            plan.messages.append(f"{observer.name} rests: {error}")
        except (UserError, MisconfigurationException):
            raise
        except Exception as error:
            faults[observer.name] = error
    return _as_on_main(plan, observers, faults)


def _as_on_main(plan: Plan, observers: list[LayerObserver], faults: dict[str, Exception]) -> dict[str, Exception]:
    """Take over the main process's plan; an observer that failed on one process rests on all."""
    model = plan.subject.module
    layers = {name: packed(chosen, model) for name, chosen in plan.layers.items()}
    told = {name: f"{type(error).__name__}: {error}" for name, error in faults.items()}
    places = [place for place, one in enumerate(observers) if any(one is observer for observer in plan.observers)]
    sent = gather_objects((places, layers, plan.messages, plan.idle, told))
    places, main_layers, plan.messages, plan.idle, _ = sent[0]
    everywhere = {name: message for *_, told in sent for name, message in told.items()}
    chosen = {name: unpacked(fields, model) for name, fields in main_layers.items() if name not in everywhere}
    plan.layers = {name: plan.layers[name] if len(sent) == 1 else layers for name, layers in chosen.items()}
    plan.observers = [observers[place] for place in places if observers[place].name in plan.layers]
    return {name: faults.get(name) or ElsewhereError(f"on another process: {m}") for name, m in everywhere.items()}


def _place(plan: Plan, found: Trace, observer: LayerObserver, output: Layer | None, no_loss: str | None) -> None:
    reason = observer.skips(plan.heldout, no_loss)
    if reason is not None:
        plan.messages.append(f"{observer.name} is skipped: {reason}")
        return
    plan.layers[observer.name] = _choose(plan, found, observer, output)
    plan.observers.append(observer)


def _make_ready(plan: Plan, observer: LayerObserver, failures: Failures) -> None:
    try:
        together(lambda: _or_mistake(lambda: observer.ready(plan)))
    except (UserError, MisconfigurationException):
        raise
    except Exception as error:
        failures.record(f"preparing {observer.name}", error)
        plan.observers.remove(observer)
        del plan.layers[observer.name]


def _or_mistake(run: Callable[[], T]) -> T:
    """``run()``, whose ``ValueError`` means that the user gave something wrong."""
    try:
        return run()
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error


def _output(plan: Plan, logits: torch.Tensor) -> Layer | None:
    """The model's output as a layer, None where it is not one row a sample: a detector's boxes."""
    if len(logits) == 1:
        return output_layer(logits)
    plan.messages.append(f"{_rows(logits)}, so it is not observed as a layer")
    return None


def _rows(logits: torch.Tensor) -> str:
    return f"the model's output has {len(logits)} rows for one sample"


def _choose(plan: Plan, found: Trace, observer: LayerObserver, output: Layer | None) -> list[Layer]:
    chosen = _selected(found, observer)
    last = [output] if observer.includes_output and output is not None else []
    suitable = _suitable(plan, [*chosen, *last], observer)
    chosen = [layer for layer in suitable if layer is not output]
    kept = spread_over_depth(chosen, observer.max_layers)
    if len(kept) < len(chosen):
        plan.messages.append(
            f"{observer.name} observes {len(kept)} of {len(chosen)} layers, evenly over depth (max_layers="
            f"{observer.max_layers}): {', '.join(layer.name for layer in kept)}"
        )
    return [*kept, *(layer for layer in suitable if layer is output)]


def _selected(found: Trace, observer: LayerObserver) -> list[Layer]:
    try:
        return select_layers(found, observer.layers, raw=observer.observe_at == "conv")
    except ValueError as error:
        if observer.layers is None:  # the user named nothing: the network has none of what is observed by default
            raise IdleError(str(error)) from error
        raise
    except Exception as error:
        if observer.layers is None:
            raise
        raise UserError(
            f"layers={observer.layers!r} of {observer.name} failed ({type(error).__name__}: {error}); give a glob or "
            "name, 're:<regular expression>', a module class, or a callable(name, module) -> bool"
        ) from error


def _suitable(plan: Plan, chosen: list[Layer], observer: LayerObserver) -> list[Layer]:
    suitable = [layer for layer in chosen if observer.suits(layer)]
    others = [layer.name for layer in chosen if not observer.suits(layer)]
    filters = [layer for layer in suitable if layer.name != OUTPUT]
    if not suitable or (observer.needs_filters and not filters):
        raise IdleError(f"it can measure none of the chosen layers: {', '.join(others) or 'there are none'}")
    if others:
        plan.messages.append(f"{observer.name} leaves out layers that it cannot measure: {', '.join(others)}")
    return suitable


def _settle_loss(plan: Plan, logits: torch.Tensor, observers: list[LayerObserver]) -> str | None:
    """Set the subject's loss; returns a sentence why there is none."""
    wanting = [observer for observer in observers if observer.needs_gradient]
    if not wanting:
        return None
    own = {id(observer.loss): observer.loss for observer in wanting if observer.loss is not None}
    if len(own) > 1:
        names = ", ".join(observer.name for observer in wanting)
        raise ValueError(f"{names} name different losses for one held-out set; give them one loss, or a HeldOut each")
    if plan.heldout.targets is None:
        return "the held-out batches have no targets, so there is no loss to take a gradient of"
    if not own and (unknown := _no_logits(logits, plan.heldout)):
        return unknown
    try:
        plan.subject.loss = summed(next(iter(own.values()))) if own else _inferred(logits, plan.heldout.targets)
    except NoLossError as error:
        return str(error)
    return None


def _no_logits(logits: torch.Tensor, heldout: HeldOut) -> str | None:
    """Why outputs are taken for no logits: a detector's boxes, or a self-supervised embedding.

    Cross-entropy of an embedding is a number without a meaning. Classes ``0 … K-1`` that all occur, and more outputs
    than K, are the sign; labels of a held-out set that lacks classes have gaps, unless it lacks the last ones.
    """
    summary = heldout.summary
    if len(logits) != 1:
        return f"{_rows(logits)} and its loss is unknown; pass loss=, a callable(outputs, targets)"
    if summary is None or summary.floating or summary.shape != () or logits.dim() != 2:
        return None
    classes, outputs = len(summary.classes), logits.shape[1]
    if summary.classes != tuple(range(classes)) or outputs < 2 or outputs <= max(classes, 2):
        return None
    return (
        f"the model has {outputs} outputs where the targets have {classes} classes, so they may be no logits, and its "
        "loss is unknown; pass loss=torch.nn.functional.cross_entropy if they are logits, or else the loss"
    )


def _inferred(logits: torch.Tensor, targets: torch.Tensor) -> Loss:
    # Shapes and labels decide, so the sample's logits stand for those of all held-out samples.
    return infer_loss(logits.expand(len(targets), *logits.shape[1:]), targets)
