"""Kinds of modules and functions: convolution, normalisation, activation, or other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import nn

Kind = Literal["conv", "norm", "activation", "other"]

_CONV_MODULES = (nn.modules.conv._ConvNd,)
_CONV_FUNCTIONS = {f"conv{t}{d}d" for d in (1, 2, 3) for t in ("", "_transpose")}
_NORM_FUNCTIONS = {
    "batch_norm",
    "instance_norm",
    "group_norm",
    "layer_norm",
    "local_response_norm",
    "rms_norm",
}
_ACTIVATION_FUNCTIONS = {
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish", "hardtanh",
    "hardsigmoid", "sigmoid", "tanh", "softplus", "softsign", "prelu", "rrelu", "logsigmoid", "threshold",
}  # fmt: skip
_ACTIVATION_NAMES = _ACTIVATION_FUNCTIONS | {
    "swish",
    "memoryefficientswish",
    "geluactivation",
    "siluactivation",
}
_NOT_ACTIVATIONS = (nn.MultiheadAttention, nn.Softmax, nn.Softmin, nn.Softmax2d, nn.LogSoftmax)

# Names that wrappers put between a user's module and its children.
_WRAPPER_PARTS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
_WRAPPER_HOMES = {"torch", "lightning", "lightning_fabric", "pytorch_lightning"}
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def module_kind(module: nn.Module) -> Kind:
    """Kind of a module; a container that holds a convolution is never a norm, whatever its name says."""
    if isinstance(module, _CONV_MODULES):
        return "conv"
    if _is_norm(module):
        return "norm"
    return "activation" if _is_activation(module) else "other"


def function_kind(function: Callable[..., Any]) -> Kind:
    """Kind of a torch function by its name: ``F.relu``, ``torch.relu`` and ``Tensor.relu_`` are the same."""
    name = function_name(function)
    if name in _CONV_FUNCTIONS:
        return "conv"
    if name in _NORM_FUNCTIONS:
        return "norm"
    return "activation" if name in _ACTIVATION_FUNCTIONS else "other"


def function_name(function: Callable[..., Any]) -> str:
    """``relu`` for each of ``F.relu``, ``torch.relu_`` and ``Tensor.relu``."""
    return str(getattr(function, "__name__", "")).rstrip("_")


def _is_norm(module: nn.Module) -> bool:
    if "norm" not in type(module).__name__.lower():
        return False
    return not any(isinstance(child, _CONV_MODULES) for child in module.modules())


def _is_activation(module: nn.Module) -> bool:
    if isinstance(module, _NOT_ACTIVATIONS):
        return False
    home = type(module).__module__ == nn.modules.activation.__name__
    return home or type(module).__name__.lower() in _ACTIVATION_NAMES


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """``model.named_modules()`` with the parts that wrappers add left out of the names.

    ``net._orig_mod.conv1`` becomes ``net.conv1``; ``module`` is left out only directly under a ``DataParallel`` or
    ``DistributedDataParallel``, and the others only under a wrapper, since a user's own attribute may be called so.
    Only a wrapper and the module that it wraps share a name.
    """
    yield from _walk(model, "", "", set(), {})


def followed_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Named modules whose calls can be seen, each name once: no wrappers, and no TorchScript, which refuses hooks."""
    for name, module in named_modules(model):
        if not (is_scripted(module) or any(_is_hidden(module, part) for part in module._modules)):
            yield name, module


def is_scripted(module: nn.Module) -> bool:
    """Return whether a module runs in TorchScript, which Python cannot see into."""
    return isinstance(module, torch.jit.ScriptModule)


def _walk(
    module: nn.Module, name: str, full: str, seen: set[nn.Module], taken: dict[str, nn.Module]
) -> Iterator[tuple[str, nn.Module]]:
    if module in seen:
        return
    seen.add(module)
    taken[name] = module
    yield name, module
    for part, child in module._modules.items():
        if child is None:
            continue
        whole = f"{full}.{part}".lstrip(".")
        plain = name if _is_hidden(module, part) else f"{name}.{part}".lstrip(".")
        yield from _walk(child, whole if taken.get(plain, module) is not module else plain, whole, seen, taken)


def _is_hidden(module: nn.Module, part: str) -> bool:
    """Return whether a wrapper wraps this child. A wrapper has no other children, or is torch's or Lightning's own."""
    if part == "module":
        return isinstance(module, _PARALLEL)
    home = type(module).__module__.split(".")[0]
    return part in _WRAPPER_PARTS and (len(module._modules) == 1 or home in _WRAPPER_HOMES)


def plain_name(name: str) -> str:
    """A parameter's or module's dotted name without the parts that ``torch.compile`` and other wrappers add."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPER_PARTS)


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in a nested structure of tuples, lists and dicts, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
