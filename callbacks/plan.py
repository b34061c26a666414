"""The plan of a check: for one held-out set, who observes which layers, and with which loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from convscope.capture.heldout import HeldOut
from convscope.capture.layers import select_layers, spread_over_depth
from convscope.capture.loss import Loss, NoLossError, infer_loss, summed
from convscope.capture.observation import Subject, trace_layers
from convscope.capture.trace import Layer, Trace, without_problems

if TYPE_CHECKING:
    from convscope.callbacks.base import LayerObserver


@dataclass
class Plan:
    """One held-out set's part of a check. ``layers`` maps an observer's name to its layers, in depth order."""

    subject: Subject
    heldout: HeldOut
    observers: list[LayerObserver] = field(default_factory=list)
    layers: dict[str, list[Layer]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    chunk_size: int = 0


def make_plan(subject: Subject, heldout: HeldOut, observers: list[LayerObserver]) -> Plan:
    """Trace one sample, choose each observer's layers, and settle the loss.

    Raises:
        ValueError: A layer entry matches nothing, or the held-out set is faulty for an observer.
    """
    found, logits = trace_layers(subject, heldout)
    plan = Plan(subject, heldout, chunk_size=heldout.batch_size, messages=list(found.notes))
    selected = {id(observer): _select(plan, found, observer) for observer in observers}
    output = _output(plan, found, logits, {layer.name for chosen in selected.values() for layer in chosen})
    no_loss = _settle_loss(plan, logits, observers, found.output(logits).problem)
    for observer in observers:
        reason = observer.skips(heldout, no_loss)
        if reason is not None:
            plan.messages.append(f"{observer.name} is skipped: {reason}")
            continue
        chosen = _choose(plan, selected[id(observer)], observer, output)
        if not chosen:
            plan.messages.append(f"{observer.name} is skipped: none of its layers can be measured")
            continue
        plan.observers.append(observer)
        plan.layers[observer.name] = chosen
    for observer in plan.observers:
        observer.ready(plan)
    return plan


def _output(plan: Plan, found: Trace, logits: torch.Tensor, taken: set[str]) -> Layer | None:
    """The model's output as a layer, None where it is not one row a sample: a detector's boxes."""
    output = found.output(logits, taken)
    reason = _rows(logits) if len(logits) != 1 else output.problem and f"the model's output {output.problem}"
    if not reason:
        return output
    plan.messages.append(f"{reason}, so it is not observed as a layer")
    return None


def _rows(logits: torch.Tensor) -> str:
    return f"the model's output has {len(logits)} rows for one sample"


def _select(plan: Plan, found: Trace, observer: LayerObserver) -> list[Layer]:
    """The layers that an observer names and that can be measured at all."""
    kept, said = without_problems(select_layers(found, observer.layers, raw=observer.observe_at == "conv"))
    plan.messages += [sentence for sentence in said if sentence not in plan.messages]
    return kept


def _choose(plan: Plan, chosen: list[Layer], observer: LayerObserver, output: Layer | None) -> list[Layer]:
    if not chosen:
        return []
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


def _suitable(plan: Plan, chosen: list[Layer], observer: LayerObserver) -> list[Layer]:
    suitable = [layer for layer in chosen if observer.suits(layer)]
    others = [layer.name for layer in chosen if not observer.suits(layer)]
    if not suitable:
        raise ValueError(f"{observer.name} can measure none of the chosen layers: {', '.join(others)}")
    if others:
        plan.messages.append(f"{observer.name} leaves out layers that it cannot measure: {', '.join(others)}")
    return suitable


def _settle_loss(plan: Plan, logits: torch.Tensor, observers: list[LayerObserver], problem: str) -> str | None:
    """Set the subject's loss; returns a sentence why there is none."""
    wanting = [observer for observer in observers if observer.needs_gradient]
    if not wanting:
        return None
    if problem and len(logits) == 1:
        return f"the model's output {problem}, so no target belongs to a row of it"
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
