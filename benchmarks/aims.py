"""Aims for the cost of a check, and what is met: ``python -m benchmarks.aims`` prints the table of docs/benchmarks.md.

Three networks; each is measured in one process, bare training and checks in turn. ``--processor`` counts seconds of the
processor instead of those that pass, for a machine that others use too.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

import convscope
from benchmarks.data import cifar10
from benchmarks.measure import interleaved, machine, ratio, synchronised
from benchmarks.networks import ResNet18
from benchmarks.overhead import CHUNK, PARTS, bare_forward, bare_gradients, bare_training, check, device, paid
from convscope.capture import HeldOut

TRAINING, FORWARD, GRADIENTS = "training forward + backward", "forward", "gradients of activations"


@dataclass(frozen=True)
class Case:
    """A network and the side of its images."""

    title: str
    network: Callable[[], torch.nn.Module]
    side: int = 32


CASES = {
    "resnet18": Case("ResNet-18", ResNet18),
    "width24": Case("ResNet-18-like, width 24", lambda: ResNet18(24)),
    "width48": Case("width 48, 28×28, stride 2", lambda: ResNet18(48, stride=2), 28),
}


def standard() -> list:
    """The standard suite."""
    return convscope.suite("standard")


CHECKS: dict[str, Callable[[], list]] = {
    "standard suite": standard,
    "without drift and health": lambda: standard()[:3],
    "without health": lambda: standard()[:4],
    "light suite": lambda: convscope.suite("light"),
    "probe": lambda: [convscope.LayerProbe()],
}


@dataclass(frozen=True)
class Aim:
    """A bound on a ratio of seconds; ``less`` is subtracted first: what a callback adds to a pass that runs anyway.

    A bound that is NaN is none: the ratio is what no check can go below.
    """

    title: str
    bound: float
    what: str
    base: str
    less: str | None = None

    def measured(self, seconds: dict[str, list[float]]) -> float:
        """Median of the ratios of all rounds."""
        found = ratio(seconds, self.what, self.base)
        return found if self.less is None else found - ratio(seconds, self.less, self.base)


AIMS = [
    Aim("the network alone, forward and backward to its activations", math.nan, GRADIENTS, TRAINING),
    Aim("standard suite, bare", 0.7, "standard suite", TRAINING),
    Aim("light suite, bare", 1.35, "light suite", FORWARD),
    Aim("probe alone, bare", 1.15, "probe", FORWARD),
    Aim("added by drift", 0.15, "without health", FORWARD, "without drift and health"),
    Aim("added by health", 0.25, "standard suite", FORWARD, "without health"),
]


class Records:
    """Ratios that have been measured, in a file to go on from; in memory alone without one.

    Args:
        path: File of one JSON object a line.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        self._found: dict[tuple[str, str], float] = {
            (one["network"], one["what"]): one["ratio"] for one in map(json.loads, lines)
        }

    def known(self, network: str, whats: Iterable[str]) -> bool:
        """Return whether all of these were measured."""
        return all((network, what) in self._found for what in whats)

    def put(self, network: str, what: str, ratio: float) -> None:
        """Keep a ratio."""
        self._found[network, what] = ratio
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps({"network": network, "what": what, "ratio": ratio}) + "\n")

    def get(self, network: str, what: str) -> float:
        """A ratio that was measured."""
        return self._found[network, what]


PAID: dict[str, tuple[float, Callable[[], list]]] = {
    "standard suite, as paid": (1.0, standard),
    "as paid without drift and health": (0.8, lambda: [*standard()[:3], *standard()[5:]]),
}


def measure(case: Case, samples: int, rounds: int, clock: Callable[[], float], records: Records) -> None:
    """Print the rows of one network; what the records have is not measured again."""
    images, labels, _ = cifar10(samples, "train")
    crop = (32 - case.side) // 2
    images = images[..., crop : crop + case.side, crop : crop + case.side].contiguous()
    if not records.known(case.title, [aim.title for aim in AIMS]):
        for title, found in bare_ratios(case, images, labels, rounds, clock).items():
            records.put(case.title, title, found)
    for aim in AIMS:
        row(case, aim.title, aim.bound, aim.base, records.get(case.title, aim.title))
    for title, (bound, make) in PAID.items():
        if not records.known(case.title, [title]):
            bare = bare_training(case.network().to(device()), images, labels)
            with redirect_stdout(io.StringIO()):  # the tables of the runs
                found = paid(make(), case.network(), images, labels, rounds + 1, bare, clock)
            records.put(case.title, title, median(each[PARTS[-1]] / each["bare"] for each in found))
        row(case, title, bound, TRAINING, records.get(case.title, title))


def bare_ratios(
    case: Case, images: torch.Tensor, labels: torch.Tensor, rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """The ratio of every aim of bare checks, all measured in turn."""
    network = case.network().to(device())
    heldout = HeldOut((images, labels), size=len(images), batch_size=CHUNK)
    heldout.prepare()
    actions = {TRAINING: bare_training(network, images, labels), FORWARD: bare_forward(network, images)}
    actions[GRADIENTS] = bare_gradients(network, images, labels)
    actions |= {name: check(network, heldout, make()) for name, make in CHECKS.items()}
    seconds = interleaved(actions, rounds, warmup=2, clock=clock)  # drift compares with a check before
    return {aim.title: aim.measured(seconds) for aim in AIMS}


def row(case: Case, title: str, bound: float, base: str, measured: float) -> None:
    """One line of the table."""
    aim, verdict = f"{bound:g}", "met" if measured <= bound else "**missed**"
    if math.isnan(bound):
        aim, verdict = "–", "the floor"
    print(f"| {case.title} | {title} | {base} | {aim} | {measured:.2f} | {verdict} |", flush=True)


def measure_start() -> None:
    """Print the time that an import takes, in units of Lightning's own, each in processes of its own, in turn."""
    code = "import time; began = time.process_time(); {}; print(time.process_time() - began)"
    lines = {
        "lightning": "import lightning",
        "package": "import convscope",
        "callbacks": "import lightning; import convscope; convscope.suite",
    }
    seconds: dict[str, list[float]] = {name: [] for name in lines}
    for _ in range(3):
        for name, line in lines.items():
            run = subprocess.run([sys.executable, "-c", code.format(line)], capture_output=True, text=True, check=True)
            seconds[name].append(float(run.stdout))
    print("\n| import, processor seconds | ÷ `import lightning` | aim |\n|---|---|---|")
    print(f"| `import convscope` | {ratio(seconds, 'package', 'lightning'):.2f} | 1.2 |")
    print(f"| and its callbacks | {ratio(seconds, 'callbacks', 'lightning'):.2f} | 1.2 |")


def compare_aims(
    names: list[str],
    samples: int,
    rounds: int,
    clock: Callable[[], float] = synchronised,
    records: Records | None = None,
) -> None:
    """Print the table of the named networks, and that of the imports for ``start``."""
    records = records or Records()
    print(f"\n### Aims, {samples} images, chunks of {CHUNK}, {rounds} rounds\n")
    print("| network | what | ÷ | aim | measured | |\n|---|---|---|---|---|---|")
    for name in names:
        if name in CASES:
            measure(CASES[name], samples, rounds, clock, records)
    if "start" in names:
        measure_start()


def main() -> None:
    """Measure the named networks, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help=f"{', '.join(CASES)}, or start for the imports; all by default")
    parser.add_argument("--samples", type=int, default=1024, help="held-out images (default 1024)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that are counted (default 3)")
    parser.add_argument("--processor", action="store_true", help="seconds of the processor instead of those that pass")
    parser.add_argument("--records", type=Path, help="file of ratios, to go on from where a run was cut off")
    options = parser.parse_args()
    print(f"Machine: {machine()}")
    clock = time.process_time if options.processor else synchronised
    compare_aims(
        options.networks or [*CASES, "start"], options.samples, options.rounds, clock, Records(options.records)
    )


if __name__ == "__main__":
    main()
