"""Networks of the benchmark of scale: ResNets with bottlenecks, ConvNeXt-T, a U-Net, a 3-D ResNet, and tiny ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions with a skip, as in ResNet-50 and deeper."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        same = stride == 1 and channels == 4 * width
        self.downsample = None if same else nn.Conv2d(channels, 4 * width, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output ``(N, 4 · width, …)``."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + (x if self.downsample is None else self.downsample(x)))


def resnet(blocks: Sequence[int], classes: int, width: int = 64, photographs: bool = False) -> nn.Module:
    """ResNet with bottlenecks.

    ``(3, 4, 6, 3)`` is ResNet-50, ``(3, 8, 36, 3)`` the 152-layer one; their last layers have ``32 * width`` channels.
    ``photographs`` gives it the first layers for images of 224×224.
    """
    first = nn.Conv2d(3, width, 7, 2, 3, bias=False) if photographs else nn.Conv2d(3, width, 3, 2, 1, bias=False)
    parts: list[nn.Module] = [first, nn.BatchNorm2d(width), nn.ReLU()]
    parts += [nn.MaxPool2d(3, 2, 1)] if photographs else []
    channels = width
    for stage, count in enumerate(blocks):
        for place in range(count):
            here = width * 2**stage
            parts.append(Bottleneck(channels, here, 2 if stage and place == 0 else 1))
            channels = 4 * here
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of ``(N, C, H, W)``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As it came, normalised."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """7×7 depthwise convolution, then two 1×1 as linear layers over the last axis (Liu et al. 2022)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(1e-6 * torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output, of the input's shape."""
        out = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        out = self.scale * self.pwconv2(F.gelu(self.pwconv1(out)))
        return x + out.permute(0, 3, 1, 2)


def convnext_t(classes: int) -> nn.Module:
    """ConvNeXt-T by hand: 96 to 768 channels, 3, 3, 9 and 3 blocks, 22 convolutions."""
    parts: list[nn.Module] = [nn.Conv2d(3, 96, 4, 4), ChannelNorm(96, eps=1e-6)]
    for stage, count in enumerate((3, 3, 9, 3)):
        channels = 96 * 2**stage
        if stage:
            parts += [ChannelNorm(channels // 2, eps=1e-6), nn.Conv2d(channels // 2, channels, 2, 2)]
        parts += [ConvNeXtBlock(channels) for _ in range(count)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(768), nn.Linear(768, classes))


def _twice(channels: int, filters: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for here in (channels, filters):
        layers += [nn.Conv2d(here, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """U-Net with four levels (Ronneberger et al. 2015): logits ``(N, classes, H, W)``; 23 convolutions."""

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        sizes = [width * 2**level for level in range(5)]
        self.down = nn.ModuleList(_twice(a, b) for a, b in zip([3, *sizes], sizes, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * size, size, 2, 2) for size in reversed(sizes[:-1]))
        self.join = nn.ModuleList(_twice(2 * size, size) for size in reversed(sizes[:-1]))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One logit for each class and pixel."""
        left = []
        for level, down in enumerate(self.down):
            x = down(x if level == 0 else F.max_pool2d(x, 2))
            left.append(x)
        left.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([left.pop(), up(x)], 1))
        logits: torch.Tensor = self.head(x)
        return logits


class Block3d(nn.Module):
    """Two 3×3×3 convolutions and a skip."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, filters, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv3d(filters, filters, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm3d(filters), nn.BatchNorm3d(filters)
        self.skip = nn.Conv3d(channels, filters, 1, stride) if stride > 1 or channels != filters else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.skip(x))


def resnet3d(classes: int, width: int = 32) -> nn.Module:
    """3-D ResNet-18 for clips ``(N, 3, T, H, W)`` (Hara et al. 2018), at half its width: 20 convolutions."""
    parts: list[nn.Module] = [nn.Conv3d(3, width, 3, (1, 2, 2), 1, bias=False), nn.BatchNorm3d(width), nn.ReLU()]
    channels = width
    for stage in range(4):
        for place in range(2):
            parts.append(Block3d(channels, width * 2**stage, 2 if stage and place == 0 else 1))
            channels = width * 2**stage
    return nn.Sequential(*parts, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(channels, classes))


def wide(classes: int, channels: int = 2048) -> nn.Module:
    """Three layers, two of them with so many channels."""
    layers: list[nn.Module] = [nn.Conv2d(3, 128, 3, 2, 1), nn.ReLU(), nn.Conv2d(128, channels, 3, 2, 1), nn.ReLU()]
    layers += [nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(channels, classes))


def tiny(classes: int, width: int = 8) -> nn.Module:
    """Three layers of ``width`` and twice as many channels."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU()]
    layers += [nn.Conv2d(2 * width, 2 * width, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(2 * width, classes))
