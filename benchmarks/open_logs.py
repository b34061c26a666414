"""How long TensorBoard takes to open the logs of 1,000 checks.

``python -m benchmarks.open_logs FOLDER`` trains a tiny network for so many checks of the standard suite, unless FOLDER
has its logs already, then starts ``tensorboard`` on them, each time anew, and waits until the last step of the last
scalar is served, and the tab has all checks.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

import convscope
from benchmarks.measure import machine
from benchmarks.scale import Module
from benchmarks.scale_networks import tiny
from tests.support.tensorboards import Served, serve

SAMPLES = 64


def record(folder: Path, checks: int) -> None:
    """Write the logs of a run of so many checks."""
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    images, labels = torch.randn(SAMPLES, 3, 8, 8), torch.arange(SAMPLES) % 3
    trainer = L.Trainer(
        max_epochs=checks, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, logger=TensorBoardLogger(folder, name="", version="run"),
        callbacks=convscope.suite("standard", heldout=(images, labels), on_start=False),
    )  # fmt: skip
    trainer.fit(Module(tiny(3)), DataLoader(TensorDataset(images[:8], labels[:8]), 8))


def wait_for(server: Served, seen: Callable[[], bool], patience: float = 120.0) -> float:
    """The moment at which something is served."""
    until = time.perf_counter() + patience
    while time.perf_counter() < until:
        with contextlib.suppress(OSError):
            if seen():
                return time.perf_counter()
        time.sleep(0.05)
    raise TimeoutError(f"waited {patience:.0f} s\n{server.log}")


def answers(server: Served) -> bool:
    """Return whether the server is up."""
    return server.fetch("environment")[0] == 200


def has(server: Served, tag: str, last: int) -> bool:
    """Return whether the tag is served up to this step."""
    status, _, body = server.fetch("plugin/scalars/scalars", run="run", tag=tag)
    points = json.loads(body) if status == 200 else []
    return bool(points) and points[-1][1] >= last


def tab_has(server: Served, checks: int) -> bool:
    """Return whether the convscope tab shows all checks."""
    status, _, body = server.fetch("plugin/convscope/runs")
    return status == 200 and any(run["checks"] >= checks for run in json.loads(body)["runs"])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="logs; made where there are none")
    parser.add_argument("--checks", type=int, default=1000, help="checks of the run (default 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each kind (default 3)")
    options = parser.parse_args()
    if not (options.folder / "run").exists():
        record(options.folder, options.checks)
    files = list((options.folder / "run").glob("events.*"))
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    print(f"{machine()}\n\n{options.checks:,} checks, {megabytes:.0f} MB; seconds from the start of the command\n")
    print("| loader | it answers | last step of all scalars | all checks in the tab |\n|---|---|---|---|")
    for name, flags in {"fast": [], "Python": ["--load_fast=false"]}.items():
        rows = [start(options.folder, flags, options.checks) for _ in range(options.rounds)]
        cells = [f"{statistics.median(column):.1f}" for column in zip(*rows, strict=True)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def start(folder: Path, flags: list[str], checks: int) -> tuple[float, float, float]:
    """Seconds until the server answers, has the last step of the last scalar, and has all checks in the tab."""
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        with serve(folder, *flags, entry_points=Path(scratch)) as server:
            up = wait_for(server, lambda: answers(server))
            scalars = wait_for(server, lambda: has(server, "zz_convscope/seconds", checks - 1))
            tab = wait_for(server, lambda: tab_has(server, checks))
    return up - began, scalars - began, tab - began


if __name__ == "__main__":
    main()
