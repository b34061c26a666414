"""A whole training, watched from the first step to the last: what layers learn, and when.

A ResNet-18 of width 32 learns all 10,000 CIFAR-10 images of the file (crops, flips, one cycle of the learning rate,
bfloat16), with the full suite and the explainer on 1,024 of the 2,000 test images::

    python -m benchmarks.learning_process run --seed 0 --folder F    # goes on where it was stopped
    python -m benchmarks.learning_process report --folder F          # docs/learning-process.md and its figures
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import convscope
from benchmarks.data import cifar10
from benchmarks.networks import ResNet18

EPOCHS = 40
HELD_OUT = 1024


class Learner(L.LightningModule):
    """The usual recipe: SGD with momentum, one cycle, random crops and flips."""

    def __init__(self, epochs: int = EPOCHS, width: int = 32) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.epochs = epochs
        self.net: nn.Module = ResNet18(width).to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(x.contiguous(memory_format=torch.channels_last))
        return logits

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        x, y = batch
        logits = self(_moved(x))
        loss = F.cross_entropy(logits, y)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        self.log("train_accuracy", (logits.argmax(1) == y).float().mean(), on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        x, y = batch
        logits = self(x)
        self.log("val_loss", F.cross_entropy(logits, y), prog_bar=True)
        self.log("val_accuracy", (logits.argmax(1) == y).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.15, total_steps=steps, pct_start=0.25)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _moved(x: torch.Tensor, margin: int = 4) -> torch.Tensor:
    """Each image shifted by up to four pixels, and half of them mirrored."""
    count, _, height, width = x.shape
    padded = F.pad(x, (margin,) * 4)
    top, left = torch.randint(2 * margin + 1, (2, count))
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    columns = torch.where(torch.rand(count, 1) < 0.5, columns, columns.flip(1))
    moved = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


class Depths(L.Callback):
    """Writes what each held-out sample is taken for at each check, and at which layer that is decided."""

    def __init__(self, prediction: convscope.LayerPrediction, folder: Path) -> None:
        self.prediction, self.folder = prediction, folder

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        found = self.prediction.latest
        if found is not None:
            np.savez_compressed(
                self.folder / f"depths_{trainer.current_epoch + 1:03d}.npz",
                numbers=found.numbers.numpy(), depth=found.depth.numpy(), final=found.final.numpy(),
                truth_probability=found.of_truth.half().numpy(), layers=np.array(found.layers),
            )  # fmt: skip


def heldout() -> convscope.HeldOut:
    """The held-out set of every run and replay."""
    return convscope.HeldOut(cifar10(2000, "test")[:2], size=HELD_OUT, batch_size=128, seed=0)


def watchers(folder: Path, every: int = 10) -> list[L.Callback]:
    """The full suite and the explainer; what takes long every tenth epoch."""
    shared = {"heldout": heldout()}
    prediction = convscope.LayerPrediction(**shared)
    rare: dict[str, Any] = {**shared, "every_n_epochs": every}
    return [
        *convscope.suite("full", shared["heldout"]),
        prediction,
        convscope.LayerProbe(probe="logistic", name="probe_logistic", **rare),
        convscope.AblationOracle(**rare),
        convscope.ForwardFromLayer(**rare),
        convscope.InputResampling(**rare, on_start=True),
        convscope.MultiScaleInterpretation(**rare, on_start=True),
        convscope.PartInterpretability(**rare, on_start=True),
        convscope.Explainer(**rare),
        convscope.FilterPictures(**rare),
        Depths(prediction, folder),
    ]


def run(seed: int, folder: Path, epochs: int = EPOCHS, images: int = 10_000, width: int = 32, every: int = 10) -> None:
    """Train one seed to the end, from its last checkpoint if there is one."""
    warnings.simplefilter("ignore")
    here = folder / f"seed_{seed}"
    here.mkdir(parents=True, exist_ok=True)
    L.seed_everything(seed, verbose=False)
    x, y, source = cifar10(images)
    held_x, held_y, _ = cifar10(2000, "test")
    saved = ModelCheckpoint(here / "checkpoints", filename="{epoch:03d}", save_top_k=-1, save_last=True)
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", precision="bf16-mixed", callbacks=[*watchers(here, every), saved],
        logger=TensorBoardLogger(here, name="", version=""), enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0,
    )  # fmt: skip
    last = here / "checkpoints" / "last.ckpt"
    began = time.perf_counter()
    trainer.fit(
        Learner(epochs, width),
        DataLoader(TensorDataset(x, y), 128, shuffle=True, drop_last=True),
        DataLoader(TensorDataset(held_x, held_y), 250),
        ckpt_path=last if last.exists() else None,
        weights_only=False,
    )
    reached = {name: round(float(value), 4) for name, value in trainer.callback_metrics.items() if "/" not in name}
    print(f"seed {seed}, {source}: {reached}, {(time.perf_counter() - began) / 60:.0f} minutes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--folder", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=32, help="filters of the first stage")
    parser.add_argument("--every", type=int, default=10, help="epochs between checks of what takes long")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    if options.what == "run":
        run(options.seed, options.folder, options.epochs, options.images, options.width, options.every)
    else:
        from benchmarks import learning_process_report

        learning_process_report.write(options.folder)


if __name__ == "__main__":
    main()
