"""Order of a tensor's rows: their samples in the batch, inferred from the values that the network computes.

A network may fold views, frames or tiles into the batch, and no shape tells in which order. So the same few samples are
run in three orders: the rows of a layer must move as the samples do, in exactly one division of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

Moved = Sequence[tuple[Sequence[int], torch.Tensor]]

_COLUMNS, _FEWEST, _NUMBERS = 512, 8, 2**19
# A division is chosen over another if it explains the rows this many times better.
_CLEARLY = 4.0


@dataclass(frozen=True)
class RowOrder:
    """Rows of ``n`` samples, in the order ``(outer, n, inner)``.

    Attributes:
        outer: Blocks that hold all samples once each: views that were joined with ``torch.cat``, time-major frames.
        inner: Rows of one sample that lie side by side within a block: windows, frames behind ``flatten(0, 1)``.
    """

    outer: int = 1
    inner: int = 1

    @property
    def repeats(self) -> int:
        """Number of rows of one sample."""
        return self.outer * self.inner

    def fold(self, tensor: torch.Tensor) -> torch.Tensor:
        """``(n, repeats, ...)`` from ``(n · repeats, ...)``."""
        apart = tensor.reshape(self.outer, -1, self.inner, *tensor.shape[1:])
        return apart.movedim(1, 0).reshape(-1, self.repeats, *tensor.shape[1:])

    def unfold(self, tensor: torch.Tensor) -> torch.Tensor:
        """``(n · repeats, ...)`` from ``(n, repeats, ...)``: the inverse of :meth:`fold`."""
        apart = tensor.reshape(-1, self.outer, self.inner, *tensor.shape[2:])
        return apart.movedim(0, 1).reshape(-1, *tensor.shape[2:])

    def moved(self, order: Sequence[int]) -> torch.Tensor:
        """Row numbers after the samples are put into another order."""
        samples = len(order)
        rows = torch.arange(samples * self.repeats).view(self.outer, samples, self.inner)
        return rows[:, list(order)].flatten()


def divisions(repeats: int) -> Iterator[RowOrder]:
    """Every way in which a sample's rows can be divided, sample-major first."""
    for outer in range(1, repeats + 1):
        if repeats % outer == 0:
            yield RowOrder(outer, repeats // outer)


def signature(tensor: torch.Tensor) -> torch.Tensor:
    """Signatures ``(rows, columns)`` on the CPU: enough of each row to recognise it, however large it is."""
    rows = tensor.detach()
    rows = rows.flatten(1) if rows.dim() > 1 else rows[:, None]  # unlike a reshape, also where there are no rows
    if rows.is_complex():
        rows = torch.view_as_real(rows).flatten(1)
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    columns = max(_FEWEST, min(_COLUMNS, _NUMBERS // max(1, len(rows))))
    few = rows[:, :: max(1, rows.shape[1] // columns)]
    of_all = [rows.mean(1), torch.linalg.vector_norm(rows, dim=1) / rows.shape[1] ** 0.5] if rows.shape[1] else []
    return torch.cat([few, *(column[:, None] for column in of_all)], 1).cpu()


class RowEvidence(NamedTuple):
    """Evidence from one operation's rows when the samples changed places: a ``verdict``, and the order if known.

    ``"silent"`` rows are equal, as those of a dead layer; ``"mixed"`` rows fit no division; ``"random"`` rows fit no
    division and change with the seed.
    """

    verdict: Literal["told", "silent", "mixed", "random"]
    order: RowOrder | None = None


def weigh(base: torch.Tensor, moved: Moved, repeats: int, precision: float) -> RowEvidence:
    """Compare the rows of one order of the samples with those of others.

    Args:
        base: Signatures ``(n · repeats, D)`` of the samples in their first order.
        moved: Other orders of the samples, ``order[i]`` being the sample now in place ``i``, with their signatures.
        repeats: Rows of one sample.
        precision: Relative size of a rounding error in the network's own precision.
    """
    if not all(bool(torch.isfinite(found).all()) for found in (base, *(found for _, found in moved))):
        return RowEvidence("silent")  # nothing can be compared, as in a dead layer
    errors = {order: _error(base, moved, order) for order in divisions(repeats)}
    best = min(errors, key=lambda order: errors[order])
    unmoved = _error(base, moved, None)  # error if rows do not belong to samples at all
    least = min([error for order, error in errors.items() if order != best] + [unmoved])
    if errors[best] * _CLEARLY < least:
        return RowEvidence("told", best)
    return RowEvidence("silent" if errors[best] <= noise_of(base, precision) else "mixed")


def noise_of(rows: torch.Tensor, precision: float) -> float:
    """Bound on the change of row signatures by rounding alone."""
    return (4 * precision + 1e-4) * float(rows.abs().max()) if rows.numel() else 0.0


def _error(base: torch.Tensor, moved: Moved, order: RowOrder | None) -> float:
    """Root mean square of the part of the rows that a division does not explain."""
    total = 0.0
    for samples, found in moved:
        expected = base if order is None else base[order.moved(samples)]
        total += float((found - expected).double().square().mean()) if found.numel() else 0.0
    return float((total / len(moved)) ** 0.5)
