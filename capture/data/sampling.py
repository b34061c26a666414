"""Choice of held-out samples: seeded, and stratified by class if labels are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from convscope.capture.data.targets import IGNORED

_PERMUTED = 1 << 24


def random_order(total: int, seed: int) -> torch.Tensor:
    """A permutation of ``range(total)`` that depends on the seed alone."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))


EACH = 4
"""Samples per class if there are too many classes for each to have two: see docs/metrics/probe-accuracy.md."""


def random_choice(total: int, size: int, seed: int) -> torch.Tensor:
    """At most ``size`` different numbers below ``total``, in random order, by the seed.

    For a very large total no permutation is made: numbers are drawn until enough differ.
    """
    if total <= max(_PERMUTED, 4 * size):
        return random_order(total, seed)[:size]
    generator, drawn = torch.Generator().manual_seed(seed), dict[int, None]()
    while len(drawn) < size:
        drawn.update(dict.fromkeys(torch.randint(total, (size,), generator=generator).tolist()))
    return torch.tensor(list(drawn)[:size])


def stratified(labels: torch.Tensor, size: int, seed: int, ignored: int | None = None) -> torch.Tensor:
    """Sorted positions of ``size`` samples in which each class keeps its share.

    The largest-remainder rule gives each class its count; within a class the choice is random, by the seed. If that
    would leave most of the samples alone in their class, from which nothing can be learnt about classes, some classes
    are chosen at random and have ``EACH`` samples. Samples whose label is ignored (-100, or ``ignored``) have no class:
    they are taken only if there are too few others.
    """
    no_class = (labels == IGNORED) | (labels == (IGNORED if ignored is None else ignored))
    if bool(no_class.any()):
        counted, others = (~no_class).nonzero().flatten(), no_class.nonzero().flatten()
        few = others[random_order(len(others), seed)][: max(0, size - len(counted))]
        kept = counted[stratified(labels[counted], size, seed)] if len(counted) > size else counted
        return torch.cat([kept, few]).sort().values
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
    """``EACH`` samples per class until there are ``size``: random classes, those that have so many first."""
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


def known_labels(dataset: Any) -> torch.Tensor | None:
    """Class labels ``(len(dataset),)`` that a data set holds in memory, without reading a sample; None if it has none.

    They are found in ``TensorDataset``, in the ``targets`` or ``labels`` attribute that torchvision's data sets have,
    and through ``Subset`` and ``ConcatDataset``.
    """
    if isinstance(dataset, Subset):
        return labels_at(known_labels(dataset.dataset), dataset.indices)
    if isinstance(dataset, ConcatDataset):
        parts = [known_labels(part) for part in dataset.datasets]
        found = [part for part in parts if part is not None]
        return torch.cat(found) if len(found) == len(parts) else None
    if isinstance(dataset, TensorDataset):
        return class_labels(dataset.tensors[1]) if len(dataset.tensors) > 1 else None
    return _label_attribute(dataset)


def labels_at(labels: torch.Tensor | None, keys: Sequence[Any]) -> torch.Tensor | None:
    """The labels of these keys; None if they are not numbers of samples."""
    if labels is None:
        return None
    if isinstance(keys, range) and keys.start == 0 and keys.step == 1:
        return labels[: len(keys)] if len(keys) <= len(labels) else None
    try:
        places = torch.as_tensor(keys)
        whole = places.dim() == 1 and not places.is_floating_point() and places.dtype != torch.bool
        return labels[places.long()] if whole else None
    except (TypeError, ValueError, RuntimeError, IndexError):
        return None


def class_labels(targets: Any) -> torch.Tensor | None:
    """``targets`` as a vector of class indices, None if they are something else (regression, masks, multi-label)."""
    try:
        tensor = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):
        return None
    is_class_index = tensor.dim() == 1 and not tensor.is_floating_point() and not tensor.is_complex()
    return tensor.long() if is_class_index else None


def _label_attribute(dataset: Any) -> torch.Tensor | None:
    for name in ("targets", "labels"):
        try:
            labels = class_labels(getattr(dataset, name, None))
            if labels is not None and len(labels) == len(dataset):
                return labels
        except Exception:  # a property of the user's that fails: labels are then read with the samples
            continue
    return None
