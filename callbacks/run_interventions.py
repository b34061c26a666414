"""The further passes of observers that intervene, in step on every process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convscope.callbacks.failures import Failures
from convscope.capture.heldout import Gather
from convscope.capture.trace import Layer

if TYPE_CHECKING:
    from convscope.callbacks.base import LayerObserver


def run_interventions(
    due: list[LayerObserver], usable: dict[str, list[Layer]], failures: Failures, gather: Gather
) -> dict[str, list[Layer]]:
    """Let observers intervene in their usable layers; a layer that fails on one process is left out on all.

    Returns:
        What is still usable, by observer's name.
    """
    intervening = [observer for observer in due if observer.intervenes]
    if not intervening:
        return usable
    failed: set[tuple[str, str]] = set()
    for observer in intervening:
        for layer in usable[observer.name]:
            try:
                observer.intervene(layer)
            except Exception as error:
                failures.record(f"{observer.name}, layer {layer.name}", error)
                failed.add((observer.name, layer.name))
    everywhere: set[tuple[str, str]] = set().union(*gather(failed))
    return {
        name: [layer for layer in layers if (name, layer.name) not in everywhere] for name, layers in usable.items()
    }
