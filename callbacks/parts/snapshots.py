"""A layer's state at a check, small enough for a checkpoint, to compare later checks with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convscope.capture.errors import TooFewError
from convscope.metrics.functional import ChannelStatistics
from convscope.metrics.functional.cka import Centred, aligned, away_from_mean, similarity
from convscope.metrics.functional.drift import Statistics, statistics_changes


def require_samples(name: str, samples: int, debiased: bool) -> None:
    """Refuse a held-out set that linear CKA cannot be estimated on.

    Raises:
        TooFewError: if there are fewer than 2 samples, or than 4 for the unbiased estimator.
    """
    fewest = 4 if debiased else 2
    if samples < fewest:
        fix = "; raise HeldOut(size=...)" + (", or give debiased=False" if samples >= 2 else "")
        raise TooFewError(f"{name} needs at least {fewest} held-out samples, but there are {samples}{fix}")


class Features:
    """Pooled features of all samples in half precision.

    Linear CKA does not change when features are shifted or scaled as a whole. So they are centred, columns that do
    not vary are left out, and the largest value becomes 1: float16 then moves CKA by about 1e-6 (1,024 samples) to
    1e-4 (30 samples), and halves a checkpoint. The rounded values serve in memory too, so that a resumed run gives
    the numbers of an unbroken one.

    Args:
        half: ``(N, C')`` float16, as :meth:`of` makes it.
        debiased: Compare them with the unbiased estimator.
    """

    def __init__(self, half: Tensor, debiased: bool) -> None:
        self.half, self.debiased = half, debiased
        self._own: Tensor | None = None

    @classmethod
    def of(cls, features: Tensor, debiased: bool) -> Features:
        """Round ``(N, C)`` features, which are finite."""
        away, varying = away_from_mean(features)
        kept = away[:, varying].cpu()
        largest = torch.linalg.vector_norm(kept, torch.inf) if kept.numel() else 1.0
        return cls((kept / largest).half(), debiased)

    def cka(self, others: Mapping[str, Features]) -> dict[str, Tensor]:
        """Linear CKA, float32 scalars, with other checks' features of the same samples, by their names."""
        if not others:
            return {}
        here = self._centred()
        mine = self._with_itself(here)
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for other in others.values():
            if id(other) not in found:  # the previous check may be the first
                there = other._centred()
                found[id(other)] = similarity(here, there, self.debiased), other._with_itself(there)
        cross, theirs = zip(*(found[id(other)] for other in others.values()), strict=True)
        return dict(zip(others, aligned(torch.stack(cross), mine, torch.stack(theirs)).unbind(), strict=True))

    def _centred(self) -> Centred:
        """In float64, four times the memory: not kept."""
        away, varying = away_from_mean(self.half)
        return Centred(away * varying)

    def _with_itself(self, values: Centred) -> Tensor:
        if self._own is None:
            self._own = similarity(values, values, self.debiased)
        return self._own


@dataclass
class LayerSnapshot:
    """One layer at one check.

    Attributes:
        features: Pooled features of all samples.
        matrix: ``(C, C)`` float16 Pearson matrix of the filters.
        mean: ``(C,)`` float32 mean activation of each filter.
        variance: ``(C,)`` float32 variance.
    """

    features: Features
    matrix: Tensor
    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, features: Tensor, correlation: ChannelStatistics, debiased: bool) -> LayerSnapshot:
        """Make a snapshot from the results of a check's metrics."""
        packed = torch.cat([correlation.matrix, torch.stack([correlation.mean, correlation.variance])]).cpu()
        matrix, (mean, variance) = packed[:-2].half(), packed[-2:].clone()  # so that the matrix in float32 is let go
        return cls(Features.of(features, debiased), matrix, mean, variance)

    def since(self, previous: LayerSnapshot) -> dict[str, Tensor]:
        """How the filters' statistics have changed since an earlier check; nothing if there were other filters."""
        if self.mean.shape != previous.mean.shape:
            return {}
        return statistics_changes(self._statistics, previous._statistics)

    @property
    def _statistics(self) -> Statistics:
        return self.matrix, self.mean, self.variance

    def state_dict(self) -> dict[str, Any]:
        """State of tensors alone."""
        return {"features": self.features.half, "matrix": self.matrix, "mean": self.mean, "variance": self.variance}

    @classmethod
    def load(cls, state: dict[str, Any], debiased: bool) -> LayerSnapshot:
        """Load a snapshot from a checkpoint."""
        return cls(Features(state["features"], debiased), state["matrix"], state["mean"], state["variance"])
