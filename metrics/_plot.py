"""Plots of metrics' results: what ``Metric.plot`` of torchmetrics draws, and vectors and matrices besides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MOST_NUMBERED = 24  # bars whose numbers do not touch


def parts_to_draw(value: Any, fields: Sequence[str]) -> Tensor | dict[str, Tensor]:
    """Part of a result that is drawn: a named tuple's named fields, else its single numbers, else its first vector."""
    if isinstance(value, Tensor):
        return value.squeeze() if value.numel() == 1 else value
    found: dict[str, Tensor] = {name: part for name, part in value._asdict().items() if isinstance(part, Tensor)}
    if len(fields) == 1:
        return found[fields[0]]
    if fields:
        return {name: found[name] for name in fields}
    single = {name: part for name, part in found.items() if part.numel() == 1 and part.dim() == 0}
    return single or next(iter(found.values()))


def draw_array(
    values: Tensor, name: str, ax: Any = None, labels: tuple[str, str] = ("filter", "filter")
) -> tuple[Any, Any]:
    """A vector as bars, a matrix as a heat-map.

    Args:
        values: ``(C,)`` or ``(C, K)``.
        name: what the values are.
        ax: matplotlib's axes to draw on; None for a new figure.
        labels: what rows and columns are.

    Returns:
        Figure and axes; the figure is that of ``ax`` where it was given.
    """
    from torchmetrics.utilities.plot import _error_on_missing_matplotlib

    _error_on_missing_matplotlib()
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots() if ax is None else (ax.get_figure(), ax)
    shown = values.detach().double().cpu()
    if shown.dim() == 1:
        ax.bar(range(len(shown)), shown.numpy())
        ax.set_ylabel(name)
        ax.set_xlabel(labels[0])
        if len(shown) <= MOST_NUMBERED:
            ax.set_xticks(range(len(shown)))
        return figure, ax
    bound = float(shown[torch.isfinite(shown)].abs().max()) if torch.isfinite(shown).any() else 1.0
    signed = bool((shown < 0).any())
    limits = {"vmin": -bound, "vmax": bound} if signed else {"vmin": 0.0, "vmax": bound}
    image = ax.imshow(shown.numpy(), cmap="RdBu_r" if signed else "viridis", aspect="auto", **limits)
    figure.colorbar(image, ax=ax, label=name)
    ax.set_ylabel(labels[0])
    ax.set_xlabel(labels[1])
    return figure, ax
