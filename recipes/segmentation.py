"""At which depth does a segmentation network know where things are? Probes of every position.

Run ``python -m convscope.recipes.segmentation`` (``--help`` for options). Two digits lie on a noisy ground, and a small
encoder and decoder says for every pixel which digit it belongs to, if any. A linear probe of each layer's positions
predicts the mask; its mean IoU by layer shows where the places are known. Nothing is downloaded.
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
from convscope.recipes.digits import conv_unit, digits_loaders

CLASSES = ("ground", *(f"digit {digit}" for digit in range(4)))
SIDE = 24


def scenes(loader: DataLoader, count: int, seed: int) -> TensorDataset:
    """Images ``(1, 24, 24)`` with two digits from 0 to 3, and masks ``(24, 24)``: 0 ground, else digit + 1."""
    images, labels = loader.dataset.tensors  # type: ignore[attr-defined]
    images, labels = images[labels < 4, 0], labels[labels < 4]
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.rand(count, SIDE, SIDE, generator=generator) * 0.3
    masks = torch.zeros(count, SIDE, SIDE, dtype=torch.long)
    for picture, mask in zip(pictures, masks, strict=True):
        for left in (0, SIDE // 2):
            chosen, down, right = (int(torch.randint(top, (), generator=generator)) for top in (len(images), 17, 5))
            where = slice(down, down + 8), slice(left + right, left + right + 8)
            ink = images[chosen] > 0.3
            picture[where] = torch.where(ink, images[chosen], picture[where])
            mask[where] = torch.where(ink, labels[chosen] + 1, mask[where])
    return TensorDataset(pictures[:, None], masks)


class MaskCNN(L.LightningModule):
    """Encoder of two levels and a decoder with one connection across, five classes per pixel."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.above = conv_unit(1, width)
        self.below = nn.Sequential(conv_unit(width, 2 * width), nn.MaxPool2d(2), conv_unit(2 * width, 2 * width))
        self.inner = nn.Sequential(nn.MaxPool2d(2), conv_unit(2 * width, 2 * width))
        self.decoder = conv_unit(3 * width, width)
        self.head = nn.Conv2d(width, len(CLASSES), 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``(N, 5, 24, 24)`` of images ``(N, 1, 24, 24)``."""
        above = self.above(images)
        inner = F.interpolate(self.inner(self.below(above)), size=above.shape[-2:])
        logits: torch.Tensor = self.head(self.decoder(torch.cat([above, inner], 1)))
        return logits

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def train(epochs: int, logdir: Path, count: int = 800) -> L.Trainer:
    """Train with the standard suite on 128 held-out scenes."""
    L.seed_everything(0)
    loaders = digits_loaders()
    data, val = scenes(loaders[0], count, 0), scenes(loaders[1], 128, 1)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=TensorBoardLogger(logdir, name="segmentation"),
        log_every_n_steps=5,
        callbacks=convscope.suite(heldout=convscope.HeldOut(size=128, class_names=CLASSES)),
    )
    trainer.fit(MaskCNN(), DataLoader(data, 32, shuffle=True), DataLoader(val, 32))
    return trainer


def main() -> None:
    options = command_line(__doc__, epochs=6).parse_args()
    where_to_look(train(options.epochs, options.logdir))


if __name__ == "__main__":
    main()
