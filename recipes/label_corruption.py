"""Labels that go wrong in the middle of training, and the alerts that follow.

Run ``python -m convscope.recipes.label_corruption`` (``--help`` for options). A small CNN learns scikit-learn's digits;
from ``--from-epoch`` on, ``--share`` of the training labels are random. Validation data stay clean. Nothing is
downloaded.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger

import convscope
from convscope.recipes.digits import DigitsCNN, digits_loaders


class CorruptedDigits(DigitsCNN):
    """The digits network, with ``share`` of its training labels replaced at random from ``from_epoch`` on."""

    def __init__(self, from_epoch: int, share: float) -> None:
        super().__init__()
        self.from_epoch, self.share = from_epoch, share

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, labels = batch
        if self.current_epoch >= self.from_epoch:
            wrong = torch.rand(len(labels), device=labels.device) < self.share
            labels = torch.where(wrong, torch.randint_like(labels, 10), labels)
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss


def train(epochs: int, from_epoch: int, share: float, logdir: Path) -> convscope.DriftAlert:
    """Train, and return the callback with what it has said."""
    L.seed_everything(0)
    alert = convscope.DriftAlert()
    heldout = convscope.HeldOut(size=400)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=TensorBoardLogger(logdir, name="label_corruption"),
        log_every_n_steps=5,
        callbacks=[
            *convscope.suite("standard", heldout=heldout),
            convscope.RepresentationDrift(heldout=heldout),
            convscope.FilterHealth(heldout=heldout),
            alert,
        ],
    )
    trainer.fit(CorruptedDigits(from_epoch, share), *digits_loaders())
    return alert


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12, help="epochs to train (default 12)")
    parser.add_argument("--from-epoch", type=int, default=7, help="first epoch, from 0, with wrong labels (default 7)")
    parser.add_argument("--share", type=float, default=0.4, help="share of wrong labels (default 0.4)")
    parser.add_argument("--logdir", type=Path, default=Path("runs"), help="where the TensorBoard run is written")
    options = parser.parse_args()
    alert = train(options.epochs, options.from_epoch, options.share, options.logdir)
    print(f"\nLabels went wrong at epoch {options.from_epoch}. What was said, and when:")
    for found in alert.alerts:
        print(f"  epoch {found.epoch}: [{found.severity}] {found.rule}: {found.text}")


if __name__ == "__main__":
    main()
