"""Small networks that hold what real ones do: skips, shared and in-place activations, functional calls."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """ResNet's basic block: one ReLU module shared by two places, an in-place addition."""

    def __init__(self, channels: int, filters: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        same = stride == 1 and channels == filters
        self.downsample = (
            None if same else nn.Sequential(nn.Conv2d(channels, filters, 1, stride), nn.BatchNorm2d(filters))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class TinyResNet(nn.Module):
    """Seven convolutions; the stem's activation is functional."""

    def __init__(self, width: int = 8, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(Block(width, width))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), nn.Dropout(0.2))
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer2(self.layer1(x))
        return self.fc(x.mean((2, 3)))


TINY_RESNET_UNITS = [
    "conv1", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.downsample.0", "layer2.0.conv1", "layer2.0.conv2",
]  # fmt: skip
"""Conv units of :class:`TinyResNet` in execution order (the downsampling branch runs first)."""


class Plain(nn.Module):
    """No normalisation, in-place functional ReLU."""

    def __init__(self, classes: int = 3, channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1)
        self.head = nn.Linear(6, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu_(self.conv1(x))
        x = torch.relu(self.conv2(x))
        return self.head(x.amax((2, 3)))


def images(samples: int = 30, classes: int = 3, channels: int = 3, side: int = 8, seed: int = 0) -> tuple:
    """Random images ``(n, C, s, s)`` with labels that can be learned from the mean of the first channel."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % classes
    pictures = torch.randn(samples, channels, side, side, generator=generator)
    pictures[:, 0] += labels[:, None, None].float()
    return pictures, labels
