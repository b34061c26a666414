"""Batches of any shape: slice, join and move nested tensors, and split a batch into inputs and targets."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch

Adapter = Callable[[Any], tuple[Any, Any]]

_INPUT_NAMES = ("image", "images", "pixel_values", "img", "imgs", "input", "inputs", "x", "data", "features")
_TARGET_NAMES = ("label", "labels", "target", "targets", "y", "class", "classes", "mask", "masks")


def tree_map(function: Callable[[torch.Tensor], Any], tree: Any) -> Any:
    """Apply ``function`` to every tensor in nested tuples, named tuples, lists and dicts; keep everything else."""
    if isinstance(tree, torch.Tensor):
        return function(tree)
    return _rebuilt(tree, lambda _, value: tree_map(function, value))


def tree_tensors(tree: Any) -> list[torch.Tensor]:
    """Every tensor of a nested structure, in order."""
    found: list[torch.Tensor] = []
    tree_map(found.append, tree)
    return found


def batch_length(tree: Any) -> int:
    """Number of samples: the most frequent length among tensors with an axis, the first of several; 0 without any."""
    lengths = [len(t) for t in tree_tensors(tree) if t.dim() > 0]
    return max(lengths, key=lengths.count) if lengths else 0


def take_rows(tree: Any, part: torch.Tensor | slice, rows: int) -> Any:
    """Samples ``part`` of a batch of ``rows``: values without a row per sample (a scalar, anchors) are kept."""
    if isinstance(tree, torch.Tensor):
        return tree[part] if _has_rows(tree, rows) else tree
    if _is_listing(tree, rows):
        return type(tree)(tree[i] for i in torch.arange(rows)[part].tolist())
    return _rebuilt(tree, lambda _, value: take_rows(value, part, rows))


def join_rows(trees: list[Any], rows: list[int]) -> Any:
    """Join batches of one kind, as :func:`kind_of` says, along the batch axis."""
    first = trees[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(trees) if _has_rows(first, rows[0]) else first
    if _is_listing(first, rows[0]):
        return type(first)(item for tree in trees for item in tree)
    return _rebuilt(first, lambda key, _: join_rows([_item(tree, key) for tree in trees], rows))


def kind_of(tree: Any, rows: int) -> Any:
    """Key that is equal for batches that can be joined: structure, number formats, sizes, and values without rows."""
    if isinstance(tree, torch.Tensor):
        if _has_rows(tree, rows):
            return "rows", tree.dtype, tuple(tree.shape[1:])
        return "constant", tree.dtype, tuple(tree.shape), hashlib.sha256(tensor_bytes(tree)).hexdigest()
    if _is_listing(tree, rows):
        return ("listing",)
    if isinstance(tree, Mapping | list | tuple):
        keys = tree if isinstance(tree, Mapping) else range(len(tree))
        return type(tree).__name__, tuple((key, kind_of(tree[key], rows)) for key in keys)
    return "value", tree if isinstance(tree, Hashable) else repr(tree)


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """Bytes of the tensor's values in memory."""
    plain = tensor.detach().resolve_conj().resolve_neg().to_dense().contiguous()
    return bytes(plain.reshape(-1).view(torch.uint8).numpy().tobytes())


def _has_rows(tensor: torch.Tensor, rows: int) -> bool:
    return tensor.dim() > 0 and len(tensor) == rows


def _is_listing(tree: Any, rows: int) -> bool:
    """Return whether this is a name or path per sample: the default collate function leaves texts in a list."""
    listed = isinstance(tree, list | tuple) and not hasattr(tree, "_fields") and len(tree) == rows
    return listed and rows > 0 and all(isinstance(item, str | bytes) for item in tree)


def _item(tree: Any, key: Any) -> Any:
    return tree[key]


def _rebuilt(tree: Any, function: Callable[[Any, Any], Any]) -> Any:
    """A container of the same kind with ``function(key or place, value)`` for each value; anything else as it is."""
    if isinstance(tree, Mapping):
        return {key: function(key, value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(function(place, value) for place, value in enumerate(tree)))
    if isinstance(tree, list | tuple):
        return type(tree)(function(place, value) for place, value in enumerate(tree))
    return tree


def as_it_is(batch: Any) -> Any:
    """Return the batch itself: stands for a step that is not needed."""
    return batch


def adapt_batch(batch: Any) -> tuple[Any, torch.Tensor | None]:
    """Split a batch into the model's inputs and the targets.

    Accepted are a tensor (no targets); a tuple or list, whose first two items are taken; a dict, named tuple
    or dataclass with customary field names (``image``, ``pixel_values``, ``x``, … and ``label``, ``target``, ``y``, …).

    Raises:
        TypeError: if the batch is none of these. ``HeldOut(adapter=...)`` takes a function for any other.
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
    """Return whether these are lists of images and of dicts, whose sizes differ and whose targets are unknown."""
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
