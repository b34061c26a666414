"""Streaming filter activity and signal size."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convscope._arguments import flag, share, whole_number
from convscope._devices import free_to_look
from convscope.metrics._base import ObservationMetric
from convscope.metrics.functional._validation import check_channels
from convscope.metrics.functional.health import (
    ActivityResult,
    ActivitySums,
    Bounds,
    activity_result,
    activity_sums,
    check_bounds,
    check_off,
    inside_squares,
    is_safe,
    squared_sum,
)


class FilterActivity(ObservationMetric):
    """Dead, constant and saturated filters, and the size of the layer's signal, over all chunks and ranks.

    States are extremes and float64 sums a filter. See :func:`~convscope.metrics.functional.filter_activity` for what
    the words mean.

    Args:
        num_channels: C.
        rectified: whether the layer ends in a rectifier.
        bounds: least and greatest value of the activation function, None for no bound.
        saturated_share: share of a filter's values that must lie at a bound, in (0, 1].
        off: least and greatest value that a rectified filter gives while it is off.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes an activation ``(N, C, *S)`` of any float type; compute gives an
    :class:`~convscope.metrics.functional.ActivityResult`.

    Raises:
        ValueError: if an option is out of range.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> metric = FilterActivity(num_channels=2)
        >>> metric.update(torch.tensor([[[0.0, 0.0], [1.0, 0.0]]]))
        >>> metric.update(torch.tensor([[[0.0, 0.0], [0.0, 0.0]]]))
        >>> metric.compute().dead, metric.compute().active_share
        (tensor([ True, False]), tensor([0.0000, 0.2500]))
    """

    plot_fields = ("active_share",)
    minimum: Tensor
    maximum: Tensor
    sums: Tensor
    count: Tensor
    left_out: Tensor

    def __init__(
        self,
        num_channels: int,
        rectified: bool = True,
        bounds: Bounds = (None, None),
        saturated_share: float = 0.95,
        off: tuple[float, float] = (-math.inf, 0.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_channels = whole_number("num_channels", num_channels)
        self.rectified = flag("rectified", rectified)
        check_bounds(bounds)
        self.bounds = bounds
        self.saturated_share = share("saturated_share", saturated_share, "a share of the values")
        check_off(off)
        self.off = off
        c = self.num_channels
        unseen = torch.full((c,), torch.inf, dtype=torch.float64)  # any value is less than it, or greater than minus it
        self._add_tensor("minimum", unseen, "min")
        self._add_tensor("maximum", -unseen, "max")
        self._add_sums(sums=(2 if bounds == (None, None) else 3, c), count=(), left_out=(c,))

    def update(self, activation: Tensor) -> None:
        """Add a chunk.

        Args:
            activation: ``(N, C, *S)``. NaN and infinite values are counted and left out.

        Raises:
            ValueError: if the shape or type is wrong.
        """
        check_channels("activation", activation, self.num_channels)
        if activation.numel() == 0:
            return
        found = activity_sums(activation, self.bounds)
        self.minimum = torch.minimum(self.minimum, self._to_state(found.minimum))
        self.maximum = torch.maximum(self.maximum, self._to_state(found.maximum))
        self.sums += self._to_state(found.sums)
        self.count += found.number
        self._was_given = True
        if found.left_out is not None:
            self.left_out += self._to_state(found.left_out)

    def compute(self) -> ActivityResult:
        """Activity over everything seen, over all ranks.

        Raises:
            ValueError: if there was no sample.
        """
        self._require_some(self.count, "Filter activity needs at least one activation, got none. Call update() first.")
        found = ActivitySums(self.minimum, self.maximum, self.sums, self.count, self.left_out)
        return activity_result(found, self.rectified, self.saturated_share, self.off)


class SignalResult(NamedTuple):
    """Result of :class:`SignalRMS`.

    Attributes:
        rms: float32 scalar, root mean square of the finite values.
        nonfinite: int64 scalar, number of NaN and infinite values.
    """

    rms: Tensor
    nonfinite: Tensor


class SignalRMS(ObservationMetric):
    """Root mean square of an activation or gradient, over all chunks and ranks, and how many values are not finite.

    See :func:`~convscope.metrics.functional.signal_rms`.

    Args:
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes a tensor of any shape and float type; compute gives a :class:`SignalResult`.

    Raises:
        ValueError: from compute, if there was no value.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> metric = SignalRMS()
        >>> metric.update(torch.tensor([[1.0, -7.0]]))
        >>> metric.update(torch.tensor([[5.0, float("inf")]]))
        >>> metric.compute()
        SignalResult(rms=tensor(5.), nonfinite=tensor(1))
    """

    plot_fields = ("rms",)
    squares: Tensor
    count: Tensor
    nonfinite: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._add_sums(squares=(), count=(), nonfinite=())

    def update(self, signal: Tensor) -> None:
        """Add a chunk, of any shape."""
        # The plain sum first, where it may be looked at: it is finite nearly always, and one pass is all that it costs.
        squares = inside_squares(signal) if free_to_look(signal) else None
        if squares is None or not is_safe(float(squares)):
            finite = signal.abs() < torch.inf
            self.nonfinite += self._to_state(signal.numel() - finite.sum())
            squares = squared_sum(torch.nan_to_num(signal, 0.0, 0.0, 0.0))
        self.squares += self._to_state(squares)
        self.count += signal.numel()
        self._was_given |= signal.numel() > 0

    def compute(self) -> SignalResult:
        """Over everything seen, over all ranks.

        Raises:
            ValueError: if there was no value.
        """
        self._require_some(self.count, "SignalRMS needs at least one value, got none. Call update() first.")
        finite = (self.count - self.nonfinite).clamp(min=1)
        return SignalResult((self.squares / finite).sqrt().float(), self.nonfinite.long())
