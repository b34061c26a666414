"""Growth with the number of processes: exchanges, bytes sent and processor time of a check.

``python -m benchmarks.ranks`` trains a tiny network with DDP and gloo on 1, 2, 4 and 8 processes of this machine, with
the standard suite and without, and prints the table of docs/benchmarks-scale.md. Counts do not depend on the machine;
seconds are those of the processor in process 0, so that more processes than cores hardly lengthen them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import distributed
from torch.utils.data import DataLoader, TensorDataset

import convscope
from benchmarks.measure import machine
from benchmarks.scale import Module
from benchmarks.scale_networks import tiny
from convscope.recipes._program import leave_the_processes

SAMPLES, CHECKS = 512, 4
HEAD = "| processes | samples of each | exchanges per check | KiB sent per process and check | processor s per check |"


class Traffic:
    """Counts what this process sends: every exchange of torch.distributed, and its bytes."""

    names = ("all_gather", "all_reduce", "broadcast", "barrier")

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.sent = 0
        for name in self.names:
            whole = getattr(distributed.distributed_c10d, name)
            for module in (distributed, distributed.distributed_c10d):  # objects go through the second
                setattr(module, name, self._counted(name, whole))

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            own = args[1] if name == "all_gather" else args[0] if args else None
            self.sent += own.nbytes if isinstance(own, torch.Tensor) else 0
            return call(*args, **kwargs)

        return counted


class Edge(L.Callback):
    """Stands before or after the suite among the callbacks, and reads the counters there."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self.readings: list[tuple[int, int, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Checks are made in this hook, where there is no validation."""
        self.readings.append((self._traffic.calls.total(), self._traffic.sent, time.process_time()))


def train(processes: int, suite: bool, folder: str) -> None:
    """Train on some processes; the main one prints exchanges, bytes and seconds of its last checks, as JSON."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    traffic = Traffic()
    before, after = Edge(traffic), Edge(traffic)
    images, labels = torch.randn(SAMPLES, 3, 16, 16), torch.arange(SAMPLES) % 10
    callbacks = convscope.suite("standard", heldout=(images, labels), on_start=False) if suite else []
    trainer = L.Trainer(
        max_epochs=CHECKS, accelerator="cpu", devices=processes, enable_progress_bar=False, enable_model_summary=False,
        strategy="ddp" if processes > 1 else "auto", enable_checkpointing=False, limit_train_batches=1,
        logger=TensorBoardLogger(folder), callbacks=[before, *callbacks, after],
    )  # fmt: skip
    trainer.fit(Module(tiny(10, 16)), DataLoader(TensorDataset(images, labels), 16))
    if trainer.is_global_zero:
        pairs = list(zip(before.readings, after.readings, strict=True))[2:]  # the first two make ready
        print(json.dumps([statistics.median(b[i] - a[i] for a, b in pairs) for i in range(3)]), flush=True)
    leave_the_processes()


def measured(processes: int, suite: bool) -> list[float]:
    """What one training, in programs of its own, printed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.ranks", "--processes", str(processes), "--folder", folder]
        command += [] if suite else ["--without"]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[float] = json.loads(next(line for line in run.stdout.splitlines() if line.startswith("[")))
    return found


def main() -> None:
    """Measure each number of processes, or be one of the programs that does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=8, help="most processes (default 8)")
    parser.add_argument("--processes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--without", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.processes:
        train(options.processes, not options.without, options.folder)
        return
    print(f"Machine: {machine()}\n\n{HEAD}\n{'|---' * 5}|")
    for processes in (n for n in (1, 2, 4, 8) if n <= options.most):
        exchanges, sent, seconds = (
            a - b for a, b in zip(measured(processes, True), measured(processes, False), strict=True)
        )
        row = f"{processes} | {SAMPLES // processes} | {exchanges:.0f} | {sent / 1024:.0f} | {seconds:.2f}"
        print(f"| {row} |", flush=True)


if __name__ == "__main__":
    main()
