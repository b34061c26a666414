"""Probes without a fit: nearest neighbours and nearest class centroid, on samples left out."""

from __future__ import annotations

import torch
from torch import Tensor

from convscope._arguments import whole_number
from convscope.metrics.functional._precision import standardise
from convscope.metrics.functional.folds import left_out_with
from convscope.metrics.functional.scores import Scorer, encode_classes, prepare_probe_input

_NEIGHBOURS = "a whole number of neighbours"
_CHUNK_ELEMENTS = 4_000_000
_ROUNDING = 1e-9  # squared distances that differ by less, relative to the largest square, are equal


def knn_scorer(features: Tensor, target: Tensor, k: int = 20) -> Scorer:
    """Features prepared once; any labels may vote afterwards. See :func:`knn_probe_scores`.

    Args:
        features: ``(N, C)``.
        target: ``(N,)`` class indices, checked here.
        k: neighbours that vote.

    Returns:
        A function from labels ``(N,)`` to vote shares ``(N, K)`` of samples left out.

    Raises:
        ValueError: if :func:`knn_probe_scores` would raise it.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([0.0, 1, 2, 8, 9, 10])[:, None], torch.tensor([0, 0, 0, 1, 1, 1])
        >>> knn_scorer(x, y, k=1)(y)[0]
        tensor([1., 0.], dtype=torch.float64)
    """
    k = whole_number("k", k, _NEIGHBOURS)
    features, target = prepare_probe_input(features, target)
    others = len(features) - 1
    k = whole_number("k", k, f"{_NEIGHBOURS} among the {others} other samples", most=others)
    points = standardise(features)
    return lambda labels: _votes(points, labels.to(points.device), k)


def knn_probe_scores(features: Tensor, target: Tensor, k: int = 20) -> Tensor:
    """Vote shares of the ``k`` nearest other samples, Euclidean, standardised features.

    Neither the sample itself votes nor one sample of each other class: those that vote are as many of each class
    whatever the class of the sample. Where fewer than ``k`` are left, all vote. Samples at the same distance, of which
    only some are among the ``k``, share those votes.

    Args:
        features: ``(N, C)``, of any float type.
        target: ``(N,)`` class indices; only the classes present get a column.
        k: neighbours that vote, from 1 to N - 1.

    Returns:
        ``(N, K)`` float64 in [0, 1], rows summing to 1. Columns are the classes present, sorted.

    Raises:
        ValueError: if shapes or types disagree, the target is not class indices, a feature is NaN or Inf, there
            is only one class, or ``k`` is out of range.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([0.0, 1, 2, 8, 9, 10])[:, None], torch.tensor([0, 0, 0, 1, 1, 1])
        >>> knn_probe_scores(x, y, k=2).argmax(dim=1)
        tensor([0, 0, 0, 1, 1, 1])
    """
    return knn_scorer(features, target, k)(target)


def _votes(points: Tensor, labels: Tensor, k: int) -> Tensor:
    """Vote shares ``(N, K)``, a block of rows at a time so that memory stays bounded."""
    classes, codes = encode_classes(labels)
    square, left_out = points.square().sum(dim=1), left_out_with(codes, len(classes))
    # One sample of each class is left out for every row, so that many fewer are there to vote.
    voters = min(k, len(points) - len(classes))
    rounding = _ROUNDING * (1 + float(square.max()))
    blocks = []
    for rows in torch.arange(len(points), device=points.device).split(max(1, _CHUNK_ELEMENTS // len(points))):
        distance = square - 2 * points[rows] @ points.T  # the row's own square does not change its order
        distance.scatter_(1, left_out[rows], torch.inf)
        weights = _weights(distance, voters, rounding)
        votes = weights.new_zeros(len(rows), len(classes))
        blocks.append(votes.scatter_add_(1, codes.expand(len(rows), -1), weights))
    return torch.cat(blocks)


def _weights(distance: Tensor, voters: int, rounding: float) -> Tensor:
    """Weight of each sample's vote; samples as far as the last voter share what is left of the votes."""
    last = distance.topk(voters, largest=False).values[:, -1:]
    nearer = (distance < last - rounding).double()
    level = (distance - last).abs() <= rounding
    rest = (voters - nearer.sum(dim=1, keepdim=True)) / level.sum(dim=1, keepdim=True)
    return torch.where(level, rest, nearer) / voters


def centroid_scorer(features: Tensor, target: Tensor) -> Scorer:
    """Nearest centroid prepared on ``features``. See :func:`centroid_probe_scores`.

    Args:
        features: ``(N, C)``.
        target: ``(N,)`` class indices, checked here.

    Returns:
        A function from labels ``(N,)`` to scores ``(N, K)`` of samples left out.

    Raises:
        ValueError: if :func:`centroid_probe_scores` would raise it.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([0.0, 1, 2, 8, 9, 10])[:, None], torch.tensor([0, 0, 0, 1, 1, 1])
        >>> centroid_scorer(x, y)(y).shape
        torch.Size([6, 2])
    """
    features, target = prepare_probe_input(features, target)
    points = standardise(features)
    return lambda labels: _centroid_scores(points, labels.to(points.device))


def centroid_probe_scores(features: Tensor, target: Tensor) -> Tensor:
    r"""Exact nearest centroid: minus the squared distance to each class mean, on samples left out.

    Standardised features. The sample is taken out of its own class's mean, and one sample out of each other: a mean of
    fewer samples is a farther one, so that taking out the sample alone would tell its class. Without sample j the mean
    of n is :math:`\tfrac{n m - x_j}{n - 1}`, which needs no second pass.

    Args:
        features: ``(N, C)``, of any float type.
        target: ``(N,)`` class indices; only the classes present get a column.

    Returns:
        ``(N, K)`` float64, at most 0; minus infinity for a class with one sample. Columns are the classes present,
        sorted.

    Raises:
        ValueError: if shapes or types disagree, the target is not class indices, a feature is NaN or Inf, or
            there is only one class.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([0.0, 1, 2, 8, 9, 10])[:, None], torch.tensor([0, 0, 0, 1, 1, 1])
        >>> centroid_probe_scores(x, y).argmax(dim=1)
        tensor([0, 0, 0, 1, 1, 1])
    """
    return centroid_scorer(features, target)(target)


def _centroid_scores(points: Tensor, labels: Tensor) -> Tensor:
    classes, codes = encode_classes(labels)
    count = torch.bincount(codes).double()
    means = torch.zeros(len(classes), points.shape[1], dtype=points.dtype, device=points.device)
    means.index_add_(0, codes, points).div_(count[:, None])
    left_out, square, towards = left_out_with(codes, len(classes)), points.square().sum(dim=1), points @ means.T
    # ‖nm − x_j‖², the mean without sample j but for the factor n − 1.
    length = (count * means.norm(dim=1)).square() - 2 * count * towards.gather(0, left_out) + square[left_out]
    inner = count * towards - _products(points, left_out)
    distance = square[:, None] - 2 * inner / (count - 1) + length / (count - 1).square()
    return -torch.where(count > 1, distance.clamp(min=0), torch.inf)


def _products(points: Tensor, others: Tensor) -> Tensor:
    """Inner products ``(N, K)`` of each row with its others."""
    rows = torch.arange(len(points), device=points.device).split(max(1, _CHUNK_ELEMENTS // len(points)))
    return torch.cat([(points[block] @ points.T).gather(1, others[block]) for block in rows])
