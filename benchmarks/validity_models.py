"""Four small CNNs of different build, and the Lightning module that trains them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """Two convolutions and a skip connection."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.skip = nn.Identity() if stride == 1 else nn.Conv2d(channels, filters, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.skip(x))


class Dense(nn.Module):
    """A convolution whose output is joined to its input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, growth, 3, padding=1)
        self.bn = nn.BatchNorm2d(growth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, F.relu(self.bn(self.conv(x)))], 1)


def _unit(channels: int, filters: int, norm: bool) -> list[nn.Module]:
    parts: list[nn.Module] = [nn.Conv2d(channels, filters, 3, padding=1)]
    return [*parts, nn.BatchNorm2d(filters), nn.ReLU()] if norm else [*parts, nn.ReLU()]


def _head(filters: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(filters, classes)]


def vgg(channels: int, classes: int, norm: bool = False, width: int = 16) -> nn.Module:
    """Six convolutions, three poolings."""
    sizes = [channels, width, width, 2 * width, 2 * width, 4 * width, 4 * width]
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(pairwise(sizes)):
        layers += _unit(before, after, norm)
        if place % 2 == 1 and place < 5:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, *_head(4 * width, classes))


def resnet(channels: int, classes: int, width: int = 16) -> nn.Module:
    """A stem and three residual blocks."""
    return nn.Sequential(
        *_unit(channels, width, True), Block(width, width, 1), Block(width, 2 * width, 2),
        Block(2 * width, 4 * width, 2), *_head(4 * width, classes),
    )  # fmt: skip


def densenet(channels: int, classes: int, width: int = 24) -> nn.Module:
    """A stem and five dense layers, two poolings."""
    layers: list[nn.Module] = [*_unit(channels, width, True), nn.MaxPool2d(2)]
    for place in range(5):
        layers.append(Dense(width * (place + 1), width))
        if place == 2:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, *_head(6 * width, classes))


MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "VGG": vgg,
    "VGG-BN": lambda channels, classes: vgg(channels, classes, norm=True),
    "ResNet": resnet,
    "DenseNet": densenet,
}


class Classifier(L.LightningModule):
    """Cross-entropy, Adam, one cycle of the learning rate."""

    def __init__(self, net: nn.Module, learning_rate: float = 3e-3) -> None:
        super().__init__()
        self.net, self.learning_rate = net, learning_rate

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(images)
        return logits

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
