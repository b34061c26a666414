"""Scores of a probe: accuracy, chance, selectivity, and summaries over depth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from convscope._arguments import share, whole_number
from convscope.metrics.functional._precision import as_double, where_double_exists, without_graph
from convscope.metrics.functional._remembered import Remembered
from convscope.metrics.functional._validation import (
    check_probe_input,
    check_target,
    check_vector,
)
from convscope.metrics.functional.summary import rank_stability

_ROUNDING = 1e-6  # scores that differ by less, relative to their size, are equal but for rounding (logits: float32)

Scorer = Callable[[Tensor], Tensor]
"""A probe prepared on fixed features: labels ``(N,)`` in, out-of-sample scores ``(N, K)`` out."""


def encode_classes(target: Tensor) -> tuple[Tensor, Tensor]:
    """The classes present, sorted ``(K,)``, and each sample's position among them ``(N,)``."""
    classes, codes = torch.unique(target, sorted=True, return_inverse=True)
    return classes, codes


@dataclass(frozen=True)
class EncodedLabels:
    """Labels ``(N,)``, and what follows from them alone.

    Attributes:
        target: ``(N,)``.
        classes: ``(K,)`` the classes present, sorted.
        codes: ``(N,)`` each sample's place among them.
        counts: ``(K,)`` float64, how many samples each class has.
        sizes: The same, as plain numbers.
    """

    target: Tensor
    classes: Tensor
    codes: Tensor
    counts: Tensor
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, target: Tensor) -> EncodedLabels:
        """Labels of a ``target`` that nobody writes to."""
        classes, codes, counts = torch.unique(target, sorted=True, return_inverse=True, return_counts=True)
        return cls(target, classes, codes, as_double(counts), tuple(counts.tolist()))


_known_labels = Remembered(EncodedLabels.of, most=2)


def labels_of(target: Tensor) -> EncodedLabels:
    """Labels with what follows from them: a device is waited for to tell the classes once, and not by each layer."""
    return _known_labels(target)


def one_hot(codes: Tensor, num_classes: int) -> Tensor:
    """One-hot rows ``(..., K)`` in float64 of places among K classes."""
    rows = torch.zeros((*codes.shape, num_classes), dtype=torch.float64, device=where_double_exists(codes[:0]).device)
    return rows.scatter_(-1, codes.to(rows.device)[..., None], 1.0)


def best_classes(scores: Tensor, counts: Tensor) -> Tensor:
    """Classes ``(..., K)`` that a probe may name: the highest score; of equal ones the most frequent class.

    More than one where the frequencies are equal too: nothing tells these classes apart.

    Args:
        scores: ``(..., K)``; equal up to rounding counts as equal.
        counts: ``(K,)`` how many samples each class has.
    """
    highest = scores.amax(dim=-1, keepdim=True)
    tied = scores >= highest - _ROUNDING * (1 + highest.abs())
    frequency = tied * counts.to(scores)
    return tied & (frequency == frequency.amax(dim=-1, keepdim=True))


def _hits(scores: Tensor, target: Tensor) -> tuple[Tensor, EncodedLabels]:
    """Correctness of each sample ``(N,)``, a share if scores are equal, and the labels."""
    check_target(target, scores.shape[0])
    labels = labels_of(target)
    if scores.ndim != 2 or scores.shape[1] != labels.classes.numel() or scores.shape[0] == 0:
        raise ValueError(
            f"The scores must have shape (N, {labels.classes.numel()}), one column for each class present in the "
            f"target, got {tuple(scores.shape)}."
        )
    return _shares(scores, labels.codes, labels.counts), labels


def _shares(scores: Tensor, codes: Tensor, counts: Tensor) -> Tensor:
    """Share ``(..., N)`` of each sample's class among those that ``scores`` ``(..., N, K)`` name."""
    scores = as_double(scores)
    named = best_classes(scores, counts)
    right = named.gather(-1, codes.to(named.device)[..., None])[..., 0]
    return right / as_double(named.sum(dim=-1))


def probe_accuracy(scores: Tensor, target: Tensor) -> Tensor:
    """Share of samples whose highest score is their own class.

    Where several classes share the highest score, the most frequent of them is named; where these are equally frequent
    too, the sample counts as right by the chance of guessing among them. So a layer that says nothing scores as
    :func:`chance_level`, whatever the order of the classes.

    Args:
        scores: ``(N, K)``, one column for each class present in ``target``, sorted.
        target: ``(N,)`` class indices.

    Returns:
        A float32 scalar in [0, 1].

    Raises:
        ValueError: if shapes disagree or the target does not hold class indices.

    Source: reconstruction (the readout of a linear probe, Alain & Bengio 2016).

    Example:
        >>> import torch
        >>> probe_accuracy(torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), torch.tensor([3, 7, 7]))
        tensor(0.6667)
    """
    hits, _ = _hits(scores, target)
    return hits.mean().float()


def balanced_accuracy(scores: Tensor, target: Tensor) -> Tensor:
    """Mean over the classes present of the recall of each: a rare class counts like a frequent one.

    Args:
        scores: ``(N, K)``, one column for each class present in ``target``, sorted.
        target: ``(N,)`` class indices.

    Returns:
        A float32 scalar in [0, 1]; guessing gives ``1 / K`` whatever the class sizes. Equal scores are treated as in
        :func:`probe_accuracy`.

    Raises:
        ValueError: if shapes disagree or the target does not hold class indices.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
        >>> balanced_accuracy(scores, torch.tensor([0, 0, 0, 1]))
        tensor(0.3333)
    """
    return _balanced(*_hits(scores, target))


def _balanced(hits: Tensor, labels: EncodedLabels) -> Tensor:
    # Not bincount(weights=hits), which a GPU refuses under torch.use_deterministic_algorithms.
    sizes = labels.counts.to(hits.device)
    recall = torch.zeros_like(sizes).index_add_(0, labels.codes.to(hits.device), hits) / sizes
    return recall.mean().float()


def chance_level(target: Tensor) -> Tensor:
    """Accuracy of always naming the most frequent class.

    Args:
        target: ``(N,)`` class indices.

    Returns:
        A float32 scalar in (0, 1].

    Raises:
        ValueError: if the target is empty or does not hold class indices.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> chance_level(torch.tensor([0, 0, 0, 1]))
        tensor(0.7500)
    """
    check_target(target, target.shape[0] if target.ndim else 0)
    if target.numel() == 0:
        raise ValueError("The chance level needs samples, got an empty target.")
    largest = max(labels_of(target).sizes)
    return torch.full((), largest / target.numel(), dtype=torch.float32, device=target.device)


def control_accuracy(scorer: Scorer, target: Tensor, n_controls: int = 4, seed: int = 0) -> Tensor:
    """Mean accuracy of a prepared probe on randomly permuted labels (a control task).

    Args:
        scorer: a probe prepared on the features, from ``ridge_scorer`` and its like.
        target: ``(N,)`` class indices, in the order of the features.
        n_controls: how many permutations to average over.
        seed: of the permutations. The same seed and number of samples give the same permutations.

    Returns:
        A float32 scalar in [0, 1].

    Raises:
        ValueError: if ``n_controls`` is below 1.

    Source: reconstruction (Hewitt & Liang 2019, with permuted labels as the control).

    Example:
        >>> import torch
        >>> from convscope.metrics.functional import centroid_scorer
        >>> x, y = torch.arange(8.0)[:, None], torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
        >>> bool(control_accuracy(centroid_scorer(x, y), y) < 1)
        True
    """
    n_controls = whole_number("n_controls", n_controls)
    labels = labels_of(target)
    codes = labels.codes[_orders(len(target), n_controls, seed, target.device)]
    return _mean_accuracy(torch.cat([hits for _, hits in _judged(scorer, labels, codes)]))


class Judgement(NamedTuple):
    """Scores of a probe on its labels and on permuted ones.

    Attributes:
        scores: ``(N, K)``.
        accuracy: float32 scalar, as :func:`probe_accuracy`.
        balanced_accuracy: float32 scalar, as :func:`balanced_accuracy`.
        control_accuracy: float32 scalar, as :func:`control_accuracy`.
    """

    scores: Tensor
    accuracy: Tensor
    balanced_accuracy: Tensor
    control_accuracy: Tensor


def judge(scorer: Scorer, labels: EncodedLabels, n_controls: int, seed: int) -> Judgement:
    """Accuracy of a prepared probe on its labels and on permuted ones, all predicted together."""
    orders = _orders(len(labels.codes), n_controls, seed, labels.codes.device)
    found = list(_judged(scorer, labels, torch.cat([labels.codes[None], labels.codes[orders]])))
    hits = torch.cat([each for _, each in found])
    scores = found[0][0][0]
    return Judgement(scores, hits[0].mean().float(), _balanced(hits[0], labels), _mean_accuracy(hits[1:]))


def _mean_accuracy(hits: Tensor) -> Tensor:
    return as_double(hits.mean(dim=1).float()).mean().float()


@lru_cache(maxsize=8)  # all layers of a check have the same ones
def _orders(samples: int, n_controls: int, seed: int, device: torch.device) -> Tensor:
    """Permutations ``(n_controls, samples)``, not to be written to."""
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False):
        orders = [torch.randperm(samples, generator=generator) for _ in range(n_controls)]
        return torch.stack(orders).to(device)


def _judged(scorer: Scorer, labels: EncodedLabels, codes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores ``(l, N, K)`` and hits ``(l, N)`` of labellings ``(L, N)``, of as many at once as the scorer takes."""
    done = 0
    for scores in _scores_of(scorer, labels, codes):
        yield scores, _shares(scores, codes[done : done + len(scores)], labels.counts)
        done += len(scores)


def _scores_of(scorer: Scorer, labels: EncodedLabels, codes: Tensor) -> Iterable[Tensor]:
    together = getattr(scorer, "together", None)
    if together is not None:  # one product is faster than L
        found: Iterable[Tensor] = together(codes, len(labels.classes))
        return found
    return (scorer(labels.classes[one])[None] for one in codes)


def selectivity(scorer: Scorer, target: Tensor, n_controls: int = 4, seed: int = 0) -> Tensor:
    """Accuracy minus the accuracy of the same probe on permuted labels.

    High accuracy of a probe that fits any labelling says nothing about a layer: selectivity takes out what
    the probe would reach on labels that have nothing to do with the images.

    Args:
        scorer: a probe prepared on the features, from ``ridge_scorer`` and its like.
        target: ``(N,)`` class indices, in the order of the features.
        n_controls: how many permutations to average over.
        seed: of the permutations.

    Returns:
        A float32 scalar in [-1, 1].

    Raises:
        ValueError: if ``n_controls`` is below 1.

    Source: reconstruction (Hewitt & Liang 2019, with permuted labels as the control).

    Example:
        >>> import torch
        >>> from convscope.metrics.functional import ridge_scorer
        >>> x, y = torch.arange(8.0)[:, None], torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
        >>> bool(selectivity(ridge_scorer(x, y), y) > 0)
        True
    """
    return probe_accuracy(scorer(target), target) - control_accuracy(scorer, target, n_controls, seed)


def best_layer(accuracy: Tensor) -> Tensor:
    """Index of the layer with the highest accuracy; the shallowest where several share it.

    Args:
        accuracy: ``(L,)`` in order of depth.

    Returns:
        An int64 scalar in [0, L - 1].

    Raises:
        ValueError: if ``accuracy`` is not a finite vector with at least one entry.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> best_layer(torch.tensor([0.3, 0.8, 0.8]))
        tensor(1)
    """
    check_vector("accuracy", accuracy)
    return _first(accuracy == accuracy.max())


def probe_depth(accuracy: Tensor, tolerance: float = 0.05) -> Tensor:
    r"""Index of the first layer that comes within ``tolerance`` of the best.

    .. math:: \min\{l : a_l \ge m - \text{tolerance} \cdot |m|\}, \qquad m = \max_{l'} a_{l'}

    Args:
        accuracy: ``(L,)`` in order of depth.
        tolerance: relative, in [0, 1).

    Returns:
        An int64 scalar in [0, L - 1].

    Raises:
        ValueError: if ``accuracy`` is not a finite vector or ``tolerance`` is out of range.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> probe_depth(torch.tensor([0.30, 0.77, 0.80]))
        tensor(1)
    """
    check_vector("accuracy", accuracy)
    tolerance = share("tolerance", tolerance, zero=True, below_one=True)
    accuracy = as_double(accuracy)
    best = accuracy.max()
    factor = 1 - tolerance if best > 0 else 1 + tolerance  # an R² may be negative everywhere
    return _first(accuracy >= factor * best)


def depth_monotonicity(accuracy: Tensor) -> Tensor:
    """Spearman correlation of depth and accuracy: 1 if each layer is more accurate than the one before.

    Args:
        accuracy: ``(L,)`` in order of depth.

    Returns:
        A float32 scalar in [-1, 1]; NaN, not measured, for a single layer or where all layers have one accuracy.

    Raises:
        ValueError: if ``accuracy`` is not a finite vector with at least one entry.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> depth_monotonicity(torch.tensor([0.3, 0.5, 0.9]))
        tensor(1.)
    """
    check_vector("accuracy", accuracy)
    depth = torch.arange(accuracy.numel(), dtype=torch.float64, device=accuracy.device)
    return rank_stability(accuracy, depth)


def _first(condition: Tensor) -> Tensor:
    return condition.to(torch.int64).argmax()


def prepare_probe_input(features: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Features and targets on one device, checked but for values of features, as :func:`standardise` does."""
    check_probe_input(features, target)
    sizes = labels_of(target).sizes
    if len(sizes) == 1:
        raise ValueError(
            f"A probe needs at least 2 classes, but each of the {target.shape[0]} targets is class "
            f"{int(target[0])}. Draw the held-out set from more classes, for instance stratified or shuffled."
        )
    if max(sizes) < 2:
        raise ValueError(
            f"Each of the {len(target)} samples has a class of its own: a probe predicts a sample from others of its "
            "class. Use a larger held-out set."
        )
    return without_graph(features), target.to(features.device)
