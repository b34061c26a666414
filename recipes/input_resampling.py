"""Do the filters that drive the output come to be those that withstand noise? Lengerich et al. 2017, arXiv 1707.09641.

Run ``python -m convscope.recipes.input_resampling`` (``--help`` for options). A plain CNN learns to tell two classes of
CIFAR-10 apart. After each epoch 16 held-out images are perturbed 50 times each; the filters chosen by influence and by
precision are compared, and their overlap is printed beside what chance gives. Images are read from ``--data``, a folder
with ``cifar10_12k.npz`` (arrays ``x_train``, ``y_train``, ``x_test``, ``y_test``, ``classes``); without it, two of
scikit-learn's digits are learned. Nothing is downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import convscope
from convscope.recipes._program import command_line, where_to_look

CHANNEL_MEAN, CHANNEL_STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
Data = tuple[TensorDataset, TensorDataset]


class TwoClassCNN(L.LightningModule):
    """Convolutions with ReLU and no normalisation, as VGG-16 has them, at a size for 32 × 32 images; two classes."""

    def __init__(self, channels: int = 3, width: int = 16, learning_rate: float = 0.01) -> None:
        super().__init__()
        sizes = [(channels, width), (width, width), (width, 2 * width), (2 * width, 2 * width), (2 * width, 4 * width)]
        sizes.append((4 * width, 4 * width))
        blocks = [nn.Sequential(*map(_unit, sizes[first : first + 2])) for first in (0, 2, 4)]
        self.features = nn.Sequential(*(nn.Sequential(block, nn.MaxPool2d(2)) for block in blocks))
        self.head = nn.Linear(4 * width, 2)
        self.learning_rate = learning_rate

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``(N, 2)`` of images ``(N, C, H, W)``."""
        logits: torch.Tensor = self.head(self.features(images).mean((2, 3)))
        return logits

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        logits = self(batch[0])
        self.log("val_acc", (logits.argmax(1) == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9, weight_decay=5e-4)


def _unit(sizes: tuple[int, int]) -> nn.Sequential:
    conv = nn.Conv2d(*sizes, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, nn.ReLU())


class Curve(L.Callback):
    """Findings of the check after each epoch, with the accuracy at that time."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            found = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self.rows.append({"epoch": trainer.current_epoch + 1, **found})


def two_classes(folder: Path, pair: Sequence[str]) -> tuple[Data, str]:
    """Training and held-out images of two classes, and what they are: of CIFAR-10, or digits where that is absent."""
    path = folder / "cifar10_12k.npz"
    if not path.exists():
        return _digits(), "scikit-learn's digits 3 and 8"
    with np.load(path) as stored:
        names = [str(name) for name in stored["classes"]]
        numbers = [names.index(name) for name in pair]
        parts = [_normalised(stored[f"x_{part}"], stored[f"y_{part}"], numbers) for part in ("train", "test")]
    return (parts[0], parts[1]), f"CIFAR-10's {pair[0]} and {pair[1]}"


def _normalised(images: np.ndarray, labels: np.ndarray, numbers: list[int]) -> TensorDataset:
    kept = np.isin(labels, numbers)
    pictures = torch.from_numpy(images[kept]).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(part).view(-1, 1, 1) for part in (CHANNEL_MEAN, CHANNEL_STD))
    return TensorDataset((pictures - mean) / std, torch.from_numpy(labels[kept] == numbers[1]).long())


def _digits() -> Data:
    from sklearn.datasets import load_digits

    data = load_digits()
    kept = np.isin(data.target, (3, 8))
    images = torch.tensor(data.images[kept], dtype=torch.float32).unsqueeze(1) / 8 - 1
    labels = torch.tensor(data.target[kept] == 8).long()
    return TensorDataset(images[80:], labels[80:]), TensorDataset(images[:80], labels[:80])


def with_random_labels(data: TensorDataset, seed: int) -> TensorDataset:
    """The same images, their labels shuffled once."""
    images, labels = data.tensors
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return TensorDataset(images, labels[order])


def train(data: Data, epochs: int, logdir: Path, seed: int = 0, width: int = 16) -> tuple[L.Trainer, Curve]:
    """Train, with a check after every epoch; returns the trainer and what was found."""
    L.seed_everything(seed)
    curve = Curve()
    resampling = convscope.InputResampling(every_n_epochs=1)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=TensorBoardLogger(logdir, name="input_resampling"),
        log_every_n_steps=5,
        callbacks=[resampling, convscope.FilterImportance(), curve],
        enable_checkpointing=False,
    )
    model = TwoClassCNN(len(data[0][0][0]), width)
    trainer.fit(model, DataLoader(data[0], 64, shuffle=True), DataLoader(data[1], 200))
    return trainer, curve


def main() -> None:
    parser = command_line(__doc__, epochs=20)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("CONVSCOPE_DATA", "../shared/data")), help="folder of images"
    )
    parser.add_argument("--classes", default="airplane,bird", help="two class names (default airplane,bird)")
    parser.add_argument("--random-labels", action="store_true", help="shuffle the training labels")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the order of images (default 0)")
    options = parser.parse_args()
    (training, heldout), what = two_classes(options.data, options.classes.split(","))
    if options.random_labels:
        training = with_random_labels(training, options.seed)
    print(f"Learning {what}{', labels shuffled' if options.random_labels else ''}.")
    trainer, curve = train((training, heldout), options.epochs, options.logdir, options.seed)
    print("\nepoch  accuracy  overlap  by chance  Jaccard")
    for row in curve.rows:
        found = [row["val_acc"], *(row[f"resampling/{name}"] for name in ("overlap", "overlap_chance", "jaccard"))]
        print(f"{row['epoch']:5.0f}  {found[0]:8.2f}  {found[1]:7.3f}  {found[2]:9.3f}  {found[3]:7.3f}")
    where_to_look(trainer)


if __name__ == "__main__":
    main()
