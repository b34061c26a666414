"""A shortcut that the explanations show: a mark in the corner that tells the class, in training images alone.

Run ``python -m convscope.recipes.multi_scale`` (``--help`` for options). A CNN learns scikit-learn's digits, each
somewhere on a noisy ground. From epoch ``--from-epoch`` on most training images have a mark in the upper left corner
whose brightness is the label. Two sets are explained at each epoch: validation images as they are, and the same ones
with the mark, as training sees them. Nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import convscope
from convscope.recipes._program import command_line, where_to_look

SIDE = 24  # of an image
MARK = 3  # of the mark


def scattered_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Digits at random places of a noisy ground, ``(1797, 1, 24, 24)`` with mean about 0, and their labels."""
    from sklearn.datasets import load_digits

    data, draw = load_digits(), torch.Generator().manual_seed(0)
    digits = torch.tensor(data.images, dtype=torch.float32) / 8 - 0.5
    images = 0.3 * torch.randn(len(digits), 1, SIDE, SIDE, generator=draw)
    for image, digit in zip(images, digits, strict=True):
        row, column = torch.randint(MARK, SIDE - 8, (2,), generator=draw).tolist()
        image[0, row : row + 8, column : column + 8] = digit
    return images, torch.tensor(data.target)


def marked(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The images with a corner as bright as the label says, -2 to 2."""
    images = images.clone()
    images[:, :, :MARK, :MARK] = (labels.float() / 9 * 4 - 2).view(-1, 1, 1, 1)
    return images


class ScatteredDigitsCNN(L.LightningModule):
    """Four conv units and a read-out; from an epoch on, most training images get the mark."""

    def __init__(self, from_epoch: int, share: float, width: int = 12) -> None:
        super().__init__()
        sizes = [(1, width), (width, width), (width, 2 * width), (2 * width, 2 * width)]
        units = [
            nn.Sequential(nn.Conv2d(channels, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU())
            for channels, filters in sizes
        ]
        self.features = nn.Sequential(*units[:2], nn.MaxPool2d(2), *units[2:])
        self.head = nn.Linear(2 * width, 10)
        self.from_epoch, self.share = from_epoch, share

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``(N, 10)`` of images ``(N, 1, 24, 24)``."""
        logits: torch.Tensor = self.head(self.features(images).amax((2, 3)))
        return logits

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, labels = batch
        if self.current_epoch >= self.from_epoch:
            told = torch.rand(len(images)) < self.share
            images = torch.where(told.view(-1, 1, 1, 1), marked(images, labels), images)
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        logits = self(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]))
        self.log("val_acc", (logits.argmax(1) == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


class Corner(L.Callback):
    """Prints what is known of each epoch, so that the run can be read without TensorBoard."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        known = trainer.callback_metrics
        if "marked/focus" in known and not trainer.sanity_checking:
            shown = {tag: f"{float(known[tag]):.2f}" for tag in ("val_acc", "multi_scale/focus", "marked/focus")}
            print(f"epoch {trainer.current_epoch}: " + ", ".join(f"{tag} {value}" for tag, value in shown.items()))


def train(epochs: int, from_epoch: int, share: float, logdir: Path) -> L.Trainer:
    """Train and explain; returns the trainer."""
    L.seed_everything(0)
    images, labels = scattered_digits()
    train, val = TensorDataset(images[400:], labels[400:]), TensorDataset(images[:400], labels[:400])
    sets = {"multi_scale": images[:400], "marked": marked(images[:400], labels[:400])}
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=TensorBoardLogger(logdir, name="multi_scale"),
        log_every_n_steps=5,
        callbacks=[
            *(
                convscope.MultiScaleInterpretation(
                    name=name,
                    heldout=convscope.HeldOut((inputs, labels[:400]), size=64),
                    images=6,
                    every_n_epochs=1,
                    on_start=True,
                )
                for name, inputs in sets.items()
            ),
            Corner(),
        ],
    )
    trainer.fit(ScatteredDigitsCNN(from_epoch, share), DataLoader(train, 64, shuffle=True), DataLoader(val, 200))
    return trainer


def main() -> None:
    parser = command_line(__doc__, epochs=10)
    parser.add_argument("--from-epoch", type=int, default=5, help="first epoch, from 0, with marks (default 5)")
    parser.add_argument("--share", type=float, default=0.9, help="share of the training images with one (default 0.9)")
    options = parser.parse_args()
    trainer = train(options.epochs, options.from_epoch, options.share, options.logdir)
    print(f"\nMarks came in epoch {options.from_epoch}. Look at marked/image/… and multi_scale/image/… under Images.")
    where_to_look(trainer)


if __name__ == "__main__":
    main()
