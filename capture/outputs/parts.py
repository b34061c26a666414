"""The parts of a model's result: its tensors in tuples, dicts and objects, each with the path that leads to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

PartPath = tuple[Any, ...]
"""Keys, attributes and places on the way to a part; empty for the output itself."""
Selector = str | int | Callable[[Any], Any]
"""A user's name of a part: ``"logits"``, ``"head.logits"``, ``1``, or a function of the output."""
_DEEPEST = 4


def tensor_parts(output: Any) -> dict[PartPath, torch.Tensor]:
    """Every tensor of an output by its path, in order; a tensor that comes twice is taken once."""
    found: dict[PartPath, torch.Tensor] = {}
    for path, tensor in _walk(output, ()):
        if not any(tensor is known for known in found.values()):
            found[path] = tensor
    return found


def part_at(output: Any, path: PartPath) -> Any:
    """The part at a path.

    Raises:
        LookupError: if there is none.
    """
    for step in path:
        output = _child(output, step)
    return output


def selected(output: Any, selector: Selector) -> Any:
    """The part that a user names.

    Raises:
        LookupError: if there is none of that name or number.
    """
    if callable(selector):
        return selector(output)
    return _child(output, selector) if isinstance(selector, int) else _named(output, selector)


def path_text(path: PartPath) -> str:
    """A path as the user may write it in ``HeldOut(logits=...)``."""
    return ".".join(map(str, path))


def describe(output: Any) -> str:
    """Description of an output, for messages: ``a tuple of 0 (8, 16) and 1 (8, 3)``."""
    if isinstance(output, torch.Tensor):
        return f"a tensor {tuple(output.shape)} of {str(output.dtype).removeprefix('torch.')}"
    if output is None:
        return "None"
    parts = [f"{path_text(path)} {tuple(tensor.shape)}" for path, tensor in tensor_parts(output).items()]
    article = "an" if type(output).__name__[0] in "AEIOUaeio" else "a"
    more = f" and {len(parts) - 4} more" if len(parts) > 4 else ""
    listed = f" of {', '.join(parts[:4])}{more}" if parts else " without a tensor"
    return f"{article} {type(output).__name__}{listed}"


def _walk(value: Any, path: PartPath) -> Iterator[tuple[PartPath, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif len(path) < _DEEPEST:
        for step, child in _children(value):
            yield from _walk(child, (*path, step))


def _children(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return [] if callable(value) else _attributes(value)


def _attributes(value: Any) -> list[tuple[Any, Any]]:
    """Attributes of an object, and its ``logits`` even if that is a property."""
    held = dict(getattr(value, "__dict__", {}))
    names = [*getattr(type(value), "__slots__", ()), "logits", "out"]
    held.update({name: getattr(value, name) for name in names if name not in held and hasattr(value, name)})
    return list(held.items())


def _child(value: Any, step: Any) -> Any:
    if isinstance(value, Mapping):
        if step in value:
            return value[step]
        if isinstance(step, int) and step < len(value):  # Hugging Face's outputs are numbered, too
            return list(value.values())[step]
        raise LookupError(step)
    if isinstance(step, int):
        if isinstance(value, list | tuple):
            return value[step]
        children = _children(value) if not isinstance(value, torch.Tensor) else []
        return children[step][1]
    if isinstance(value, torch.Tensor) or not hasattr(value, str(step)):
        raise LookupError(step)
    return getattr(value, step)


def _named(output: Any, name: str) -> Any:
    """A dotted name; a key that has a dot itself is found as well."""
    if isinstance(output, Mapping) and name in output:
        return output[name]
    first, _, rest = name.partition(".")
    child = _child(output, int(first) if first.lstrip("-").isdigit() and not _has(output, first) else first)
    return _named(child, rest) if rest else child


def _has(output: Any, key: str) -> bool:
    return isinstance(output, Mapping) and key in output


def logits_of(output: Any) -> torch.Tensor:
    """The logits in a model's result if nothing more is known: ``logits``, ``out`` or the first tensor.

    Raises:
        TypeError: if there is no floating-point tensor in ``output``.
    """
    parts = {path: tensor for path, tensor in tensor_parts(output).items() if tensor.is_floating_point()}
    named = [parts[name,] for name in ("logits", "out") if (name,) in parts]
    found = next(iter([*named, *parts.values()]), None)
    if found is None:
        raise TypeError(
            f"the model returned {type(output).__name__}, in which no logits were found; "
            "return a tensor, a tuple or dict of tensors, or an object with .logits"
        )
    return found
