"""Streaming correlation of a layer's filters."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from convscope._arguments import share, whole_number, whole_number_or_none
from convscope.metrics._base import ObservationMetric
from convscope.metrics.functional._validation import check_channels
from convscope.metrics.functional.correlation import CorrelationResult, correlation_result
from convscope.metrics.functional.covariance import Moments, as_variables, moments_of


class ChannelCorrelation(ObservationMetric):
    """Pearson correlation of a layer's filters over samples and positions, and what its spectrum says.

    States are sums (C×C in float64), so memory does not grow with the number of images, and chunks and ranks add
    up. See :func:`~convscope.metrics.functional.correlation_summary` for the quantities.

    Args:
        num_channels: C.
        max_positions: at most this many positions of each map are looked at, the same ones for every sample; which
            ones follows from the seed and the size of the map alone. All of them if ``None``.
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

    plot_fields = ("matrix",)
    observations: Tensor
    total: Tensor
    product: Tensor

    def __init__(
        self,
        num_channels: int,
        max_positions: int | None = None,
        seed: int = 0,
        redundant_threshold: float = 0.9,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_channels = whole_number("num_channels", num_channels)
        self.max_positions = whole_number_or_none("max_positions", max_positions, "all positions")
        self.seed = whole_number("seed", seed, least=0)
        self.redundant_threshold = share("redundant_threshold", redundant_threshold, "a correlation")
        c = self.num_channels
        self._add_sums(observations=(), total=(c,), product=(c, c))

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
        moments = moments_of(as_variables(activation, self.max_positions, self.seed))
        self.observations += self._to_state(moments.observations)
        self.total += self._to_state(moments.total)
        self.product += self._to_state(moments.product)

    def compute(self) -> CorrelationResult:
        """Correlation over everything seen, over all ranks.

        Raises:
            ValueError: if there was no sample, or an activation was NaN or Inf.
        """
        return correlation_result(Moments(self.observations, self.total, self.product), self.redundant_threshold)
