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
    "hardswish": nn.Hardswish,
    "prelu": nn.PReLU,
    "celu": nn.CELU,
    "selu": nn.SELU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "logsigmoid": nn.LogSigmoid,
}
ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.ELU, nn.Mish, nn.ReLU6, nn.Hardswish, nn.PReLU, nn.CELU,
               nn.SELU, nn.Tanh, nn.Softplus, nn.LogSigmoid)  # fmt: skip


def build_net(net: str, norm: str, activation: str, width: int, outputs: int, task: str, dropout: float) -> nn.Module:
    """Convolutions: ``large_kernel`` 3; ``plain``, ``dense``, ``dropped`` 4; ``deep``, ``residual``, ``separable``,
    ``vgg``, ``dilated``, ``stems`` 5; ``inception``, ``hourglass``, ``unet``, ``pyramid`` 6; ``mobile``, ``squeeze``,
    ``grouped``, ``mixer``, ``attended``, ``maxout``, ``averaging`` 7; ``eight``, ``bottleneck``, ``preact``, ``gated``,
    ``shuffle`` 8; ``resnet``, ``stochastic`` 10; ``excite``, ``convnext`` 11; ``resnet18`` 20.

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

    def unit(
        self, channels: int, filters: int, stride: int = 1, kernel: int = 3, groups: int = 1, dilation: int = 1
    ) -> nn.Sequential:
        """Convolution, normalisation, activation."""
        conv = nn.Conv2d(channels, filters, kernel, stride, dilation * (kernel // 2), dilation, groups,
                         bias=self.norm in ("none", "layer"))  # fmt: skip
        return nn.Sequential(conv, *self._norm(filters), _ACTIVATIONS[self.activation]())

    def _norm(self, filters: int) -> list[nn.Module]:
        if self.norm == "batch":
            return [nn.BatchNorm2d(filters)]
        if self.norm == "instance":
            return [nn.InstanceNorm2d(filters, affine=True)]
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

    def vgg(self, w: int) -> tuple[nn.Module, int]:
        pool = [nn.MaxPool2d(2)] if self.stride > 1 else []
        first, second = [self.unit(3, w), self.unit(w, w)], [self.unit(w, 2 * w), self.unit(2 * w, 2 * w)]
        return nn.Sequential(*first, *pool, *second, *pool, self.unit(2 * w, 2 * w)), 2 * w

    def dilated(self, w: int) -> tuple[nn.Module, int]:
        wide = [self.unit(w, w, dilation=2), self.unit(w, 2 * w, dilation=4), self.unit(2 * w, 2 * w, dilation=2)]
        return nn.Sequential(self.unit(3, w, self.stride), *wide, self.unit(2 * w, 2 * w)), 2 * w

    def inception(self, w: int) -> tuple[nn.Module, int]:
        return nn.Sequential(self.unit(3, w, self.stride), _Branches(self, w), self.unit(3 * w, 2 * w)), 2 * w

    def squeeze(self, w: int) -> tuple[nn.Module, int]:
        stem, last = self.unit(3, w, self.stride), self.unit(w, 2 * w, self.stride)
        return nn.Sequential(stem, _Squeezed(self, w), self.unit(w, w), last, self.unit(2 * w, 2 * w)), 2 * w

    def excite(self, w: int) -> tuple[nn.Module, int]:
        blocks = [_Excited(self, w, 2 * w, self.stride), _Excited(self, 2 * w, 2 * w, 1)]
        return nn.Sequential(self.unit(3, w, self.stride), *blocks, self.unit(2 * w, 2 * w)), 2 * w

    def grouped(self, w: int) -> tuple[nn.Module, int]:
        one = [
            self.unit(w, w, self.stride, groups=2),
            self.unit(w, 2 * w, kernel=1),
            self.unit(2 * w, 2 * w, groups=4),
        ]
        mixed = [self.unit(2 * w, 2 * w, kernel=1), self.unit(2 * w, 2 * w, self.stride, groups=4)]
        return nn.Sequential(self.unit(3, w), *one, *mixed, self.unit(2 * w, 2 * w, kernel=1)), 2 * w

    def hourglass(self, w: int) -> tuple[nn.Module, int]:
        inner = [self.unit(w, 2 * w, 2), self.unit(2 * w, 2 * w), self.unit(2 * w, w)]
        back = nn.Upsample(scale_factor=2, mode="nearest")
        return nn.Sequential(self.unit(3, w), self.unit(w, w), *inner, back, self.unit(w, w)), w

    def bottleneck(self, w: int) -> tuple[nn.Module, int]:
        blocks = [_Bottleneck(self, w, 2 * w, self.stride), _Bottleneck(self, 2 * w, 2 * w, 1)]
        return nn.Sequential(self.unit(3, w, self.stride), *blocks), 2 * w

    def resnet(self, w: int) -> tuple[nn.Module, int]:
        sizes = [(w, w, 1), (w, 2 * w, self.stride), (2 * w, 2 * w, 1), (2 * w, 2 * w, 1)]
        blocks = [_Residual(self, *size) for size in sizes]
        return nn.Sequential(self.unit(3, w, self.stride), *blocks), 2 * w

    def convnext(self, w: int) -> tuple[nn.Module, int]:
        first, second = [_ConvNext(self, w), _ConvNext(self, w)], [_ConvNext(self, 2 * w)]
        return nn.Sequential(self.unit(3, w, self.stride), *first, self.unit(w, 2 * w, self.stride), *second), 2 * w

    def preact(self, w: int) -> tuple[nn.Module, int]:
        blocks = [_PreActivated(self, w, 2 * w, self.stride), _PreActivated(self, 2 * w, 2 * w, self.stride)]
        return nn.Sequential(nn.Conv2d(3, w, 3, padding=1), *blocks, self.unit(2 * w, 2 * w)), 2 * w

    def shuffle(self, w: int) -> tuple[nn.Module, int]:
        stem, down = self.unit(3, w, self.stride), self.unit(w, 2 * w, self.stride)
        return nn.Sequential(stem, _Shuffled(self, w), down, _Shuffled(self, 2 * w)), 2 * w

    def stochastic(self, w: int) -> tuple[nn.Module, int]:
        sizes = [(w, w, 1), (w, 2 * w, self.stride), (2 * w, 2 * w, 1), (2 * w, 2 * w, 1)]
        blocks = [_Stochastic(self, *size) for size in sizes]
        return nn.Sequential(self.unit(3, w, self.stride), *blocks), 2 * w

    def unet(self, w: int) -> tuple[nn.Module, int]:
        return nn.Sequential(_UNet(self, w), self.unit(3 * w, w)), w

    def pyramid(self, w: int) -> tuple[nn.Module, int]:
        return nn.Sequential(self.unit(3, w, self.stride), _TwoScales(self, w), self.unit(w, 2 * w, self.stride)), 2 * w

    def gated(self, w: int) -> tuple[nn.Module, int]:
        gates = [_Gated(w, w, 1), _Gated(w, 2 * w, self.stride), _Gated(2 * w, 2 * w, 1)]
        return nn.Sequential(self.unit(3, w, self.stride), *gates, self.unit(2 * w, 2 * w)), 2 * w

    def large_kernel(self, w: int) -> tuple[nn.Module, int]:
        pool = [nn.MaxPool2d(2)] if self.stride > 1 else []
        first, second = self.unit(3, w, kernel=7), self.unit(w, 2 * w, kernel=5)
        return nn.Sequential(first, *pool, second, *pool, self.unit(2 * w, 2 * w, kernel=5)), 2 * w

    def mixer(self, w: int) -> tuple[nn.Module, int]:
        return nn.Sequential(self.unit(3, 2 * w, self.stride), *(_Mixed(self, 2 * w) for _ in range(3))), 2 * w

    def dropped(self, w: int) -> tuple[nn.Module, int]:
        units = [
            self.unit(3, w),
            self.unit(w, w, self.stride),
            self.unit(w, 2 * w),
            self.unit(2 * w, 2 * w, self.stride),
        ]
        return nn.Sequential(*(part for unit in units for part in (unit, nn.Dropout2d(0.1)))), 2 * w

    def stems(self, w: int) -> tuple[nn.Module, int]:
        return nn.Sequential(_Stems(self, w), self.unit(2 * w, 2 * w, self.stride), self.unit(2 * w, 2 * w)), 2 * w

    def attended(self, w: int) -> tuple[nn.Module, int]:
        middle = [_Attended(self, w), self.unit(w, 2 * w, self.stride), _Attended(self, 2 * w)]
        return nn.Sequential(self.unit(3, w, self.stride), *middle, self.unit(2 * w, 2 * w)), 2 * w

    def maxout(self, w: int) -> tuple[nn.Module, int]:
        sizes = [(w, w, 1), (w, 2 * w, self.stride), (2 * w, 2 * w, 1)]
        return nn.Sequential(self.unit(3, w, self.stride), *(_Maxout(self, *size) for size in sizes)), 2 * w

    def averaging(self, w: int) -> tuple[nn.Module, int]:
        pool = [nn.AvgPool2d(2)] if self.stride > 1 else []
        more = [_Residual(self, 2 * w, 2 * w, 1), *pool, self.unit(2 * w, 2 * w)]
        return nn.Sequential(self.unit(3, w), *pool, _Residual(self, w, 2 * w, 1), *more), 2 * w

    def resnet18(self, w: int) -> tuple[nn.Module, int]:
        sizes = [(w, w, 1), (w, 2 * w, self.stride), (2 * w, 4 * w, self.stride), (4 * w, 8 * w, self.stride)]
        blocks = [_Residual(self, *size) for first in sizes for size in (first, (first[1], first[1], 1))]
        return nn.Sequential(self.unit(3, w), *blocks), 8 * w

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


class _Stochastic(_Residual):
    """A residual block whose branch is left out of a fifth of the training batches (stochastic depth)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.second(self.first(x))
        kept = 1.0 if not self.training else float(torch.rand(()) > 0.2) / 0.8
        out: torch.Tensor = self.activation(kept * branch + self.skip(x))
        return out


class _PreActivated(nn.Module):
    """Normalisation and activation before each of two convolutions (He et al. 2016)."""

    def __init__(self, build: _Builder, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        activation = _ACTIVATIONS[build.activation]
        first = [*build._norm(channels), activation(), nn.Conv2d(channels, filters, 3, stride, 1)]
        self.branch = nn.Sequential(*first, *build._norm(filters), activation(), nn.Conv2d(filters, filters, 3, 1, 1))
        same = channels == filters and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(channels, filters, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.branch(x) + self.skip(x)
        return out


class _ConvNext(nn.Module):
    """Depthwise 5 × 5, expanding and projecting convolution beside an identity (Liu et al. 2022)."""

    def __init__(self, build: _Builder, channels: int) -> None:
        super().__init__()
        self.spread = build.unit(channels, channels, kernel=5, groups=channels)[:-1]
        self.expand = build.unit(channels, 3 * channels, kernel=1)
        self.project = nn.Conv2d(3 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.project(self.expand(self.spread(x)))
        return out


class _Shuffled(nn.Module):
    """Grouped 1 × 1, shuffle, depthwise 3 × 3, grouped 1 × 1, beside an identity (Zhang et al. 2018)."""

    def __init__(self, build: _Builder, channels: int) -> None:
        super().__init__()
        self.into = build.unit(channels, channels, kernel=1, groups=2)
        self.shuffle = nn.ChannelShuffle(2)
        self.spread = build.unit(channels, channels, groups=channels)[:-1]
        self.out = build.unit(channels, channels, kernel=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.out(self.spread(self.shuffle(self.into(x))))
        return out


class _UNet(nn.Module):
    """Down once, up again, joined with what was there before going down (Ronneberger et al. 2015)."""

    def __init__(self, build: _Builder, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(build.unit(3, width), build.unit(width, width))
        self.inner = nn.Sequential(build.unit(width, 2 * width, 2), build.unit(2 * width, 2 * width))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x)
        return torch.cat([first, self.up(self.inner(first))], dim=1)


class _TwoScales(nn.Module):
    """The same map at full and at half resolution, joined by a sum."""

    def __init__(self, build: _Builder, channels: int) -> None:
        super().__init__()
        self.fine = nn.Sequential(build.unit(channels, channels), build.unit(channels, channels))
        self.coarse = nn.Sequential(build.unit(channels, channels, 2), build.unit(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        coarse = nn.functional.interpolate(self.coarse(x), x.shape[2:], mode="nearest")
        out: torch.Tensor = self.fine(x) + coarse
        return out


class _Gated(nn.Module):
    """One convolution times the sigmoid of another (Dauphin et al. 2017)."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.value = nn.Conv2d(channels, filters, 3, stride, 1)
        self.gate = nn.Conv2d(channels, filters, 3, stride, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.value(x) * self.gate(x).sigmoid()
        return out


class _Mixed(nn.Module):
    """Depthwise convolution beside an identity, then a pointwise one (Trockman & Kolter 2022)."""

    def __init__(self, build: _Builder, channels: int) -> None:
        super().__init__()
        self.spread = build.unit(channels, channels, kernel=5, groups=channels)
        self.mix = build.unit(channels, channels, kernel=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.mix(x + self.spread(x))
        return out


class _Stems(nn.Module):
    """Two ways into the network, 3 × 3 and 7 × 7, beside each other."""

    def __init__(self, build: _Builder, width: int) -> None:
        super().__init__()
        self.fine = nn.Sequential(build.unit(3, width, build.stride), build.unit(width, width))
        self.wide = build.unit(3, width, build.stride, kernel=7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.fine(x), self.wide(x)], dim=1)


class _Attended(nn.Module):
    """A convolution whose positions are weighted by a map of one channel (Woo et al. 2018)."""

    def __init__(self, build: _Builder, channels: int) -> None:
        super().__init__()
        self.value = build.unit(channels, channels)
        self.where = nn.Conv2d(channels, 1, 5, padding=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.value(x) * self.where(x).sigmoid()
        return out


class _Maxout(nn.Module):
    """The larger of two convolutions (Goodfellow et al. 2013)."""

    def __init__(self, build: _Builder, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.one = build.unit(channels, filters, stride)[:-1]
        self.other = build.unit(channels, filters, stride)[:-1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.maximum(self.one(x), self.other(x))


class _Bottleneck(nn.Module):
    """Reducing, 3 × 3 and expanding convolution beside an identity, as in the deeper ResNets."""

    def __init__(self, build: _Builder, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        narrow = filters // 2
        self.reduce, self.spatial = build.unit(channels, narrow, kernel=1), build.unit(narrow, narrow, stride)
        self.expand = build.unit(narrow, filters, kernel=1)[:-1]
        self.skip = nn.Identity() if channels == filters else nn.Conv2d(channels, filters, 1, stride, bias=False)
        self.activation = _ACTIVATIONS[build.activation]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.activation(self.expand(self.spatial(self.reduce(x))) + self.skip(x))
        return out


class _Branches(nn.Module):
    """Convolutions of three sizes side by side, as in Inception."""

    def __init__(self, build: _Builder, channels: int) -> None:
        super().__init__()
        self.small, self.middle = build.unit(channels, channels, kernel=1), build.unit(channels, channels)
        self.large = nn.Sequential(build.unit(channels, channels, kernel=1), build.unit(channels, channels, kernel=5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.small(x), self.middle(x), self.large(x)], 1)


class _Squeezed(nn.Module):
    """A unit whose channels are weighted by what the whole image holds, as in squeeze-and-excitation."""

    def __init__(self, build: _Builder, channels: int) -> None:
        super().__init__()
        self.unit = build.unit(channels, channels)
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels // 4, 1), nn.ReLU(),
            nn.Conv2d(channels // 4, channels, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.unit(x)
        return x + out * self.weigh(out)


class _Excited(nn.Module):
    """Two convolutions beside an identity; hard gates of the whole image multiply their channels, as in SE-ResNet."""

    def __init__(self, build: _Builder, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = build.unit(channels, filters, stride), build.unit(filters, filters)[:-1]
        self.reduce, self.expand = nn.Conv2d(filters, filters // 4, 1), nn.Conv2d(filters // 4, filters, 1)
        self.skip = nn.Identity() if channels == filters else nn.Conv2d(channels, filters, 1, stride, bias=False)
        self.activation = _ACTIVATIONS[build.activation]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.second(self.first(x))
        gates = nn.functional.hardsigmoid(self.expand(self.reduce(out.mean((2, 3), keepdim=True)).relu()))
        found: torch.Tensor = self.activation(out * gates + self.skip(x))
        return found


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
