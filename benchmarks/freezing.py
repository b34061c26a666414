"""Does freezing what ``convscope.rules.convergence()`` names save what it says? Measured by doing it.

    python -m benchmarks.freezing --records runs/freezing.jsonl --write docs/benchmarks-freezing.md

A network of six convolutions learns scikit-learn's digits at 16 × 16 pixels, once as it is and once with layers frozen
as they are named: the weights of the convolution and of its norm ask for no gradient; the norm keeps its statistics.
At each freezing, steps with and without it are timed in turns, on two copies of the network. One JSON line per run:
an interrupted benchmark goes on where it was. Nothing is downloaded; about three CPU minutes.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import convscope
from benchmarks.fault_runs import bare_trainer
from benchmarks.fault_statistics import section
from benchmarks.measure import machine
from benchmarks.pages import write_tables
from benchmarks.records import read_records
from convscope.recipes.dying_relu import PlainCNN
from convscope.recipes.freeze_guide import Seconds

SIDE, BATCH, EPOCHS, PAIRS = 16, 64, 40, 40
SEEDS, NORMS = (0, 1, 2), ("batch", "group")


class Digits(L.LightningModule):
    """Six convolutions; Adam, with a learning rate that falls to nothing as a cosine does."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        sizes = [(1, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
        self.units = nn.ModuleList(_unit(*size, norm) for size in sizes)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for unit in self.units:
            x = unit(x)
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out

    training_step, validation_step = PlainCNN.training_step, PlainCNN.validation_step  # the recipe's

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=2e-3)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)]


def _unit(channels: int, filters: int, stride: int, norm: str) -> nn.Sequential:
    layer = nn.BatchNorm2d(filters) if norm == "batch" else nn.GroupNorm(4, filters)
    return nn.Sequential(nn.Conv2d(channels, filters, 3, stride, 1, bias=False), layer, nn.ReLU())


class Freezes(L.Callback):
    """Freezes the units whose convolutions are named, with all before them, and times what that saves.

    The rule speaks once; what converges later is read off the quantity that it reads, ``drift/freezable``.
    """

    def __init__(self, alert: convscope.DriftAlert, batches: list[list[torch.Tensor]]) -> None:
        self.alert, self.batches = alert, batches
        self.count = 0  # of frozen units
        self.events: list[dict[str, Any]] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or not self.alert.alerts:
            return
        assert isinstance(pl_module, Digits)
        named = {
            place: float(trainer.callback_metrics[tag])
            for place in range(self.count, len(pl_module.units))
            if (tag := f"drift/freezable/units.{place}.0") in trainer.callback_metrics
        }
        if named:
            count = max(named) + 1
            with torch.inference_mode(False), torch.enable_grad():
                saved = time_saved(pl_module, self.count, count, self.batches)
            self.events.append(
                {"epoch": trainer.current_epoch, "units": count, "said": named[max(named)], "saved": saved}
            )
            self.count = count
            freeze(pl_module, count)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Digits)
        freeze(pl_module, self.count)  # Lightning puts the whole module in training mode before an epoch


def freeze(module: Digits, count: int) -> None:
    """Freeze the first units: no gradient for their weights, and their norms keep their statistics."""
    for unit in list(module.units)[:count]:
        unit.requires_grad_(False).eval()
        for parameter in unit.parameters():
            parameter.grad = None


def time_saved(module: Digits, before: int, after: int, batches: list[list[torch.Tensor]], pairs: int = PAIRS) -> float:
    """Share of a step's CPU time that is saved: median over pairs of steps, on copies of the network."""
    steps = []
    for count in (before, after):
        mine = copy.deepcopy(module).train()
        freeze(mine, count)
        steps.append((mine, torch.optim.Adam(mine.parameters(), lr=1e-5)))
    shares = []
    for pair in range(pairs + 5):
        batch = batches[pair % len(batches)]
        slow, fast = (_seconds(mine, optimizer, batch) for mine, optimizer in steps)
        shares.append(1 - fast / slow)
    return statistics.median(shares[5:])  # the first ones warm up


def _seconds(module: Digits, optimizer: torch.optim.Optimizer, batch: list[torch.Tensor]) -> float:
    began = time.process_time()
    optimizer.zero_grad()
    F.cross_entropy(module(batch[0]), batch[1]).backward()
    optimizer.step()
    return time.process_time() - began


def key_of(seed: int, norm: str, freezing: bool) -> str:
    """Name of a run in the records."""
    return f"{norm}/{seed}/{'frozen' if freezing else 'as it is'}"


def run(seed: int, norm: str, freezing: bool, epochs: int = EPOCHS) -> dict[str, Any]:
    """Train once; a record of plain values."""
    L.seed_everything(seed, verbose=False)
    training, validation = data()
    alert = convscope.DriftAlert(rules=convscope.rules.convergence(), actions=[])
    drift = convscope.RepresentationDrift(heldout=convscope.HeldOut(size=256), pictures=False)
    freezes, seconds = Freezes(alert, [list(batch) for batch in training][:8]), Seconds()
    callbacks = [drift, alert, seconds, *([freezes] if freezing else [])]
    trainer = bare_trainer(callbacks, max_epochs=epochs)
    trainer.fit(Digits(norm), training, validation)
    found = trainer.callback_metrics
    return {
        "key": key_of(seed, norm, freezing),
        "seed": seed,
        "norm": norm,
        "freezing": freezing,
        "events": freezes.events,
        "message": alert.alerts[0].message if alert.alerts else "",
        "named": alert.alerts[0].epoch if alert.alerts else None,
        "val_acc": float(found["val_acc"]),
        "val_loss": float(found["val_loss"]),
        "seconds": seconds.spent,
    }


def data() -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Loaders of the digits: 1,280 to train on, 512 held out."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    x, y = F.interpolate(x, SIDE, mode="bilinear"), torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    parts = [TensorDataset(x[one], y[one]) for one in (order[512:1792], order[:512])]
    return DataLoader(parts[0], BATCH, shuffle=True, drop_last=True), DataLoader(parts[1], 256)


def tables(records: list[dict[str, Any]]) -> str:
    """What was said and saved at each freezing, and what freezing did to the whole run."""
    events = [["norm", "seed", "after epoch", "frozen units of six", "said", "step's CPU time saved"]]
    for record in records:
        for one in record["events"]:
            events.append([record["norm"], str(record["seed"]), str(one["epoch"]), str(one["units"]),
                           f"{one['said']:.0%}", f"{one['saved']:.0%}"])  # fmt: skip
    runs = [["norm", "seed", "run", "accuracy", "held-out loss", "CPU seconds in training steps"]]
    for record in records:
        runs.append([record["norm"], str(record["seed"]), "frozen" if record["freezing"] else "as it is",
                     f"{record['val_acc']:.3f}", f"{record['val_loss']:.3f}", f"{record['seconds']:.1f}"])  # fmt: skip
    return "\n\n".join([section("Each freezing", events), section("Whole runs", runs), f"{machine()}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=Path("runs/freezing.jsonl"), help="file of the JSON lines")
    parser.add_argument("--write", type=Path, metavar="FILE", help="page whose tables are replaced")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.records.parent.mkdir(parents=True, exist_ok=True)
    for norm in NORMS:
        for seed in SEEDS:
            for freezing in (False, True):
                if key_of(seed, norm, freezing) not in {record["key"] for record in read_records(options.records)}:
                    with options.records.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(run(seed, norm, freezing)) + "\n")
    text = tables(read_records(options.records))
    print(text)
    if options.write:
        write_tables(options.write, text)


if __name__ == "__main__":
    main()
