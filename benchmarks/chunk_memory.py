"""Largest chunk of a check and of a training step in 10 GB: ``python -m benchmarks.chunk_memory``.

Each peak is measured in a process of its own, on the CPU, with a chunk of 4 and one of 12, and the line through both is
drawn out to 10 GB. A GPU's own workspaces are not in it, so the numbers compare a check with a training step; they do
not promise a chunk.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F

import convscope
from benchmarks.measure import machine
from benchmarks.memory import resident, trim, watched
from benchmarks.overhead import check
from benchmarks.scale_cases import PHOTOGRAPHS, Case
from convscope.capture import HeldOut

CHUNKS, ROOM = (4, 12), 10_000.0


def peak_of(action: Callable[[], object]) -> float:
    """The most MiB that this process takes within an action, above what it had before."""
    gc.collect()
    trim()
    before = resident()
    with watched() as peak:
        action()
    return peak.most - before


def measure(case: Case, chunk: int) -> tuple[float, float]:
    """Peaks of a training step of one chunk, and of a check of the standard suite of two chunks."""
    images = torch.randn(2 * chunk, *case.shape)
    shape = (len(images), *case.shape[1:]) if case.dense else (len(images),)
    labels = torch.arange(len(images)) % 4 if not case.dense else torch.randint(case.classes, shape)
    network = case.network()

    def step() -> None:
        network.train()
        F.cross_entropy(network(images[:chunk]), labels[:chunk]).backward()

    step()  # gradients stay, as in training
    heldout = HeldOut((images, labels), size=len(images), batch_size=chunk, classes=case.classes)
    heldout.prepare()
    act = check(network, heldout, convscope.suite("standard"))
    act()  # drift and health keep what they compare with
    return peak_of(step), peak_of(act)


def row(name: str) -> str:
    """One line of the table."""
    peaks = [[float(part) for part in _in_a_process(name, chunk).split()] for chunk in CHUNKS]
    cells = []
    for small, large in zip(*peaks, strict=True):
        per_image = (large - small) / (CHUNKS[1] - CHUNKS[0])
        fixed = small - per_image * CHUNKS[0]
        cells += [f"{fixed:.0f} + {per_image:.0f} per image", f"{(ROOM - fixed) / per_image:.0f}"]
    return f"| {PHOTOGRAPHS[name].title} | {' | '.join(cells)} |"


def _in_a_process(name: str, chunk: int) -> str:
    command = [sys.executable, "-m", "benchmarks.chunk_memory", "--of", name, "--chunk", str(chunk)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]


def main() -> None:
    """Print the table, or be one of the processes that measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", choices=PHOTOGRAPHS, help=argparse.SUPPRESS)
    parser.add_argument("--chunk", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.of:
        print(*measure(PHOTOGRAPHS[options.of], options.chunk))
        return
    print(f"Machine: {machine()}\n")
    print("| network | training step, MiB | images in 10 GB | check, MiB | images in 10 GB |\n|---|---|---|---|---|")
    for name in PHOTOGRAPHS:
        print(row(name), flush=True)


if __name__ == "__main__":
    main()
