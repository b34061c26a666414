"""Probes without a fit: nearest neighbours and nearest class centroid, both leave-one-out."""

from __future__ import annotations

import torch
from torch import Tensor

from convscope.metrics.functional._precision import standardise
from convscope.metrics.functional._validation import check_positive_int
from convscope.metrics.functional.scores import Scorer, one_hot, prepare_probe_input

_CHUNK_ELEMENTS = 4_000_000


def knn_scorer(features: Tensor, target: Tensor, k: int = 20) -> Scorer:
    """Nearest neighbours found once; any labels may vote afterwards. See :func:`knn_probe_scores`.

    Args:
        features: ``(N, C)``.
        target: ``(N,)`` class indices, checked here.
        k: neighbours that vote.

    Returns:
        A function from labels ``(N,)`` to leave-one-out vote shares ``(N, K)``.

    Raises:
        ValueError: for what :func:`knn_probe_scores` refuses.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([0.0, 1, 2, 8, 9, 10])[:, None], torch.tensor([0, 0, 0, 1, 1, 1])
        >>> knn_scorer(x, y, k=1)(y)[0]
        tensor([1., 0.], dtype=torch.float64)
    """
    check_positive_int("k", k)
    features, target = prepare_probe_input(features, target)
    if k > len(features) - 1:
        raise ValueError(
            f"`k` must be at most N - 1 = {len(features) - 1}, the number of other samples, got {k}. "
            "Lower `k` or enlarge the held-out set."
        )
    neighbours = _nearest_others(standardise(features), k)
    return lambda labels: one_hot(labels.to(neighbours.device))[neighbours].mean(dim=1)


def knn_probe_scores(features: Tensor, target: Tensor, k: int = 20) -> Tensor:
    """Leave-one-out vote shares of the ``k`` nearest other samples, Euclidean, standardised features.

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


def _nearest_others(points: Tensor, k: int) -> Tensor:
    """Indices ``(N, k)`` of the nearest other rows, a block of rows at a time so that memory stays bounded."""
    square = points.square().sum(dim=1)
    blocks = []
    everyone = torch.arange(len(points), device=points.device)
    for rows in torch.split(everyone, max(1, _CHUNK_ELEMENTS // len(points))):
        distance = square - 2 * points[rows] @ points.T  # the row's own square does not change its order
        distance[torch.arange(len(rows), device=points.device), rows] = torch.inf
        blocks.append(distance.topk(k, largest=False).indices)
    return torch.cat(blocks)


def centroid_scorer(features: Tensor, target: Tensor) -> Scorer:
    """Nearest centroid prepared on ``features``. See :func:`centroid_probe_scores`.

    Args:
        features: ``(N, C)``.
        target: ``(N,)`` class indices, checked here.

    Returns:
        A function from labels ``(N,)`` to leave-one-out scores ``(N, K)``.

    Raises:
        ValueError: for what :func:`centroid_probe_scores` refuses.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([0.0, 1, 2, 8, 9, 10])[:, None], torch.tensor([0, 0, 0, 1, 1, 1])
        >>> centroid_scorer(x, y)(y).shape
        torch.Size([6, 2])
    """
    features, target = prepare_probe_input(features, target)
    points = standardise(features)
    return lambda labels: _centroid_scores(points, one_hot(labels.to(points.device)))


def centroid_probe_scores(features: Tensor, target: Tensor) -> Tensor:
    r"""Exact leave-one-out nearest centroid: minus the squared distance to each class mean.

    Standardised features. The sample is taken out of its own class's mean, which gives its distance as
    :math:`\left(\tfrac{n}{n-1}\right)^2 \|x_i - m\|^2` without a second pass.

    Args:
        features: ``(N, C)``, of any float type.
        target: ``(N,)`` class indices; only the classes present get a column.

    Returns:
        ``(N, K)`` float64, at most 0; minus infinity for the own class of a sample that is the only one of it.
        Columns are the classes present, sorted.

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


def _centroid_scores(points: Tensor, membership: Tensor) -> Tensor:
    count = membership.sum(dim=0)
    means = (membership.T @ points) / count[:, None]
    distance = points.square().sum(1, keepdim=True) - 2 * points @ means.T + means.square().sum(1)
    distance = distance.clamp(min=0)
    own = distance * (count / (count - 1)).square()
    own = torch.where(count == 1, torch.inf, own)
    return -torch.where(membership.bool(), own, distance)
