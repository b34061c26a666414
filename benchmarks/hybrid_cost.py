"""Cost of the hybrid interpreter: ``python -m benchmarks.hybrid_cost`` writes docs/benchmarks-hybrid-cost.md.

Callbacks in units of one forward and backward over the held-out set, on top of a check that makes the shared pass for
``LayerProbe`` and ``FilterCorrelation``; interventions in forward passes per filter set.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.data import cifar10
from benchmarks.measure import interleaved, machine
from benchmarks.networks import ResNet18
from convscope import ClassFilters, FilterCorrelation, HeldOut, LayerPrediction, LayerProbe, LayerSimilarity
from convscope.callbacks.engine.failures import Failures
from convscope.callbacks.engine.findings import Findings
from convscope.callbacks.engine.planning import make_plan
from convscope.callbacks.engine.shared_pass import run_pass
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.capture import Subject
from convscope.capture.intervention import Intervention

SETS = 8
ADDED: dict[str, type[LayerObserver]] = {
    "LayerPrediction": LayerPrediction, "LayerSimilarity": LayerSimilarity, "ClassFilters": ClassFilters,
}  # fmt: skip


def check(subject: Subject, heldout: HeldOut, observers: list[LayerObserver]) -> Callable[[], None]:
    """One check without a trainer: the pass, every layer's numbers, the summaries."""
    plan = make_plan(subject, heldout, observers)

    def run() -> None:
        usable = {}
        for part, mine in plan.passes(list(observers)):
            usable |= run_pass(part, mine, Failures(raising=True), lambda value: [value])
        for observer in observers:
            findings = Findings(observer.name)
            for layer in usable[observer.name]:
                result = observer.compute(layer)
                if result is not None:
                    findings.layers[layer.name] = result
            observer.summarise(findings.values)
            observer.end()

    return run


def actions(images: int, width: int) -> dict[str, Callable[[], object]]:
    """Timed parts, by name."""
    x, y, _ = cifar10(images)
    net = ResNet18(width).eval()
    heldout = HeldOut((x, y), size=images, batch_size=128)
    heldout.prepare()
    subject = Subject(net, net, torch.device("cpu"))

    def forward() -> None:
        with torch.no_grad():
            for part in x.split(128):
                net(part)

    def both() -> None:
        for part, labels in zip(x.split(128), y.split(128), strict=True):
            F.cross_entropy(net(part), labels).backward()
        net.zero_grad()

    def base() -> list[LayerObserver]:
        return [LayerProbe(heldout=heldout), FilterCorrelation(heldout=heldout)]

    found: dict[str, Callable[[], object]] = {"forward": forward, "both": both}
    found["base"] = check(subject, heldout, base())
    found |= {name: check(subject, heldout, [*base(), kind(heldout=heldout)]) for name, kind in ADDED.items()}
    units = make_plan(subject, heldout, [LayerProbe(heldout=heldout)]).layers["probe"][:-1]
    for label, layer in (("first", units[0]), ("middle", units[len(units) // 2]), ("last", units[-1])):
        keep = torch.rand(SETS, layer.channels) > 0.1
        one = Intervention(subject, layer, torch.zeros(layer.channels))
        found[label] = lambda one=one, keep=keep: sum(1 for _ in one.run(heldout, keep, 128))  # type: ignore[misc]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    seconds = interleaved(actions(options.images, options.width), options.repeats)

    def share(name: str, unit: str, minus: str | None = None, divisor: int = 1) -> str:
        values = [
            (seconds[name][i] - (seconds[minus][i] if minus else 0.0)) / seconds[unit][i] / divisor
            for i in range(options.repeats)
        ]
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    lines = [
        "# What the hybrid interpreter costs\n",
        f"Written by `python -m benchmarks.hybrid_cost --images {options.images} --width {options.width} --repeats "
        f"{options.repeats}`: ResNet-18 of width {options.width}, {options.images} CIFAR-10-sized images. Medians of "
        f"interleaved rounds, least and greatest in brackets. Load of the machine while it ran (1 is one busy core): "
        f"{os.getloadavg()[0]:.1f}. {machine()}.\n",
        "| on top of the shared pass | forward + backward |\n|---|---|",
        *[f"| `{name}` | {share(name, 'both', 'base')} |" for name in ADDED],
        f"\n| {SETS} filter sets at | forward passes per set |\n|---|---|",
        *[
            f"| the {name} convolution | {share(name, 'forward', divisor=SETS)} |"
            for name in ("first", "middle", "last")
        ],
    ]
    (Path(__file__).parents[1] / "docs" / "benchmarks-hybrid-cost.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
