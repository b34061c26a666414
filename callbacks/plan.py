"""The plan of a check: for one held-out set, who observes which layers, and with which loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from convscope.capture.heldout import HeldOut
from convscope.capture.layers import select_layers, spread_over_depth
from convscope.capture.observation import Subject, trace_layers
from convscope.capture.outputs import NO_TARGETS, Outputs
from convscope.capture.settle import settle
from convscope.capture.trace import Layer, Trace, output_layer

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
    outputs: Outputs = field(default_factory=Outputs)


def make_plan(subject: Subject, heldout: HeldOut, observers: list[LayerObserver]) -> Plan:
    """Settle the output and the loss, trace one sample, and choose each observer's layers.

    Raises:
        ValueError: A layer entry matches nothing, or the held-out set is faulty for an observer.
    """
    plan = Plan(subject, heldout, chunk_size=heldout.batch_size)
    no_loss = _settle_outputs(plan, observers)
    found, _ = trace_layers(subject, heldout)
    output = _output(plan)
    for observer in observers:
        reason = _no_logits(observer, plan) or observer.skips(heldout, no_loss)
        if reason is not None:
            plan.messages.append(f"{observer.name} is skipped: {reason}")
            continue
        chosen = _choose(plan, found, observer, output)
        plan.observers.append(observer)
        plan.layers[observer.name] = chosen
    for observer in plan.observers:
        observer.ready(plan)
    return plan


def _output(plan: Plan) -> Layer | None:
    """The model's output as a layer, None where it is not one row a sample: a detector's boxes."""
    shape = plan.outputs.shape
    return None if shape is None else output_layer(torch.empty(1, *shape))


def _choose(plan: Plan, found: Trace, observer: LayerObserver, output: Layer | None) -> list[Layer]:
    chosen = select_layers(found, observer.layers, raw=observer.observe_at == "conv")
    wanted = observer.includes_output and not (observer.takes_output_as_logits and plan.outputs.why_not)
    last = [output] if wanted and output is not None else []
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


def _settle_outputs(plan: Plan, observers: list[LayerObserver]) -> str | None:
    """Settle which output is the logits, and the loss; returns a sentence why there is none.

    Raises:
        ValueError: Targets and outputs do not go together for an observer, or a loss cannot be used.
    """
    wanting = [observer for observer in observers if observer.needs_gradient]
    own = {id(observer.loss): observer.loss for observer in wanting if observer.loss is not None}
    if len(own) > 1:
        names = ", ".join(observer.name for observer in wanting)
        raise ValueError(f"{names} name different losses for one held-out set; give them one loss, or a HeldOut each")
    loss = next(iter(own.values()), None)
    outputs = plan.outputs = settle(plan.subject, plan.heldout, loss)
    _raise_mistakes(plan, observers, loss is None)
    if any(observer.needs_gradient or observer.includes_output for observer in observers):
        plan.messages += outputs.notes
        if outputs.unclear or (outputs.shape is None and outputs.why_not):
            plan.messages.append(outputs.unclear or outputs.why_not or "")
    if plan.heldout.targets is None:
        return NO_TARGETS
    return None if plan.subject.loss is not None else outputs.why_not


def _raise_mistakes(plan: Plan, observers: list[LayerObserver], infers_loss: bool) -> None:
    outputs, heldout = plan.outputs, plan.heldout
    mistake, floating = outputs.mistake, heldout.summary is not None and heldout.summary.floating
    for observer in observers:
        # Where targets are floats, who reads classes off the output is skipped: there are none.
        reads_classes = observer.takes_output_as_logits and not floating
        if mistake and ((observer.needs_gradient and infers_loss) or reads_classes):
            raise ValueError(mistake)
        if observer.takes_targets_as != "nothing":
            said = observer.takes_targets_as == "classes"
            if doubt := outputs.doubt(heldout.summary, heldout.classes, task_is_known=said):
                raise ValueError(mistake or doubt)


def _no_logits(observer: LayerObserver, plan: Plan) -> str | None:
    """Why an observer that is nothing without logits cannot have them."""
    return plan.outputs.why_not if observer.takes_output_as_logits == "only" else None
