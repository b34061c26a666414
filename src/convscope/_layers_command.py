"""``convscope layers package.module:ClassOrFactory --input-size 3,32,32``: the layers that would be observed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from convscope._imported import called, imported
from convscope._terminal import columns, show

if TYPE_CHECKING:
    from torch import nn

    from convscope.capture.network.trace import Layer


def add_to(commands: Any) -> None:
    """Add the command to those of the parser."""
    layers = commands.add_parser("layers", help="list the layers that would be observed")
    layers.add_argument("model", metavar="package.module:ClassOrFactory", help="called without arguments")
    layers.add_argument("--input-size", required=True, type=_sizes, metavar="3,32,32", help="one sample's size")
    layers.add_argument("--layers", nargs="+", metavar="GLOB", help="globs, names or re:expressions; default all")
    layers.add_argument("--max-layers", type=_positive, metavar="N", help="at most N, evenly over depth; default all")
    layers.set_defaults(run=_run)


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give one sample's size without the batch, such as 3,32,32")
    return sizes


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number, at least 1")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    # Only here is torch needed, which takes seconds to import.
    import torch

    from convscope.capture.data.heldout import HeldOut
    from convscope.capture.network.layers import select_layers, spread_over_depth
    from convscope.capture.network.operations import layer_costs
    from convscope.capture.observation import Subject, trace_layers

    model = _load(options.model)
    sample = torch.zeros(1, *options.input_size)
    heldout = HeldOut((sample,), size=1)
    heldout.prepare()
    try:
        trace, _ = trace_layers(Subject(model, model, torch.device("cpu")), heldout)
    except Exception as error:
        raise ValueError(_cannot_run(options, error)) from error
    layers = spread_over_depth(select_layers(trace, options.layers), options.max_layers)
    show(_table(layers, layer_costs(model, sample, layers)))
    return 0


def _cannot_run(options: argparse.Namespace, error: Exception) -> str:
    size = "×".join(map(str, options.input_size))
    return (
        f"{options.model!r} cannot be run on a sample of {size} ({type(error).__name__}: {error}); give the size of "
        "one of its inputs, or a function that returns a network of one input"
    )


def _load(path: str) -> nn.Module:
    from torch import nn

    model = called(imported(path, "torchvision.models:resnet18"), path)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{path!r} gave a {type(model).__name__}; it must return a torch.nn.Module")
    return model


def _table(layers: list[Layer], costs: dict[str, float]) -> str:
    head = ("#", "name", "unit", "channels", "spatial", "cost")
    rows = [
        (
            str(place),
            layer.name,
            "+".join(layer.parts),
            str(layer.channels),
            "×".join(map(str, layer.spatial)) or "–",
            f"{costs[layer.name]:.1%}",
        )
        for place, layer in enumerate(layers, 1)
    ]
    return columns([head, *rows])
