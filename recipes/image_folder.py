"""Watch a small CNN learn your own images: a folder with a subfolder for each class.

Run ``python -m convscope.recipes.image_folder FOLDER`` (``--help`` for options). All images are scaled to one size and
kept in memory; every fifth one is held out. A file that cannot be read is named and left out. Needs Pillow, which
matplotlib brings along.
"""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import convscope
from convscope.recipes._program import command_line, where_to_look
from convscope.recipes.digits import DigitsCNN, conv_unit

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def read_folder(folder: Path, side: int) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Images ``(N, 3, side, side)`` in [0, 1], labels ``(N,)`` and class names.

    Raises:
        SystemExit: if there are not two classes with images.
    """
    from PIL import Image

    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    images, labels = [], []
    for label, name in enumerate(names):
        for path in sorted(one for one in (folder / name).rglob("*") if one.suffix.lower() in ENDINGS):
            try:
                with Image.open(path) as picture:
                    pixels = np.asarray(picture.convert("RGB").resize((side, side)), dtype=np.float32)
            except OSError as error:
                print(f"{path} cannot be read and is left out ({error})")
                continue
            images.append(torch.from_numpy(pixels).permute(2, 0, 1) / 255)
            labels.append(label)
    if len(set(labels)) < 2:
        raise SystemExit(f"{folder}: give a folder with a subfolder of images for each of at least two classes")
    return torch.stack(images), torch.tensor(labels), names


class FolderCNN(DigitsCNN):
    """Six conv units and a linear read-out for colour images."""

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__(width, classes=classes)
        sizes = [(3, width), (width, width), (width, 2 * width), (2 * width, 2 * width)]
        units = [conv_unit(before, after) for before, after in [*sizes, (2 * width, 2 * width), (2 * width, 2 * width)]]
        pooled = [nn.Sequential(unit, nn.MaxPool2d(2)) if place in (1, 3) else unit for place, unit in enumerate(units)]
        self.features = nn.Sequential(*pooled)


def train(folder: Path, side: int, epochs: int, logdir: Path) -> L.Trainer:
    """Train with the standard suite on every fifth image, held out."""
    L.seed_everything(0)
    images, labels, names = read_folder(folder, side)
    held = torch.arange(len(labels)) % 5 == 0
    train_set, val = TensorDataset(images[~held], labels[~held]), TensorDataset(images[held], labels[held])
    trainer = L.Trainer(
        max_epochs=epochs,
        logger=TensorBoardLogger(logdir, name=folder.name),
        log_every_n_steps=5,
        callbacks=convscope.suite(heldout=convscope.HeldOut(class_names=names)),
    )
    trainer.fit(FolderCNN(len(names)), DataLoader(train_set, 64, shuffle=True), DataLoader(val, 64))
    return trainer


def main() -> None:
    parser = command_line(__doc__, epochs=10)
    parser.add_argument("folder", type=Path, help="folder with a subfolder of images for each class")
    parser.add_argument("--side", type=int, default=32, help="height and width of the scaled images (default 32)")
    options = parser.parse_args()
    where_to_look(train(options.folder, options.side, options.epochs, options.logdir))


if __name__ == "__main__":
    main()
