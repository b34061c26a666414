"""Layers are found from what runs, not from what is defined."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope import LayerProbe, suite
from convscope.capture import HeldOut, Subject, select_layers, trace_layers
from convscope.capture.network.layers import spread_over_depth
from convscope.capture.network.trace import Layer, Trace
from tests.networks import TINY_RESNET_UNITS, Plain, TinyResNet


def traced(model: nn.Module, *size: int) -> Trace:
    heldout = HeldOut((torch.randn(2, *size),), size=2)
    heldout.prepare()
    return trace_layers(Subject(model, model, torch.device("cpu")), heldout)[0]


def names(layers: list[Layer]) -> list[str]:
    return [layer.name for layer in layers]


def test_units_in_execution_order_with_their_parts() -> None:
    layers = select_layers(traced(TinyResNet(), 3, 8, 8))
    assert names(layers) == TINY_RESNET_UNITS
    parts = {layer.name: layer.parts for layer in layers}
    assert parts["conv1"] == ("Conv2d", "BatchNorm2d", "relu")  # functional
    assert parts["layer1.0.conv1"] == ("Conv2d", "BatchNorm2d", "ReLU")
    assert parts["layer1.0.conv2"] == ("Conv2d", "BatchNorm2d")  # an addition comes before the ReLU
    sizes = {layer.name: (layer.channels, layer.spatial) for layer in layers}
    assert sizes["conv1"] == (8, (8, 8))
    assert sizes["layer2.0.conv2"] == (16, (4, 4))


def test_layers_written_over_later_are_known() -> None:
    layers = {layer.name: layer for layer in select_layers(traced(TinyResNet(), 3, 8, 8))}
    assert layers["layer1.0.conv2"].overwritten  # out += identity
    assert not layers["layer1.0.conv1"].overwritten
    raw = {layer.name: layer for layer in select_layers(traced(Plain(), 1, 8, 8), raw=True)}
    assert raw["conv1"].overwritten  # F.relu_
    assert raw["conv1"].parts == ("Conv2d",)
    assert not raw["conv2"].overwritten


class OddOrder(nn.Module):
    """Defined in one order, run in another; one conv runs twice, one never; one activation has two consumers."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.Conv2d(4, 4, 1)
        self.early = nn.Conv2d(3, 4, 1)
        self.never = nn.Conv2d(4, 4, 1)
        self.act = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.early(x))
        x = self.act(self.late(x))
        x = self.late(x)
        gated = x * torch.sigmoid(x)
        return gated.mean((2, 3))


def test_repeated_unused_and_gated_modules() -> None:
    layers = select_layers(traced(OddOrder(), 3, 4, 4))
    assert names(layers) == ["early", "late", "late@2"]
    assert layers[1].parts == ("Conv2d", "SiLU")
    assert layers[2].parts == ("Conv2d",)  # x * sigmoid(x): the sigmoid is not the activation


class Functional(nn.Module):
    """A convolution without a conv module, transposed and one-dimensional ones."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3, 3, 3))
        self.up = nn.ConvTranspose2d(5, 2, 2, stride=2)
        self.signal = nn.Conv1d(2, 7, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(F.conv2d(x, self.weight, padding=1))
        return F.relu(self.signal(F.relu(self.up(x)).flatten(2))).mean(-1)


def test_other_convolutions() -> None:
    layers = select_layers(traced(Functional(), 3, 4, 4))
    assert [(layer.name, layer.parts, layer.channels, layer.spatial) for layer in layers] == [
        ("conv2d", ("conv2d", "gelu"), 5, (4, 4)),
        ("up", ("ConvTranspose2d", "relu"), 2, (8, 8)),
        ("signal", ("Conv1d", "relu"), 7, (64,)),
    ]


def test_wrapper_prefixes_are_left_out_of_names() -> None:
    wrapped = nn.Sequential(torch.compile(TinyResNet(), backend="eager"))
    assert names(select_layers(traced(wrapped, 3, 8, 8))) == [f"0.{name}" for name in TINY_RESNET_UNITS]
    parallel = nn.DataParallel(TinyResNet())
    assert names(select_layers(traced(parallel, 3, 8, 8))) == TINY_RESNET_UNITS


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("layer1.*", ["layer1.0.conv1", "layer1.0.conv2"]),
        ("conv1", ["conv1"]),
        ("*conv1", ["conv1", "layer1.0.conv1", "layer2.0.conv1"]),
        (r"re:^layer\d\.0\.conv2$", ["layer1.0.conv2", "layer2.0.conv2"]),
        (re.compile("downsample"), ["layer2.0.downsample.0"]),
        (nn.Conv2d, TINY_RESNET_UNITS),
        (nn.Linear, ["fc"]),
        (lambda name, module: getattr(module, "stride", 0) == (2, 2), ["layer2.0.downsample.0", "layer2.0.conv1"]),
        ("layer2", ["layer2"]),  # no unit is called so: the module itself
        (["fc", "layer1", "conv1"], ["conv1", "layer1", "fc"]),
    ],
)
def test_selection(entry: object, expected: list[str]) -> None:
    assert names(select_layers(traced(TinyResNet(), 3, 8, 8), entry)) == expected


def test_an_entry_that_matches_nothing_lists_the_nearest_names() -> None:
    with pytest.raises(ValueError, match=r"'layr1\.\*' matches no layer.*Nearest names: layer1\.0\.conv1, layer1\.0"):
        select_layers(traced(TinyResNet(), 3, 8, 8), ["conv1", "layr1.*"])


@pytest.mark.parametrize("bad", [3, [None], []])
def test_entries_of_a_wrong_type(bad: object) -> None:
    with pytest.raises(ValueError, match="layers"):
        select_layers(traced(Plain(), 1, 8, 8), bad)


BAD = [
    ("re:conv[", r"'re:conv\[' is not a regular expression \(unterminated character set.*'re:' and one that"),
    ("re:(conv", r"'re:\(conv' is not a regular expression \(missing \)"),
    ("re:*conv", r"'re:\*conv' is not a regular expression \(nothing to repeat"),
    (["conv1", "re:a{99999999999}"], r"a\{9+\}' is not a regular expression"),
    (re.compile(rb"conv"), "is a pattern of bytes"),
    (b"conv", r"cannot select by b'conv'"),
    (int, "int is not a module class; give a subclass of torch.nn.Module"),
    ([nn.Conv2d, torch.Tensor], "Tensor is not a module class"),
    (nn.Conv2d(1, 1, 1), "got a Conv2d itself; give its name"),
    ({"conv1": 1}, "cannot select by {'conv1': 1}"),
    ((name for name in ["conv1"]), "cannot select by <generator"),
]


@pytest.mark.parametrize(("bad", "message"), BAD, ids=[str(bad)[:20] for bad, _ in BAD])
def test_what_can_choose_no_layer_is_refused_at_construction(bad: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayerProbe(layers=bad)
    with pytest.raises(ValueError, match=message):
        suite("light", layers=bad)


@pytest.mark.parametrize(
    "callable_",
    [
        lambda module: True,  # one argument too few
        lambda name, module: module.stride[0] == 2,  # not every module has it
        lambda name, module: module.weight > 0,  # no bool
        F.conv2d,
    ],
)
def test_a_callable_that_fails_is_named_with_the_layer(callable_: Any) -> None:
    with pytest.raises(ValueError, match=r"failed on layer '\S+' \(\w+: .*callable\(name, module\) -> bool"):
        select_layers(traced(OddOrder(), 3, 4, 4), ["early", callable_])


def test_brackets_in_globs_and_names() -> None:
    class Brackets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleDict({name: nn.Conv2d(1, 1, 1) for name in ("a[0]", "a0", "b[")})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for part in self.parts.values():
                x = part(x)
            return x.mean((2, 3))

    found = traced(Brackets(), 1, 2, 2)
    assert names(select_layers(found, "parts.a[0]")) == ["parts.a[0]", "parts.a0"]  # the name itself, and the set of 0
    assert names(select_layers(found, "parts.b[")) == ["parts.b["]
    assert names(select_layers(found, "parts.[!b]*")) == ["parts.a[0]", "parts.a0"]
    assert names(select_layers(found, r"re:a\[0\]$")) == ["parts.a[0]"]
    with pytest.raises(ValueError, match=r"'parts\[a0\]' matches no layer.*Nearest names: parts\.a"):
        select_layers(found, "parts[a0]")


@pytest.mark.parametrize("collection", [tuple, set, frozenset, dict.fromkeys])
def test_any_collection_of_entries(collection: Any) -> None:
    given = collection(["conv1", "fc"])
    given = given.keys() if isinstance(given, dict) else given
    assert names(select_layers(traced(TinyResNet(), 3, 8, 8), given)) == ["conv1", "fc"]


def test_a_network_without_convolutions() -> None:
    with pytest.raises(ValueError, match=r"ran no convolution.*Flatten, Linear.*Name what to observe"):
        select_layers(traced(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), 3, 2, 2))


def test_spread_over_depth() -> None:
    layers = select_layers(traced(TinyResNet(), 3, 8, 8))
    assert names(spread_over_depth(layers, 3)) == [TINY_RESNET_UNITS[i] for i in (0, 2, 5)]
    assert spread_over_depth(layers, None) == layers
    assert names(spread_over_depth(layers, 1)) == TINY_RESNET_UNITS[-1:]
    assert len(set(names(spread_over_depth(layers, 5)))) == 5


def test_tokens_count_channels_last() -> None:
    model = nn.Sequential(nn.Flatten(2), nn.Linear(16, 5))  # (N, tokens, C)
    (layer,) = select_layers(traced(model, 3, 4, 4), "1")
    assert (layer.channels, layer.spatial, layer.channel_dim) == (5, (3,), 2)
