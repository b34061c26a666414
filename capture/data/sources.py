"""Sources of held-out samples: accepted kinds, and whether their samples can be read one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from convscope._arguments import refuse
from convscope.capture.data.indices import is_rereadable
from convscope.capture.errors import users_code

ACCEPTED = (
    "a Dataset with a length, a DataLoader, a tensor or a tuple of tensors, a DataModule with heldout_dataloader(), "
    "or an iterable of batches"
)


def resolve(source: Any) -> Any:
    """A data set, or an iterable of batches.

    Raises:
        ValueError: if there is no source, or it has no samples.
    """
    if source is None:
        raise ValueError("HeldOut has no source: there is no validation loader; pass HeldOut(source=...)")
    if hasattr(source, "heldout_dataloader"):
        with users_code("heldout_dataloader()"):
            return source.heldout_dataloader()
    if isinstance(source, torch.Tensor | np.ndarray):
        return TensorDataset(torch.as_tensor(source))
    if isinstance(source, tuple | list) and source and all(isinstance(t, torch.Tensor | np.ndarray) for t in source):
        source = [torch.as_tensor(t) for t in source]
        lengths = [len(t) if t.dim() else 0 for t in source]
        if len(set(lengths)) > 1:
            raise ValueError(f"HeldOut(source=...): its tensors have {lengths} samples; give as many in each")
        return TensorDataset(*source)
    if _is_combined(source):
        return _Combined(source)
    check_source(source)
    return source


def check_source(source: Any) -> None:
    """Refuse a source from which samples cannot be read.

    Raises:
        ValueError: if it has no samples.
    """
    readable = isinstance(source, Iterable) or _has_items(source) or hasattr(source, "heldout_dataloader")
    if isinstance(source, str | bytes | Mapping | type) or not readable:
        raise refuse("HeldOut(source", source, ACCEPTED)
    if isinstance(source, list | tuple) and any(isinstance(each, DataLoader) for each in source):
        raise ValueError(
            "HeldOut(source=<several loaders>): give one of them; each callback may have a HeldOut of its own"
        )


def _is_combined(source: Any) -> bool:
    """Return whether this is Lightning's CombinedLoader, from either of its two packages."""
    return hasattr(source, "iterables") and hasattr(source, "_mode")


class _Combined:
    """The batches of a CombinedLoader, without the numbers that it adds."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        try:
            for batch, *_ in self._loader:
                yield batch
        finally:
            self._loader.reset()


def by_key(source: Any, is_loader: bool) -> bool:
    """Return whether single samples can be read by their key; call it where random streams are restored.

    An object in a loader's place delivers batches, whatever else it can do; a loader with an ``__iter__`` of its own
    may deliver anything, so only its own batches are known to be right.
    """
    if isinstance(source, DataLoader):
        plain = type(source).__iter__ is DataLoader.__iter__ and type(source)._get_iterator is DataLoader._get_iterator
        single = source._auto_collation and not isinstance(source.dataset, IterableDataset)
        return plain and single and is_rereadable(source)
    return not is_loader and _is_dataset(source)


def _is_dataset(source: Any) -> bool:
    """Return whether an object is a data set of single samples: torch's own kind, or one that acts like it."""
    if not _has_items(source) or isinstance(source, IterableDataset):
        return False
    if isinstance(source, Dataset) or not isinstance(source, Iterable):
        return True
    items: Any = source
    return len(items) > 0 and _is_sample(items[0])  # and not a list of batches


def _has_items(source: Any) -> bool:
    return hasattr(source, "__len__") and hasattr(source, "__getitem__")


def _is_sample(item: Any) -> bool:
    """Return whether an item is a sample with its label, not a batch: the label is one number."""
    values = item.values() if isinstance(item, Mapping) else item if isinstance(item, tuple | list) else ()
    numbers = (int, float, np.number)
    return any(isinstance(v, numbers) or (isinstance(v, torch.Tensor) and v.dim() == 0) for v in values)


def keeps_samples(source: Any) -> bool:
    """Return whether this is read sample by sample; a loader of another kind continues from where it is."""
    return isinstance(source, DataLoader) or _has_items(source) or hasattr(source, "heldout_dataloader")
