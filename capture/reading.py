"""Read held-out samples from a data set by number, or from an iterable of batches in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from convscope.capture.batches import batch_length, tree_cat, tree_map
from convscope.capture.errors import users_code
from convscope.capture.sampling import class_labels, known_labels, random_order, stratified

Adapted = Callable[[Any], tuple[Any, torch.Tensor | None]]
Samples = tuple[Any, torch.Tensor | None, torch.Tensor]

CANDIDATES = 4
"""Samples read for their labels, as a multiple of the held-out size, where a data set has no label attribute."""


def read_selected(
    loader: DataLoader[Any],
    adapted: Adapted,
    size: int,
    stratify: bool,
    seed: int,
    rank: int,
    world_size: int,
) -> Samples:
    """Choose ``size`` samples of the loader's data set and read this process's share.

    The loader's own workers and collate function are used, its sampler is not: a shuffling or distributed
    sampler would make the choice differ from process to process. Returns inputs, targets, and each sample's
    number in the held-out set; a number of -1 marks a sample that only fills an empty share.
    """
    chosen = _choose(loader, adapted, size, stratify, seed)
    numbers = torch.arange(len(chosen))[rank::world_size]
    if len(numbers) == 0 and len(chosen) > 0:
        inputs, targets = _read(loader, chosen[:1], adapted, seed)
        return inputs, targets, torch.tensor([-1])
    inputs, targets = _read(loader, chosen[numbers], adapted, seed)
    return inputs, targets, numbers


def read_all(source: Iterable[Any], adapted: Adapted, size: int, rank: int, world_size: int) -> Samples:
    """The first ``size`` samples of an iterable of batches; this process keeps every ``world_size``-th."""
    parts: list[Samples] = []
    read = 0
    for batch in _batches(source):
        inputs, targets = adapted(batch)
        numbers = torch.arange(read, min(read + batch_length(inputs), size))
        parts.append(_taken(inputs, targets, numbers, numbers % world_size == rank))
        read += batch_length(inputs)
        if read >= size:
            break
    inputs, targets, numbers = _joined(parts)
    if read > 0 and len(numbers) == 0:
        return _taken(*adapted(batch), torch.tensor([-1]), torch.tensor([True]))
    return inputs, targets, numbers


def _taken(inputs: Any, targets: torch.Tensor | None, numbers: torch.Tensor, mine: torch.Tensor) -> Samples:
    here = mine.nonzero().flatten()
    return tree_map(lambda t: t[here], inputs), None if targets is None else targets[here], numbers[mine]


def _choose(loader: DataLoader[Any], adapted: Adapted, size: int, stratify: bool, seed: int) -> torch.Tensor:
    total = len(loader.dataset)  # type: ignore[arg-type]
    if total <= size:
        return torch.arange(total)
    order = random_order(total, seed)
    if not stratify:
        return order[:size].sort().values
    labels = known_labels(loader.dataset)
    if labels is not None:
        return stratified(labels, size, seed)
    candidates = order[: CANDIDATES * size]
    labels = _labels_of(loader, candidates, adapted, seed)
    kept = torch.arange(size) if labels is None else stratified(labels, size, seed)
    return candidates[kept].sort().values


def _labels_of(loader: DataLoader[Any], candidates: torch.Tensor, adapted: Adapted, seed: int) -> torch.Tensor | None:
    found: list[torch.Tensor] = []
    for batch in _batches(_subset_loader(loader, candidates, seed)):
        labels = class_labels(adapted(batch)[1])
        if labels is None:
            return None
        found.append(labels)
    return torch.cat(found)


def _read(loader: DataLoader[Any], chosen: torch.Tensor, adapted: Adapted, seed: int) -> tuple[Any, Any]:
    batches = _batches(_subset_loader(loader, chosen, seed))
    inputs, targets, _ = _joined([(*adapted(batch), torch.empty(0)) for batch in batches])
    return inputs, targets


def _subset_loader(loader: DataLoader[Any], chosen: torch.Tensor, seed: int) -> DataLoader[Any]:
    return DataLoader(
        Subset(loader.dataset, chosen.tolist()),
        batch_size=loader.batch_size or 128,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=torch.Generator().manual_seed(seed),
    )


def _batches(source: Iterable[Any]) -> Iterator[Any]:
    """The batches of a loader, whose data set and collate function are the user's own code."""
    with users_code("reading a held-out batch"):
        batches = iter(source)
    while True:
        with users_code("reading a held-out batch"):
            try:
                batch = next(batches)
            except StopIteration:
                return
        yield batch


def _joined(parts: list[tuple[Any, torch.Tensor | None, torch.Tensor]]) -> Samples:
    if not parts:
        return torch.empty(0), None, torch.empty(0, dtype=torch.long)
    inputs, targets, numbers = zip(*parts, strict=True)
    joined = None if any(t is None for t in targets) else torch.cat(list(targets))
    return tree_cat(list(inputs)), joined, torch.cat(numbers)
