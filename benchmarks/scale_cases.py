"""Cases of the benchmark of scale: networks for photographs, series that grow, and a thousand checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from benchmarks.scale_networks import UNet, convnext_t, resnet, resnet3d, tiny, wide


@dataclass(frozen=True)
class Case:
    """One row: a network, a held-out set, how many checks, and which callbacks.

    ``series`` names the table that it belongs to, ``at`` its place in it. ``shown`` are the labels that occur, where
    they are fewer than the network's classes; ``dense`` gives each pixel a label.
    """

    title: str
    network: Callable[[], nn.Module]
    classes: int
    heldout: int
    shape: tuple[int, ...]
    chunk: int = 128
    checks: int = 2
    arguments: dict[str, Any] = field(default_factory=dict)
    suite: str = "standard"
    series: str = ""
    at: int = 0
    shown: int = 0
    dense: bool = False


PHOTOGRAPHS: dict[str, Case] = {
    "resnet50": Case(
        "ResNet-50, 224×224, 1,000 classes", lambda: resnet((3, 4, 6, 3), 1000, photographs=True), 1000, 16,
        (3, 224, 224), chunk=8, shown=4, series="photographs",
    ),
    "convnext": Case(
        "ConvNeXt-T, 224×224, 1,000 classes", lambda: convnext_t(1000), 1000, 16, (3, 224, 224), chunk=8, shown=4,
        series="photographs",
    ),
    "unet": Case(
        "U-Net of width 16, 256×256, 21 classes", lambda: UNet(21), 21, 16, (3, 256, 256), chunk=8, dense=True,
        series="photographs",
    ),
    "resnet3d": Case(
        "3-D ResNet-18 of width 32, clips 16×64×64", lambda: resnet3d(10), 10, 24, (3, 16, 64, 64), chunk=8, shown=4,
        series="photographs",
    ),
}  # fmt: skip

BLOCKS = {20: (1, 2, 2, 1), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks of bottleneck ResNets, by their usual name; each block has three convolutions, a stage one more."""


def _deep(layers: int) -> Case:
    network = lambda: resnet(BLOCKS[layers], 10, width=16)  # noqa: E731
    return Case(
        f"{layers} layers, all observed", network, 10, 256, (3, 32, 32), arguments={"max_layers": None},
        series="layers", at=layers,
    )  # fmt: skip


def _wide(channels: int) -> Case:
    network = lambda: wide(10, channels)  # noqa: E731
    return Case(f"{channels} channels", network, 10, 1024, (3, 16, 16), series="channels", at=channels)


def _many(samples: int) -> Case:
    network = lambda: tiny(10, 16)  # noqa: E731
    return Case(f"{samples:,} held out", network, 10, samples, (3, 16, 16), series="heldout", at=samples)


def _classes(classes: int) -> Case:
    network = lambda: tiny(classes, 32)  # noqa: E731
    shown = min(classes, 1000)  # each with two samples
    title = f"{classes:,} classes" + ("" if shown == classes else f", {shown:,} of them held out")
    return Case(title, network, classes, 2000, (3, 16, 16), series="classes", at=classes, shown=shown)


CASES: dict[str, Case] = {
    **PHOTOGRAPHS,
    **{f"layers{n}": _deep(n) for n in BLOCKS},
    **{f"channels{n}": _wide(n) for n in (256, 512, 1024, 2048)},
    **{f"heldout{n}": _many(n) for n in (1000, 3000, 10_000, 50_000)},
    **{f"classes{n}": _classes(n) for n in (10, 100, 1000, 10_000)},
    "probe": Case(
        "LayerProbe alone, 2,048 channels, 10,000 held out", lambda: wide(10), 10, 10_000, (3, 8, 8), suite="probe",
        series="probe", checks=1,
    ),
    "checks": Case("1,000 checks", lambda: tiny(3), 3, 64, (3, 8, 8), checks=1000, series="endurance"),
    "checks_plain": Case(
        "1,000 checks, no pictures", lambda: tiny(3), 3, 64, (3, 8, 8), checks=1000, arguments={"pictures": False},
        series="endurance",
    ),
}  # fmt: skip
