"""Summaries of filter importance as metrics: concentration now, and change since the last check."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convscope._arguments import share
from convscope.metrics._base import GatheringMetric
from convscope.metrics.functional._validation import check_same_shape
from convscope.metrics.functional.summary import gini, rank_stability, top_share, turnover


class _OneVector(GatheringMetric):
    """Keeps every value given, over chunks of filters and over ranks."""

    values: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._add_lists(values=torch.float64)

    def update(self, values: Tensor) -> None:
        """Add filters' importances ``(C,)``.

        Raises:
            ValueError: if they are not a vector.
        """
        _check_vector_shape("values", values)
        self._append("values", values)


class _TwoVectors(GatheringMetric):
    """Keeps every pair of values given, over chunks of filters and over ranks."""

    current: list[Tensor]
    previous: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._add_lists(current=torch.float64, previous=torch.float64)

    def update(self, current: Tensor, previous: Tensor) -> None:
        """Add the same filters' importances now and before, both ``(C,)``.

        Raises:
            ValueError: if they are not vectors of one length.
        """
        check_same_shape("`current`", current, "`previous`", previous)
        _check_vector_shape("current importance", current)
        self._append("current", current)
        self._append("previous", previous)


class GiniCoefficient(_OneVector):
    """Unevenness of importance over filters: 0 if even, 1 - 1/C if all is in one filter.

    See :func:`~convscope.metrics.functional.gini` for the formula.

    Args:
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes values ``(C,)``, none negative; compute gives a float32 scalar in [0, 1 - 1/C].

    Raises:
        ValueError: from compute, if there are no values, or one is negative, NaN or Inf.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> metric = GiniCoefficient()
        >>> metric.update(torch.tensor([0.0, 0.0, 0.0, 1.0]))
        >>> metric.compute()
        tensor(0.7500)
    """

    def compute(self) -> Tensor:
        """Gini coefficient of all values seen, over all ranks."""
        return gini(self._joined("values"))


class TopShare(_OneVector):
    """Share of the total importance that the top fraction of filters holds.

    See :func:`~convscope.metrics.functional.top_share`.

    Args:
        fraction: in (0, 1].
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes values ``(C,)``, none negative; compute gives a float32 scalar in (0, 1].

    Raises:
        ValueError: if ``fraction`` is out of range; from compute, if there are no values, or one is negative,
            NaN or Inf.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> metric = TopShare(fraction=0.25)
        >>> metric.update(torch.tensor([6.0, 1.0, 1.0, 2.0]))
        >>> metric.compute()
        tensor(0.6000)
    """

    def __init__(self, fraction: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fraction = share("fraction", fraction, "a share of the filters")

    def compute(self) -> Tensor:
        """Top share of all values seen, over all ranks."""
        return top_share(self._joined("values"), self.fraction)


class RankStability(_TwoVectors):
    """Spearman correlation of filter importance now and before.

    See :func:`~convscope.metrics.functional.rank_stability`, also for constant vectors.

    Args:
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes two vectors ``(C,)``; compute gives a float32 scalar in [-1, 1].

    Raises:
        ValueError: from compute, if there are no values, or one is NaN or Inf.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> metric = RankStability()
        >>> metric.update(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0]))
        >>> metric.compute()
        tensor(0.5000)
    """

    def compute(self) -> Tensor:
        """Rank stability over all filters seen, over all ranks."""
        return rank_stability(self._joined("current"), self._joined("previous"))


class Turnover(_TwoVectors):
    """Share of the most important filters that were replaced, one minus the Jaccard index of two top sets.

    See :func:`~convscope.metrics.functional.turnover`.

    Args:
        fraction: of filters that make up a top set, in (0, 1].
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes two vectors ``(C,)``; compute gives a float32 scalar in [0, 1].

    Raises:
        ValueError: if ``fraction`` is out of range; from compute, if there are no values, or one is NaN or Inf.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> metric = Turnover(fraction=0.5)
        >>> metric.update(torch.tensor([9.0, 8.0, 1.0, 0.0]), torch.tensor([9.0, 1.0, 8.0, 0.0]))
        >>> metric.compute()
        tensor(0.6667)
    """

    def __init__(self, fraction: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fraction = share("fraction", fraction, "a share of the filters")

    def compute(self) -> Tensor:
        """Turnover over all filters seen, over all ranks."""
        return turnover(self._joined("current"), self._joined("previous"), self.fraction)


def _check_vector_shape(name: str, values: Tensor) -> None:
    if values.ndim != 1:
        raise ValueError(f"The {name} must be a vector of shape (C,), got {tuple(values.shape)}.")
