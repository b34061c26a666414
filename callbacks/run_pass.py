"""Run one plan's pass on every process, and agree on which layers of which observers can be used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from convscope.callbacks.failures import Failures
from convscope.callbacks.plan import Plan
from convscope.callbacks.run_interventions import run_interventions
from convscope.capture.observation import Consumer, Observed, Record, observe
from convscope.capture.processes import Gather
from convscope.capture.trace import Layer

if TYPE_CHECKING:
    from convscope.callbacks.base import LayerObserver


@dataclass
class _Outcome:
    """What one process says of its pass; plain values, since it travels."""

    error: str | None = None
    out_of_memory: bool = False
    failed: set[tuple[str, str]] = field(default_factory=set)
    nonfinite: dict[str, int] = field(default_factory=dict)
    nonfinite_gradients: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    unmatched: set[str] = field(default_factory=set)


class _Bound:
    """An observer as the pass sees it: a consumer of its own layers."""

    def __init__(self, observer: LayerObserver, layers: list[Layer]) -> None:
        self.observer = observer
        self._names = {layer.name for layer in layers}

    @property
    def needs_gradient(self) -> bool:
        return self.observer.needs_gradient

    @property
    def takes_nonfinite(self) -> bool:
        return self.observer.takes_nonfinite

    def wants(self, layer: str) -> bool:
        return layer in self._names

    def on_activation(self, record: Record) -> None:
        self.observer.on_activation(record)

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None:
        self.observer.on_gradient(record, gradient)


def run_pass(plan: Plan, due: list[LayerObserver], failures: Failures, gather: Gather) -> dict[str, list[Layer]]:
    """One pass for all observers that are due. Returns, by observer's name, the layers that went well everywhere.

    Out of device memory, every process halves its chunk and the pass begins anew.

    Raises:
        Exception: The network's forward, or the loss, failed on some process.
    """
    while True:
        outcome, error = _attempt(plan, due, failures)
        outcomes: list[_Outcome] = gather(outcome)
        if not any(o.out_of_memory for o in outcomes) or plan.chunk_size == 1:
            break
        error = None  # its traceback holds what the failed attempt had in memory
        plan.chunk_size //= 2
        failures.note(f"out of memory in a check: held-out samples now go through {plan.chunk_size} at a time")
    failed_elsewhere = next((o.error for o in outcomes if o.error is not None), None)
    if failed_elsewhere is not None:
        raise error or RuntimeError(f"on another process: {failed_elsewhere}")
    return run_interventions(plan, due, _usable(plan, due, outcomes, failures), failures, gather)


def _attempt(plan: Plan, due: list[LayerObserver], failures: Failures) -> tuple[_Outcome, Exception | None]:
    try:
        for observer in due:
            observer.begin(plan.layers[observer.name], plan.heldout.total)
        observed = _observe(plan, due)
    except Exception as error:
        out_of_memory = isinstance(error, torch.OutOfMemoryError)
        return _Outcome(f"{type(error).__name__}: {error}", out_of_memory), error
    failed = set()
    for (place, layer), failure in observed.failures.items():
        failures.record(f"{due[place].name}, layer {layer}", failure)
        failed.add((due[place].name, layer))
    bad = observed.nonfinite, observed.nonfinite_gradients
    return _Outcome(None, False, failed, *bad, observed.missing, observed.unmatched), None


def _observe(plan: Plan, due: list[LayerObserver]) -> Observed:
    consumers: list[Consumer] = [_Bound(observer, plan.layers[observer.name]) for observer in due]
    layers = {layer.name: layer for observer in due for layer in plan.layers[observer.name]}
    return observe(plan.subject, plan.heldout, list(layers.values()), consumers, chunk_size=plan.chunk_size)


def _usable(
    plan: Plan, due: list[LayerObserver], outcomes: list[_Outcome], failures: Failures
) -> dict[str, list[Layer]]:
    unseen = _everywhere(outcomes, lambda o: o.missing | o.unmatched)
    bad = _everywhere(outcomes, lambda o: o.nonfinite)
    bad_gradients = _everywhere(outcomes, lambda o: o.nonfinite_gradients) - bad
    failed = {pair for outcome in outcomes for pair in outcome.failed}
    _note(outcomes, bad_gradients, failures)

    def is_usable(observer: LayerObserver, layer: Layer) -> bool:
        if layer.name in unseen or (observer.name, layer.name) in failed:
            return False
        without_gradient = observer.needs_gradient and layer.name in bad_gradients
        return observer.takes_nonfinite or not (layer.name in bad or without_gradient)

    return {o.name: [layer for layer in plan.layers[o.name] if is_usable(o, layer)] for o in due}


def _everywhere(outcomes: list[_Outcome], names: Callable[[_Outcome], Iterable[str]]) -> set[str]:
    return {name for outcome in outcomes for name in names(outcome)}


def _note(outcomes: list[_Outcome], bad_gradients: set[str], failures: Failures) -> None:
    for name in sorted(_everywhere(outcomes, lambda o: o.nonfinite)):
        failures.note(f"layer {name} gives NaN or infinite activations; it is not measured")
    for name in sorted(_everywhere(outcomes, lambda o: o.missing)):
        failures.note(f"layer {name} did not run in the held-out pass; it is not measured")
    for name in sorted(_everywhere(outcomes, lambda o: o.unmatched)):
        failures.note(f"layer {name} does not give the same number of rows for each sample; it is not measured")
    if bad_gradients:
        names = ", ".join(sorted(bad_gradients))
        failures.note(f"gradients are NaN or infinite at {names}; what needs them is not measured there")
