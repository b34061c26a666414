"""Share of a forward pass's floating-point operations that a layer takes."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convscope.capture.network.modules import named_modules
from convscope.capture.network.trace import Layer
from convscope.capture.state.isolation import isolated


def layer_costs(model: nn.Module, sample: torch.Tensor, layers: list[Layer]) -> dict[str, float]:
    """Share, in [0, 1], of the model's floating-point operations that each layer's module takes on ``sample``.

    Counted by ``torch.utils.flop_counter`` (matrix products and convolutions). A module that runs more than once
    counts as a whole under each of its calls; a functional convolution counts with the module it runs in.
    """
    counter = FlopCounterMode(display=False)
    with isolated(model, seed=0, gradients=False), counter:
        model(sample)
    counts = {name: sum(by_operation.values()) for name, by_operation in counter.get_flop_counts().items()}
    total = max(counts.get("Global", 0), 1)
    root = type(model).__name__
    raw = {module: name for name, module in model.named_modules()}
    clean = {name: raw.get(module, name) for name, module in named_modules(model)}
    owners = {layer.name: clean.get(layer.identity.head.owner, "") for layer in layers}
    return {name: counts.get(f"{root}.{owner}", 0) / total for name, owner in owners.items()}
