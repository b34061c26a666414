"""Distil an explainer while a CNN learns objects of three parts, and see how much of it can be expressed in parts.

Run ``python -m convscope.recipes.explainer`` (``--help`` for options). The images are those of the recipe
``part_filters``; ``--labels random`` trains on labels without meaning, to compare with. Nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

import convscope
from convscope.recipes._program import at_least_one, command_line, where_to_look
from convscope.recipes.part_filters import CLASSES, PartsCNN, planted_parts

COLUMNS = ("p", "error", "agreement", "error_change", "instability", "original_instability")


def random_labels(data: TensorDataset, seed: int = 0) -> TensorDataset:
    """The same images with labels that say nothing of them."""
    pictures, labels, landmarks = data.tensors
    drawn = torch.randint(len(CLASSES), labels.shape, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(pictures, drawn, landmarks)


class Table(L.Callback):
    """Prints what the explainer found, after each of its checks."""

    def __init__(self, layer: str) -> None:
        self.layer, self.rows = layer, 0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        checks = next(len(each.history.epochs) for each in callbacks if isinstance(each, convscope.Explainer))
        if trainer.sanity_checking or checks == self.rows:
            return
        if self.rows == 0:
            print(f"| epoch | accuracy | {' | '.join(COLUMNS)} |\n|---|---|{'---|' * len(COLUMNS)}")
        self.rows = checks
        found = [float(trainer.callback_metrics[f"explainer/{name}/{self.layer}"]) for name in COLUMNS]
        numbers = " | ".join(f"{value:.3f}" for value in found)
        accuracy = float(trainer.callback_metrics["val_acc"])
        print(f"| {trainer.current_epoch} | {accuracy:.3f} | {numbers} |", flush=True)


def train(
    epochs: int, every: int, seconds: float, labels: str, layer: str, logdir: Path, images: int = 1500
) -> tuple[L.Trainer, convscope.Explainer]:
    """Train, and return the trainer and the explainer's callback."""
    L.seed_everything(0, verbose=False)
    explainer = convscope.Explainer(layers=layer, landmarks=2, every_n_epochs=every, seconds=seconds)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=TensorBoardLogger(logdir, name=f"explainer_{labels}"),
        log_every_n_steps=5,
        callbacks=[explainer, Table(layer)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = planted_parts(images, 0), planted_parts(512, 1)
    if labels == "random":
        data = random_labels(data[0]), random_labels(data[1], 1)
    trainer.fit(PartsCNN(False), DataLoader(data[0], 64, shuffle=True), DataLoader(data[1], 128))
    return trainer, explainer


def main() -> None:
    parser = command_line(__doc__, epochs=9)
    parser.add_argument("--every", type=at_least_one, default=3, help="epochs between two checks (default 3)")
    parser.add_argument("--seconds", type=float, default=30.0, help="most seconds of a distillation (default 30)")
    parser.add_argument("--labels", choices=("real", "random"), default="real", help="random: labels without meaning")
    parser.add_argument("--layer", default="early.2.0", help="layer to explain (default early.2.0)")
    options = parser.parse_args()
    trainer, explainer = train(
        options.epochs, options.every, options.seconds, options.labels, options.layer, options.logdir
    )
    print("\nSaved:", *explainer.saved, sep="\n  ")
    where_to_look(trainer)


if __name__ == "__main__":
    main()
