"""Probing with more classes than held-out samples per class: which classes, how many samples of each.

Layers are simulated: class centres in 128 features, noise of a falling spectrum around them, and a signal that grows
over four layers, so that it is known which of two layers knows more. A design is judged by how surely it tells two
neighbouring layers apart (mean difference over draws divided by its standard deviation), and by its time.

    python -m benchmarks.many_classes [classes ...]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from convscope.metrics import CentroidProbe, RidgeProbe
from convscope.metrics.probe import FeatureProbe

WIDTH, LAYERS = 128, 4
SIGNALS = torch.linspace(0.25, 0.31, LAYERS)
PROBES: dict[str, Callable[[], FeatureProbe]] = {
    "ridge": lambda: RidgeProbe(n_controls=1),
    "nearest mean": lambda: CentroidProbe(n_controls=1),
}


@dataclass(frozen=True)
class Design:
    """So many classes, drawn at random, with so many samples of each."""

    classes: int
    each: int

    @property
    def samples(self) -> int:
        return self.classes * self.each


def designs(classes: int, budget: int = 1024) -> Iterator[Design]:
    """Ways to spend one budget of samples, then larger sets with every class."""
    for each in (2, 4, 8, 16, 64):
        if each * 2 <= budget and budget // each <= classes:
            yield Design(budget // each, each)
    if budget // classes > 1:
        yield Design(classes, budget // classes)
    for each in (2, 4):
        if budget < each * classes <= 4096:
            yield Design(classes, each)


def draw(classes: int, design: Design, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of every layer ``(L, N, C)`` on the same samples, and their classes."""
    fixed, free = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed + 1)
    groups = torch.randn(max(2, classes // 20), WIDTH, generator=fixed)  # kinds of things: their classes are alike
    centres = torch.randn(classes, WIDTH, generator=fixed) + 1.5 * groups[torch.arange(classes) % len(groups)]
    spectrum = torch.linspace(1, WIDTH, WIDTH).pow(-0.5) * 3
    target = torch.randperm(classes, generator=free)[: design.classes].repeat_interleave(design.each)
    noise = torch.randn(len(target), WIDTH, generator=free) * spectrum
    return SIGNALS[:, None, None] * centres[target] * spectrum + noise, target


def judge(classes: int, design: Design, probe: str, draws: int) -> None:
    """Print one row of the table."""
    found, began = [], time.perf_counter()
    for seed in range(draws):
        layers, target = draw(classes, design, seed)
        row = []
        for features in layers:
            metric = PROBES[probe]()
            metric.update(features, target)
            row.append(float(metric.compute().accuracy))
        found.append(row)
    seconds = (time.perf_counter() - began) / draws / LAYERS
    accuracy = np.array(found)
    steps = np.diff(accuracy, axis=1)
    surely = (steps.mean(0) / steps.std(0, ddof=1)).mean()
    right = (steps > 0).mean()
    print(
        f"| {classes:,} | {design.classes:,} × {design.each} | {design.samples:,} | {probe} | "
        f"{accuracy[:, 0].mean():.3f} … {accuracy[:, -1].mean():.3f} | {1 / design.classes:.4f} | {surely:.1f} | "
        f"{right:.0%} | {seconds:.2f} |",
        flush=True,
    )


def main(classes: list[int]) -> None:
    """Print the table of every number of classes."""
    print("| classes | read | samples | probe | accuracy, first … last layer | chance | step, σ | order right | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for number in classes:
        for design in designs(number):
            for probe in PROBES:
                judge(number, design, probe, draws=12 if design.samples <= 1024 else 4)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main([int(each) for each in sys.argv[1:]] or [100, 1000, 10000])
