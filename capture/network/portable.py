"""Layers to send between processes: modules by their names, found again in each process's own network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from convscope.capture.network.trace import Layer


class _Named(NamedTuple):
    """Placeholder of the submodule of that name."""

    module: str


def packed(layers: list[Layer], model: nn.Module) -> list[dict[str, Any]]:
    """The layers as plain data that can be sent."""
    names = {id(module): name for name, module in model.named_modules()}
    pack = lambda value: _Named(names[id(value)]) if isinstance(value, nn.Module) else value  # noqa: E731
    return [
        {f.name: _mapped(pack, getattr(layer, f.name)) for f in dataclasses.fields(layer) if f.init} for layer in layers
    ]


def unpacked(sent: list[dict[str, Any]], model: nn.Module) -> list[Layer]:
    """Layers of ``model``, the same network on another process.

    Raises:
        KeyError: if this process's network has no such submodule.
    """
    modules = dict(model.named_modules())
    unpack = lambda value: modules[value.module] if isinstance(value, _Named) else value  # noqa: E731
    return [Layer(**{name: _mapped(unpack, value) for name, value in fields.items()}) for fields in sent]


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """Apply ``change`` to every value in nested tuples, lists and dataclasses."""
    changed = change(value)
    if changed is not value or isinstance(value, _Named):
        return changed
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(change, part) for part in value))
    if isinstance(value, tuple | list):
        return type(value)(_mapped(change, part) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        moved = {name: _mapped(change, part) for name, part in parts.items()}
        return value if all(moved[name] is parts[name] for name in parts) else dataclasses.replace(value, **moved)
    return value
