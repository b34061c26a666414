"""Train ordinary and interpretable filters on images with planted parts, and compare what their filters mean.

Run ``python -m convscope.recipes.part_filters`` (``--help`` for options). An object is three of scikit-learn's digits
in a loose arrangement somewhere in the image, among distractors; its class is which three. Nothing is downloaded.
"""

from __future__ import annotations

import argparse

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import convscope
from convscope.recipes._program import at_least_one, command_line, where_to_look

SIDE, PART = 32, 8
CLASSES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 4, 8))
"""Digits of each class's parts: upper left, upper right, below."""
ARRANGEMENT = torch.tensor([[0, 0], [1, 11], [11, 5]])
DISTRACTOR = 9


def planted_parts(images: int, seed: int) -> TensorDataset:
    """Images ``(1, 32, 32)`` in [0, 1], class 0 to 3, and landmarks ``(3, 2)``: row and column of parts' centres."""
    from sklearn.datasets import load_digits

    data, generator = load_digits(), torch.Generator().manual_seed(seed)
    scans, digits = torch.tensor(data.images, dtype=torch.float32) / 16, torch.tensor(data.target)
    of_digit = [scans[digits == digit] for digit in range(10)]
    pictures, labels = torch.zeros(images, 1, SIDE, SIDE), torch.arange(images) % len(CLASSES)
    landmarks = torch.zeros(images, 3, 2)

    def draw(below: int) -> int:
        return int(torch.randint(below, (), generator=generator))

    def paste(picture: torch.Tensor, digit: int, row: int, column: int) -> None:
        place = picture[0, row : row + PART, column : column + PART]
        place.copy_(torch.maximum(place, of_digit[digit][draw(len(of_digit[digit]))]))

    for picture, label, points in zip(pictures, labels.tolist(), landmarks, strict=True):
        for _ in range(3):
            paste(picture, DISTRACTOR, draw(SIDE - PART), draw(SIDE - PART))
        corner = torch.tensor([draw(SIDE - PART - 11), draw(SIDE - PART - 11)])
        for part, digit in enumerate(CLASSES[label]):
            loose = torch.tensor([draw(3), draw(3)]) - 1
            row, column = (corner + ARRANGEMENT[part] + loose).clamp(0, SIDE - PART).tolist()
            paste(picture, digit, row, column)
            points[part] = torch.tensor([row, column]) + (PART - 1) / 2
    return TensorDataset(pictures, labels, landmarks)


class PartsCNN(L.LightningModule):
    """Three convolutions; the filters of the last one are ordinary or interpretable."""

    def __init__(self, interpretable: bool, width: int = 24, learning_rate: float = 2e-3) -> None:
        super().__init__()
        self.early = nn.Sequential(_unit(1, width), nn.MaxPool2d(2), _unit(width, width), nn.MaxPool2d(2))
        last = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
        self.parts = convscope.InterpretableConv(last) if interpretable else nn.Sequential(last, nn.ReLU())
        # Masked maps are nearly empty: their means are small, and of one size only once they are normalised.
        self.head = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, len(CLASSES)))
        self.learning_rate = learning_rate

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``(N, 4)`` of images ``(N, 1, 32, 32)``."""
        logits: torch.Tensor = self.head(self.parts(self.early(images)).mean((2, 3)))
        return logits

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate)


def _unit(channels: int, filters: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU())


def train(interpretable: bool, seed: int, options: argparse.Namespace) -> tuple[L.Trainer, dict[str, float]]:
    """One run, and what is known of its last convolution at the end."""
    L.seed_everything(seed, verbose=False)
    layer = "parts.conv.0" if interpretable else "parts.0.0"
    callbacks: list[L.Callback] = [
        convscope.PartInterpretability(
            layers=layer, landmarks=2, scale="total", every_n_epochs=options.epochs, on_start=False
        )
    ]
    if interpretable:
        callbacks.append(convscope.FilterLoss(options.weight))
    trainer = L.Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        logger=TensorBoardLogger(
            options.logdir, name=f"part_filters_{'interpretable' if interpretable else 'ordinary'}"
        ),
        log_every_n_steps=5,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    data = planted_parts(options.images, 0), planted_parts(512, 1)
    trainer.fit(PartsCNN(interpretable), DataLoader(data[0], 64, shuffle=True), DataLoader(data[1], 128))
    logged = {tag: float(value) for tag, value in trainer.callback_metrics.items()}
    names = {"accuracy": "val_acc"} | {
        name: f"parts/{name}/{layer}" for name in ("instability", "filter_loss", "pure_filters")
    }
    return trainer, {name: logged[tag] for name, tag in names.items()}


def main() -> None:
    parser = command_line(__doc__, epochs=10)
    parser.add_argument("--seeds", type=at_least_one, default=3, help="runs of each kind (default 3)")
    parser.add_argument("--images", type=at_least_one, default=1500, help="training images (default 1500)")
    parser.add_argument("--weight", type=float, default=0.1, help="of the filter loss (default 0.1)")
    options = parser.parse_args()
    print("| filters | seed | accuracy | location instability | filter loss, one total | share of one class |")
    print("|---|---|---|---|---|---|")
    for seed in range(options.seeds):
        for interpretable in (False, True):
            trainer, found = train(interpretable, seed, options)
            numbers = " | ".join(f"{value:.3f}" for value in found.values())
            print(f"| {'interpretable' if interpretable else 'ordinary'} | {seed} | {numbers} |", flush=True)
    where_to_look(trainer)


if __name__ == "__main__":
    main()
