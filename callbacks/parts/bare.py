"""A plain network as a module that a Trainer accepts, and back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from convscope.capture.state.isolation import preserved_random_state


class BareModule(pl.LightningModule):
    """A network under a Trainer; its submodules have the names that they have in the network.

    Args:
        network: The network, whose parameters, buffers and submodules are shared.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.__dict__["_bare"] = network  # not as a submodule, which would put its name before all others
        for shared in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[shared] = network.__dict__[shared]
        self.__dict__["training"] = network.training

    def train(self, mode: bool = True) -> BareModule:
        """Switch the network as well."""
        super().train(mode)
        self.__dict__["_bare"].train(mode)
        return self

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The network's output."""
        return self.__dict__["_bare"](*inputs, **named)


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """Restore modes, gradients, device, trainer, the switch for gradients and random streams after the block."""
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    device, enabled, trainer = device_of(model), torch.is_grad_enabled(), vars(model).get("_trainer")
    try:
        with preserved_random_state(0):
            yield
    finally:
        torch.set_grad_enabled(enabled)
        if device_of(model) != device:
            model.to(device)
        if "_trainer" in vars(model):
            vars(model)["_trainer"] = trainer
        for module, training in modes:
            module.training = training
        for parameter, gradient in gradients:
            parameter.grad = gradient


def device_of(model: nn.Module) -> torch.device:
    """The device of a network's first parameter or buffer; the CPU if it has none."""
    first: torch.Tensor | None = next(model.parameters(), None)
    first = next(model.buffers(), None) if first is None else first
    return torch.device("cpu") if first is None else first.device
