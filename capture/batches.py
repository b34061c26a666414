"""Batches of any shape: slice, join and move nested tensors, and split a batch into inputs and targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

Adapter = Callable[[Any], tuple[Any, Any]]

_INPUT_NAMES = ("image", "images", "pixel_values", "img", "imgs", "input", "inputs", "x", "data", "features")
_TARGET_NAMES = ("label", "labels", "target", "targets", "y", "class", "classes", "mask", "masks")


def tree_map(function: Callable[[torch.Tensor], Any], tree: Any) -> Any:
    """``function`` of every tensor in nested tuples, named tuples, lists and dicts; the rest is kept."""
    if isinstance(tree, torch.Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: tree_map(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(tree_map(function, value) for value in tree))
    if isinstance(tree, list | tuple):
        return type(tree)(tree_map(function, value) for value in tree)
    return tree


def tree_cat(trees: list[Any]) -> Any:
    """Join batches of one structure along the batch axis."""
    first = trees[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(trees)
    if isinstance(first, Mapping):
        return {key: tree_cat([tree[key] for tree in trees]) for key in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(tree_cat(list(parts)) for parts in zip(*trees, strict=True)))
    if isinstance(first, list | tuple):
        return type(first)(tree_cat(list(parts)) for parts in zip(*trees, strict=True))
    return first


def tree_tensors(tree: Any) -> list[torch.Tensor]:
    """Every tensor of a nested structure, in order."""
    found: list[torch.Tensor] = []
    tree_map(found.append, tree)
    return found


def batch_length(tree: Any) -> int:
    """Number of samples: the length of the first tensor with a batch axis; 0 where there is none."""
    return next((len(t) for t in tree_tensors(tree) if t.dim() > 0), 0)


def adapt_batch(batch: Any) -> tuple[Any, torch.Tensor | None]:
    """Split a batch into the model's inputs and the targets.

    Understood are a tensor (no targets); a tuple or list, whose first two items are taken; a dict, named tuple
    or dataclass with customary field names (``image``, ``pixel_values``, ``x``, … and ``label``, ``target``, ``y``, …).

    Raises:
        TypeError: The batch is none of these. ``HeldOut(adapter=...)`` takes a function for any other.
    """
    if isinstance(batch, torch.Tensor):
        return batch, None
    fields = _fields(batch)
    if fields is not None and (names := _known(fields, _INPUT_NAMES)):
        targets = _known(fields, _TARGET_NAMES)
        return fields[names[0]], _as_targets(fields[targets[0]]) if targets else None
    if isinstance(batch, list | tuple) and batch and not _is_detection(batch):
        return batch[0], _as_targets(batch[1]) if len(batch) > 1 else None
    found = f"a {type(batch).__name__}" + (f" with fields {list(fields)}" if fields is not None else "")
    raise TypeError(
        f"cannot tell inputs from targets in {found}; pass HeldOut(adapter=lambda batch: (inputs, targets))"
    )


def _is_detection(batch: Sequence[Any]) -> bool:
    """Lists of images and of dicts: images may differ in size, and what the targets are is not known."""
    second = batch[1] if len(batch) > 1 else None
    return isinstance(second, list | tuple) and any(isinstance(item, Mapping) for item in second)


def _fields(batch: Any) -> dict[str, Any] | None:
    if isinstance(batch, Mapping):
        return {str(key): value for key, value in batch.items()}
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    names: Iterable[str] | None = getattr(batch, "_fields", None)
    return None if names is None else {name: getattr(batch, name) for name in names}


def _known(fields: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    return [field for name in names for field in fields if field.lower() == name]


def _as_targets(value: Any) -> torch.Tensor | None:
    return value if isinstance(value, torch.Tensor) else None
