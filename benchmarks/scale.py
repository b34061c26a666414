"""Scale of convscope: images of ImageNet's size, and growth with layers, channels, held-out samples and classes.

``python -m benchmarks.scale [CASE or SERIES ...]`` measures what the file of records does not have yet, each case in a
process of its own, so that memory is its own; ``--report`` writes the tables into docs/benchmarks-scale.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import convscope
from benchmarks.measure import machine
from benchmarks.memory import MIB, Peak, resident, trim, watched
from benchmarks.records import read_records
from benchmarks.scale_cases import CASES, Case
from benchmarks.scale_report import PAGE, written


class Module(L.LightningModule):
    """One training step an epoch: what is timed is the checks."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Cross-entropy."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Meter(L.Callback):
    """After every check: its seconds, those of a bare forward and of a training step of one chunk, memory, bytes."""

    def __init__(self, case: Case, images: torch.Tensor, labels: torch.Tensor, peak: Peak) -> None:
        self._case, self._images, self._labels, self._peak = case, images, labels, peak
        self.seconds: list[float] = []
        self.forward: list[float] = []
        self.step: list[float] = []
        self.memory: list[float] = []
        self.peaks: list[float] = []
        self.written: list[float] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note where things stand. The bare pass comes at once, since the machine's speed drifts."""
        self.seconds.append(float(trainer.callback_metrics["zz_convscope/seconds"]))
        self.peaks.append(self._peak.most)
        self.memory.append(resident())
        files = Path(str(trainer.log_dir)).glob("events.*")
        self.written.append(sum(file.stat().st_size for file in files) / 1024)
        if self._case.checks <= 20:
            net = pl_module.net
            self.forward.append(forward_seconds(net, self._images, self._case.chunk))
            self.step.append(step_seconds(net, self._images[: self._case.chunk], self._labels[: self._case.chunk]))
        trim()
        self._peak.most = 0.0


def measure(case: Case) -> dict[str, Any]:
    """Run one case in this process."""
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    images, labels = torch.randn(case.heldout, *case.shape), labels_of(case)
    net = case.network()
    forward_seconds(net, images[: case.chunk], case.chunk)  # libraries allocate what they keep
    before = resident()
    with watched() as peak:
        step_seconds(net, images[: case.chunk], labels[: case.chunk])
    step = peak.most - before
    trim()
    heldout = convscope.HeldOut((images, labels), size=case.heldout, batch_size=case.chunk, classes=case.classes)
    arguments = {"heldout": heldout, "on_error": "raise", "on_start": False, **case.arguments}
    probe = case.suite == "probe"
    callbacks = [convscope.LayerProbe(**arguments)] if probe else convscope.suite(case.suite, **arguments)
    with tempfile.TemporaryDirectory() as folder, watched() as peak:
        meter = Meter(case, images, labels, peak)
        trainer = L.Trainer(
            max_epochs=case.checks, accelerator="cpu", callbacks=[*callbacks, meter], enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, logger=TensorBoardLogger(folder, name="run"),
        )  # fmt: skip
        trainer.fit(Module(net), DataLoader(TensorDataset(images[:2], labels[:2]), 2))
        trainer.save_checkpoint(f"{folder}/a.ckpt")
        saved = os.path.getsize(f"{folder}/a.ckpt")
        trainer.save_checkpoint(f"{folder}/b.ckpt", weights_only=True)
        state = saved - os.path.getsize(f"{folder}/b.ckpt")
    layers = sum(tag.startswith("probe/accuracy/") for tag in trainer.callback_metrics) or len(
        [tag for tag in trainer.callback_metrics if tag.startswith("probe/miou/")]
    )
    return {"layers": layers, "step peak": step, **summary(case, meter, before, state)}


def labels_of(case: Case) -> torch.Tensor:
    """Labels that occur equally often, over the whole range of classes."""
    shown = case.shown or case.classes
    if case.dense:
        return torch.randint(0, shown, (case.heldout, *case.shape[1:]))
    return torch.arange(case.heldout) % shown * (case.classes // shown)


def forward_seconds(net: nn.Module, images: torch.Tensor, chunk: int) -> float:
    """A bare forward of all images, without gradients or convscope."""
    net.eval()
    with torch.inference_mode(False), torch.no_grad():
        began = time.perf_counter()
        for part in images.split(chunk):
            net(part)
    took = time.perf_counter() - began
    net.train()
    return took


def step_seconds(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """A bare training forward and backward of one chunk."""
    with torch.inference_mode(False), torch.enable_grad():
        began = time.perf_counter()
        F.cross_entropy(net(images), labels).backward()
    took = time.perf_counter() - began
    net.zero_grad(set_to_none=True)
    return took


def summary(case: Case, meter: Meter, before: float, state: int) -> dict[str, Any]:
    """Numbers of a row: the first checks, when caches fill, are left out of growth."""
    later = slice(0 if case.checks < 2 else 1, None)
    tail = max(1, case.checks // 10)
    settled = case.checks // 20
    found = {
        "seconds": statistics.median(meter.seconds[later] if case.checks <= 20 else meter.seconds[:tail]),
        "seconds at end": statistics.median(meter.seconds[-tail:]),
        "peak": max(meter.peaks) - before,
        "growth": 1024 * (meter.memory[-1] - meter.memory[settled]) / max(1, case.checks - 1 - settled),
        "written": (meter.written[-1] - meter.written[0]) / max(1, case.checks - 1),
        "state": state / MIB,
    }
    if meter.forward:
        chunks = case.heldout / case.chunk
        ratios = zip(meter.seconds[later], meter.forward[later], meter.step[later], strict=True)
        shares = [(check / forward, check / (step * chunks)) for check, forward, step in ratios]
        found["forward"] = statistics.median(meter.forward)
        found["forwards"], found["steps"] = (statistics.median(column) for column in zip(*shares, strict=True))
    return found


def main() -> None:
    """Measure the named cases, or all, or write the report; with ``--inside`` one case in this process, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"{', '.join(CASES)}, or a series")
    parser.add_argument("--records", type=Path, default=Path("scale.jsonl"), help="file of what was measured")
    parser.add_argument("--report", action="store_true", help=f"write {PAGE}")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.inside:
        print(json.dumps(measure(CASES[chosen.cases[0]])))
        return
    rows = read(chosen.records)
    if chosen.report:
        print(written(rows))
        return
    for name, case in CASES.items():
        if name not in rows and (not chosen.cases or name in chosen.cases or case.series in chosen.cases):
            command = [sys.executable, "-m", "benchmarks.scale", "--inside", name]
            began = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{name} failed: {done.stderr[-2000:]}", file=sys.stderr)
                continue
            row = {"case": name, "machine": machine(), **json.loads(done.stdout.strip().splitlines()[-1])}
            with chosen.records.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{name}: {time.perf_counter() - began:.0f} s, {row}", file=sys.stderr, flush=True)


def read(records: Path) -> dict[str, dict[str, Any]]:
    """The last row of every case."""
    return {row["case"]: row for row in read_records(records)}


if __name__ == "__main__":
    main()
