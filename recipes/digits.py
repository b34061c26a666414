"""Train a small CNN on scikit-learn's digits and watch what its layers learn.

Run ``python -m convscope.recipes.digits`` (``--help`` for options). Real scans, bundled with scikit-learn: nothing is
downloaded.
"""

from __future__ import annotations

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import convscope
from convscope.recipes._program import command_line, where_to_look


class DigitsCNN(L.LightningModule):
    """Four conv units and a linear read-out for 8 × 8 grey images."""

    def __init__(self, width: int = 16, learning_rate: float = 3e-3, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_unit(1, width),
            conv_unit(width, width),
            nn.MaxPool2d(2),
            conv_unit(width, 2 * width),
            conv_unit(2 * width, 2 * width),
        )
        self.head = nn.Linear(2 * width, classes)
        self.learning_rate = learning_rate

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``(N, classes)`` of images ``(N, 1, 8, 8)``."""
        logits: torch.Tensor = self.head(self.features(images).mean((2, 3)))
        return logits

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self(images)
        self.log("val_loss", F.cross_entropy(logits, labels), prog_bar=True)
        self.log("val_acc", (logits.argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate)


def conv_unit(channels: int, filters: int) -> nn.Sequential:
    """Convolution 3 × 3, batch norm and ReLU."""
    return nn.Sequential(nn.Conv2d(channels, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU())


def digits_loaders(batch_size: int = 64, held_out: int = 500) -> tuple[DataLoader, DataLoader]:
    """Training and validation loaders of scikit-learn's 1,797 digits, images ``(1, 8, 8)`` in [0, 1]."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, val = order[held_out:], order[:held_out]
    return (
        DataLoader(TensorDataset(images[train], labels[train]), batch_size, shuffle=True),
        DataLoader(TensorDataset(images[val], labels[val]), batch_size),
    )


def main() -> None:
    parser = command_line(__doc__, epochs=8)
    parser.add_argument("--suite", choices=("light", "standard", "full"), default="standard")
    options = parser.parse_args()

    L.seed_everything(0)
    trainer = L.Trainer(
        max_epochs=options.epochs,
        logger=TensorBoardLogger(options.logdir, name="digits"),
        log_every_n_steps=5,
        callbacks=convscope.suite(options.suite),
    )
    trainer.fit(DigitsCNN(), *digits_loaders())
    where_to_look(trainer)


if __name__ == "__main__":
    main()
