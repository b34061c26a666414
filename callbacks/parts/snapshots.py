"""A layer's state at a check, small enough for a checkpoint, to compare later checks with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from convscope.capture.errors import TooFewError
from convscope.metrics.functional import ChannelStatistics, correlation_change, mean_shift, variance_shift
from convscope.metrics.functional.cka import Centred, aligned, centred, similarity


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
        """Round ``(N, C)`` features."""
        kept = centred(features, debiased).features.cpu()
        largest = kept.abs().max() if kept.numel() else 1.0
        return cls((kept / largest).half(), debiased)

    def cka(self, others: Mapping[str, Features]) -> dict[str, float]:
        """Linear CKA with other checks' features of the same samples, by their names."""
        here, found, seen = self._centred(), {}, {}
        for name, other in others.items():
            if id(other) not in seen:  # the previous check may be the first
                there = other._centred()
                cross = similarity(here, there, self.debiased)
                seen[id(other)] = float(aligned(cross, self._with_itself(here), other._with_itself(there)))
            found[name] = seen[id(other)]
        return found

    def _centred(self) -> Centred:
        """In float64, four times the memory: not kept."""
        return centred(self.half, self.debiased)

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
        matrix, mean, variance = (t.cpu() for t in (correlation.matrix, correlation.mean, correlation.variance))
        return cls(Features.of(features, debiased), matrix.half(), mean.float(), variance.float())

    def since(self, previous: LayerSnapshot) -> dict[str, float]:
        """How the filters' statistics have changed since an earlier check; nothing if there were other filters."""
        if self.mean.shape != previous.mean.shape:
            return {}
        return {
            "correlation_change": float(correlation_change(self.matrix, previous.matrix)),
            "mean_shift": float(mean_shift(self.mean, self.variance, previous.mean, previous.variance)),
            "variance_shift": float(variance_shift(self.variance, previous.variance)),
        }

    def state_dict(self) -> dict[str, Any]:
        """State of tensors alone."""
        return {"features": self.features.half, "matrix": self.matrix, "mean": self.mean, "variance": self.variance}

    @classmethod
    def load(cls, state: dict[str, Any], debiased: bool) -> LayerSnapshot:
        """Load a snapshot from a checkpoint."""
        return cls(Features(state["features"], debiased), state["matrix"], state["mean"], state["variance"])
