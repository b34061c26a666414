"""Scale of convscope: deep networks, wide layers, many classes, large held-out sets, and a thousand checks.

``python -m benchmarks.scale [CASE ...]``; every case runs in a process of its own, so that memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
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

MIB = 2**20


@dataclass(frozen=True)
class Case:
    """One row: a network, a held-out set, how many checks, and which callbacks."""

    title: str
    network: Callable[[], nn.Module]
    classes: int
    heldout: int
    side: int
    checks: int
    arguments: dict[str, Any]
    suite: str = "standard"


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions with a skip, as in ResNet-50 and deeper."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        same = stride == 1 and channels == 4 * width
        self.downsample = None if same else nn.Conv2d(channels, 4 * width, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output ``(N, 4 · width, …)``."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + (x if self.downsample is None else self.downsample(x)))


def resnet(blocks: tuple[int, ...], classes: int) -> nn.Module:
    """ResNet with bottlenecks: ``(3, 8, 36, 3)`` is the 152-layer one, whose last layers have 2,048 channels."""
    parts: list[nn.Module] = [nn.Conv2d(3, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    channels = 64
    for stage, count in enumerate(blocks):
        for place in range(count):
            width = 64 * 2**stage
            parts.append(Bottleneck(channels, width, 2 if stage and place == 0 else 1))
            channels = 4 * width
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def wide(classes: int) -> nn.Module:
    """Three layers, two of them with 2,048 channels."""
    layers: list[nn.Module] = [nn.Conv2d(3, 128, 3, 2, 1), nn.ReLU(), nn.Conv2d(128, 2048, 3, 2, 1), nn.ReLU()]
    layers += [nn.Conv2d(2048, 2048, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, classes)]
    return nn.Sequential(*layers)


def tiny(classes: int) -> nn.Module:
    """Three layers of 8 to 16 channels."""
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()]
    layers += [nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes)]
    return nn.Sequential(*layers)


CASES: dict[str, Case] = {
    "depth": Case("152 layers, 1,000 classes", lambda: resnet((3, 8, 36, 3), 1000), 1000, 2000, 16, 2, {}),
    "depth_all": Case(
        "the same, every layer", lambda: resnet((3, 8, 36, 3), 1000), 1000, 2000, 16, 2, {"max_layers": None}
    ),
    "heldout": Case("held-out set of 10,000", lambda: tiny(10), 10, 10_000, 16, 5, {}),
    "width": Case("2,048 channels, 10,000 held out", lambda: wide(10), 10, 10_000, 16, 3, {}),
    "checks": Case("1,000 checks", lambda: tiny(3), 3, 64, 8, 1000, {}),
    "checks_plain": Case("1,000 checks, no pictures", lambda: tiny(3), 3, 64, 8, 1000, {"pictures": False}),
}


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
    """Seconds, memory and written bytes after every check."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.memory: list[float] = []
        self.written: list[float] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note where things stand."""
        self.seconds.append(float(trainer.callback_metrics["zz_convscope/seconds"]))
        self.memory.append(resident())
        files = Path(str(trainer.log_dir)).glob("events.*")
        self.written.append(sum(file.stat().st_size for file in files) / 1024)


def resident() -> float:
    """MiB of this process in memory; Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


class Peak(threading.Thread):
    """The most memory that the process had, looked at fifty times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.going = 0.0, True

    def run(self) -> None:
        """Look until told to stop."""
        while self.going:
            self.most = max(self.most, resident())
            time.sleep(0.02)


def measure(case: Case) -> dict[str, Any]:
    """Run one case in this process."""
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    labels = torch.arange(case.heldout) % case.classes
    images = torch.randn(case.heldout, 3, case.side, case.side)
    net = case.network()
    bare = seconds_of_a_forward(net, images)
    heldout = convscope.HeldOut((images, labels), size=case.heldout)
    callbacks = convscope.suite(case.suite, heldout=heldout, on_error="raise", **case.arguments)
    meter, peak, before = Meter(), Peak(), resident()
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=case.checks, accelerator="cpu", callbacks=[*callbacks, meter], enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, logger=TensorBoardLogger(folder, name="run"),
        )  # fmt: skip
        peak.start()
        trainer.fit(Module(net), DataLoader(TensorDataset(images[:8], labels[:8]), 8))
        peak.going = False
        trainer.save_checkpoint(f"{folder}/a.ckpt")
        saved = os.path.getsize(f"{folder}/a.ckpt")
        trainer.save_checkpoint(f"{folder}/b.ckpt", weights_only=True)
        state = saved - os.path.getsize(f"{folder}/b.ckpt")
    layers = len(callbacks[0].history.rows[-1]["accuracy"])
    return {"layers": layers, **summary(case, meter, bare, peak.most - before, state)}


def seconds_of_a_forward(net: nn.Module, images: torch.Tensor) -> float:
    """One pass over the held-out set without gradients or convscope."""
    net.eval()
    with torch.no_grad():
        net(images[:128])
        began = time.perf_counter()
        for chunk in images.split(128):
            net(chunk)
    net.train()
    return time.perf_counter() - began


def summary(case: Case, meter: Meter, bare: float, peak: float, state: int) -> dict[str, Any]:
    """Numbers of a row: the first checks, when caches fill, are left out of growth."""
    tail = max(1, case.checks // 10)
    settled = case.checks // 20
    grown = meter.memory[-1] - meter.memory[settled]
    return {
        "seconds": statistics.median(meter.seconds[:tail] if case.checks > 10 else meter.seconds),
        "seconds_at_end": statistics.median(meter.seconds[-tail:]),
        "forwards": statistics.median(meter.seconds) / bare,
        "peak": peak,
        "growth": 1024 * grown / max(1, case.checks - 1 - settled),
        "written": (meter.written[-1] - meter.written[0]) / max(1, case.checks - 1),
        "state": state / MIB,
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    head = "| case | layers | held out | checks | seconds per check, first and last | in forwards | peak memory, MiB | "
    head += "memory, KiB per check | event file, KiB per check | state in a checkpoint, MiB |"
    lines = [head, "|---" * 10 + "|"]
    for name, row in rows.items():
        case = CASES[name]
        growth = f"{row['growth']:.1f}" if case.checks >= 100 else "–"  # in few checks caches are still filling
        lines.append(
            f"| {case.title} | {row['layers']} | {case.heldout:,} | {case.checks:,} | {row['seconds']:.3g}, "
            f"{row['seconds_at_end']:.3g} | {row['forwards']:.1f} | {row['peak']:.0f} | {growth} | "
            f"{row['written']:.0f} | {row['state']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the named cases, or all; with ``--inside`` one case in this process, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help=", ".join(CASES))
    parser.add_argument("--inside", action="store_true")
    chosen = parser.parse_args()
    if chosen.inside:
        print(json.dumps(measure(CASES[chosen.cases[0]])))
        return
    rows = {}
    for name in chosen.cases or CASES:
        command = [sys.executable, "-m", "benchmarks.scale", "--inside", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows[name] = json.loads(done.stdout.strip().splitlines()[-1])
        print(name, rows[name], file=sys.stderr)
    print(f"{machine()}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
