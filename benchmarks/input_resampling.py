"""Input resampling over training: ``python -m benchmarks.input_resampling`` trains, and prints the tables of its page.

Does the overlap of influential and precise filters rise while a network learns (Lengerich et al. 2017, arXiv
1707.09641), when, does it follow validation accuracy, and what do shuffled labels give? Each run is one file in
``--out``; runs whose file is there are not made again. ``--figure FILE`` draws them.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import lightning as L
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.measure import machine
from convscope import InputResampling
from convscope.callbacks.engine.findings import Findings, Moment
from convscope.recipes.input_resampling import (
    CHANNEL_MEAN,
    CHANNEL_STD,
    Data,
    TwoClassCNN,
    two_classes,
    with_random_labels,
)

Record_ = dict[str, Any]
CONDITIONS = ("labels", "shuffled labels", "with BatchNorm")
VARIANTS: dict[str, dict[str, Any]] = {
    "resampling": {},
    "relative": {"precision": "relative"},
    "pixels": {"normalisation": (CHANNEL_MEAN, CHANNEL_STD)},
    "sigma_0.1": {"perturbation": "constant_noise", "strength": 0.1},
    "sigma_0.5": {"perturbation": "constant_noise", "strength": 0.5},
}
"""The paper's settings, and one thing changed at a time."""


class _Keeps(InputResampling):
    """Every check's summary stays."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(pictures=False, on_error="raise", **arguments)
        self.rows: list[Record_] = []

    def remember(self, findings: Findings, when: Moment) -> None:
        super().remember(findings, when)
        layers = {name: findings.values.get(name, {}) for name in ("overlap", "overlap_chance", "precision_median")}
        self.rows.append({"epoch": when.epochs_trained, **findings.summary, "layers": layers})


class _Accuracy(L.Callback):
    def __init__(self) -> None:
        self.training: list[float] = []
        self.held_out: list[float] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.held_out.append(float(trainer.callback_metrics["val_acc"]))
            images, labels = trainer.train_dataloader.dataset.tensors  # type: ignore[union-attr]
            with torch.no_grad():
                said = torch.cat([pl_module(part).argmax(1) for part in images[:500].split(100)])
            self.training.append(float((said == labels[:500]).float().mean()))


def _normalised(model: TwoClassCNN) -> TwoClassCNN:
    """The same network with BatchNorm before each ReLU."""
    for block in list(model.features.modules()):
        if isinstance(block, nn.Sequential) and isinstance(block[0], nn.Conv2d):
            block.insert(1, nn.BatchNorm2d(block[0].out_channels))
    return model


def run(data: Data, condition: str, seed: int, epochs: int) -> Record_:
    """Train once; the paper's settings are checked after each epoch, the others after each fourth."""
    L.seed_everything(seed, verbose=False)
    training, held_out = data
    if condition == "shuffled labels":
        training = with_random_labels(training, seed)
    every = {name: 1 if name == "resampling" else 4 for name in VARIANTS}
    watched = {name: _Keeps(name=name, every_n_epochs=every[name], **own) for name, own in VARIANTS.items()}
    accuracy = _Accuracy()
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            callbacks=[*watched.values(), accuracy],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        model = TwoClassCNN(len(training[0][0]))
        model = _normalised(model) if condition == "with BatchNorm" else model
        trainer.fit(model, DataLoader(training, 64, shuffle=True), DataLoader(held_out, 200))
    return {
        "condition": condition,
        "seed": seed,
        "accuracy": accuracy.held_out,
        "training_accuracy": accuracy.training,
        **{name: one.rows for name, one in watched.items()},
    }


def tables(records: list[Record_]) -> str:
    """Markdown: a row for each condition, seed and variant."""
    lines = [
        "| run | seed | accuracy, training and held out | overlap before | after epoch 5 | last ten | chance | "
        "Jaccard, last ten | Spearman with accuracy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        rows = record["resampling"]
        overlap = [row["overlap"] for row in rows]
        rank = spearmanr(overlap[1:], record["accuracy"]).statistic
        cells = [f"{record['training_accuracy'][-1]:.2f}, {record['accuracy'][-1]:.2f}", f"{overlap[0]:.3f}"]
        cells += [
            f"{overlap[5]:.3f}",
            *(f"{_last(rows, name):.3f}" for name in ("overlap", "overlap_chance", "jaccard")),
        ]
        lines.append(f"| {record['condition']} | {record['seed']} | {' | '.join(cells)} | {rank:.2f} |")
    lines += [
        "",
        "| run | setting | overlap before | at the end | chance before | at the end |",
        "|---|---|---|---|---|---|",
    ]
    for condition in dict.fromkeys(record["condition"] for record in records):
        mine = [record for record in records if record["condition"] == condition]
        for name in VARIANTS:
            cells = [
                _over_seeds(mine, lambda r, n=name, q=quantity, p=place: r[n][p][q])  # type: ignore[misc]
                for quantity in ("overlap", "overlap_chance")
                for place in (0, -1)
            ]
            lines.append(f"| {condition} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _last(rows: list[Record_], name: str) -> float:
    return statistics.mean(row[name] for row in rows[-10:])


def _over_seeds(records: list[Record_], value: Callable[[Record_], float]) -> str:
    found = [value(record) for record in records]
    return f"{statistics.mean(found):.3f} ({min(found):.3f} to {max(found):.3f})"


def draw(records: list[Record_], path: Path) -> None:
    """One panel for each condition: overlap of every seed, its chance level, and accuracy on the right axis."""
    from matplotlib.figure import Figure

    conditions = list(dict.fromkeys(record["condition"] for record in records))
    figure = Figure(figsize=(4 * len(conditions), 3), layout="constrained")
    for place, condition in enumerate(conditions, 1):
        axes = figure.add_subplot(1, len(conditions), place)
        right = axes.twinx()
        for record in (record for record in records if record["condition"] == condition):
            epochs = [row["epoch"] for row in record["resampling"]]
            axes.plot(epochs, [row["overlap"] for row in record["resampling"]], color="C0")
            axes.plot(epochs, [row["overlap_chance"] for row in record["resampling"]], color="grey", linestyle="--")
            right.plot(epochs[1:], record["accuracy"], color="C1", linewidth=0.7)
        axes.set(title=condition, xlabel="epochs trained", ylim=(0, 0.5), ylabel="overlap (dashed: chance)")
        right.set(ylim=(0, 1), ylabel="held-out accuracy (orange)")
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CONVSCOPE_DATA", "../shared/data")))
    parser.add_argument("--classes", default="airplane,bird", help="two class names")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/input_resampling"), help="folder of finished runs")
    parser.add_argument("--only-report", action="store_true", help="make no runs; report those that are there")
    parser.add_argument("--figure", type=Path, default=None, help="draw the runs there")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    data, what = two_classes(options.data, options.classes.split(","))
    options.out.mkdir(parents=True, exist_ok=True)
    records = []
    # What the question is about first, for all seeds: a run that is stopped has the rest missing.
    jobs = [*product(range(options.seeds), CONDITIONS[:2]), *product(range(options.seeds), CONDITIONS[2:])]
    for seed, condition in jobs:
        path = options.out / f"{condition.replace(' ', '_')}-{seed}-{options.epochs}.json"
        if not path.exists() and not options.only_report:
            path.write_text(json.dumps(run(data, condition, seed, options.epochs)), encoding="utf-8")
        if path.exists():
            records.append(json.loads(path.read_text(encoding="utf-8")))
    records.sort(key=lambda record: CONDITIONS.index(record["condition"]))
    print(f"{what}; {machine()}\n\n{tables(records)}")
    if options.figure is not None:
        draw(records, options.figure)


if __name__ == "__main__":
    main()
