"""Networks of four to ten convolutions for the fault benchmark, with any normalisation and activation."""

from __future__ import annotations

import torch
from torch import nn

_ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.1),
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "mish": nn.Mish,
    "relu6": nn.ReLU6,
}
ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.ELU, nn.Mish, nn.ReLU6)


def build_net(net: str, norm: str, activation: str, width: int, outputs: int, task: str, dropout: float) -> nn.Module:
    """``plain`` and ``dense`` (4 convolutions), ``deep``, ``residual`` and ``separable`` (5), ``mobile`` (7), ``eight``
    (8) or ``resnet`` (10).

    Masks are read off by a last 1 × 1 convolution at full resolution, all else after pooling by a linear layer.
    """
    build = _Builder(norm, activation, stride=1 if task == "segmentation" else 2)
    body, channels = getattr(build, net)(width)
    if task == "segmentation":
        found: nn.Module = nn.Sequential(body, nn.Conv2d(channels, outputs, 1))
    else:
        # Where something is may be asked for: pooled to 2 x 2.
        side = 2 if task == "regression" else 1
        head = [nn.AdaptiveAvgPool2d(side), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels * side**2, outputs)]
        found = nn.Sequential(body, *head)
    if norm == "none":
        for module in body.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return found


class _Builder:
    def __init__(self, norm: str, activation: str, stride: int) -> None:
        self.norm, self.activation, self.stride = norm, activation, stride

    def unit(self, channels: int, filters: int, stride: int = 1, kernel: int = 3, groups: int = 1) -> nn.Sequential:
        """Convolution, normalisation, activation."""
        conv = nn.Conv2d(
            channels, filters, kernel, stride, kernel // 2, groups=groups, bias=self.norm in ("none", "layer")
        )
        return nn.Sequential(conv, *self._norm(filters), _ACTIVATIONS[self.activation]())

    def _norm(self, filters: int) -> list[nn.Module]:
        if self.norm == "batch":
            return [nn.BatchNorm2d(filters)]
        return [] if self.norm == "none" else [nn.GroupNorm(1 if self.norm == "layer" else 4, filters)]

    def plain(self, w: int) -> tuple[nn.Module, int]:
        sizes = [(3, w, 1), (w, w, self.stride), (w, 2 * w, 1), (2 * w, 2 * w, self.stride)]
        return nn.Sequential(*(self.unit(*size) for size in sizes)), 2 * w

    def deep(self, w: int) -> tuple[nn.Module, int]:
        sizes = [(3, w, 1), (w, w, self.stride), (w, 2 * w, self.stride), *[(2 * w, 2 * w, 1)] * 2]
        return nn.Sequential(*(self.unit(*size) for size in sizes)), 2 * w

    def eight(self, w: int) -> tuple[nn.Module, int]:
        sizes = [(3, w, 1), (w, w, 1), (w, w, self.stride), (w, 2 * w, 1), (2 * w, 2 * w, self.stride)]
        return nn.Sequential(*(self.unit(*size) for size in [*sizes, *[(2 * w, 2 * w, 1)] * 3])), 2 * w

    def resnet(self, w: int) -> tuple[nn.Module, int]:
        sizes = [(w, w, 1), (w, 2 * w, self.stride), (2 * w, 2 * w, 1), (2 * w, 2 * w, 1)]
        blocks = [_Residual(self, *size) for size in sizes]
        return nn.Sequential(self.unit(3, w, self.stride), *blocks), 2 * w

    def mobile(self, w: int) -> tuple[nn.Module, int]:
        blocks = [_Inverted(self, w, self.stride), _Inverted(self, w, 1)]
        return nn.Sequential(self.unit(3, w), *blocks), w

    def residual(self, w: int) -> tuple[nn.Module, int]:
        block = _Residual(self, w, 2 * w, self.stride)
        return nn.Sequential(self.unit(3, w, self.stride), block, self.unit(2 * w, 2 * w)), 2 * w

    def separable(self, w: int) -> tuple[nn.Module, int]:
        return nn.Sequential(self.unit(3, w, self.stride), _Separable(self, w), self.unit(w, w)), w

    def dense(self, w: int) -> tuple[nn.Module, int]:
        return _Dense(self, w), 2 * w


class _Residual(nn.Module):
    def __init__(self, build: _Builder, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.first = build.unit(channels, filters, stride)
        self.second = build.unit(filters, filters)[:-1]
        self.skip = nn.Identity() if channels == filters else nn.Conv2d(channels, filters, 1, stride, bias=False)
        self.activation = _ACTIVATIONS[build.activation]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.activation(self.second(self.first(x)) + self.skip(x))
        return out


class _Separable(nn.Module):
    """A depthwise and a pointwise convolution beside an identity, as in ConvNeXt."""

    def __init__(self, build: _Builder, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Sequential(nn.Conv2d(channels, channels, 5, 1, 2, groups=channels), *build._norm(channels))
        self.wide = nn.Sequential(nn.Conv2d(channels, 2 * channels, 1), _ACTIVATIONS[build.activation]())
        self.narrow = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.narrow(self.wide(self.spatial(x)))
        return out


class _Inverted(nn.Module):
    """Expansion, depthwise and projecting convolution as in MobileNetV2, beside an identity where sizes allow."""

    def __init__(self, build: _Builder, channels: int, stride: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.expand, self.spatial = build.unit(channels, wide, kernel=1), build.unit(wide, wide, stride, groups=wide)
        self.project = build.unit(wide, channels, kernel=1)[:-1]
        self.skips = stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.project(self.spatial(self.expand(x)))
        return x + out if self.skips else out


class _Dense(nn.Module):
    """Two units whose outputs join their inputs, after a stem, and a 1 × 1 transition."""

    def __init__(self, build: _Builder, width: int) -> None:
        super().__init__()
        self.stem = build.unit(3, width, build.stride)
        self.layers = nn.ModuleList(build.unit(width * (place + 1), width) for place in range(2))
        self.transition = build.unit(3 * width, 2 * width, build.stride, kernel=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        out: torch.Tensor = self.transition(x)
        return out
