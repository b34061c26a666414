"""The shared pass of one plan on every process, and agreement on which layers of which observers are usable."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields

import torch

from convscope.callbacks.engine import bridge
from convscope.callbacks.engine.failures import Failures
from convscope.callbacks.engine.interventions import run_interventions
from convscope.callbacks.engine.lockstep import ElsewhereError, together
from convscope.callbacks.engine.observer import Observer, Plan, needs_of
from convscope.callbacks.engine.progress import Progress
from convscope.capture.data.processes import Gather
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Consumer, LayerFaults, Observed, Record, observe


@dataclass
class _Outcome(LayerFaults):
    """One process's report of its pass; plain values, since it is sent to the others."""

    error: str | None = None
    out_of_memory: bool = False
    loss_error: str | None = None
    failed: dict[tuple[str, str], str] = field(default_factory=dict)


class Bound:
    """An observer as the pass sees it: a consumer of its own layers."""

    def __init__(self, observer: Observer, layers: list[Layer], gradients: bool, progress: Progress) -> None:
        self.observer, self._progress = observer, progress
        self.needs_gradient = gradients and observer.needs_gradient
        self.takes_nonfinite = observer.takes_nonfinite
        self._layers = {layer.id for layer in layers}

    def wants(self, layer: Layer) -> bool:
        return layer.id in self._layers

    def on_activation(self, record: Record) -> None:
        self._progress.advance()
        self.observer.on_activation(record)

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None:
        self.observer.on_gradient(record, gradient)


def run_pass(
    plan: Plan, due: list[Observer], failures: Failures, gather: Gather, progress: Progress | None = None
) -> dict[str, list[Layer]]:
    """One pass for all observers that are due. Returns, by observer's name, the layers that went well everywhere.

    Out of device memory, every process halves its chunk and the pass begins again. A forward that fails with gradients
    is run again without them, so that metrics that need none are still measured.

    Raises:
        Exception: if the network's forward failed on some process.
    """
    gradients, without, progress = True, None, progress or Progress()
    while True:
        begun = begin(plan, due, failures)
        here, error = _attempt(plan, begun, gradients, progress)
        outcomes: list[_Outcome] = gather(_outcome(begun, here, error))
        if any(o.out_of_memory for o in outcomes) and plan.chunk_size > 1:
            error = None  # its traceback holds what the failed attempt had in memory
            plan.chunk_size //= 2
            failures.note(f"out of memory in a check: held-out samples now go through {plan.chunk_size} at a time")
            continue
        failed = next((o.error for o in outcomes if o.error is not None), None)
        if failed is None:
            break
        error = error or _elsewhere(failed)
        if not gradients or not any(observer.needs_gradient for observer in begun):
            raise error
        gradients, without, error = False, error, None
    usable = _agreed(plan, begun, here, outcomes, without, failures)
    going_on = [observer for observer in begun if observer.name in usable]
    usable = run_interventions(plan, going_on, usable, failures, gather, progress)
    return {observer.name: [] for observer in due} | usable


def conclude_pass(
    plan: Plan, due: list[Observer], begun: list[Observer], here: Observed, failures: Failures, gather: Gather
) -> dict[str, list[Layer]]:
    """As :func:`run_pass`, for what has been observed already, without gradients; every process must call it."""
    usable = _agreed(plan, begun, here, gather(_outcome(begun, here, None)), None, failures)
    return {observer.name: [] for observer in due} | usable


def _agreed(
    plan: Plan,
    begun: list[Observer],
    here: Observed,
    outcomes: list[_Outcome],
    without: Exception | None,
    failures: Failures,
) -> dict[str, list[Layer]]:
    """Layers that went well on every process; what went wrong on any is logged."""
    _record(plan, begun, here, outcomes, without, failures)
    if without is not None or any(outcome.loss_error is not None for outcome in outcomes):
        begun = _without_gradients(begun, failures)
    return _usable(plan, begun, outcomes)


def begin(plan: Plan, due: list[Observer], failures: Failures) -> list[Observer]:
    """The observers that could begin, on every process."""
    begun = []
    for observer in due:
        try:
            together(lambda o=observer: _begin_one(plan, o))  # type: ignore[misc]
            begun.append(observer)
        except Exception as error:
            failures.record(f"the beginning of a check of {observer.name}", error)
    return begun


def _begin_one(plan: Plan, observer: Observer) -> None:
    observer.begin(plan.layers[observer.name], plan.heldout.total)
    needs_of(observer)  # the pass reads them for all observers together


def _attempt(plan: Plan, due: list[Observer], gradients: bool, progress: Progress) -> tuple[Observed, Exception | None]:
    try:
        return _observe(plan, due, gradients, progress), None
    except Exception as error:
        return Observed(), error


def _outcome(due: list[Observer], here: Observed, error: Exception | None) -> _Outcome:
    if error is not None:
        return _Outcome(error=_told(error), out_of_memory=isinstance(error, torch.OutOfMemoryError))
    loss_error = None if here.loss_error is None else _told(here.loss_error)
    failed = {(due[place].name, layer): _told(failure) for (place, layer), failure in here.failures.items()}
    faults = {each.name: getattr(here, each.name) for each in fields(LayerFaults)}
    return _Outcome(**faults, loss_error=loss_error, failed=failed)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _elsewhere(told: str) -> ElsewhereError:
    return ElsewhereError(f"on another process: {told}")


def _record(
    plan: Plan,
    due: list[Observer],
    here: Observed,
    outcomes: list[_Outcome],
    without: Exception | None,
    failures: Failures,
) -> None:
    """Count and log, on every process, the failures of any process: all have the same count."""
    own = {(due[place].name, layer): failure for (place, layer), failure in here.failures.items()}
    for (name, layer), told in {pair: told for o in outcomes for pair, told in o.failed.items()}.items():
        failures.record(f"{name}, layer {layer}", own.get((name, layer)) or _elsewhere(told))
    lost = [outcome.loss_error for outcome in outcomes if outcome.loss_error is not None]
    if lost:
        failures.record("the loss on the held-out set, or its backward,", here.loss_error or _elsewhere(lost[0]))
    if without is not None:
        failures.record("the held-out pass with gradients", without)
    _note(outcomes, _in_need(plan, due), failures)


def _in_need(plan: Plan, due: list[Observer]) -> set[str]:
    """Layers of observers that need a gradient."""
    needing = [observer for observer in due if observer.needs_gradient and not observer.takes_nonfinite]
    return {layer.name for observer in needing for layer in plan.layers[observer.name]}


def _observe(plan: Plan, due: list[Observer], gradients: bool, progress: Progress) -> Observed:
    chosen = [plan.layers[observer.name] for observer in due]
    consumers: list[Consumer] = [Bound(*each, gradients, progress) for each in zip(due, chosen, strict=True)]
    chunks = -(-plan.heldout.total // (bridge.processes() * plan.chunk_size))
    progress.phase("held-out pass", chunks * sum(map(len, chosen)))
    layers = {layer.id: layer for observer in due for layer in plan.layers[observer.name]}
    return observe(plan.subject, plan.heldout, list(layers.values()), consumers, chunk_size=plan.chunk_size)


def _without_gradients(due: list[Observer], failures: Failures) -> list[Observer]:
    """Observers that can do without gradients, if those of this check are incomplete on some process."""
    return [observer for observer in due if not observer.needs_gradient or _drops_gradients(observer, failures)]


def _drops_gradients(observer: Observer, failures: Failures) -> bool:
    try:
        return together(lambda: observer.drop_gradients())
    except Exception as error:
        failures.record(f"{observer.name} without gradients", error)
        return False


def _usable(plan: Plan, due: list[Observer], outcomes: list[_Outcome]) -> dict[str, list[Layer]]:
    unseen = _everywhere(outcomes, lambda o: o.missing | o.unmatched.keys())
    bad = _everywhere(outcomes, lambda o: o.nonfinite)
    bad_gradients = _everywhere(outcomes, lambda o: o.nonfinite_gradients) - bad
    failed = {pair for outcome in outcomes for pair in outcome.failed}
    no_gradients = _everywhere(outcomes, lambda o: o.without_gradient) - bad - unseen

    def is_usable(observer: Observer, layer: Layer) -> bool:
        if layer.name in unseen or (observer.name, layer.name) in failed:
            return False
        without_gradient = observer.needs_gradient and layer.name in bad_gradients | no_gradients
        return observer.takes_nonfinite or not (layer.name in bad or without_gradient)

    return {o.name: [layer for layer in plan.layers[o.name] if is_usable(o, layer)] for o in due}


def _everywhere(outcomes: list[_Outcome], names: Callable[[_Outcome], Iterable[str]]) -> set[str]:
    return {name for outcome in outcomes for name in names(outcome)}


def _note(outcomes: list[_Outcome], needed: set[str], failures: Failures) -> None:
    bad = _everywhere(outcomes, lambda o: o.nonfinite)
    for name in sorted(bad):
        failures.note(f"layer {name} gives NaN or infinite activations; it is not measured")
    reasons = {name: reason for outcome in outcomes for name, reason in outcome.unmatched.items()}
    for name in sorted(_everywhere(outcomes, lambda o: o.missing) - reasons.keys()):
        failures.note(f"layer {name} did not run in the held-out pass; it is not measured")
    for name, reason in sorted(reasons.items()):
        failures.note(f"layer {name} {reason}; it is not measured")
    bad_gradients = _everywhere(outcomes, lambda o: o.nonfinite_gradients) - bad
    no_gradients = (_everywhere(outcomes, lambda o: o.without_gradient) & needed) - bad - reasons.keys()
    if bad_gradients:
        names = ", ".join(sorted(bad_gradients))
        failures.note(f"gradients are NaN or infinite at {names}; what needs them is not measured there")
    if no_gradients:
        names = ", ".join(sorted(no_gradients))
        failures.note(f"no gradient of the loss reaches {names}; what needs it is not measured there")
