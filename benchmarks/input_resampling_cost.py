"""Cost of input resampling: ``python -m benchmarks.input_resampling_cost`` prints the numbers of its docs page.

A whole check (the pass, every layer's scores, chance levels) in units of bare forwards of the same copies in chunks of
the same size: on other images, pooling takes another time. And the largest memory of a process that makes checks with
more and more copies.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.data import cifar10
from benchmarks.hybrid_cost import check
from benchmarks.measure import machine
from benchmarks.networks import ResNet18
from convscope import HeldOut, InputResampling
from convscope.capture import Subject
from convscope.recipes.input_resampling import TwoClassCNN

NETWORKS = {
    "plain CNN, 6 convolutions, width 16": (lambda: TwoClassCNN(width=16), 2),
    "ResNet-18, width 32": (lambda: ResNet18(32), 10),
}


def measured(net: nn.Module, classes: int, images: int, copies: int, repeats: int) -> dict[str, float]:
    """Ratio of a check to bare forwards, with autograd off in both."""
    x, y, _ = cifar10(64)
    heldout = HeldOut((x, y % classes), size=64, batch_size=copies)
    heldout.prepare()
    observer = InputResampling(heldout=heldout, images=images, perturbations=copies, target="predicted")
    run = check(Subject(net.eval(), net, torch.device("cpu")), heldout, [observer])
    chunks = [chunk.inputs for chunk in observer._samples.chunks(copies)]

    def forwards() -> None:
        with torch.no_grad():
            for chunk in chunks:
                net(chunk)

    forwards()
    pairs = [(_processor_seconds(run), _processor_seconds(forwards)) for _ in range(repeats)]
    return {"ratio": statistics.median(a / b for a, b in pairs), "forwards": min(b for _, b in pairs)}


def _processor_seconds(action: Callable[[], None]) -> float:
    """Processor time of this process: on a shared machine wall-clock time measures other work too."""
    began = time.process_time()
    action()
    return time.process_time() - began


def peak(copies: int) -> int:
    """Largest memory of this process after a check, in MiB."""
    net = ResNet18(32)
    x, y, _ = cifar10(64)
    heldout = HeldOut((x, y), size=64, batch_size=25)
    heldout.prepare()
    observer = InputResampling(heldout=heldout, images=2, perturbations=copies, max_forwards=10**6, target="predicted")
    check(Subject(net.eval(), net, torch.device("cpu")), heldout, [observer])()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    if options.peak is not None:
        print(peak(options.peak))
        return
    print(machine())
    for name, (make, classes) in NETWORKS.items():
        found = measured(make(), classes, 16, 50, options.repeats)
        print(
            f"{name}: {found['ratio']:.2f} x 800 bare forwards ({found['forwards']:.2f} s of processor time)",
            flush=True,
        )
    for copies in (25, 100, 400):
        command = [sys.executable, "-m", "benchmarks.input_resampling_cost", "--peak", str(copies)]
        print(f"{copies} copies: {subprocess.check_output(command, text=True).strip()} MiB at most", flush=True)


if __name__ == "__main__":
    main()
