"""Streaming correlation of a layer's filters."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from convscope._arguments import share, whole_number, whole_number_or_none
from convscope.metrics._base import ObservationMetric
from convscope.metrics.functional._validation import check_channels
from convscope.metrics.functional.correlation import CorrelationResult, channel_statistics, correlation_result
from convscope.metrics.functional.covariance import Moments, channel_moments


class ChannelMoments(ObservationMetric):
    """Pearson correlation of a layer's filters over samples and positions, with their means and variances.

    States are sums (C×C in float64), so memory does not grow with the number of images, and chunks and ranks add up.

    Args:
        num_channels: C.
        max_positions: at most this many positions of each map are looked at, the same ones for every sample; which
            ones follows from the seed and the size of the map alone. All of them if ``None``.
        seed: which positions.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes an activation ``(N, C, *S)`` of any float type; compute gives a
    :class:`~convscope.metrics.functional.ChannelStatistics`.

    Raises:
        ValueError: if an option is out of range.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> metric = ChannelMoments(num_channels=2)
        >>> metric.update(torch.tensor([[[[1.0, 2.0]], [[2.0, 4.0]]]]))
        >>> metric.compute().mean
        tensor([1.5000, 3.0000])
    """

    plot_fields = ("matrix",)
    observations: Tensor
    total: Tensor
    product: Tensor

    def __init__(self, num_channels: int, max_positions: int | None = None, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_channels = whole_number("num_channels", num_channels)
        self.max_positions = whole_number_or_none("max_positions", max_positions, "all positions")
        self.seed = whole_number("seed", seed, least=0)
        c = self.num_channels
        self._add_sums(observations=(), total=(c,), product=(c, c))

    def update(self, activation: Tensor | Moments) -> None:
        """Add a chunk.

        Args:
            activation: ``(N, C, *S)``; or its moments at these positions, where another metric has computed them.

        Raises:
            ValueError: if the shape or type is wrong.
        """
        if isinstance(activation, Tensor):
            check_channels("activation", activation, self.num_channels)
            if activation.numel() == 0:
                return
            activation = self.moments(activation)
        self.observations += self._to_state(activation.observations)
        self.total += self._to_state(activation.total)
        self.product += self._to_state(activation.product)

    def moments(self, activation: Tensor) -> Moments:
        """Moments of one chunk at this metric's positions, for :meth:`update` of this metric and of others like it."""
        return channel_moments(activation, self.max_positions, self.seed)

    def compute(self) -> Any:
        """Statistics of everything seen, over all ranks.

        Raises:
            ValueError: if there was no sample, or an activation was NaN or Inf.
        """
        return channel_statistics(Moments(self.observations, self.total, self.product))


class ChannelCorrelation(ChannelMoments):
    """Pearson correlation of a layer's filters over samples and positions, and what its spectrum says.

    See :func:`~convscope.metrics.functional.correlation_summary` for the quantities.

    Args:
        num_channels: C.
        max_positions: as for :class:`ChannelMoments`.
        seed: which positions.
        redundant_threshold: of \\|ρ\\| above which a pair counts as redundant, in (0, 1].
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes an activation ``(N, C, *S)`` of any float type; compute gives a
    :class:`~convscope.metrics.functional.CorrelationResult`.

    Raises:
        ValueError: if an option is out of range.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> metric = ChannelCorrelation(num_channels=2)
        >>> metric.update(torch.tensor([[[[1.0, 2.0]], [[2.0, 4.0]]]]))
        >>> metric.compute().redundant_share
        tensor(1.)
    """

    def __init__(
        self,
        num_channels: int,
        max_positions: int | None = None,
        seed: int = 0,
        redundant_threshold: float = 0.9,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_channels, max_positions, seed, **kwargs)
        self.redundant_threshold = share("redundant_threshold", redundant_threshold, "a correlation")

    def compute(self) -> CorrelationResult:
        """Correlation over everything seen, over all ranks.

        Raises:
            ValueError: if there was no sample, or an activation was NaN or Inf.
        """
        return correlation_result(Moments(self.observations, self.total, self.product), self.redundant_threshold)
