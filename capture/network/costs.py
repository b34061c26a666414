"""Counted work of layers: multiplications of a forward pass, and the share of a training step that freezing saves."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from convscope.capture.network.trace import Layer


def multiplications(layer: Layer) -> int:
    """Multiplications per sample in a layer's forward pass: its weights, each used once per output position.

    0 for a layer without a module, or without weights of two or more dimensions.
    """
    weight = getattr(layer.module, "weight", None)
    return 0 if weight is None or weight.dim() < 2 else int(weight.numel()) * prod(layer.spatial)


def freezing_saves(work: Sequence[float]) -> list[float]:
    r"""Share of a training step that is saved where layers are frozen from the input on, up to each in turn.

    A step is counted as three times a layer's forward: forward, gradient of its weights, gradient of its input, which
    the first layer does not need, nor the first one behind the frozen ones.

    Args:
        work: Work of each layer's forward pass, in the order in which they run.

    Returns:
        Shares in [0, 1], one per layer; zeros where there is no work at all.

    Example:
        >>> [round(share, 2) for share in freezing_saves([1.0, 1.0, 1.0])]
        [0.25, 0.5, 0.62]
    """
    step = 3 * sum(work) - (work[0] if work else 0)
    if not step:
        return [0.0] * len(work)
    behind = [*work[1:], 0.0]
    return [(2 * sum(work[: place + 1]) - work[0] + behind[place]) / step for place in range(len(work))]
