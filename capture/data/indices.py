"""Keys of the samples that a loader delivers, from its own sampler, in an order that shuffling does not change."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, SequentialSampler

MOST = 2_000_000
"""Keys read from a sampler of the user's own; one that yields more is taken to have these."""

_PATIENCE = 1000


@dataclass(frozen=True)
class Indices:
    """Keys of a data set, each once, in canonical order.

    Attributes:
        keys: Arguments for the data set's ``__getitem__``; ``range(n)`` if they are all numbers below ``n``.
        batch_size: Samples in a batch of the loader.
    """

    keys: Sequence[Any]
    batch_size: int

    @property
    def digest(self) -> str:
        """Text that is equal if two processes found the same keys."""
        if isinstance(self.keys, range):
            return repr(self.keys)
        return hashlib.sha256(repr(list(map(_canonical, self.keys))).encode()).hexdigest()


def is_rereadable(loader: DataLoader[Any]) -> bool:
    """Return whether the loader's sampler can be read again: one that returns the same iterator each time cannot.

    Call it where random streams are restored.
    """
    return all(iter(each) is not iter(each) for each in (_inner(loader), loader.batch_sampler) if each is not None)


def loader_indices(loader: DataLoader[Any]) -> Indices:
    """Keys that this process's loader asks its data set for; call it where random streams and samplers are restored."""
    sampler = _inner(loader)
    whole = _known_range(sampler)
    if whole is not None:
        return Indices(whole, loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or 1)
    if type(loader.batch_sampler) is BatchSampler or loader.batch_sampler is None:
        return Indices(_unique(sampler), loader.batch_size or loader.batch_sampler.batch_size)  # type: ignore[union-attr]
    sizes: Counter[int] = Counter()
    keys = _unique(_flat(loader.batch_sampler, sizes))
    return Indices(keys, sizes.most_common(1)[0][0] if sizes else 1)


def union(found: list[Indices]) -> Indices:
    """All keys of several processes' loaders."""
    first = found[0]
    if all(other.keys == first.keys for other in found[1:]):
        return first
    return Indices(_unique(key for indices in found for key in indices.keys), first.batch_size)


def _inner(loader: DataLoader[Any]) -> Any:
    """The sampler that decides: inside a plain batch sampler, and inside a sampler that splits among processes."""
    sampler: Any = loader.batch_sampler
    if type(sampler) is BatchSampler or sampler is None:
        sampler = loader.sampler if sampler is None else sampler.sampler
    while isinstance(sampler, DistributedSampler) and hasattr(sampler.dataset, "_sampler"):
        sampler = sampler.dataset._sampler  # Lightning's wrapper around a sampler of the user's
    return sampler


def _known_range(sampler: Any) -> range | None:
    """Keys of a sampler of torch's own that yields every number: it need not be read, nor its permutation made."""
    if type(sampler) is SequentialSampler:
        return range(len(sampler.data_source))
    if type(sampler) is RandomSampler and not sampler.replacement and sampler._num_samples is None:
        return range(len(sampler.data_source))  # type: ignore[arg-type]
    # Each process has its share; a sampler that drops the last few samples drops different ones in each epoch.
    return range(len(sampler.dataset)) if type(sampler) is DistributedSampler else None  # type: ignore[arg-type]


def _flat(batches: Iterable[Any], sizes: Counter[int]) -> Iterator[Any]:
    for batch in batches:
        keys = list(batch)
        sizes[len(keys)] += 1
        yield from keys


def _unique(keys: Iterable[Any]) -> Sequence[Any]:
    """The keys, each once, in canonical order.

    A sampler may never end: it is read until it has long repeated itself, or has yielded very many.
    """
    by_name: dict[Any, Any] = {}
    stale = 0
    for key in itertools.islice(keys, MOST):
        name = _canonical(key)
        if name in by_name:
            stale += 1
            if stale > len(by_name) + _PATIENCE:
                break
        else:
            by_name[name], stale = key, 0
    try:
        names = sorted(by_name)
    except TypeError:  # keys of several types: any order will do, if all processes find the same
        names = sorted(by_name, key=lambda name: (type(name).__name__, repr(name)))
    return [by_name[name] for name in names]


def _canonical(key: Any) -> Any:
    """A key as something that can be compared: 0-d tensors and NumPy's numbers are numbers, a list is its items."""
    if type(key) is int or type(key) is str:
        return key
    if isinstance(key, torch.Tensor | np.ndarray | np.generic):
        return _canonical(key.tolist())
    if isinstance(key, list | tuple):
        return tuple(_canonical(item) for item in key)
    if isinstance(key, slice):
        return "slice", key.start, key.stop, key.step
    try:
        hash(key)
    except TypeError:
        return repr(key)
    return key
