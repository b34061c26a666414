"""Which samples of a data set are held out: seeded, and stratified by class where labels can be had."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset


def random_order(total: int, seed: int) -> torch.Tensor:
    """A permutation of ``range(total)`` that depends on the seed alone."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))


EACH = 4
"""Samples of a class where there are too many classes for each to have two: see docs/metrics/probe-accuracy.md."""


def stratified(labels: torch.Tensor, size: int, seed: int) -> torch.Tensor:
    """Positions of ``size`` samples in which each class keeps its share; sorted.

    The largest-remainder rule gives each class its count; within a class the choice is random, by the seed. Where that
    would leave most of the samples alone in their class, from which nothing could be learnt about classes, some classes
    are chosen at random and have ``EACH`` samples.
    """
    order = random_order(len(labels), seed)
    _, inverse, counts = labels[order].unique(return_inverse=True, return_counts=True)
    quotas = _largest_remainder(counts, size)
    if 2 * int(quotas[quotas > 1].sum()) < size:
        quotas = _some_classes(counts, size, seed)
    # Rank of each sample within its class, in random order: the first `quota` of each class are taken.
    by_class = torch.argsort(inverse, stable=True)
    starts = torch.cumsum(counts, 0) - counts
    rank = torch.empty_like(inverse)
    rank[by_class] = torch.arange(len(labels)) - starts[inverse[by_class]]
    return order[rank < quotas[inverse]].sort().values


def _some_classes(counts: torch.Tensor, size: int, seed: int) -> torch.Tensor:
    """``EACH`` samples of a class until there are ``size``: at random, first of those that have so many."""
    order = random_order(len(counts), seed)
    order = order[counts[order].clamp(max=EACH).argsort(descending=True, stable=True)]
    wanted = counts[order].clamp(max=EACH)
    taken = wanted.minimum((size - (wanted.cumsum(0) - wanted)).clamp(min=0))
    return torch.zeros_like(counts).index_copy_(0, order, taken)


def _largest_remainder(counts: torch.Tensor, size: int) -> torch.Tensor:
    exact = counts.double() * size / counts.sum()
    quotas = exact.floor().long()
    left = size - int(quotas.sum())
    quotas[torch.argsort(quotas - exact, stable=True)[:left]] += 1
    return quotas


def known_labels(dataset: Dataset[Any]) -> torch.Tensor | None:
    """Class labels ``(len(dataset),)`` that a data set holds in memory, without reading a sample; None if it has none.

    Found in ``TensorDataset``, in the ``targets`` or ``labels`` attribute that torchvision's data sets have,
    and through ``Subset`` and ``ConcatDataset``.
    """
    if isinstance(dataset, Subset):
        labels = known_labels(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(dataset.indices)]
    if isinstance(dataset, ConcatDataset):
        parts = [known_labels(part) for part in dataset.datasets]
        found = [part for part in parts if part is not None]
        return torch.cat(found) if len(found) == len(parts) else None
    if isinstance(dataset, TensorDataset):
        return class_labels(dataset.tensors[1]) if len(dataset.tensors) > 1 else None
    return _label_attribute(dataset)


def class_labels(targets: Any) -> torch.Tensor | None:
    """``targets`` as a vector of class indices, or None where they are not one (regression, masks, multi-label)."""
    try:
        tensor = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):
        return None
    is_class_index = tensor.dim() == 1 and not tensor.is_floating_point() and not tensor.is_complex()
    return tensor.long() if is_class_index else None


def _label_attribute(dataset: Dataset[Any]) -> torch.Tensor | None:
    for name in ("targets", "labels"):
        labels = class_labels(getattr(dataset, name, None))
        if labels is not None and len(labels) == len(dataset):  # type: ignore[arg-type]
            return labels
    return None
