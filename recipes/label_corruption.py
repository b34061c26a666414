"""Labels that go wrong in the middle of training, and the alerts that follow.

Run ``python -m convscope.recipes.label_corruption`` (``--help`` for options). A small CNN learns scikit-learn's digits;
from ``--from-epoch`` on, ``--share`` of the training labels are random. Validation data stay clean. Nothing is
downloaded.
"""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F

import convscope
from convscope.recipes._program import command_line, report, watched_trainer, where_to_look
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


def train(epochs: int, from_epoch: int, share: float, logdir: Path) -> tuple[L.Trainer, convscope.DriftAlert]:
    """Train, and return the trainer and the callback with its alerts."""
    L.seed_everything(0)
    trainer, alert = watched_trainer("label_corruption", epochs, convscope.HeldOut(size=400), logdir)
    trainer.fit(CorruptedDigits(from_epoch, share), *digits_loaders())
    return trainer, alert


def main() -> None:
    parser = command_line(__doc__, epochs=12)
    parser.add_argument("--from-epoch", type=int, default=7, help="first epoch, from 0, with wrong labels (default 7)")
    parser.add_argument("--share", type=float, default=0.4, help="share of wrong labels (default 0.4)")
    options = parser.parse_args()
    trainer, alert = train(options.epochs, options.from_epoch, options.share, options.logdir)
    report(f"Labels went wrong at epoch {options.from_epoch}.", alert)
    where_to_look(trainer)


if __name__ == "__main__":
    main()
