"""Redundant filters: pairs by layer, as text, and filters that are copies of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from convscope.callbacks.engine.findings import Vector
from convscope.capture.network.trace import Layer
from convscope.capture.network.weights import filter_weights
from convscope.loggers import escape_markdown

MOST_LISTED = 20
COPY = 0.99  # |ρ| of the activations and |cosine| of the weights from which on two filters are one and the same


class Pairs(NamedTuple):
    """Redundant pairs of filters in one layer.

    Attributes:
        filters: Number of the layer's filters.
        redundant: Number of their pairs that are redundant.
        listed: The most similar pairs: both filter numbers and ``ρ``.
    """

    filters: int
    redundant: int
    listed: list[tuple[int, int, float]]


def redundant_pairs(matrix: Vector, threshold: float) -> Pairs:
    """Pairs of filters with ``|ρ|`` above a threshold, the most similar first, at most 20.

    Args:
        matrix: ``(C, C)`` Pearson correlations; NaN counts as none.
        threshold: in (0, 1).

    >>> redundant_pairs(np.array([[1, 0.95, 0.1], [0.95, 1, -0.99], [0.1, -0.99, 1]]), 0.9)
    Pairs(filters=3, redundant=2, listed=[(1, 2, -0.99), (0, 1, 0.95)])
    """
    with np.errstate(invalid="ignore"):
        found = np.argwhere(np.triu(np.abs(matrix) > threshold, k=1))
    values = matrix[found[:, 0], found[:, 1]]
    order = np.argsort(-np.abs(values), kind="stable")[:MOST_LISTED]
    return Pairs(len(matrix), len(found), [(int(found[i, 0]), int(found[i, 1]), float(values[i])) for i in order])


def copied_share(layer: Layer, matrix: Vector) -> float:
    """Share of a layer's filters that are copies: same activations and same weights, up to a factor, as another.

    Alike activations alone are no copy: near the output filters come to say the same by different weights. NaN where a
    filter has no weights of its own.

    Args:
        layer: The layer.
        matrix: ``(C, C)`` Pearson correlations of its activations; NaN counts as none.
    """
    with np.errstate(invalid="ignore"):
        alike = (np.abs(matrix) >= COPY) & ~np.eye(len(matrix), dtype=bool)
    suspects = np.flatnonzero(alike.any(axis=0))
    weights = filter_weights(layer) if len(suspects) else None
    if weights is None:
        return float("nan") if len(suspects) else 0.0
    chosen = torch.nn.functional.normalize(weights[torch.as_tensor(suspects, device=weights.device)].float(), dim=1)
    same = (chosen @ chosen.T).abs().cpu().numpy() >= COPY
    return float((same & alike[np.ix_(suspects, suspects)]).any(axis=0).sum() / len(matrix))


def redundancy_text(pairs: Mapping[str, Pairs], threshold: float, when: str) -> str:
    """Markdown list of the redundant pairs of each layer that has any, in depth order.

    >>> print(redundancy_text({"conv1": Pairs(8, 1, [(2, 5, -0.97)]), "conv2": Pairs(8, 0, [])}, 0.9, "epoch 3"))
    Pairs of filters with |ρ| above 0.9, epoch 3: 1 in 1 of 2 layers. A negative ρ is a filter and its opposite.
    <BLANKLINE>
    - **conv1**, 1 of 28 pairs: 2 & 5 (ρ −0.97)
    """
    having = [name for name, one in pairs.items() if one.redundant]
    total = sum(one.redundant for one in pairs.values())
    head = (
        f"Pairs of filters with |ρ| above {threshold:g}, {when}: {total} in {len(having)} of {len(pairs)} layers. "
        "A negative ρ is a filter and its opposite."
    )
    return "\n".join([head, "", *(_line(name, pairs[name]) for name in having)]).rstrip("\n")


def _line(name: str, found: Pairs) -> str:
    listed = ", ".join(f"{a} & {b} (ρ {value:.2f})".replace("-", "−") for a, b, value in found.listed)
    left = found.redundant - len(found.listed)
    more = f", and {left} more" if left else ""
    of = found.filters * (found.filters - 1) // 2
    return f"- **{escape_markdown(name)}**, {found.redundant} of {of} pairs: {listed}{more}"
