"""``convscope layers package.module:ClassOrFactory --input-size 3,32,32``: the layers that would be observed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from convscope._imported import imported
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
    layers.add_argument("--max-layers", type=int, metavar="N", help="at most N, evenly over depth; default all")
    layers.set_defaults(run=_run)


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give one sample's size without the batch, such as 3,32,32")
    return sizes


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
    trace, _ = trace_layers(Subject(model, model, torch.device("cpu")), heldout)
    layers = spread_over_depth(select_layers(trace, options.layers), options.max_layers)
    show(_table(layers, layer_costs(model, sample, layers)))
    return 0


def _load(path: str) -> nn.Module:
    from torch import nn

    model = imported(path, "torchvision.models:resnet18")()
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
