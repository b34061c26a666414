"""The plan of a check: the layers of each observer of one held-out set, and the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from convscope.callbacks.engine.bridge import gather_objects
from convscope.callbacks.engine.failures import Failures
from convscope.callbacks.engine.lockstep import ElsewhereError, is_mistake, together
from convscope.callbacks.engine.observer import Observer, Plan, needs_of
from convscope.capture.data.heldout import HeldOut
from convscope.capture.errors import TooFewError, UserError, or_mistake
from convscope.capture.network.layers import select_layers, spread_over_depth
from convscope.capture.network.portable import packed, unpacked
from convscope.capture.network.trace import Layer, Trace, without_problems
from convscope.capture.observation import Subject, trace_layers
from convscope.capture.outputs.choice import NO_TARGETS
from convscope.capture.outputs.settling import settle


class IdleError(Exception):
    """Raised where nothing in this network is of the kind that an observer measures."""


def make_plan(subject: Subject, heldout: HeldOut, observers: list[Observer], failures: Failures | None = None) -> Plan:
    """Choose each observer's layers in a traced pass, and settle the loss.

    All processes take the main process's plan: where layers depend on the input, others would plan differently.

    Raises:
        UserError: if a layer entry matches nothing, or the held-out set is faulty for an observer.
        Exception: if the network's forward failed.
    """
    failures = failures or Failures(raising=True)
    plan, faults = _drafted_in_memory(subject, heldout, observers, failures)
    for name, error in faults.items():
        failures.record(f"choosing the layers of {name}", error)
    for observer in list(plan.observers):
        _make_ready(plan, observer, failures)
    return plan


def _drafted_in_memory(
    subject: Subject, heldout: HeldOut, observers: list[Observer], failures: Failures
) -> tuple[Plan, dict[str, Exception]]:
    """A draft; out of device memory, every process halves the chunk and tries again."""
    while True:
        plan = Plan(subject, heldout, chunk_size=heldout.batch_size)
        try:
            return plan, together(lambda p=plan: _drafted(p, observers))  # type: ignore[misc]
        except Exception as error:
            starved = any(gather_objects(isinstance(error, torch.OutOfMemoryError)))
            if not starved or heldout.batch_size == 1:
                raise
        heldout.batch_size //= 2
        failures.note(f"out of memory in planning: held-out samples now go through {heldout.batch_size} at a time")


def _drafted(plan: Plan, observers: list[Observer]) -> dict[str, Exception]:
    """Fill in the plan; return, by observer's name, the failures that are not mistakes of the user."""
    faults: dict[str, Exception] = {}
    observers = _readable(observers, faults)
    no_loss = or_mistake(lambda: _settle_outputs(plan, observers), ValueError)
    found, logits = trace_layers(plan.subject, plan.heldout)
    plan.messages += found.notes
    plan.hidden = found.hidden
    draft = _Draft(plan, found, no_loss)
    for observer in observers:
        draft.guarded(observer, faults, draft.select)
    draft.output = _output(plan, found, logits, draft.names)
    if draft.output is None and plan.outputs.shape is not None:
        draft.no_loss = no_loss or plan.outputs.why_not
    for observer in observers:
        if observer.name in draft.selected:
            draft.guarded(observer, faults, draft.place)
    return _as_on_main(plan, observers, faults)


def _readable(observers: list[Observer], faults: dict[str, Exception]) -> list[Observer]:
    """The observers that can state their needs on every process; ``faults`` receives the errors of the others."""
    for observer in observers:
        try:
            needs_of(observer)
        except Exception as error:
            if is_mistake(error):
                raise
            faults[observer.name] = error
    silent = {name for names in gather_objects(set(faults)) for name in names}
    return [observer for observer in observers if observer.name not in silent]


class _Draft:
    """A plan in the making: the layers that every observer selects, then those that it gets."""

    def __init__(self, plan: Plan, found: Trace, no_loss: str | None) -> None:
        self.plan, self.found, self.no_loss = plan, found, no_loss
        self.output: Layer | None = None
        self.selected: dict[str, list[Layer]] = {}

    @property
    def names(self) -> set[str]:
        return {layer.name for chosen in self.selected.values() for layer in chosen}

    def guarded(self, observer: Observer, faults: dict[str, Exception], step: Callable[[Observer], None]) -> None:
        """Run one step for one observer, which may become inactive; a mistake of the user's is let through."""
        try:
            or_mistake(lambda: step(observer), ValueError)
        except IdleError as error:
            if self.selected.get(observer.name, [True]):  # layers that cannot be measured are no one's mistake
                self.plan.idle.append(str(error))
            self.plan.answers.setdefault(observer.name, []).append(f"is inactive: {error}")
        except Exception as error:
            if _skipped(self.plan, observer, error):
                return
            if is_mistake(error):
                raise
            faults[observer.name] = error

    def select(self, observer: Observer) -> None:
        """The layers that an observer names and that can be measured at all."""
        kept, said = without_problems(_selected(self.found, observer))
        self.plan.messages += [sentence for sentence in said if sentence not in self.plan.messages]
        self.selected[observer.name] = kept

    def place(self, observer: Observer) -> None:
        """Add the observer with its layers to the plan, unless this task has nothing for it."""
        plan = self.plan
        reason = _no_logits(observer, plan) or observer.skips(plan.heldout, self.no_loss)
        if reason is not None:
            plan.answers.setdefault(observer.name, []).append(f"is skipped: {reason}")
            return
        plan.layers[observer.name] = _choose(plan, self.selected[observer.name], observer, self.output)
        plan.observers.append(observer)


def _as_on_main(plan: Plan, observers: list[Observer], faults: dict[str, Exception]) -> dict[str, Exception]:
    """Take over the main process's plan; an observer that failed on one process is inactive on all."""
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


def _make_ready(plan: Plan, observer: Observer, failures: Failures) -> None:
    try:
        together(lambda: or_mistake(lambda: observer.ready(plan), ValueError))
    except Exception as error:
        if not _skipped(plan, observer, error):
            if is_mistake(error):
                raise
            failures.record(f"preparing {observer.name}", error)
        plan.observers.remove(observer)
        del plan.layers[observer.name]


def _skipped(plan: Plan, observer: Observer, error: Exception) -> bool:
    """Skip a suite's callback if the held-out samples are too few for it; the rest of the suite goes on."""
    if not (observer.by_default and isinstance(error.__cause__, TooFewError)):
        return False
    plan.answers.setdefault(observer.name, []).append(f"is skipped: {error}")
    return True


def _output(plan: Plan, found: Trace, logits: torch.Tensor, taken: set[str]) -> Layer | None:
    """The model's output as a layer, None where it is not one row per sample: a detector's boxes, a reordered batch."""
    if plan.outputs.shape is None:
        return None
    output = found.output(logits, taken)
    if not output.problem:
        return output
    # No target belongs to a row of it, so there is neither a loss nor a prediction.
    plan.outputs = plan.subject.outputs = replace(plan.outputs, why_not=f"the model's output {output.problem}")
    plan.subject.loss = None
    plan.messages.append(f"the model's output {output.problem}, so it is not observed as a layer")
    return None


def _choose(plan: Plan, chosen: list[Layer], observer: Observer, output: Layer | None) -> list[Layer]:
    wanted = observer.includes_output and not (observer.takes_output_as_logits and plan.outputs.why_not)
    last = [output] if wanted and output is not None else []
    suitable = _suitable(plan, [*chosen, *last], observer)
    chosen = [layer for layer in suitable if layer is not output]
    kept = spread_over_depth(chosen, observer.max_layers)
    plan.available |= {layer.name for layer in chosen}
    if len(kept) < len(chosen):
        plan.answers.setdefault(observer.name, []).append(
            f"observes {len(kept)} of {len(chosen)} layers, evenly over depth (max_layers="
            f"{observer.max_layers}): {', '.join(layer.name for layer in kept)}"
        )
    return [*kept, *(layer for layer in suitable if layer is output)]


def _selected(found: Trace, observer: Observer) -> list[Layer]:
    try:
        return select_layers(found, observer.layers, raw=observer.observe_at == "conv")
    except ValueError as error:
        if observer.layers is None:  # by default: the network has no layer of the kind
            raise IdleError(str(error)) from error
        raise
    except Exception as error:
        if observer.layers is None:
            raise
        raise UserError(
            f"layers={observer.layers!r} of {observer.name} failed ({type(error).__name__}: {error}); give a glob or "
            "name, 're:<regular expression>', a module class, or a callable(name, module) -> bool"
        ) from error


def _suitable(plan: Plan, chosen: list[Layer], observer: Observer) -> list[Layer]:
    suitable = [layer for layer in chosen if observer.suits(layer)]
    others = [layer.name for layer in chosen if not observer.suits(layer)]
    filters = [layer for layer in suitable if not layer.is_output]
    if not suitable or (observer.needs_filters and not filters):
        raise IdleError(_why_none(others))
    if others:
        plan.answers.setdefault(observer.name, []).append(
            f"leaves out layers that it cannot measure: {', '.join(others)}"
        )
    return suitable


def _why_none(unsuitable: list[str]) -> str:
    if not unsuitable:
        return "none of its layers can be measured"
    return f"it can measure none of the chosen layers: {', '.join(unsuitable)}"


def _settle_outputs(plan: Plan, observers: list[Observer]) -> str | None:
    """Settle which output is the logits, and the loss; return a sentence why there is none.

    Raises:
        ValueError: if targets and outputs do not go together for an observer, or a loss cannot be used.
    """
    wanting = [observer for observer in observers if observer.needs_gradient]
    own = {id(observer.loss): observer.loss for observer in wanting if observer.loss is not None}
    if len(own) > 1:
        names = ", ".join(observer.name for observer in wanting)
        raise ValueError(f"{names} name different losses for one held-out set; give them one loss, or a HeldOut each")
    loss = next(iter(own.values()), None)
    outputs = plan.outputs = settle(plan.subject, plan.heldout, loss)
    plan.heldout.check_class_names(outputs.classes)
    _raise_mistakes(plan, observers, loss is None)
    if any(observer.needs_gradient or observer.includes_output for observer in observers):
        plan.messages += outputs.notes
        if outputs.unclear or (outputs.shape is None and outputs.why_not):
            plan.messages.append(outputs.unclear or outputs.why_not or "")
    if plan.heldout.targets is None:
        return NO_TARGETS
    return None if plan.subject.loss is not None else outputs.why_not


def _raise_mistakes(plan: Plan, observers: list[Observer], infers_loss: bool) -> None:
    outputs, heldout = plan.outputs, plan.heldout
    mistake, floating = outputs.mistake, heldout.summary is not None and heldout.summary.floating
    for observer in observers:
        # Where targets are floats there are no classes: observers that read classes off the output are skipped.
        reads_classes = observer.takes_output_as_logits and not floating
        if mistake and ((observer.needs_gradient and infers_loss) or reads_classes):
            raise ValueError(mistake)
        if observer.takes_targets_as != "nothing":
            said = observer.takes_targets_as == "classes"
            if doubt := outputs.doubt(heldout.summary, heldout.classes, task_is_known=said):
                raise ValueError(mistake or doubt)


def _no_logits(observer: Observer, plan: Plan) -> str | None:
    """Reason why an observer that needs logits cannot have them, None if it can."""
    return plan.outputs.why_not if observer.takes_output_as_logits == "only" else None
