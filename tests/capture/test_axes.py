"""The channel axis is followed through a pass; an axis that is folded into the batch is taken out again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.capture import HeldOut, Subject, observe, select_layers, trace_layers
from convscope.capture.network.trace import Layer

N, C, H, W = 4, 6, 4, 8
Make = Callable[[], nn.Module]


class Keeper:
    needs_gradient = False
    takes_nonfinite = True

    def __init__(self) -> None:
        self.records: dict[str, torch.Tensor] = {}

    def wants(self, layer: str) -> bool:
        return True

    def on_activation(self, record: Any) -> None:
        self.records[record.layer.name] = record.activation.clone()

    def on_gradient(self, record: Any, gradient: torch.Tensor) -> None:
        raise AssertionError("no gradient was asked for")


def observed(model: nn.Module, inputs: torch.Tensor, names: list[str]) -> tuple[dict[str, Layer], Any, Any]:
    heldout = HeldOut((inputs,), size=len(inputs), batch_size=len(inputs))
    heldout.prepare()
    subject = Subject(model, model, torch.device("cpu"))
    layers = select_layers(trace_layers(subject, heldout)[0], names)
    keeper = Keeper()
    report = observe(subject, heldout, layers, [keeper])
    return {layer.name: layer for layer in layers}, keeper.records, report


def hooked(model: nn.Module, inputs: torch.Tensor, name: str) -> torch.Tensor:
    """The tensor that a module returns, as it is."""
    found: list[torch.Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda m, a, output: found.append(output.detach().clone()))
    with torch.no_grad():
        model.eval()(inputs)
    handle.remove()
    return found[0]


class Mlp(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class ConvNeXtBlock(nn.Module):
    """(N, C, H, W) outside, (N, H, W, C) inside."""

    def __init__(self, width: int = C) -> None:
        super().__init__()
        self.conv, self.mlp = nn.Conv2d(width, width, 3, padding=1, groups=width), Mlp(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SwinBlock(nn.Module):
    """(N, H, W, C) outside; windows folded into the batch inside."""

    def __init__(self) -> None:
        super().__init__()
        self.window, self.mlp = nn.Linear(C, C), Mlp(C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = len(x)
        windows = x.view(n, H // 2, 2, W // 2, 2, C).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 2, 2, C)
        back = self.window(windows).view(n, H // 2, W // 2, 2, 2, C).permute(0, 1, 3, 2, 4, 5).reshape(n, H, W, C)
        return x + self.mlp(x + back)


class Patches(nn.Module):
    """A convolution's positions as tokens (N, T, C), a class token before them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.token = nn.Conv2d(C, C, 1), nn.Parameter(torch.zeros(1, 1, C))
        self.blocks, self.back = nn.Sequential(Mlp(C), Mlp(C)), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        tokens = self.blocks(torch.cat([self.token.expand(len(x), -1, -1), tokens], 1))
        return self.back(tokens[:, 1:].transpose(1, 2).reshape(len(x), C, H, W))


class Pooled(nn.Module):
    """Pooling, padding and resampling, which change sizes but no axis; a squeeze-and-excitation scale."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze, self.out = nn.Conv2d(C, C, 1), nn.Sequential(nn.Conv2d(C, C, 1)), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.pad(self.conv(x), (1, 1, 0, 0)), 2)
        x = x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True)))
        return self.out(F.interpolate(x, scale_factor=2))


def lead_in(block: nn.Module, channels_last: bool) -> nn.Module:
    """The block behind a convolution."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block = nn.Conv2d(C, C, 1), block

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return self.block(x.permute(0, 2, 3, 1) if channels_last else x)

    return Net()


CASES: list[tuple[Make, str, int]] = [
    (lambda: lead_in(ConvNeXtBlock(), False), "block", 1),
    (lambda: lead_in(ConvNeXtBlock(), False), "block.mlp", 3),
    (lambda: lead_in(ConvNeXtBlock(), False), "block.mlp.0", 3),
    (lambda: lead_in(ConvNeXtBlock(), False), "block.mlp.1", 3),
    (lambda: lead_in(ConvNeXtBlock(), False), "block.mlp.2", 3),
    (lambda: lead_in(SwinBlock(), True), "block", 3),
    (lambda: lead_in(SwinBlock(), True), "block.mlp", 3),
    (Patches, "blocks", 2),
    (Patches, "blocks.0.1", 2),
    (Patches, "back", 1),
    (Pooled, "out", 1),
    (Pooled, "squeeze", 1),
]


@pytest.mark.parametrize(("make", "name", "axis"), CASES, ids=[f"{name}-{axis}" for _, name, axis in CASES])
def test_the_axis_of_modules(make: Make, name: str, axis: int) -> None:
    model, inputs = make(), torch.randn(N, C, H, W)
    layers, records, _ = observed(model, inputs, [name])
    expected = hooked(model, inputs, name)
    assert layers[name].channel_dim == axis
    assert layers[name].channels == expected.shape[axis]
    torch.testing.assert_close(records[name], expected.movedim(axis, 1))


@pytest.mark.parametrize("side", [C, 4 * C])
def test_sizes_that_say_nothing(side: int) -> None:
    """With C = H = W, or H = W = the hidden width, only following the axis tells it."""
    model = lead_in(ConvNeXtBlock(), False)
    layers, _, _ = observed(model, torch.randn(2, C, side, side), ["block", "block.mlp", "block.mlp.1"])
    assert [layer.channel_dim for layer in layers.values()] == [3, 3, 1]
    assert layers["block.mlp.1"].channels == 4 * C


def test_windows_are_an_axis_of_the_sample() -> None:
    model, inputs = lead_in(SwinBlock(), True), torch.randn(N, C, H, W)
    layers, records, _ = observed(model, inputs, ["block.window"])
    layer = layers["block.window"]
    assert (layer.channels, layer.spatial, layer.repeats) == (C, (8, 2, 2), 8)
    expected = hooked(model, inputs, "block.window").view(N, 8, 2, 2, C).movedim(-1, 1)
    torch.testing.assert_close(records["block.window"], expected)


class Grid(nn.Module):
    """One convolution sees the image, another a grid of positions that is the same for all samples."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.position = nn.Conv2d(C, C, 1), nn.Conv2d(1, C, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.image(x)) + self.position(torch.ones(1, 1, H, W))


def test_a_layer_that_does_not_see_the_samples_is_reported_and_given_to_nobody() -> None:
    _, records, report = observed(Grid(), torch.randn(N, C, H, W), ["image", "position"])
    assert list(records) == ["image"]
    assert list(report.unmatched) == ["position"]
    assert report.unmatched["position"].startswith("does not give the same number of rows for each sample")
    assert report.failures == {}
