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
        self._add_sums(observations=(), total=(c,))
        self._add_later_sum("product", (c, c))  # which may come from another metric, see `share_states`

    def update(self, activation: Tensor) -> None:
        """Add a chunk.

        Args:
            activation: ``(N, C, *S)``.

        Raises:
            ValueError: if the shape or type is wrong.
        """
        check_channels("activation", activation, self.num_channels)
        if activation.numel() == 0:
            return
        found = channel_moments(activation, self.max_positions, self.seed)
        product = self._to_state(found.product)
        self.observations += found.observations
        self.total += self._to_state(found.total)
        if self.product.is_contiguous() and self.num_channels > 1:
            self.product += product
        else:  # nothing has been added yet, or the zero of one channel, which looks like any other matrix
            self.product = self.product + product

    def share_states(self, other: ChannelMoments) -> None:
        """Take over the states of another metric, which has been updated with the same activations in this one's place.

        Nothing is copied: of two metrics over the same positions of one layer, one adds, and both compute.
        """
        self.observations, self.total, self.product = other.observations, other.total, other.product
        self._update_count, self._computed = other._update_count, None

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
