"""Further passes of observers that intervene, in step on every process."""

from __future__ import annotations

from collections.abc import Callable

import torch

from convscope.callbacks.engine.failures import Failures
from convscope.callbacks.engine.lockstep import together
from convscope.callbacks.engine.observer import Observer, Plan
from convscope.callbacks.engine.progress import Progress
from convscope.capture.data.processes import Gather
from convscope.capture.network.trace import Layer

Pair = tuple[str, str]  # names of an observer and of a layer
Usable = dict[str, list[Layer]]


def run_interventions(
    plan: Plan, due: list[Observer], usable: Usable, failures: Failures, gather: Gather, progress: Progress
) -> Usable:
    """Let observers intervene in their usable layers; a layer that fails on one process is left out on all.

    Out of device memory, every process halves its chunk and the layers concerned are run again.

    Returns:
        The layers that are still usable, by observer's name.
    """
    intervening = [observer for observer in due if observer.intervenes]
    if not intervening:
        return usable
    todo = {observer.name: usable[observer.name] for observer in intervening}
    failed: set[Pair] = set()
    while any(todo.values()):
        starved, broken = _agreed(_attempt(intervening, todo, progress), plan, failures, gather)
        failed |= broken
        todo = _only(todo, starved.__contains__)
        if starved:
            plan.chunk_size //= 2
            failures.note(f"out of memory in a check: filter sets now take {plan.chunk_size} samples at a time")
    return _only(usable, lambda pair: pair not in failed)


def _attempt(intervening: list[Observer], todo: Usable, progress: Progress) -> dict[Pair, Exception]:
    errors: dict[Pair, Exception] = {}
    for observer in intervening:
        progress.phase(observer.name, len(todo[observer.name]))
        for place, layer in enumerate(todo[observer.name], 1):
            try:
                together(lambda o=observer, layer=layer: o.intervene(layer))  # type: ignore[misc]
            except Exception as error:
                errors[observer.name, layer.name] = error
            progress.reach(place)  # parts of a layer are told by who intervenes, if at all
    return errors


def _agreed(
    errors: dict[Pair, Exception], plan: Plan, failures: Failures, gather: Gather
) -> tuple[set[Pair], set[Pair]]:
    """Layers to run again with a smaller chunk, and layers that failed, on any process."""
    divisible = plan.chunk_size > 1
    mine = {pair: divisible and isinstance(error, torch.OutOfMemoryError) for pair, error in errors.items()}
    everyone: list[dict[Pair, bool]] = gather(mine)
    concerned = {pair for outcome in everyone for pair in outcome}
    starved = {pair for pair in concerned if any(outcome.get(pair, False) for outcome in everyone)}
    broken = concerned - starved
    for pair in sorted(broken & errors.keys()):
        failures.record(f"{pair[0]}, layer {pair[1]}", errors[pair])
    return starved, broken


def _only(layers: Usable, wanted: Callable[[Pair], bool]) -> Usable:
    return {name: [layer for layer in found if wanted((name, layer.name))] for name, found in layers.items()}
