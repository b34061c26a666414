"""The explainer on small CNNs: trained, on labels without meaning, and untrained; and over training.

Run ``python -m benchmarks.explainers RESULTS`` from the repository (about 25 minutes on one core). Each run is a line
of RESULTS (JSON lines); what is there already is not run again, so that it can be ended and begun again. Prints
Markdown tables; docs/metrics/explainer.md holds what one run printed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import convscope
from benchmarks.measure import machine
from benchmarks.networks import ResNet18
from convscope.recipes.explainer import COLUMNS, random_labels
from convscope.recipes.part_filters import CLASSES, PartsCNN, planted_parts

IMAGES, EPOCHS, EVERY = 3000, 12, 4
BUDGET = {"seconds": 600.0}  # the default steps, so that a slow machine gives the same numbers
CONDITIONS = ("trained", "random labels", "untrained")


class SmallResNet(PartsCNN):
    """The benchmark's ResNet-18, eight filters wide."""

    def __init__(self) -> None:
        super().__init__(False)
        self.early = self.parts = self.head = nn.Identity()  # type: ignore[assignment]
        self.net = ResNet18(width=8, classes=len(CLASSES))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``(N, 4)`` of images ``(N, 1, 32, 32)``."""
        logits: torch.Tensor = self.net(images.expand(-1, 3, -1, -1))
        return logits


ARCHITECTURES: dict[str, tuple[Callable[[], L.LightningModule], str]] = {
    "plain": (lambda: PartsCNN(False), "early.2.0"),
    "ResNet": (SmallResNet, "net.layer2.0.conv1"),
}
"""Makers, and the layer that is explained."""


def run(architecture: str, condition: str, seed: int) -> list[dict[str, Any]]:
    """One fit; what the explainer found at each of its checks."""
    L.seed_everything(seed, verbose=False)
    make, layer = ARCHITECTURES[architecture]
    train, val = planted_parts(IMAGES, 0), planted_parts(512, 1)
    if condition == "random labels":
        train, val = random_labels(train), random_labels(val, 1)
    untrained = condition == "untrained"
    when = {"on_start": True, "every_n_epochs": 0} if untrained else {"every_n_epochs": EVERY}
    given: dict[str, Any] = {"layers": layer, "landmarks": 2, "on_error": "raise", **when, **BUDGET}
    explainer = convscope.Explainer(**given)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=1 if untrained else EPOCHS,
            limit_train_batches=1 if untrained else None,
            accelerator="cpu",
            callbacks=[explainer, checks := Checks(layer)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(make(), _loader(train, True), _loader(val, False))
    return checks.found


def _loader(data: TensorDataset, shuffle: bool) -> DataLoader:
    return DataLoader(data, 64, shuffle=shuffle)


class Checks(L.Callback):
    """Values that the explainer logs at each check, with the seconds that the check took."""

    def __init__(self, layer: str) -> None:
        self.layer, self.found = layer, []  # type: ignore[var-annotated]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        explainer = next(each for each in trainer.callbacks if isinstance(each, convscope.Explainer))  # type: ignore
        if len(explainer.history.epochs) == len(self.found):
            return
        metrics = trainer.callback_metrics
        row = {name: float(metrics[f"explainer/{name}/{self.layer}"]) for name in (*COLUMNS, "steps")}
        row |= {"epoch": explainer.history.epochs[-1], "accuracy": float(metrics["val_acc"])}
        self.found.append(row | {"seconds": float(metrics["zz_convscope/seconds"])})


def missing(results: Path, seeds: int) -> list[tuple[str, str, int]]:
    """Runs that are not yet in the file."""
    done = [(row["architecture"], row["condition"], row["seed"]) for row in _rows(results)]
    wanted = list(product(ARCHITECTURES, CONDITIONS, range(seeds)))
    return [one for one in wanted if one not in done]


def _rows(results: Path) -> list[dict[str, Any]]:
    lines = results.read_text().splitlines() if results.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]  # the last may be half a line


def report(results: Path) -> None:
    """Print one table: a row for each run and check."""
    columns = ("accuracy", *COLUMNS, "seconds")
    print(f"\n| network | labels | seed | epochs | {' | '.join(columns)} |\n|---|---|---|---|{'---|' * len(columns)}")
    for row in _rows(results):
        for check in row["checks"]:
            numbers = " | ".join(f"{check[name]:.3f}" for name in columns)
            told = f"| {row['architecture']} | {row['condition']} | {row['seed']} | {check['epoch']} | {numbers} |"
            print(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="file of JSON lines that runs are added to")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each kind (default 1)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"Machine: {machine()}")
    for architecture, condition, seed in missing(options.results, options.seeds):
        began = time.perf_counter()
        row = {"architecture": architecture, "condition": condition, "seed": seed}
        row["checks"] = run(architecture, condition, seed)
        with options.results.open("a") as file:
            file.write("\n" + json.dumps(row) + "\n")  # after half a line, if the last run was ended within it
        print(f"{architecture}, {condition}, seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
    report(options.results)


if __name__ == "__main__":
    main()
