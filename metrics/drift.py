"""Pooled features of a layer, in the order of the held-out set so that checks can be compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convscope._arguments import whole_number
from convscope.metrics._base import GatheringMetric, canonical_order
from convscope.metrics.functional._validation import check_features, check_finite


class PooledFeatures(GatheringMetric):
    """Features of every sample, one row per sample, in the order of their index whatever the chunks and ranks.

    Two checks on one held-out set give rows that belong together, as
    :func:`~convscope.metrics.functional.linear_cka` wants them.

    Args:
        num_channels: C.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes features ``(N, C)`` of any float type, kept as float32, and optionally indices ``(N,)``; compute
    gives ``(N, C)`` float32.

    Raises:
        ValueError: if ``num_channels`` is not a positive whole number.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> metric = PooledFeatures(num_channels=2)
        >>> metric.update(torch.tensor([[3.0, 3.0]]), torch.tensor([1]))
        >>> metric.update(torch.tensor([[1.0, 1.0]]), torch.tensor([0]))
        >>> metric.compute()
        tensor([[1., 1.],
                [3., 3.]])
    """

    plot_axes = ("sample", "filter")

    features: list[Tensor]

    def __init__(self, num_channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_channels = whole_number("num_channels", num_channels)
        self._add_lists(features=torch.float32, index=torch.int64)

    def update(self, features: Tensor, index: Tensor | None = None) -> None:
        """Add a chunk.

        Args:
            features: ``(N, C)``.
            index: ``(N,)`` each sample's place in the held-out set. A sample that comes twice counts once.

        Raises:
            ValueError: if shapes or types are wrong.
        """
        check_features(features)
        if features.shape[1] != self.num_channels:
            raise ValueError(f"The features must have shape (N, {self.num_channels}), got {tuple(features.shape)}.")
        self._append_index(index, len(features))
        self._append("features", features)

    def compute(self) -> Tensor:
        """All rows, over all ranks.

        Raises:
            ValueError: if a value was NaN or Inf, or only some chunks came with an index.
        """
        index = self._joined("index")
        features = self._joined("features").reshape(len(index), self.num_channels)
        check_finite("features", features)
        return features[canonical_order(index)]
