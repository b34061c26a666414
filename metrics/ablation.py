"""Loss and accuracy under interventions, overall and by class; and the mean that stands in for a removed filter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convscope.metrics._base import ObservationMetric
from convscope.metrics.functional._precision import as_double
from convscope.metrics.functional._validation import (
    check_features,
    check_finite,
    check_positive_int,
    check_same_shape,
    check_target,
)
from convscope.metrics.functional.ablation import OutcomeResult, outcome_result, sums_by_class


class InterventionOutcome(ObservationMetric):
    """Mean loss and accuracy under several filter sets, overall and for each class.

    Args:
        num_sets: S.
        num_classes: K; 1 for a task without classes.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes the losses and hits of some sets on some samples; compute gives an
    :class:`~convscope.metrics.functional.OutcomeResult`.

    Raises:
        ValueError: if an option is out of range.

    Source: reconstruction (the ablation oracle of Molchanov et al. 2019; by class, arXiv 2211.00185).

    Example:
        >>> import torch
        >>> metric = InterventionOutcome(num_sets=1, num_classes=2)
        >>> metric.update(torch.tensor([[0.5, 1.5]]), torch.tensor([[True, False]]), torch.tensor([0, 1]))
        >>> metric.compute().class_loss
        tensor([[0.5000, 1.5000]])
    """

    losses: Tensor
    hits: Tensor
    counts: Tensor

    def __init__(self, num_sets: int, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive_int("num_sets", num_sets)
        check_positive_int("num_classes", num_classes)
        self.num_sets, self.num_classes = num_sets, num_classes
        zeros = {"losses": (num_sets, num_classes), "hits": (num_sets, num_classes), "counts": (num_classes,)}
        for name, shape in zeros.items():
            self.add_state(name, default=torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, losses: Tensor, hits: Tensor, target: Tensor, first: int = 0) -> None:
        """Add the outcome of the sets numbered from ``first`` on one chunk of samples.

        A chunk's samples are counted when its set 0 comes, so every chunk must come with all sets.

        Args:
            losses: ``(s, n)``.
            hits: ``(s, n)`` bool.
            target: ``(n,)`` class indices below K.
            first: Number of the first of these sets.

        Raises:
            ValueError: if shapes disagree, or a class index or set number is out of range.
        """
        check_target(target, losses.shape[-1])
        check_same_shape("Losses", losses, "hits", hits)
        if first < 0 or first + len(losses) > self.num_sets:
            raise ValueError(
                f"Sets {first} to {first + len(losses) - 1} are not among the {self.num_sets} of the metric."
            )
        if len(target) and int(target.max()) >= self.num_classes:
            raise ValueError(f"The target holds class {int(target.max())}, but num_classes is {self.num_classes}.")
        rows = slice(first, first + len(losses))
        self.losses[rows] += self._to_state(sums_by_class(losses, target, self.num_classes))
        self.hits[rows] += self._to_state(sums_by_class(hits.float(), target, self.num_classes))
        if first == 0:
            self.counts += self._to_state(torch.bincount(target, minlength=self.num_classes).double())

    def compute(self) -> OutcomeResult:
        """Means over everything seen, over all ranks.

        Raises:
            ValueError: if there was no sample, or a loss was NaN or Inf.
        """
        return outcome_result(self.losses, self.hits, self.counts)


class ChannelMean(ObservationMetric):
    """Mean activation of each filter over samples and positions.

    Args:
        num_channels: C.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes pooled activations ``(N, C)``; compute gives ``(C,)`` float32.

    Raises:
        ValueError: if ``num_channels`` is not a positive whole number.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> metric = ChannelMean(num_channels=2)
        >>> metric.update(torch.tensor([[1.0, 2.0], [3.0, 2.0]]))
        >>> metric.compute()
        tensor([2., 2.])
    """

    total: Tensor
    count: Tensor

    def __init__(self, num_channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive_int("num_channels", num_channels)
        self.num_channels = num_channels
        self.add_state("total", default=torch.zeros(num_channels, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, pooled: Tensor) -> None:
        """Add a chunk ``(N, C)``.

        Raises:
            ValueError: if the shape or type is wrong.
        """
        check_features(pooled)
        self.total += self._to_state(as_double(pooled).sum(0))
        self.count += len(pooled)

    def compute(self) -> Tensor:
        """Mean over everything seen, over all ranks.

        Raises:
            ValueError: if there was no update, or a value was NaN or Inf.
        """
        if self.count == 0:
            raise ValueError("A mean activation needs samples, got none. Update the metric before computing it.")
        check_finite("activations", self.total)
        return (self.total / self.count).float()
