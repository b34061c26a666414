"""Time callables in turn within one process, since a machine's speed drifts; read ratios, not seconds."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import torch

_PACKAGES = ("torch", "lightning", "torchmetrics", "tensorboard", "numpy", "scipy", "scikit-learn")


def interleaved(
    actions: dict[str, Callable[[], object]],
    repeats: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each action, run A B C A B C …; the first ``warmup`` rounds are not counted.

    With ``clock=time.process_time`` these are seconds of the processor, of all threads: on a machine that others use
    too they say more than the time that passed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(warmup + repeats):
        for name, action in actions.items():
            _synchronise()
            began = clock()
            action()
            _synchronise()
            if turn >= warmup:
                seconds[name].append(clock() - began)
    return seconds


def ratio(seconds: dict[str, list[float]], a: str, b: str) -> float:
    """Median over rounds of A's time divided by B's in the same round."""
    return statistics.median(x / y for x, y in zip(seconds[a], seconds[b], strict=True))


def median(values: list[float]) -> float:
    """Median seconds."""
    return statistics.median(values)


def synchronised() -> float:
    """``time.perf_counter``, once a GPU is done with what it was given."""
    _synchronise()
    return time.perf_counter()


def machine() -> str:
    """One line: processor, threads, device, Python and package versions."""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{platform.machine()} ({torch.get_num_threads()} threads){gpu}, Python {platform.python_version()}, {packages}"
    )


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
