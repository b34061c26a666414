"""The command line: ``convscope layers package.module:ClassOrFactory --input-size 3,32,32``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from convscope.capture.data.heldout import HeldOut
from convscope.capture.network.layers import select_layers, spread_over_depth
from convscope.capture.network.operations import layer_costs
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Subject, trace_layers
from convscope.loggers.terminal import encoding_of, printable, say


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the ``convscope`` command; returns the exit status, 2 for a user's mistake."""
    options = _parser().parse_args(arguments)
    try:
        table = _layers(options)
    except (ValueError, ImportError, AttributeError, TypeError, RuntimeError) as error:
        say(f"convscope: {error}", sys.stderr)
        return 2
    return _show(table)


def _show(table: str) -> int:
    """Print, also into a pipe whose reader has closed it (``convscope layers … | head``)."""
    try:
        say(table, sys.stdout)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains of it when it ends
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="convscope", description="Watch what a CNN learns while it trains.")
    commands = parser.add_subparsers(dest="command", required=True)
    layers = commands.add_parser("layers", help="list the layers that would be observed")
    layers.add_argument("model", metavar="package.module:ClassOrFactory", help="called without arguments")
    layers.add_argument("--input-size", required=True, type=_sizes, metavar="3,32,32", help="one sample's size")
    layers.add_argument("--layers", nargs="+", metavar="GLOB", help="globs, names or re:expressions; default all")
    layers.add_argument("--max-layers", type=int, metavar="N", help="at most N, evenly over depth; default all")
    return parser


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give one sample's size without the batch, such as 3,32,32")
    return sizes


def _layers(options: argparse.Namespace) -> str:
    model = _load(options.model)
    sample = torch.zeros(1, *options.input_size)
    heldout = HeldOut((sample,), size=1)
    heldout.prepare()
    trace, _ = trace_layers(Subject(model, model, torch.device("cpu")), heldout)
    layers = spread_over_depth(select_layers(trace, options.layers), options.max_layers)
    return _table(layers, layer_costs(model, sample, layers))


def _load(path: str) -> nn.Module:
    module_name, _, attribute = path.partition(":")
    if not attribute:
        raise ValueError(f"{path!r}: give package.module:ClassOrFactory, for example torchvision.models:resnet18")
    sys.path.insert(0, str(Path.cwd()))
    model = getattr(importlib.import_module(module_name), attribute)()
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
    shown = [[printable(cell, encoding_of(sys.stdout)) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown
    )


if __name__ == "__main__":
    raise SystemExit(main())
