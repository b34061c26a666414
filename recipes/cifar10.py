"""Watch a small residual network learn CIFAR-10: which layer learns what, and when.

Run ``python -m convscope.recipes.cifar10`` (``--help`` for options). Images are flipped and moved at random. They are
read from ``--data``: a folder with ``cifar10_12k.npz`` (arrays ``x_train``, ``y_train``, ``x_test``, ``y_test``,
``classes``), or, where torchvision is installed, one with torchvision's CIFAR-10, which ``--download`` fetches.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Literal

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import convscope
from convscope.recipes._program import at_least_one, command_line, where_to_look
from convscope.recipes.digits import DigitsCNN, conv_unit

CHANNEL_MEAN, CHANNEL_STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
FILE = "cifar10_12k.npz"


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip connection, which halves the image by its own convolution where widths differ."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        stride = 1 if channels == filters else 2
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(filters), nn.BatchNorm2d(filters)
        self.skip = nn.Identity() if stride == 1 else nn.Conv2d(channels, filters, 1, stride, bias=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        inner = F.relu(self.norm1(self.conv1(maps)))
        return F.relu(self.norm2(self.conv2(inner)) + self.skip(maps))


class SmallResNet(DigitsCNN):
    """A stem and four residual blocks, nine convolutions beside the two of skips, for 32 × 32 colour images."""

    def __init__(self, width: int = 16, learning_rate: float = 3e-3) -> None:
        super().__init__(width, learning_rate)
        widths = [width, width, 2 * width, 4 * width, 4 * width]
        blocks = [ResidualBlock(before, after) for before, after in pairwise(widths)]
        self.features = nn.Sequential(conv_unit(3, width), *blocks)
        self.head = nn.Linear(4 * width, 10)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return super().training_step([_moved(batch[0]), batch[1]], batch_idx)


def _moved(images: torch.Tensor) -> torch.Tensor:
    """Half of the images mirrored, and all moved by up to four pixels, one way for the whole batch."""
    mirrored = torch.where(torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5, images.flip(3), images)
    down, right = torch.randint(0, 9, (2,)).tolist()
    return F.pad(mirrored, (4, 4, 4, 4))[..., down : down + 32, right : right + 32]


def read_images(folder: Path, download: bool = False) -> tuple[TensorDataset, TensorDataset, list[str]]:
    """Training and held-out images ``(N, 3, 32, 32)``, normalised, with labels ``(N,)``, and the class names.

    Raises:
        SystemExit: if the folder holds neither the ``.npz`` file nor torchvision's files.
    """
    if (folder / FILE).exists():
        with np.load(folder / FILE) as stored:
            parts = [(stored[f"x_{part}"], stored[f"y_{part}"]) for part in ("train", "test")]
            names = [str(name) for name in stored["classes"]]
    else:
        parts, names = _torchvision(folder, download)
    train, test = (_normalised(images, labels) for images, labels in parts)
    return train, test, names


def _torchvision(folder: Path, download: bool) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[str]]:
    try:
        from torchvision.datasets import CIFAR10
    except ImportError:
        raise SystemExit(f"{folder} has no {FILE}: give its folder as --data, or install torchvision") from None
    try:
        sets = [CIFAR10(str(folder), train=train, download=download) for train in (True, False)]
    except RuntimeError:
        raise SystemExit(f"{folder} has neither {FILE} nor torchvision's CIFAR-10: add --download") from None
    return [(one.data, np.asarray(one.targets)) for one in sets], list(sets[0].classes)


def _normalised(images: np.ndarray, labels: np.ndarray) -> TensorDataset:
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(part).view(-1, 1, 1) for part in (CHANNEL_MEAN, CHANNEL_STD))
    return TensorDataset((pictures - mean) / std, torch.from_numpy(labels).long())


def train(
    data: tuple[TensorDataset, TensorDataset, list[str]],
    suite: Literal["light", "standard", "full"],
    epochs: int,
    logdir: Path,
) -> L.Trainer:
    """Train, with a suite on 1,024 of the held-out images."""
    L.seed_everything(0)
    training, heldout, names = data
    trainer = L.Trainer(
        max_epochs=epochs,
        logger=TensorBoardLogger(logdir, name="cifar10"),
        callbacks=convscope.suite(suite, heldout=convscope.HeldOut(class_names=names)),
    )
    loader = DataLoader(training, 64, shuffle=True, drop_last=len(training) > 64)
    trainer.fit(SmallResNet(), loader, DataLoader(heldout, 256))
    return trainer


def main() -> None:
    parser = command_line(__doc__, epochs=5)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("CONVSCOPE_DATA", ".")), help="folder of the images"
    )
    parser.add_argument("--download", action="store_true", help="let torchvision download the images to --data")
    parser.add_argument("--images", type=at_least_one, default=10000, help="training images (default 10000)")
    parser.add_argument(
        "--suite", choices=("light", "standard", "full"), default="standard", help="what to watch (default standard)"
    )
    options = parser.parse_args()
    training, heldout, names = read_images(options.data, options.download)
    training = TensorDataset(*(tensor[: options.images] for tensor in training.tensors))
    where_to_look(train((training, heldout, names), options.suite, options.epochs, options.logdir))


if __name__ == "__main__":
    main()
