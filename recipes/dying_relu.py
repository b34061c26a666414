"""Filters that die of a learning rate that is too large for one epoch, and the alerts that follow.

Run ``python -m convscope.recipes.dying_relu`` (``--help`` for options). A CNN without normalisation learns
scikit-learn's digits; in epoch ``--at-epoch`` the learning rate is ``--factor`` times as large. Nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn

import convscope
from convscope.recipes._program import command_line, report, watched_trainer, where_to_look
from convscope.recipes.digits import digits_loaders


class PlainCNN(L.LightningModule):
    """Four convolutions with ReLU and no normalisation, for 8 × 8 grey images; one epoch is trained too fast."""

    def __init__(self, at_epoch: int, factor: float, width: int = 16, learning_rate: float = 0.05) -> None:
        super().__init__()
        sizes = [(1, width, 1), (width, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1)]
        self.features = nn.Sequential(*(_unit(channels, filters, stride) for channels, filters, stride in sizes))
        self.head = nn.Linear(2 * width, 10)
        self.at_epoch, self.factor, self.learning_rate = at_epoch, factor, learning_rate

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``(N, 10)`` of images ``(N, 1, 8, 8)``."""
        logits: torch.Tensor = self.head(self.features(images).mean((2, 3)))
        return logits

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        logits = self(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]), prog_bar=True)
        self.log("val_acc", (logits.argmax(1) == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LambdaLR]]:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda e: self.factor if e == self.at_epoch else 1.0)
        return [optimizer], [schedule]


def _unit(channels: int, filters: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, filters, 3, stride, padding=1)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, nn.ReLU())


def train(epochs: int, at_epoch: int, factor: float, logdir: Path) -> tuple[L.Trainer, convscope.DriftAlert]:
    """Train, and return the trainer and the callback with its alerts."""
    L.seed_everything(0)
    trainer, alert = watched_trainer("dying_relu", epochs, convscope.HeldOut(size=400), logdir)
    trainer.fit(PlainCNN(at_epoch, factor), *digits_loaders())
    return trainer, alert


def main() -> None:
    parser = command_line(__doc__, epochs=12)
    parser.add_argument("--at-epoch", type=int, default=7, help="epoch, from 0, that is too fast (default 7)")
    parser.add_argument("--factor", type=float, default=6.0, help="times the learning rate (default 6)")
    options = parser.parse_args()
    trainer, alert = train(options.epochs, options.at_epoch, options.factor, options.logdir)
    report(f"Epoch {options.at_epoch} was too fast.", alert)
    where_to_look(trainer)


if __name__ == "__main__":
    main()
