"""The network to observe in a LightningModule, and how to call it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import lightning.pytorch as pl
from torch import nn
from torch.nn.parameter import is_lazy

from convscope.callbacks.engine.hierarchies import MisconfigurationException, both
from convscope.capture.network.modules import named_modules
from convscope.capture.observation import Arguments, Subject


def subject(trainer: pl.Trainer, pl_module: pl.LightningModule, network: str | None = None) -> Subject:
    """The user's network, or the part of it that ``network`` names, run as Lightning's validation would run it."""
    chosen = _network(pl_module) if network is None else _submodule(pl_module, network)
    return Subject(
        pl_module,
        _called(chosen),
        pl_module.device,
        trainer.precision_plugin.forward_context,
        network=chosen,
        arguments=_arguments(chosen),
    )


def caller(module: nn.Module) -> Callable[[Any], Any]:
    """Function that calls a network with held-out inputs: one tensor, a tuple of arguments, or a dict of them."""
    return _called(_network(module))


def _called(network: nn.Module) -> Callable[[Any], Any]:
    arguments = _arguments(network)

    def forward(inputs: Any) -> Any:
        args, kwargs = arguments(inputs)
        return network(*args, **kwargs)

    return forward


def _arguments(network: nn.Module) -> Callable[[Any], Arguments]:
    def arguments(inputs: Any) -> Arguments:
        if isinstance(inputs, dict):
            return (), inputs
        # torch's own collate function makes a list of a sample's tuple.
        several = isinstance(inputs, tuple) or (isinstance(inputs, list) and not _takes_one(network))
        return (tuple(inputs) if several else (inputs,)), {}

    return arguments


def _takes_one(network: nn.Module) -> bool:
    """Return whether the network can be called with one argument."""
    try:
        inspect.signature(getattr(network, "_orig_mod", network).forward).bind(None)
    except TypeError:
        return False
    except ValueError:  # TorchScript and the like tell no signature
        return True
    return True


def _network(module: nn.Module) -> nn.Module:
    without = [nn.Module.forward, *(kind.forward for kind in both(pl.LightningModule))]
    if type(module).forward not in without:
        return module
    parts = _parts(module)
    if len(parts) == 1:
        return next(iter(parts.values()))
    raise MisconfigurationException(
        f"{type(module).__name__} has no forward() and {len(parts)} submodules with parameters "
        f"({', '.join(parts) or 'none'}), so it is not known which network to run on the held-out set; name one, "
        "HeldOut(network=...), or define forward(self, inputs) to return the logits"
    )


def _submodule(module: nn.Module, name: str) -> nn.Module:
    # The first of a name is the outermost: a compiled or sharded module is called through its wrapper.
    found = next((part for known, part in named_modules(module) if known == name), None)
    if found is None:
        raise MisconfigurationException(
            f"HeldOut(network={name!r}): {type(module).__name__} has no such submodule; it has "
            f"{', '.join(_parts(module)) or 'none with parameters'}"
        )
    return found


def _parts(module: nn.Module) -> dict[str, nn.Module]:
    return {name: child for name, child in module.named_children() if next(child.parameters(), None) is not None}


def network_name(module: pl.LightningModule, named: Iterable[str | None]) -> str:
    """Name of the network for the user: its class, or that of its only part with parameters if the user wrote that."""
    chosen = {_unwrapped(module if name is None else _submodule(module, name)) for name in named}
    found = next(iter(chosen)) if len(chosen) == 1 else module
    parts = [_unwrapped(part) for part in _parts(found).values()] if found is module else []
    own = [part for part in parts if not type(part).__module__.startswith("torch.nn.")]
    named_by = own[0] if len(parts) == len(own) == 1 else found
    return str(getattr(named_by, "original_name", type(named_by).__name__))  # the first: of TorchScript


def _unwrapped(module: nn.Module) -> nn.Module:
    return getattr(module, "_orig_mod", module)  # compiled


def uninitialised(module: nn.Module) -> list[str]:
    """Names of parameters and buffers that a lazy module has yet to create, in its first forward pass."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return [name for name, tensor in tensors if is_lazy(tensor)]
