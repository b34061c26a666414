"""Which filters could go? Remove those that the measurements name, and see what that costs.

Run ``python -m convscope.recipes.pruning_guide`` (``--help`` for options). A small CNN learns scikit-learn's
digits. The record of the last check gives orders of a layer's filters: by Taylor importance, by redundancy (the
less important filter of a pair, most correlated pairs first), and for comparison at random and the most important
first. Filters are then really removed, from the convolution, its batch norm and the next layer, and the smaller
network is measured without further training. Nothing is downloaded.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader

import convscope
from convscope.recipes._program import command_line, where_to_look
from convscope.recipes.digits import DigitsCNN, digits_loaders

ORDERS = ("importance", "redundancy", "random", "most important first")


def train(epochs: int, logdir: Path) -> tuple[L.Trainer, DigitsCNN]:
    """Train with importance and correlation on all held-out samples."""
    L.seed_everything(0)
    heldout = convscope.HeldOut(size=500)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=TensorBoardLogger(logdir, name="pruning_guide"),
        log_every_n_steps=5,
        callbacks=[convscope.FilterImportance(heldout=heldout), convscope.FilterCorrelation(heldout=heldout)],
    )
    model = DigitsCNN()
    trainer.fit(model, *digits_loaders())
    return trainer, model


def removal_orders(run: convscope.dashboard.Run, layer: str) -> dict[str, list[int]]:
    """The layer's filters in the order in which to remove them, by each of :data:`ORDERS`."""
    importance = run.filters("importance", layer)[-1]
    correlation = run.correlation("correlation", layer)
    assert correlation is not None
    by_importance = importance.argsort(kind="stable").tolist()
    redundant = [min(one, other, key=lambda filter: importance[filter]) for one, other, _ in correlation.pairs(0.0)]
    rest = [one for one in by_importance if one not in redundant]
    random = np.random.default_rng(0).permutation(len(importance)).tolist()
    return {
        "importance": by_importance,
        "redundancy": [*dict.fromkeys(redundant), *rest],
        "random": random,
        "most important first": by_importance[::-1],
    }


def without(model: DigitsCNN, unit: str, gone: list[int]) -> DigitsCNN:
    """A copy of the model in which the filters of a unit (``features.3``) are no longer there."""
    smaller = copy.deepcopy(model)
    units = [module for module in smaller.features if isinstance(module, nn.Sequential)]
    this: Any = smaller.features.get_submodule(unit.removeprefix("features."))
    kept = torch.tensor([one for one in range(this[0].out_channels) if one not in gone])
    this[0] = _narrowed(this[0], kept, 0)
    norm = nn.BatchNorm2d(len(kept))
    norm.load_state_dict({name: value[kept] if value.dim() else value for name, value in this[1].state_dict().items()})
    this[1] = norm.train(this.training)
    if this is units[-1]:
        smaller.head = _narrowed(smaller.head, kept, 1)
    else:
        after = units[units.index(this) + 1]
        after[0] = _narrowed(after[0], kept, 1)
    return smaller


def _narrowed(layer: Any, kept: torch.Tensor, axis: int) -> Any:
    """A convolution or linear layer with only some of its outputs (axis 0) or inputs (axis 1)."""
    made, weight = copy.deepcopy(layer), layer.weight.detach().index_select(axis, kept)
    made.weight = nn.Parameter(weight)
    sizes = ("out_channels", "in_channels") if isinstance(layer, nn.Conv2d) else ("out_features", "in_features")
    setattr(made, sizes[axis], len(kept))
    if axis == 0:
        made.bias = nn.Parameter(layer.bias.detach()[kept])
    return made


def accuracy(model: DigitsCNN, loader: DataLoader) -> float:
    """Share of the loader's samples that the model gets right."""
    model.eval()
    with torch.no_grad():
        right = [(model(images).argmax(1) == labels).double() for images, labels in loader]
    return float(torch.cat(right).mean())


def report(model: DigitsCNN, logdir: str, share: float) -> dict[str, dict[str, float]]:
    """Print the accuracy after removing a share of each layer's filters, by each order."""
    run, val = convscope.read_run(logdir), digits_loaders()[1]
    size = sum(weight.numel() for weight in model.parameters())
    print(f"\naccuracy with all filters: {accuracy(model, val):.3f} ({size:,} weights)")
    print(f"without {share:.0%} of one layer's filters:\n")
    print(f"| layer | filters gone | weights | {' | '.join(ORDERS)} |\n|---|---|---|{'---|' * len(ORDERS)}")
    found = {}
    for layer in (name for name in run.layers if name != "output"):
        orders, unit = removal_orders(run, layer), layer.rpartition(".")[0]
        count = round(share * len(orders["importance"]))
        smaller = {name: without(model, unit, order[:count]) for name, order in orders.items()}
        found[layer] = {name: accuracy(one, val) for name, one in smaller.items()}
        weights = sum(weight.numel() for weight in smaller["importance"].parameters())
        numbers = " | ".join(f"{found[layer][name]:.3f}" for name in ORDERS)
        print(f"| {layer} | {count} | {weights / size - 1:+.0%} | {numbers} |")
    return found


def main() -> None:
    parser = command_line(__doc__, epochs=8)
    parser.add_argument(
        "--share", type=float, default=0.25, help="share of each layer's filters to remove (default 0.25)"
    )
    options = parser.parse_args()
    trainer, model = train(options.epochs, options.logdir)
    report(model, str(trainer.log_dir), options.share)
    where_to_look(trainer)


if __name__ == "__main__":
    main()
