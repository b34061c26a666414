"""Loss and accuracy under interventions, overall and by class; and the mean that stands in for a removed filter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convscope._arguments import whole_number
from convscope.metrics._base import ObservationMetric, StreamingMean
from convscope.metrics.functional._precision import as_double
from convscope.metrics.functional._validation import (
    check_features,
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

    plot_fields = ("loss",)
    plot_axes = ("filter set", "class")
    losses: Tensor
    hits: Tensor
    counts: Tensor

    def __init__(self, num_sets: int, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_sets = whole_number("num_sets", num_sets)
        self.num_classes = whole_number("num_classes", num_classes)
        each = (self.num_sets, self.num_classes)
        self._add_sums(losses=each, hits=each, counts=(self.num_classes,))

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


class ChannelMean(StreamingMean):
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

    quantity = "mean activation"

    def update(self, pooled: Tensor) -> None:
        """Add a chunk ``(N, C)``.

        Raises:
            ValueError: if the shape or type is wrong.
        """
        check_features(pooled)
        self._add(as_double(pooled).sum(0), len(pooled))
